"""The result file: what was measured, on what, how often. One JSON object; scenarios run at different times share it.

    {"format": 1, "scenarios": {NAME: {
        "title", "measured_at" (UTC, ISO 8601), "duration_s", "repetitions",
        "machine": {"cpu", "cpu_count", "memory_mib", "kernel", ...}, "versions": {"plush", "openssh", ...},
        "settings": {...what the scenario was run with...}, "notes": [text],
        "reasons": {NAME OF ROWS: why Plush may be behind there},
        "rows": [{"name", "unit", "values": [...], "median", "low", "high", "note", "tool", "column", "failed"}],
        "targets": [{"text", "limit", "measured", "met", "note"}]}}}

``median`` is of ``values``, ``low`` and ``high`` are their least and greatest; all three are null when there is none.
Rows with a ``tool`` are cells of a matrix: one table for each ``name``, a line for each tool, a column for each
``column`` ("64 hosts"). ``failed`` says why repetitions gave no value. ``text`` of a target says which way its limit
is; ``measured`` is null when what it needs was not measured, and ``note`` says why. Keys without content are left out.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
FILE = Path(__file__).parent / "results.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, measured once or more; with a tool, a cell of a matrix, which may have failed instead."""

    name: str
    unit: str  # s, ms, MiB, KB, ratio
    values: tuple[float, ...]
    note: str = ""
    tool: str = ""
    column: str = ""
    failed: str = ""  # why repetitions gave no value

    @property
    def median(self) -> float:
        """The middle value. Raises statistics.StatisticsError when there is none."""
        return statistics.median(self.values)

    def to_mapping(self) -> dict[str, Any]:
        """As it stands in the file."""
        rounded = [significant(value) for value in self.values]
        summary: dict[str, float | None] = dict.fromkeys(("median", "low", "high"))
        if rounded:
            summary = {"median": significant(self.median), "low": min(rounded), "high": max(rounded)}
        extra = {name: getattr(self, name) for name in ("tool", "column", "failed") if getattr(self, name)}
        return {"name": self.name, "unit": self.unit, "values": rounded, **summary, "note": self.note, **extra}


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure has to be."""

    text: str
    limit: float
    measured: float | None  # None: what it needs was not measured
    met: bool
    note: str = ""


@dataclass(slots=True)
class Outcome:
    """What a scenario returns."""

    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def row(self, name: str, unit: str, values: Sequence[float], note: str = "") -> Row:
        """Add a row and return it."""
        made = Row(name, unit, tuple(values), note)
        self.rows.append(made)
        return made

    def cell(
        self, name: str, unit: str, tool: str, column: str, values: Sequence[float], *, failed: str = "", note: str = ""
    ) -> Row:
        """Add one cell of a matrix and return it."""
        made = Row(name, unit, tuple(values), note, tool, column, failed)
        self.rows.append(made)
        return made

    def find(self, name: str, tool: str, column: str) -> Row | None:
        """A cell with values; None when there is none."""
        wanted = (name, tool, column)
        return next((row for row in self.rows if (row.name, row.tool, row.column) == wanted and row.values), None)

    def ratio_at_most(self, text: str, limit: float, over: Row | None, under: Row | None) -> None:
        """Add a target for the ratio of two medians; missed when one of the two was not measured."""
        if over is None or under is None:
            self.targets.append(Target(f"{text}: at most", limit, None, met=False, note="not measured"))
        else:
            self.at_most(text, limit, over.median / under.median)

    def at_most(self, text: str, limit: float, measured: float) -> None:
        """Add a target with an upper limit."""
        self.targets.append(Target(f"{text}: at most", limit, significant(measured), measured <= limit))

    def at_least(self, text: str, limit: float, measured: float) -> None:
        """Add a target with a lower limit."""
        self.targets.append(Target(f"{text}: at least", limit, significant(measured), measured >= limit))


def significant(value: float, digits: int = 4) -> float:
    """Rounded to what can be believed."""
    return float(f"{value:.{digits}g}")


def load(path: Path = FILE) -> dict[str, Any]:
    """The file's content; empty of scenarios when there is none. Raises ValueError for another format."""
    if not path.exists():
        return {"format": FORMAT, "scenarios": {}}
    content: dict[str, Any] = json.loads(path.read_text())
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} has format {content.get('format')!r}, known is {FORMAT}: measure anew without it")
    return content


def store(name: str, head: dict[str, Any], outcome: Outcome, path: Path = FILE) -> None:
    """Put one scenario's result in the file, in place of an earlier one."""
    content = load(path)
    content["scenarios"][name] = {
        **head,
        "settings": outcome.settings,
        "notes": outcome.notes,
        **({"reasons": outcome.reasons} if outcome.reasons else {}),
        "rows": [row.to_mapping() for row in outcome.rows],
        "targets": [_target(target) for target in outcome.targets],
    }
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(new, path)


def _target(target: Target) -> dict[str, Any]:
    fields = asdict(target)
    if not target.note:
        del fields["note"]
    return fields

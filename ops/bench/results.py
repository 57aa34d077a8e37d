"""The result file: what was measured, on what, how often. One JSON object; scenarios run at different times share it.

    {"format": 1, "scenarios": {NAME: {
        "title", "measured_at" (UTC, ISO 8601), "duration_s", "repetitions",
        "machine": {"cpu", "cpu_count", "memory_mib", "kernel", ...}, "versions": {"plush", "openssh", ...},
        "settings": {...what the scenario was run with...}, "notes": [text],
        "rows": [{"name", "unit", "values": [...], "median", "low", "high", "note"}],
        "targets": [{"text", "limit", "measured", "met"}]}}}

``median`` is of ``values``, ``low`` and ``high`` are their least and greatest. ``text`` of a target says which way its
limit is.
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
    """One figure, measured once or more."""

    name: str
    unit: str  # s, ms, MiB, KB, ratio
    values: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    def to_mapping(self) -> dict[str, Any]:
        """As it stands in the file."""
        rounded = [significant(value) for value in self.values]
        summary = {"median": significant(self.median), "low": min(rounded), "high": max(rounded)}
        return {"name": self.name, "unit": self.unit, "values": rounded, **summary, "note": self.note}


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure has to be."""

    text: str
    limit: float
    measured: float
    met: bool


@dataclass(slots=True)
class Outcome:
    """What a scenario returns."""

    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def row(self, name: str, unit: str, values: Sequence[float], note: str = "") -> Row:
        """Add a row and return it."""
        made = Row(name, unit, tuple(values), note)
        self.rows.append(made)
        return made

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
        "rows": [row.to_mapping() for row in outcome.rows],
        "targets": [asdict(target) for target in outcome.targets],
    }
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(new, path)

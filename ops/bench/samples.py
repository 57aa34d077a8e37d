"""What the inner half of a scenario collects, and how the outer half makes rows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ops.bench.results import Outcome

GIVE_UP_AFTER = 2  # failures of a tool that has not worked yet


class Samples:
    """For each tool: quantity -> values, and why repetitions failed. As plain data it travels as JSON."""

    def __init__(self, tools: Sequence[str]) -> None:
        self.values: dict[str, dict[str, list[float]]] = {tool: {} for tool in tools}
        self.failures: dict[str, list[str]] = {tool: [] for tool in tools}
        self.extra: dict[str, Any] = {}

    def add(self, tool: str, **values: float) -> None:
        """One repetition's values."""
        for quantity, value in values.items():
            self.values[tool].setdefault(quantity, []).append(value)

    def fail(self, tool: str, why: str) -> None:
        """One repetition that failed."""
        self.failures[tool].append(why)

    def is_hopeless(self, tool: str) -> bool:
        """Whether to spare the time of further repetitions: it failed and never worked."""
        return not self.values[tool] and len(self.failures[tool]) >= GIVE_UP_AFTER

    def to_mapping(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"values": self.values, "failures": self.failures, "extra": self.extra}


def chosen(tools: Sequence[str], only: Sequence[str]) -> list[str]:
    """The tools whose names begin as one of ``only`` says; all when that is empty."""
    return [tool for tool in tools if not only or tool.startswith(tuple(only))]


def failure_words(failures: Sequence[str], value_count: int) -> str:
    """``2 of 5 failed: why``, the first reason for all; empty when none did."""
    if not failures:
        return ""
    return f"{len(failures)} of {len(failures) + value_count} failed: {failures[0]}"


def add_cells(
    outcome: Outcome,
    samples: Mapping[str, Any],
    column: str,
    quantities: Mapping[str, tuple[str, str]],
    notes: Mapping[str, str] | None = None,
) -> None:
    """Rows of a matrix from samples as a mapping; ``quantities`` maps those of the samples to (row's name, unit).

    A tool that never worked keeps its place under the first quantity, with the reason.
    """
    for at, (quantity, (name, unit)) in enumerate(quantities.items()):
        for tool, values in samples["values"].items():
            found = values.get(quantity, [])
            failed = failure_words(samples["failures"][tool], len(found)) if at == 0 else ""
            if found or failed:
                note = (notes or {}).get(tool, "") if at == 0 else ""
                outcome.cell(name, unit, tool, column, found, failed=failed, note=note)

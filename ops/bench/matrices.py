"""Rows of the result file that have a tool as tables: a line for each tool, a column for each number of hosts. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

OURS = "plush"  # the names of our tools begin so; the first of a table is the one that people get by default
FLOOR = "floor"  # ... and of what is no tool
BEHIND = 1.05  # times as much as the best peer: less is noise


@dataclass(frozen=True, slots=True)
class Matrix:
    """All rows of one name, in the order in which they came. In every figure less is better."""

    name: str
    unit: str
    tools: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], dict[str, Any]]  # (tool, column) -> row as it stands in the file

    def median(self, tool: str, column: str) -> float | None:
        """None when the tool was not measured there."""
        median = self.cells.get((tool, column), {}).get("median")
        return None if median is None else float(median)

    def host_counts(self) -> list[tuple[int, str]]:
        """(hosts, column) of the columns that are a number of hosts and nothing else, least first."""
        found = [(re.fullmatch(r"(\d+) hosts", column), column) for column in self.columns]
        return sorted((int(match[1]), column) for match, column in found if match)


def matrices(rows: Sequence[dict[str, Any]]) -> list[Matrix]:
    """The tables in the order of their first rows; rows without a tool are none."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("tool"):
            groups.setdefault((row["name"], row["unit"]), []).append(row)
    return [
        Matrix(
            name,
            unit,
            tuple(dict.fromkeys(row["tool"] for row in found)),
            tuple(dict.fromkeys(row["column"] for row in found)),
            {(row["tool"], row["column"]): row for row in found},
        )
        for (name, unit), found in groups.items()
    ]


def losses(matrix: Matrix) -> list[str]:
    """Where our default is behind the best peer: ``16 hosts 0.78 s against 0.24 s of pdsh``, a column each."""
    ours = next((tool for tool in matrix.tools if tool.startswith(OURS)), None)
    peers = [tool for tool in matrix.tools if not tool.startswith((OURS, FLOOR))]
    found = []
    for column in matrix.columns:
        own = matrix.median(ours, column) if ours else None
        others = [(median, tool) for tool in peers if (median := matrix.median(tool, column)) is not None]
        if own is not None and others and own > min(others)[0] * BEHIND:
            best, tool = min(others)
            found.append(f"{column} {own:g} {matrix.unit} against {best:g} {matrix.unit} of {tool}")
    return found

"""docs/benchmarks.md and docs/plots/ from the result file. ``render`` is the pure part."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ops.bench import plots, results
from ops.bench.matrices import Matrix, losses, matrices

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Written by `ops/bench/report` from `ops/bench/results.json`; measure anew with `ops/bench/run`. Figures are medians,
with the least and greatest of the repetitions in parentheses. Peers and Plush were measured by turns in the same run,
on the same hosts and with the same key exchange: trust the ratios, since times drift from machine to machine. All hosts
share the cores of one machine with the tool that is measured, in the wide-area scenarios too, where a testbed delays
their packets as a matrix of round-trip times says.

In tables of tools by hosts, `[3]` means so many repetitions instead of the scenario's. Where Plush is behind the best
peer, the line below the table says by how much, and why as far as it is known.
"""
UNKNOWN_REASON = "The reason is not known."


def write(page: Path = PAGE) -> None:
    """Write the page and its plots anew. Raises ImportError without matplotlib."""
    content = results.load()
    page.write_text(render(content))
    plots.draw_all(content, page.parent / "plots")


def render(content: dict[str, Any]) -> str:
    """The page as text."""
    parts = [HEAD]
    for name, scenario in content["scenarios"].items():
        parts.append(_scenario(name, scenario))
    return "\n".join(parts)


def _scenario(name: str, scenario: dict[str, Any]) -> str:
    lines = [f"## {scenario['title']}", "", _provenance(name, scenario)]
    if single := [row for row in scenario["rows"] if not row.get("tool")]:
        lines += ["", "| | median | least to greatest | |", "|---|---|---|---|"]
        lines += [_row(row) for row in single]
    files = plots.plot_names(name, scenario)
    for matrix in matrices(scenario["rows"]):
        reason = scenario.get("reasons", {}).get(matrix.name, UNKNOWN_REASON)
        lines += ["", *_matrix(matrix, scenario["repetitions"], reason)]
        if matrix.name in files:
            lines += ["", f"![{matrix.name}](plots/{files[matrix.name]})"]
    if scenario["targets"]:
        lines += ["", "| target | limit | measured | |", "|---|---|---|---|"]
        lines += [_target(target) for target in scenario["targets"]]
    for note in scenario["notes"]:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _provenance(name: str, scenario: dict[str, Any]) -> str:
    machine = scenario["machine"]
    settings = "; ".join(f"{key} {value}" for key, value in scenario["settings"].items())
    versions = ", ".join(f"{key} {value}" for key, value in scenario["versions"].items())
    return (
        f"`ops/bench/run {name}`, {scenario['measured_at']}, {scenario['repetitions']} repetitions"
        f"{', ' + settings if settings else ''}.\n"
        f"{machine['cpu_count']} x {machine['cpu']}, {machine['memory_mib']} MiB, {machine['system']}, "
        f"kernel {machine['kernel']};\n"
        f"an idle Python starts in {machine['python_start_ms']} ms; load {machine['load_before']:.1f}.\n{versions}."
    )


def _matrix(matrix: Matrix, repetitions: int, reason: str) -> list[str]:
    lines = [
        f"| {matrix.name}, {matrix.unit} | {' | '.join(matrix.columns)} |",
        "|---" * (len(matrix.columns) + 1) + "|",
    ]
    remarks: dict[str, None] = {}
    for tool in matrix.tools:
        cells = [matrix.cells.get((tool, column)) for column in matrix.columns]
        lines.append(f"| {tool} | {' | '.join(_cell(cell, repetitions) for cell in cells)} |")
        for cell in filter(None, cells):
            if cell["note"]:
                remarks[f"- {tool}: {cell['note']}."] = None
            if cell.get("failed"):
                remarks[f"- {tool}, {cell['column']}: {_plain(cell['failed'])}"] = None
    lines += ["", *remarks] if remarks else []
    if behind := losses(matrix):
        lines += ["", f"Plush is behind: {'; '.join(behind)}. {reason}"]
    return lines


def _cell(cell: dict[str, Any] | None, repetitions: int) -> str:
    if cell is None:
        return ""
    if cell["median"] is None:
        return "**failed**"
    count = len(cell["values"])
    spread = f" ({cell['low']:g} to {cell['high']:g})" if count > 1 else ""
    fewer = f" [{count}]" if count != repetitions else ""
    return f"{cell['median']:g}{spread}{fewer}{' **(failures)**' if cell.get('failed') else ''}"


def _plain(text: str) -> str:
    """What a tool said, on one line, without anything that a table or Markdown would take for its own."""
    return "".join(" " if c.isspace() else f"\\{c}" if c in "|*_`<>[]" else c for c in text)


def _target(target: dict[str, Any]) -> str:
    measured = target.get("note", "") if target["measured"] is None else f"{target['measured']:g}"
    return f"| {target['text']} | {target['limit']:g} | {measured} | {'met' if target['met'] else '**missed**'} |"


def _row(row: dict[str, Any]) -> str:
    spread = f"({row['low']:g} to {row['high']:g})" if len(row["values"]) > 1 else ""
    return f"| {row['name']} | {row['median']:g} {row['unit']} | {spread} | {row['note']} |"


if __name__ == "__main__":
    write()
    sys.exit(0)

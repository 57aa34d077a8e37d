"""docs/benchmarks.md from the result file. Pure but for reading one and writing the other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ops.bench import results

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Written by `ops/bench/report` from `ops/bench/results.json`; measure anew with `ops/bench/run`. Figures are medians,
with the least and greatest of the repetitions in parentheses. Peers and Plush were measured by turns in the same run,
on the same hosts and with the same key exchange: trust the ratios, since times drift from machine to machine. All hosts
of the loopback scenarios share the cores of one machine with the tool that is measured.
"""


def write(page: Path = PAGE) -> None:
    """Write the page anew."""
    page.write_text(render(results.load()))


def render(content: dict[str, Any]) -> str:
    """The page as text."""
    parts = [HEAD]
    for name, scenario in content["scenarios"].items():
        parts.append(_scenario(name, scenario))
    return "\n".join(parts)


def _scenario(name: str, scenario: dict[str, Any]) -> str:
    lines = [f"## {scenario['title']}", "", _provenance(name, scenario), ""]
    lines += ["| | median | least to greatest | |", "|---|---|---|---|"]
    lines += [_row(row) for row in scenario["rows"]]
    if scenario["targets"]:
        lines += ["", "| target | limit | measured | |", "|---|---|---|---|"]
        lines += [
            f"| {t['text']} | {t['limit']:g} | {t['measured']:g} | {'met' if t['met'] else '**missed**'} |"
            for t in scenario["targets"]
        ]
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


def _row(row: dict[str, Any]) -> str:
    spread = f"({row['low']:g} to {row['high']:g})" if len(row["values"]) > 1 else ""
    return f"| {row['name']} | {row['median']:g} {row['unit']} | {spread} | {row['note']} |"


if __name__ == "__main__":
    write()
    sys.exit(0)

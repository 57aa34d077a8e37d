"""Plots of the matrices of the result file, as PNG in docs/plots/. Needs matplotlib, of the extra ``bench``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ops.bench.matrices import FLOOR, OURS, Matrix, matrices

SIZE_INCHES = (9.0, 5.0)
DOTS_PER_INCH = 90


def plot_names(scenario_name: str, scenario: dict[str, Any]) -> dict[str, str]:
    """Name of a matrix -> file name, for those with a column that is a number of hosts."""
    return {
        matrix.name: f"{scenario_name}-{re.sub(r'[^a-z0-9]+', '-', matrix.name.lower()).strip('-')}.png"
        for matrix in matrices(scenario["rows"])
        if matrix.host_counts()
    }


def draw_all(content: dict[str, Any], folder: Path) -> None:
    """Draw every plot anew and remove those of results that are no more. Raises ImportError without matplotlib."""
    wanted: dict[str, tuple[Matrix, str]] = {}
    for name, scenario in content["scenarios"].items():
        files = plot_names(name, scenario)
        tables = {matrix.name: matrix for matrix in matrices(scenario["rows"])}
        wanted |= {file: (tables[matrix], scenario["title"]) for matrix, file in files.items()}
    if not wanted:
        return
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.png"):
        if path.name not in wanted:
            path.unlink()
    for file, (matrix, title) in wanted.items():
        _draw(matrix, title, folder / file)


def _draw(matrix: Matrix, title: str, path: Path) -> None:
    """Lines over the number of hosts, both axes logarithmic; bars when there is only one number."""
    from matplotlib.figure import Figure

    figure = Figure(SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    counts = matrix.host_counts()
    if len(counts) > 1:
        _lines(axes, matrix, counts)
    else:
        _bars(axes, matrix, counts[0][1])
    axes.set_title(f"{title}: {matrix.name}", fontsize=10)
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})  # equal figures, equal files


def _lines(axes: Any, matrix: Matrix, counts: list[tuple[int, str]]) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import FuncFormatter

    colours = colormaps["tab20"].colors  # type: ignore[attr-defined]
    for at, tool in enumerate(matrix.tools):
        points = [(count, matrix.cells[tool, column]) for count, column in counts if matrix.median(tool, column)]
        if not points:
            continue
        medians = [row["median"] for _, row in points]
        below = [row["median"] - row["low"] for _, row in points]
        above = [row["high"] - row["median"] for _, row in points]
        axes.errorbar(
            [count for count, _ in points], medians, [below, above], label=tool, marker="o", markersize=4, capsize=2,
            color=colours[at % len(colours)], linestyle=_style(tool), linewidth=2.2 if tool.startswith(OURS) else 1.2,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([count for count, _ in counts], [str(count) for count, _ in counts])
    for write in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        write(FuncFormatter(lambda value, _: f"{value:g}"))  # not as powers of ten
    axes.set_xlabel("hosts")
    axes.set_ylabel(matrix.unit)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _bars(axes: Any, matrix: Matrix, column: str) -> None:
    tools = [tool for tool in matrix.tools if matrix.median(tool, column) is not None]
    places = list(range(len(tools)))[::-1]
    colours = ["tab:orange" if tool.startswith(OURS) else "tab:blue" for tool in tools]
    axes.barh(places, [matrix.median(tool, column) for tool in tools], color=colours)
    axes.set_yticks(places, tools)
    axes.set_xlabel(f"{matrix.unit}, {column}")


def _style(tool: str) -> str:
    if tool.startswith(FLOOR):
        return ":"
    return "-" if tool.startswith(OURS) else "--"

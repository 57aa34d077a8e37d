"""Tables of tools by hosts: how they are made from rows, where Plush is behind, what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ops.bench import plots, report_page, results
from ops.bench.matrices import losses, matrices
from ops.bench.results import Outcome

from .test_benchmark_results import HEAD


def outcome() -> Outcome:
    made = Outcome(reasons={"wall time": "Because."})
    made.cell("wall time", "s", "pdsh", "64 hosts", [1.0, 1.2, 1.1], note="flat")
    made.cell("wall time", "s", "plush", "64 hosts", [2.0])
    made.cell("wall time", "s", "taktuk", "64 hosts", [], failed="2 of 2 failed: no | agent\nat all")
    made.cell("wall time", "s", "pdsh", "128 hosts", [3.0])
    made.cell("wall time", "s", "plush", "128 hosts", [3.0], failed="1 of 2 failed: late")
    made.cell("left", "hosts", "plush", "nohup", [0.0])
    made.row("alone", "ms", [5.0])
    made.ratio_at_most("plush / taktuk", 0.5, None, None)
    return made


def stored(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "results.json"
    results.store("cold", HEAD, outcome(), path)
    return results.load(path)


def test_rows_with_a_tool_become_a_table_for_each_name(tmp_path: Path) -> None:
    first, second = matrices(stored(tmp_path)["scenarios"]["cold"]["rows"])
    assert (first.name, first.tools, first.columns) == (
        "wall time",
        ("pdsh", "plush", "taktuk"),
        ("64 hosts", "128 hosts"),
    )
    assert first.median("pdsh", "64 hosts") == 1.1
    assert first.median("taktuk", "64 hosts") is None
    assert first.host_counts() == [(64, "64 hosts"), (128, "128 hosts")]
    assert not second.host_counts()


def test_the_best_peer_decides_where_plush_is_behind(tmp_path: Path) -> None:
    first, second = matrices(stored(tmp_path)["scenarios"]["cold"]["rows"])
    assert losses(first) == ["64 hosts 2 s against 1.1 s of pdsh"]
    assert losses(second) == []


def test_the_page_shows_failures_spreads_losses_and_what_was_not_measured(tmp_path: Path) -> None:
    page = report_page.render(stored(tmp_path))
    assert "| wall time, s | 64 hosts | 128 hosts |" in page
    assert "| pdsh | 1.1 (1 to 1.2) | 3 [1] |" in page
    assert "| plush | 2 [1] | 3 [1] **(failures)** |" in page
    assert "| taktuk | **failed** |  |" in page
    assert "- pdsh: flat." in page
    assert "- taktuk, 64 hosts: 2 of 2 failed: no \\| agent at all" in page
    assert "Plush is behind: 64 hosts 2 s against 1.1 s of pdsh. Because." in page
    assert "| alone | 5 ms |" in page
    assert "| plush / taktuk: at most | 0.5 | not measured | **missed** |" in page
    assert "![wall time](plots/cold-wall-time.png)" in page


def test_only_tables_over_numbers_of_hosts_are_drawn(tmp_path: Path) -> None:
    scenario = stored(tmp_path)["scenarios"]["cold"]
    assert plots.plot_names("cold", scenario) == {"wall time": "cold-wall-time.png"}

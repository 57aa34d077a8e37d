"""The benchmarks' result file and the page written from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ops.bench import report_page, results
from ops.bench.results import Outcome

HEAD = {
    "title": "A title",
    "measured_at": "2026-11-20T10:00:00+00:00",
    "duration_s": 1.0,
    "repetitions": 3,
    "machine": {
        "cpu": "CPU", "cpu_count": 2, "memory_mib": 1, "kernel": "6", "system": "OS",
        "load_before": 0.1, "python_start_ms": 7.0,
    },
    "versions": {"plush": "0"},
}  # fmt: skip


def outcome() -> Outcome:
    made = Outcome(settings={"hosts": 64}, notes=["A note."])
    row = made.row("time", "s", [3.0, 1.0, 2.00004])
    made.at_most("time, s", 2.5, row.median)
    made.at_least("speed", 4.0, 3.0)
    return made


def test_a_row_has_median_and_spread() -> None:
    row = outcome().rows[0].to_mapping()
    assert (row["median"], row["low"], row["high"]) == (2.0, 1.0, 3.0)


def test_targets_look_the_right_way() -> None:
    assert [target.met for target in outcome().targets] == [True, False]


def test_storing_one_scenario_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.store("one", HEAD, outcome(), path)
    results.store("two", HEAD, outcome(), path)
    results.store("one", {**HEAD, "title": "Anew"}, outcome(), path)
    scenarios = results.load(path)["scenarios"]
    assert list(scenarios) == ["one", "two"]
    assert scenarios["one"]["title"] == "Anew"


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        results.load(path)


def test_the_page_has_every_row_and_says_what_was_missed(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.store("one", HEAD, outcome(), path)
    page = report_page.render(results.load(path))
    assert "| time | 2 s | (1 to 3) |  |" in page
    assert "| time, s: at most | 2.5 | 2 | met |" in page
    assert "| speed: at least | 4 | 3 | **missed** |" in page
    assert "A note." in page

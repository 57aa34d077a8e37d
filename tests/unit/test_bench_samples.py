"""What scenarios make of their samples: rows, failures, targets, and the figures computed from what was printed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ops.bench import cold, runaways, wide_flood
from ops.bench.ground import LAG_LIMIT_MS, Ground, lag_words
from ops.bench.measure import settings_of
from ops.bench.results import Outcome
from ops.bench.samples import GIVE_UP_AFTER, Samples, add_cells, chosen
from ops.bench.warm import deepest_path_s

from .test_bench_peers import area

MARK = "runaway0123456789ab"


def ground(rtt_s: Callable[[str, str], float] = lambda *_: 0.0, **lag_ms: float) -> Ground:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be started")

    return Ground(area(), never, rtt_s, lambda: lag_ms)  # type: ignore[arg-type]


def test_samples_become_cells_with_failures_under_the_first_quantity() -> None:
    samples = Samples(["one", "two"])
    samples.add("one", wall_s=2.0, cpu_s=0.5)
    samples.fail("one", "no answer")
    samples.fail("two", "no program")
    outcome = Outcome()
    add_cells(
        outcome,
        json.loads(json.dumps(samples.to_mapping())),
        "8 hosts",
        {"wall_s": ("wall", "s"), "cpu_s": ("CPU", "s")},
    )
    assert [(row.tool, row.name, row.values, row.failed) for row in outcome.rows] == [
        ("one", "wall", (2.0,), "1 of 2 failed: no answer"),
        ("two", "wall", (), "1 of 1 failed: no program"),
        ("one", "CPU", (0.5,), ""),
    ]


def test_only_a_tool_that_never_worked_is_given_up() -> None:
    samples = Samples(["good", "bad"])
    samples.add("good", wall_s=1.0)
    for _ in range(GIVE_UP_AFTER):
        assert not samples.is_hopeless("bad")
        samples.fail("good", "x")
        samples.fail("bad", "x")
    assert samples.is_hopeless("bad")
    assert not samples.is_hopeless("good")


def test_tools_are_chosen_by_the_beginnings_of_their_names() -> None:
    assert chosen(["pdsh -f N", "plush", "plush, 2"], ()) == ["pdsh -f N", "plush", "plush, 2"]
    assert chosen(["pdsh -f N", "plush", "plush, 2"], ("plush",)) == ["plush", "plush, 2"]


def test_a_ratio_of_what_was_not_measured_is_missed() -> None:
    outcome = Outcome()
    two = outcome.cell("wall", "s", "a", "8 hosts", [2.0])
    outcome.cell("wall", "s", "b", "8 hosts", [], failed="1 of 1 failed: x")
    outcome.ratio_at_most("a / b", 5.0, two, outcome.find("wall", "b", "8 hosts"))
    outcome.ratio_at_most("a / a", 5.0, two, outcome.find("wall", "a", "8 hosts"))
    assert [(target.measured, target.met) for target in outcome.targets] == [(None, False), (1.0, True)]


@pytest.mark.parametrize(("text", "counts"), [("8", (8,)), ("64,16", (64, 16))])
def test_numbers_of_hosts_are_read(text: str, counts: tuple[int, ...]) -> None:
    names, settings = settings_of(["cold", "--hosts", text])
    assert names == ["cold"]
    assert settings.host_counts == counts
    assert settings.counts(489) == tuple(sorted(counts))


@pytest.mark.parametrize("words", [["--hosts", "0"], ["--hosts", "8,"], ["no-such-scenario"]])
def test_bad_words_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings_of(words)
    assert words[-1] in capsys.readouterr().err


def test_a_lag_above_the_limit_is_said() -> None:
    assert lag_words(ground(), "8 hosts") == ("", "")
    fine, note = lag_words(ground(p50=0.1, p99=LAG_LIMIT_MS, max=30.0), "8 hosts")
    assert "p99 5.00 ms" in fine
    assert not note
    assert "With 8 hosts the testbed itself" in lag_words(ground(p50=0.1, p99=5.1, max=30.0), "8 hosts")[1]


def test_the_deepest_path_adds_up_the_round_trips_of_its_links() -> None:
    far = {("", "a"): 0.1, ("a", "b"): 0.2, ("b", "c"): 0.05, ("", "d"): 0.3}
    parents = {"c": "b", "b": "a", "a": None, "d": None}
    assert deepest_path_s(parents, ground(lambda a, b: far[a, b])) == pytest.approx(0.35)


def test_steps_are_the_first_and_last_of_their_events() -> None:
    events = [
        ("10000-0", {"type": "run_submitted"}), ("10100-0", {"type": "subtrees_assigned"}),
        ("10500-0", {"type": "hosts_up"}), ("11000-0", {"type": "hosts_up"}), ("11200-0", {"type": "op_ended"}),
    ]  # fmt: skip
    found = cold.steps(events, 9.9)
    assert {name: round(at, 3) for name, at in found.items()} == {
        "submitted": 0.1, "planned": 0.2, "first host up": 0.6, "last host up": 1.1, "last end": 1.3,
    }  # fmt: skip
    assert cold.step_words({"planned": [0.3, 0.1, 0.2], "submitted": [0.1]}) == "submitted 0.10 s, planned 0.20 s"


def test_the_spread_is_that_of_the_first_words() -> None:
    assert cold.spread_s({"a": "17.25\nConnection closed.", "b": "17.75"}) == 0.5


def test_the_mark_of_runaways_is_in_no_command_line_of_a_tool() -> None:
    command = runaways.command(MARK)
    assert MARK not in command
    assert MARK[:9] in command


def test_runaways_are_counted_once_a_host_and_kind() -> None:
    lines = [f"sh -c loop {MARK}-{kind} loop" for kind in ("nohup-10.0.0.1", "nohup-10.0.0.2", "respawning-10.0.0.1")]
    lines += [f"{lines[-1]} again", f"sh {MARK}-itself-10.0.0.2", "sh -c loop another-nohup-10.0.0.3"]
    left = runaways.hosts_left(lines, MARK)
    assert set(left) == {runaways.ITSELF, *runaways.KINDS}
    assert {kind: count for kind, count in left.items() if count} == {
        "nohup": 2, "respawning": 1, runaways.ITSELF: 1,
    }  # fmt: skip


def test_received_bytes_are_those_of_the_device() -> None:
    table = (
        "Inter-|   Receive  |  Transmit\n face |bytes    packets errs|bytes\n"
        "    lo:     100       1    0\n  wan0: 7654321      12    0 0 0 0 0 0  99\n"
    )
    assert wide_flood.received_in_table(table, "wan0") == 7654321

"""The fold of a run's events as the command line shows it."""

from __future__ import annotations

from typing import Any

import pytest

from plush_api.cli.view import AskForHosts, Effect, HostsEnded, Notice, ReadOutput, RunView
from plush_worker.model import HostState
from tests.unit.cli_fakes import ended, finished, joined, lost, output, spec_of, started, up


def play(view: RunView, *events: dict[str, Any], first: int = 1) -> list[Effect]:
    return [effect for at, event in enumerate(events, first) for effect in view.fold(f"{at * 1000}-0", event)]


def states(view: RunView) -> dict[str, str]:
    found: dict[str, str] = {}
    for outcome in view.outcomes:
        for name in view.host_names(outcome):
            assert name not in found, f"{name} has two states"
            found[name] = str(outcome.state)
    return found


def test_a_run_that_goes_well() -> None:
    view = RunView(spec_of("a", "b"))
    assert AskForHosts() in play(view, *joined("0-1"))
    view.learn_hosts({0: "a", 1: "b"}, {})
    effects = play(view, up("0-1"), started("0-1"), output("s", 3), ended("0-1"), finished(), first=6)
    assert [type(effect) for effect in effects] == [ReadOutput, HostsEnded]
    assert view.finished
    assert states(view) == {"a": "exited", "b": "exited"}
    assert view.progress_text == "2/2 up, 2 done"
    assert view.connect_s == 5.0


def test_one_event_can_end_hosts_in_two_states() -> None:
    view = RunView(spec_of("a", "b"))
    play(view, *joined("0-1"), up("0"), started("0"), lost("1", "no route"), lost("0", "link gone", reached=True))
    view.learn_hosts({0: "a", 1: "b"}, {})
    assert states(view) == {"a": "unknown", "b": "unreachable"}


def test_a_loss_that_is_not_final_ends_nothing() -> None:
    view = RunView(spec_of("a"))
    play(view, *joined("0"), lost("0", "busy", final=False))
    assert not view.outcomes
    play(view, up("0"), started("0"), ended("0"))
    assert [outcome.state for outcome in view.outcomes] == [HostState.EXITED]


def test_rejected_hosts_count_once() -> None:
    view = RunView(spec_of("a"))
    assert view.reject("z", "no such name")
    assert not view.reject("z", "again")
    play(view, *joined("0"))
    assert not view.learn_hosts({0: "a"}, {"z": "no such name"})
    assert view.progress_text == "0/2 up, 1 done"
    assert states(view) == {"z": "unreachable"}


def test_the_time_limit_is_told_from_other_kills() -> None:
    view = RunView(spec_of("a", "b"))
    play(view, *joined("0-1"), ended("0", "killed", None, signal=15, detail="timeout"))
    play(view, ended("1", "killed", None, signal=2, detail="signal"))
    assert [(outcome.timed_out, outcome.error) for outcome in view.outcomes] == [
        (True, "time limit reached"),
        (False, ""),
    ]


def test_waiting_is_told_once_for_each_reason() -> None:
    view = RunView(spec_of("a"))
    waits = [{"type": "waiting", "why": why} for why in ("no worker", "no worker", "no key")]
    assert play(view, *waits) == [Notice("waiting: no worker"), Notice("waiting: no key")]


def test_leaving_before_anybody_took_the_run_ends_every_host() -> None:
    view = RunView(spec_of("a", "b"))
    view.reject("c", "no such name")
    play(view, {"type": "run_submitted"})
    view.abandon("left")
    assert states(view) == {"c": "unreachable", "a": "killed", "b": "killed"}


def test_leaving_a_run_that_goes_on_says_what_is_not_known() -> None:
    view = RunView(spec_of("a", "b", "c"))
    play(view, *joined("0-2"), up("0"), started("0"), ended("0"), lost("1", "refused", final=False))
    view.learn_hosts({0: "a", 1: "b", 2: "c"}, {})
    view.abandon("left")
    assert states(view) == {"a": "exited", "b": "killed", "c": "unknown"}


@pytest.mark.parametrize("event", [{"type": "log", "text": "x"}, {"type": ""}, {}])
def test_unknown_events_are_ignored(event: dict[str, Any]) -> None:
    assert RunView(spec_of("a")).fold("1-0", event) == []


def test_a_state_of_a_newer_worker_is_unknown() -> None:
    view = RunView(spec_of("a"))
    play(view, *joined("0"), ended("0", "evaporated", None))
    assert view.outcomes[0].state is HostState.UNKNOWN

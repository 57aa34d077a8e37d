"""Exit codes, counts and folded failures."""

from __future__ import annotations

import pytest

from plush_api.cli.summary import counts, exit_code, failure_lines
from plush_api.cli.view import Outcome, RunView
from plush_worker.experiment.host_ranges import fold
from plush_worker.model import HostState
from tests.unit.cli_fakes import spec_of

S = HostState


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([], 0),
        ([Outcome(1, S.EXITED, 0)], 0),
        ([Outcome(1, S.EXITED, 3), Outcome(2, S.EXITED, 7), Outcome(4, S.EXITED, 0)], 7),
        ([Outcome(1, S.EXITED, None, 9), Outcome(2, S.EXITED, 7)], 137),
        ([Outcome(1, S.EXITED, 7), Outcome(2, S.UNREACHABLE)], 255),
        ([Outcome(1, S.KILLED, None, 9), Outcome(2, S.UNKNOWN)], 255),
        ([Outcome(1, S.KILLED, None, 15, timed_out=True), Outcome(2, S.EXITED, 0)], 124),
        ([Outcome(1, S.KILLED, None, 9, timed_out=True)], 124),
        ([Outcome(1, S.KILLED, None, 2)], 130),
        ([Outcome(1, S.KILLED)], 143),
        ([Outcome(1, S.FAILED, error="no shell")], 126),
        ([Outcome(0, S.UNREACHABLE, name="z")], 255),
    ],
)
def test_exit_codes(outcomes: list[Outcome], code: int) -> None:
    assert exit_code(outcomes) == code


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143), (1, 129)])
def test_an_interruption_overrides_everything(number: int, code: int) -> None:
    assert exit_code([Outcome(1, S.UNREACHABLE)], interrupted_by=number) == code


def test_every_host_is_in_one_count() -> None:
    view = RunView(spec_of())
    view.outcomes = [
        Outcome(0b1, S.EXITED, 0),
        Outcome(0b110, S.EXITED, 1),
        Outcome(0b1000, S.EXITED, None, 9),
        Outcome(0b10000, S.FAILED),
        Outcome(0b100000, S.UNREACHABLE),
        Outcome(0, S.UNREACHABLE, name="z"),
        Outcome(0b1000000, S.KILLED, None, 2),
        Outcome(0b110000000, S.UNKNOWN),
    ]
    assert counts(view, 1.23456) == {
        "hosts": 10, "ok": 1, "nonzero": 3, "failed": 1, "unreachable": 2, "killed": 1, "unknown": 2,
        "wall_s": 1.235, "connect_s": 0.0,
    }  # fmt: skip


def test_failures_are_folded_by_reason() -> None:
    view = RunView(spec_of())
    view.names = {at: f"node{at}" for at in range(6)} | {6: "gw"}
    view.outcomes = [
        Outcome(0b1, S.EXITED, 0),
        Outcome(0b010, S.EXITED, 3),
        Outcome(0b100, S.EXITED, 3),
        Outcome(0b001000, S.UNREACHABLE, error="refused: node3 (10.0.0.3) port 22: connection refused"),
        Outcome(0b010000, S.UNREACHABLE, error="refused: node4 (10.0.0.4) port 22: connection refused"),
        Outcome(0b100000, S.KILLED, None, 15, "time limit reached", timed_out=True),
        Outcome(0b1000000, S.EXITED, None, 11),
        Outcome(0, S.UNREACHABLE, error="z does not resolve", name="z"),
    ]
    addresses = {f"node{at}": f"10.0.0.{at}" for at in range(6)}
    assert failure_lines(view, addresses, fold) == [
        "node[1-2]: exit code 3",
        "node[3-4]: unreachable: refused: HOST (HOST) port 22: connection refused",
        "node5: killed: time limit reached",
        "gw: ended by signal 11",
        "z: unreachable: z does not resolve",
    ]

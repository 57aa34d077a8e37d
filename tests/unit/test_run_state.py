"""What a coordinator makes of a run's events: when an op is ordered, for whom again, and when the run is over."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from plush_worker.model import HostState, RunSpec
from plush_worker.node import hostset
from plush_worker.run_state import Decision, Finish, GiveUp, KillDone, OrderOp, OrderSignal, RunState


def run(events: list[dict[str, Any]], **spec: Any) -> RunState:
    state = RunState(RunSpec(run_id="r", owner="o", hosts=(), **{"command": "date", **spec}))
    for event in [{"type": "hosts_joined", "mesh": "m", "hosts": "0-3"}, ASSIGNED, *events]:
        state.fold(event)
        state.check_invariants()
    return state


ASSIGNED = {"type": "subtrees_assigned", "worker": "w", "incarnation": "i", "epoch": 10, "roots": "0", "hosts": "0-3"}


def ordered(op: int, hosts: str = "0-3") -> dict[str, Any]:
    return {"type": "op_ordered", "op": op, "kind": "exec", "hosts": hosts}


def up(hosts: str, order: int) -> dict[str, Any]:
    return {"type": "hosts_up", "hosts": hosts, "order": order}


def gone(hosts: str, *, reached: bool = False, final: bool = True, code: str = "refused") -> dict[str, Any]:
    return {
        "type": "hosts_lost",
        "hosts": hosts,
        "child": 0,
        "code": code,
        "detail": "d",
        "reached": reached,
        "final": final,
    }


def ended(hosts: str, code: int | None = 0, state: str = "exited") -> dict[str, Any]:
    return {"type": "op_ended", "op": 11, "hosts": hosts, "state": state, "code": code, "signal": None, "detail": ""}


KILL = {"type": "kill_requested", "signal": 15, "grace_ms": 1000, "by": "o"}


def test_all_hosts_are_ordered_at_once_and_not_again() -> None:
    assert run([]).decide() == [OrderOp(0b1111)]
    assert run([ordered(11)]).decide() == []


def test_together_waits_for_the_last_host_or_its_end() -> None:
    assert run([up("0-2", 10)], together=True).decide() == []
    assert run([up("0-2", 10), gone("3")], together=True).decide() == [OrderOp(0b0111)]


def test_fanout_keeps_so_many_running() -> None:
    assert run([], fanout=2).decide() == [OrderOp(0b0011)]
    assert run([ordered(11, "0-1"), ended("1")], fanout=2).decide() == [OrderOp(0b0100)]


def test_a_host_admitted_above_its_op_gets_a_new_one_unless_the_op_may_have_reached_it() -> None:
    lost_before = [ordered(11), gone("2", reached=False, final=False), up("0-3", 10), up("2", 12)]
    assert run(lost_before).decide() == [OrderOp(0b0100)]
    lost_after = [ordered(11), gone("2", reached=True, final=False), up("2", 12)]
    assert run(lost_after).decide() == []


def test_a_host_lost_for_good_is_unreachable_or_unknown() -> None:
    state = run([ordered(11), up("3", 10), gone("2", reached=False), gone("3", reached=True)])
    assert {key[0]: hosts for key, hosts in state.outcomes.items()} == {"unreachable": 0b0100, "unknown": 0b1000}


def test_a_retry_that_is_refused_does_not_make_a_started_host_unreachable() -> None:
    events = [ordered(11), up("3", 10), {"type": "op_started", "op": 11, "hosts": "3"}]
    state = run([*events, gone("3", reached=True, final=False, code="eof"), gone("3", reached=False)])
    assert {key[0]: hosts for key, hosts in state.outcomes.items()} == {"unknown": 0b1000}


def test_a_host_seen_up_stays_touched_when_its_retries_fail() -> None:
    state = run([ordered(11), up("3", 10), gone("3", reached=True, final=False, code="eof"), gone("3", reached=False)])
    assert {key[0]: hosts for key, hosts in state.outcomes.items()} == {"unknown": 0b1000}


def test_a_kill_signals_what_runs_and_ends_what_never_got_the_op() -> None:
    state = run([ordered(11, "0-1"), ended("0"), KILL], fanout=2)
    assert state.decide() == [
        OrderSignal(11, 0b0010, 15, 1000),
        GiveUp(0b1100, HostState.KILLED, "before it was started"),
        KillDone(1),
    ]
    state.fold(ended("2-3", None, "killed") | {"op": 0, "detail": "before it was started"})
    state.fold({"type": "kill_done", "count": 1})
    assert state.decide() == [], "a killed run orders no more ops"


def test_the_run_finishes_when_every_host_has_ended() -> None:
    state = run([ordered(11), ended("0-2"), ended("3", code=7)])
    assert state.decide() == [Finish()]
    assert state.final_state() == "failed"
    assert state.summary() == {
        "hosts": 4,
        "ok": 3,
        "nonzero": 1,
        "failed": 0,
        "unreachable": 0,
        "killed": 0,
        "unknown": 0,
    }


def test_joining_only_ends_when_hosts_are_up() -> None:
    state = run([up("0-2", 10), gone("3")], command="")
    assert state.decide() == [GiveUp(0b0111, HostState.EXITED, "joined")]


EVENT = st.one_of(
    st.builds(lambda h, o: up(hostset.to_text(h), o), st.integers(1, 15), st.integers(10, 40)),
    st.builds(
        lambda h, r, f: gone(hostset.to_text(h), reached=r, final=f), st.integers(1, 15), st.booleans(), st.booleans()
    ),
    st.builds(lambda h, c: ended(hostset.to_text(h), c), st.integers(1, 15), st.integers(0, 3)),
    st.builds(lambda h: {"type": "op_started", "op": 11, "hosts": hostset.to_text(h)}, st.integers(1, 15)),
    st.just(KILL),
)


@given(st.lists(EVENT, max_size=40), st.booleans(), st.integers(0, 3))
def test_any_order_of_events_ends_every_host_once(events: list[dict[str, Any]], together: bool, fanout: int) -> None:
    """Decisions are carried out as a coordinator would; no host ends twice, none is ordered after its end."""
    state, op = run([], together=together, fanout=fanout), 10

    def carry_out(decisions: list[Decision]) -> None:
        nonlocal op
        for decision in decisions:
            match decision:
                case OrderOp(hosts):
                    assert not hosts & state.ended
                    op += 10
                    state.fold(ordered(op, hostset.to_text(hosts)))
                case GiveUp(hosts, host_state, detail):
                    state.fold(ended(hostset.to_text(hosts), None, host_state.value) | {"detail": detail})
                case KillDone(count):
                    state.fold({"type": "kill_done", "count": count})
                case Finish():
                    state.fold({"type": "run_finished"})

    for event in events:
        carry_out(state.decide())
        state.fold(event)
        state.check_invariants()
    state.fold(gone("0-3"))
    for _ in range(len(events) + 3):
        carry_out(state.decide())
    assert state.finished
    assert sum(n for name, n in state.summary().items() if name != "hosts") == 4

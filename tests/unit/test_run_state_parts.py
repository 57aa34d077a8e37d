"""Runs of several parts: files first, then the processes of each host, and one end for each host."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from plush_worker.model import HostState, RunSpec
from plush_worker.node import hostset
from plush_worker.run_parts import badness
from plush_worker.run_state import (
    Decision,
    Finish,
    GiveUp,
    KillDone,
    OrderOp,
    OrderSignal,
    RunState,
    plan_parts,
)

HOSTS = ({"name": "a", "address": "a"},) * 4
FILE = {"dest": "f", "kind": "file", "mode": 0o644, "size": 1, "sha256": "0" * 64, "target": "", "hosts": None}


def process(name: str, hosts: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "command": name, "hosts": hosts, "cwd": "", "env": {}, "stdin": "", "timeout_s": 0}


def started(spec: RunSpec) -> RunState:
    state = RunState(spec)
    state.fold({"type": "hosts_joined", "mesh": "m", "hosts": "0-3", "parts": plan_parts(spec, range(4))})
    state.fold(
        {"type": "subtrees_assigned", "worker": "w", "incarnation": "i", "epoch": 1, "roots": "0", "hosts": "0-3"}
    )
    state.check_invariants()
    return state


def experiment(*processes: dict[str, Any], files: tuple[dict[str, Any], ...] = (), **more: Any) -> RunState:
    return started(RunSpec("r", "o", "x", HOSTS, processes=processes, files=files, **more))


def fold(state: RunState, *events: dict[str, Any]) -> list[Decision]:
    for event in events:
        state.fold(event)
        state.check_invariants()
    return state.decide()


def ordered(op: int, hosts: str = "0-3", kind: str = "exec", name: str = "") -> dict[str, Any]:
    return {"type": "op_ordered", "op": op, "kind": kind, "name": name, "hosts": hosts}


def ended(op: int, hosts: str, code: int | None = 0, state: str = "exited", detail: str = "") -> dict[str, Any]:
    return {
        "type": "op_ended",
        "op": op,
        "hosts": hosts,
        "state": state,
        "code": code,
        "signal": None,
        "detail": detail,
    }


def lost(hosts: str, *, reached: bool) -> dict[str, Any]:
    return {"type": "hosts_lost", "hosts": hosts, "code": "eof", "detail": "d", "reached": reached, "final": True}


UP = {"type": "hosts_up", "hosts": "0-3", "order": 1}
KILL = {"type": "kill_requested", "signal": 15, "grace_ms": 1000, "by": "o"}
DEPLOYED = ordered(5, kind="deploy")


def states(state: RunState) -> dict[str, int]:
    found: dict[str, int] = {}
    for outcome, hosts in state.outcomes.items():
        found[outcome[0]] = found.get(outcome[0], 0) | hosts
    return found


def test_every_process_is_ordered_on_its_own_hosts_at_once() -> None:
    state = experiment(process("server", [0]), process("client", [1, 2, 3]), process("watch"))
    assert state.decide() == [
        OrderOp(0b0001, "exec", "server"),
        OrderOp(0b1110, "exec", "client"),
        OrderOp(0b1111, "exec", "watch"),
    ]


def test_processes_wait_for_the_files_of_their_own_host_only() -> None:
    state = experiment(process("p"), files=(FILE,))
    assert state.decide() == [OrderOp(0b1111, "deploy", "")]
    assert fold(state, DEPLOYED) == []
    assert fold(state, ended(5, "1-2")) == [OrderOp(0b0110, "exec", "p")]


def test_hosts_that_get_no_files_start_at_once() -> None:
    state = experiment(process("p"), files=({**FILE, "hosts": [0]},))
    assert state.decide() == [OrderOp(0b0001, "deploy", ""), OrderOp(0b1110, "exec", "p")]


def test_a_host_whose_files_could_not_be_put_has_failed_and_starts_nothing() -> None:
    state = experiment(process("p"), process("q"), files=(FILE,))
    decided = fold(state, DEPLOYED, ended(5, "0", code=1, detail="no room"), ended(5, "1-3"))
    assert decided == [OrderOp(0b1110, "exec", "p"), OrderOp(0b1110, "exec", "q")]
    assert state.outcomes == {("failed", 1, None, "no room"): 0b0001}


def test_a_host_ends_when_its_last_process_has_with_the_worst_of_them() -> None:
    state = experiment(process("p"), process("q"))
    fold(state, ordered(11, name="p"), ordered(12, name="q"), ended(11, "0-3"))
    assert not state.ended, "ended with one of two processes"
    fold(state, ended(12, "0"), ended(12, "1", code=7), ended(12, "2", None, "killed"))
    assert state.ended == 0b0111
    assert states(state) == {"exited": 0b0011, "killed": 0b0100}
    assert state.summary()["ok"] == 1


def test_outcomes_are_ordered_from_good_to_bad() -> None:
    exits = [("exited", 0, None, ""), ("exited", 3, None, ""), ("exited", None, 9, "")]
    others = [(state, None, None, "") for state in ("failed", "unreachable", "killed", "unknown")]
    assert sorted([*reversed(others), *reversed(exits)], key=badness) == [*exits, *others]


def test_a_host_lost_after_its_files_is_unreachable_and_while_it_runs_unknown() -> None:
    state = experiment(process("p"), files=(FILE,))
    fold(state, UP, DEPLOYED, ended(5, "0-3"), ordered(11, "0-1", name="p"), lost("1-2", reached=True))
    assert states(state) == {"unknown": 0b0010, "unreachable": 0b0100}


def test_a_host_lost_while_it_gets_files_starts_nothing_when_it_comes_back() -> None:
    state = experiment(process("p"), files=(FILE,))
    assert fold(state, UP, DEPLOYED, lost("3", reached=True), UP, ended(5, "0-2")) == [OrderOp(0b0111, "exec", "p")]
    assert states(state) == {"unknown": 0b1000}


def test_together_processes_wait_for_every_hosts_files() -> None:
    state = experiment(process("p"), files=(FILE,), together=True)
    assert state.decide() == [OrderOp(0b1111, "deploy", "")], "files wait for nobody"
    assert fold(state, UP, DEPLOYED, ended(5, "0-2")) == []
    assert fold(state, ended(5, "3", code=1)) == [OrderOp(0b0111, "exec", "p")]


def test_fanout_counts_hosts_not_their_parts() -> None:
    state = experiment(process("p"), process("q"), files=(FILE,), fanout=2)
    assert state.decide() == [OrderOp(0b0011, "deploy", "")]
    decided = fold(state, ordered(5, "0-1", kind="deploy"), ended(5, "0-1"))
    assert decided == [OrderOp(0b0011, "exec", "p"), OrderOp(0b0011, "exec", "q")]
    decided = fold(state, ordered(11, "0-1", name="p"), ordered(12, "0-1", name="q"), ended(11, "0"), ended(12, "0"))
    assert decided == [OrderOp(0b0100, "deploy", "")]


def test_a_kill_signals_every_part_and_nothing_is_ordered_after_it() -> None:
    state = experiment(process("p"), process("q"), files=(FILE,))
    decided = fold(state, UP, DEPLOYED, ended(5, "0-1"), ordered(11, "0", name="p"), ordered(12, "0", name="q"), KILL)
    assert decided == [
        OrderSignal(5, 0b1100, 15, 1000),
        OrderSignal(11, 0b0001, 15, 1000),
        OrderSignal(12, 0b0001, 15, 1000),
        GiveUp(0b0010, HostState.KILLED, "before it was started"),
        KillDone(1),
    ]
    fold(state, ended(0, "1", None, "killed", "before it was started"), {"type": "kill_done", "count": 1})
    decided = fold(state, ended(5, "2"), ended(5, "3", None, "killed", "signal"))
    assert decided == [GiveUp(0b0100, HostState.KILLED, "before it was started")], "files came through after the kill"


def test_a_quorum_is_enough() -> None:
    state = experiment(process("p"), success={"at_least": 3})
    assert fold(state, ordered(11, name="p"), ended(11, "0-2"), ended(11, "3", code=1)) == [Finish()]
    assert state.final_state() == "succeeded"
    assert experiment(process("p"), success={"at_least": 4}).final_state() == "failed"


def test_deploy_and_fetch_are_runs_of_one_part() -> None:
    deploy = started(RunSpec("r", "o", "deploy f", HOSTS, kind="deploy", files=(FILE,)))
    assert deploy.decide() == [OrderOp(0b1111, "deploy", "")]
    assert fold(deploy, DEPLOYED, ended(5, "0-3")) == [Finish()]
    fetch = started(RunSpec("r", "o", "fetch f", HOSTS, kind="fetch", fetch=("f",)))
    assert fetch.decide() == [OrderOp(0b1111, "fetch", "")]


def test_readers_need_only_the_events() -> None:
    blank = RunState(RunSpec("r", "", "", ()))
    spec = RunSpec("r", "o", "x", HOSTS, processes=(process("p"), process("q")))
    fold(blank, {"type": "hosts_joined", "mesh": "m", "hosts": "0-3", "parts": plan_parts(spec, range(4))})
    fold(blank, ordered(11, name="p"), ordered(12, name="q"), ended(11, "0-3"), ended(12, "0-1"))
    assert blank.ended == 0b0011


def host_sets() -> st.SearchStrategy[str]:
    return st.builds(hostset.to_text, st.integers(1, 15))


EVENT = st.one_of(
    st.builds(lambda h, o: {"type": "hosts_up", "hosts": h, "order": o}, host_sets(), st.integers(1, 200)),
    st.builds(
        lambda h, r, f: {**lost(h, reached=r), "final": f},
        host_sets(),
        st.booleans(),
        st.sampled_from([False] * 3 + [True]),
    ),
    st.builds(
        lambda i, h, c, s: ("ended", i, h, c, s),
        st.integers(0, 9),
        host_sets(),
        st.integers(0, 2),
        st.sampled_from(["exited"] * 3 + ["killed", "failed", "unknown"]),
    ),
    st.builds(lambda i, h: ("started", i, h), st.integers(0, 9), host_sets()),
    st.just(KILL),
)


@given(
    st.lists(EVENT, max_size=40),
    st.booleans(),
    st.integers(0, 3),
    st.sampled_from([None, [0], [1, 2]]),
    st.sampled_from([(), (FILE,), ({**FILE, "hosts": [0, 3]},)]),
)
def test_any_order_of_events_ends_every_host_once(
    events: list[Any], together: bool, fanout: int, chosen: list[int] | None, files: tuple[dict[str, Any], ...]
) -> None:
    """Decisions are carried out as a coordinator would; no part is ordered where it has ended, or before its files."""
    processes = (process("p", chosen), process("q", [0, 1, 3]), process("r", [2]))
    spec = RunSpec("r", "o", "x", HOSTS, processes=processes, files=files, together=together, fanout=fanout)
    state, op = started(spec), 10
    ops: list[int] = []
    everywhere = hostset.from_text("0-3")
    files_at = hostset.from_text(
        next((p["hosts"] for p in plan_parts(spec, range(4)) or () if p["kind"] == "deploy"), "")
    )
    deployed = ~files_at & everywhere

    def carry_out(decisions: list[Decision]) -> None:
        nonlocal op
        for decision in decisions:
            match decision:
                case OrderOp(hosts, kind, name):
                    assert not hosts & state.ended
                    assert not state.kills, "ordered after a kill"
                    assert kind == "deploy" or not hosts & ~deployed, "a process before its files"
                    op += 10
                    ops.append(op)
                    state.fold(ordered(op, hostset.to_text(hosts), kind, name))
                case GiveUp(hosts, host_state, detail):
                    state.fold(ended(0, hostset.to_text(hosts), None, host_state.value, detail))
                case KillDone(count):
                    state.fold({"type": "kill_done", "count": count})
                case Finish():
                    state.fold({"type": "run_finished"})
            state.check_invariants()

    def take(event: Any) -> None:
        nonlocal deployed
        if isinstance(event, dict):
            state.fold(event)
        elif ops:
            chosen_op = ops[event[1] % len(ops)]
            part = next(part for part in state.parts if chosen_op in part.ops)
            hosts = hostset.from_text(event[2]) & part.ordered
            if event[0] == "started":
                state.fold({"type": "op_started", "op": chosen_op, "hosts": hostset.to_text(hosts)})
            else:
                code = event[3] if event[4] == "exited" else None
                if part.kind == "deploy" and code == 0:
                    deployed |= hosts & part.open
                state.fold(ended(chosen_op, hostset.to_text(hosts), code, event[4]))
        state.check_invariants()

    for event in events:
        carry_out(state.decide())
        take(event)
    take(lost("0-3", reached=True))
    for _ in range(len(events) + 3):
        carry_out(state.decide())
    assert state.finished
    assert sum(n for name, n in state.summary().items() if name != "hosts") == 4

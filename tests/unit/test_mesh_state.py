"""The mesh state: what it orders and reports for a small tree, and that random events never break it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_worker.mesh.effects import (
    AskOp,
    CloseLink,
    DrawOrder,
    Effect,
    Emit,
    Log,
    OpenLink,
    Reassign,
    Send,
    StoreOutput,
)
from plush_worker.mesh.host_table import TRANSITIONS, Phase
from plush_worker.mesh.linking import RETRIES_AT_JOIN, RETRIES_OF_LIVING
from plush_worker.mesh.state import MeshState
from plush_worker.model import HostEntry, OpRecord, SliceSettings, SubtreeRecord
from plush_worker.node import frames, hostset, messages

RUN = "run1"
# 0 is the root of 1 and 2; 3 hangs below 1. 4 is a subtree of its own.
TREE = SubtreeRecord(root=0, owner="w", incarnation="i", epoch=10, members="0-3", parents={"1": 0, "2": 0, "3": 1})
LEAF = SubtreeRecord(root=4, owner="w", incarnation="i", epoch=10, members="4")
ENTRIES = {n: HostEntry(name=f"h{n}", address=f"h{n}.example") for n in range(5)}
ALL = 0b11111


def opened() -> MeshState:
    state = MeshState("m", SliceSettings(inner_login="key"))
    effects = state.open_subtrees(RUN, [TREE, LEAF], ENTRIES, ALL)
    assert [(e.root, e.order) for e in effects if isinstance(e, OpenLink)] == [(0, 10), (4, 10)]
    return state


def standing() -> MeshState:
    state = opened()
    ready(state, 0, 0b1111, 10)
    ready(state, 4, 0b10000, 10)
    assert state.table.up() == ALL
    return state


def ready(state: MeshState, root: int, hosts: int, order: int) -> list[Effect]:
    body = messages.encode(frames.READY, order=order, version=1, python="3.11")
    return state.frame_received(root, frames.READY, hosts, body, 0.0)


def lost(
    state: MeshState, child: int, hosts: int, order: int = 10, code: str = "eof", reached: bool = True
) -> list[Effect]:
    body = messages.encode(frames.LOST, order=order, child=child, code=code, detail="why", reached=reached)
    return state.frame_received(0, frames.LOST, hosts, body, 100.0)


def ended(state: MeshState, root: int, hosts: int, op: int, name: str = "exited", code: int | None = 0) -> list[Effect]:
    body = messages.encode(frames.STATE, op=op, ordinal=2, state=name, code=code, signal=None, detail="")
    return state.frame_received(root, frames.STATE, hosts, body, 0.0)


def output(
    state: MeshState, root: int, hosts: int, op: int, data: bytes, at: int = 0, stream: int = 1, flags: int = 1
) -> list[Effect]:
    body = messages.encode_output(op, stream, at, data, flags)
    return state.frame_received(root, frames.OUTPUT, hosts, body, 0.0)


def exec_op(op: int, hosts: str = "0-4") -> OpRecord:
    return OpRecord(op=op, run_id=RUN, mesh="m", kind="exec", hosts=hosts, command="date")


def sent(effects: list[Effect], kind: int) -> dict[int, int]:
    """root -> hosts, of the frames of that kind."""
    found: dict[int, int] = {}
    for effect in effects:
        if isinstance(effect, Send):
            for frame_kind, _flags, _epoch, hosts, _body in frames.Decoder().feed(effect.frame):
                if frame_kind == kind:
                    found[effect.root] = found.get(effect.root, 0) | hostset.decode(hosts)
    return found


def events(effects: list[Effect], name: str) -> list[dict[str, Any]]:
    return [e.event for e in effects if isinstance(e, Emit) and e.event["type"] == name]


def test_first_frames_of_a_root_tell_it_its_children() -> None:
    state = MeshState("m", SliceSettings(inner_login="key", inner_identity="/k"))
    effect = next(e for e in state.open_subtrees(RUN, [TREE], ENTRIES, ALL) if isinstance(e, OpenLink))
    hello, link = (frames.Decoder().feed(frame)[0] for frame in effect.frames)
    assert hello[0] == frames.HELLO and messages.decode(frames.HELLO, hello[4])["host"] == 0
    values = messages.decode(frames.LINK, link[4])
    assert [(row[0], row[1]) for row in values["entries"]] == [(1, 0), (2, 0), (3, 1)]
    assert values["ssh"] == [["-oIdentityFile=/k", "-oIdentitiesOnly=yes"]]


def test_an_op_travels_with_the_link_order() -> None:
    state = opened()
    effects = state.op_ordered(exec_op(11))
    assert sent(effects, frames.OP) == {0: 0b1111, 4: 0b10000}
    assert state.op_ordered(exec_op(11)) == [], "the same order sends it twice"


def test_an_op_that_comes_before_its_subtrees_goes_out_with_them() -> None:
    state = MeshState("m", SliceSettings(inner_login="key"))
    state.open_subtrees(RUN, [LEAF], ENTRIES, ALL)
    assert sent(state.op_ordered(exec_op(11)), frames.OP) == {4: 0b10000}
    effects = state.open_subtrees(RUN, [TREE], ENTRIES, ALL)
    assert sent(effects, frames.OP) == {0: 0b1111}
    kinds = [type(e) for e in effects]
    assert kinds.index(OpenLink) < kinds.index(Send), "there is no link yet to queue the op for"


def test_an_op_older_than_the_admission_is_not_sent() -> None:
    state = opened()
    assert sent(state.op_ordered(exec_op(9)), frames.OP) == {}
    effects = ready(state, 0, 0b1111, 10)
    assert sent(effects, frames.OP) == {}, "a host that was never asked must get a new op number"
    assert events(effects, "hosts_up") == [{"type": "hosts_up", "order": 10, "hosts": "0-3"}]


def test_hosts_are_reported_when_their_output_is_on_disk_and_closed_after_that() -> None:
    state = standing()
    state.op_ordered(exec_op(11))
    assert [type(e) for e in output(state, 0, 0b1111, 11, b"hi\n")] == [StoreOutput]
    output(state, 0, 0b1111, 11, b"", stream=2)
    ended(state, 0, 0b1111, 11)
    points = state.sync_points()
    effects = state.synced(points)
    (report,) = [e for e in effects if isinstance(e, Emit)]
    assert report.event == {
        "type": "op_ended",
        "op": 11,
        "hosts": "0-3",
        "state": "exited",
        "code": 0,
        "signal": None,
        "detail": "",
    }
    assert sent(list(report.then), frames.CLOSE) == {0: 0b1111}
    assert state.synced(state.sync_points()) == [], "reported twice"


def test_an_end_that_comes_during_a_write_waits_for_the_next() -> None:
    state = standing()
    state.op_ordered(exec_op(11))
    points = state.sync_points()
    output(state, 4, 0b10000, 11, b"")
    output(state, 4, 0b10000, 11, b"", stream=2)
    ended(state, 4, 0b10000, 11)
    assert state.synced(points) == []
    assert events(list(state.synced(state.sync_points())), "op_ended")


def test_output_that_was_taken_in_is_not_stored_again() -> None:
    state = standing()
    state.op_ordered(exec_op(11))
    output(state, 0, 0b0011, 11, b"hi", flags=0)
    (stored,) = output(state, 0, 0b0111, 11, b"hi", flags=0)
    assert isinstance(stored, StoreOutput)
    assert hostset.decode(frames.Decoder().feed(stored.frame)[0][3]) == 0b0100


def test_a_piece_that_is_known_in_part_is_stored_from_there_on() -> None:
    state = standing()
    state.op_ordered(exec_op(11))
    output(state, 0, 0b0001, 11, b"abc", flags=0)
    effects = output(state, 0, 0b0011, 11, b"abcdef", flags=messages.END)
    stored = {}
    for effect in effects:
        assert isinstance(effect, StoreOutput)
        ((_, _, _, hosts, body),) = frames.Decoder().feed(effect.frame)
        stored[hostset.decode(hosts)] = (messages.decode_output(body)[3], body[messages.OUTPUT_HEADER_BYTES :])
    assert stored == {0b0001: (3, b"def"), 0b0010: (0, b"abcdef")}
    assert output(state, 0, 0b0011, 11, b"abcdef", flags=messages.END) == []
    output(state, 0, 0b0100, 11, b"abc", flags=0)
    (end,) = output(state, 0, 0b0100, 11, b"abc", flags=messages.END)
    assert isinstance(end, StoreOutput), "an end that comes with bytes known is lost"
    assert state.traffic.ops[11].stdout.ended == 0b0111


def test_output_with_a_hole_before_it_is_asked_for_again() -> None:
    state = standing()
    state.op_ordered(exec_op(11))
    effects = output(state, 0, 0b0010, 11, b"later", at=100)
    assert not [e for e in effects if isinstance(e, StoreOutput)]
    assert sent(effects, frames.ACK) == {0: 0b0010}


def test_a_lost_inner_host_takes_its_children_along_and_all_are_linked_again() -> None:
    state = standing()
    state.op_ordered(exec_op(11))
    effects = lost(state, 1, 0b1010)
    assert [e["hosts"] for e in events(effects, "hosts_lost")] == ["3", "1"]
    assert not any(e["final"] for e in events(effects, "hosts_lost"))
    assert state.tick(100.1) == []
    assert list(state.tick(100.3)) == [DrawOrder(0b1010)]
    (link,) = state.order_drawn(20, 0b1010)
    assert isinstance(link, Send) and link.root == 0
    effects = ready(state, 0, 0b1010, 20)
    assert sent(effects, frames.OP) == {0: 0b1010}, "hosts that may have the op are asked what became of it"


def test_a_dead_inner_host_at_the_join_leaves_its_children_to_its_parent() -> None:
    state = opened()
    effects = lost(state, 1, 0b1010, code="refused", reached=False)
    assert [(e["hosts"], e["final"]) for e in events(effects, "hosts_lost")] == [("3", False), ("1", True)]
    assert DrawOrder(0b1000) in effects
    assert state.table.hosts[3].parent == 0
    ready(state, 0, 0b0101, 10)
    assert [type(e) for e in state.order_drawn(20, 0b1000)] == [Send]


def test_a_dead_root_at_the_join_leaves_subtrees_of_their_own() -> None:
    state = opened()
    effects = state.link_lost(0, "timeout", "no answer", False, 0.0)
    assert [e for e in effects if isinstance(e, Reassign)] == [Reassign({1: 0b1010, 2: 0b0100})]
    state.check_invariants()
    records = [
        SubtreeRecord(root=1, owner="w", incarnation="i", epoch=30, members="1,3", parents={"3": 1}),
        SubtreeRecord(root=2, owner="w", incarnation="i", epoch=30, members="2"),
    ]
    effects = state.open_subtrees("", records, ENTRIES, 0)
    assert [(e.root, e.order) for e in effects if isinstance(e, OpenLink)] == [(1, 30), (2, 30)]


@pytest.mark.parametrize(("code", "tries"), [("refused", 1), ("host_key", 1), ("eof", RETRIES_AT_JOIN + 1)])
def test_how_often_a_join_is_tried(code: str, tries: int) -> None:
    state, order, now_s = opened(), 10, 0.0
    for attempt in range(1, tries + 1):
        effects = state.link_lost(4, code, "why", False, now_s)
        assert events(effects, "hosts_lost")[0]["final"] == (attempt == tries)
        now_s += 60
        if attempt < tries:
            state.tick(now_s)
            order += 1
            state.order_drawn(order, 1 << 4)
    assert state.table.hosts[4].phase is Phase.GONE


def test_a_link_that_stood_is_tried_longer_and_then_given_up() -> None:
    state, order, now_s = standing(), 10, 0.0
    for _ in range(RETRIES_OF_LIVING):
        assert not events(state.link_lost(4, "eof", "why", True, now_s), "hosts_lost")[0]["final"]
        now_s += 60
        state.tick(now_s)
        order += 1
        state.order_drawn(order, 1 << 4)
    assert events(state.link_lost(4, "refused", "why", False, now_s), "hosts_lost")[0]["final"]


def test_a_given_up_host_is_tried_again_by_the_next_run() -> None:
    state = opened()
    state.link_lost(4, "refused", "why", False, 0.0)
    assert list(state.open_subtrees("run2", [LEAF], ENTRIES, 1 << 4)) == [DrawOrder(1 << 4)]


def test_held_ops_are_resumed_where_the_store_stands() -> None:
    state = standing()
    state.op_ordered(exec_op(11))
    output(state, 0, 0b0010, 11, b"12345", flags=0)
    body = messages.encode(frames.HELD, op=11)
    effects = state.frame_received(0, frames.HELD, 0b0110, body, 0.0)
    acks = {
        hostset.decode(f[3]): messages.decode(frames.ACK, f[4])
        for e in effects
        if isinstance(e, Send)
        for f in frames.Decoder().feed(e.frame)
    }
    assert {hosts: (ack["stdout"], ack["resume"]) for hosts, ack in acks.items()} == {
        0b0010: (5, True),
        0b0100: (0, True),
    }


def test_an_op_nobody_knows_is_asked_for_and_then_forgotten() -> None:
    state = standing()
    body = messages.encode(frames.HELD, op=7)
    assert state.frame_received(4, frames.HELD, 1 << 4, body, 0.0) == [AskOp(7)]
    assert sent(state.op_forgotten(7), frames.CLOSE) == {4: 1 << 4}


def test_a_host_speaks_only_for_its_subtree() -> None:
    state = standing()
    state.op_ordered(exec_op(11))
    effects = ended(state, 4, 0b11000, 11)
    assert [type(e) for e in effects] == [Log]
    assert state.traffic.ops[11].ended == 0
    claimed = messages.encode(frames.LOST, order=10, child=0, code="eof", detail="", reached=True)
    assert [type(e) for e in state.frame_received(4, frames.LOST, 1 << 4, claimed, 0.0)] == [Log]


def test_signals_go_to_what_has_not_ended_and_again_to_what_comes_back() -> None:
    state = standing()
    state.op_ordered(exec_op(11))
    ended(state, 0, 0b0001, 11)
    signal = OpRecord(op=12, run_id=RUN, mesh="m", kind="signal", hosts="0-4", ref=11, signal=15, grace_ms=1000)
    assert sent(state.op_ordered(signal), frames.SIGNAL) == {0: 0b1110, 4: 0b10000}
    assert sent(state.op_ordered(signal), frames.SIGNAL) == {}
    lost(state, 1, 0b1010)
    state.tick(200.0)
    state.order_drawn(20, 0b1010)
    assert sent(ready(state, 0, 0b1010, 20), frames.SIGNAL) == {0: 0b1010}


def test_closing_sends_quit_before_the_link_goes() -> None:
    state = standing()
    effects = state.close_subtrees([0], kill=True)
    assert [type(e) for e in effects] == [Send, CloseLink]
    assert sent(list(effects), frames.QUIT) == {0: 0b1111}
    assert state.table.mine() == 1 << 4


def test_every_transition_that_is_not_in_the_table_is_refused() -> None:
    for start in Phase:
        for target in Phase:
            state = opened()
            state.table.hosts[4].phase = start
            if target in TRANSITIONS[start]:
                state.table.move(4, target)
            else:
                with pytest.raises(RuntimeError, match="no way"):
                    state.table.move(4, target)


STEPS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 31), st.integers(0, 5)), max_size=60)


@given(STEPS)
def test_random_events_never_break_it(steps: list[tuple[int, int, int]]) -> None:
    """Whatever comes in whatever order: no exception, invariants hold, no host is reported twice for an op."""
    state, now_s, order, reported = opened(), 0.0, 10, 0
    pending: list[int] = []
    for what, hosts, which in steps:
        now_s += 1.0
        root = 4 if which == 4 else 0
        mask = hosts & (0b10000 if root == 4 else 0b1111)
        effects: list[Effect] = []
        if what == 0:
            effects = ready(state, root, mask, state.table.hosts[min(which, 4)].order) if mask else []
        elif what == 1:
            effects = lost(state, which % 4, mask, state.table.hosts[which % 4].order) if mask else []
        elif what == 2:
            effects = state.link_lost(root, "eof", "", bool(hosts & 1), now_s) if root in state.table.epochs else []
        elif what == 3:
            effects = state.op_ordered(exec_op(11))
        elif what == 4 and mask:
            effects = list(output(state, root, mask, 11, b"x", at=0, flags=1, stream=1 + hosts % 2))
        elif what == 5 and mask:
            effects = ended(state, root, mask, 11)
        elif what == 6:
            effects = list(state.tick(now_s))
        elif what == 7 and pending:
            order += 1
            effects = list(state.order_drawn(order, pending.pop(0)))
        elif what == 8:
            effects = list(state.synced(state.sync_points()))
        for effect in effects:
            if isinstance(effect, DrawOrder):
                pending.append(effect.hosts)
            elif isinstance(effect, Reassign):
                order += 1
                for new_root, members in effect.members.items():
                    parents = {
                        str(n): p for n in hostset.members(members) if (p := state.table.hosts[n].parent) is not None
                    }
                    record = SubtreeRecord(new_root, "w", "i", order, hostset.to_text(members), parents)
                    state.open_subtrees("", [record], ENTRIES, 0)
            elif isinstance(effect, Emit) and effect.event["type"] == "op_ended":
                new = hostset.from_text(effect.event["hosts"])
                assert not new & reported
                reported |= new
        state.check_invariants()

"""The tree below a node program: orders, forwarding, who may speak for whom, losses, quitting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_worker.node import frames, limits, messages
from plush_worker.node.hostset import members, of

from .node_fakes import Bench

OP = {"op": 9, "command": b"date", "env": {}, "ttl_s": 1, "timeout_s": 0}
STATE = {"op": 9, "ordinal": 2, "state": "exited", "code": 0, "signal": None, "detail": ""}
LOST = {"order": 2, "code": "eof", "detail": "", "reached": True}


@pytest.fixture
def bench() -> Bench:
    """Host 0 with children 1 and 2; 3 below 1, 4 below 3."""
    made = Bench()
    made.link(2, [(1, 0), (2, 0), (3, 1), (4, 3)])
    return made


def test_link_opens_children_and_passes_the_rest_on(bench: Bench) -> None:
    assert [(child.number, options) for child, options in bench.opener.opened] == [(1, ["-v"]), (2, ["-v"])]
    assert members(bench.child(1).below) == [1, 3, 4]
    hello, link = bench.sent_to(1)
    assert hello[0] == "HELLO"
    assert (hello[2]["host"], hello[2]["order"], hello[2]["mesh"], hello[2]["name"]) == (1, 2, "m", "host1")
    assert link[0] == "LINK"
    assert [entry[:2] for entry in link[2]["entries"]] == [[3, 1], [4, 3]]
    assert [name for name, _, _ in bench.sent_to(2)] == ["HELLO"]


def test_what_comes_while_a_link_is_being_opened_travels_with_the_order(bench: Bench) -> None:
    bench.down(frames.OP, [0, 1, 2, 3], **OP)
    assert [name for name, _, _ in bench.sent_to(1)] == ["HELLO", "LINK", "OP"]


def test_multicast_is_cut_for_each_child_and_its_body_kept(bench: Bench) -> None:
    for number in (1, 2):
        bench.sent_to(number)
    bench.down(frames.OP, [0, 2, 3, 77], **OP, epoch=5)
    assert bench.sent_to(1) == [("OP", [3], OP)]
    assert bench.sent_to(2) == [("OP", [2], OP)]
    assert [kind for kind, _, _ in bench.ops.calls] == [frames.OP]


def test_an_order_that_is_not_above_the_last_is_dropped(bench: Bench) -> None:
    bench.link(2, [(1, 0)])
    bench.link(1, [(3, 1)])
    assert len(bench.opener.opened) == 2
    assert [name for name, _, _ in bench.sent()] == ["LOG", "LOG"]


def test_a_higher_order_replaces_the_link_and_says_what_was_lost(bench: Bench) -> None:
    old = bench.child(1)
    bench.link(7, [(1, 0)])
    assert bench.opener.closed == [old]
    ((name, hosts, fields),) = bench.sent()
    assert (name, hosts, fields["child"], fields["order"], fields["reached"]) == ("LOST", [1, 3, 4], 1, 2, False)
    assert bench.child(1).order == 7
    assert members(bench.child(1).below) == [1]


def test_a_host_that_moves_to_another_parent_is_no_longer_heard_from_the_old(bench: Bench) -> None:
    bench.link(8, [(4, 2)])
    assert members(bench.child(1).below) == [1, 3]
    bench.up(1, frames.STATE, [4], **STATE)
    assert [name for name, _, _ in bench.sent()] == ["LOG"]


def test_a_parent_that_is_gone_makes_its_children_lost(bench: Bench) -> None:
    bench.link(8, [(5, 66)])
    ((name, hosts, fields),) = bench.sent()
    assert (name, hosts, fields["child"], fields["code"]) == ("LOST", [5], 5, "eof")


@pytest.mark.parametrize(
    "change",
    [
        {"ssh": "x"}, {"ssh": [[1]]}, {"ssh": ["-v"]}, {"entries": [[1]]}, {"entries": [5]},
        {"entries": [[9, 0, "n", "a", 22, "", b"", 1]]}, {"entries": [[9, 0, "n", "a", 0, "", b"", 0]]},
        {"entries": [[1 << 30, 0, "n", "a", 22, "", b"", 0]]}, {"entries": [[9, 0, "n", "a", 22, "", "text", 0]]},
        {"entries": [[n, 0, "n", "a", 22, "", b"", 0] for n in range(limits.MAX_LINK_ENTRIES + 1)]},
    ],
)  # fmt: skip
def test_a_bad_link_order_is_a_bad_message_and_changes_nothing(bench: Bench, change: dict[str, object]) -> None:
    with pytest.raises(messages.MessageError):
        bench.link(9, [(9, 0)], **change)
    assert set(bench.tree.children) == {1, 2}


def test_entries_below_a_host_that_the_same_order_replaces_are_lost_with_it(bench: Bench) -> None:
    bench.link(9, [(5, 2), (2, 0)])
    assert [(name, hosts) for name, hosts, _ in bench.sent()] == [("LOST", [2, 5])]


def test_a_child_for_which_too_much_is_queued_is_dropped(bench: Bench) -> None:
    big = OP | {"command": bytes(500_000)}
    for _ in range(limits.MAX_CONTROL_QUEUE_BYTES // 500_000 + 1):
        bench.down(frames.OP, [1], **big)
    ((name, hosts, fields),) = bench.sent()
    assert (name, hosts, fields["code"]) == ("LOST", [1, 3, 4], "limit")
    assert [child.number for child in bench.opener.closed] == [1]


def test_extra_fields_of_an_entry_are_ignored(bench: Bench) -> None:
    bench.link(9, [], entries=[[9, 0, "n", "a", 22, "", b"", 0, "new"]])
    assert 9 in bench.tree.children


@pytest.mark.parametrize("hosts", [[2], [1, 2], [0], [99], []])
@pytest.mark.parametrize("kind", [frames.STATE, frames.LOG, frames.LOST, frames.READY])
def test_a_host_speaks_only_for_what_hangs_below_it(bench: Bench, hosts: list[int], kind: int) -> None:
    fields = {
        frames.STATE: STATE, frames.LOG: {"text": "lie"}, frames.LOST: LOST | {"child": 2},
        frames.READY: {"order": 2, "version": 1, "python": "3"},
    }[kind]  # fmt: skip
    bench.up(1, kind, hosts, **fields)
    ((name, subjects, said),) = bench.sent()
    assert (name, subjects) == ("LOG", [0])
    assert "host 1" in said["text"]
    assert members(bench.child(1).below) == [1, 3, 4]


def test_a_child_can_not_report_its_own_link_as_lost(bench: Bench) -> None:
    bench.up(1, frames.LOST, [1, 3], **LOST, child=1)
    assert [name for name, _, _ in bench.sent()] == ["LOG"]


def test_lost_hosts_are_forgotten_on_the_way_up(bench: Bench) -> None:
    bench.up(1, frames.LOST, [3, 4], **LOST, child=3)
    assert [(name, hosts) for name, hosts, _ in bench.sent()] == [("LOST", [3, 4])]
    assert members(bench.child(1).below) == [1]


@pytest.mark.parametrize("kind", [frames.OP, frames.HELLO, frames.QUIT])
def test_a_downward_kind_from_below_ends_the_link(bench: Bench, kind: int) -> None:
    with pytest.raises(frames.FrameError):
        bench.up(1, kind, [1], b"")


def test_results_merge_and_hold_no_longer_than_the_hold_time(bench: Bench) -> None:
    bench.down(frames.OP, [0, 1, 2, 3], **OP)
    bench.session.emit(frames.STATE, messages.encode(frames.STATE, **STATE))
    bench.up(1, frames.STATE, [1, 3], **STATE)
    assert bench.sent() == []
    bench.loop.advance(0.03)
    assert bench.sent() == [("STATE", [0, 1, 3], STATE)]
    bench.up(2, frames.STATE, [2], **STATE)
    assert bench.sent() == [("STATE", [2], STATE)], "all have answered"


def test_a_lost_link_is_told_behind_what_came_from_it(bench: Bench) -> None:
    bench.down(frames.OP, [0, 1, 2], **OP)
    bench.up(1, frames.STATE, [1], **STATE)
    bench.child(1).reached = True
    bench.tree.on_child_end(bench.child(1), "silent", "nothing heard")
    state, lost = bench.sent()
    assert state[:2] == ("STATE", [1])
    assert lost[:2] == ("LOST", [1, 3, 4])
    assert lost[2] == {"order": 2, "child": 1, "code": "silent", "detail": "nothing heard", "reached": True}
    bench.session.emit(frames.STATE, messages.encode(frames.STATE, **STATE))
    bench.up(2, frames.STATE, [2], **STATE)
    assert bench.sent() == [("STATE", [0, 2], STATE)]


def test_the_end_of_a_link_is_told_once(bench: Bench) -> None:
    child = bench.child(1)
    bench.tree.on_child_end(child, "eof", "")
    bench.tree.on_child_end(child, "eof", "")
    assert len(bench.sent()) == 1


def test_a_long_detail_keeps_its_end(bench: Bench) -> None:
    bench.tree.on_child_end(bench.child(1), "bootstrap", "x" * 9000 + "the end")
    detail = bench.sent()[0][2]["detail"]
    assert len(detail) == limits.MAX_DETAIL_CHARS
    assert detail.endswith("the end")


def test_unlink_drops_children_and_passes_on_what_is_deeper(bench: Bench) -> None:
    for number in (1, 2):
        bench.sent_to(number)
    bench.down(frames.UNLINK, [2, 4])
    assert [child.number for child in bench.opener.closed] == [2]
    assert [(name, hosts) for name, hosts, _ in bench.sent()] == [("LOST", [2])]
    assert bench.sent_to(1) == [("UNLINK", [4], {})]


def output(offset: int, size: int, op: int = 9) -> bytes:
    return bytes(messages.encode_output(op, 1, offset, bytes(size)))


def test_credit_is_given_by_quarter_windows_and_not_while_the_uplink_is_full() -> None:
    bench = Bench(window=200_000)
    bench.link(2, [(1, 0)])
    child = bench.child(1)
    child.link.window = 100_000
    bench.sent_to(1)
    for number in range(4):
        bench.up(1, frames.OUTPUT, [1], output(number * 20_000, 20_000))
    assert [name for name, _, _ in bench.sent_to(1)] == ["CREDIT", "CREDIT"]
    for number in range(4, 12):
        bench.up(1, frames.OUTPUT, [1], output(number * 20_000, 20_000))
    assert bench.session.uplink_full()
    before = child._bulk_announced
    bench.up(1, frames.OUTPUT, [1], output(240_000, 30_000))
    assert child._bulk_announced == before, "no credit while the uplink is full"
    bench.sent()
    bench.uplink.on_local(frames.CREDIT, messages.encode_credit(1 << 30))
    bench.sent()
    bench.session.on_uplink_written()
    assert child._bulk_announced == child._bulk_taken
    assert bench.ops.calls == ["resume"]


def test_a_child_that_ignores_its_window_ends_its_link() -> None:
    bench = Bench(window=1000)
    bench.link(2, [(1, 0)])

    def flood() -> None:
        for number in range(100):
            bench.up(1, frames.OUTPUT, [1], output(number * 30_000, 30_000))

    with pytest.raises(frames.FrameError, match="window"):
        flood()


def test_windows_of_many_children_stay_within_the_limit() -> None:
    bench = Bench()
    bench.link(2, [(n, 0) for n in range(1, 65)])
    total = sum(child.link.window for child in bench.tree.children.values())
    assert total <= limits.CHILDREN_WINDOW_BYTES
    assert min(child.link.window for child in bench.tree.children.values()) >= limits.MIN_WINDOW_BYTES


def test_a_flood_of_control_from_below_pauses_its_sender(bench: Bench) -> None:
    while not bench.opener.paused.get(1):
        bench.up(1, frames.LOG, [1], text="x" * 2000)
        assert bench.uplink.control_bytes < 2 << 20
    bench.sent()
    bench.session.on_uplink_written()
    assert bench.opener.paused[1] is False


def test_quit_goes_down_first_and_ends_when_children_and_ops_are_gone(bench: Bench) -> None:
    children = [bench.child(1), bench.child(2)]
    bench.down(frames.QUIT, [0, 1, 2, 3, 4], kill=True)
    assert bench.sent_to(1)[-1][:2] == ("QUIT", [1, 3, 4])
    assert bench.ops.calls == [("quit", True)]
    for child in children:
        assert bench.loop.running
        bench.tree.on_child_end(child, "eof", "")
    assert bench.loop.running
    bench.ops.done()
    assert not bench.loop.running
    assert bench.sent() == [], "who quits is not lost"


def test_quit_of_a_part_leaves_this_host_up(bench: Bench) -> None:
    bench.down(frames.QUIT, [2], kill=False)
    bench.tree.on_child_end(bench.child(2), "eof", "")
    assert bench.loop.running
    assert bench.sent() == []


def test_quit_of_this_host_alone_drops_its_children(bench: Bench) -> None:
    bench.down(frames.QUIT, [0], kill=False)
    assert len(bench.opener.closed) == 2
    assert [name for name, _, _ in bench.sent()] == ["LOST", "LOST"]
    bench.ops.done()
    assert not bench.loop.running


TREES = st.lists(st.integers(0, 10**6), min_size=1, max_size=40)


@given(TREES, st.sets(st.integers(0, 45), max_size=30))
def test_a_multicast_reaches_every_target_exactly_once_in_any_tree(parents: list[int], targets: set[int]) -> None:
    nodes = {0: Bench()}
    entries = [(number + 1, parent % (number + 1)) for number, parent in enumerate(parents)]
    nodes[0].link(2, entries)
    nodes[0].down(frames.OP, sorted(targets), **OP)
    waiting, got = [0], []
    while waiting:
        bench = nodes[waiting.pop()]
        got += [bench.session.host] * len(bench.ops.calls)
        for number, child in bench.tree.children.items():
            below = nodes[number] = Bench(host=number)
            waiting.append(number)
            for name, hosts, fields in bench.sent_to(number):
                if name != "HELLO":
                    below.down(getattr(frames, name), hosts, **fields)
            assert members(child.below) == sorted(subtree(number, entries))
    assert sorted(got) == sorted(targets & (of_numbers(entries) | {0}))


def of_numbers(entries: list[tuple[int, int]]) -> set[int]:
    return {number for number, _ in entries}


def subtree(top: int, entries: list[tuple[int, int]]) -> set[int]:
    found = {top}
    for number, parent in entries:
        if parent in found:
            found.add(number)
    return found


def test_fakes_agree_with_host_sets() -> None:
    assert members(of([3, 1])) == [1, 3]

"""A session without its descriptors: READY, epochs, parts made when needed, heartbeats, the log's limits."""

from __future__ import annotations

import pytest

from plush_worker.node import frames, hostset, limits, messages
from plush_worker.node.logbook import LOGS_PER_BEAT, MAX_DEFECTS

from .node_fakes import Bench, FakeOps

OP = {"op": 9, "command": b"date", "env": {}, "ttl_s": 1, "timeout_s": 0}


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.session.tree = None
    return made


def test_ready_comes_first_and_says_its_order(bench: Bench) -> None:
    bench.session.start("3.6.15", False)
    ready = {"order": 1, "version": limits.PROTOCOL_VERSION, "python": "3.6.15"}
    assert bench.sent() == [("READY", [0], ready)]
    assert bench.ops.calls == []


def test_a_journal_is_recovered_at_the_start(bench: Bench) -> None:
    bench.session.start("3.6.15", True)
    assert bench.ops.calls == ["recover"]


def test_a_lower_epoch_is_dropped_and_reported(bench: Bench) -> None:
    bench.down(frames.OP, [0], 5, **OP)
    bench.down(frames.OP, [0], 4, **OP)
    bench.down(frames.OP, [0], 5, **OP)
    assert [epoch for _, epoch, _ in bench.ops.calls] == [5, 5]
    assert "epoch 4" in bench.sent()[0][2]["text"]


@pytest.mark.parametrize("kind", sorted(frames.UPWARD | {frames.HELLO}))
def test_a_kind_that_no_parent_sends_ends_the_link(bench: Bench, kind: int) -> None:
    with pytest.raises(frames.FrameError):
        bench.session.on_frame(kind, 0, 0, b"", b"")


def test_a_bad_host_set_ends_the_link(bench: Bench) -> None:
    with pytest.raises(hostset.HostSetError):
        bench.session.on_frame(frames.OP, 0, 0, b"\7", b"")


TO_OPS = frames.DOWNWARD - {frames.HELLO, frames.LINK, frames.QUIT, frames.UNLINK, frames.STDIN}


@pytest.mark.parametrize("kind", sorted(TO_OPS))
def test_what_is_for_this_host_goes_to_its_ops_and_nothing_else_does(bench: Bench, kind: int) -> None:
    bench.session.on_frame(kind, 0, 0, hostset.encode(hostset.of([0, 5])), b"body")
    bench.session.on_frame(kind, 0, 0, hostset.encode(hostset.of([5])), b"body")
    bench.session.on_frame(kind, 0, 0, b"", b"body")
    assert bench.ops.calls == [(kind, 0, b"body")]


def test_a_beat_alone_does_not_load_ops(bench: Bench) -> None:
    bench.session.ops = None
    bench.session.on_frame(frames.BEAT, 0, 0, hostset.encode(1), b"")
    assert bench.session.ops is None


def test_quit_without_tree_and_ops_ends_at_once_and_later_frames_are_ignored(bench: Bench) -> None:
    bench.session.ops = None
    bench.down(frames.QUIT, [0], kill=False)
    assert not bench.loop.running
    bench.session.ops = ops = FakeOps()
    bench.down(frames.OP, [0], **OP)
    assert ops.calls == []


def test_a_silent_parent_is_lost_and_a_quiet_one_is_pinged(bench: Bench) -> None:
    bench.session.start("3", False)
    bench.sent()
    for _ in range(limits.HEARTBEATS_MISSED):
        bench.loop.advance(5)
        assert [name for name, _, _ in bench.sent()] == ["PING"]
        assert bench.loop.running
    bench.loop.advance(5)
    assert not bench.loop.running


def test_a_parent_that_says_anything_lives(bench: Bench) -> None:
    bench.session.start("3", False)
    for _ in range(20):
        bench.loop.advance(5)
        bench.uplink.feed(b"", bench.loop.time_s)
    assert bench.loop.running


def test_the_log_is_limited_by_beat_and_says_how_much_it_left_out(bench: Bench) -> None:
    bench.session.start("3", False)
    bench.sent()
    for number in range(LOGS_PER_BEAT + 30):
        bench.session.log(f"line {number}" + "x" * 5000)
    sent = bench.sent()
    assert len(sent) == LOGS_PER_BEAT
    assert all(len(fields["text"]) <= limits.MAX_DETAIL_CHARS for _, _, fields in sent)
    bench.loop.advance(5)
    assert bench.sent()[0][2]["text"] == "30 more lines"
    assert len(bench.session.logbook.lines) <= limits.LOG_LINES


def test_a_bad_message_is_told_and_a_defect_is_told_with_its_place(bench: Bench) -> None:
    bench.session.on_error(messages.MessageError("OP: field op is missing"))
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError as error:
        bench.session.on_error(error)
    bad, defect = (fields["text"] for _, _, fields in bench.sent())
    assert bad == "dropped: OP: field op is missing"
    assert defect.startswith("defect: ZeroDivisionError: by zero at ")
    assert "test_node_session.py:" in defect


def test_many_defects_end_the_program(bench: Bench) -> None:
    for _ in range(MAX_DEFECTS):
        assert bench.loop.running
        bench.session.on_error(ZeroDivisionError())
    assert not bench.loop.running


def test_output_is_bulk_and_carries_the_epoch(bench: Bench) -> None:
    bench.down(frames.OP, [0], 7, **OP)
    bench.session.emit(frames.OUTPUT, messages.encode_output(9, 1, 0, b"x" * 100))
    assert (bench.uplink.control_bytes, bench.uplink.bulk_bytes > 100) == (0, True)
    ((kind, _, epoch, _, _),) = frames.Decoder().feed(bytes(bench.uplink.output()))
    assert (kind, epoch) == (frames.OUTPUT, 7)

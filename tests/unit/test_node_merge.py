"""Merging: nothing lost, nothing doubled, no frames of one host swapped, no waiting for those who have answered."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from plush_worker.node import frames, limits, messages
from plush_worker.node.hostset import members, of
from plush_worker.node.merge import VAIN_COUNT, Merger

HOLD_S = 0.02
A, B, C = 1, 2, 4
ALL = A | B | C
Frame = tuple[int, bytes, int]


def ready(order: int = 5, python: str = "3.11.7") -> tuple[int, bytes]:
    return frames.READY, messages.encode(frames.READY, order=order, version=1, python=python)


def state(ordinal: int, name: str = "exited", code: int | None = 0, op: int = 7) -> tuple[int, bytes]:
    body = messages.encode(frames.STATE, op=op, ordinal=ordinal, state=name, code=code, signal=None, detail="")
    return frames.STATE, body


def output(offset: int, data: bytes = b"x", flags: int = 0, op: int = 7, stream: int = 1) -> tuple[int, bytes]:
    return frames.OUTPUT, messages.encode_output(op, stream, offset, data, flags)


def merger(hosts: int = ALL) -> Merger:
    made = Merger(HOLD_S)
    made.expect_op(7, hosts)
    made.expect_ready(5, hosts)
    return made


def test_equal_frames_become_one_as_soon_as_all_have_answered() -> None:
    for frame in (ready(), state(1, "started", None), state(2), output(0), output(9, b"", messages.END)):
        made = merger()
        assert made.add(*frame, A, 0) == []
        assert made.add(*frame, C, 0) == []
        assert made.add(*frame, B, 0) == [(*frame, ALL)]
        assert made.deadline() is None
        assert made.held_bytes == 0


def test_different_answers_wait_for_each_other_and_go_together() -> None:
    made = merger()
    assert made.add(*state(2, code=0), A, 0) == []
    assert made.add(*state(2, code=1), B, 0) == []
    assert made.add(*state(2, code=0), C, 0) == [(*state(2, code=0), A | C), (*state(2, code=1), B)]


def test_nothing_is_held_longer_than_the_hold_time() -> None:
    made = merger()
    made.add(*state(2), A, 1.0)
    assert made.deadline() == 1.0 + HOLD_S
    assert made.due(1.0 + HOLD_S / 2) == []
    assert made.due(1.0 + HOLD_S) == [(*state(2), A)]
    assert made.add(*state(2), B, 5.0) == []
    assert made.add(*state(2), C, 5.0) == [(*state(2), B | C)], "A was heard before: all have answered"


def test_ops_and_orders_nobody_told_of_are_not_held() -> None:
    made = merger()
    assert made.add(*state(2, op=8), A, 0) == [(*state(2, op=8), A)]
    assert made.add(*ready(6), A, 0) == [(*ready(6), A)]


def test_a_hold_time_of_zero_holds_nothing() -> None:
    made = Merger(0)
    made.expect_op(7, ALL)
    assert made.add(*state(2), A, 0) == [(*state(2), A)]


def test_lost_hosts_are_not_waited_for_and_what_is_held_goes_first() -> None:
    made = merger()
    made.add(*state(1, "started", None), A, 0)
    made.add(*output(0), B, 0)
    assert sorted(made.lost(C)) == sorted([(*state(1, "started", None), A), (*output(0), B)])
    made.add(*state(2), A, 0)
    assert made.add(*state(2), B, 0) == [(*state(2), A | B)]
    made.lost(A | B)
    assert made.add(*state(2), A, 0) == [(*state(2), A)], "nobody is left to wait for"


def test_hosts_that_ended_their_stream_are_not_waited_for() -> None:
    made = merger()
    made.add(*output(0, b"short", messages.END), A, 0)
    made.add(*output(0, b"longer"), B, 0)
    assert len(made.add(*output(0, b"longer"), C, 0)) == 2
    made.add(*output(6), B, 0)
    assert made.add(*output(6), C, 0) == [(*output(6), B | C)]


def test_hosts_whose_op_failed_to_start_have_no_output_to_wait_for() -> None:
    made = merger()
    made.add(*state(2, "failed", None), A, 0)
    made.add(*output(0), B, 0)
    assert made.add(*output(0), C, 0) == [(*output(0), B | C)]


def test_a_stream_held_in_vain_is_held_no_more_but_states_always_are() -> None:
    made = merger()
    for number in range(VAIN_COUNT):
        assert made.add(*output(number), A, number) == []
        assert len(made.due(number + 1)) == 1
    assert made.add(*output(10), A, 10) == [(*output(10), A)]
    assert made.add(*output(0, stream=2), A, 10) == [], "the other stream has its own count"
    for number in range(VAIN_COUNT + 2):
        assert made.add(*state(number), A, 20 + number) == []
        assert len(made.due(21 + number)) >= 1


def test_success_starts_the_count_anew() -> None:
    made = merger()
    for number in range(0, 4 * VAIN_COUNT, 2):
        made.add(*output(number), A, number)
        made.due(number + 1)
        made.add(*output(number + 1), A, number + 1)
        made.add(*output(number + 1), B, number + 1)
        made.due(number + 2)
    assert made.add(*output(100), A, 100) == []


def test_a_host_that_catches_up_is_not_overtaken_by_its_own_later_frames() -> None:
    made = merger()
    made.add(*output(0), A, 0)
    made.due(HOLD_S)
    made.add(*output(5), A, 1)
    made.add(*output(0), B, 1)
    made.add(*output(5), B, 1)
    assert made.due(1 + HOLD_S) == [(*output(0), B), (*output(5), A | B)]


def test_memory_is_bounded_by_sending_early() -> None:
    made = merger()
    sent: list[Frame] = []
    for number in range(300):
        sent += made.add(*output(number * 32768, bytes(32768)), A, 0)
        assert made.held_bytes <= limits.MERGE_TABLE_BYTES + 32768
    sent += made.due(1)
    assert [messages.decode_output(body)[3] for _, body, _ in sent] == [n * 32768 for n in range(300)]


def test_closing_an_op_gives_up_what_is_held_and_forgets_it() -> None:
    made = merger()
    made.add(*state(1), A, 0)
    made.add(*output(0, stream=2), B, 0)
    assert len(made.forget_op(7)) == 2
    assert made.add(*state(2), A, 0) == [(*state(2), A)]
    assert made._lanes == {}


def test_all_ready_forgets_the_order() -> None:
    made = merger()
    made.add(*ready(), A | B, 0)
    made.add(*ready(), C, 0)
    assert (True, 5) not in made._expected
    assert made._lanes == {}


def test_an_order_whose_hosts_are_lost_is_forgotten_and_late_ones_pass() -> None:
    made = merger(A | B)
    assert made.add(*ready(), A, 0) == []
    assert made.lost(A) == [(*ready(), A)]
    assert made.lost(B) == []
    assert made.add(*ready(), B, 0) == [(*ready(), B)]
    assert made._lanes == {}


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("next"), st.integers(0, 3), st.integers(0, 2)),  # host, variant of what it prints
        st.tuples(st.just("time"), st.floats(0, 0.05), st.just(0)),
        st.tuples(st.just("lost"), st.integers(0, 3), st.just(0)),
    ),
    max_size=80,
)


@given(EVENTS)
def test_nothing_is_lost_doubled_or_swapped(events: list[tuple[str, Any, int]]) -> None:
    made, now = Merger(HOLD_S), 0.0
    made.expect_op(7, 0b1111)
    said: dict[int, list[bytes]] = {host: [] for host in range(4)}
    heard: dict[int, list[bytes]] = {host: [] for host in range(4)}
    gone = 0

    def send(found: list[Frame]) -> None:
        for _, body, hosts in found:
            for host in members(hosts):
                heard[host].append(body)

    for what, value, variant in events:
        if what == "time":
            now += value
            send(made.due(now))
        elif what == "lost":
            gone |= 1 << value
            send(made.lost(1 << value))
        elif not gone >> value & 1:
            frame = output(len(said[value]) * 10, b"%d" % variant)
            said[value].append(frame[1])
            send(made.add(*frame, 1 << value, now))
        assert made.held_bytes == sum(len(h.body) for lane in made._lanes.values() for h in lane.held.values())
        deadline = made.deadline()
        assert deadline is None or deadline <= now + HOLD_S
    send(made.due(now + 1))
    assert heard == said
    assert made.held_bytes == 0


def test_a_large_mesh_merges_to_one_frame() -> None:
    made = Merger(HOLD_S)
    made.expect_op(7, of(range(489)))
    found: list[Frame] = []
    for host in range(489):
        found += made.add(*state(2), 1 << host, 0)
    assert found == [(*state(2), of(range(489)))]

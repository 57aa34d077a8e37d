"""One end of a link: control before bulk, bulk within the window, bytes in any pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plush_worker.node import frames, messages
from plush_worker.node.flow import GATHER_BYTES, Link

WINDOW = 1000


def bulk(size: int) -> bytes:
    return bytes(frames.encode(frames.OUTPUT, b"", bytes(size - 16)))


def credit(total: int) -> bytes:
    return bytes(messages.encode_credit(total))


def drain(link: Link, step: int = 1 << 30) -> bytes:
    """Write all that may be written."""
    written = b""
    while out := bytes(link.output()):
        link.wrote(min(step, len(out)), 0)
        written += out[:step]
    return written


def test_control_overtakes_bulk() -> None:
    link = Link(1 << 20, 0)
    for _ in range(4):
        link.put(bulk(GATHER_BYTES), True)
    assert len(link.output()) == GATHER_BYTES
    link.wrote(10, 0)
    link.put(b"control")
    rest = drain(link)
    assert rest.index(b"control") == GATHER_BYTES - 10, "a frame that was begun is finished, then control goes first"


def test_bulk_stops_at_the_window_and_control_does_not() -> None:
    link = Link(WINDOW, 0)
    for _ in range(5):
        link.put(bulk(300), True)
    assert len(drain(link)) == 900
    link.put(b"control")
    assert drain(link) == b"control"
    link.on_local(frames.CREDIT, credit(600))
    assert len(drain(link)) == 600
    assert link.bulk_bytes == 0


def test_a_frame_larger_than_the_window_goes_alone() -> None:
    link = Link(WINDOW, 0)
    for _ in range(2):
        link.put(bulk(5000), True)
    assert len(drain(link)) == 5000
    link.on_local(frames.CREDIT, credit(4999))
    assert drain(link) == b""
    link.on_local(frames.CREDIT, credit(5000))
    assert len(drain(link)) == 5000


def test_credit_for_what_was_never_sent_is_worth_nothing() -> None:
    link = Link(WINDOW, 0)
    link.put(bulk(100), True)
    drain(link)
    link.on_local(frames.CREDIT, credit(2**63))
    for _ in range(20):
        link.put(bulk(100), True)
    assert len(drain(link)) == WINDOW
    link.on_local(frames.CREDIT, credit(50))  # an old one, late
    assert drain(link) == b""


@given(st.lists(st.tuples(st.booleans(), st.integers(16, 400)), max_size=30), st.integers(1, 500), st.integers(1, 500))
def test_whatever_is_queued_arrives_once_in_order_and_within_the_window(
    puts: list[tuple[bool, int]], step: int, credit_step: int
) -> None:
    link, peer = Link(WINDOW, 0), frames.Decoder()
    sent: dict[bool, list[bytes]] = {True: [], False: []}
    got: dict[bool, list[bytes]] = {True: [], False: []}
    arrived = announced = 0
    for number, (is_bulk, size) in enumerate(puts):
        body = number.to_bytes(4, "big") + bytes(size)
        link.put(frames.encode(frames.OUTPUT if is_bulk else frames.LOG, b"", body), is_bulk)
        sent[is_bulk].append(body)
    for _ in range(10_000):
        out = bytes(link.output())[:step]
        link.wrote(len(out), 0)
        for kind, _, _, _, body in peer.feed(out):
            got[kind == frames.OUTPUT].append(body)
            arrived += 16 + len(body) if kind == frames.OUTPUT else 0
        assert arrived - announced <= WINDOW
        if not out:
            if announced == arrived:
                break
            announced = min(arrived, announced + credit_step)
            link.on_local(frames.CREDIT, credit(announced))
    assert got == sent
    assert link.control_bytes == link.bulk_bytes == 0


def test_ping_is_answered_with_its_number() -> None:
    link = Link(WINDOW, 0)
    link.on_local(frames.PING, messages.encode(frames.PING, n=42))
    ((kind, _, _, _, body),) = frames.Decoder().feed(drain(link))
    assert (kind, messages.decode(kind, body)) == (frames.PONG, {"n": 42})


def test_any_byte_is_a_sign_of_life() -> None:
    link = Link(WINDOW, 0)
    assert link.feed(b"\0", 5) == []
    assert link.heard_at == 5

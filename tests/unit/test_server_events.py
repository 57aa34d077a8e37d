"""Server-sent events as a client decodes them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_api import server_events
from plush_api.api_errors import ApiFailed
from plush_api.sdk_base import EventReading
from plush_api.server_events import ServerEvent, ServerEvents

STREAM = (
    b": hello\r\nretry: 1000\n\n"
    b'id: 1-0\ndata: {"type":"a"}\n\n'
    b"id: 2-0\r\nevent: gap\rdata: x\ndata:  y\n\n"
    b"data\n\n"
    b"id: 3-0\n\n"
    b"data: last\n\ndata: never"
)
EVENTS = [
    ServerEvent("1-0", "message", '{"type":"a"}'),
    ServerEvent("2-0", "gap", "x\n y"),
    ServerEvent("2-0", "message", ""),
    ServerEvent("3-0", "message", "last"),
]


def test_the_whole_stream_at_once_and_byte_by_byte() -> None:
    """An event without its blank line would be one that was cut off in the middle."""
    assert ServerEvents().feed(STREAM) == EVENTS
    decoder = ServerEvents()
    assert [event for at in range(len(STREAM)) for event in decoder.feed(STREAM[at : at + 1])] == EVENTS


@given(st.lists(st.integers(0, len(STREAM))))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    decoder, places = ServerEvents(), [0, *sorted(cuts), len(STREAM)]
    parts = [STREAM[start:end] for start, end in pairwise(places)]
    assert [event for part in parts for event in decoder.feed(part)] == EVENTS


@given(st.binary(max_size=300))
def test_any_bytes_are_taken(data: bytes) -> None:
    ServerEvents().feed(data)


@pytest.mark.parametrize("data", [b"data: " + b"x" * 100, b"data: xxxxxxxxxx\n" * 20])
def test_an_event_without_end_is_refused(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a service gone mad fills the client's memory."""
    monkeypatch.setattr(server_events, "MAX_EVENT_BYTES", 100)
    with pytest.raises(ApiFailed):
        ServerEvents().feed(data)


def test_a_run_is_read_on_where_it_broke_off() -> None:
    """A half event of one connection must not be glued to the next one's, and the last id is asked for."""
    reading = EventReading("r", "")
    assert "Last-Event-ID" not in reading.headers()
    (event,) = reading.feed(b'id: 1-0\ndata: {"type":"run_submitted"}\n\nid: 2-0\ndata: {"ty')
    assert (event.id, event.type) == ("1-0", "run_submitted")
    assert reading.headers()["Last-Event-ID"] == "1-0"
    gap, last = reading.feed(b'event: gap\ndata: {}\n\nid: 2-0\ndata: {"type":"run_finished"}\n\n')
    assert (gap.type, gap.id, last.type, reading.finished) == ("gap", "", "run_finished", True)


@pytest.mark.parametrize("data", [b"id: 1-0\ndata: {\n\n", b"id: 1-0\ndata: 7\n\n"])
def test_an_event_that_makes_no_sense_is_an_error(data: bytes) -> None:
    with pytest.raises(ApiFailed):
        EventReading("r", "").feed(data)

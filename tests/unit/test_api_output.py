"""Output as text: whole lines behind names, a host's own bytes and ranges of them, what was lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_api.run_folds import RunFold
from plush_api.run_output import LINE_BYTES, STREAMS, OutputText
from plush_worker.model import RunSpec
from plush_worker.node.messages import GAP, STDERR, STDOUT
from plush_worker.store.segments import Piece


def text_of(host: int | None = None, stream: str = "stdout", **options: int) -> OutputText:
    fold = RunFold(RunSpec("r", "ada", "date", ({"name": "a"}, {"name": "b"})))
    fold.names = {0: "a", 1: "b"}
    return OutputText(fold, host=host, streams=STREAMS[stream], ops=None, **options)


def piece(data: bytes, offset: int = 0, hosts: int = 1, stream: int = STDOUT, flags: int = 0) -> Piece:
    return Piece(hosts, 1, stream, flags, offset, data)


def test_lines_are_whole_however_they_came() -> None:
    text = text_of()
    for part in (piece(b"on", 0, 0b11), piece(b"e\ntw", 2, 0b01), piece(b"E\n", 2, 0b10), piece(b"o", 6, 0b01)):
        text.add(part)
    text.end()
    assert text.drain() == b"a: one\nb: onE\na: two\n"


def test_a_line_without_an_end_is_broken_and_not_kept() -> None:
    text = text_of()
    text.add(piece(b"x" * (3 * LINE_BYTES + 5)))
    assert text.drain() == (b"a: " + b"x" * LINE_BYTES + b"\n") * 3, "unfinished lines of many hosts fill the memory"
    text.end()
    assert text.drain() == b"a: xxxxx\n"


def test_what_was_lost_is_told_and_what_waits_for_it_comes_at_the_end() -> None:
    text = text_of()
    text.add(piece((7).to_bytes(8, "big"), 0, flags=GAP))
    text.add(piece(b"late\n", 20))
    text.add(piece(b"then\n", 7))
    text.end()
    assert text.drain() == b"a: [7 bytes were lost]\na: then\na: [8 bytes were lost]\na: late\n"


def test_streams_are_apart_and_marked_when_both_are_asked_for() -> None:
    both, errors = text_of(stream="both"), text_of(stream="stderr")
    for text in (both, errors):
        text.add(piece(b"out\n"))
        text.add(piece(b"err\n", stream=STDERR))
    assert both.drain() == b"a: out\na (stderr): err\n"
    assert errors.drain() == b"a: err\n"


@given(st.binary(max_size=200), st.integers(0, 220), st.integers(0, 220), st.integers(1, 50))
def test_a_range_is_those_bytes_however_the_output_was_cut(data: bytes, first: int, end: int, cut: int) -> None:
    text = text_of(host=0, first_byte=first, end_byte=end)
    for at in range(0, len(data), cut):
        text.add(piece(data[at : at + cut], at, 0b11))
    text.end()
    assert text.drain() == data[first:end]


@pytest.mark.parametrize(("end", "complete"), [(3, True), (4, True), (5, False)])
def test_a_range_is_complete_when_its_last_byte_is_there(end: int, complete: bool) -> None:
    text = text_of(host=0, end_byte=end)
    text.add(piece(b"1234"))
    assert text.complete is complete


def test_lost_bytes_keep_their_place_in_a_range() -> None:
    text = text_of(host=0, first_byte=5, end_byte=12)
    for part in (piece(b"0123"), piece((4).to_bytes(8, "big"), 4, flags=GAP), piece(b"89abcdef", 8)):
        text.add(part)
    assert text.drain() == b"89ab"

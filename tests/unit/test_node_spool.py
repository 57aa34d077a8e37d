"""The spool: every byte comes out once acknowledged ones are gone, in the same cuts, within its limits."""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_worker.node.limits import OUTPUT_CUT_BYTES as CUT
from plush_worker.node.limits import SPOOL_PIECE_BYTES
from plush_worker.node.messages import END, GAP
from plush_worker.node.spool import SpoolFile, Storage, Stream


class MemoryFile:
    """Stands for SpoolFile; ``full_at``: the size beyond which it refuses."""

    def __init__(self, full_at: int = 1 << 40) -> None:
        self.data, self.full_at, self.most_bytes, self.clears = bytearray(), full_at, 0, 0

    def write(self, at: int, data: bytes) -> None:
        if at + len(data) > self.full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.data.extend(bytes(max(0, at + len(data) - len(self.data))))
        self.data[at : at + len(data)] = data
        self.most_bytes = max(self.most_bytes, len(self.data))

    def read(self, at: int, length: int) -> bytes:
        return bytes(self.data[at : at + length])

    def clear(self) -> None:
        self.data.clear()
        self.clears += 1


def content(offset: int, length: int) -> bytes:
    """What the stream holds there: eight bytes of its number every eight bytes."""
    first, last = offset // 8, (offset + length) // 8
    text = struct.pack(f">{last + 1 - first}Q", *range(first, last + 1))
    return text[offset - first * 8 :][:length]


def fill(stream: Stream, length: int, read: int = CUT) -> None:
    """Add ``length`` bytes in reads of at most ``read``."""
    while length:
        size = min(length, read, stream.wanted())
        stream.add(content(stream.offset, size))
        length -= size


def take_all(stream: Stream) -> list[tuple[int, int, int, bytes]]:
    """(offset, length, flags, data) of all that is unsent."""
    found = []
    while stream.unsent():
        piece, data = stream.take()
        found.append((piece.offset, piece.length, piece.flags, bytes(data)))
    return found


def make(memory: int = 100_000, limit: int = 1 << 20, file: Any = None) -> tuple[Stream, Storage, MemoryFile]:
    file = file or MemoryFile()
    storage = Storage(file, memory)
    return Stream(1, storage, limit), storage, file


def test_output_is_cut_at_multiples_of_the_offset_however_it_was_read() -> None:
    cuts = set()
    for read in (CUT, 1000, 7, CUT - 1):
        stream, _, _ = make()
        fill(stream, 2 * CUT + 100, read)
        stream.cut(end=True)
        cuts.add(tuple((offset, length, flags) for offset, length, flags, _ in take_all(stream)))
    assert cuts == {((0, CUT, 0), (CUT, CUT, 0), (2 * CUT, 100, END))}


def test_a_cut_after_silence_does_not_shift_the_later_ones() -> None:
    stream, _, _ = make()
    fill(stream, 10)
    stream.cut()
    fill(stream, CUT)
    stream.cut(end=True)
    assert [piece[:3] for piece in take_all(stream)] == [(0, 10, 0), (10, CUT - 10, 0), (CUT, 10, END)]


def test_an_empty_stream_is_one_empty_end() -> None:
    stream, _, _ = make()
    stream.cut(end=True)
    stream.cut(end=True)
    assert take_all(stream) == [(0, 0, END, b"")]


def test_a_resend_after_a_take_over_cuts_alike() -> None:
    stream, _, _ = make()
    fill(stream, 10)
    stream.cut()
    fill(stream, 3 * CUT, 999)
    stream.cut(end=True)
    first = take_all(stream)
    stream.rewind()
    assert take_all(stream) == first
    stream.acknowledge(CUT)
    stream.rewind()
    assert take_all(stream) == [piece for piece in first if piece[0] >= CUT]


def test_a_resume_inside_a_piece_sends_that_piece_whole() -> None:
    stream, _, _ = make()
    fill(stream, 2 * CUT)
    take_all(stream)
    stream.acknowledge(CUT + 5)
    stream.rewind()
    assert [piece[0] for piece in take_all(stream)] == [CUT]


def test_the_end_is_sent_again_though_all_is_acknowledged() -> None:
    stream, _, _ = make()
    fill(stream, 100)
    stream.cut(end=True)
    take_all(stream)
    for _ in range(2):
        stream.acknowledge(100)
        stream.rewind()
        assert take_all(stream) == [(100, 0, END, b"")]


def test_an_acknowledgement_beyond_what_there_is_does_no_harm() -> None:
    stream, _, _ = make()
    fill(stream, 100)
    stream.acknowledge(1 << 60)
    stream.cut(end=True)
    stream.acknowledge(1 << 60)
    fill_end = take_all(stream)
    assert fill_end == [(100, 0, END, b"")]


def test_a_full_stream_says_so_until_it_is_acknowledged() -> None:
    stream, _, _ = make(limit=4 * CUT)
    while not stream.full():
        fill(stream, CUT)
    assert stream.offset <= 4 * CUT
    take_all(stream)
    assert stream.full(), "what is sent is not stored yet"
    stream.acknowledge(2 * CUT)
    assert not stream.full()


def test_small_pieces_count_with_what_they_cost() -> None:
    stream, _, _ = make(limit=100 * (SPOOL_PIECE_BYTES + 1))
    count = 0
    while not stream.full():
        fill(stream, 1)
        stream.cut()
        count += 1
    assert count == 100


def test_memory_is_used_first_and_the_file_is_used_again() -> None:
    stream, storage, file = make(memory=2 * CUT, limit=1 << 30)
    fill(stream, 10 * CUT)
    assert storage.memory_bytes == 2 * CUT
    take_all(stream)
    for _ in range(50):
        fill(stream, 5 * CUT)
        assert b"".join(piece[3] for piece in take_all(stream)) == content(stream.offset - 5 * CUT, 5 * CUT)
        stream.acknowledge(stream.offset - 10 * CUT)
    assert file.most_bytes <= 16 * CUT
    stream.acknowledge(stream.offset)
    assert (storage.memory_bytes, len(file.data), file.clears > 0) == (0, 0, True)


def test_a_file_that_refuses_blocks_and_loses_nothing() -> None:
    stream, storage, _ = make(memory=2 * CUT, limit=1 << 30, file=MemoryFile(full_at=3 * CUT))
    while not stream.full():
        fill(stream, CUT)
    assert stream.offset == 6 * CUT, "two in memory, three in the file, and the one it refused"
    assert storage.refusal is not None
    assert b"".join(piece[3] for piece in take_all(stream)) == content(0, 6 * CUT)
    stream.acknowledge(4 * CUT)
    assert not stream.full()
    fill(stream, 2 * CUT)
    assert b"".join(piece[3] for piece in take_all(stream)) == content(6 * CUT, 2 * CUT)


def test_a_lossy_stream_keeps_its_first_and_last_bytes_and_counts_the_rest() -> None:
    limit = 10 * (CUT + SPOOL_PIECE_BYTES)
    stream, _, file = make(memory=CUT, limit=limit)
    fill(stream, 3 * CUT)
    take_all(stream)
    stream.rewind()
    stream.lossy = True
    fill(stream, 500 * CUT + 77)
    assert not stream.full()
    assert file.most_bytes <= 25 * CUT
    stream.lossy = False
    stream.cut(end=True)
    pieces = take_all(stream)
    gaps = [piece for piece in pieces if piece[2] & GAP]
    assert len(gaps) == 1
    at = 0
    for offset, length, flags, data in pieces:
        assert offset == at
        at += length
        assert flags & GAP or data == content(offset, length)
    assert at == 503 * CUT + 77
    assert gaps[0][0] == 10 * CUT
    assert at - (gaps[0][0] + gaps[0][1]) >= limit - 3 * CUT
    stream.acknowledge(gaps[0][0] + 1000)  # a gap that is stored in part goes on where it was
    stream.rewind()
    piece, _ = stream.take()
    assert (piece.offset, piece.length) == (gaps[0][0] + 1000, gaps[0][1] - 1000)


def test_many_orphan_times_without_an_acknowledgement_stay_bounded() -> None:
    limit = 10 * (CUT + SPOOL_PIECE_BYTES)
    stream, _, file = make(memory=CUT, limit=limit)
    for _ in range(10):
        stream.lossy = True
        fill(stream, 100 * CUT)
        stream.lossy = False
        for _ in range(5):
            if stream.unsent():
                stream.take()
        stream.rewind()
    assert stream.kept_bytes <= 2 * limit + 4 * CUT
    assert file.most_bytes <= 26 * CUT


def test_the_file_has_no_name_and_gives_space_back(tmp_path: Any) -> None:
    file = SpoolFile(str(tmp_path / "spool"))
    file.write(3, b"abc")
    assert list(tmp_path.iterdir()) == []
    assert file.read(3, 3) == b"abc"
    file.clear()
    assert file.read(0, 10) == b""


class Model:
    """What a stream should do, the simple way: all bytes are kept, and what came out is checked against them."""

    def __init__(self, memory: int, limit: int) -> None:
        self.stream, self.storage, self.file = make(memory, limit)
        self.acknowledged = self.sent_to = 0
        self.limit = limit
        self.cuts: dict[int, int] = {}  # offset -> end, of every piece ever seen

    def send(self, count: int) -> None:
        for _ in range(count):
            if not self.stream.unsent():
                return
            piece, data = self.stream.take()
            assert piece.offset <= max(self.sent_to, self.acknowledged), "a hole"
            end = piece.offset + piece.length
            if piece.flags & GAP:
                assert data == b""
            else:
                assert bytes(data) == content(piece.offset, piece.length)
                assert self.cuts.setdefault(piece.offset, end) == end or piece.flags & END, "cut differently"
                assert piece.offset // CUT == max(piece.offset, end - 1) // CUT, "across a boundary"
            self.sent_to = end

    def check(self) -> None:
        assert self.storage.memory_bytes <= self.storage._limit
        assert self.stream.kept_bytes >= 0
        assert self.stream.kept_bytes <= 2 * self.limit + 4 * (CUT + SPOOL_PIECE_BYTES)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 3 * CUT)),
        st.tuples(st.just("cut"), st.just(0)),
        st.tuples(st.just("send"), st.integers(1, 10)),
        st.tuples(st.just("ack"), st.floats(0, 1.1)),
        st.tuples(st.just("orphan"), st.integers(0, 30 * CUT)),
        st.tuples(st.just("end"), st.just(0)),
    ),
    max_size=60,
)


@given(steps=steps, memory=st.sampled_from([0, CUT, 5 * CUT]), limit=st.sampled_from([CUT, 4 * CUT, 16 * CUT]))
def test_random_operations(steps: list[tuple[str, Any]], memory: int, limit: int) -> None:
    model = Model(memory, limit)
    stream = model.stream
    for step, amount in steps:
        if step == "add" and not stream.ended and not stream.full():
            fill(stream, amount, 1 + amount % 9999)
        elif step == "cut" and not stream.ended:
            stream.cut()
        elif step == "send":
            model.send(amount)
        elif step == "ack":
            offset = int(model.sent_to * amount)
            stream.acknowledge(offset)
            model.acknowledged = max(model.acknowledged, min(offset, stream.cut_offset))
        elif step == "orphan":
            stream.rewind()
            model.sent_to = 0
            if not stream.ended:
                stream.lossy = True
                fill(stream, amount)
                stream.lossy = False
        elif step == "end":
            stream.cut(end=True)
        model.check()
    stream.cut(end=True)
    stream.rewind()
    model.sent_to = 0
    model.send(1 << 30)
    assert model.sent_to == stream.offset
    stream.acknowledge(stream.offset)
    assert (model.storage.memory_bytes, stream.kept_bytes, len(model.file.data)) == (0, SPOOL_PIECE_BYTES, 0)


@pytest.mark.parametrize("number", [1, 2])
def test_two_streams_share_the_storage(number: int) -> None:
    storage = Storage(MemoryFile(), CUT)
    streams = [Stream(1, storage), Stream(2, storage)]
    for _ in range(20):
        for stream in streams:
            fill(stream, 5000 * stream.number)
            stream.cut()
    streams[number - 1].acknowledge(50_000)
    other = streams[2 - number]
    assert b"".join(piece[3] for piece in take_all(other)) == content(0, other.offset)

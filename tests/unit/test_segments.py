"""Segment files: what is appended comes back, whatever is cut off, full or damaged."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_worker.node import frames, hostset, messages
from plush_worker.store import segments
from plush_worker.store.errors import SegmentError, SegmentFull
from plush_worker.store.segments import Piece, SegmentWriter, read_segment, rebuild

PIECES = st.lists(
    st.builds(
        Piece,
        hosts=st.sets(st.integers(0, 40), min_size=1, max_size=5).map(hostset.of),
        op=st.integers(1, 3),
        stream=st.sampled_from([messages.STDOUT, messages.STDERR]),
        flags=st.sampled_from([0, messages.END]),
        offset=st.integers(0, 1 << 40),
        data=st.binary(max_size=300),
    )
    | st.builds(
        Piece,
        hosts=st.just(hostset.of([7])),
        op=st.just(9),
        stream=st.just(messages.STDOUT),
        flags=st.just(messages.GAP),
        offset=st.integers(0, 1000),
        data=st.integers(1, 1 << 40).map(lambda n: n.to_bytes(8, "big")),
    ),
    max_size=12,
)


def frame(piece: Piece) -> bytes:
    body = messages.encode_output(piece.op, piece.stream, piece.offset, piece.data, piece.flags)
    encoded: bytes = frames.encode(frames.OUTPUT, hostset.encode(piece.hosts), body, epoch=5)
    return encoded


def piece(text: bytes = b"x", offset: int = 0, hosts: int = 1, op: int = 1, flags: int = 0) -> Piece:
    return Piece(hosts, op, messages.STDOUT, flags, offset, text)


@given(PIECES, st.data())
def test_what_is_appended_comes_back_between_any_two_frames(pieces: list[Piece], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.seg"
        bounds = [0]
        with SegmentWriter(path) as writer:
            bounds += [writer.append(frame(p)) for p in pieces]
            assert writer.sync() == writer.length == bounds[-1] == path.stat().st_size
        assert list(read_segment(path, 0, bounds[-1])) == pieces
        first = data.draw(st.integers(0, len(pieces)))
        last = data.draw(st.integers(first, len(pieces)))
        assert list(read_segment(path, bounds[first], bounds[last])) == pieces[first:last]


@given(PIECES, st.data())
def test_what_a_crash_cut_off_is_cut_away(pieces: list[Piece], data: st.DataObject) -> None:
    """Otherwise everything appended after the crash would be unreadable."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.seg"
        whole = b"".join(frame(p) for p in pieces)
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut])
        complete, length = 0, 0
        while complete < len(pieces) and length + len(frame(pieces[complete])) <= cut:
            length += len(frame(pieces[complete]))
            complete += 1
        assert rebuild(path).length_bytes == length
        with SegmentWriter(path) as writer:
            assert writer.length == length
            end = writer.append(frame(piece(b"after")))
        assert list(read_segment(path, 0, end)) == [*pieces[:complete], piece(b"after")]


@given(PIECES)
def test_the_index_is_rebuilt_from_the_file(pieces: list[Piece]) -> None:
    stored: dict[tuple[int, int, int], set[tuple[int, int]]] = {}
    for p in pieces:
        for host in hostset.members(p.hosts):
            stored.setdefault((host, p.op, p.stream), set()).add((p.offset, p.end))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.seg"
        with SegmentWriter(path) as writer:
            for p in pieces:
                writer.append(frame(p))
        index = rebuild(path)
    assert index.ranges.keys() == stored.keys()
    for name, ranges in index.ranges.items():
        assert all(a[1] < b[0] for a, b in pairwise(ranges)), "ranges are in order and disjoint"
        for start, end in stored[name]:
            assert any(first <= start and end <= last for first, last in ranges)
        assert {first for first, _ in ranges} <= {start for start, _ in stored[name]}
        assert {last for _, last in ranges} <= {end for _, end in stored[name]}
    assert index.ended == {
        (host, p.op, p.stream) for p in pieces if p.flags & messages.END for host in hostset.members(p.hosts)
    }


def test_offsets_end_at_the_first_hole(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path / "s") as writer:
        for p in (piece(b"abc", 0, hosts=3), piece(b"de", 3, hosts=1), piece(b"late", 9, hosts=1)):
            writer.append(frame(p))
        lost = (100).to_bytes(8, "big")
        writer.append(frame(piece(lost, 3, hosts=2, flags=messages.GAP)))
    index = rebuild(tmp_path / "s")
    assert index.offsets == {(0, 1, 1): 5, (1, 1, 1): 103}
    assert index.ranges[0, 1, 1] == [(0, 5), (9, 13)]


@given(st.binary(max_size=60), st.integers(0, 60))
def test_damage_is_an_error_and_nothing_worse(junk: bytes, at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        good = frame(piece(b"0123456789")) * 2
        path.write_bytes(good[:at] + junk + good[at + len(junk) :])
        with suppress(SegmentError):
            assert rebuild(path).length_bytes <= path.stat().st_size


def test_only_one_writer(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path / "s"), pytest.raises(SegmentError, match="another writer"):
        SegmentWriter(tmp_path / "s")
    SegmentWriter(tmp_path / "s").close()


def test_only_output_frames_are_taken(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path / "s") as writer:
        beat: bytes = frames.encode(frames.BEAT, b"", b"")
        for bad in (b"", b"\0\0\0\4", beat, frame(piece()) * 2, frame(piece())[:-1]):
            with pytest.raises(SegmentError, match="no OUTPUT frame"):
                writer.append(bad)
        assert writer.length == 0


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a frame would make everything behind it unreadable."""
    path = tmp_path / "s"
    real_write = os.write
    with SegmentWriter(path) as writer:
        first = writer.append(frame(piece(b"first")))

        def write_until_full(fd: int, data: bytes) -> int:
            if len(data) > 10:
                return real_write(fd, bytes(data[:10]))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(segments.os, "write", write_until_full)
        with pytest.raises(SegmentFull, match=r"No space left.*free some space"):
            writer.append(frame(piece(b"does not fit")))
        assert path.stat().st_size == first == writer.length
        monkeypatch.setattr(segments.os, "write", real_write)
        end = writer.append(frame(piece(b"fits", 5)))
    assert [p.data for p in read_segment(path, 0, end)] == [b"first", b"fits"]


def test_a_segment_may_have_a_limit(tmp_path: Path) -> None:
    size = len(frame(piece(b"12345")))
    with SegmentWriter(tmp_path / "s", limit_bytes=2 * size) as writer:
        assert writer.append(frame(piece(b"12345"))) == size
        assert writer.append(frame(piece(b"12345"))) == 2 * size
        with pytest.raises(SegmentFull, match="at most"):
            writer.append(frame(piece(b"")))


def test_nothing_is_written_after_a_failed_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync the kernel may drop what it couldn't write and report the next one as good."""

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with SegmentWriter(tmp_path / "s") as writer:
        writer.append(frame(piece()))
        monkeypatch.setattr(segments.os, "fdatasync", fail)
        with pytest.raises(SegmentError, match="Input/output"):
            writer.sync()
        monkeypatch.undo()
        for again in (writer.sync, lambda: writer.append(frame(piece()))):
            with pytest.raises(SegmentError, match="Input/output"):
                again()


def test_readers_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(SegmentError, match=r"can't read.*No such file"):
        list(read_segment(path, 0, 10))
    with SegmentWriter(path) as writer:
        end = writer.append(frame(piece(b"12345")))
    with pytest.raises(SegmentError, match=f"ends at {end} bytes, {end + 1} were committed"):
        list(read_segment(path, 0, end + 1))
    with pytest.raises(SegmentError, match="no frame boundary"):
        list(read_segment(path, 0, end - 1))
    with pytest.raises(SegmentError, match="damaged"):
        list(read_segment(path, 1, end))
    with pytest.raises(SegmentError, match=r"can't write.*Is a directory"):
        SegmentWriter(tmp_path)


def test_segments_are_for_their_owner_only(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path / "runs" / "r1" / "s.seg") as writer:
        assert writer.path.stat().st_mode & 0o777 == 0o600
        assert writer.path.parent.stat().st_mode & 0o777 == 0o700


def test_a_large_segment_is_read_in_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    data = bytes(32768)
    with SegmentWriter(tmp_path / "s") as writer:
        for n in range(600):
            end = writer.append(frame(piece(data, n * len(data))))
    tracemalloc.start()
    try:
        assert sum(len(p.data) for p in read_segment(tmp_path / "s", 0, end)) == 600 * len(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20

"""Segment files: the output of one run as one worker incarnation stored it. A sequence of OUTPUT frames, append-only.

Owns the file's format, its one writer and its readers; what of it counts is the index of output in the store. A frame
is stored as it came up the mesh (``plush_worker/node/frames.py``): its hosts, the piece's op, stream, flags and offset,
the data. A frame that a crash cut off at the end is cut away when the file is opened for writing again.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from ..node import frames, hostset, messages
from ..node.limits import MAX_FRAME_BYTES
from .errors import SegmentError, SegmentFull

if TYPE_CHECKING:
    from types import TracebackType

_CHUNK_BYTES = 256 << 10
_LENGTH_BYTES = 4
_KIND_AT = 4
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Piece(NamedTuple):
    """One piece of output of several hosts. Flags: messages.END and messages.GAP (then the data is a u64 count)."""

    hosts: int  # node.hostset
    op: int
    stream: int  # messages.STDOUT or STDERR
    flags: int
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """The offset behind the piece, lost bytes of a gap included."""
        if self.flags & messages.GAP:
            return self.offset + int.from_bytes(self.data, "big")
        return self.offset + len(self.data)


class SegmentWriter:
    """The one writer of a segment file; opening it cuts off what a crash left incomplete.

    Raises SegmentError when another writer has the file open, it is damaged, or its folder can't be used.
    """

    def __init__(self, path: str | os.PathLike[str], limit_bytes: int = 0) -> None:
        self.path = Path(path)
        self._limit_bytes = limit_bytes  # 0: none but the disk's
        self._broken = ""
        self._fd = -1
        try:
            self._open()
        except OSError as error:
            self.close()
            raise SegmentError(f"can't write the segment {self.path}: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def append(self, frame: bytes) -> int:
        """Adds one whole OUTPUT frame and returns the new length. Not on disk before ``sync``.

        Raises SegmentFull when there is no room: the file is as before. Raises SegmentError after a failed ``sync`` or
        for a frame that isn't OUTPUT.
        """
        if self._broken:
            raise SegmentError(self._broken)
        length = int.from_bytes(frame[:_LENGTH_BYTES], "big")
        if len(frame) <= _KIND_AT or length + _LENGTH_BYTES != len(frame) or frame[_KIND_AT] != frames.OUTPUT:
            raise SegmentError(f"segment {self.path}: {len(frame)} bytes that are no OUTPUT frame")
        if self._limit_bytes and self.length + len(frame) > self._limit_bytes:
            raise SegmentFull(f"segment {self.path} has {self.length} of at most {self._limit_bytes} bytes")
        try:
            self._write(frame)
        except OSError as error:
            self._cut_back()
            if error.errno in _NO_ROOM:
                raise SegmentFull(
                    f"no room for the output in {self.path}: {error.strerror} at {self.length} bytes; free some space"
                ) from error
            raise SegmentError(f"can't write the segment {self.path}: {error.strerror}") from error
        self.length += len(frame)
        return self.length

    def sync(self) -> int:
        """Puts everything appended on disk (fdatasync, may take long) and returns its length.

        Raises SegmentFull or SegmentError; nothing can be appended after that, since what is on disk is not known.
        """
        if self._broken:
            raise SegmentError(self._broken)
        length = self.length
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._broken = (
                f"the segment {self.path} could not be put on disk: {error.strerror}; nothing more is written"
            )
            raise (SegmentFull if error.errno in _NO_ROOM else SegmentError)(self._broken) from error
        return length

    def close(self) -> None:
        """Closes the file; synced or not."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        new = not self.path.exists()
        if new:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SegmentError(f"the segment {self.path} has another writer") from error
        self.length = _whole_frames(self.path)
        if os.fstat(self._fd).st_size > self.length:
            os.ftruncate(self._fd, self.length)
            os.fdatasync(self._fd)
        if new:
            _sync_folder(self.path.parent)

    def _write(self, frame: bytes) -> None:
        rest = memoryview(frame)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def _cut_back(self) -> None:
        try:
            os.ftruncate(self._fd, self.length)
        except OSError as error:
            self._broken = f"the segment {self.path} could not be cut back to {self.length} bytes: {error.strerror}"


class SegmentIndex(NamedTuple):
    """What a segment file holds: found by reading it whole."""

    length_bytes: int  # of whole frames
    ranges: dict[tuple[int, int, int], list[tuple[int, int]]]  # (host, op, stream) -> [start, end) in order, disjoint
    ended: set[tuple[int, int, int]]  # (host, op, stream) whose last piece is here

    @property
    def offsets(self) -> dict[tuple[int, int, int], int]:
        """(host, op, stream) -> the offset below which nothing is missing, from the first piece here on."""
        return {name: pieces[0][1] for name, pieces in self.ranges.items()}


def read_segment(path: str | os.PathLike[str], start: int, committed: int) -> Iterator[Piece]:
    """The pieces between two offsets that are frame boundaries, in order. Holds one frame and one chunk in memory.

    Raises SegmentError when the file is missing, shorter than ``committed``, or damaged.
    """
    for _, _, frame in _frames(path, start, committed):
        yield _piece(path, frame)


def rebuild(path: str | os.PathLike[str]) -> SegmentIndex:
    """The index of a segment file, from the file alone; an incomplete frame at its end doesn't count.

    Memory grows with the number of distinct (hosts, op, stream), not with the output. Raises SegmentError.
    """
    length = _whole_frames(path)
    by_hosts: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    ended: set[tuple[int, int, int]] = set()
    for piece in read_segment(path, 0, length):
        _add_range(by_hosts.setdefault((piece.hosts, piece.op, piece.stream), []), piece.offset, piece.end)
        if piece.flags & messages.END:
            ended.update((host, piece.op, piece.stream) for host in hostset.members(piece.hosts))
    ranges: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    for (hosts, op, stream), found in by_hosts.items():
        for host in hostset.members(hosts):
            own = ranges.setdefault((host, op, stream), [])
            for first, last in found:
                _add_range(own, first, last)
    return SegmentIndex(length, ranges, ended)


def _add_range(ranges: list[tuple[int, int]], start: int, end: int) -> None:
    """Adds [start, end) to sorted disjoint ranges, in place; cheap where it continues the last one."""
    at = len(ranges)
    while at and ranges[at - 1][0] > end:
        at -= 1
    upper = at
    while at and ranges[at - 1][1] >= start:
        at -= 1
        start, end = min(start, ranges[at][0]), max(end, ranges[at][1])
    ranges[at:upper] = [(start, end)]


_Frame = tuple[int, int, int, bytes, bytes]


def _frames(path: str | os.PathLike[str], start: int, end: int) -> Iterator[tuple[int, int, _Frame]]:
    """(offset, offset behind, frame) of the whole frames in [start, end)."""
    decoder = frames.Decoder()
    at = position = start
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            while position < end:
                data = file.read(min(_CHUNK_BYTES, end - position))
                if not data:
                    raise SegmentError(f"the segment {path} ends at {position} bytes, {end} were committed")
                position += len(data)
                for frame in decoder.feed(data):
                    behind = at + _frame_bytes(frame)
                    yield at, behind, frame
                    at = behind
    except OSError as error:
        raise SegmentError(f"can't read the segment {path}: {error.strerror}") from error
    except frames.FrameError as error:
        raise SegmentError(f"the segment {path} is damaged at byte {at}: {error}") from error
    if at != end:
        raise SegmentError(f"the segment {path} has no frame boundary at byte {end}, only at {at}")


def _frame_bytes(frame: _Frame) -> int:
    return len(frames.encode(frame[0], frame[3], b"")) + len(frame[4])


def _piece(path: str | os.PathLike[str], frame: _Frame) -> Piece:
    kind, _, _, hosts, body = frame
    if kind != frames.OUTPUT:
        raise SegmentError(f"the segment {path} is damaged: it has a {frames.NAMES[kind]} frame")
    try:
        op, stream, flags, offset = messages.decode_output(body)
        return Piece(hostset.decode(hosts), op, stream, flags, offset, body[messages.OUTPUT_HEADER_BYTES :])
    except (messages.MessageError, hostset.HostSetError) as error:
        raise SegmentError(f"the segment {path} is damaged: {error}") from error


def _whole_frames(path: str | os.PathLike[str]) -> int:
    """The length of the whole frames of a file, read header by header. Raises SegmentError when it isn't a segment."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while size - at > _KIND_AT:
            file.seek(at)
            header = file.read(_KIND_AT + 1)
            length = int.from_bytes(header[:_LENGTH_BYTES], "big")
            if length > MAX_FRAME_BYTES or header[_KIND_AT] != frames.OUTPUT:
                raise SegmentError(f"the segment {path} is damaged at byte {at}: no OUTPUT frame begins there")
            if at + _LENGTH_BYTES + length > size:
                break
            at += _LENGTH_BYTES + length
        return at


def _sync_folder(folder: Path) -> None:
    """Puts a new file's name on disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

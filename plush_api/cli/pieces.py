"""Output kept back: bytes per set of hosts, shared where equal, in memory up to a limit and then in a temporary file.

Hosts with the same output so far share one ``Track``; a track is split when only some of its hosts get more. So 489
hosts that print the same megabyte cost one megabyte. Must not know how the bytes are shown. Entry point: ``Tracks``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from plush_worker.node import hostset

MEMORY_BYTES = 32 << 20  # per Tracks; what comes beyond goes to the temporary file
CHUNK_BYTES = 1 << 16

Piece = bytes | tuple[int, int]  # the bytes, or (position, length) in the temporary file


class Track:
    """What a set of hosts has printed and not been shown yet."""

    __slots__ = ("hosts", "in_file_bytes", "in_memory_bytes", "pieces")

    def __init__(self, hosts: int) -> None:
        self.hosts = hosts
        self.pieces: list[Piece] = []
        self.in_memory_bytes = self.in_file_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Length of the content."""
        return self.in_memory_bytes + self.in_file_bytes


class Tracks:
    """All tracks of one stream. A host is on one track, from when it is first mentioned until it is dropped."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_limit_bytes = memory_bytes
        self._in_memory_bytes = self._in_file_bytes = self._file_end = 0
        self._file = -1
        self._hosts = 0
        self._track_of: dict[int, Track] = {}

    def cover(self, hosts: int) -> list[Track]:
        """The tracks that together hold exactly ``hosts``; those that hold others besides are split."""
        found = []
        new = hosts & ~self._hosts
        if new:
            found.append(self._adopt(Track(new)))
            self._hosts |= new
        hosts &= ~new
        while hosts:
            track = self._track_of[hostset.lowest(hosts)]
            common = track.hosts & hosts
            found.append(track if common == track.hosts else self._split(track, common))
            hosts &= ~common
        return found

    def append(self, hosts: int, data: bytes) -> None:
        """Keep ``data`` for each of ``hosts``. Raises OSError when the temporary file can't take it."""
        for track in self.cover(hosts):
            self.extend(track, data)

    def extend(self, track: Track, data: bytes) -> None:
        """Keep ``data`` for a track of ``cover``. Raises OSError when the temporary file can't take it."""
        if self._in_memory_bytes + len(data) <= self._memory_limit_bytes:
            track.pieces.append(data)
            track.in_memory_bytes += len(data)
            self._in_memory_bytes += len(data)
            return
        position = self._write(data)
        last = track.pieces[-1] if track.pieces else b""
        if isinstance(last, tuple) and last[0] + last[1] == position:
            track.pieces[-1] = (last[0], last[1] + len(data))
        else:
            track.pieces.append((position, len(data)))
        track.in_file_bytes += len(data)
        self._in_file_bytes += len(data)

    def chunks(self, track: Track) -> Iterator[bytes]:
        """The content, in pieces of moderate size."""
        for piece in track.pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            position, left = piece
            while left:
                data = os.pread(self._file, min(left, CHUNK_BYTES), position)
                if not data:
                    raise OSError(f"the temporary file for output was cut short at {position}")
                yield data
                position += len(data)
                left -= len(data)

    def clear(self, track: Track) -> None:
        """Forget the content; the hosts stay on the track."""
        self._in_memory_bytes -= track.in_memory_bytes
        self._in_file_bytes -= track.in_file_bytes
        track.pieces = []
        track.in_memory_bytes = track.in_file_bytes = 0
        if self._file >= 0 and not self._in_file_bytes:
            os.ftruncate(self._file, 0)
            self._file_end = 0

    def drop(self, hosts: int) -> None:
        """Forget hosts and what only they printed."""
        for track in self.cover(hosts & self._hosts):
            self.clear(track)
            for number in hostset.members(track.hosts):
                del self._track_of[number]
        self._hosts &= ~hosts

    def all(self) -> list[Track]:
        """Every track, by its lowest host."""
        return self.cover(self._hosts)

    def close(self) -> None:
        """Give the temporary file back."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _adopt(self, track: Track) -> Track:
        for number in hostset.members(track.hosts):
            self._track_of[number] = track
        return track

    def _split(self, track: Track, part: int) -> Track:
        other = Track(part)
        other.pieces = list(track.pieces)
        other.in_memory_bytes, other.in_file_bytes = track.in_memory_bytes, track.in_file_bytes
        self._in_memory_bytes += other.in_memory_bytes  # counted twice though shared: the limit errs to the safe side
        self._in_file_bytes += other.in_file_bytes
        track.hosts &= ~part
        return self._adopt(other)

    def _write(self, data: bytes) -> int:
        if self._file < 0:
            self._file = _open_temporary()
        position, view = self._file_end, memoryview(data)
        while view:
            written = os.pwrite(self._file, view, self._file_end)
            self._file_end += written
            view = view[written:]
        return position


def _open_temporary() -> int:
    """An unlinked file in the folder for temporary files; it vanishes with its descriptor."""
    import tempfile

    descriptor, path = tempfile.mkstemp(prefix="plush-output-")
    os.unlink(path)
    return descriptor

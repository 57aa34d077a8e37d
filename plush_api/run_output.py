"""The output of runs as text: read from segment files, put in order, by host or of all hosts with names before lines.

Owns finding segment files and reading them off the loop. Memory doesn't grow with the output. Entry points:
``SegmentFiles``, ``OutputText``.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from itertools import islice
from pathlib import Path

from plush_api.cli.output import Assembler
from plush_api.cli.view import Outcome
from plush_api.client import SegmentMissing
from plush_worker.errors import PlushError
from plush_worker.node import hostset
from plush_worker.node.messages import STDERR, STDOUT
from plush_worker.store.segments import Piece, read_segment
from plush_worker.store.service import ServiceStore

from .run_folds import RunFold

CHUNK_BYTES = 256 << 10
SHARED_BYTES, SHARED_STRETCHES = 128 << 10, 64  # remembered for several followers: together at most 8 MiB
PIECES_AT_ONCE = 32  # up to 1 MiB
LINE_BYTES = 8 << 10  # a longer line is broken, so that unfinished lines of many hosts stay small
STREAMS = {"stdout": (STDOUT,), "stderr": (STDERR,), "both": (STDOUT, STDERR)}


class SegmentFiles:
    """Finds and reads the segment files that this process can reach."""

    def __init__(self, store: ServiceStore, state_dir: Path) -> None:
        self._store = store
        self._state_dir = str(state_dir)
        self._recent: OrderedDict[tuple[str, str, int, int], asyncio.Task[list[Piece]]] = OrderedDict()

    async def path(self, run_id: str, segment: str) -> str:
        """Where a segment is. Raises SegmentMissing when no worker's state folder that we can see has it."""
        if os.path.basename(segment) != segment or not segment:
            raise SegmentMissing(f"segment {segment!r} of run {run_id} has a path for a name")
        folders = [self._state_dir]
        if (found := _existing(folders, run_id, segment)) is None:
            folders += [w.state_dir for w in await self._store.live_workers() if w.state_dir not in folders]
            found = _existing(folders, run_id, segment)
        if found is None:
            raise SegmentMissing(
                f"output of run {run_id} is in {segment}, which the API can't see (looked under {', '.join(folders)}): "
                "workers and API need the same state folder (one machine, or PLUSH_STATE_DIR on a shared volume)"
            )
        return found

    async def raw(self, run_id: str, segment: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes of a segment from ``start`` to ``end``, in chunks. Raises SegmentMissing."""
        path = await self.path(run_id, segment)
        while start < end:
            data = await asyncio.to_thread(_read_at, path, start, min(CHUNK_BYTES, end - start))
            if not data:
                raise SegmentMissing(f"the segment {path} ends at {start} bytes, {end} were committed")
            start += len(data)
            yield data

    async def pieces(self, run_id: str, segment: str, start: int, end: int) -> AsyncIterator[list[Piece]]:
        """The pieces of a segment between two committed lengths, some at a time.

        Raises SegmentMissing, SegmentError.
        """
        if end - start <= SHARED_BYTES:
            yield await self._shared_pieces(run_id, segment, start, end)
            return
        found = read_segment(await self.path(run_id, segment), start, end)
        while some := await asyncio.to_thread(_take, found):
            yield some

    async def _shared_pieces(self, run_id: str, segment: str, start: int, end: int) -> list[Piece]:
        """The pieces of a short stretch, read once for all who follow the run and so ask for the same."""

        async def read() -> list[Piece]:
            path = await self.path(run_id, segment)
            return await asyncio.to_thread(lambda: list(read_segment(path, start, end)))

        key = (run_id, segment, start, end)
        task = self._recent.get(key)
        if task is None:
            task = self._recent[key] = asyncio.create_task(read())
            while len(self._recent) > SHARED_STRETCHES:
                self._recent.popitem(last=False)
        try:
            return await asyncio.shield(task)
        except PlushError:
            self._recent.pop(key, None)  # the next one tries again
            raise


class OutputText:
    """Makes text of the pieces of one run. ``add`` them, then take what has become of them with ``drain``."""

    def __init__(
        self, fold: RunFold, *, host: int | None, streams: tuple[int, ...], ops: frozenset[int] | None,
        first_byte: int = 0, end_byte: int | None = None,
    ) -> None:  # fmt: skip
        self.names = fold.names  # host number -> name; may be given later, before there is output
        self._host = host
        self._streams = streams
        self.ops = ops  # None: all; may grow while the run goes on
        self._at, self._first, self._end = 0, first_byte, end_byte
        self._out: list[bytes] = []
        self.waiting_bytes = 0  # to be drained
        self._lines: dict[tuple[int, int], bytes] = {}  # (host, stream) -> unfinished line
        self._assembler = Assembler(self)

    @property
    def complete(self) -> bool:
        """Whether the wanted range is all there."""
        return self._end is not None and self._at >= self._end

    def add(self, piece: Piece) -> None:
        """One piece of any segment, doubles included."""
        hosts = piece.hosts if self._host is None else piece.hosts & 1 << self._host
        if hosts and piece.stream in self._streams and (self.ops is None or piece.op in self.ops):
            self._assembler.record(hosts, piece.op, piece.stream, piece.flags, piece.offset, piece.data)

    def drain(self) -> bytes:
        """The text since the last call."""
        text = b"".join(self._out)
        self._out.clear()
        self.waiting_bytes = 0
        return text

    def end(self) -> None:
        """Nothing more comes: what waits for a piece that never came follows its hole."""
        self._assembler.flush(-1)
        for (number, stream), line in self._lines.items():
            self._put(self._prefix(number, stream) + line + b"\n")
        self._lines.clear()

    # What the assembler calls

    def output(self, hosts: int, stream: int, data: bytes) -> None:
        """The next bytes of some hosts."""
        if self._host is not None:
            first, last = max(0, self._first - self._at), len(data)
            if self._end is not None:
                last = min(last, self._end - self._at)
            self._at += len(data)
            if first < last:
                self._put(data[first:last])
            return
        for number in hostset.members(hosts):
            self._add_lines(number, stream, data)

    def gap(self, hosts: int, stream: int, lost_bytes: int) -> None:
        """Told in the text where lines have names; a host's own bytes stay as they are, but for their positions."""
        if self._host is not None:
            self._at += lost_bytes
            return
        for number in hostset.members(hosts):
            self._put(self._prefix(number, stream) + b"[%d bytes were lost]\n" % lost_bytes)

    def ended(self, outcome: Outcome) -> None:
        """Of no interest here."""

    def finish(self) -> None:
        """Of no interest here."""

    def _add_lines(self, number: int, stream: int, data: bytes) -> None:
        *whole, rest = (self._lines.pop((number, stream), b"") + data).split(b"\n")
        prefix = self._prefix(number, stream)
        if whole:
            self._put(prefix + (b"\n" + prefix).join(whole) + b"\n")
        while len(rest) > LINE_BYTES:
            self._put(prefix + rest[:LINE_BYTES] + b"\n")
            rest = rest[LINE_BYTES:]
        if rest:
            self._lines[number, stream] = rest

    def _put(self, text: bytes) -> None:
        self._out.append(text)
        self.waiting_bytes += len(text)

    def _prefix(self, number: int, stream: int) -> bytes:
        name = self.names.get(number, f"#{number}")
        mark = " (stderr)" if stream == STDERR and len(self._streams) > 1 else ""
        return f"{name}{mark}: ".encode("utf-8", "replace")


async def read_new(
    files: SegmentFiles, run_id: str, committed: Mapping[str, int], read: dict[str, int], text: OutputText
) -> AsyncIterator[bytes]:
    """The text of what is committed beyond ``read`` (segment -> bytes), which is brought up to date."""
    for segment, length in sorted(committed.items()):
        start = read.get(segment, 0)
        if length <= start:
            continue
        async for pieces in files.pieces(run_id, segment, start, length):
            for piece in pieces:
                text.add(piece)
                if text.waiting_bytes > CHUNK_BYTES:  # of a thousand hosts one piece can make 32 MiB
                    yield text.drain()
                if text.complete:
                    break
            if text.waiting_bytes:
                yield text.drain()
            if text.complete:
                return
        read[segment] = length


def _existing(folders: list[str], run_id: str, segment: str) -> str | None:
    paths = (f"{folder}/runs/{run_id}/{segment}" for folder in folders if folder)
    return next((path for path in paths if os.path.exists(path)), None)


def _read_at(path: str, start: int, count: int) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            return file.read(count)
    except OSError as error:
        raise SegmentMissing(f"can't read the segment {path}: {error.strerror}") from error


def _take(pieces: Iterator[Piece]) -> list[Piece]:
    return list(islice(pieces, PIECES_AT_ONCE))

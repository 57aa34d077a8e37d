"""What is sent to the standard input of an op: a blob, or for a deploy the records of its files around their blobs.

Nothing is copied: the records are made anew wherever they are needed, the contents are read from the blobs. Blocks,
where the disk does: call ``read`` off the mesh thread. Entry point: ``open_source``.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from plush_worker.blobs import BlobMissing, BlobStore
from plush_worker.model import OpRecord
from plush_worker.node import files
from plush_worker.node.limits import OUTPUT_CUT_BYTES

BLOCK_BYTES = 8 * OUTPUT_CUT_BYTES  # read at a time; no piece lies in two
BLOCKS_KEPT = 32  # of all ops: subtrees, and hosts in them, are not equally far


class StdinSource:
    """Parts behind each other: bytes, or (path, size in bytes) of a file that doesn't change."""

    def __init__(self, parts: Iterable[bytes | tuple[Path, int]]) -> None:
        self._parts: list[bytes | tuple[Path, int]] = []
        self._starts: list[int] = []
        self.size_bytes = 0
        for part in parts:
            size = len(part) if isinstance(part, bytes) else part[1]
            if size:
                self._parts.append(part)
                self._starts.append(self.size_bytes)
                self.size_bytes += size

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``, less only at the end. Raises OSError, BlobMissing."""
        found, end = bytearray(), min(offset + size, self.size_bytes)
        at = bisect_right(self._starts, offset) - 1
        while offset < end:
            part, skip = self._parts[at], offset - self._starts[at]
            if isinstance(part, bytes):
                data = part[skip : skip + end - offset]
            else:
                data = _read_file(part[0], skip, min(part[1] - skip, end - offset))
            found += data
            offset += len(data)
            at += 1
        return bytes(found)


def _read_file(path: Path, offset: int, size: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        data = b""
        while len(data) < size:
            more = file.read(size - len(data))
            if not more:
                raise BlobMissing(f"blob {path} has {offset + len(data)} bytes, less than it had")
            data += more
    return data


def open_source(record: OpRecord, blobs: BlobStore) -> StdinSource | None:
    """The standard input of an op; None where it has none. Raises BlobMissing, BlobRefused."""
    if record.kind == "deploy":
        return StdinSource(_records(record.files, blobs))
    if record.stdin:
        return StdinSource([(blobs.path(record.stdin), blobs.size(record.stdin))])
    return None


class StdinSources:
    """The standard inputs of the ops of one mesh, read ahead a little. All methods on the mesh loop."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._sources: dict[int, StdinSource] = {}
        self._blocks: OrderedDict[tuple[int, int], bytes] = OrderedDict()  # (op, block) -> bytes, the last used last

    def open(self, record: OpRecord) -> int | None:
        """The size in bytes of the op's standard input; None where it has none. Raises BlobMissing, BlobRefused."""
        source = open_source(record, self._blobs)
        if source is None:
            return None
        self._sources[record.op] = source
        return source.size_bytes

    async def read(self, op: int, offset: int, size: int) -> bytes:
        """A piece of an op that was opened. Raises OSError, BlobMissing."""
        number, start = divmod(offset, BLOCK_BYTES)
        block = self._blocks.pop((op, number), None)
        if block is None:
            block = await asyncio.to_thread(self._sources[op].read, number * BLOCK_BYTES, BLOCK_BYTES)
        self._blocks[op, number] = block
        if len(self._blocks) > BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return block[start : start + size]

    def keep(self, ops: Container[int]) -> None:
        """Forget all others."""
        for op in [op for op in self._sources if op not in ops]:
            del self._sources[op]
        for key in [key for key in self._blocks if key[0] not in ops]:
            del self._blocks[key]


def _records(entries: Iterable[Mapping[str, Any]], blobs: BlobStore) -> Iterable[bytes | tuple[Path, int]]:
    for entry in entries:
        digest, size, more = entry["sha256"], 0, {}
        if entry["kind"] == files.FILE:
            size = blobs.size(digest)
            if size != entry["size"]:
                raise BlobMissing(f"blob {digest} for {entry['dest']} has {size} bytes, not {entry['size']}")
        if entry.get("hosts") is not None:
            more = {"hosts": list(entry["hosts"])}
        path, target = os.fsencode(entry["dest"]), os.fsencode(entry.get("target", ""))
        yield files.encode_record(path, entry["kind"], entry["mode"], size, bytes.fromhex(digest), target, **more)
        if size:
            yield blobs.path(digest), size

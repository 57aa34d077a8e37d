"""Sends the standard input of ops: a mesh's pieces to its links, as fast as the hosts' windows and the links take them.

The state says which piece goes where (``stdin_feed.py``), the sources what is in it; this only waits, reads and sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping

from plush_worker.blobs import BlobMissing, BlobStore
from plush_worker.mesh.root_link import RootLink
from plush_worker.mesh.state import MeshState
from plush_worker.mesh.stdin_feed import Piece
from plush_worker.mesh.stdin_source import StdinSources
from plush_worker.node import frames, hostset, stdin

logger = logging.getLogger(__name__)

DISK_RETRY_S = 1.0


class StdinSender:
    """For one mesh: ``links`` are those to its subtree roots. Set ``due`` when more may go than before."""

    def __init__(self, state: MeshState, links: Mapping[int, RootLink], blobs: BlobStore) -> None:
        self.due = asyncio.Event()
        self.sources = StdinSources(blobs)
        self._state = state
        self._links = links

    async def run(self) -> None:
        """For ever."""
        while True:
            self.due.clear()
            while await self._send_each():
                pass
            wake_at_s = self._state.stdin_wakes_at_s()
            wait_s = None if wake_at_s is None else max(0.0, wake_at_s - time.monotonic())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.due.wait(), wait_s)

    async def _send_each(self) -> bool:
        """At most one piece of every op to every subtree, in turn; whether there was one."""
        was_any = False
        for root, link in list(self._links.items()):
            for op, piece in list(self._state.next_stdin(root, time.monotonic())) if link.takes_bulk() else ():
                was_any = True
                data = await self._read(op, piece)
                epoch = self._state.table.epochs.get(root)
                if data is not None and epoch is not None and self._links.get(root) is link:
                    body = stdin.encode(op, piece.offset, data, stdin.END if piece.end else 0)
                    link.send_bulk(frames.encode(frames.STDIN, hostset.encode(piece.hosts), body, epoch))
        return was_any

    async def _read(self, op: int, piece: Piece) -> bytes | None:
        """None: the op is over."""
        while op in self._state.traffic.ops:
            try:
                return await self.sources.read(op, piece.offset, piece.length)
            except (BlobMissing, OSError) as error:
                logger.error("the input of op %s can't be read: %s: tried again in %s s", op, error, DISK_RETRY_S)
                await asyncio.sleep(DISK_RETRY_S)
        return None

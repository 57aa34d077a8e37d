"""``Store``: everything that workers keep in Redis, over asyncio. Made of one mixin for each family of keys."""

from __future__ import annotations

from typing import Self

from . import keys
from .connection import Connection
from .events import Events
from .meshes import Meshes
from .ops import Ops
from .output import OutputIndex
from .records import milliseconds, text_of, token
from .runs import Runs
from .subtrees import Subtrees
from .workers import WorkerLeases


class Store(WorkerLeases, Meshes, Subtrees, Runs, Events, Ops, OutputIndex):
    """A client of one Redis data set, whose random name is ``identity``. For one event loop.

    Every method raises StoreUnavailable when the server doesn't answer (a broken connection is tried again for 0.7 s
    first), and StoreFull when it refuses to store. All times are Redis's.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.identity = ""

    @classmethod
    async def connect(cls, url: str) -> Self:
        """A store at ``redis://``, ``rediss://`` or ``unix://`` URL. Raises BadStoreURL, StoreUnavailable."""
        store = cls(Connection.to(url))
        try:
            store.identity = await store._read_identity()
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Ends all connections."""
        await self._connection.close()

    async def same_data(self) -> bool:
        """Whether the server still has the data set that this store was connected to."""
        return self.identity == await self._read_identity()

    async def sync(self, replicas: int = 0, timeout_s: float = 2.0) -> int:
        """How many replicas have confirmed everything stored so far; waits for ``replicas`` of them, at most timeout_s.

        Without replicas it costs nothing and returns 0.
        """
        if replicas <= 0:
            return 0
        # WAIT concerns what its own connection wrote: the SET stands behind everything that any connection wrote.
        replies = await self._connection.pipeline(
            [("SET", keys.SYNC, "1"), ("WAIT", replicas, milliseconds(timeout_s))], "waiting for replicas"
        )
        return int(replies[1])

    async def _read_identity(self) -> str:
        return text_of(await self._connection.run("identity", [keys.STORE], [token()], "connecting"))

"""Leases of workers: who is there, by Redis's clock."""

from __future__ import annotations

from ..model import WorkerInfo
from . import keys
from .connection import Connection
from .records import milliseconds


class WorkerLeases:
    """The part of Store about workers."""

    _connection: Connection
    identity: str

    async def _read_identity(self) -> str:
        raise NotImplementedError

    async def register_worker(self, info: WorkerInfo, ttl_s: float) -> None:
        """Takes the lease of ``info.name``, also from an earlier incarnation: that one's next renewal says no.

        Binds to the data set that is there now (``identity``).
        """
        self.identity = await self._read_identity()
        await self._connection.run(
            "register_worker",
            [keys.worker(info.name), keys.WORKERS],
            [info.name, info.incarnation, info.to_json(), milliseconds(ttl_s)],
            f"registering worker {info.name}",
        )

    async def renew_worker(self, info: WorkerInfo, ttl_s: float) -> bool:
        """Whether the lease is still this incarnation's; then it lasts ttl_s from now and shows ``info``.

        False: it ran out, another incarnation took it, or Redis lost its data: stop acting, register again.
        """
        return bool(
            await self._connection.run(
                "renew_worker",
                [keys.worker(info.name), keys.STORE],
                [info.incarnation, info.to_json(), milliseconds(ttl_s), self.identity],
                f"renewing the lease of worker {info.name}",
            )
        )

    async def remove_worker(self, name: str, incarnation: str) -> bool:
        """Gives the lease up; False when another incarnation holds it."""
        reply = await self._connection.run(
            "remove_worker", [keys.worker(name), keys.WORKERS], [name, incarnation], f"removing worker {name}"
        )
        return bool(reply)

    async def live_workers(self) -> list[WorkerInfo]:
        """The workers whose lease lives, by name."""
        reply = await self._connection.run("live_workers", [keys.WORKERS, keys.worker("")], (), "listing the workers")
        return [WorkerInfo.from_json(info) for info in reply]

"""Ops: numbered, stored and announced in one step, before they are first sent (promise P1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..model import OpRecord
from . import keys, limits
from .connection import Connection
from .records import encode_event, encode_json, limited, token


class Ops:
    """The part of Store about ops."""

    _connection: Connection

    async def order_op(
        self, mesh: str, op: OpRecord, term: int, event: Mapping[str, Any], request: str | None = None
    ) -> int:
        """The new op's number, drawn from the mesh counter; stores ``op`` and appends ``event``, both with the number.

        The number stands in their field ``op``. ``request`` names the step of the run that this op is for: ordered
        again under that name, also by a later coordinator, the op that there is keeps its number and nothing is stored.
        Raises NoSuchRun, NoSuchMesh, Fenced, TooLarge.
        """
        record = {name: value for name, value in asdict(op).items() if name != "op"}
        announced = {name: value for name, value in event.items() if name != "op"}
        reply = await self._connection.run(
            "order_op",
            [
                *(family(op.run_id) for family in (keys.run, keys.run_ops, keys.run_orders, keys.run_events)),
                keys.mesh(mesh),
            ],
            [
                request or token(),
                *(term, limits.MAX_OPS, limits.MAX_STREAM_EVENTS),
                "," + limited(encode_json(record), limits.MAX_FIELD_BYTES, "op")[1:],
                "," + encode_event(announced)[1:],
            ],
            f"ordering an op of run {op.run_id}",
        )
        return int(reply)

    async def ops(self, run_id: str) -> list[OpRecord]:
        """The ops of the run, in the order of their numbers."""
        reply = await self._connection.command("HVALS", keys.run_ops(run_id), what=f"reading the ops of run {run_id}")
        return sorted((OpRecord.from_json(text) for text in reply), key=lambda op: op.op)

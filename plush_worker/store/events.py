"""The event stream of a run, and the snapshot behind which it is trimmed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from . import keys, limits
from .connection import ATTEMPT, Argument, Connection
from .records import decode_events, encode_event, encode_json, limited, text_of, token


class Events:
    """The part of Store about events. An event is a JSON mapping with a ``type``, at most 256 KiB."""

    _connection: Connection

    async def append(self, run_id: str, event: Mapping[str, Any], term: int | None = None) -> str:
        """The id of the event, now the last of the run's stream. With ``term``, as that coordinator.

        Raises NoSuchRun, Fenced when the term isn't the last one, TooLarge.
        """
        return await self._append(run_id, [event], term, ())

    async def append_all(self, run_id: str, events: Sequence[Mapping[str, Any]], term: int | None = None) -> str:
        """Appends several, all or none, next to each other; the id of the last ('' for none)."""
        return await self._append(run_id, events, term, ()) if events else ""

    async def append_worker(
        self,
        run_id: str,
        mesh: str,
        event: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        held: Mapping[int, int] | None = None,
    ) -> str:
        """Appends as a worker: one event or several. ``held`` maps subtree root -> epoch, all of which must still hold.

        Raises NoSuchRun, Fenced when one doesn't, TooLarge.
        """
        events = [event] if isinstance(event, Mapping) else event
        owned: list[Argument] = [value for pair in (held or {}).items() for value in pair]
        return await self._append(run_id, events, None, owned, mesh)

    async def read_events(
        self, run_id: str, after: str, block_ms: int = 0, count: int = limits.MAX_READ_EVENTS
    ) -> list[tuple[str, dict[str, Any]]]:
        """Up to ``count`` (id, event) behind id ``after`` ("0": from the first), in order.

        When there is none, waits up to block_ms (at most 10 s) for one. Empty for a run that is gone.
        """
        count = min(count, limits.MAX_READ_EVENTS)
        return decode_events(await self._connection.read_stream(keys.run_events(run_id), after, block_ms, count))

    async def last_event_id(self, run_id: str) -> str:
        """The id of the newest event; "0" when there is none."""
        reply = await self._connection.command(
            "XREVRANGE", keys.run_events(run_id), "+", "-", "COUNT", 1, what=f"events of run {run_id}"
        )
        return text_of(reply[0][0]) if reply else "0"

    async def trim_events(self, run_id: str, before_id: str) -> int:
        """Forgets the events before ``before_id`` (which stays); how many."""
        reply = await self._connection.command(
            "XTRIM", keys.run_events(run_id), "MINID", before_id, what=f"trimming events of run {run_id}"
        )
        return int(reply)

    async def save_snapshot(self, run_id: str, term: int, event_id: str, data: Mapping[str, Any]) -> None:
        """Stores what the events up to ``event_id`` fold into. Raises NoSuchRun, Fenced, TooLarge."""
        text = limited(encode_json(dict(data)), limits.MAX_SNAPSHOT_BYTES, f"snapshot of run {run_id}")
        await self._connection.run(
            "save_snapshot",
            [keys.run(run_id), keys.run_snapshot(run_id)],
            [term, event_id, text],
            f"storing the snapshot of run {run_id}",
        )

    async def load_snapshot(self, run_id: str) -> tuple[str, dict[str, Any]] | None:
        """(id of the last event folded in, what they fold into); None when there is none."""
        event_id, text = await self._connection.command(
            "HMGET", keys.run_snapshot(run_id), "event", "data", what=f"reading the snapshot of run {run_id}"
        )
        return None if event_id is None else (text_of(event_id), json.loads(text))

    async def _append(
        self,
        run_id: str,
        events: Sequence[Mapping[str, Any]],
        term: int | None,
        held: Sequence[Argument],
        mesh: str = "",
    ) -> str:
        arguments: list[Argument] = [token(), ATTEMPT, limits.MAX_STREAM_EVENTS, "" if term is None else term]
        arguments += [len(events), *(encode_event(e) for e in events), *held]
        reply = await self._connection.run(
            "append",
            [keys.run(run_id), keys.run_events(run_id), keys.subtree(mesh, "")],
            arguments,
            f"appending to run {run_id}",
        )
        return text_of(reply) if reply else ""

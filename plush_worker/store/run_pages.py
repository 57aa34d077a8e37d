"""Runs as the API looks at them: one run's short fields, pages of a list, events as they are stored.

Every reply is bounded: fields are named, a page looks at ``SCAN_RUNS`` runs at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import keys, limits
from .connection import Connection
from .records import text_of

HEAD_FIELDS = (
    "owner", "name", "kind", "command", "slice", "state", "submitted_at", "finished", "summary", "host_count", "mesh",
    "worker", "keep_s",
)  # fmt: skip
SCAN_RUNS = 500  # looked at by one call, so that no script holds the server up


@dataclass(frozen=True, slots=True)
class RunPage:
    """Some runs, newest first, and where to go on: ("", "") when there are no more."""

    runs: list[dict[str, str]]
    next_score: str
    next_id: str


class RunPages:
    """The part of the store about looking at runs."""

    _connection: Connection

    async def run_head(self, run_id: str) -> dict[str, str] | None:
        """The short fields of a run (HEAD_FIELDS, those that are set) and ``run_id``; None when there is none."""
        reply = await self._connection.command(
            "HMGET", keys.run(run_id), "term", *HEAD_FIELDS, what=f"reading run {run_id}"
        )
        return None if reply[0] is None else _head(run_id, reply[1:])

    async def find_runs(
        self, *, owner: str = "", name: str = "", end: str = "", after: tuple[str, str] = ("", ""), limit: int = 100
    ) -> RunPage:
        """The newest runs behind ``after`` (a page's next) with that owner, that name and that end.

        Empty: any. ``end`` is ``open`` (none yet), ``ended``, or the final state. A page may have fewer runs than
        ``limit`` and still a next one.
        """
        reply = await self._connection.run(
            "find_runs",
            [keys.RUNS, keys.run("")],
            [after[0] or "+inf", after[1], limit, SCAN_RUNS, owner, name, end, *HEAD_FIELDS],
            "listing runs",
        )
        score, last, *found = reply
        return RunPage([_head(text_of(run_id), values) for run_id, *values in found], text_of(score), text_of(last))

    async def raw_events(self, run_id: str, after: str, block_ms: int, count: int) -> list[tuple[str, bytes]]:
        """Up to ``count`` (id, JSON of the event) behind ``after``; waits for the first up to ``block_ms``."""
        count = min(count, limits.MAX_READ_EVENTS)
        entries = await self._connection.read_stream(keys.run_events(run_id), after, block_ms, count)
        return [(text_of(entry_id), _event_of(values)) for entry_id, values in entries]

    async def queued(self, queue: str) -> int:
        """How many Celery messages wait in a queue."""
        return int(await self._connection.command("LLEN", queue, what=f"length of queue {queue}"))


def _head(run_id: str, values: Sequence[bytes | None]) -> dict[str, str]:
    pairs = zip(HEAD_FIELDS, values, strict=True)
    return {"run_id": run_id, **{name: text_of(value) for name, value in pairs if value is not None}}


def _event_of(values: Any) -> bytes:
    event: bytes = values[b"e"] if isinstance(values, dict) else values[1]
    return event

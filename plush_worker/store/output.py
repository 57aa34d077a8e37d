"""The index of output: how much of which segment is written and synced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import keys, limits
from .connection import ATTEMPT, Argument, Connection
from .records import encode_event, text_of, token


class OutputIndex:
    """The part of Store about output. The bytes themselves are in segment files (segments.py)."""

    _connection: Connection

    async def commit_output(
        self,
        run_id: str,
        segment: str,
        length_bytes: int,
        incarnation: str,
        events: Sequence[Mapping[str, Any]] = (),
    ) -> int:
        """Notes that ``length_bytes`` of ``segment`` are on disk, and appends ``events`` that rest on it; in one step.

        Returns what is committed now: it only grows. A segment belongs to the incarnation that committed it first.
        Raises NoSuchRun, Fenced for another incarnation, TooLarge.
        """
        arguments: list[Argument] = [segment, length_bytes, incarnation, limits.MAX_SEGMENTS, limits.MAX_STREAM_EVENTS]
        arguments += [token(), ATTEMPT, *(encode_event(e) for e in events)]
        reply = await self._connection.run(
            "commit_output",
            [family(run_id) for family in (keys.run, keys.run_output, keys.run_writers, keys.run_events)],
            arguments,
            f"committing output of run {run_id}",
        )
        return int(reply)

    async def committed(self, run_id: str) -> dict[str, int]:
        """segment -> committed bytes."""
        reply = await self._connection.command("HGETALL", keys.run_output(run_id), what=f"output of run {run_id}")
        return {text_of(segment): int(length) for segment, length in reply.items()}

"""What keeps a submission from making two runs, or one too many: idempotency keys, and each owner's open runs.

A key belongs to its owner and is kept ``KEPT_S`` from its first use. ``claim`` before the run is stored gives the id
under which to store it, ``settle`` after it; whoever repeats the request in between, or after a crash, gets the same
id, and storing a run twice under one id stores it once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ..errors import UserError
from . import keys, service_keys
from .connection import Connection
from .records import milliseconds, text_of

KEPT_S = 86_400.0
_UNSTORED_S = 60.0  # an admitted run that isn't stored by then never will be


class TooManyRuns(UserError):
    """The owner has as many open runs as one may have."""

    code = "too_many_runs"
    retryable = True


@dataclass(frozen=True, slots=True)
class Claim:
    """What an idempotency key stands for."""

    run_id: str
    body: str  # digest of the request that used the key first
    stored: bool  # the run was stored once; it may have been removed since


class Submissions:
    """The part of the store about submissions."""

    _connection: Connection

    async def claimed(self, owner: str, key: str) -> Claim | None:
        """What the key stands for; None when it was never used, or long ago."""
        reply = await self._connection.command(
            "HMGET", _key(owner, key), "run", "body", "made", what="looking an idempotency key up"
        )
        return None if reply[0] is None else _claim(reply)

    async def claim(self, owner: str, key: str, body: str, run_id: str) -> Claim:
        """What the key stands for, which is ``run_id`` and ``body`` when it was free. ``body`` is a digest."""
        reply = await self._connection.run(
            "claim_key", [_key(owner, key)], [run_id, body, milliseconds(KEPT_S)], "claiming an idempotency key"
        )
        return _claim(reply)

    async def settle(self, owner: str, key: str) -> None:
        """The run of the key has been stored."""
        await self._connection.run("settle_key", [_key(owner, key)], (), "settling an idempotency key")

    async def admit_run(self, owner: str, run_id: str, limit: int) -> int:
        """Counts a run that is about to be stored among the owner's open ones; how many those are. Repeatable.

        Runs that came another way (``plush run`` without the API) aren't counted. Raises TooManyRuns.
        """
        reply = await self._connection.run(
            "admit_run",
            [service_keys.open_runs(owner), keys.run("")],
            [run_id, limit, milliseconds(_UNSTORED_S)],
            f"admitting run {run_id}",
        )
        if int(reply) < 0:
            raise TooManyRuns(f"{owner} has {-int(reply)} open runs, and may have {limit}: wait for some, or kill them")
        return int(reply)


def _key(owner: str, key: str) -> str:
    digest = hashlib.sha256(f"{len(owner)}:{owner}:{key}".encode("utf-8", "surrogateescape")).hexdigest()
    return service_keys.idempotency(digest)


def _claim(reply: list[bytes | None]) -> Claim:
    run_id, body, made = reply
    return Claim(text_of(run_id or b""), text_of(body or b""), made == b"1")

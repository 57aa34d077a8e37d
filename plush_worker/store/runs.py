"""Runs: their spec, their fields, the lease of their coordinator and of their client, the list of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..model import RunSpec
from . import keys, limits
from .connection import Argument, Connection
from .records import FIELD_CHARS_IN_LIST, decode_pairs, decode_runs, encode_fields, milliseconds, text_of, token
from .submission import creation, removal

if TYPE_CHECKING:
    from .records import FieldValue


class KeptRun(NamedTuple):
    """What is kept of a run."""

    run_id: str
    finished_s: float  # Unix time of its end; 0: it goes on
    keep_s: int  # after the end; 0: until it is removed
    output_bytes: int
    has_blobs: bool


class Runs:
    """The part of Store about runs as a whole."""

    _connection: Connection

    async def create_run(self, spec: RunSpec, queue: str = "") -> bool:
        """Stores a run and its first event, run_submitted; with a ``queue`` also sends its plush.coordinate there.

        False, and nothing done, when it is there already. Raises TooLarge.
        """
        names, arguments = creation(spec, queue)
        return bool(await self._connection.run("create_run", names, arguments, f"storing run {spec.run_id}"))

    async def load_run(self, run_id: str) -> RunSpec | None:
        """The spec as submitted; None when there is no such run."""
        text = await self._connection.command("GET", keys.run_spec(run_id), what=f"reading run {run_id}")
        return None if text is None else RunSpec.from_json(text)

    async def run_fields(self, run_id: str) -> dict[str, str]:
        """All fields of the run (state, term, worker, ...) as text; empty when there is no such run."""
        return decode_pairs(await self._connection.command("HGETALL", keys.run(run_id), what=f"reading run {run_id}"))

    async def set_run_fields(self, run_id: str, *, fence: int | None = None, **fields: FieldValue) -> None:
        """Sets fields; lists and mappings as JSON, the rest as text. With ``fence``, only for that coordinator's term.

        Raises NoSuchRun, Fenced, TooLarge.
        """
        arguments: list[Argument] = ["" if fence is None else fence, *encode_fields(fields)]
        await self._connection.run("set_run_fields", [keys.run(run_id)], arguments, f"updating run {run_id}")

    async def list_runs(self, limit: int = 100) -> list[dict[str, str]]:
        """The newest runs, newest first: their short fields (up to 4,096 bytes each) and ``run_id``."""
        reply = await self._connection.run(
            "list_runs", [keys.RUNS, keys.run("")], [limit, FIELD_CHARS_IN_LIST], "listing runs"
        )
        return decode_runs(reply)

    async def remove_run(self, run_id: str) -> bool:
        """Forgets everything about the run; False when there was nothing. Its files go when workers look next."""
        names, arguments = removal(run_id)
        return bool(await self._connection.run("remove_run", names, arguments, f"removing run {run_id}"))

    async def removed_among(self, run_ids: Sequence[str]) -> list[str]:
        """Those of the runs that were removed, by anybody, as far as that is remembered (20,000 runs)."""
        if not run_ids:
            return []
        scores = await self._connection.command("ZMSCORE", keys.REMOVED_RUNS, *run_ids, what="looking for removed runs")
        return [run_id for run_id, score in zip(run_ids, scores, strict=True) if score is not None]

    async def kept_runs(self) -> list[KeptRun]:
        """What is kept of every run there is, oldest first; one request for each 500."""
        found: list[KeptRun] = []
        while True:
            reply = await self._connection.run(
                "ended_runs",
                [keys.RUNS, keys.run(""), keys.run_output("")],
                [len(found), limits.RUNS_IN_PAGE],
                "looking at what is kept of runs",
            )
            found += [
                KeptRun(text_of(run_id), float(ended or 0), int(keep or limits.KEEP_S), int(size), bool(blobs))
                for run_id, ended, keep, size, blobs in reply
            ]
            if len(reply) < limits.RUNS_IN_PAGE:
                return found

    async def run_blobs(self, run_id: str) -> list[str]:
        """The SHA-256 of every content that the run needs."""
        text = await self._connection.command("HGET", keys.run(run_id), "blobs", what=f"blobs of run {run_id}")
        return [] if text is None else list(json.loads(text))

    async def take_coordination(self, run_id: str, worker: str, incarnation: str, ttl_s: float) -> int | None:
        """The new term (1, 2, ...) of the run's coordinator; None when another's lease lives or the run is gone.

        A lease of the caller's own incarnation counts as another's: one coordinator for one run.
        """
        reply = await self._connection.run(
            "take_coordination",
            [keys.run(run_id), keys.run_lease(run_id)],
            [worker, incarnation, milliseconds(ttl_s), token()],
            f"taking run {run_id}",
        )
        return None if reply is None else int(reply)

    async def renew_coordination(self, run_id: str, term: int, ttl_s: float) -> bool:
        """Whether ``term`` is still the run's last and unreleased; then its lease lasts ttl_s from now.

        Also when the lease ran out and nobody took it: a short outage of Redis costs a coordinator nothing.
        """
        return await self._renew(run_id, term, ttl_s, release=False)

    async def release_coordination(self, run_id: str, term: int) -> bool:
        """Gives the lease up; False when the term isn't the last."""
        return await self._renew(run_id, term, 1, release=True)

    async def coordination_lives(self, run_id: str) -> bool:
        """Whether some coordinator's lease of the run lives."""
        return bool(await self._connection.command("EXISTS", keys.run_lease(run_id), what=f"lease of run {run_id}"))

    async def renew_client(self, run_id: str, ttl_s: float) -> bool:
        """The client that submitted the run lives for another ttl_s; False when the run is gone."""
        reply = await self._connection.run(
            "renew_client",
            [keys.run(run_id), keys.run_client(run_id)],
            [milliseconds(ttl_s)],
            f"renewing the client's lease of run {run_id}",
        )
        return bool(reply)

    async def client_lives(self, run_id: str) -> bool:
        """Whether the client's lease lives."""
        return bool(await self._connection.command("EXISTS", keys.run_client(run_id), what=f"client of run {run_id}"))

    async def _renew(self, run_id: str, term: int, ttl_s: float, *, release: bool) -> bool:
        reply = await self._connection.run(
            "renew_coordination",
            [keys.run(run_id), keys.run_lease(run_id)],
            [term, milliseconds(ttl_s), int(release)],
            f"renewing the lease of run {run_id}",
        )
        return bool(reply)

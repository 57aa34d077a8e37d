"""``AsyncPlush``: the service for asyncio programs; method by method what ``Plush`` (``sdk.py``) says, awaited.

async with AsyncPlush("https://plush.example.org", token) as plush:
    run = await plush.submit({"hosts": "node[1-8]", "command": "./measure"})
    async for event in plush.events(run.id):
        ...
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from plush_worker.errors import PlushError, RunNotFound
from plush_worker.model import WorkerInfo

from . import api_calls as calls
from .api_calls import Call
from .api_errors import ApiRefused, ApiUnavailable, error_of
from .api_records import Event, HostOfRun, Run, Token
from .backing_off import Patience
from .sdk_base import ANSWER_S, CHUNK_BYTES, CONNECT_S, SILENCE_S, EventReading, OutputReading, find_target, packed

if TYPE_CHECKING:
    from plush_worker.experiment.spec import Experiment

T = TypeVar("T")


class AsyncPlush:
    """A client of a service; without ``url`` and ``token`` of the one that PLUSH_URL and PLUSH_TOKEN select.

    For one event loop. ``transport`` is httpx's, for tests. Raises ConfigurationError.
    """

    def __init__(
        self,
        url: str = "",
        token: str = "",
        *,
        patience_s: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._target = find_target(url, token)
        self._patience_s = patience_s
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            transport=transport,
            trust_env=not self._target.is_here,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connections."""
        await self._http.aclose()

    # Runs

    async def submit(
        self,
        experiment: Mapping[str, Any] | str | os.PathLike[str] | Experiment,
        *,
        base_dir: str = "",
        key: str = "",
    ) -> Run:
        """Submit an experiment: a mapping, the text of a file (YAML), or the path of one.

        Its files are relative to ``base_dir``: by default the folder of the path, else the current one; what the
        service hasn't is sent before. The same ``key`` with the same experiment is the same run, for a day. Raises
        SpecErrors with all that is wrong.
        """
        ready = await asyncio.to_thread(packed, experiment, base_dir)
        for digest, path in ready.contents.items():
            await self.put_blob(digest, path)
        return await self.call(calls.submit(ready.experiment.to_mapping(), key or str(uuid.uuid4())))

    async def runs(self, *, state: str = "", owner: str = "", name: str = "", limit: int = 100) -> list[Run]:
        """The newest runs that the token may see, newest first. ``state``: also ``open`` and ``ended``."""
        found: list[Run] = []
        cursor: str | None = ""
        while cursor is not None and len(found) < limit:
            page = await self.call(calls.runs(cursor, limit - len(found), state=state, owner=owner, name=name))
            found += page.items
            cursor = page.next
        return found

    async def run(self, run_id: str) -> Run:
        """A run as it is now. Raises RunNotFound, also for somebody else's."""
        return await self.call(calls.run(run_id))

    async def hosts(self, run_id: str, *, state: str = "") -> list[HostOfRun]:
        """How each host is, in the order of the experiment; only those in ``state``. Raises RunNotFound."""
        found: list[HostOfRun] = []
        start: str | None = ""
        while start is not None:
            page = await self.call(calls.hosts(run_id, start, state=state))
            found += page.items
            start = page.next
        return found

    async def events(self, run_id: str, after: str = "") -> AsyncIterator[Event]:
        """Every event of the run behind ``after``, as it comes, each once; ends with the run's last one.

        A broken connection is made anew and goes on behind the last event. An event of type ``gap`` says that events
        were trimmed away before they were read: only runs with very many have that. Raises RunNotFound, and
        ApiUnavailable when the service is away for longer than ``patience_s``.
        """
        reading = EventReading(run_id, after)
        patience = self._patience()
        while not reading.finished:
            error: ApiUnavailable | None = None
            try:
                async with self._stream(
                    reading.path, reading.what, headers=reading.headers(), silence_s=SILENCE_S
                ) as answer:
                    if answer.status_code == 204:
                        return
                    async for data in answer.aiter_bytes():
                        patience.succeeded()
                        for event in reading.feed(data):
                            yield event
            except httpx.TransportError as broken:
                error = self._target.unreachable(reading.what, broken)
            except ApiUnavailable as away:
                error = away
            if not reading.finished:
                await self._wait(
                    patience, error or ApiUnavailable(f"{reading.what}: {self._target.url} ended the stream")
                )

    async def output(
        self,
        run_id: str,
        host: str = "",
        *,
        stream: str = "stdout",
        process: str = "",
        start_bytes: int = 0,
        end_bytes: int | None = None,
        follow: bool = False,
    ) -> AsyncIterator[bytes]:
        """What a host printed, as it printed it; without ``host`` what all printed, each line behind its host's name.

        ``stream``: stdout, stderr or both. A range is of one host's stream. A host's stream goes on after a broken
        connection; otherwise that raises ApiUnavailable. Raises RunNotFound.
        """
        reading = OutputReading(run_id, host, stream, process, start_bytes, end_bytes, follow=follow)
        patience = self._patience()
        error: ApiUnavailable
        while True:
            try:
                async with self._stream(reading.path, reading.what, params=reading.params()) as answer:
                    async for data in answer.aiter_bytes():
                        patience.succeeded()
                        reading.took(data)
                        yield data
                return
            except httpx.TransportError as broken:
                error = self._target.unreachable(reading.what, broken)
                if not reading.resumable:
                    raise error from broken
            except ApiUnavailable as away:
                error = away
            await self._wait(patience, error)

    async def kill(self, run_id: str, signal: int = 15, grace_s: float = 5.0) -> None:
        """Ask for the run's end: the signal, and SIGKILL after the grace. Raises RunNotFound."""
        await self.call(calls.kill(run_id, signal, round(grace_s * 1000)))

    async def remove(self, run_id: str, *, force: bool = False) -> bool:
        """Forget an ended run and its output; ``force`` ends it first. False when there is no such run."""
        try:
            await self.call(calls.remove(run_id, force=force))
        except RunNotFound:
            return False
        return True

    async def keep(self, run_id: str, keep_s: int) -> Run:
        """Keep the run and its output so long after its end. Raises RunNotFound."""
        return await self.call(calls.keep(run_id, keep_s))

    async def wait(self, run_id: str, timeout_s: float | None = None) -> Run:
        """The run when it has ended, or as it is after ``timeout_s``. Raises RunNotFound."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        run = await self.run(run_id)
        after = run.last_event
        while not run.ended:
            left_s = calls.MAX_WAIT_S if deadline is None else deadline - time.monotonic()
            if left_s <= 0:
                break
            page = await self.call(calls.events(run_id, after, left_s))
            after = page.events[-1].id if page.events else after
            if page.ended:
                run = await self.run(run_id)
        return run if run.ended or deadline is None else await self.run(run_id)

    # Files

    async def put_blob(self, digest: str, path: str | os.PathLike[str]) -> None:
        """Send the content of a file, whose SHA-256 is ``digest``, unless the service has it. Raises OSError."""
        try:
            await self.call(calls.has_blob(digest))
            return
        except ApiRefused as error:
            if error.status != 404:
                raise
        call = calls.put_blob(digest)
        patience = self._patience()
        while True:
            try:
                await self._once(call, _content(path))
                return
            except ApiUnavailable as error:
                await self._wait(patience, error)

    # The service

    async def slices(self) -> list[dict[str, Any]]:
        """The slices that the token may use: ``name``, ``hosts_count``."""
        return await self.call(calls.slices())

    async def slice_hosts(self, name: str) -> list[dict[str, Any]]:
        """The hosts of a slice: ``name``, ``site``, ``tags``."""
        return await self.call(calls.slice_hosts(name))

    async def meshes(self) -> list[dict[str, Any]]:
        """The standing meshes that the token may see."""
        return await self.call(calls.meshes())

    async def workers(self) -> list[WorkerInfo]:
        """The live workers."""
        return await self.call(calls.workers())

    async def create_token(
        self,
        owner: str,
        scopes: Sequence[str] = ("run",),
        slices: Sequence[str] = ("*",),
        *,
        name: str = "",
        expires_s: float = 0.0,
    ) -> Token:
        """A new token, which its field ``token`` holds. ``expires_s``: from now; 0: never. For admins."""
        return await self.call(calls.create_token(owner, scopes, slices, name, expires_s))

    async def tokens(self) -> list[Token]:
        """All tokens, without their secrets. For admins."""
        return await self.call(calls.tokens())

    async def revoke_token(self, token_id: str) -> bool:
        """Forget a token; False when there is none of that id. For admins."""
        try:
            await self.call(calls.revoke_token(token_id))
        except ApiRefused as error:
            if error.status != 404:
                raise
            return False
        return True

    # Performing

    async def call(self, call: Call[T]) -> T:
        """Perform a call of ``api_calls``; one that can be repeated is, within ``patience_s``. Raises PlushError."""
        patience = self._patience()
        while True:
            try:
                return await self._once(call, call.body)
            except ApiUnavailable as error:
                if not call.repeatable:
                    raise
                await self._wait(patience, error)

    async def _once(self, call: Call[T], body: bytes | AsyncIterator[bytes]) -> T:
        target = self._target
        try:
            answer = await self._http.request(
                call.method,
                target.address(call.path),
                params=dict(call.params),
                headers=target.headers(call.headers),
                content=body or None,
                timeout=httpx.Timeout(ANSWER_S + call.wait_s, connect=CONNECT_S),
            )
        except httpx.TransportError as error:
            raise target.unreachable(call.what, error) from error
        return target.outcome(call, answer.status_code, answer.headers, answer.content)

    @asynccontextmanager
    async def _stream(
        self,
        path: str,
        what: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float = ANSWER_S,
    ) -> AsyncIterator[httpx.Response]:
        """An answer whose body is still to be read. Raises TransportError, PlushError."""
        target = self._target
        async with self._http.stream(
            "GET",
            target.address(path),
            params=dict(params or {}),
            headers=target.headers({"Accept-Encoding": "identity", **(headers or {})}),
            timeout=httpx.Timeout(silence_s, connect=CONNECT_S),
        ) as answer:
            if answer.status_code >= 300:
                raise error_of(answer.status_code, answer.headers, await answer.aread(), what, target.url)
            yield answer

    def _patience(self) -> Patience:
        return Patience(self._patience_s, time.monotonic, random.random)

    async def _wait(self, patience: Patience, error: PlushError) -> None:
        """Before the next attempt. Raises ``error`` when there is to be none."""
        wait_s = patience.wait_s(getattr(error, "wait_s", 0.0))
        if wait_s is None:
            raise error
        await asyncio.sleep(wait_s)


async def _content(path: str | os.PathLike[str]) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(open, path, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk

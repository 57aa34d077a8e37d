"""``Plush``: the service for Python programs, blocking; ``AsyncPlush`` (``sdk_async.py``) is its asynchronous twin.

    with Plush("https://plush.example.org", token) as plush:
        run = plush.submit({"hosts": "node[1-8]", "command": "./measure"})
        for event in plush.events(run.id):
            ...
        print(plush.hosts(run.id))

What can be repeated is repeated while the service can't be reached, for ``patience_s``; a submission too, which stays
one run. Errors are ``PlushError``: ``RunNotFound``, ``SpecErrors`` and those of ``api_errors.py``.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from .sdk_async import AsyncPlush
from .sdk_base import ANSWER_S, CHUNK_BYTES, CONNECT_S, SILENCE_S, EventReading, OutputReading, find_target, packed

if TYPE_CHECKING:
    from plush_worker.experiment.spec import Experiment

__all__ = ["AsyncPlush", "Event", "HostOfRun", "Plush", "Run", "Token"]

T = TypeVar("T")


class Plush:
    """A client of a service; without ``url`` and ``token`` of the one that PLUSH_URL and PLUSH_TOKEN select.

    For one thread at a time. ``transport`` is httpx's, for tests. Raises ConfigurationError.
    """

    def __init__(
        self,
        url: str = "",
        token: str = "",
        *,
        patience_s: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._target = find_target(url, token)
        self._patience_s = patience_s
        self._http = httpx.Client(
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            transport=transport,
            trust_env=not self._target.is_here,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections."""
        self._http.close()

    # Runs

    def submit(
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
        ready = packed(experiment, base_dir)
        for digest, path in ready.contents.items():
            self.put_blob(digest, path)
        return self.call(calls.submit(ready.experiment.to_mapping(), key or str(uuid.uuid4())))

    def runs(self, *, state: str = "", owner: str = "", name: str = "", limit: int = 100) -> list[Run]:
        """The newest runs that the token may see, newest first. ``state``: also ``open`` and ``ended``."""
        found: list[Run] = []
        cursor: str | None = ""
        while cursor is not None and len(found) < limit:
            page = self.call(calls.runs(cursor, limit - len(found), state=state, owner=owner, name=name))
            found += page.items
            cursor = page.next
        return found

    def run(self, run_id: str) -> Run:
        """A run as it is now. Raises RunNotFound, also for somebody else's."""
        return self.call(calls.run(run_id))

    def hosts(self, run_id: str, *, state: str = "") -> list[HostOfRun]:
        """How each host is, in the order of the experiment; only those in ``state``. Raises RunNotFound."""
        found: list[HostOfRun] = []
        start: str | None = ""
        while start is not None:
            page = self.call(calls.hosts(run_id, start, state=state))
            found += page.items
            start = page.next
        return found

    def events(self, run_id: str, after: str = "") -> Iterator[Event]:
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
                with self._stream(reading.path, reading.what, headers=reading.headers(), silence_s=SILENCE_S) as answer:
                    if answer.status_code == 204:
                        return
                    for data in answer.iter_bytes():
                        patience.succeeded()
                        yield from reading.feed(data)
            except httpx.TransportError as broken:
                error = self._target.unreachable(reading.what, broken)
            except ApiUnavailable as away:
                error = away
            if not reading.finished:
                self._wait(patience, error or ApiUnavailable(f"{reading.what}: {self._target.url} ended the stream"))

    def output(
        self,
        run_id: str,
        host: str = "",
        *,
        stream: str = "stdout",
        process: str = "",
        start_bytes: int = 0,
        end_bytes: int | None = None,
        follow: bool = False,
    ) -> Iterator[bytes]:
        """What a host printed, as it printed it; without ``host`` what all printed, each line behind its host's name.

        ``stream``: stdout, stderr or both. A range is of one host's stream. A host's stream goes on after a broken
        connection; otherwise that raises ApiUnavailable. Raises RunNotFound.
        """
        reading = OutputReading(run_id, host, stream, process, start_bytes, end_bytes, follow=follow)
        patience = self._patience()
        error: ApiUnavailable
        while True:
            try:
                with self._stream(reading.path, reading.what, params=reading.params()) as answer:
                    for data in answer.iter_bytes():
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
            self._wait(patience, error)

    def kill(self, run_id: str, signal: int = 15, grace_s: float = 5.0) -> None:
        """Ask for the run's end: the signal, and SIGKILL after the grace. Raises RunNotFound."""
        self.call(calls.kill(run_id, signal, round(grace_s * 1000)))

    def remove(self, run_id: str, *, force: bool = False) -> bool:
        """Forget an ended run and its output; ``force`` ends it first. False when there is no such run."""
        try:
            self.call(calls.remove(run_id, force=force))
        except RunNotFound:
            return False
        return True

    def keep(self, run_id: str, keep_s: int) -> Run:
        """Keep the run and its output so long after its end. Raises RunNotFound."""
        return self.call(calls.keep(run_id, keep_s))

    def wait(self, run_id: str, timeout_s: float | None = None) -> Run:
        """The run when it has ended, or as it is after ``timeout_s``. Raises RunNotFound."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        run = self.run(run_id)
        after = run.last_event
        while not run.ended:
            left_s = calls.MAX_WAIT_S if deadline is None else deadline - time.monotonic()
            if left_s <= 0:
                break
            page = self.call(calls.events(run_id, after, left_s))
            after = page.events[-1].id if page.events else after
            if page.ended:
                run = self.run(run_id)
        return run if run.ended or deadline is None else self.run(run_id)

    # Files

    def put_blob(self, digest: str, path: str | os.PathLike[str]) -> None:
        """Send the content of a file, whose SHA-256 is ``digest``, unless the service has it. Raises OSError."""
        try:
            self.call(calls.has_blob(digest))
            return
        except ApiRefused as error:
            if error.status != 404:
                raise
        call = calls.put_blob(digest)
        patience = self._patience()
        while True:
            try:
                with open(path, "rb") as file:
                    self._once(call, iter(lambda: file.read(CHUNK_BYTES), b""))
                return
            except ApiUnavailable as error:
                self._wait(patience, error)

    # The service

    def slices(self) -> list[dict[str, Any]]:
        """The slices that the token may use: ``name``, ``hosts_count``."""
        return self.call(calls.slices())

    def slice_hosts(self, name: str) -> list[dict[str, Any]]:
        """The hosts of a slice: ``name``, ``site``, ``tags``."""
        return self.call(calls.slice_hosts(name))

    def meshes(self) -> list[dict[str, Any]]:
        """The standing meshes that the token may see."""
        return self.call(calls.meshes())

    def workers(self) -> list[WorkerInfo]:
        """The live workers."""
        return self.call(calls.workers())

    def create_token(
        self,
        owner: str,
        scopes: Sequence[str] = ("run",),
        slices: Sequence[str] = ("*",),
        *,
        name: str = "",
        expires_s: float = 0.0,
    ) -> Token:
        """A new token, which its field ``token`` holds. ``expires_s``: from now; 0: never. For admins."""
        return self.call(calls.create_token(owner, scopes, slices, name, expires_s))

    def tokens(self) -> list[Token]:
        """All tokens, without their secrets. For admins."""
        return self.call(calls.tokens())

    def revoke_token(self, token_id: str) -> bool:
        """Forget a token; False when there is none of that id. For admins."""
        try:
            self.call(calls.revoke_token(token_id))
        except ApiRefused as error:
            if error.status != 404:
                raise
            return False
        return True

    # Performing

    def call(self, call: Call[T]) -> T:
        """Perform a call of ``api_calls``; one that can be repeated is, within ``patience_s``. Raises PlushError."""
        patience = self._patience()
        while True:
            try:
                return self._once(call, call.body)
            except ApiUnavailable as error:
                if not call.repeatable:
                    raise
                self._wait(patience, error)

    def _once(self, call: Call[T], body: bytes | Iterator[bytes]) -> T:
        target = self._target
        try:
            answer = self._http.request(
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

    def stream(self, path: str, what: str, params: Mapping[str, str]) -> Iterator[bytes]:
        """The bytes of an answer as they come, once. Raises ApiUnavailable, also when they break off."""
        try:
            with self._stream(path, what, params=params) as answer:
                yield from answer.iter_bytes()
        except httpx.TransportError as error:
            raise self._target.unreachable(what, error) from error

    @contextmanager
    def _stream(
        self,
        path: str,
        what: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float = ANSWER_S,
    ) -> Iterator[httpx.Response]:
        """An answer whose body is still to be read. Raises TransportError, PlushError."""
        target = self._target
        with self._http.stream(
            "GET",
            target.address(path),
            params=dict(params or {}),
            headers=target.headers({"Accept-Encoding": "identity", **(headers or {})}),
            timeout=httpx.Timeout(silence_s, connect=CONNECT_S),
        ) as answer:
            if answer.status_code >= 300:
                raise error_of(answer.status_code, answer.headers, answer.read(), what, target.url)
            yield answer

    def _patience(self) -> Patience:
        return Patience(self._patience_s, time.monotonic, random.random)

    def _wait(self, patience: Patience, error: PlushError) -> None:
        """Before the next attempt. Raises ``error`` when there is to be none."""
        wait_s = patience.wait_s(getattr(error, "wait_s", 0.0))
        if wait_s is None:
            raise error
        time.sleep(wait_s)

"""What the blocking and the asynchronous client share: where they ask, and how answers and streams are read. Pure.

No socket and no clock: ``sdk.py`` and ``sdk_async.py`` bring both.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from plush_worker.errors import ConfigurationError

from . import remote
from .api_calls import Call, event_of, read_answer
from .api_errors import ApiFailed, ApiUnavailable, error_of
from .api_records import Event
from .server_events import ServerEvents

if TYPE_CHECKING:
    from plush_worker.experiment.spec import Experiment, Packed

T = TypeVar("T")

CONNECT_S = 10.0
ANSWER_S = 60.0  # for an answer to begin, or to go on
SILENCE_S = 45.0  # a stream without even a beat has broken
CHUNK_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Target:
    """A service and who asks it."""

    url: str
    token: str

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine, so that no proxy is to be asked."""
        return urlsplit(self.url).hostname in remote.LOOPBACK

    def address(self, path: str) -> str:
        """The whole address of a path below /v1."""
        return f"{self.url}/v1{path}"

    def headers(self, more: Mapping[str, str]) -> dict[str, str]:
        """Those of a request."""
        return {"Authorization": f"Bearer {self.token}", "User-Agent": "plush", **more}

    def outcome(self, call: Call[T], status: int, headers: Mapping[str, str], body: bytes) -> T:
        """The result of a call. Raises what the answer stands for."""
        if status >= 400:
            raise error_of(status, headers, body, call.what, self.url)
        if status >= 300:
            raise ApiFailed(f"{call.what}: {self.url} answered {status}: is it the service's own address?")
        return read_answer(call, body)

    def unreachable(self, what: str, error: Exception) -> ApiUnavailable:
        """The error for a connection that failed or broke."""
        reason = str(error) or type(error).__name__
        return ApiUnavailable(f"{what}: the service at {self.url} can't be reached: {reason}")


def find_target(url: str, token: str) -> Target:
    """The service that was named, or the one that the environment selects. Raises ConfigurationError."""
    if url:
        remote.check_url(url.rstrip("/"))
    if url and token:
        return Target(url.rstrip("/"), token)
    if url or token:
        raise ConfigurationError("give a url and a token, or neither: then PLUSH_URL and PLUSH_TOKEN say both")
    found = remote.find_remote()
    if found is None:
        raise ConfigurationError("no service: give url and token, or set PLUSH_URL and PLUSH_TOKEN")
    return Target(found.url, found.token)


class EventReading:
    """One run's events over any number of connections: where to go on, and when all is read."""

    def __init__(self, run_id: str, after: str) -> None:
        self.what = f"following run {run_id}"
        self.path = f"/runs/{run_id}/events"
        self.after = after
        self.finished = False
        self._decoder = ServerEvents()

    def headers(self) -> dict[str, str]:
        """Those of the next connection, which begins behind the last event."""
        self._decoder = ServerEvents()
        return {"Accept": "text/event-stream", **({"Last-Event-ID": self.after} if self.after else {})}

    def feed(self, data: bytes) -> list[Event]:
        """The events in these bytes. One of type ``gap`` says that events before the next were trimmed away unseen."""
        found = []
        for item in self._decoder.feed(data):
            try:
                values = json.loads(item.data)
                event = event_of("" if item.name == "gap" else item.id, {"type": item.name, **values})
            except (ValueError, TypeError) as error:
                raise ApiFailed(f"{self.what}: an event makes no sense: {item.data[:100]!r}") from error
            found.append(event)
            self.after = event.id or self.after
            self.finished = self.finished or event.type == "run_finished"
        return found


class OutputReading:
    """One run's output over any number of connections. Only a single host's stream can go on where it broke off."""

    def __init__(
        self,
        run_id: str,
        host: str,
        stream: str,
        process: str,
        start_bytes: int,
        end_bytes: int | None,
        *,
        follow: bool,
    ) -> None:
        self.what = f"reading output of run {run_id}"
        self.path = f"/runs/{run_id}/output"
        self.resumable = bool(host) and stream != "both"
        self._given = {"host": host, "stream": stream, "process": process, "follow": "1" if follow else ""}
        self._at_bytes = start_bytes
        self._end_bytes = end_bytes

    def params(self) -> dict[str, str]:
        """Those of the next connection."""
        found = {name: value for name, value in self._given.items() if value}
        if self._at_bytes:
            found["from"] = str(self._at_bytes)
        if self._end_bytes is not None:
            found["to"] = str(self._end_bytes)
        return found

    def took(self, data: bytes) -> None:
        """So much has been read."""
        self._at_bytes += len(data)


def packed(experiment: Mapping[str, Any] | str | os.PathLike[str] | Experiment, base_dir: str) -> Packed:
    """An experiment ready to be sent, and the files to be sent before it. Blocks. Raises SpecErrors, OSError.

    A path is a file; a string is the text of one; files are relative to ``base_dir``, for a path to its own folder.
    """
    from plush_worker.experiment.spec import Experiment, experiment_from_mapping, load_experiment, pack_experiment

    if isinstance(experiment, os.PathLike):
        path = Path(experiment)
        base_dir = base_dir or str(path.parent)
        experiment = load_experiment(path.read_bytes(), str(path))
    elif isinstance(experiment, str):
        experiment = load_experiment(experiment, "experiment")
    elif not isinstance(experiment, Experiment):
        experiment = experiment_from_mapping(experiment)
    return pack_experiment(experiment, base_dir or os.getcwd())

"""The requests of the HTTP interface as data: what is sent, and how the answer is read. Pure.

Each function makes one ``Call``; ``sdk.py`` performs it, blocking or not. docs/api.md describes the endpoints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from plush_worker.model import WorkerInfo

from .api_errors import ApiFailed
from .api_records import Event, HostOfRun, Run, Token, token_of

T = TypeVar("T")

JSON = "application/json"
YAML = "application/yaml"
RUNS_PAGE, HOSTS_PAGE = 200, 1000  # in one answer
EVENTS_PAGE, MAX_WAIT_S = 1000, 30.0


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request. ``what`` is being done, for messages. ``repeatable``: doing it twice is doing it once."""

    what: str
    method: str
    path: str  # below /v1
    decode: Callable[[Any], T]
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    repeatable: bool = True
    wait_s: float = 0.0  # that the service may take besides


@dataclass(frozen=True, slots=True)
class Paged(Generic[T]):
    """Some of a list, and what to ask for the rest with; None when that was all."""

    items: list[T]
    next: str | None


def submit(experiment: str | bytes | Mapping[str, Any], key: str) -> Call[Run]:
    """A run of an experiment, as YAML text or as a mapping. ``key`` makes a repetition of it the same run."""
    if isinstance(experiment, Mapping):
        kind, body = JSON, json.dumps(experiment, separators=(",", ":")).encode()
    else:
        kind, body = YAML, experiment.encode() if isinstance(experiment, str) else experiment
    headers = {"Content-Type": kind, "Idempotency-Key": key}
    return Call("submitting the experiment", "POST", "/runs", Run.from_mapping, headers=headers, body=body)


def runs(
    cursor: str = "", limit: int = RUNS_PAGE, *, state: str = "", owner: str = "", name: str = ""
) -> Call[Paged[Run]]:
    """A page of runs, newest first."""
    given = {"state": state, "owner": owner, "name": name, "cursor": cursor, "limit": str(min(limit, RUNS_PAGE))}
    return Call("listing runs", "GET", "/runs", _page("runs", Run.from_mapping), _given(given))


def run(run_id: str) -> Call[Run]:
    """One run."""
    return Call(f"reading run {run_id}", "GET", f"/runs/{_quoted(run_id)}", Run.from_mapping)


def hosts(run_id: str, start: str = "", *, state: str = "") -> Call[Paged[HostOfRun]]:
    """A page of a run's hosts, in the order of its experiment."""
    given = _given({"state": state, "start": start, "limit": str(HOSTS_PAGE)})
    path = f"/runs/{_quoted(run_id)}/hosts"
    return Call(f"reading the hosts of run {run_id}", "GET", path, _page("hosts", HostOfRun.from_mapping), given)


@dataclass(frozen=True, slots=True)
class EventsRead:
    """Some events. ``gap``: some before them are gone. ``ended``: no more will come."""

    events: list[Event]
    gap: bool
    ended: bool


def events(run_id: str, after: str, wait_s: float) -> Call[EventsRead]:
    """Events behind ``after``; the service waits so long for the first."""

    def decode(answer: Any) -> EventsRead:
        found = [event_of(str(item["id"]), item["event"]) for item in answer["events"]]
        return EventsRead(found, bool(answer.get("gap")), bool(answer.get("ended")))

    wait_s = min(wait_s, MAX_WAIT_S)
    params = _given({"after": after, "wait_s": f"{wait_s:g}", "limit": str(EVENTS_PAGE)})
    path, headers = f"/runs/{_quoted(run_id)}/events", {"Accept": JSON}
    return Call(f"reading events of run {run_id}", "GET", path, decode, params, headers, wait_s=wait_s)


def segments(run_id: str) -> Call[dict[str, int]]:
    """Segment name -> committed bytes."""

    def decode(answer: Any) -> dict[str, int]:
        return {str(item["name"]): int(item["committed_bytes"]) for item in answer["segments"]}

    return Call(f"listing the output of run {run_id}", "GET", f"/runs/{_quoted(run_id)}/segments", decode)


def segment(run_id: str, name: str, start_bytes: int, end_bytes: int) -> tuple[str, dict[str, str]]:
    """(path, parameters) of a part of a segment, whose bytes are read as they come."""
    path = f"/runs/{_quoted(run_id)}/segments/{_quoted(name)}"
    return path, {"start": str(start_bytes), "end": str(end_bytes)}


def kill(run_id: str, signal: int, grace_ms: int) -> Call[None]:
    """Ask for the run's end."""
    body = _json({"signal": signal, "grace_ms": grace_ms})
    return Call(f"stopping run {run_id}", "POST", f"/runs/{_quoted(run_id)}/kill", _nothing, **body)


def renew(run_id: str, ttl_s: int) -> Call[None]:
    """The client of the run lives."""
    path = f"/runs/{_quoted(run_id)}/lease"
    return Call(f"renewing run {run_id}", "POST", path, _nothing, **_json({"ttl_s": ttl_s}))


def remove(run_id: str, *, force: bool = False) -> Call[None]:
    """Forget a run and its output."""
    params = {"force": "1"} if force else {}
    return Call(f"removing run {run_id}", "DELETE", f"/runs/{_quoted(run_id)}", _nothing, params)


def keep(run_id: str, keep_s: int) -> Call[Run]:
    """Keep the output so long after the end."""
    path = f"/runs/{_quoted(run_id)}"
    return Call(f"setting how long run {run_id} is kept", "PATCH", path, Run.from_mapping, **_json({"keep_s": keep_s}))


def slices() -> Call[list[dict[str, Any]]]:
    """The slices that the token may use: ``name``, ``hosts_count``."""

    def decode(answer: Any) -> list[dict[str, Any]]:
        return [
            {"name": item["name"], "hosts_count": item["hosts"]}
            | {key: value for key, value in item.items() if key not in ("name", "hosts")}
            for item in answer["slices"]
        ]

    return Call("listing slices", "GET", "/slices", decode)


def slice_hosts(name: str) -> Call[list[dict[str, Any]]]:
    """The hosts of a slice: ``name``, ``site``, ``tags``."""
    path = f"/slices/{_quoted(name)}/hosts"
    return Call(f"reading slice {name}", "GET", path, lambda answer: list(answer["hosts"]))


def meshes() -> Call[list[dict[str, Any]]]:
    """The standing meshes that the token may see."""
    return Call("listing meshes", "GET", "/meshes", lambda answer: list(answer["meshes"]))


def close_mesh(mesh: str, *, kill_first: bool) -> Call[int]:
    """Ask every owner of the mesh's subtrees to close them; how many owners were asked."""
    params = {"kill": "1"} if kill_first else {}
    path = f"/meshes/{_quoted(mesh)}"
    return Call(f"closing mesh {mesh}", "DELETE", path, lambda answer: int(answer["asked"]), params)


def workers() -> Call[list[WorkerInfo]]:
    """The live workers."""

    def decode(answer: Any) -> list[WorkerInfo]:
        return [WorkerInfo.from_mapping({"pid": 0, "state_dir": "", **item}) for item in answer["workers"]]

    return Call("listing workers", "GET", "/workers", decode)


def create_token(
    owner: str, scopes: Sequence[str], slice_names: Sequence[str], name: str, expires_s: float
) -> Call[Token]:
    """A new token, which the answer holds."""
    values = {"owner": owner, "scopes": list(scopes), "slices": list(slice_names), "name": name}
    body = _json(values | {"expires_s": round(expires_s)})
    return Call("making a token", "POST", "/tokens", token_of, repeatable=False, **body)


def tokens() -> Call[list[Token]]:
    """All tokens."""
    return Call("listing tokens", "GET", "/tokens", lambda answer: [token_of(item) for item in answer["tokens"]])


def revoke_token(token_id: str) -> Call[None]:
    """Forget a token."""
    return Call(f"revoking token {token_id}", "DELETE", f"/tokens/{_quoted(token_id)}", _nothing)


def has_blob(digest: str) -> Call[None]:
    """Whether the service has a blob; refused with 404 when not."""
    return Call(f"looking for blob {digest}", "HEAD", f"/blobs/{digest}", _nothing)


def put_blob(digest: str) -> Call[None]:
    """Send a blob; its content is given to whoever performs the call."""
    headers = {"Content-Type": "application/octet-stream"}
    return Call(f"sending blob {digest}", "PUT", f"/blobs/{digest}", _nothing, headers=headers)


def whoami() -> Call[Token]:
    """The token that asks, without its secret."""
    return Call("asking whose token this is", "GET", "/tokens/self", token_of)


def event_of(event_id: str, values: Mapping[str, Any]) -> Event:
    """An event from its JSON form."""
    return Event(event_id, str(values.get("type", "")), dict(values))


def read_answer(call: Call[T], body: bytes) -> T:
    """The result of a call whose answer was good. Raises ApiFailed when it makes no sense."""
    try:
        return call.decode(json.loads(body) if body else {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        beginning = body[:100].decode("utf-8", "replace")
        raise ApiFailed(f"{call.what}: the service's answer makes no sense ({error!r}): {beginning}") from error


def _page(name: str, decode: Callable[[Mapping[str, Any]], T]) -> Callable[[Any], Paged[T]]:
    def page(answer: Any) -> Paged[T]:
        rest = answer.get("next")
        return Paged([decode(item) for item in answer[name]], None if rest is None else str(rest))

    return page


def _given(params: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in params.items() if value}


def _json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"headers": {"Content-Type": JSON}, "body": json.dumps(values, separators=(",", ":")).encode()}


def _nothing(answer: Any) -> None:
    del answer


def _quoted(text: str) -> str:
    return quote(text, safe="")

"""The bodies of requests and answers, as the OpenAPI document shows them. Times are Unix times in seconds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RUN_ID = "8c5d1e1f-7e0d-4a6c-9d1f-3f2f6f0a9b11"
Phase = Literal["waiting", "running", "stopping", "succeeded", "failed", "killed"]
HostPhase = Literal["waiting", "up", "running", "exited", "failed", "unreachable", "killed", "unknown"]
Owner = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}$", examples=["ada"])]
SliceName = Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9_][A-Za-z0-9._-]{0,63})$", examples=["lab"])]


class Answer(BaseModel):
    """The base of answers."""

    model_config = ConfigDict(frozen=True)


class Request(BaseModel):
    """The base of requests: unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ProblemDocument(Answer):
    """An error (RFC 9457). ``code`` is stable."""

    type: str = Field(examples=["urn:plush:problem:run_not_found"])
    title: str = Field(examples=["There is no such run"])
    status: int = Field(examples=[404])
    detail: str
    instance: str
    code: str = Field(examples=["run_not_found"])
    retryable: bool = Field(description="The same request may succeed later.")
    errors: list[dict[str, Any]] = Field(
        default=[], description="What is wrong with the request, each with `path`, `message` and, where known, `line`."
    )


class RunCounts(Answer):
    """How many hosts of a run are where. The last six count hosts that have ended."""

    hosts: int
    up: int = Field(description="Connected at any time since the run began.")
    started: int
    ended: int
    ok: int
    nonzero: int
    failed: int
    unreachable: int
    killed: int
    unknown: int


class RunLinks(Answer):
    """Where more is to be found."""

    self: str
    hosts: str
    events: str
    output: str
    flower: str = Field(default="", description="The run's task in Flower, where Flower is known.")


class ProcessOfRun(Answer):
    """One process of an experiment."""

    name: str
    command: str = Field(description="At most 500 characters of it.")
    hosts: list[int] | None = Field(description="Indexes of its hosts; null: all.")


class Run(Answer):
    """A run."""

    id: str = Field(examples=[RUN_ID])
    name: str
    kind: str = Field(description="`run`, `deploy` or `fetch`.")
    owner: str
    slice: str
    command: str = Field(description="At most 500 characters of it.")
    state: Phase
    why: str = Field(description="What a waiting run waits for.")
    counts: RunCounts
    submitted_at: float
    finished_at: float | None
    keep_s: int = Field(description="Run and output are kept this long after the end; 0: until they are removed.")
    mesh: str
    last_event: str = Field(description="The id of the newest event that this answer rests on.")
    processes: list[ProcessOfRun] = Field(
        description="Of an experiment with several; empty: `command` is the only one."
    )
    deploys: bool = Field(description="Files are put on the hosts first.")
    success: dict[str, int] = Field(description="Empty: all hosts have to end well; else `at_least` so many.")
    links: RunLinks


class RunPage(Answer):
    """Runs, newest first."""

    runs: list[Run]
    next: str | None = Field(description="To be given as `cursor` for the rest; null when there are no more.")


class PartOfHost(Answer):
    """What one process, or the deploy of the files, has come to on a host."""

    kind: str = Field(description="`exec`, `deploy` or `fetch`.")
    name: str = Field(description="Of the process.")
    state: HostPhase
    code: int | None
    signal: int | None
    detail: str


class HostOfRun(Answer):
    """One host of a run."""

    name: str
    number: int | None = Field(description="In the mesh; in events and output hosts go by it. Null until it joined.")
    index: int = Field(description="In the run, from 0, in the order of the experiment.")
    state: HostPhase
    code: int | None
    signal: int | None
    detail: str
    parts: list[PartOfHost] = Field(default=[], description="Where an experiment does more than one thing on the host.")


class HostPage(Answer):
    """Hosts of a run, by index."""

    hosts: list[HostOfRun]
    total: int = Field(description="How many hosts the run has.")
    next: int | None = Field(description="To be given as `start` for the rest; null when there are no more.")


class Segment(Answer):
    """A file of output."""

    name: str
    committed_bytes: int


class SegmentList(Answer):
    """The segments of a run."""

    segments: list[Segment]


class KillRequest(Request):
    """How to stop a run."""

    signal: Annotated[int, Field(ge=1, le=64)] = 15
    grace_ms: Annotated[int, Field(ge=0, le=86_400_000, description="Until SIGKILL.")] = 5000


class Retention(Request):
    """How long a run and its output are kept after its end; 0: until it is removed."""

    keep_s: Annotated[int, Field(ge=0, le=10 * 366 * 86400)]


class LeaseRequest(Request):
    """The client of a run lives."""

    ttl_s: Annotated[int, Field(ge=1, le=86400)]


class SliceInfo(Answer):
    """A slice that the token may use."""

    name: str
    hosts: int


class SliceList(Answer):
    """Slices of the service's host directory."""

    slices: list[SliceInfo]


class SliceHost(Answer):
    """A host of a slice."""

    name: str
    site: str
    tags: list[str]


class SliceHosts(Answer):
    """The hosts of a slice."""

    slice: str
    hosts: list[SliceHost]


class Mesh(Answer):
    """A standing mesh."""

    id: str
    slice: str
    owner: str
    state: str
    hosts: int
    total: int
    up: int
    created_at: float
    last_used: float
    workers: list[str]
    dead_workers: list[str]


class MeshList(Answer):
    """Meshes, last used first."""

    meshes: list[Mesh]


class MeshClosed(Answer):
    """A mesh is being closed."""

    id: str
    asked: int = Field(description="How many workers were asked to close their part.")


class Worker(Answer):
    """A live worker."""

    name: str
    capacity: int
    load: int
    protocol: int
    started_at: float
    incarnation: str
    queue: str
    host: str
    uid: int


class WorkerList(Answer):
    """The live workers, by name."""

    workers: list[Worker]


class TokenRequest(Request):
    """A token to be made."""

    owner: Owner
    scopes: Annotated[list[Literal["read", "run", "admin"]], Field(min_length=1, max_length=3)] = ["read", "run"]
    slices: Annotated[list[SliceName], Field(min_length=1, max_length=1000)] = ["*"]
    name: Annotated[str, Field(max_length=100)] = ""
    expires_s: Annotated[int, Field(ge=0, le=10 * 366 * 86400, description="From now; 0: never.")] = 0


class Token(Answer):
    """A token, without its secret."""

    id: str
    owner: str
    scopes: list[str]
    slices: list[str]
    name: str
    created_at: float
    expires_at: float = Field(description="0: never.")
    last_used_at: float = Field(description="To the minute; 0: not yet.")


class NewToken(Token):
    """A token that was just made."""

    token: str = Field(description="The token itself. It is shown only here.", examples=["plush_<id>_<secret>"])


class TokenList(Answer):
    """All tokens, oldest first."""

    tokens: list[Token]


class Blob(Answer):
    """A blob that is stored."""

    sha256: str
    size_bytes: int


class Health(Answer):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(Answer):
    """Redis answers, too."""

    status: Literal["ready"] = "ready"
    workers: int


class EventPage(Answer):
    """Events, in order. What each type means is in docs/api.md."""

    events: list[dict[str, Any]] = Field(
        description="Each with `id` and `event`.", examples=[[{"id": "1763841234567-0", "event": {"type": "waiting"}}]]
    )
    gap: bool = Field(description="Events before the first of these may have been trimmed away unseen.")
    ended: bool = Field(description="No more will come: the run has ended.")

"""What a service tells, as typed data: runs, hosts, events, tokens. Fields that a newer service adds are ignored.

Times are Unix times in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from plush_worker.model import JsonRecord

FINAL_STATES = ("succeeded", "failed", "killed")


@dataclass(frozen=True, slots=True)
class Run(JsonRecord):
    """A run."""

    id: str
    state: str  # waiting, running, stopping, succeeded, failed, killed
    name: str = ""
    kind: str = "run"  # run, deploy, fetch
    owner: str = ""
    slice: str = ""
    command: str = ""  # at most 500 characters
    why: str = ""  # what a waiting run waits for
    counts: dict[str, int] = field(default_factory=dict)  # hosts, up, started, ended, ok, nonzero, failed, ...
    submitted_at: float = 0.0
    finished_at: float | None = None
    keep_s: int = 0
    mesh: str = ""
    last_event: str = ""
    links: dict[str, str] = field(default_factory=dict)  # self, hosts, events, output, flower
    processes: tuple[dict[str, Any], ...] = ()  # of an experiment with several: name, command, hosts (indexes or None)
    deploys: bool = False  # files are copied before
    success: dict[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in FINAL_STATES

    @property
    def succeeded(self) -> bool:
        """Whether it is over and went as it should."""
        return self.state == "succeeded"


@dataclass(frozen=True, slots=True)
class HostOfRun(JsonRecord):
    """One host of a run."""

    name: str
    index: int  # in the run, from 0
    state: str  # waiting, up, running, exited, failed, unreachable, killed, unknown
    number: int | None = None  # in the mesh
    code: int | None = None
    signal: int | None = None
    detail: str = ""


class Event(NamedTuple):
    """One event of a run's stream."""

    id: str
    type: str
    values: dict[str, Any]  # the whole event, ``type`` included


@dataclass(frozen=True, slots=True)
class Token(JsonRecord):
    """A token; ``token`` itself only right after it was made."""

    id: str
    owner: str
    scopes: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    name: str = ""
    created_at: float = 0.0
    expires_at: float | None = None  # None: never
    last_used_at: float | None = None  # None: not yet
    token: str = field(default="", repr=False)


def token_of(values: Mapping[str, Any]) -> Token:
    """A token as a service tells it, where 0 stands for never."""
    given = dict(values)
    for name in ("expires_at", "last_used_at"):
        given[name] = given.get(name) or None
    return Token.from_mapping(given)

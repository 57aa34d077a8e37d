"""What the mesh state asks its driver to do. Plain data; the driver performs them in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class OpenLink:
    """Connect to a subtree root, start the node program and write ``frames`` behind the payload."""

    root: int
    order: int
    frames: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CloseLink:
    """End the worker's link to a subtree root, after what was sent before has gone out."""

    root: int


@dataclass(frozen=True, slots=True)
class Send:
    """Write a frame to the subtree under ``root``; waits in the link's queue while it is being opened."""

    root: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class DrawOrder:
    """Draw a number from the mesh counter and answer with ``order_drawn(number, hosts)``."""

    hosts: int


@dataclass(frozen=True, slots=True)
class Reassign:
    """Make subtrees of their own, of the same owner, out of hosts whose parent is given up.

    ``members`` maps each new root to its host set; answer with ``open_subtrees``.
    """

    members: dict[int, int]


@dataclass(frozen=True, slots=True)
class StoreOutput:
    """Append an OUTPUT frame to the segment of a run."""

    run_id: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class Emit:
    """Append an event to the stream of a run; once it is stored, send ``then``."""

    run_id: str
    event: dict[str, Any]
    then: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True)
class AskOp:
    """A host holds an op that this worker doesn't know: answer with ``op_ordered`` or ``op_forgotten``."""

    op: int


@dataclass(frozen=True, slots=True)
class SaveUp:
    """The set of reachable hosts of a subtree changed; keep it in the store."""

    root: int
    up: int


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the worker's log."""

    text: str


@dataclass(frozen=True, slots=True)
class FeedStdin:
    """A host may be sent a piece of standard input: look which."""


Effect = OpenLink | CloseLink | Send | DrawOrder | Reassign | StoreOutput | Emit | AskOp | SaveUp | Log | FeedStdin

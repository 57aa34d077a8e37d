"""How commands talk to the service: the ``Client`` interface, and ``DirectClient`` over Redis and segment files.

Commands know only ``Client``. Nothing here starts, shows or decides anything. Entry point: ``connect``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from plush_worker.errors import PeerError
from plush_worker.model import RunSpec, WorkerInfo

if TYPE_CHECKING:
    from plush_worker.store.light import LightStore

MAX_BLOCK_MS = 5000  # of one wait for events


class SegmentMissing(PeerError):
    """Output is stored where this process can't read it."""

    code = "segment_missing"


class OutputRecord(NamedTuple):
    """One piece of output of some hosts, as ``plush_worker.store.segments`` stores it."""

    hosts: int
    op: int
    stream: int
    flags: int
    offset: int
    data: bytes


class Client(Protocol):
    """What every command needs of the service. All block; one object serves one thread.

    Every method raises a PlushError: ``retryable`` ones may be tried again as they are.
    """

    def submit(self, spec: RunSpec) -> None:
        """Store the run and ask a worker to coordinate it."""

    def events(self, run_id: str, after: str, block_ms: int) -> list[tuple[str, dict[str, Any]]]:
        """The (id, event) behind ``after`` (empty: from the first), in order; empty when none came in ``block_ms``."""

    def output(self, run_id: str, segment: str, start_bytes: int, committed_bytes: int) -> Iterator[OutputRecord]:
        """The records of a segment from ``start_bytes`` up to ``committed_bytes``."""

    def kill(self, run_id: str, signal: int, grace_ms: int, by: str) -> None:
        """Ask the run's coordinator to stop it: ``signal``, and SIGKILL after ``grace_ms``."""

    def renew(self, run_id: str, ttl_s: int) -> None:
        """The client of the run lives: don't stop it within ``ttl_s``."""

    def runs(self, limit: int = 100) -> list[dict[str, str]]:
        """The newest runs, newest first: their short fields and ``run_id``."""

    def run(self, run_id: str) -> dict[str, str]:
        """All fields of one run; empty when there is none of that id."""

    def meshes(self) -> list[dict[str, Any]]:
        """The standing meshes."""

    def close_mesh(self, mesh: str, *, kill: bool = False) -> int:
        """Ask every owner of the mesh's subtrees to close them. Returns how many owners were asked."""

    def workers(self) -> list[WorkerInfo]:
        """The live workers."""

    def close(self) -> None:
        """Give the connection back."""


def connect(redis_url: str, state_dir: str = "") -> Client:
    """A client of the service at ``redis_url``; it connects with its first request.

    ``state_dir``: where workers of this machine keep output that don't live any more to say so themselves.
    """
    from plush_worker.store.light import LightStore

    return DirectClient(LightStore.connect(redis_url), state_dir)


class DirectClient:
    """A Client on the machine of the workers: Redis for everything but output, which is in their segment files."""

    def __init__(self, store: LightStore, state_dir: str = "") -> None:
        self._store = store
        self._state_dirs = {"": state_dir} if state_dir else {}  # a segment's name without its suffix -> state folder

    def submit(self, spec: RunSpec) -> None:
        """See Client."""
        self._store.submit(spec)

    def events(self, run_id: str, after: str, block_ms: int) -> list[tuple[str, dict[str, Any]]]:
        """See Client."""
        return self._store.events(run_id, after or "0", min(block_ms, MAX_BLOCK_MS))

    def output(self, run_id: str, segment: str, start_bytes: int, committed_bytes: int) -> Iterator[OutputRecord]:
        """See Client."""
        from plush_worker.store.segments import read_segment

        path = self._segment_path(run_id, segment)
        for record in read_segment(path, start_bytes, committed_bytes):
            yield OutputRecord(*record)

    def kill(self, run_id: str, signal: int, grace_ms: int, by: str) -> None:
        """See Client."""
        self._store.request_kill(run_id, signal, grace_ms, by)

    def renew(self, run_id: str, ttl_s: int) -> None:
        """See Client."""
        self._store.renew_client(run_id, ttl_s)

    def runs(self, limit: int = 100) -> list[dict[str, str]]:
        """See Client."""
        return self._store.runs(limit)

    def run(self, run_id: str) -> dict[str, str]:
        """See Client."""
        return self._store.run_fields(run_id)

    def meshes(self) -> list[dict[str, Any]]:
        """See Client."""
        return self._store.meshes()

    def close_mesh(self, mesh: str, *, kill: bool = False) -> int:
        """See Client."""
        return self._store.close_mesh(mesh, kill)

    def workers(self) -> list[WorkerInfo]:
        """See Client."""
        return self._store.live_workers()

    def close(self) -> None:
        """See Client."""
        self._store.close()

    def _segment_path(self, run_id: str, segment: str) -> str:
        """Where a segment is. Raises SegmentMissing when no worker's state folder on this machine has it."""
        if os.path.basename(segment) != segment:
            raise SegmentMissing(f"segment {segment!r} of run {run_id} has a path for a name")
        stem = segment.removesuffix(".seg")
        if stem not in self._state_dirs:
            for worker in self._store.live_workers():
                self._state_dirs[f"{worker.name}-{worker.incarnation}"] = worker.state_dir
        folders = dict.fromkeys([self._state_dirs.get(stem, ""), *self._state_dirs.values()])
        for folder in folders:
            path = f"{folder}/runs/{run_id}/{segment}"
            if folder and os.path.exists(path):
                self._state_dirs[stem] = folder
                return path
        where = ", ".join(folder for folder in folders if folder) or "no folder, since no worker lives"
        raise SegmentMissing(
            f"output of run {run_id} is in {segment}, which is not on this machine (looked under {where}): "
            "run the command where the workers are"
        )

"""How commands talk to the service: the ``Client`` interface, and ``DirectClient`` over Redis and segment files.

For programs there are ``Plush`` and ``AsyncPlush`` (``sdk.py``), which can be imported from here, too. Commands know
only ``Client``. Nothing here starts, shows or decides anything. Entry point: ``connect``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from plush_worker.errors import PeerError
from plush_worker.model import RunSpec, WorkerInfo

if TYPE_CHECKING:
    from plush_worker.experiment.spec import Experiment
    from plush_worker.store.light import LightStore

    from .sdk import AsyncPlush, Plush

__all__ = ["AsyncPlush", "Client", "DirectClient", "OutputRecord", "Plush", "SegmentMissing", "connect"]

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

    def owner(self) -> str:
        """Whom the runs belong to that this client submits."""

    def runs(self, limit: int = 100) -> list[dict[str, str]]:
        """The newest runs, newest first: their short fields and ``run_id``."""

    def run(self, run_id: str) -> dict[str, str]:
        """All fields of one run; empty when there is none of that id."""

    def submit_experiment(
        self, experiment: Experiment, base_dir: str, directory: str = "", config: str = ""
    ) -> RunSpec:
        """Store a run of the experiment, whose files are in ``base_dir``, and ask a worker to coordinate it.

        ``directory`` and ``config`` are the host directory and the OpenSSH configuration to look hosts up in, where
        this machine does that. Returns the run. Raises SpecErrors.
        """

    def spec(self, run_id: str) -> RunSpec:
        """What the run was submitted with, as far as this client may know it. Raises RunNotFound or NoSuchRun."""

    def remove(self, run_id: str) -> bool:
        """Forget an ended run and its output; False when there is none of that id."""

    def meshes(self) -> list[dict[str, Any]]:
        """The standing meshes."""

    def close_mesh(self, mesh: str, *, kill: bool = False) -> int:
        """Ask every owner of the mesh's subtrees to close them. Returns how many owners were asked."""

    def workers(self) -> list[WorkerInfo]:
        """The live workers."""

    def create_token(
        self, owner: str, scopes: Sequence[str], slices: Sequence[str], name: str, expires_s: float
    ) -> dict[str, Any]:
        """A new token as ``tokens`` has them, and ``token`` itself. ``expires_s``: from now; 0: never."""

    def tokens(self) -> list[dict[str, Any]]:
        """Tokens, without their secrets: id, owner, scopes, slices, name, created_at, expires_at, last_used_at."""

    def revoke_token(self, token_id: str) -> bool:
        """Forget a token; False when there is none of that id."""

    def close(self) -> None:
        """Give the connection back."""


def connect(redis_url: str, state_dir: str = "") -> Client:
    """A client of the service at ``redis_url``; it connects with its first request.

    ``state_dir``: where workers of this machine keep output that don't live any more to say so themselves.
    """
    from plush_worker.store.light import LightStore

    return DirectClient(LightStore.connect(redis_url), state_dir, redis_url)


class DirectClient:
    """A Client on the machine of the workers: Redis for everything but output, which is in their segment files."""

    def __init__(self, store: LightStore, state_dir: str = "", redis_url: str = "") -> None:
        self._store = store
        self._redis_url = redis_url
        self._state_dir = state_dir
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

    def owner(self) -> str:
        """See Client: this user by name."""
        from plush_api.cli.submission import owner_name

        return owner_name()

    def runs(self, limit: int = 100) -> list[dict[str, str]]:
        """See Client."""
        return self._store.runs(limit)

    def run(self, run_id: str) -> dict[str, str]:
        """See Client."""
        return self._store.run_fields(run_id)

    def submit_experiment(
        self, experiment: Experiment, base_dir: str, directory: str = "", config: str = ""
    ) -> RunSpec:
        """See Client."""
        from plush_worker.blobs import BlobStore
        from plush_worker.experiment.spec import compile_experiment

        spec = compile_experiment(
            experiment,
            owner=self.owner(),
            blobs=BlobStore(self._blobs_dir()),
            base_dir=base_dir,
            directory=directory,
            config_file=config,
        )
        self.submit(spec)
        return spec

    def spec(self, run_id: str) -> RunSpec:
        """See Client."""
        return self._store.load_run(run_id)

    def remove(self, run_id: str) -> bool:
        """See Client. Workers remove the files of runs that the store doesn't know any more."""
        return self._store.remove_run(run_id)

    def meshes(self) -> list[dict[str, Any]]:
        """See Client."""
        return self._store.meshes()

    def close_mesh(self, mesh: str, *, kill: bool = False) -> int:
        """See Client."""
        return self._store.close_mesh(mesh, kill)

    def workers(self) -> list[WorkerInfo]:
        """See Client."""
        return self._store.live_workers()

    def create_token(
        self, owner: str, scopes: Sequence[str], slices: Sequence[str], name: str, expires_s: float
    ) -> dict[str, Any]:
        """See Client."""
        from plush_api.direct_tokens import create_token

        return create_token(self._redis_url, owner, scopes, slices, name, expires_s)

    def tokens(self) -> list[dict[str, Any]]:
        """See Client."""
        from plush_api.direct_tokens import list_tokens

        return list_tokens(self._redis_url)

    def revoke_token(self, token_id: str) -> bool:
        """See Client."""
        from plush_api.direct_tokens import revoke_token

        return revoke_token(self._redis_url, token_id)

    def close(self) -> None:
        """See Client."""
        self._store.close()

    def _blobs_dir(self) -> str:
        """The state folder of the workers, as far as it is known here."""
        from plush_worker import xdg

        if self._state_dir:
            return self._state_dir
        here = xdg.machine_id()
        of_workers = [worker.state_dir for worker in self._store.live_workers() if worker.host == here]
        return os.environ.get("PLUSH_STATE_DIR") or next(iter(of_workers), str(xdg.state_dir()))

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


def __getattr__(name: str) -> Any:
    """``Plush`` and ``AsyncPlush``, the clients for programs; imported when asked for, since httpx takes 130 ms."""
    if name in ("Plush", "AsyncPlush"):
        from . import sdk

        return getattr(sdk, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""``HttpClient``: what commands need of a service, over HTTP; the twin of ``client.DirectClient``.

Tries nothing again by itself: commands say that the service is away, and go on when it is back.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from plush_worker.errors import RunNotFound, UsageError
from plush_worker.model import RunSpec, WorkerInfo
from plush_worker.node import frames, hostset, messages

from . import api_calls as calls
from .api_errors import ApiFailed, ApiRefused, ApiUnavailable
from .api_records import HostOfRun, Run, Token
from .client import MAX_BLOCK_MS, OutputRecord
from .sdk import Plush

if TYPE_CHECKING:
    import httpx

    from plush_worker.experiment.spec import Experiment

NOT_CONNECTED_STATES = ("waiting",)


class HttpClient:
    """A Client of a service elsewhere. Hosts, files and rights are looked up where it runs."""

    def __init__(self, url: str, token: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self._plush = Plush(url, token, patience_s=0.0, transport=transport)

    def submit(self, spec: RunSpec) -> None:
        """Not over HTTP: the hosts of a spec carry what a service looks up by itself. Raises UsageError."""
        raise UsageError(f"run {spec.run_id}: a service elsewhere takes experiments, not runs that were made here")

    def submit_experiment(
        self, experiment: Experiment, base_dir: str, directory: str = "", config: str = ""
    ) -> RunSpec:
        """See Client. Raises UsageError for a host directory or configuration of this machine."""
        if directory or config:
            raise UsageError(
                f"{'--directory' if directory else '-F'} {directory or config}: the service looks hosts up in its own "
                "host directory; give names of that"
            )
        from plush_worker.experiment.spec import pack_experiment

        ready = pack_experiment(experiment, base_dir)
        for digest, path in ready.contents.items():
            self._plush.put_blob(digest, path)
        run = self._plush.call(calls.submit(ready.experiment.to_mapping(), str(uuid.uuid4())))
        return self.spec(run.id)

    def events(self, run_id: str, after: str, block_ms: int) -> list[tuple[str, dict[str, Any]]]:
        """See Client."""
        wait_s = min(block_ms, MAX_BLOCK_MS) / 1000
        return [(event.id, event.values) for event in self._plush.call(calls.events(run_id, after, wait_s)).events]

    def output(self, run_id: str, segment: str, start_bytes: int, committed_bytes: int) -> Iterator[OutputRecord]:
        """See Client."""
        path, params = calls.segment(run_id, segment, start_bytes, committed_bytes)
        what = f"reading output of run {run_id}"
        decoder, came_bytes, whole_bytes = frames.Decoder(), 0, 0
        try:
            for data in self._plush.stream(path, what, params):
                came_bytes += len(data)
                for kind, _, _, hosts, body in decoder.feed(data):
                    if kind != frames.OUTPUT:
                        raise ApiFailed(f"{what}: segment {segment} has a {frames.NAMES[kind]} frame")
                    whole_bytes += len(frames.encode(kind, hosts, b"")) + len(body)
                    op, stream, flags, offset = messages.decode_output(body)
                    piece = body[messages.OUTPUT_HEADER_BYTES :]
                    yield OutputRecord(hostset.decode(hosts), op, stream, flags, offset, piece)
        except (frames.FrameError, messages.MessageError, hostset.HostSetError) as error:
            raise ApiFailed(f"{what}: segment {segment} is damaged: {error}") from error
        wanted_bytes = committed_bytes - start_bytes
        if came_bytes != wanted_bytes:
            raise ApiUnavailable(f"{what}: {came_bytes} of {wanted_bytes} bytes of {segment} came")
        if whole_bytes != wanted_bytes:
            raise ApiFailed(f"{what}: segment {segment} is damaged: no frame ends at byte {committed_bytes}")

    def kill(self, run_id: str, signal: int, grace_ms: int, by: str) -> None:
        """See Client; the service notes by itself who it was."""
        self._plush.call(calls.kill(run_id, signal, grace_ms))

    def renew(self, run_id: str, ttl_s: int) -> None:
        """See Client."""
        self._plush.call(calls.renew(run_id, ttl_s))

    def owner(self) -> str:
        """See Client: the token's."""
        return self._plush.call(calls.whoami()).owner

    def runs(self, limit: int = 100) -> list[dict[str, str]]:
        """See Client; ``up`` and ``done`` count hosts, so that nobody needs to fold events for that."""
        return [_fields(run) for run in self._plush.runs(limit=limit)]

    def run(self, run_id: str) -> dict[str, str]:
        """See Client."""
        try:
            run = self._plush.run(run_id)
        except RunNotFound:
            return {}
        except ApiRefused as error:
            if error.status in (404, 422):  # no id of a run: the beginning of one, perhaps
                return {}
            raise
        hosts = self._plush.hosts(run_id)
        numbered = [[host.number, host.name] for host in hosts if host.number is not None]
        rejected = {h.name: h.detail for h in hosts if h.number is None and h.state not in NOT_CONNECTED_STATES}
        return _fields(run) | {"hosts": json.dumps(numbered), "rejected": json.dumps(rejected)}

    def spec(self, run_id: str) -> RunSpec:
        """See Client: without how its hosts are reached, which is the service's matter."""
        return spec_of(self._plush.run(run_id), self._plush.hosts(run_id))

    def remove(self, run_id: str) -> bool:
        """See Client."""
        return self._plush.remove(run_id)

    def meshes(self) -> list[dict[str, Any]]:
        """See Client."""
        return self._plush.meshes()

    def close_mesh(self, mesh: str, *, kill: bool = False) -> int:
        """See Client."""
        return self._plush.call(calls.close_mesh(mesh, kill_first=kill))

    def workers(self) -> list[WorkerInfo]:
        """See Client."""
        return self._plush.workers()

    def slices(self) -> list[dict[str, Any]]:
        """The slices that the token may use."""
        return self._plush.slices()

    def slice_hosts(self, name: str) -> list[dict[str, Any]]:
        """The hosts of a slice."""
        return self._plush.slice_hosts(name)

    def create_token(
        self, owner: str, scopes: Sequence[str], slices: Sequence[str], name: str, expires_s: float
    ) -> dict[str, Any]:
        """See Client."""
        token = self._plush.create_token(owner, scopes, slices, name=name, expires_s=expires_s)
        return {**_token_fields(token), "token": token.token}

    def tokens(self) -> list[dict[str, Any]]:
        """See Client."""
        return [_token_fields(token) for token in self._plush.tokens()]

    def revoke_token(self, token_id: str) -> bool:
        """See Client."""
        return self._plush.revoke_token(token_id)

    def close(self) -> None:
        """See Client."""
        self._plush.close()


def spec_of(run: Run, hosts: Sequence[HostOfRun]) -> RunSpec:
    """What is known of a run over HTTP, in the form in which its events are folded."""
    return RunSpec(
        run_id=run.id,
        owner=run.owner,
        command=run.command,
        hosts=tuple({"name": host.name, "address": ""} for host in hosts),
        slice={"name": run.slice} if run.slice else {},
        submitted_at=run.submitted_at,
        name=run.name,
        kind=run.kind,
        processes=run.processes,
        fetch=("",) if run.kind == "fetch" else (),
        files=({"dest": "", "kind": "file", "hosts": None},) if run.deploys else (),
        success=run.success,
        keep_s=run.keep_s,
    )


def _fields(run: Run) -> dict[str, str]:
    """A run as the store's fields have it, as far as commands read them."""
    counts = run.counts
    summary = {name: counts.get(name, 0) for name in ("hosts", "ok", "nonzero", "failed", "unreachable", "killed")}
    found = {
        "run_id": run.id,
        "state": run.state,
        "name": run.name,
        "kind": run.kind,
        "owner": run.owner,
        "command": run.command,
        "host_count": str(counts.get("hosts", 0)),
        "up": str(counts.get("up", 0)),
        "done": str(counts.get("ended", 0)),
        "submitted_at": repr(run.submitted_at),
        "flower_url": str(run.links.get("flower", "")),
    }
    if run.ended:
        found |= {"finished": repr(run.finished_at or 0.0), "summary": json.dumps(summary)}
    return found


def _token_fields(token: Token) -> dict[str, Any]:
    names = ("id", "owner", "name", "created_at", "expires_at", "last_used_at")
    found = {name: getattr(token, name) for name in names}
    return found | {"scopes": list(token.scopes), "slices": list(token.slices)}

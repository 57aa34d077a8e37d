"""Stand-ins for the edges of the command line: a console that remembers, a client that plays recorded events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from plush_api.cli.console import STDERR, STDOUT, Console
from plush_api.client import OutputRecord
from plush_worker.model import HostEntry, RunSpec, WorkerInfo


class FakeConsole(Console):
    """Keeps what would have been written; ``out`` and ``err`` are all of it."""

    def __init__(self, *, quiet: bool = False, terminal: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._terminal = {STDOUT: terminal, STDERR: terminal}
        self.sent: list[tuple[int, bytes]] = []
        self.fail: Exception | None = None

    def _send(self, descriptor: int) -> None:
        data = b"".join(self._buffers[descriptor])
        self._buffers[descriptor], self._sizes[descriptor] = [], 0
        if data:
            if self.fail and descriptor == STDOUT:
                raise self.fail
            self.sent.append((descriptor, data))
            self._at_line_start[descriptor] = data.endswith(b"\n")

    @property
    def out(self) -> bytes:
        self.flush()
        return b"".join(data for fd, data in self.sent if fd == STDOUT)

    @property
    def err(self) -> bytes:
        self.flush()
        return b"".join(data for fd, data in self.sent if fd == STDERR)


class FakeClient:
    """Plays ``batches`` of events, one a call; raises those that are exceptions. Segments are lists of records."""

    def __init__(
        self,
        batches: Sequence[Sequence[dict[str, Any]] | Exception] = (),
        segments: dict[str, list[OutputRecord]] | None = None,
        fields: dict[str, str] | None = None,
        live: Sequence[WorkerInfo] = (),
    ) -> None:
        self.batches = list(batches)
        self.segments = segments or {}
        self.fields = fields or {}
        self.live = list(live)
        self.submitted: list[RunSpec] = []
        self.kills: list[tuple[int, int]] = []
        self.renewed = 0
        self.closed: list[str] = []
        self._count = 0

    def submit(self, spec: RunSpec) -> None:
        self.submitted.append(spec)

    def events(self, run_id: str, after: str, block_ms: int) -> list[tuple[str, dict[str, Any]]]:
        if not self.batches:
            return []
        batch = self.batches.pop(0)
        if isinstance(batch, Exception):
            raise batch
        found = []
        for event in batch:
            self._count += 1
            found.append((f"{1000 + self._count * 100}-0", event))
        return found

    def output(self, run_id: str, segment: str, start_bytes: int, committed_bytes: int) -> Iterator[OutputRecord]:
        """Records count one byte each."""
        yield from self.segments[segment][start_bytes:committed_bytes]

    def kill(self, run_id: str, signal: int, grace_ms: int, by: str) -> None:
        self.kills.append((signal, grace_ms))

    def renew(self, run_id: str, ttl_s: int) -> None:
        self.renewed += 1

    def runs(self, limit: int = 100) -> list[dict[str, str]]:
        return [self.fields] if self.fields else []

    def run(self, run_id: str) -> dict[str, str]:
        return self.fields

    def meshes(self) -> list[dict[str, Any]]:
        return []

    def close_mesh(self, mesh: str, *, kill: bool = False) -> int:
        self.closed.append(mesh)
        return 1

    def workers(self) -> list[WorkerInfo]:
        return self.live

    def close(self) -> None:
        pass


def spec_of(*names: str, command: str = "date") -> RunSpec:
    """A run on hosts of these names."""
    return RunSpec(
        "run-1", "me", command, tuple(asdict(HostEntry(name, f"10.0.0.{at}")) for at, name in enumerate(names))
    )


def joined(hosts: str) -> list[dict[str, Any]]:
    """The events of a run's start, up to its one op (number 7) being ordered."""
    return [
        {"type": "run_submitted"},
        {"type": "coordinator_started", "worker": "w", "term": 1},
        {"type": "hosts_joined", "mesh": "m", "hosts": hosts},
        {"type": "subtrees_assigned", "worker": "w", "incarnation": "i", "epoch": 1, "roots": "0", "hosts": hosts},
        {"type": "op_ordered", "op": 7, "kind": "exec", "hosts": hosts},
    ]


def up(hosts: str) -> dict[str, Any]:
    return {"type": "hosts_up", "hosts": hosts, "order": 3}


def started(hosts: str) -> dict[str, Any]:
    return {"type": "op_started", "op": 7, "hosts": hosts}


def ended(hosts: str, state: str = "exited", code: int | None = 0, **more: Any) -> dict[str, Any]:
    return {
        "type": "op_ended",
        "op": 7,
        "hosts": hosts,
        "state": state,
        "code": code,
        "signal": None,
        "detail": "",
    } | more


def lost(
    hosts: str, detail: str, *, code: str = "refused", reached: bool = False, final: bool = True
) -> dict[str, Any]:
    return {
        "type": "hosts_lost", "hosts": hosts, "child": 0,
        "code": code, "detail": detail, "reached": reached, "final": final,
    }  # fmt: skip


def output(segment: str, count: int) -> dict[str, Any]:
    return {"type": "output", "segment": segment, "bytes": count}


def finished(state: str = "succeeded") -> dict[str, Any]:
    return {"type": "run_finished", "state": state, "summary": {}}

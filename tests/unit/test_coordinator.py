"""What a coordinator asks of the store and whom it wakes, over a store that is kept in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest

from plush_worker import coordinator
from plush_worker.coordinator import JoinedBefore, RunCoordinator
from plush_worker.model import HostEntry, OpRecord, RunSpec, SubtreeRecord, WorkerInfo
from plush_worker.node import hostset, limits
from plush_worker.node.hostset import from_text

WORKER = WorkerInfo("w", "i", "worker.w", limits.PROTOCOL_VERSION)
OTHER = WorkerInfo("x", "j", "worker.x", limits.PROTOCOL_VERSION)


class FakeStore:
    """One run, one mesh; numbers from 10 on, so that they differ from indexes."""

    def __init__(self, spec: RunSpec, *workers: WorkerInfo) -> None:
        self.spec, self.workers = spec, list(workers)
        self.events: list[dict[str, Any]] = []
        self.fields: dict[str, str] = {}
        self.records: dict[int, SubtreeRecord] = {}
        self.ops: list[OpRecord] = []
        self.before_assign: Callable[[], None] = lambda: None
        self.refused = self.reads = 0

    async def append(self, run_id: str, event: dict[str, Any], term: int) -> None:
        self.events.append(event)

    async def read_events(self, run_id: str, after: str, block_ms: int, count: int) -> list[tuple[str, dict[str, Any]]]:
        found = [(str(n), event) for n, event in enumerate(self.events, 1) if n > int(after)]
        if not found:
            await asyncio.sleep(0)
        return found[:count]

    async def open_mesh(self, name: str, owner: str) -> str:
        return "m"

    async def join_hosts(self, mesh: str, entries: Sequence[HostEntry]) -> list[int]:
        return [10 + int(entry.name.removeprefix("n")) for entry in entries]

    async def set_run_fields(self, run_id: str, **fields: str) -> None:
        self.fields |= fields

    async def run_fields(self, run_id: str) -> dict[str, str]:
        self.reads += 1
        return self.fields

    async def live_workers(self) -> list[WorkerInfo]:
        return self.workers

    async def touch_mesh(self, mesh: str) -> None:
        pass

    async def subtrees(self, mesh: str) -> tuple[dict[int, SubtreeRecord], frozenset[str]]:
        return dict(self.records), frozenset(w.incarnation for w in self.workers)

    async def host_entries(self, mesh: str, numbers: Sequence[int]) -> dict[int, HostEntry]:
        return {n: HostEntry(f"n{n - 10}", "a") for n in numbers}

    async def assign_subtrees(self, mesh: str, records: Sequence[SubtreeRecord]) -> list[SubtreeRecord]:
        self.before_assign()
        granted = [record for record in records if record.root not in self.records]
        self.refused += len(records) - len(granted)
        self.records |= {record.root: replace(record, epoch=5) for record in granted}
        return granted

    async def order_op(
        self, mesh: str, op: OpRecord, term: int, event: Mapping[str, Any], request: str | None = None
    ) -> int:
        number = 100 + len(self.ops)
        self.ops.append(replace(op, op=number))
        self.events.append({**event, "op": number})
        return number

    async def renew_coordination(self, run_id: str, term: int, ttl_s: float) -> bool:
        return True

    async def release_coordination(self, run_id: str, term: int) -> bool:
        return True


class FakePublisher:
    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.ended: list[str] = []

    def send_task(self, name: str, kwargs: dict[str, Any], queue: str, task_id: str | None = None) -> None:
        self.sent.append((queue, kwargs))

    def progress(self, task_id: str, text: str) -> None:
        pass

    def succeed(self, task_id: str, result: dict[str, Any], runtime_s: float) -> None:
        self.ended.append(result["state"])

    def fail(self, task_id: str, error: str, runtime_s: float) -> None:
        self.ended.append(error)


def experiment(count: int = 4, **fields: Any) -> RunSpec:
    hosts = tuple({"name": f"n{n}", "address": "a"} for n in reversed(range(count)))
    return RunSpec("r", "me", fields.pop("command", ""), hosts, {"name": "trial"}, **fields)


def process(name: str, **fields: Any) -> dict[str, Any]:
    usual = {"hosts": None, "cwd": "", "env": {}, "stdin": "", "timeout_s": 0}
    return {"name": name, "command": f"run {name}", **usual, **fields}


def coordinate(store: FakeStore, answers: Callable[[int], dict[str, Any] | None]) -> FakePublisher:
    """Coordinates the run to its end; ``answers`` maps an op's index to the event that the hosts answer it with."""
    publisher = FakePublisher()
    runtime = SimpleNamespace(store=store, name="w", incarnation="i", publisher=publisher)

    async def main() -> None:
        run = RunCoordinator(runtime, store.spec, 1, JoinedBefore())  # type: ignore[arg-type]
        task = asyncio.create_task(run.run())
        answered = 0
        while not task.done():
            await asyncio.sleep(0)
            for index in range(answered, len(store.ops)):
                if answer := answers(index):
                    op = store.ops[index]
                    store.events.append({"type": "op_ended", "op": op.op, "hosts": op.hosts, **answer})
            answered = len(store.ops)
        await task

    asyncio.run(asyncio.wait_for(main(), 20))
    return publisher


OK = {"state": "exited", "code": 0, "signal": None, "detail": ""}


def well(_: int) -> dict[str, Any]:
    return OK


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "PLACE_RETRY_S", 0.0)


def test_a_plain_run_has_one_op_without_ranks_or_names() -> None:
    store = FakeStore(experiment(command="date", env={"A": "1"}, timeout_s=3), WORKER)
    assert coordinate(store, well).ended == ["succeeded"]
    (op,) = store.ops
    assert (op.kind, op.command, op.timeout_s, op.hosts) == ("exec", "date", 3, "10-13")
    assert op.env == {"A": "1", "PLUSH_RUN": "r"}
    assert (op.ranks, op.name, op.cwd, op.stdin) == ({}, "", "", "")
    assert not store.reads, "what only an experiment needs was looked up"
    assert "parts" not in next(e for e in store.events if e["type"] == "hosts_joined")


def test_an_experiment_puts_files_first_and_then_orders_every_process_with_its_own_fields() -> None:
    file = {"dest": "f", "kind": "dir", "mode": 0o755, "size": 0, "sha256": "", "target": "", "hosts": [0]}
    server = process("server", hosts=[0], env={"B": "2", "A": "own"}, cwd="d", stdin="ab" * 32, timeout_s=9)
    spec = experiment(
        files=(file,), processes=(server, process("client", hosts=[1, 2, 3])), env={"A": "1"}, timeout_s=3
    )
    store = FakeStore(spec, WORKER)
    publisher = coordinate(store, well)
    deploy = next(op for op in store.ops if op.kind == "deploy")
    assert (deploy.hosts, deploy.files, deploy.ranks) == ("13", (file,), {"13": 0}), "the first host is number 13"
    first = next(op for op in store.ops if op.name == "server")
    assert first.env == {"A": "own", "B": "2", "PLUSH_RUN": "r", "PLUSH_HOSTS_COUNT": "4"}
    assert (first.hosts, first.cwd, first.stdin, first.timeout_s) == ("13", "d", "ab" * 32, 9)
    second = next(op for op in store.ops if op.name == "client")
    assert (second.hosts, second.ranks) == ("10-12", {"12": 1, "11": 2, "10": 3})
    assert store.ops.index(first) > store.ops.index(deploy)
    assert publisher.ended == ["succeeded"]


def test_one_wake_up_for_an_owner_however_many_processes_with_words_for_people() -> None:
    store = FakeStore(experiment(processes=tuple(process(f"p{n}") for n in range(5))), WORKER)
    sent = coordinate(store, well).sent
    about = [(queue, k["what"], k["host_count"], k["slice"], k["run_id"]) for queue, k in sent]
    assert about[:2] == [("worker.w", "open", 4, "trial", "r"), ("worker.w", "run", 4, "trial", "r")]
    assert all(count == 0 for _, _, count, _, _ in about[2:]), "more than one wake-up for five ops"


def test_only_owners_of_the_hosts_are_woken() -> None:
    store = FakeStore(experiment(processes=(process("p", hosts=[0]), process("q", hosts=[0]))), WORKER, OTHER)
    file = {"dest": "f", "kind": "dir", "mode": 0o755, "size": 0, "sha256": "", "target": "", "hosts": None}
    store.spec = replace(store.spec, files=(file,))
    sent = coordinate(store, well).sent
    owner = next(f"worker.{r.owner}" for r in store.records.values() if from_text(r.members) >> 13 & 1)
    assert {queue for queue, k in sent if k["what"] == "deploy"} == {"worker.w", "worker.x"}
    woken = [queue for queue, k in sent if k["what"] == "run"]
    assert sorted(woken) == sorted([owner, "worker.w", "worker.x"]), "the processes' owner, and both at the end"


def test_hosts_that_another_run_places_meanwhile_are_found_under_their_owner() -> None:
    """Else both runs plan the same hosts, one is refused, and it would wait for hosts that nobody opens for it."""
    store = FakeStore(experiment(command="date"), WORKER)

    def another() -> None:
        record = SubtreeRecord(10, "w", "i", 4, "10-13", {"11": 10, "12": 10, "13": 10}, asdict(store.spec.settings()))
        store.records.setdefault(10, record)

    store.before_assign = another
    publisher = coordinate(store, well)
    assert store.refused, "the other run was not in the way"
    assert publisher.ended == ["succeeded"]
    opened = [kwargs for _, kwargs in publisher.sent if kwargs["what"] == "open"]
    assert [from_text(kwargs["roots"]) >> 10 & 1 for kwargs in opened] == [1], "its owner was not told of this run"


def test_a_later_coordinator_goes_on_with_what_is_left() -> None:
    """It has only the events: the files were put, and one of two processes has been ordered."""
    file = {"dest": "f", "kind": "dir", "mode": 0o755, "size": 0, "sha256": "", "target": "", "hosts": None}
    store = FakeStore(experiment(2, files=(file,), processes=(process("p"), process("q", hosts=[1]))), WORKER)
    store.fields["hosts"] = json.dumps([[11, "n1"], [10, "n0"]])
    parts = [{"kind": "deploy", "name": "", "hosts": "10-11"}, {"kind": "exec", "name": "p", "hosts": "10-11"}]
    parts.append({"kind": "exec", "name": "q", "hosts": "10"})
    store.events = [
        {"type": "hosts_joined", "mesh": "m", "hosts": "10-11", "parts": parts},
        {"type": "op_ordered", "op": 50, "kind": "deploy", "name": "", "hosts": "10-11"},
        {"type": "op_ended", "op": 50, "hosts": "10-11", **OK},
        {"type": "op_ordered", "op": 51, "kind": "exec", "name": "p", "hosts": "10-11"},
        {"type": "op_ended", "op": 51, "hosts": "10-11", **OK},
    ]
    assert coordinate(store, well).ended == ["succeeded"]
    assert [(op.name, op.hosts, op.ranks) for op in store.ops] == [("q", "10", {"10": 1})]


def test_what_failed_is_counted_by_host_in_the_end_of_the_task() -> None:
    store = FakeStore(experiment(processes=(process("p"), process("q", hosts=[0]))), WORKER)
    ended = coordinate(store, lambda index: OK if store.ops[index].name == "p" else {**OK, "code": 2}).ended
    assert ended == ["failed: of 4 hosts 3 ok, 1 nonzero"]
    assert json.loads(store.fields["summary"])["nonzero"] == 1
    assert hostset.size(from_text(store.fields["numbers"])) == 4

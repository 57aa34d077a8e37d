"""The coordinators of one worker: each folds one run's event stream and performs what the state decides.

Started by the Celery task ``plush.coordinate``, which hands the run over and ends; lives on the mesh thread's loop.
Decides nothing itself (``run_state.py``) and talks to workers only through the store and their wake-up tasks.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from typing import TYPE_CHECKING, Any

from plush_worker import placement
from plush_worker.errors import PlushError, StoreUnavailable
from plush_worker.model import HostState, OpRecord, RunSpec, SubtreeRecord, WorkerInfo
from plush_worker.node import hostset
from plush_worker.node.hostset import from_text, to_text
from plush_worker.run_ops import build_op, build_signal
from plush_worker.run_parts import DEPLOY, EXEC, FETCH, union
from plush_worker.run_state import (
    Decision,
    Finish,
    GiveUp,
    KillDone,
    OrderOp,
    OrderSignal,
    RunState,
    is_plain,
    plan_parts,
)

if TYPE_CHECKING:
    from plush_worker.runtime import WorkerRuntime
    from plush_worker.store import Store

logger = logging.getLogger(__name__)

LEASE_TTL_S = 6.0
LEASE_RENEW_S = 2.0
WAKE_AGAIN_S = 5.0
NO_WORKER_RETRY_S = 0.5
PLACE_RETRY_S = 0.05
STORE_RETRY_S = 0.5
KILL_PATIENCE_S = 15.0  # beyond the grace, before silent hosts are given up
PROGRESS_EVERY_S = 0.25
EVENTS_AT_ONCE = 1000
HOST_LISTS_KEPT = 64
_WHAT = {EXEC: "run", DEPLOY: "deploy", FETCH: "fetch"}  # kind of op -> the word for it in tasks


class Coordinators:
    """All runs coordinated by this worker."""

    def __init__(self, runtime: WorkerRuntime) -> None:
        self._runtime = runtime
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._joined = JoinedBefore()

    async def start_run(self, run_id: str) -> dict[str, Any]:
        """Takes the run's lease and coordinates it from now on; does nothing where another one does or it is over."""
        if run_id in self._tasks:
            return {"coordinated": "here already"}
        store, runtime = self._runtime.store, self._runtime
        spec = await store.load_run(run_id)
        if spec is None:
            return {"coordinated": "no such run"}
        term = await store.take_coordination(run_id, runtime.name, runtime.incarnation, LEASE_TTL_S)
        if term is None:
            return {"coordinated": "elsewhere"}
        task = asyncio.get_running_loop().create_task(RunCoordinator(runtime, spec, term, self._joined).run())
        self._tasks[run_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(run_id, None))
        return {"coordinated": "here", "term": term}

    async def stop(self) -> None:
        """Lets every run go; their leases run out and another worker takes them over."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class JoinedBefore:
    """Host lists that have joined a mesh, so that the next run over the same hosts need not describe them again."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, bytes], list[int]] = {}

    async def numbers(self, store: Store, mesh: str, spec: RunSpec) -> list[int]:
        """The mesh numbers of the run's hosts, in their order; joins those that aren't in the mesh."""
        key = (mesh, hashlib.blake2b(json.dumps(spec.hosts).encode(), digest_size=16).digest())
        known = self._numbers.get(key)
        if known is None:
            known = await store.join_hosts(mesh, spec.entries())
            if len(self._numbers) >= HOST_LISTS_KEPT:
                del self._numbers[next(iter(self._numbers))]
            self._numbers[key] = known
        return known


class RunCoordinator:
    """One run, for one term."""

    def __init__(self, runtime: WorkerRuntime, spec: RunSpec, term: int, joined: JoinedBefore) -> None:
        self._joined = joined
        self._runtime = runtime
        self._store = runtime.store
        self._spec = spec
        self._term = term
        self._state = RunState(spec)
        self._last_id = "0"
        self._owners: dict[str, str] = {}  # worker name -> incarnation, of subtrees with hosts of this run
        self._owned: dict[str, int] = {}  # worker name -> hosts of this run under it
        self._numbers: list[int] = []  # of the hosts, in the order of the spec; read again where it is needed
        self._began_s = time.monotonic()
        self._renewed_s = self._woke_s = self._began_s
        self._told = ""
        self._told_s = 0.0
        self._kill_deadline_s = float("inf")

    async def run(self) -> None:
        """Until the run has ended, or the term is over."""
        run_id = self._spec.run_id
        try:
            await self._append({"type": "coordinator_started", "worker": self._runtime.name, "term": self._term})
            while not self._state.finished:
                try:
                    await self._step()
                except StoreUnavailable as error:
                    logger.warning("run %s: %s: tried again", run_id, error)
                    await asyncio.sleep(STORE_RETRY_S)
        except asyncio.CancelledError:
            raise
        except PlushError as error:
            logger.error("run %s: given up by this coordinator: %s", run_id, error)
            if error.code != "fenced":
                await self._fail(str(error))
        except Exception as error:
            logger.exception("run %s: its coordinator failed", run_id)
            await self._fail(f"the coordinator failed: {type(error).__name__}: {error}")

    async def _step(self) -> None:
        state = self._state
        if not state.joined:
            await self._catch_up()
            if not state.joined:
                await self._join()
        if not state.assigned and not state.finished:
            await self._assign()
        await self._catch_up(block_ms=0 if state.decide() else 1000)
        await self._keep_leases()
        ordered: dict[str, int] = {}
        for decision in state.decide():
            await self._perform(decision)
            match decision:
                case OrderOp(hosts, kind):
                    ordered[_WHAT[kind]] = ordered.get(_WHAT[kind], 0) | hosts
                case OrderSignal(_, hosts):
                    ordered["kill"] = ordered.get("kill", 0) | hosts
        for what, hosts in ordered.items():
            self._wake_ops(what, hosts)
        self._show_progress()

    async def _catch_up(self, block_ms: int = 0) -> None:
        """Folds all that has been appended so far, this coordinator's own events included; waits for the first."""
        while True:
            found = await self._store.read_events(self._spec.run_id, self._last_id, block_ms, count=EVENTS_AT_ONCE)
            for event_id, event in found:
                self._state.fold(event)
                self._last_id = event_id
            if len(found) < EVENTS_AT_ONCE:
                return
            block_ms = 0

    async def _append(self, event: dict[str, Any]) -> None:
        await self._store.append(self._spec.run_id, event, term=self._term)

    # ---- hosts

    async def _join(self) -> None:
        spec, store = self._spec, self._store
        mesh = await store.open_mesh(spec.settings().name, spec.owner)
        numbers = await self._joined.numbers(store, mesh, spec)
        hosts = hostset.of(numbers)
        names = [[n, host["name"]] for n, host in zip(numbers, spec.hosts, strict=True)]
        named = json.dumps(names, separators=(",", ":"))
        await store.set_run_fields(spec.run_id, mesh=mesh, hosts=named, numbers=to_text(hosts))
        event: dict[str, Any] = {"type": "hosts_joined", "mesh": mesh, "hosts": to_text(hosts)}
        parts = plan_parts(spec, numbers)
        await self._append(event if parts is None else {**event, "parts": parts})
        await self._catch_up()

    async def _assign(self) -> None:
        """Finds owners for the run's hosts: those of standing subtrees, and new ones for the rest."""
        state, store = self._state, self._store
        workers, why = placement.usable_workers(await store.live_workers(), self._spec)
        if not workers:
            if why != state.waiting:
                await self._append({"type": "waiting", "why": why})
            await asyncio.sleep(NO_WORKER_RETRY_S)
            return
        await store.touch_mesh(state.mesh)
        open_hosts = state.targets & ~state.ended
        standing = await self._standing(workers)
        covered = incomplete = up = 0
        for record in standing:
            covered |= from_text(record.members)
            up |= from_text(record.up)
            if open_hosts & from_text(record.members) & ~from_text(record.up):
                incomplete |= 1 << record.root
        fresh: list[SubtreeRecord] = []
        if missing := open_hosts & ~covered:
            fresh, unplaced = await self._place(missing, standing, workers)
            for record in fresh:
                covered |= from_text(record.members)
            if open_hosts & ~covered & ~unplaced:
                # Another run has placed them meanwhile, or a worker has gone: look again at what stands.
                await asyncio.sleep(PLACE_RETRY_S)
                return
        grown = {record.root for record in fresh}
        standing = [record for record in standing if record.root not in grown]
        self._owners, self._owned = {}, {}
        for record in (*standing, *fresh):
            if mine := from_text(record.members) & open_hosts:
                self._owners[record.owner] = record.incarnation
                self._owned[record.owner] = self._owned.get(record.owner, 0) | mine
        up &= open_hosts
        if up:
            await self._append({"type": "hosts_up", "order": 0, "hosts": to_text(up)})
        await self._announce(standing, fresh)
        await self._wake_open([r for r in standing if incomplete >> r.root & 1] + fresh)

    async def _standing(self, workers: list[WorkerInfo]) -> list[SubtreeRecord]:
        alive = {worker.incarnation for worker in workers}
        records, _ = await self._store.subtrees(self._state.mesh)
        return [record for record in records.values() if record.incarnation in alive]

    async def _place(
        self, missing: int, standing: list[SubtreeRecord], workers: list[WorkerInfo]
    ) -> tuple[list[SubtreeRecord], int]:
        """Plans the hosts that no subtree has: new subtrees and grown ones, as granted, and hosts without a place."""
        numbers, settings = hostset.members(missing), self._spec.settings()
        entries = await self._store.host_entries(self._state.mesh, numbers)
        placed = placement.place(numbers, entries, workers, settings)
        records, unplaced = list(placed.records), dict(placed.unplaced)
        if unplaced and standing:
            up = hostset.members(union(from_text(record.up) for record in standing))
            entries |= await self._store.host_entries(self._state.mesh, up)
            grown = placement.grow(sorted(unplaced), standing, entries, settings)
            records += grown.records
            unplaced = {number: unplaced[number] for number in grown.unplaced}
        for number, why in unplaced.items():
            await self._append({"type": "hosts_unplaced", "hosts": to_text(1 << number), "detail": why})
        granted = await self._store.assign_subtrees(self._state.mesh, records) if records else []
        return list(granted), hostset.of(unplaced)

    async def _announce(self, standing: list[SubtreeRecord], fresh: list[SubtreeRecord]) -> None:
        """One event for each worker: which hosts of the run it owns, and under which roots."""
        targets = self._state.targets
        for name, incarnation in self._owners.items():
            mine = [r for r in (*standing, *fresh) if r.owner == name and from_text(r.members) & targets]
            hosts = 0
            for record in mine:
                hosts |= from_text(record.members) & targets
            event = {"type": "subtrees_assigned", "worker": name, "incarnation": incarnation}
            event["epoch"] = max(r.epoch for r in mine)  # type: ignore[assignment]
            roots = to_text(hostset.of(r.root for r in mine))
            await self._append({**event, "roots": roots, "hosts": to_text(hosts)})
        if not self._owners:  # nothing could be placed
            await self._append({"type": "subtrees_assigned", "worker": "", "incarnation": "", "roots": "", "hosts": ""})

    async def _wake_open(self, records: list[SubtreeRecord]) -> None:
        by_owner: dict[tuple[str, str], int] = {}
        for record in records:
            key = (record.owner, record.incarnation)
            by_owner[key] = by_owner.get(key, 0) | 1 << record.root
        for (name, incarnation), roots in by_owner.items():
            self._send("open", name, incarnation, self._owned.get(name, 0), roots=to_text(roots))

    def _wake_ops(self, what: str, hosts: int) -> None:
        """Wakes the owners of these hosts to read the run's ops; all owners for 0 hosts."""
        for name, incarnation in self._owners.items():
            mine = self._owned.get(name, 0) & hosts
            if mine or not hosts:
                self._send(what, name, incarnation, mine)

    def _send(self, what: str, worker: str, incarnation: str, hosts: int, **more: str) -> None:
        """The one place that sends wake-up tasks. ``what``, hosts and slice are for people who watch them."""
        self._woke_s = time.monotonic()
        arguments = {
            "run_id": self._spec.run_id,
            "mesh": self._state.mesh,
            "incarnation": incarnation,
            "what": what,
            "host_count": hostset.size(hosts),
            "slice": self._spec.settings().name,
            **more,
        }
        task = "plush.subtree.open" if what == "open" else "plush.subtree.op"
        self._runtime.publisher.send_task(task, arguments, f"worker.{worker}")

    # ---- decisions

    async def _perform(self, decision: Decision) -> None:
        match decision:
            case OrderOp(hosts, kind, name):
                count = sum(len(part.ops) for part in self._state.parts if (part.kind, part.name) == (kind, name))
                op = build_op(self._spec, self._state.mesh, decision, await self._host_numbers())
                await self._order(op, {}, f"{kind} {count} {to_text(hosts)} {name}".rstrip())
            case OrderSignal(ref, _, signal, grace_ms):
                op = build_signal(self._spec, self._state.mesh, decision)
                await self._order(op, {"ref": ref, "signal": signal}, f"signal {self._state.kills_done} {ref}")
                patience_s = max(0, grace_ms) / 1000 + KILL_PATIENCE_S
                self._kill_deadline_s = time.monotonic() + patience_s
            case GiveUp(hosts, host_state, detail):
                await self._give_up(hosts, host_state, detail)
            case KillDone(count):
                await self._append({"type": "kill_done", "count": count})
            case Finish():
                await self._finish()

    async def _host_numbers(self) -> list[int]:
        """The hosts' numbers in the order of the spec; none for a plain run, whose ops need none."""
        if not self._numbers and not is_plain(self._spec):
            fields = await self._store.run_fields(self._spec.run_id)
            self._numbers = [number for number, _name in json.loads(fields["hosts"])]
        return self._numbers

    async def _order(self, record: OpRecord, more: dict[str, Any], step: str) -> None:
        """``step`` is the same when this coordinator, or a later one, comes to order it again: it stays one op (P1)."""
        event = {"type": "op_ordered", "kind": record.kind, "name": record.name, "hosts": record.hosts, **more}
        await self._store.order_op(self._state.mesh, record, self._term, event, request=step)

    async def _give_up(self, hosts: int, host_state: HostState, detail: str) -> None:
        code = 0 if host_state is HostState.EXITED else None
        event = {"type": "op_ended", "op": 0, "hosts": to_text(hosts), "state": host_state.value, "code": code}
        await self._append({**event, "signal": None, "detail": detail})

    async def _finish(self) -> None:
        state, run_id = self._state, self._spec.run_id
        result, final = state.summary(), state.final_state()
        await self._store.set_run_fields(run_id, state=final, finished=f"{time.time():.3f}", summary=json.dumps(result))
        await self._append({"type": "run_finished", "state": final, "summary": result})
        self._wake_ops(self._usual_what(), 0)
        runtime_s = time.monotonic() - self._began_s
        if final == "succeeded":
            self._runtime.publisher.succeed(run_id, {"state": final, **result}, runtime_s)
        else:
            counts = ", ".join(f"{count} {name}" for name, count in result.items() if count and name != "hosts")
            self._runtime.publisher.fail(run_id, f"{final}: of {result['hosts']} hosts {counts}", runtime_s)
        state.finished = True
        await self._store.release_coordination(run_id, self._term)

    async def _fail(self, why: str) -> None:
        """The run can't go on: every open host ends with the reason, and so does the run."""
        state = self._state
        open_hosts = state.targets & ~state.ended
        try:
            if open_hosts:
                unsure = open_hosts & state.touched
                for hosts, ended in ((unsure, HostState.UNKNOWN), (open_hosts & ~unsure, HostState.UNREACHABLE)):
                    if hosts:
                        await self._give_up(hosts, ended, why)
                        state.fold(
                            {"type": "op_ended", "hosts": to_text(hosts), "state": ended.value, "code": None}
                            | {"signal": None, "detail": why}
                        )
            await self._finish()
        except PlushError as error:
            logger.error("run %s: its end can't be recorded: %s", self._spec.run_id, error)

    # ---- time

    async def _keep_leases(self) -> None:
        now_s = time.monotonic()
        if now_s - self._renewed_s < LEASE_RENEW_S:
            return
        spec, store, state = self._spec, self._store, self._state
        if not await store.renew_coordination(spec.run_id, self._term, LEASE_TTL_S):
            raise Superseded(f"run {spec.run_id} has another coordinator now")
        self._renewed_s = now_s
        if spec.client_lease_s and not state.kills and not await store.client_lives(spec.run_id):
            request = {"type": "kill_requested", "signal": 15, "grace_ms": 5000, "by": "lost client"}
            await self._append(request)
        if now_s > self._kill_deadline_s:
            silent = state.targets & ~state.ended
            if silent:
                await self._give_up(silent, HostState.UNKNOWN, "did not answer the kill")
        if state.assigned and not state.finished:
            await self._mind_workers(now_s)

    async def _mind_workers(self, now_s: float) -> None:
        """Wakes owners again that may have missed it; finds new owners for the hosts of dead ones."""
        alive = {worker.incarnation for worker in await self._store.live_workers()}
        if any(incarnation not in alive for incarnation in self._owners.values()):
            self._state.assigned = False
        elif now_s - self._woke_s > WAKE_AGAIN_S:
            self._wake_ops(self._usual_what(), 0)

    def _usual_what(self) -> str:
        return self._spec.kind if self._spec.kind in _WHAT.values() else "run"

    def _show_progress(self) -> None:
        text, now_s = self._state.progress_text(), time.monotonic()
        if text != self._told and now_s - self._told_s >= PROGRESS_EVERY_S and not self._state.finished:
            self._told, self._told_s = text, now_s
            self._runtime.publisher.progress(self._spec.run_id, text)


class Superseded(PlushError):
    """Another coordinator has the run; this one must stop."""

    code = "fenced"

"""What runs are at now, folded from their events: kept for the runs asked about last, so that a look costs what is new.

The fold itself is the coordinator's (``plush_worker/run_state.py``); this adds names and reads on. Entry point:
``RunFolds.now``.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from dataclasses import replace
from typing import Any

from plush_worker.model import RunSpec
from plush_worker.node import hostset
from plush_worker.run_state import RunState, plan_parts
from plush_worker.store.errors import NoSuchRun
from plush_worker.store.service import ServiceStore

MAX_RUNS = 2000
MAX_HOSTS = 200_000  # of all remembered runs together
COMMAND_CHARS = 500  # kept of each process's command
PAGE_EVENTS = 200  # folded before others get their turn


class RunFold:
    """One run. ``names`` maps host number -> name once the hosts have joined."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.state = RunState(spec)
        self.names: dict[int, str] = {}
        self.rejected: dict[str, str] = {}
        self.last_id = "0"
        self.coordinated = False
        self._lock = asyncio.Lock()
        self._begun = self._done = 0

    async def read_on(self, store: ServiceStore) -> None:
        """Folds everything appended before this call. Those who ask at once share one reading."""
        wanted = self._begun + 1  # the first reading that begins after now
        while self._done < wanted:
            async with self._lock:
                if self._done < wanted:
                    self._begun += 1
                    number = self._begun
                    await self._read(store)
                    self._done = number

    @property
    def phase(self) -> str:
        """``waiting``, ``running`` or ``stopping`` while the run has no end; then how it ended."""
        if self.state.finished:
            return self.state.final_state()
        if self.state.kills:
            return "stopping"
        return "waiting" if not self.coordinated or self.state.waiting else "running"

    async def _read(self, store: ServiceStore) -> None:
        run_id = self.spec.run_id
        while not self.state.finished:
            found = await store.raw_events(run_id, self.last_id, 0, PAGE_EVENTS)
            if self.last_id == "0" and found and not self.state.joined:
                await self._begin_late(store, json.loads(found[0][1]))
            for event_id, data in found:
                self._fold(json.loads(data))
                self.last_id = event_id
            if len(found) < PAGE_EVENTS:
                break
        if self.state.joined and not self.names:
            await self._learn_names(store)

    def _fold(self, event: dict[str, Any]) -> None:
        if event["type"] == "coordinator_started":
            self.coordinated = True
        self.state.fold(event)

    async def _begin_late(self, store: ServiceStore, first: dict[str, Any]) -> None:
        """The stream of a run with very many events has lost its beginning: what that said is in the run's fields."""
        if first["type"] == "run_submitted":
            return
        fields = await store.run_fields(self.spec.run_id)
        spec = await store.load_run(self.spec.run_id)
        self.coordinated = True
        if spec is not None and fields.get("numbers"):
            numbers = [int(number) for number, _ in json.loads(fields.get("hosts") or "[]")]
            joined = {"type": "hosts_joined", "mesh": fields.get("mesh", ""), "hosts": fields["numbers"]}
            parts = plan_parts(spec, numbers)
            self._fold(joined if parts is None else {**joined, "parts": parts})
            self._fold({"type": "subtrees_assigned"})

    async def _learn_names(self, store: ServiceStore) -> None:
        fields = await store.run_fields(self.spec.run_id)
        self.names = {int(number): str(name) for number, name in json.loads(fields.get("hosts") or "[]")}
        self.rejected = {str(n): str(why) for n, why in json.loads(fields.get("rejected") or "{}").items()}

    def number_of(self, name: str) -> int | None:
        """The number of the host of this name; None when the run has none."""
        return next((number for number, known in self.names.items() if known == name), None)

    def names_in(self, hosts: int) -> list[str]:
        """The names of a host set, by number."""
        return [self.names.get(number, f"#{number}") for number in hostset.members(hosts)]


class RunFolds:
    """The folds of the runs asked about last; the others are made anew when somebody asks."""

    def __init__(self, store: ServiceStore, max_runs: int = MAX_RUNS, max_hosts: int = MAX_HOSTS) -> None:
        self._store = store
        self._max_runs, self._max_hosts = max_runs, max_hosts
        self._folds: OrderedDict[str, RunFold] = OrderedDict()
        self._hosts = 0
        self._loading: dict[str, asyncio.Task[RunFold]] = {}

    async def now(self, run_id: str) -> RunFold:
        """The fold of everything appended so far. Raises NoSuchRun, StoreUnavailable."""
        fold = self._folds.get(run_id)
        if fold is None:
            fold = await self._load_once(run_id)
        else:
            self._folds.move_to_end(run_id)
        await fold.read_on(self._store)
        return fold

    def forget(self, run_id: str) -> None:
        """The run was removed."""
        fold = self._folds.pop(run_id, None)
        if fold is not None:
            self._hosts -= len(fold.spec.hosts)

    async def _load_once(self, run_id: str) -> RunFold:
        task = self._loading.get(run_id)
        if task is None:
            task = self._loading[run_id] = asyncio.create_task(self._load(run_id))
            task.add_done_callback(lambda _: self._loading.pop(run_id, None))
        return await asyncio.shield(task)

    async def _load(self, run_id: str) -> RunFold:
        spec = await self._store.load_run(run_id)
        if spec is None:
            raise NoSuchRun(f"there is no run {run_id}")
        fold = RunFold(_lean(spec))
        self._folds[run_id] = fold
        self._hosts += len(spec.hosts)
        while len(self._folds) > 1 and (len(self._folds) > self._max_runs or self._hosts > self._max_hosts):
            _, oldest = self._folds.popitem(last=False)
            self._hosts -= len(oldest.spec.hosts)
        return fold


def _lean(spec: RunSpec) -> RunSpec:
    """What a fold looks at: keys of a thousand hosts and names of many files would be most of what is kept here."""
    return replace(
        spec,
        hosts=tuple({"name": host["name"]} for host in spec.hosts),
        processes=tuple(
            {"name": p["name"], "command": p["command"][:COMMAND_CHARS], "hosts": p.get("hosts")}
            for p in spec.processes
        ),
        files=spec.files[:1],
        env={},
    )

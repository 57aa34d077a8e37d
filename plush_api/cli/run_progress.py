"""A run as a watcher sees it: the states of its hosts (``view``) and since when, its processes, and who owns what.

Pure: events in, no clock, no I/O. Times are milliseconds since 1970, by the clock of the store: those of event ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from plush_worker.model import RunSpec
from plush_worker.node import hostset
from plush_worker.node.hostset import from_text
from plush_worker.run_parts import EXEC

from .view import Effect, Outcome, RunView, outcome_of


class Slow(NamedTuple):
    """A host that others wait for."""

    name: str
    doing: str  # as RunProgress.host_state
    for_s: float


@dataclass(slots=True)
class Owned:
    """What one worker owns of a run."""

    roots: int
    hosts: int


class RunProgress(RunView):
    """A RunView that remembers more. ``ops``: op number -> (kind, process name)."""

    def __init__(self, spec: RunSpec) -> None:
        super().__init__(spec)
        self.ops: dict[int, tuple[str, str]] = {}
        self.workers: dict[str, Owned] = {}
        self.submitted_ms = round(spec.submitted_at * 1000)  # until the event says it
        self.last_ms = self.finished_ms = 0
        self._started_ms: dict[int, int] = {}  # host -> when its last process started

    def fold(self, event_id: str, event: Mapping[str, Any]) -> list[Effect]:
        """See RunView."""
        self._remember(int(event_id.partition("-")[0] or 0), event)
        return super().fold(event_id, event)

    @property
    def processes(self) -> list[str]:
        """The names of the run's processes, in the order of the experiment; ``[""]`` for a single command."""
        return [str(process["name"]) for process in self.spec.processes] or [""]

    @property
    def targets(self) -> int:
        """The hosts that have a number in the mesh."""
        return self._state.targets

    @property
    def up(self) -> int:
        """The hosts that have been up at any time."""
        return self._reached

    @property
    def ended(self) -> int:
        """The hosts with a final state."""
        return self._state.ended

    @property
    def hosts_count(self) -> int:
        """All hosts, those that were rejected included."""
        return len(self._expected) + len(self._rejected)

    @property
    def done_count(self) -> int:
        """Hosts with a final state, those that were rejected included."""
        return hostset.size(self._state.ended) + len(self._rejected)

    @property
    def state_name(self) -> str:
        """``waiting``, ``running``, ``stopping``, or how the run ended."""
        if self.final_state:
            return self.final_state
        if self._state.kills:
            return "stopping"
        return "waiting" if not self.coordinated or self._state.waiting else "running"

    def host_state(self, number: int) -> str:
        """Of a host without a final state: ``waiting``, ``up`` or ``running``."""
        if number in self._started_ms:
            return "running"
        return "up" if self.up >> number & 1 else "waiting"

    @property
    def waiting_for(self) -> str:
        """Why the run can't go on yet; empty when it can."""
        return self._state.waiting

    def slowest(self, now_ms: int, count: int) -> list[Slow]:
        """Up to ``count`` hosts that are waited for, the longest first."""
        if self.final_state:
            return []
        begins = {n: self._started_ms.get(n, self.submitted_ms) for n in hostset.members(self.targets & ~self.ended)}
        late = sorted(begins, key=lambda number: (begins[number], number))[:count]
        return [
            Slow(
                self.name_of(number),
                self.host_state(number),
                max(0, now_ms - begins[number]) / 1000,
            )
            for number in late
        ]

    def process_outcomes(self, process: str, outcome: Outcome) -> list[Outcome]:
        """How ``process`` ended on those hosts of ``outcome`` that it is for; as a whole they ended as that says."""
        if len(self.processes) < 2 or not outcome.hosts:
            return [outcome]
        parts = self._state.parts
        part = next((p for p in parts if p.name == process and p.kind == EXEC), None)
        if part is None:  # what the copying of files said
            return [outcome]
        left, found = outcome.hosts & part.hosts, []
        for (state, code, signal, detail), members in part.outcomes.items():
            if hosts := members & left:
                found.append(outcome_of(hosts, state, code, signal, detail))
                left &= ~hosts
        return [*found, replace(outcome, hosts=left)] if left else found

    def _remember(self, at_ms: int, event: Mapping[str, Any]) -> None:
        self.last_ms = at_ms
        kind = event.get("type")
        if kind == "run_submitted":
            self.submitted_ms = at_ms
        elif kind == "run_finished":
            self.finished_ms = at_ms
        elif kind == "subtrees_assigned":
            self._own(str(event["worker"]), from_text(event["roots"]), from_text(event["hosts"]))
        elif kind == "op_ordered" and event["kind"] != "signal":
            self.ops[int(event["op"])] = (str(event["kind"]), str(event.get("name", "")))
        elif kind == "op_started":
            for number in hostset.members(from_text(event["hosts"])):
                self._started_ms.setdefault(number, at_ms)

    def _own(self, worker: str, roots: int, hosts: int) -> None:
        for owned in self.workers.values():
            owned.hosts &= ~hosts
        if worker:
            self.workers[worker] = Owned(roots, hosts)
        self.workers = {name: owned for name, owned in self.workers.items() if owned.hosts}

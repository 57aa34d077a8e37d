"""What is known about one run, folded from its event stream. Pure: events in, a state; ``decide`` says what to do next.

A coordinator that takes a run over folds the same events and comes to the same state, so nothing here may depend on
time, chance or the store. Host sets are integers (``node/hostset.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plush_worker.model import HostState, RunSpec
from plush_worker.node import hostset
from plush_worker.node.hostset import from_text, to_text
from plush_worker.run_parts import DEPLOY, EXEC, FETCH, Outcome, Part, badness, union, worst_outcomes

_OK = badness(("exited", 0, None, ""))


@dataclass(frozen=True, slots=True)
class OrderOp:
    """Order a part of the run for these hosts under a new op number."""

    hosts: int
    kind: str = EXEC
    name: str = ""  # of the process


@dataclass(frozen=True, slots=True)
class OrderSignal:
    """Order a signal to what op ``ref`` runs on these hosts."""

    ref: int
    hosts: int
    signal: int
    grace_ms: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Record these hosts as ended without having been heard again (``op_ended`` by the coordinator)."""

    hosts: int
    state: HostState
    detail: str


@dataclass(frozen=True, slots=True)
class KillDone:
    """Record that the first ``count`` kill requests are carried out."""

    count: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Every host has ended: close the run."""


Decision = OrderOp | OrderSignal | GiveUp | KillDone | Finish


@dataclass(slots=True)
class RunState:
    """One run. ``targets`` are the hosts it is to run on; every other set is a part of it.

    A host has ended when all its parts have (``run_parts.py``): first its files are put there; where that went well its
    processes are ordered, side by side. ``ended`` and ``outcomes`` are of hosts as a whole.
    """

    spec: RunSpec
    targets: int = 0
    mesh: str = ""
    joined: bool = False
    assigned: bool = False
    up: int = 0
    given_up: int = 0  # unreachable for good
    parts: list[Part] = field(default_factory=list)
    ended: int = 0
    orders: dict[int, int] = field(default_factory=dict)  # host -> admission it is up under
    outcomes: dict[Outcome, int] = field(default_factory=dict)
    kills: list[dict[str, Any]] = field(default_factory=list)
    kills_done: int = 0
    finished: bool = False
    waiting: str = ""

    @property
    def touched(self) -> int:
        """Hosts that an op may have got to."""
        return union(part.touched for part in self.parts)

    @property
    def started(self) -> int:
        """Hosts where something was started."""
        return union(part.started for part in self.parts)

    # ---- folding

    def fold(self, event: Mapping[str, Any]) -> None:
        """Takes one event in; unknown types are ignored."""
        handler = _FOLDERS.get(str(event.get("type")))
        if handler is not None:
            handler(self, event)

    def _joined(self, event: Mapping[str, Any]) -> None:
        self.mesh, self.targets, self.joined = event["mesh"], from_text(event["hosts"]), True
        if "parts" in event:
            self.parts = [Part(p["kind"], p["name"], from_text(p["hosts"]) & self.targets) for p in event["parts"]]
        else:
            self.parts = [Part(EXEC, "", self.targets)]

    def _assigned(self, event: Mapping[str, Any]) -> None:
        self.assigned = True
        self.waiting = ""

    def _unplaced(self, event: Mapping[str, Any]) -> None:
        self._end(from_text(event["hosts"]), (HostState.UNREACHABLE.value, None, None, event["detail"]))

    def _op_ordered(self, event: Mapping[str, Any]) -> None:
        for part in self.parts:
            if part.kind == event["kind"] and part.name == event.get("name", ""):
                part.op_ordered(event["op"], from_text(event["hosts"]) & part.hosts, self.up)

    def _hosts_up(self, event: Mapping[str, Any]) -> None:
        hosts = from_text(event["hosts"]) & self.targets
        self.up |= hosts
        for part in self.parts:
            part.hosts_up(hosts)
        self.given_up &= ~hosts
        for number in hostset.members(hosts):
            self.orders[number] = event["order"]

    def _hosts_lost(self, event: Mapping[str, Any]) -> None:
        hosts = from_text(event["hosts"]) & self.targets
        self.up &= ~hosts
        for part in self.parts:
            part.hosts_lost(hosts, event["reached"])
        if not event["final"]:
            return
        self.given_up |= hosts
        detail = f"{event['code']}: {event['detail']}"
        for part in self.parts:
            unsure = hosts & part.touched
            self._end_part(part, unsure, (HostState.UNKNOWN.value, None, None, detail))
            self._end_part(part, hosts & ~unsure, (HostState.UNREACHABLE.value, None, None, detail))
        self._end(hosts, (HostState.UNREACHABLE.value, None, None, detail))  # those without any part

    def _op_started(self, event: Mapping[str, Any]) -> None:
        hosts = from_text(event["hosts"])
        for part in self._parts_of(event["op"]):
            part.started |= hosts & part.hosts

    def _op_ended(self, event: Mapping[str, Any]) -> None:
        hosts = from_text(event["hosts"]) & self.targets
        outcome = (event["state"], event["code"], event["signal"], event["detail"])
        parts = self._parts_of(event.get("op", 0))
        for part in parts:
            self._end_part(part, hosts, outcome)
        if parts is self.parts:
            self._end(hosts, outcome)

    def _parts_of(self, op: int) -> list[Part]:
        """The part that an op is of; all for an op that is none's, which the coordinator's own decisions have."""
        return next(([part] for part in self.parts if op in part.ops), self.parts)

    def _end_part(self, part: Part, hosts: int, outcome: Outcome) -> None:
        """A part has ended on hosts; with it all others, where files could not be put."""
        new = part.end(hosts, outcome)
        if part.kind == DEPLOY and badness(outcome) > _OK:
            for other in self.parts:
                other.ended |= new & other.hosts
        self._settle(new)

    def _settle(self, hosts: int) -> None:
        """Those of ``hosts`` whose parts have all ended have ended themselves."""
        done = hosts & ~self.ended & ~union(part.open for part in self.parts)
        for outcome, members in worst_outcomes(done, self.parts).items() if done else ():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) | members
        self.ended |= done

    def _end(self, hosts: int, outcome: Outcome) -> None:
        """Hosts that end as a whole."""
        for part in self.parts:
            self._end_part(part, hosts, outcome)
        bare = hosts & self.targets & ~self.ended
        if bare:
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) | bare
            self.ended |= bare

    def _kill_requested(self, event: Mapping[str, Any]) -> None:
        self.kills.append({"signal": event["signal"], "grace_ms": event["grace_ms"]})

    def _kill_done(self, event: Mapping[str, Any]) -> None:
        self.kills_done = event["count"]

    def _waiting(self, event: Mapping[str, Any]) -> None:
        self.waiting = event["why"]

    def _run_finished(self, event: Mapping[str, Any]) -> None:
        self.finished = True

    # ---- deciding

    def decide(self) -> list[Decision]:
        """What is to be done now. Empty: wait for the next event."""
        if self.finished or not self.joined:
            return []
        if len(self.kills) > self.kills_done:
            return self._kill()
        if not self.targets & ~self.ended:
            return [Finish()]
        if not has_parts(self.spec):
            return self._join_only()
        if self.kills:
            return self._give_up_unstarted()
        return self._start() if self.assigned else []

    def _kill(self) -> list[Decision]:
        """For every kill request that isn't carried out yet: signals to what runs, the rest need not start."""
        request = self.kills[self.kills_done]
        decided: list[Decision] = []
        for part in self.parts:
            for op, hosts in part.ops.items():
                alive = hosts & part.open & ~self.ended
                if alive:
                    decided.append(OrderSignal(op, alive, request["signal"], request["grace_ms"]))
        at_work = union(part.touched & part.open for part in self.parts)
        never = self.targets & ~self.ended & ~at_work
        if never:
            decided.append(GiveUp(never, HostState.KILLED, "before it was started"))
        return [*decided, KillDone(self.kills_done + 1)]

    def _give_up_unstarted(self) -> list[Decision]:
        """After a kill nothing is ordered any more: hosts end that wait for an order only."""
        at_work = union(part.ordered & part.open for part in self.parts)
        never = self.targets & ~self.ended & ~at_work
        return [GiveUp(never, HostState.KILLED, "before it was started")] if never else []

    def _join_only(self) -> list[Decision]:
        ready = self.targets & self.up & ~self.ended
        return [GiveUp(ready, HostState.EXITED, "joined")] if ready else []

    def _start(self) -> list[Decision]:
        """The ops to be ordered now, by part.

        At first all at once (their op travels with the link order), or all that are up when the run starts
        together, or as many as ``fanout`` lets run; processes where the files have been put. Later those that came up
        under an admission above their op, which therefore can't start any more (P1), and that the op has not touched.
        """
        open_hosts = self.targets & ~self.ended
        begun = union(part.ordered for part in self.parts) & open_hosts
        late = {id(part): part.too_late(self.up, self.orders) for part in self.parts}
        admitted = open_hosts
        if self.spec.fanout:
            running = hostset.size(begun & ~union(late.values()))
            admitted = begun | _first(open_hosts & ~begun, max(0, self.spec.fanout - running))
        undeployed = union(part.open for part in self.parts if part.kind == DEPLOY)
        held = self._held_back(open_hosts, undeployed)
        decided: list[Decision] = []
        for part in self.parts:
            fresh = part.open & admitted & ~part.ordered
            if part.kind != DEPLOY:
                fresh &= ~undeployed & ~held
            hosts = fresh | late[id(part)]
            if hosts:
                decided.append(OrderOp(hosts, part.kind, part.name))
        return decided

    def _held_back(self, open_hosts: int, undeployed: int) -> int:
        """Hosts whose processes wait for other hosts: all, until every one is ready, in a run that starts together."""
        if not self.spec.together or any(part.ops for part in self.parts if part.kind != DEPLOY):
            return 0
        return open_hosts if open_hosts & (~self.up | undeployed) else 0

    # ---- what people see

    def progress_text(self) -> str:
        """For Flower: ``37/100 up``, then ``12/100 done``."""
        total = hostset.size(self.targets)
        if self.ended:
            return f"{hostset.size(self.ended)}/{total} done"
        deployed = union(part.ended for part in self.parts if part.kind == DEPLOY)
        if deployed:
            return f"{hostset.size(deployed)}/{total} have their files"
        return f"{hostset.size(self.up)}/{total} up"

    def summary(self) -> dict[str, int]:
        """Counts: hosts, ok, nonzero, failed, unreachable, killed, unknown; every host is in one of the last six."""
        counts = dict.fromkeys(("ok", "nonzero", "failed", "unreachable", "killed", "unknown"), 0)
        for (state, code, _signal, _detail), hosts in self.outcomes.items():
            name = ("ok" if code == 0 else "nonzero") if state == "exited" else state
            counts[name] += hostset.size(hosts)
        return {"hosts": hostset.size(self.targets), **counts}

    def final_state(self) -> str:
        """``succeeded`` (all hosts, or the quorum that the spec asks for), ``killed`` (on request) or ``failed``."""
        counts = self.summary()
        if counts["ok"] >= min(int(self.spec.success.get("at_least", counts["hosts"])), counts["hosts"]):
            return "succeeded"
        return "killed" if self.kills else "failed"

    def check_invariants(self) -> None:
        """Raises AssertionError when the state contradicts itself."""
        sets = (self.up, self.given_up, self.ended, *(part.hosts for part in self.parts))
        assert not any(hosts & ~self.targets for hosts in sets), "a host that isn't a target"
        for part in self.parts:
            part.check_invariants()
            assert not part.hosts & self.ended & ~part.ended, "a host has ended and a part of it goes on"
        bare = self.targets & ~union(part.hosts for part in self.parts)
        assert not self.targets & ~bare & ~self.ended & ~union(part.open for part in self.parts), "ended in all parts"
        seen = 0
        for hosts in self.outcomes.values():
            assert not seen & hosts, f"{to_text(seen & hosts)} ended twice"
            seen |= hosts
        assert seen == self.ended, "ended and outcomes differ"


def has_parts(spec: RunSpec) -> bool:
    """Whether there is anything to do on the hosts; else they only join the mesh."""
    return bool(spec.command) or not is_plain(spec)


def is_plain(spec: RunSpec) -> bool:
    """Whether one command (or none) is all that the run does, as for ``plush run``."""
    return not (spec.processes or spec.files or spec.fetch)


def plan_parts(spec: RunSpec, numbers: Sequence[int]) -> list[dict[str, str]] | None:
    """What the run does on its hosts, for the event hosts_joined, in the order of kinds and processes.

    ``numbers`` are the hosts' in the order of ``spec.hosts``. None for a plain run: one command everywhere.
    """
    if is_plain(spec):
        return None
    parts = []
    if spec.files:
        parts.append((DEPLOY, "", _chosen([file.get("hosts") for file in spec.files], numbers)))
    parts += [(EXEC, str(process["name"]), _chosen([process.get("hosts")], numbers)) for process in spec.processes]
    if not spec.processes and spec.command and spec.kind == "run":
        parts.append((EXEC, "", hostset.of(numbers)))
    if spec.fetch:
        parts.append((FETCH, "", hostset.of(numbers)))
    return [{"kind": kind, "name": name, "hosts": to_text(hosts)} for kind, name, hosts in parts]


def _chosen(choices: Iterable[Sequence[int] | None], numbers: Sequence[int]) -> int:
    """The numbers of the hosts that any of the choices (indexes; None: all) names."""
    indexes: set[int] = set()
    for choice in choices:
        if choice is None:
            return hostset.of(numbers)
        indexes.update(choice)
    return hostset.of(numbers[index] for index in indexes)


def _first(hosts: int, count: int) -> int:
    return hostset.of(hostset.members(hosts)[:count])


_FOLDERS = {
    "hosts_joined": RunState._joined,
    "subtrees_assigned": RunState._assigned,
    "hosts_unplaced": RunState._unplaced,
    "op_ordered": RunState._op_ordered,
    "hosts_up": RunState._hosts_up,
    "hosts_lost": RunState._hosts_lost,
    "op_started": RunState._op_started,
    "op_ended": RunState._op_ended,
    "kill_requested": RunState._kill_requested,
    "kill_done": RunState._kill_done,
    "waiting": RunState._waiting,
    "run_finished": RunState._run_finished,
}

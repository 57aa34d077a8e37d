"""What is known about one run, folded from its event stream. Pure: events in, a state; ``decide`` says what to do next.

A coordinator that takes a run over folds the same events and comes to the same state, so nothing here may depend on
time, chance or the store. Host sets are integers (``node/hostset.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plush_worker.model import HostState, RunSpec
from plush_worker.node import hostset
from plush_worker.node.hostset import from_text, to_text

SIGKILL = 9


@dataclass(frozen=True, slots=True)
class OrderOp:
    """Order the run's command for these hosts under a new op number."""

    hosts: int


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
    """One run. ``targets`` are the hosts it is to run on; every other set is a part of it."""

    spec: RunSpec
    targets: int = 0
    mesh: str = ""
    joined: bool = False
    assigned: bool = False
    up: int = 0
    given_up: int = 0  # unreachable for good
    touched: int = 0  # an op may have got to them
    reached: int = 0  # a node program was there when, or after, an op was ordered
    ops: dict[int, int] = field(default_factory=dict)  # exec op -> hosts it is meant for
    started: int = 0
    ended: int = 0
    orders: dict[int, int] = field(default_factory=dict)  # host -> admission it is up under
    outcomes: dict[tuple[str, int | None, int | None, str], int] = field(default_factory=dict)
    kills: list[dict[str, Any]] = field(default_factory=list)
    kills_done: int = 0
    finished: bool = False
    waiting: str = ""

    # ---- folding

    def fold(self, event: Mapping[str, Any]) -> None:
        """Takes one event in; unknown types are ignored."""
        handler = _FOLDERS.get(str(event.get("type")))
        if handler is not None:
            handler(self, event)

    def _joined(self, event: Mapping[str, Any]) -> None:
        self.mesh, self.targets, self.joined = event["mesh"], from_text(event["hosts"]), True

    def _assigned(self, event: Mapping[str, Any]) -> None:
        self.assigned = True
        self.waiting = ""

    def _unplaced(self, event: Mapping[str, Any]) -> None:
        self._end(from_text(event["hosts"]), HostState.UNREACHABLE.value, None, None, event["detail"])

    def _op_ordered(self, event: Mapping[str, Any]) -> None:
        hosts = from_text(event["hosts"])
        if event["kind"] == "exec":
            for op, meant in self.ops.items():
                self.ops[op] = meant & ~hosts
            self.ops[event["op"]] = hosts
            self.touched |= hosts
            self.reached |= hosts & self.up

    def _hosts_up(self, event: Mapping[str, Any]) -> None:
        hosts = from_text(event["hosts"]) & self.targets
        self.up |= hosts
        self.reached |= hosts & self.touched
        self.given_up &= ~hosts
        for number in hostset.members(hosts):
            self.orders[number] = event["order"]

    def _hosts_lost(self, event: Mapping[str, Any]) -> None:
        hosts = from_text(event["hosts"]) & self.targets
        self.up &= ~hosts
        if event["reached"]:
            self.reached |= hosts & self.touched
        self.touched &= self.reached | ~hosts
        if not event["final"]:
            return
        self.given_up |= hosts
        going = hosts & ~self.ended
        unsure = going & self.touched
        detail = f"{event['code']}: {event['detail']}"
        self._end(unsure, HostState.UNKNOWN.value, None, None, detail)
        self._end(going & ~unsure, HostState.UNREACHABLE.value, None, None, detail)

    def _op_started(self, event: Mapping[str, Any]) -> None:
        self.started |= from_text(event["hosts"]) & self.targets

    def _op_ended(self, event: Mapping[str, Any]) -> None:
        hosts = from_text(event["hosts"]) & self.targets
        self._end(hosts, event["state"], event["code"], event["signal"], event["detail"])

    def _end(self, hosts: int, state: str, code: int | None, signal: int | None, detail: str) -> None:
        new = hosts & ~self.ended
        if new:
            key = (state, code, signal, detail)
            self.outcomes[key] = self.outcomes.get(key, 0) | new
            self.ended |= new

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
        if not self.spec.command:
            return self._join_only()
        if not self.assigned or self.kills:
            return []
        hosts = self._to_start()
        return [OrderOp(hosts)] if hosts else []

    def _kill(self) -> list[Decision]:
        """For every kill request that isn't carried out yet: signals to what runs, the rest need not start."""
        request = self.kills[self.kills_done]
        decided: list[Decision] = []
        for op, hosts in self.ops.items():
            alive = hosts & ~self.ended
            if alive:
                decided.append(OrderSignal(op, alive, request["signal"], request["grace_ms"]))
        never = self.targets & ~self.ended & ~self.touched
        if never:
            decided.append(GiveUp(never, HostState.KILLED, "before it was started"))
        return [*decided, KillDone(self.kills_done + 1)]

    def _join_only(self) -> list[Decision]:
        ready = self.targets & self.up & ~self.ended
        return [GiveUp(ready, HostState.EXITED, "joined")] if ready else []

    def _to_start(self) -> int:
        """Hosts whose op is to be ordered now.

        At first all at once (their op travels with the link order), or all that are up when the run starts
        together, or as many as ``fanout`` lets run. Later those that came up under an admission above their op, which
        therefore can't start any more (P1), and that the op has not touched.
        """
        spec, open_hosts = self.spec, self.targets & ~self.ended
        if spec.together and not self.ops and open_hosts & ~self.up:
            return 0
        ordered = 0
        for hosts in self.ops.values():
            ordered |= hosts
        fresh = open_hosts & ~ordered
        late = self._too_late(open_hosts & ordered)
        if spec.fanout:
            running = hostset.size(ordered & open_hosts & ~late)
            fresh = _first(fresh, max(0, spec.fanout - running))
        return fresh | late

    def _too_late(self, hosts: int) -> int:
        late = 0
        candidates = hosts & self.up & ~self.touched & ~self.started
        for op, meant in self.ops.items():
            for number in hostset.members(meant & candidates):
                if self.orders.get(number, 0) > op:
                    late |= 1 << number
        return late

    # ---- what people see

    def progress_text(self) -> str:
        """For Flower: ``37/100 up``, then ``12/100 done``."""
        total = hostset.size(self.targets)
        if self.ended:
            return f"{hostset.size(self.ended)}/{total} done"
        return f"{hostset.size(self.up)}/{total} up"

    def summary(self) -> dict[str, int]:
        """Counts: hosts, ok, nonzero, failed, unreachable, killed, unknown; every host is in one of the last six."""
        counts = dict.fromkeys(("ok", "nonzero", "failed", "unreachable", "killed", "unknown"), 0)
        for (state, code, _signal, _detail), hosts in self.outcomes.items():
            name = ("ok" if code == 0 else "nonzero") if state == "exited" else state
            counts[name] += hostset.size(hosts)
        return {"hosts": hostset.size(self.targets), **counts}

    def final_state(self) -> str:
        """``succeeded``, ``killed`` (on request) or ``failed``."""
        counts = self.summary()
        if counts["ok"] == counts["hosts"]:
            return "succeeded"
        return "killed" if self.kills else "failed"

    def check_invariants(self) -> None:
        """Raises AssertionError when the state contradicts itself."""
        parts = (self.up, self.given_up, self.touched, self.started, self.ended)
        assert not any(part & ~self.targets for part in parts), "a host that isn't a target"
        seen = 0
        for hosts in self.outcomes.values():
            assert not seen & hosts, f"{to_text(seen & hosts)} ended twice"
            seen |= hosts
        assert seen == self.ended, "ended and outcomes differ"


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

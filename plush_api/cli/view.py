"""What the command line knows about a run: the coordinator's own fold of the events, and what to do about each.

``RunView.fold`` takes an event in and gives effects out. States of hosts come from ``plush_worker.run_state``, so that
what is shown is what the coordinator decided; this adds names, times, and hosts that never got a number. Pure: no
clock, no I/O. Host sets are integers as in ``plush_worker.node.hostset``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from plush_worker.model import HostState, RunSpec
from plush_worker.node import hostset
from plush_worker.run_state import RunState, plan_parts


@dataclass(frozen=True, slots=True)
class Outcome:
    """How some hosts ended. ``hosts`` is 0 for a host without a number; then ``name`` names it."""

    hosts: int
    state: HostState
    code: int | None = None
    signal: int | None = None
    error: str = ""
    timed_out: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class ReadOutput:
    """Effect: the segment is committed up to ``committed_bytes``; read what is new in it."""

    segment: str
    committed_bytes: int


@dataclass(frozen=True, slots=True)
class AskForHosts:
    """Effect: hosts have joined; fetch their numbers and names and give them to ``RunView.learn_hosts``."""


@dataclass(frozen=True, slots=True)
class HostsEnded:
    """Effect: these hosts have their final state, and all their output has been announced before."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Notice:
    """Effect: tell the user."""

    text: str


Effect = ReadOutput | AskForHosts | HostsEnded | Notice


class RunView:
    """One run as its events tell it. Feed every event once, in the order of the stream, to ``fold``."""

    def __init__(self, spec: RunSpec) -> None:
        self.names: dict[int, str] = {}
        self.outcomes: list[Outcome] = []
        self.coordinated = False
        self.finished = False
        self.final_state = ""  # of the run, once finished
        self.spec = spec
        self._state = RunState(spec)
        self._expected = [str(host["name"]) for host in spec.hosts]
        self._rejected: set[str] = set()
        self._reached = 0  # hosts that were up at any time
        self._submitted_ms = self._connected_ms = 0
        self._told: set[str] = set()

    def fold(self, event_id: str, event: Mapping[str, Any]) -> list[Effect]:
        """Take one event in. ``event_id`` is the stream's, ``<milliseconds>-<n>``. Unknown types are ignored."""
        before, reached = self._state.ended, self._reached
        self._state.fold(event)
        fresh = self._state.ended & ~before
        self._reached |= self._state.up | self._state.started & ~fresh
        effects = self._outcomes_of(fresh)
        gave_up = any(e.outcome.state is HostState.UNREACHABLE for e in effects)
        if self._reached != reached or gave_up:
            self._connected_ms = _milliseconds(event_id)
        extra = _HANDLERS.get(str(event.get("type")))
        return [*(extra(self, event_id, event) if extra else ()), *effects]

    def begin_late(self, fields: Mapping[str, str]) -> list[Effect]:
        """The first events of a run with very many have been trimmed away; its fields say what can still be known.

        Call it before the first ``fold``, then go on as always.
        """
        numbered, rejected = numbers_and_rejected(fields)
        if not numbered:
            return []
        mesh, hosts = fields.get("mesh", ""), hostset.to_text(hostset.of(numbered))
        parts = plan_parts(self.spec, list(numbered))
        event: dict[str, Any] = {"type": "hosts_joined", "mesh": mesh, "hosts": hosts}
        self._state.fold(event if parts is None else {**event, "parts": parts})
        self._state.fold({"type": "subtrees_assigned"})
        self.coordinated = True
        self._submitted_ms = self._connected_ms = round(self.spec.submitted_at * 1000)
        gone = Notice("the run's first events are gone: hosts that ended then, and processes, are not told apart")
        return [gone, *self.learn_hosts(numbered, rejected)]

    def learn_hosts(self, numbered: Mapping[int, str], rejected: Mapping[str, str]) -> list[Effect]:
        """The numbers of the hosts, and the hosts that were refused with the reason."""
        self.names.update(numbered)
        return [effect for name, reason in rejected.items() for effect in self.reject(name, reason)]

    def reject(self, name: str, reason: str) -> list[Effect]:
        """A host that can't take part, by its name; told once."""
        if name in self._rejected:
            return []
        self._rejected.add(name)
        return list(self._end(Outcome(0, HostState.UNREACHABLE, error=reason, name=name)))

    def wait(self, why: str) -> list[Effect]:
        """The run can't go on yet; told once for each reason. Empty: it can."""
        if not why or why in self._told:
            return []
        self._told.add(why)
        return [Notice(f"waiting: {why}")]

    def abandon(self, why: str) -> list[Effect]:
        """The run's end is not waited for: every host without a final state gets one."""
        self.finished = True
        unsure = self._state.targets & ~self._state.ended
        idle = unsure & ~self._state.touched
        self._state.ended |= unsure
        numbered = set(self.names.values()) | self._rejected
        idle_state = HostState.KILLED if self._state.kills or not self.final_state else HostState.UNKNOWN
        effects = [
            *self._end(Outcome(idle, idle_state, error=_ENDINGS[_NOT_STARTED])),
            *self._end(Outcome(unsure & ~idle, HostState.UNKNOWN, error=why)),
        ]
        for name in self._expected if not self._state.targets else ():
            if name not in numbered:
                effects += self._end(Outcome(0, HostState.KILLED, error=_ENDINGS[_NOT_STARTED], name=name))
        return list(effects)

    def host_names(self, outcome: Outcome) -> list[str]:
        """The names of an outcome's hosts, by ascending number."""
        return [outcome.name] if outcome.name else [self.name_of(n) for n in hostset.members(outcome.hosts)]

    def name_of(self, number: int) -> str:
        """The host's name; ``#7`` for a number nobody has introduced."""
        return self.names.get(number) or f"#{number}"

    @property
    def connect_s(self) -> float:
        """From submission until the last host came up or was given up."""
        return max(0, self._connected_ms - self._submitted_ms) / 1000

    @property
    def progress_text(self) -> str:
        """``37/100 up, 12 done``: hosts that have been up, and hosts with a final state."""
        return f"{self.up_text}, {hostset.size(self._state.ended) + len(self._rejected)} done"

    @property
    def up_text(self) -> str:
        """``37/100 up``."""
        return f"{hostset.size(self._reached)}/{len(self._expected) + len(self._rejected)} up"

    def _outcomes_of(self, fresh: int) -> list[HostsEnded]:
        effects: list[HostsEnded] = []
        for (state, code, signal, detail), hosts in self._state.outcomes.items() if fresh else ():
            effects += self._end(outcome_of(hosts & fresh, state, code, signal, detail))
        return effects

    def _end(self, outcome: Outcome) -> list[HostsEnded]:
        if not outcome.hosts and not outcome.name:
            return []
        self.outcomes.append(outcome)
        return [HostsEnded(outcome)]

    # One method for a type of event that means more than a state of hosts.

    def _on_submitted(self, event_id: str, event: Mapping[str, Any]) -> list[Effect]:
        del event
        self._submitted_ms = self._connected_ms = _milliseconds(event_id)
        return []

    def _on_coordinator(self, event_id: str, event: Mapping[str, Any]) -> list[Effect]:
        del event_id, event
        self.coordinated = True
        return []

    def _on_joined(self, event_id: str, event: Mapping[str, Any]) -> list[Effect]:
        del event_id, event
        return [AskForHosts()]

    def _on_output(self, event_id: str, event: Mapping[str, Any]) -> list[Effect]:
        del event_id
        return [ReadOutput(str(event["segment"]), int(event["bytes"]))]

    def _on_waiting(self, event_id: str, event: Mapping[str, Any]) -> list[Effect]:
        del event_id
        return self.wait(str(event["why"]))

    def _on_finished(self, event_id: str, event: Mapping[str, Any]) -> list[Effect]:
        del event_id
        self.final_state = str(event["state"])
        return self.abandon("the run ended without its result")


_HANDLERS: dict[str, Callable[[RunView, str, Mapping[str, Any]], list[Effect]]] = {
    "run_submitted": RunView._on_submitted,
    "coordinator_started": RunView._on_coordinator,
    "hosts_joined": RunView._on_joined,
    "output": RunView._on_output,
    "waiting": RunView._on_waiting,
    "run_finished": RunView._on_finished,
}

_NOT_STARTED = "before it was started"
# What the coordinator or a node program says of an ended op, in the user's words; the rest is said as it came.
_ENDINGS = {
    _NOT_STARTED: "stopped before it was started",
    "signal": "",
    "timeout": "time limit reached",
    "ttl": "stopped: no sign of its owner for the time-to-live",
    "supervisor lost": "its supervisor was killed",
}


def outcome_of(hosts: int, state: str, code: int | None, signal: int | None, detail: str) -> Outcome:
    """How these hosts ended, from what an event says of it."""
    timed_out = state == "killed" and detail == "timeout"
    return Outcome(hosts, _state_of(state), code, signal, _ENDINGS.get(detail, detail), timed_out)


def _state_of(text: str) -> HostState:
    try:
        return HostState(text)
    except ValueError:
        return HostState.UNKNOWN  # of a newer worker


def numbers_and_rejected(fields: Mapping[str, str]) -> tuple[dict[int, str], dict[str, str]]:
    """(number -> name, name -> reason) from a run's fields ``hosts`` and ``rejected``."""
    numbered = {int(number): str(name) for number, name in json.loads(fields.get("hosts") or "[]")}
    rejected = {str(name): str(why) for name, why in json.loads(fields.get("rejected") or "{}").items()}
    return numbered, rejected


def _milliseconds(event_id: str) -> int:
    head = event_id.partition("-")[0]
    return int(head) if head.isdigit() else 0

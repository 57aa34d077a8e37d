"""One part of a run over its hosts: the deploy of its files, one of its processes, or the fetch. Pure.

A plain run has one part, an experiment as many as it has processes and one more for its files. Each is ordered by ops
of its own, so what is known of an op (who got it, who started it, how it ended there) is known by part, and
``run_state.py`` brings the parts of a host together. Host sets are integers (``node/hostset.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from plush_worker.node import hostset
from plush_worker.node.hostset import to_text

EXEC, DEPLOY, FETCH = "exec", "deploy", "fetch"
KINDS = (EXEC, DEPLOY, FETCH)

Outcome = tuple[str, int | None, int | None, str]  # state, exit code, signal, detail

_RANKS = {"exited": 1, "failed": 2, "unreachable": 3, "killed": 4, "unknown": 5}


def badness(outcome: Outcome) -> tuple[int, int]:
    """Outcomes in order: exited 0, nonzero by code, failed, unreachable, killed, unknown."""
    state, code, signal, _ = outcome
    value = code if code is not None else 128 + (signal or 0)
    return (0, 0) if state == "exited" and value == 0 else (_RANKS.get(state, 5), value)


@dataclass(slots=True)
class Part:
    """See the module's docstring. Every set is a part of ``hosts``."""

    kind: str
    name: str
    hosts: int
    ops: dict[int, int] = field(default_factory=dict)  # op -> hosts it is meant for; each host has one at most
    touched: int = 0  # an op may have got to them
    reached: int = 0  # a node program was there when, or after, an op was ordered
    started: int = 0
    ended: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=dict)  # without hosts that another part's end has ended

    @property
    def ordered(self) -> int:
        """Hosts for which there is an op."""
        return union(self.ops.values())

    @property
    def open(self) -> int:
        """Hosts where it hasn't ended."""
        return self.hosts & ~self.ended

    def op_ordered(self, op: int, hosts: int, up: int) -> None:
        """A new op for ``hosts``, some of which may have had another."""
        for other, meant in self.ops.items():
            self.ops[other] = meant & ~hosts
        self.ops[op] = hosts
        self.touched |= hosts
        self.reached |= hosts & up

    def hosts_up(self, hosts: int) -> None:
        """Node programs are there."""
        self.reached |= hosts & self.touched

    def hosts_lost(self, hosts: int, reached: bool) -> None:
        """No link any more; ``reached``: a node program was there before, so it may have got what was ordered."""
        if reached:
            self.reached |= hosts & self.touched
        self.touched &= self.reached | ~hosts

    def end(self, hosts: int, outcome: Outcome) -> int:
        """Ended on these hosts, where it hadn't already: those."""
        new = hosts & self.open
        if new:
            if self.kind == DEPLOY and outcome[0] == "exited" and outcome[1] != 0:
                outcome = ("failed", *outcome[1:3], outcome[3] or "its files could not be put there")
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) | new
            self.ended |= new
        return new

    def too_late(self, up: int, orders: Mapping[int, int]) -> int:
        """Hosts up under an admission above their op, which therefore can't start any more and has not touched them."""
        late = 0
        candidates = self.open & up & ~self.touched & ~self.started
        for op, meant in self.ops.items() if candidates else ():
            for number in hostset.members(meant & candidates):
                if orders.get(number, 0) > op:
                    late |= 1 << number
        return late

    def check_invariants(self) -> None:
        """Raises AssertionError when the part contradicts itself."""
        sets = (self.touched, self.reached, self.started, self.ended, self.ordered)
        assert not any(hosts & ~self.hosts for hosts in sets), f"{self.kind} {self.name}: a host that isn't its own"
        assert sum(map(hostset.size, self.ops.values())) == hostset.size(self.ordered), "a host with two ops"
        seen = 0
        for hosts in self.outcomes.values():
            assert not seen & hosts, f"{self.kind} {self.name}: {to_text(seen & hosts)} ended twice"
            seen |= hosts
        assert not seen & ~self.ended, f"{self.kind} {self.name}: an outcome without an end"


def worst_outcomes(hosts: int, parts: Iterable[Part]) -> dict[Outcome, int]:
    """How these hosts ended, all of whose parts have: the worst outcome of each; of equal ones the first part's."""
    groups: dict[Outcome | None, int] = {None: hosts}
    for part in parts:
        split: dict[Outcome | None, int] = {}
        for worst, members in groups.items():
            for outcome, ended in part.outcomes.items():
                both = members & ended
                if both:
                    chosen = outcome if worst is None or badness(outcome) > badness(worst) else worst
                    split[chosen] = split.get(chosen, 0) | both
                    members &= ~both
            if members:
                split[worst] = split.get(worst, 0) | members
        groups = split
    return {outcome: members for outcome, members in groups.items() if outcome is not None}


def union(sets: Iterable[int]) -> int:
    """All hosts of several sets."""
    hosts = 0
    for some in sets:
        hosts |= some
    return hosts

"""The registry of scenarios: a name, a title, and a function from settings to an outcome.

A scenario compares within one run: peers and ours by turns, on the same hosts, with the same key exchange, since
absolute times drift from machine to machine and from minute to minute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ops.bench.results import Outcome


@dataclass(frozen=True, slots=True)
class Settings:
    """What the caller chooses. The fields behind the second are for scenarios in a wide area."""

    repetitions: int = 5
    host_count: int = 64
    host_counts: tuple[int, ...] = ()  # in place of the scenario's own list
    tools: tuple[str, ...] = ()  # only these, by the beginnings of their names
    ground: str = "testbed"  # or loopback: real sshd on this machine without any distance
    rtt: str = "planetlab"  # the testbed's matrix
    seed: int = 1

    def counts(self, *own: int) -> tuple[int, ...]:
        """How many hosts, least first: what the caller said, else the scenario's own numbers."""
        return tuple(sorted(self.host_counts or own))


@dataclass(frozen=True, slots=True)
class Scenario:
    """One registered scenario."""

    name: str
    title: str
    measure: Callable[[Settings], Outcome]


# Name -> the module that registers it, imported when it is to run.
MODULES = {
    "node_start": "ops.bench.node_start",
    "loopback": "ops.bench.loopback",
    "fan_in": "ops.bench.fan_in",
    "flood": "ops.bench.flood",
    "scaling": "ops.bench.scaling",
    "service": "ops.bench.service",
    "cold": "ops.bench.cold",
    "warm": "ops.bench.warm",
    "wide_flood": "ops.bench.wide_flood",
    "floors": "ops.bench.floors",
    "leftovers": "ops.bench.leftovers",
}
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, title: str) -> Callable[[Callable[[Settings], Outcome]], Callable[[Settings], Outcome]]:
    """Register the decorated function."""

    def register(measure: Callable[[Settings], Outcome]) -> Callable[[Settings], Outcome]:
        SCENARIOS[name] = Scenario(name, title, measure)
        return measure

    return register

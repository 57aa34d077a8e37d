"""How a tree of links comes up, simulated: discrete events over what links cost. Pure, and the same each time.

Owns the life of a link (who is busy when) and the result; the tree is a planner's, or decided on the way
(``stealing.py``). A parent is busy for the connect cost of each of its links and has a limited number of logins in
progress; a child is ready some round trips and its own start later. Three machines are known: every host and worker
with a processor of its own (what planners assume), a controller with a share of a processor, and one machine whose
cores all hosts share, as in a testbed. Entry point: ``simulate``; meaning of the parameters: docs/simulator.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean, median
from typing import Any, Protocol

from plush_worker.model import HostEntry, SliceSettings, WorkerInfo

from .costs import CostTable
from .events import Agenda, Processor
from .link_costs import LinkCosts
from .network import Network
from .plan import PlanError, plan_tree
from .planners import PLANNERS
from .problem import NO_LIMIT, Problem, pose
from .sim_planners import SIM_PLANNERS
from .stealing import WINDOW, Stealing

STEALING = "stealing"
ALL_PLANNERS = (*PLANNERS, *SIM_PLANNERS, STEALING)  # without auto, which is one of PLANNERS
NONE = NO_LIMIT  # parent of a host that nobody linked to


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated, but for the planner. ``entries``, the network's clusters: by host."""

    entries: Sequence[HostEntry]
    workers: Sequence[WorkerInfo]
    settings: SliceSettings  # its planner is not looked at
    network: Network
    costs: LinkCosts = field(default_factory=LinkCosts)
    cores: float = 0.0  # of the one machine that all hosts and workers share; 0: each has a processor of its own
    controller_cpu: float = 0.0  # cores that all workers together may use; 0: no limit
    plans_blind: bool = False  # planners know only sites, as in a run, and not this network or these costs


@dataclass(frozen=True, slots=True)
class Summary:
    """One tree in numbers. Times in seconds from the start."""

    planner: str
    host_count: int  # that became ready
    unreachable_count: int
    last_s: float
    median_s: float
    mean_s: float
    heard_s: float  # when the controller has heard of the last host
    depth: int  # links from a worker to a leaf, at most
    degree: int  # children of a host, at most
    controller_links: int  # hosts that workers link to

    def as_json(self) -> dict[str, Any]:
        """For people's programs; times to the millisecond."""
        return {name: round(v, 3) if isinstance(v, float) else v for name, v in asdict(self).items()}


@dataclass(slots=True)
class Trace:
    """What happened to each host; NaN and NONE for those that nobody linked to."""

    planner: str  # the one that made the plan, where auto was asked for
    parents: list[int]  # host -> parent host, or -1 - the worker's index
    opened_s: list[float]  # when its parent began with the link
    ready_s: list[float]
    heard_s: list[float]  # when the controller has heard of it: READY goes up the tree, half a round trip a link
    depths: list[int]
    unreachable: Mapping[int, str] = field(default_factory=dict)  # host -> why

    def summary(self) -> Summary:
        """The tree in numbers."""
        ready_s = [s for s in self.ready_s if not math.isnan(s)]
        children: dict[int, int] = {}
        for parent in self.parents:
            if 0 <= parent < NONE:
                children[parent] = children.get(parent, 0) + 1
        return Summary(
            planner=self.planner,
            host_count=len(ready_s),
            unreachable_count=len(self.unreachable),
            last_s=max(ready_s),
            median_s=median(ready_s),
            mean_s=fmean(ready_s),
            heard_s=max(s for s in self.heard_s if not math.isnan(s)),
            depth=max(self.depths),
            degree=max(children.values(), default=0),
            controller_links=sum(parent < 0 for parent in self.parents),
        )

    def series(self, points: int = 100) -> list[tuple[float, int]]:
        """(time in s, hosts ready by then), rising to all of them: at most ``points`` of the hosts' times."""
        ready_s = sorted(s for s in self.ready_s if not math.isnan(s))
        counts = sorted({-(-len(ready_s) * (at + 1) // points) for at in range(points)})
        return [(ready_s[count - 1], count) for count in counts if count]


def simulate(scenario: Scenario, planner: str) -> Trace:
    """How the tree of ``planner`` (auto, or one of ALL_PLANNERS) comes up.

    Raises PlanError: no such planner, no host that can be reached, or one of the planners that take every host to
    reach every other where that isn't so. O(hosts * log(hosts)) without planning; about 0.2 KB a host.
    """
    table = scenario.costs.table(scenario.network, len(scenario.workers))
    known = CostTable.usual(scenario.entries) if scenario.plans_blind else table
    settings = replace(scenario.settings, planner=planner if planner in PLANNERS else "auto")
    if planner == STEALING:
        _open_problem(scenario, settings, table, planner)
        play = _Play(scenario, table, at_once=WINDOW)
        shares = {-1 - w: range(w, len(scenario.entries), len(scenario.workers)) for w in range(len(scenario.workers))}
        stealing = Stealing(play.agenda, shares, play.trace.parents, play.message_s, play.go_on)
        play.run(stealing, STEALING)
        return play.trace
    if planner in SIM_PLANNERS:
        problem = _open_problem(scenario, settings, known, planner)
        parents, unreachable = SIM_PLANNERS[planner](problem), {}
    elif planner == "auto" or planner in PLANNERS:
        plan = plan_tree(scenario.entries, scenario.workers, settings, known)
        numbers = {worker.name: -1 - at for at, worker in enumerate(scenario.workers)}
        parents = {root: numbers[plan.worker_of[root]] for root in plan.roots} | dict(plan.parents)
        planner, unreachable = plan.planner, dict(plan.unreachable)
    else:
        raise PlanError(f"no planner {planner!r} to simulate: there are auto, {', '.join(ALL_PLANNERS)}")
    if not parents:
        reason = next(iter(unreachable.values()), "there are none")
        raise PlanError(f"none of {len(scenario.entries)} hosts can be linked to: {reason}")
    play = _Play(scenario, table)
    play.trace.unreachable = unreachable
    play.run(_Planned(parents), planner)
    return play.trace


def _open_problem(scenario: Scenario, settings: SliceSettings, table: CostTable, planner: str) -> Problem:
    """The problem, where every host reaches every other. Raises PlanError."""
    problem = pose(scenario.entries, scenario.workers, settings, table)
    if len(problem.groups) == 1 and len(problem.groups[0]) == len(scenario.entries):
        return problem
    if not scenario.entries:
        raise PlanError("no hosts to simulate")
    among = set(problem.groups[0]) if problem.groups else set()
    host = next(at for at in range(len(scenario.entries)) if at not in among)
    raise PlanError(
        f"{planner} is for hosts that all reach each other, and {scenario.entries[host].name} isn't linked to by all "
        f"(inner_login, reachable_from, proxies or a missing key): leave it out, or take {', '.join(PLANNERS)}"
    )


class _Work(Protocol):
    """Decides whom a node links to next."""

    def take(self, node: int) -> int | None:
        """The next host for ``node``, or None for now."""

    def want(self, node: int) -> None:
        """``node`` could have another login in progress."""


class _Planned:
    """Each parent links to its own hosts, in the order of the plan."""

    def __init__(self, parents: Mapping[int, int]) -> None:
        self._left: dict[int, list[int]] = {}  # the next one last
        for host, parent in reversed(list(parents.items())):
            self._left.setdefault(parent, []).append(host)

    def take(self, node: int) -> int | None:
        left = self._left.get(node)
        return left.pop() if left else None

    def want(self, node: int) -> None:
        pass


class _Play:
    """One tree coming up. Nodes are hosts (0 and up) and workers (negative)."""

    def __init__(self, scenario: Scenario, table: CostTable, at_once: int = 0) -> None:
        count = len(scenario.entries)
        self.agenda = Agenda()
        self.trace = Trace(
            "", [NONE] * count, [math.nan] * count, [math.nan] * count, [math.nan] * count, [0] * count
        )  # fmt: skip
        settings = scenario.settings
        self._table = table
        self._costs = scenario.costs
        self._agent_round_trips = scenario.costs.agent_round_trips if settings.inner_login == "agent" else 0.0
        self._network = scenario.network
        self._workers = [-1 - worker for worker in range(len(scenario.workers))]
        self._host_at_once = max(1, at_once or settings.logins_at_once)
        self._worker_at_once = max(1, at_once or settings.worker_logins_at_once)
        self._shared = Processor(self.agenda, scenario.cores) if scenario.cores else None
        share = scenario.controller_cpu
        self._controller = Processor(self.agenda, share) if share else self._shared
        self._up_s = [0.0] * count  # host -> from it to the controller, along the tree
        self._busy: set[int] = set()
        self._in_progress: dict[int, int] = {}

    def run(self, work: _Work, planner: str) -> None:
        """From nothing to everybody ready."""
        self._work = work
        self.trace.planner = planner
        for worker in self._workers:
            self.go_on(worker)
        self.agenda.run()

    def message_s(self, a: int, b: int) -> float:
        """How long a message takes between two nodes."""
        return self._network.rtt_s(self._cluster(a), self._cluster(b)) / 2

    def _cluster(self, node: int) -> int:
        return self._network.clusters[node] if node >= 0 else self._network.controller

    def go_on(self, node: int) -> None:
        """The node opens as many links as it may."""
        most = self._host_at_once if node >= 0 else self._worker_at_once
        while node not in self._busy and self._in_progress.get(node, 0) < most:
            host = self._work.take(node)
            if host is None:
                break
            self._open(node, host)
        if self._in_progress.get(node, 0) < most:
            self._work.want(node)

    def _open(self, parent: int, host: int) -> None:
        trace = self.trace
        trace.parents[host], trace.opened_s[host] = parent, self.agenda.now_s
        trace.depths[host] = trace.depths[parent] + 1 if parent >= 0 else 1
        self._in_progress[parent] = self._in_progress.get(parent, 0) + 1
        cpu_s = self._table.connect_s(parent)
        processor = self._shared if parent >= 0 else self._controller
        if processor is None:
            self._busy.add(parent)
            self.agenda.after(cpu_s, self._connected, parent, host)
        else:
            if parent < 0:
                self._busy.add(parent)  # a worker is one thread; a host's ssh are processes, and run side by side
            processor.run(cpu_s, self._connected, parent, host)

    def _connected(self, parent: int, host: int) -> None:
        self._busy.discard(parent)
        distance = self._table.cluster(parent), self._table.cluster(host)
        # ssh opens a channel to the agent, binds, lists and signs, each up the tree and back.
        agent_s = self._agent_round_trips * 2 * self._up_s[parent] if parent >= 0 else 0.0
        if self._shared is None:
            self.agenda.after(self._table.latency_s(*distance) + agent_s, self._become_ready, parent, host)
        else:
            wait_s = self._costs.round_trips * self._table.rtt_s(*distance) + self._costs.wait_s
            self.agenda.after(wait_s + agent_s, self._start, parent, host)
        self.go_on(parent)

    def _start(self, parent: int, host: int) -> None:
        assert self._shared is not None
        self._shared.run(self._costs.server_s + self._costs.node_s, self._become_ready, parent, host)

    def _become_ready(self, parent: int, host: int) -> None:
        now_s = self.agenda.now_s
        self._up_s[host] = self.message_s(host, parent) + (self._up_s[parent] if parent >= 0 else 0.0)
        self.trace.ready_s[host], self.trace.heard_s[host] = now_s, now_s + self._up_s[host]
        self._in_progress[parent] -= 1
        self.go_on(parent)
        self.go_on(host)

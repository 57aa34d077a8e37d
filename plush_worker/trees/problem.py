"""What a planner is given: hosts sorted by who can reach them, and the room that limits leave. Pure.

Hosts that no worker can reach are hung below hosts that can before any planner runs (``hang_below``): they have
little choice, and planners see only the room that is left. So a planner deals with hosts that a worker can reach,
in groups whose members all reach each other.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from plush_worker.model import HostEntry, SliceSettings, WorkerInfo

from .costs import CostTable
from .reach import Reach, Rule

NO_LIMIT = 1 << 30


@dataclass(slots=True)
class Problem:
    """One planning problem; planners read it and don't change it."""

    entries: Sequence[HostEntry]
    workers: Sequence[WorkerInfo]
    settings: SliceSettings
    costs: CostTable
    rules: Sequence[Rule]
    groups: list[list[int]] = field(default_factory=list)  # any member may be the parent of any other
    alone: list[int] = field(default_factory=list)  # only a worker may be their parent
    below: dict[int, int] = field(default_factory=dict)  # hosts that no worker reaches -> parent
    unreachable: dict[int, str] = field(default_factory=dict)
    room: list[int] = field(default_factory=list)  # host -> children it may yet have
    most_depth: list[int] = field(default_factory=list)  # host -> links from the worker, at most
    weight: list[int] = field(default_factory=list)  # host -> hosts of its subtree so far, itself included

    @property
    def depth_limit(self) -> int:
        """Most links from a worker to a leaf."""
        return self.settings.depth or NO_LIMIT

    def logins_at_once(self, parent: int) -> int:
        """How many logins a parent may have in progress."""
        return self.settings.logins_at_once if parent >= 0 else self.settings.worker_logins_at_once


def pose(
    entries: Sequence[HostEntry], workers: Sequence[WorkerInfo], settings: SliceSettings, costs: CostTable | None = None
) -> Problem:
    """The problem of linking to all ``entries`` from ``workers``."""
    rules = Reach(entries, settings).rules
    problem = Problem(entries, workers, settings, costs or CostTable.usual(entries), rules)
    problem.room = [max(0, settings.degree)] * len(entries)
    problem.weight = [1] * len(entries)
    heights = _hang_below(problem)
    problem.most_depth = [problem.depth_limit - height for height in heights]
    _group(problem)
    return problem


def _group(problem: Problem) -> None:
    """Sorts the hosts that a worker reaches; in each group those with hosts below them come first, the highest first."""
    by_rule: dict[int, list[int]] = {}
    for index, rule in enumerate(problem.rules):
        if rule.worker:
            by_rule.setdefault(id(rule), []).append(index)
    for members in by_rule.values():
        members.sort(key=lambda index: (problem.most_depth[index], -problem.weight[index], index))
        hosts = problem.rules[members[0]].hosts
        if hosts is None or hosts.issuperset(members):
            problem.groups.append(members)
        else:
            problem.alone += members


def _hang_below(problem: Problem) -> list[int]:
    """Hangs hosts that no worker reaches below hosts that can; returns each host's height (0: nothing below it).

    Level by level, hosts with the fewest possible parents first, each below the least used parent; a full parent
    hands a child on to another one where that makes room.
    """
    levels = {index: 1 for index, rule in enumerate(problem.rules) if rule.worker}
    children: dict[int, list[int]] = {}
    waiting = {
        index: rule.hosts for index, rule in enumerate(problem.rules) if not rule.worker and rule.hosts is not None
    }
    for index, rule in enumerate(problem.rules):
        if not rule.worker and not rule.hosts:
            problem.unreachable[index] = rule.lack
            waiting.pop(index, None)
    _Hanging(problem, levels, children, waiting).run()
    for index in waiting:
        problem.unreachable[index] = _why(problem, index, levels)
    return _heights(problem, len(problem.entries))


@dataclass(slots=True)
class _Hanging:
    problem: Problem
    levels: dict[int, int]  # of hosts that have their place
    children: dict[int, list[int]]
    waiting: dict[int, frozenset[int]]

    def run(self) -> None:
        """Places what can be placed; what is left in ``waiting`` can't."""
        wanted_by: dict[int, list[int]] = {}
        for index, hosts in self.waiting.items():
            for host in hosts:
                wanted_by.setdefault(host, []).append(index)
        ready = [h for h in wanted_by if h in self.levels]
        while ready:
            reached = dict.fromkeys(c for parent in ready for c in wanted_by.get(parent, ()) if c in self.waiting)
            placed = [index for index in sorted(reached, key=lambda i: (len(self.waiting[i]), i)) if self._place(index)]
            ready = [index for index in placed if index in wanted_by]

    def _place(self, index: int) -> bool:
        parent = self._best(index, self.waiting[index])
        if parent is None:
            parent = self._make_room(index)
        if parent is None:
            return False
        self._attach(index, parent)
        del self.waiting[index]
        return True

    def _best(self, index: int, hosts: frozenset[int]) -> int | None:
        """The possible parent with the most room among those nearest to a worker."""
        limit, room, levels = self.problem.depth_limit, self.problem.room, self.levels
        possible = [h for h in hosts if h != index and levels.get(h, limit) < limit and room[h] > 0]
        return min(possible, key=lambda host: (levels[host], -room[host], host)) if possible else None

    def _make_room(self, index: int) -> int | None:
        """A full parent, one of whose childless children could be hung elsewhere."""
        for parent in self.waiting[index]:
            if self.levels.get(parent, NO_LIMIT) >= self.problem.depth_limit:
                continue
            for child in self.children.get(parent, ()):
                hosts = self.problem.rules[child].hosts
                if hosts is None or child in self.children:
                    continue
                other = self._best(child, hosts - {parent, index})
                if other is not None:
                    self.children[parent].remove(child)
                    self.problem.room[parent] += 1
                    self._attach(child, other)
                    return parent
        return None

    def _attach(self, index: int, parent: int) -> None:
        self.problem.below[index] = parent
        self.problem.room[parent] -= 1
        self.children.setdefault(parent, []).append(index)
        self.levels[index] = self.levels[parent] + 1


def _why(problem: Problem, index: int, levels: Mapping[int, int]) -> str:
    """Why a host that could be reached in principle has no place."""
    rule = problem.rules[index]
    parents = [h for h in rule.hosts or () if h in levels and h != index]
    if not parents:
        return rule.lack
    names = ", ".join(problem.entries[h].name for h in sorted(parents)[:5])
    if all(levels[h] >= problem.depth_limit for h in parents):
        return (
            f"it is reachable from {names}, and would be deeper than the depth limit of {problem.settings.depth} links"
        )
    return (
        f"it is reachable from {names}, and no more than {problem.settings.degree} children (degree) fit below a host"
    )


def _heights(problem: Problem, count: int) -> list[int]:
    """Links from each host down to the deepest host below it; fills in the weights."""
    heights = [0] * count
    open_children = [0] * count
    for parent in problem.below.values():
        open_children[parent] += 1
    queue = deque(index for index in problem.below if not open_children[index])
    while queue:
        index = queue.popleft()
        parent = problem.below.get(index)
        if parent is None:
            continue
        heights[parent] = max(heights[parent], heights[index] + 1)
        problem.weight[parent] += problem.weight[index]
        open_children[parent] -= 1
        if not open_children[parent]:
            queue.append(parent)
    return heights


def deal(problem: Problem, hosts: Sequence[int], taken: Sequence[int]) -> list[list[int]]:
    """Hosts to workers, in order, by the room that each worker says it has and what it has ``taken`` already."""
    shares: list[list[int]] = [[] for _ in problem.workers]
    sizes = [max(1, worker.capacity - worker.load) for worker in problem.workers]
    heap = [(taken[w] / size, w, taken[w]) for w, size in enumerate(sizes)]
    heapq.heapify(heap)
    for host in hosts:
        _, worker, count = heap[0]
        shares[worker].append(host)
        count += problem.weight[host]
        heapq.heapreplace(heap, (count / sizes[worker], worker, count))
    return shares

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
    """Sorts the hosts that a worker reaches; in each group those with the deepest subtrees so far come first."""
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
    """Hangs hosts that no worker reaches below hosts that can; returns each host's height (0: nothing below it)."""
    hanging = _Hanging(problem)
    hanging.run()
    reasons: dict[int, str] = {}
    for index in hanging.waiting:
        rule = problem.rules[index]
        if id(rule) not in reasons:
            reasons[id(rule)] = _why(problem, rule, hanging.levels)
        problem.unreachable[index] = reasons[id(rule)]
    return _heights(problem, len(problem.entries))


class _Hanging:
    """Places hosts level by level, those with the fewest possible parents first, each below the parent with the most
    room among those nearest to a worker. A full parent hands a child on to another one where that makes room."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.levels = {index: 1 for index, rule in enumerate(problem.rules) if rule.worker}  # of placed hosts
        self.waiting = {
            index: rule.hosts or frozenset() for index, rule in enumerate(problem.rules) if not rule.worker
        }  # rule.hosts None can't be: whom everybody reaches, a worker reaches, too
        self._children: dict[int, list[int]] = {}
        self._wanted_by: dict[int, list[int]] = {}  # possible parent -> hosts
        self._sets: dict[int, list[frozenset[int]]] = {}  # possible parent -> sets of possible parents it is in
        self._heaps: dict[frozenset[int], list[tuple[int, int, int]]] = {}  # level, -room, possible parent
        self._hopeless: dict[frozenset[int], int] = {}  # how many hosts had been placed when no room could be made
        for index, hosts in self.waiting.items():
            new = hosts not in self._heaps
            self._heaps.setdefault(hosts, [])
            for host in hosts:
                self._wanted_by.setdefault(host, []).append(index)
                if new:
                    self._sets.setdefault(host, []).append(hosts)

    def run(self) -> None:
        """Places what can be placed; what is left in ``waiting`` can't."""
        ready = [host for host in self._wanted_by if host in self.levels]
        for host in ready:
            self._offer(host)
        while ready:
            reached = dict.fromkeys(c for parent in ready for c in self._wanted_by[parent] if c in self.waiting)
            placed = [index for index in sorted(reached, key=lambda i: (len(self.waiting[i]), i)) if self._place(index)]
            ready = [index for index in placed if index in self._wanted_by]

    def _offer(self, host: int) -> None:
        """Makes a placed host known to those that it can be the parent of."""
        level, room = self.levels[host], self._problem.room[host]
        if room > 0 and level < self._problem.depth_limit:
            for hosts in self._sets.get(host, ()):
                heapq.heappush(self._heaps[hosts], (level, -room, host))

    def _place(self, index: int) -> bool:
        hosts = self.waiting[index]
        parent = self._best(hosts)
        if parent is None and self._hopeless.get(hosts) != len(self.levels):
            parent = self._make_room(hosts)
            if parent is None:
                self._hopeless[hosts] = len(self.levels)
        if parent is None:
            return False
        del self.waiting[index]
        self._attach(index, parent)
        self._offer(index)
        return True

    def _best(self, hosts: frozenset[int], besides: int = -1) -> int | None:
        """The possible parent with room, nearest to a worker, then with the most room."""
        heap, room, aside = self._heaps[hosts], self._problem.room, None
        best = None
        while heap:
            level, free, host = heap[0]
            if (level, -free) != (self.levels[host], room[host]):  # out of date
                heapq.heappop(heap)
                if room[host] > 0:
                    heapq.heappush(heap, (self.levels[host], -room[host], host))
            elif host == besides:
                aside = heapq.heappop(heap)
            else:
                best = host
                break
        if aside:
            heapq.heappush(heap, aside)
        return best

    def _make_room(self, hosts: frozenset[int]) -> int | None:
        """A full parent, one of whose childless children could be hung elsewhere."""
        for parent in hosts:
            if self.levels.get(parent, NO_LIMIT) >= self._problem.depth_limit:
                continue
            for child in self._children.get(parent, ()):
                if child in self._children:
                    continue
                other = self._best(self._problem.rules[child].hosts or frozenset(), besides=parent)
                if other is not None and other != child:
                    self._children[parent].remove(child)
                    self._problem.room[parent] += 1
                    self._attach(child, other)
                    return parent
        return None

    def _attach(self, index: int, parent: int) -> None:
        self._problem.below[index] = parent
        self._problem.room[parent] -= 1
        self._children.setdefault(parent, []).append(index)
        self.levels[index] = self.levels[parent] + 1


def _why(problem: Problem, rule: Rule, levels: Mapping[int, int]) -> str:
    """Why hosts under a rule have no place."""
    parents = [host for host in sorted(rule.hosts or ()) if host in levels]
    if not parents:
        return rule.lack
    names = ", ".join(problem.entries[host].name for host in parents[:5])
    if all(levels[host] >= problem.depth_limit for host in parents):
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
        if index not in problem.below:
            continue
        parent = problem.below[index]
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

"""The planners: each turns a ``Problem`` into host -> parent (a host's index, or -1 - the worker's index).

The order of the result is the order in which a parent opens its links. Each respects the room and the depth that the
problem leaves every host, and has a place for every host that a worker can reach, below a worker if nowhere else.
To add one: write the function, put it into PLANNERS and into ``SliceFields.planner`` of the host directory.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from .costs import Opener
from .problem import NO_LIMIT, Problem, deal

Parents = dict[int, int]
Planner = Callable[[Problem], Parents]


def plan_flat(problem: Problem) -> Parents:
    """Every host below a worker."""
    hosts = [*problem.alone, *(host for group in problem.groups for host in group)]
    hosts.sort(key=lambda host: (-problem.weight[host], host))
    shares = deal(problem, hosts, [0] * len(problem.workers))
    return {host: -1 - worker for worker, share in enumerate(shares) for host in share}


def plan_kary(problem: Problem) -> Parents:
    """Complete trees: each worker has ``degree`` children, each of those as many, filled level by level."""
    parents, taken = _alone(problem)
    for group in problem.groups:
        for worker, share in enumerate(deal(problem, group, taken)):
            _fill(problem, parents, share, -1 - worker, problem.settings.degree)
            taken[worker] += sum(problem.weight[host] for host in share)
    return parents


def plan_site(problem: Problem) -> Parents:
    """One subtree per site, so that a site is entered once: its first host below a worker, the others below that.

    A site that is larger than a worker's share is cut; hosts of no known site form k-ary trees.
    """
    parents, taken = _alone(problem)
    for group in problem.groups:
        by_site: dict[str, list[int]] = {}
        for host in group:
            by_site.setdefault(problem.entries[host].site, []).append(host)
        nowhere = by_site.pop("", [])
        most = -(-len(group) // len(problem.workers))
        chunks = [site[at : at + most] for site in by_site.values() for at in range(0, len(site), most)]
        for chunk in sorted(chunks, key=len, reverse=True):
            worker = next(w for w, share in enumerate(deal(problem, chunk[:1], taken)) if share)
            _fill(problem, parents, chunk, -1 - worker, 1)
            taken[worker] += sum(problem.weight[host] for host in chunk)
        for worker, share in enumerate(deal(problem, nowhere, taken)):
            _fill(problem, parents, share, -1 - worker, problem.settings.degree)
    return parents


def plan_greedy(problem: Problem) -> Parents:
    """Repeatedly the pair of parent and host that is ready earliest, where opening a link keeps the parent busy.

    For a homogeneous network this is the optimum of the postal model (Bar-Noy and Kipnis) but for the limits. A heap
    of parents, each with its nearest cluster that has hosts left: a popped entry may be out of date, but only too
    early, since the nearest cluster only gets farther. O(hosts * log(hosts) + clusters^2 * log(clusters)).
    """
    parents, _ = _alone(problem)
    workers = [-1 - w for w in range(len(problem.workers))]
    openers = {w: Opener(problem.costs, w, 0.0, problem.logins_at_once(w)) for w in workers}
    for host, parent in parents.items():
        openers[parent].open(problem.costs.latency_s(openers[parent].cluster, problem.costs.cluster(host)))
    for group in problem.groups:
        _grow(problem, parents, group, openers)
    return parents


def _grow(problem: Problem, parents: Parents, group: Sequence[int], workers: Mapping[int, Opener]) -> None:
    """Attaches the hosts of one group, whose members all reach each other."""
    costs = problem.costs
    left: dict[int, deque[int]] = {}
    for host in group:
        if problem.most_depth[host] < problem.depth_limit and problem.depth_limit < NO_LIMIT:
            # Something hangs below it and depth is limited: next to the worker it fits for certain.
            worker = min(workers, key=lambda w: workers[w].next_s(0.0))
            parents[host] = worker
            workers[worker].open(costs.latency_s(workers[worker].cluster, costs.cluster(host)))
        else:
            left.setdefault(costs.cluster(host), deque()).append(host)
    nearest = Nearest(problem, left)
    heap: list[tuple[float, int, int, int]] = []  # ready_s, parent's order of arrival, parent, cluster
    openers, room, depth, arrival = dict(workers), dict.fromkeys(workers, NO_LIMIT), dict.fromkeys(workers, 0), 0

    def offer(parent: int, order: int) -> None:
        opener = openers[parent]
        cluster, latency_s = nearest.of(opener.cluster)
        if cluster is not None and room[parent] > 0:
            heapq.heappush(heap, (opener.next_s(latency_s), order, parent, cluster))

    for worker in workers:
        offer(worker, arrival)
        arrival += 1
    while heap:
        _, order, parent, cluster = heapq.heappop(heap)
        if left[cluster]:
            host = left[cluster].popleft()
            parents[host] = parent
            room[parent] -= 1
            depth[host] = depth[parent] + 1
            ready_s = openers[parent].open(costs.latency_s(openers[parent].cluster, cluster))
            if depth[host] < problem.depth_limit and problem.room[host] > 0:
                openers[host] = Opener(costs, host, ready_s, problem.logins_at_once(host))
                room[host] = problem.room[host]
                offer(host, arrival)
                arrival += 1
        offer(parent, order)


class Nearest:
    """For each cluster the nearest one that has hosts left."""

    def __init__(self, problem: Problem, left: Mapping[int, deque[int]]) -> None:
        self._latency_s, self._left = problem.costs.latency_s, left
        self._orders: dict[int, list[tuple[float, int]]] = {}  # cluster -> the others, the nearest last

    def of(self, cluster: int) -> tuple[int | None, float]:
        """(nearest cluster with hosts left, latency to it); (None, 0) when there are none."""
        order = self._orders.get(cluster)
        if order is None:
            order = sorted(((self._latency_s(cluster, other), other) for other in self._left), reverse=True)
            self._orders[cluster] = order
        while order and not self._left[order[-1][1]]:
            order.pop()
        return (order[-1][1], order[-1][0]) if order else (None, 0.0)


def _alone(problem: Problem) -> tuple[Parents, list[int]]:
    """The hosts that only a worker may link to, and how many hosts each worker has then."""
    parents: Parents = {}
    taken = [0] * len(problem.workers)
    for worker, share in enumerate(deal(problem, problem.alone, taken)):
        parents.update((host, -1 - worker) for host in share)
        taken[worker] = sum(problem.weight[host] for host in share)
    return parents, taken


def _fill(problem: Problem, parents: Parents, hosts: Sequence[int], worker: int, worker_room: int) -> None:
    """Hangs hosts below a worker level by level; those for which depth or room don't suffice next to the worker."""
    level: deque[tuple[int, int, int]] = deque([(worker, 0, worker_room)])  # parent, its depth, its room
    for host in hosts:
        while level and level[0][2] <= 0:
            level.popleft()
        parent, depth = worker, 0
        if level and level[0][1] < problem.most_depth[host]:
            parent, depth, room = level[0]
            level[0] = (parent, depth, room - 1)
        parents[host] = parent
        if problem.room[host] > 0 and depth + 1 < problem.depth_limit:
            level.append((host, depth + 1, problem.room[host]))


PLANNERS: Mapping[str, Planner] = MappingProxyType(
    {"flat": plan_flat, "kary": plan_kary, "site": plan_site, "greedy": plan_greedy}
)

"""Planners of the literature that the product doesn't offer, to compare with. Pure; signatures as in ``planners.py``.

They take every host to reach every other. Binomial and postal trees know no limits of degree and depth (what a parent
may have in progress holds when the tree is played), the compact tree keeps both. Entry point: ``SIM_PLANNERS``.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import pairwise
from statistics import fmean
from types import MappingProxyType

from .costs import Opener
from .planners import Nearest, Parents, Planner
from .problem import NO_LIMIT, Problem


def plan_binomial(problem: Problem) -> Parents:
    """Rounds, in each of which every node there is links to one more host: n hosts in ceil(log2(n + 1)) rounds.

    The optimum of the one-port (telephone) model, in which a link takes its parent as long as its child. Source:
    Knuth, The Art of Computer Programming; Hedetniemi, Hedetniemi, Liestman: A survey of gossiping and broadcasting
    in communication networks, Networks 18, 1988.
    """
    parents: Parents = {}
    nodes, hosts = _workers(problem), _hosts(problem)
    while len(parents) < len(problem.entries):
        for parent, host in zip(list(nodes), hosts, strict=False):
            parents[host] = parent
            nodes.append(host)
    return parents


def plan_postal(problem: Problem) -> Parents:
    """Each next host below the parent that can have it ready first, were all hosts equally far apart.

    The optimum of the postal model: a parent is busy for 1 and the child ready after lambda = 1 + latency / connect
    cost, so F(t) = F(t - 1) + F(t - lambda) nodes can be ready by t. Source: Bar-Noy, Kipnis: Designing broadcasting
    algorithms in the postal model for message-passing systems, SPAA 1992. The latency taken is the mean of that from
    the first worker and those between neighbours in the list of hosts.
    """
    costs, workers = problem.costs, _workers(problem)
    hosts = list(_hosts(problem))
    if not hosts:
        return {}
    path = [costs.cluster(node) for node in (workers[0], *hosts)]
    latency_s = fmean(costs.latency_s(a, b) for a, b in pairwise(path))
    openers = {worker: Opener(costs, worker, 0.0, NO_LIMIT) for worker in workers}
    heap = [(openers[worker].next_s(latency_s), order, worker) for order, worker in enumerate(workers)]
    parents: Parents = {}
    for order, host in enumerate(hosts, len(workers)):
        _, parent_order, parent = heap[0]
        parents[host] = parent
        ready_s = openers[parent].open(latency_s)
        heapq.heapreplace(heap, (openers[parent].next_s(latency_s), parent_order, parent))
        openers[host] = Opener(costs, host, ready_s, NO_LIMIT)
        heapq.heappush(heap, (openers[host].next_s(latency_s), order, host))
    return parents


def plan_compact(problem: Problem) -> Parents:
    """Repeatedly the host that is nearest to a worker along the tree, where every node has ``degree`` children at most.

    Workers, too: without a limit to them all hosts would be theirs, since what it costs a parent to open a link isn't
    seen. Source: Shi, Turner: Routing in overlay multicast networks, INFOCOM 2002 (the compact tree, grown from a
    given root instead of from the best middle). Cost as that of the greedy planner.
    """
    costs, parents = problem.costs, Parents()
    left: dict[int, deque[int]] = {}
    for host in _hosts(problem):
        left.setdefault(costs.cluster(host), deque()).append(host)
    nearest = Nearest(problem, left)
    heap: list[tuple[float, int, int, int]] = []  # distance of the child, parent's order of arrival, parent, cluster
    reached_s: dict[int, float] = dict.fromkeys(_workers(problem), 0.0)
    room = dict.fromkeys(reached_s, max(1, problem.settings.degree))
    depth = dict.fromkeys(reached_s, 0)

    def offer(parent: int, order: int) -> None:
        cluster, latency_s = nearest.of(costs.cluster(parent))
        if cluster is not None and room[parent] > 0:
            heapq.heappush(heap, (reached_s[parent] + latency_s, order, parent, cluster))

    for order, worker in enumerate(list(reached_s)):
        offer(worker, order)
    while heap:
        child_s, order, parent, cluster = heapq.heappop(heap)
        if left[cluster]:  # else the offer is out of date
            host = left[cluster].popleft()
            parents[host], reached_s[host], depth[host] = parent, child_s, depth[parent] + 1
            room[parent] -= 1
            room[host] = problem.room[host] if depth[host] < problem.depth_limit else 0
            offer(host, len(reached_s))
        offer(parent, order)
    # Where degree and depth leave no room, the rest is the workers', as everywhere.
    workers = _workers(problem)
    rest = sorted(host for hosts in left.values() for host in hosts)
    parents.update((host, workers[at % len(workers)]) for at, host in enumerate(rest))
    return parents


def _workers(problem: Problem) -> list[int]:
    return [-1 - worker for worker in range(len(problem.workers))]


def _hosts(problem: Problem) -> Iterator[int]:
    return iter(range(len(problem.entries)))


SIM_PLANNERS: Mapping[str, Planner] = MappingProxyType(
    {"binomial": plan_binomial, "postal": plan_postal, "compact": plan_compact}
)

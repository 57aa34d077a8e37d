"""What a link costs, as far as planning goes: who is busy for how long, and when the other end is ready.

A link is opened by a *parent* (a worker or a host). Opening it keeps the parent busy for its connect cost, one link
after the other; the child is ready ``round_trips`` round trips and a start-up later. A parent has a limited number
of logins in progress. Figures: FACTS sections 2 and 8 of the design, measured by ``ops/bench``.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from plush_worker.model import HostEntry

UNKNOWN = -1  # the cluster of a worker, or of a host, of which nothing is known


@dataclass(frozen=True, slots=True)
class CostTable:
    """Costs of links between hosts, which are given by clusters: hosts of one cluster have equal round trips.

    For a full matrix each host is a cluster of its own. ``rtt_s(a, b)`` is the round trip in seconds between two
    clusters (or within one); either may be UNKNOWN.
    """

    clusters: Sequence[int]  # host index -> cluster
    rtt_s: Callable[[int, int], float]
    worker_clusters: Sequence[int] = ()  # worker index -> cluster; missing ones are UNKNOWN
    worker_connect_s: float = 0.004  # asyncssh, in bulk
    host_connect_s: float = 0.050  # the host's own ssh
    round_trips: float = 14.3  # of the host's own ssh up to a node program that is ready; `ssh host true` takes 12
    start_s: float = 0.1  # sshd's side, login shell, node program

    @classmethod
    def usual(cls, entries: Sequence[HostEntry], default_rtt_s: float = 0.001) -> CostTable:
        """Without measurements: hosts of one site are taken to be half as far apart as others."""
        numbers: dict[str, int] = {}
        clusters = [numbers.setdefault(entry.site, len(numbers)) if entry.site else UNKNOWN for entry in entries]
        return cls(clusters, lambda a, b: default_rtt_s / 2 if a == b != UNKNOWN else default_rtt_s)

    @classmethod
    def from_rtts(
        cls, rtts_s: Mapping[tuple[int, int], float], host_count: int, *, default_rtt_s: float = 0.1
    ) -> CostTable:
        """From round trips between pairs of hosts, given in either order; unknown pairs cost ``default_rtt_s``."""

        def rtt_s(a: int, b: int) -> float:
            found = rtts_s.get((a, b))
            return rtts_s.get((b, a), default_rtt_s) if found is None else found

        return cls(range(host_count), rtt_s)

    def cluster(self, node: int) -> int:
        """The cluster of a host (its index) or of a worker (-1 - its index)."""
        if node >= 0:
            return self.clusters[node]
        return self.worker_clusters[-1 - node] if -1 - node < len(self.worker_clusters) else UNKNOWN

    def connect_s(self, parent: int) -> float:
        """How long opening one link keeps the parent busy."""
        return self.host_connect_s if parent >= 0 else self.worker_connect_s

    def latency_s(self, parent_cluster: int, child_cluster: int) -> float:
        """From the end of the parent's work to the child being ready."""
        return self.round_trips * self.rtt_s(parent_cluster, child_cluster) + self.start_s


class Opener:
    """The clock of one parent: when its links are opened, and when the children at their other ends are ready."""

    __slots__ = ("_at_once", "_busy_until_s", "_connect_s", "_in_progress", "cluster")

    def __init__(self, costs: CostTable, parent: int, ready_s: float, at_once: int) -> None:
        self.cluster = costs.cluster(parent)
        self._busy_until_s = ready_s
        self._connect_s = costs.connect_s(parent)
        self._in_progress: list[float] = []  # heap: when the logins end that hold a place, or held one last
        self._at_once = max(1, at_once)

    def next_s(self, latency_s: float) -> float:
        """When a child would be ready if it were the next to be linked to."""
        start_s = self._busy_until_s
        if len(self._in_progress) >= self._at_once:
            start_s = max(start_s, self._in_progress[0])
        return start_s + self._connect_s + latency_s

    def open(self, latency_s: float) -> float:
        """Opens a link; returns when its child is ready."""
        ready_s = self.next_s(latency_s)
        self._busy_until_s = ready_s - latency_s
        if len(self._in_progress) < self._at_once:
            heapq.heappush(self._in_progress, ready_s)
        else:
            heapq.heapreplace(self._in_progress, ready_s)
        return ready_s

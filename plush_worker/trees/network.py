"""Round-trip times between hosts: what the simulator takes for the network. Pure.

Hosts are given by clusters, whose hosts are equally far from everything, so that 100,000 hosts need no matrix of
their own. Entry points: ``zero``, ``by_site``, ``from_matrix``; ``coordinates.py`` makes larger ones up.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plush_worker.model import HostEntry

from .costs import UNKNOWN, CostTable
from .matrix import Matrix

SAME_PLACE_S = 0.0005  # between two hosts that were drawn from one row of a matrix


@dataclass(frozen=True, slots=True)
class Network:
    """``rtt_s(a, b)``: seconds between two clusters, or within one (a == b)."""

    clusters: Sequence[int]  # host -> cluster
    rtt_s: Callable[[int, int], float]
    controller: int = UNKNOWN  # the cluster of the workers
    sites: Sequence[str] = ()  # host -> site; empty: not known
    note: str = ""  # one line: where the numbers come from, and how hosts were chosen


def zero(host_count: int) -> Network:
    """Everything in one place."""
    return Network([0] * host_count, lambda _a, _b: 0.0, 0, note="round trips take no time")


def by_site(entries: Sequence[HostEntry]) -> Network:
    """Without measurements: as planners take it, 1 ms to anywhere, half of that within a site."""
    usual = CostTable.usual(entries)
    note = "no round trips are known: 1 ms is taken, half of it within a site; --rtt names others"
    return Network(usual.clusters, usual.rtt_s, UNKNOWN, [entry.site for entry in entries], note)


def from_matrix(matrix: Matrix, host_count: int, seed: int) -> Network:
    """The controller is the first row and the hosts are the next ones; more hosts than that are drawn by ``seed``.

    So the testbed chooses, too, whose host 0 is the controller. Hosts drawn from one row are SAME_PLACE_S apart.
    """
    rows = list(range(1, min(matrix.size, host_count + 1)))
    note = f"round trips from {matrix.name}, rows 0 (controller) to {len(rows)} of {matrix.size}"
    if host_count > len(rows):
        drawn = host_count - len(rows)
        rows += random.Random(seed).choices(range(matrix.size), k=drawn)
        note += f"; {drawn} of {host_count} hosts are further ones at a row's place, drawn with seed {seed}"
    rtt_s = matrix.rtt_s

    def between_s(a: int, b: int) -> float:
        return rtt_s[a][b] if a != b else SAME_PLACE_S

    return Network(rows, between_s, 0, [matrix.sites[row] for row in rows] if matrix.sites else (), note)

"""The cost model, and the greedy planner against a plain search for the earliest pair."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_worker.model import HostEntry, SliceSettings, WorkerInfo
from plush_worker.trees.costs import UNKNOWN, CostTable, Opener
from plush_worker.trees.plan import plan_tree

WORKERS = [WorkerInfo("w0", "i0", "worker.w0", 1)]


def entries(count: int) -> list[HostEntry]:
    return [HostEntry(f"n{index}", f"n{index}", known_hosts=("k",)) for index in range(count)]


def matrix(count: int, seed: int) -> CostTable:
    pick = random.Random(seed)
    return CostTable.from_rtts({(a, b): pick.uniform(0, 0.5) for a in range(count) for b in range(a + 1)}, count)


def test_a_parent_is_busy_for_each_link_and_has_so_many_logins_in_progress() -> None:
    costs = CostTable([UNKNOWN], lambda a, b: 0.0, host_connect_s=1.0)
    opener = Opener(costs, 0, 10.0, at_once=2)
    assert opener.next_s(5.0) == 16.0
    assert [opener.open(5.0) for _ in range(4)] == [16.0, 17.0, 22.0, 23.0]


def test_usual_costs() -> None:
    sited = [HostEntry(name, name, site=site) for name, site in (("a", "x"), ("b", "x"), ("c", "y"), ("d", ""))]
    costs = CostTable.usual(sited)
    assert costs.rtt_s(costs.cluster(0), costs.cluster(1)) < costs.rtt_s(costs.cluster(0), costs.cluster(2))
    assert costs.cluster(3) == costs.cluster(-1) == UNKNOWN
    assert costs.rtt_s(UNKNOWN, UNKNOWN) == 0.001


def test_round_trips_in_either_order() -> None:
    costs = CostTable.from_rtts({(0, 1): 0.5, (2, 1): 0.0}, 3, default_rtt_s=0.25)
    assert [costs.rtt_s(a, b) for a, b in ((0, 1), (1, 0), (1, 2), (0, 2), (UNKNOWN, 0))] == [0.5, 0.5, 0.0, 0.25, 0.25]


def earliest_pairs(costs: CostTable, count: int, degree: int, at_once: int) -> float:
    """When the last host is ready if the pair that is ready earliest is linked each time; every pair looked at."""
    openers = {-1: Opener(costs, -1, 0.0, 64)}
    room = {-1: count}
    left = set(range(count))
    last_s = 0.0
    while left:
        ready_s, parent, child = min(
            (openers[p].next_s(costs.latency_s(openers[p].cluster, costs.cluster(c))), p, c)
            for p in openers if room[p] > 0 for c in left
        )  # fmt: skip
        assert openers[parent].open(costs.latency_s(openers[parent].cluster, costs.cluster(child))) == ready_s
        room[parent] -= 1
        left.remove(child)
        openers[child], room[child] = Opener(costs, child, ready_s, at_once), degree
        last_s = max(last_s, ready_s)
    return last_s


@given(st.integers(1, 25), st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4))
def test_greedy_takes_the_earliest_pair_each_time(count: int, seed: int, degree: int, at_once: int) -> None:
    costs = matrix(count, seed)
    wanted = SliceSettings(planner="greedy", inner_login="agent", degree=degree, logins_at_once=at_once)
    plan = plan_tree(entries(count), WORKERS, wanted, costs)
    assert plan.estimate_s == pytest.approx(earliest_pairs(costs, count, degree, at_once))


def test_greedy_beats_the_others_on_a_wide_area() -> None:
    costs = matrix(150, 1)
    found = {
        planner: plan_tree(entries(150), WORKERS, SliceSettings(planner=planner, inner_login="agent"), costs).estimate_s
        for planner in ("flat", "kary", "greedy")
    }
    assert found["greedy"] == min(found.values())

"""The simulator's events, and trees whose times were worked out by hand, by closed forms, or by the planners."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plush_worker.model import HostEntry, SliceSettings, WorkerInfo
from plush_worker.trees import network
from plush_worker.trees.coordinates import plane
from plush_worker.trees.events import Agenda, Processor
from plush_worker.trees.link_costs import LinkCosts
from plush_worker.trees.network import Network
from plush_worker.trees.plan import PlanError, plan_tree
from plush_worker.trees.planners import PLANNERS
from plush_worker.trees.simulate import ALL_PLANNERS, NONE, STEALING, Scenario, Trace, simulate
from plush_worker.trees.stealing import WINDOW, Stealing

ONE = LinkCosts(
    worker_connect_s=1.0,
    host_connect_s=1.0,
    server_s=0.0,
    node_s=0.0,
    wait_s=0.0,
    round_trips=1.0,
    worker_round_trips=1.0,
    agent_round_trips=0.0,
)
TREE = SliceSettings(inner_login="agent", degree=8)


def entries(count: int, sites: Sequence[str] = ()) -> list[HostEntry]:
    return [HostEntry(f"h{n}", f"h{n}", known_hosts=("k",), site=sites[n] if sites else "") for n in range(count)]


def workers(count: int) -> list[WorkerInfo]:
    return [WorkerInfo(f"w{n}", "", "", 1) for n in range(count)]


def far(count: int, rtt_s: float) -> Network:
    """Every two hosts are equally far apart."""
    return Network([0] * count, lambda _a, _b: rtt_s, 0)


def scene(count: int, *, rtt_s: float = 0.0, worker_count: int = 1, **fields: object) -> Scenario:
    """Everybody links in 1 s, alone on a processor; ``fields`` change that."""
    given_fields = {"settings": TREE, "network": far(count, rtt_s), "costs": ONE} | fields
    return Scenario(entries(count), workers(worker_count), **given_fields)  # type: ignore[arg-type]


def times(trace: Trace) -> list[float]:
    return [round(ready_s, 9) for ready_s in trace.ready_s]


# Events


def test_events_come_by_time_and_those_of_one_time_in_order() -> None:
    agenda, seen = Agenda(), []

    def see(name: str) -> None:
        seen.append((agenda.now_s, name))
        if name == "a":
            agenda.after(1.0, see, "c")

    for delay_s, name in ((2.0, "b"), (1.0, "a"), (2.0, "d")):
        agenda.after(delay_s, see, name)
    agenda.run()
    assert seen == [(1.0, "a"), (2.0, "b"), (2.0, "d"), (2.0, "c")]


def ends(cores: float, jobs: Sequence[tuple[float, float]]) -> dict[int, float]:
    """When each job, given as (start, work), is done."""
    agenda, done = Agenda(), dict[int, float]()
    processor = Processor(agenda, cores)

    def end(number: int) -> None:
        done[number] = agenda.now_s

    for number, (start_s, work_s) in enumerate(jobs):
        agenda.after(start_s, processor.run, work_s, end, number)
    agenda.run()
    return done


def test_jobs_share_cores_evenly_and_use_one_at_most() -> None:
    assert ends(2, [(0, 1.0), (0, 3.0)]) == {0: 1.0, 1: 3.0}, "two cores for two jobs"
    assert ends(1, [(0, 1.0), (0, 3.0)]) == {0: 2.0, 1: 4.0}, "half of the core each, then all of it"
    assert ends(1, [(0, 2.0), (1, 0.5)]) == {0: 2.5, 1: 2.0}, "the one that comes later is done earlier"
    assert ends(0.1, [(0, 1.0)]) == {0: 10.0}, "a tenth of a core"
    assert ends(1, [(0, 0.0), (0, 1.0)]) == {0: 0.0, 1: 1.0}, "no work takes no time"
    with pytest.raises(ValueError, match="more than 0"):
        Processor(Agenda(), 0)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), max_size=12), st.sampled_from([0.25, 1, 2, 3.5]))
def test_a_processor_does_all_work_and_no_more_than_it_can(jobs: list[tuple[float, float]], cores: float) -> None:
    done = ends(cores, jobs)
    assert sorted(done) == list(range(len(jobs)))
    for number, (start_s, work_s) in enumerate(jobs):
        assert done[number] >= start_s + work_s / min(1.0, cores) - 1e-6
    if jobs:
        work_s, first_s, last_s = sum(w for _, w in jobs), min(s for s, _ in jobs), max(done.values())
        assert last_s - first_s >= work_s / cores - 1e-6
        assert last_s <= max(s for s, _ in jobs) + work_s / min(1.0, cores) + 1e-6, "it isn't idle while there is work"


# By hand


def test_flat_by_hand() -> None:
    """1 s of the worker for each, then 2 round trips of 0.5 s and 0.25 s at the host."""
    costs = replace(ONE, worker_round_trips=2.0, server_s=0.1, node_s=0.1, wait_s=0.05)
    trace = simulate(scene(3, rtt_s=0.5, costs=costs), "flat")
    assert times(trace) == [2.25, 3.25, 4.25]
    assert trace.opened_s == [0.0, 1.0, 2.0]
    assert [round(s, 9) for s in trace.heard_s] == [2.5, 3.5, 4.5], "and half a round trip until the worker knows"
    found = trace.summary()
    assert (found.last_s, found.median_s, found.mean_s) == pytest.approx((4.25, 3.25, 3.25))
    assert (found.depth, found.degree, found.controller_links) == (1, 0, 3)
    assert trace.series(2) == [(pytest.approx(3.25), 2), (pytest.approx(4.25), 3)]


def test_a_tree_by_hand() -> None:
    """Two children each: h0 and h1 below the worker, h2 and h3 below h0, h4 below h1."""
    trace = simulate(scene(5, settings=replace(TREE, degree=2)), "kary")
    assert trace.parents == [-1, -1, 0, 0, 1]
    assert times(trace) == [1, 2, 2, 3, 3]
    assert trace.depths == [1, 1, 2, 2, 2]
    assert trace.heard_s == trace.ready_s, "nothing is far"


def test_a_workers_links_take_round_trips_of_their_own() -> None:
    """A chain: 2 round trips of 0.5 s for the worker's asyncssh, 4 for the host's ssh."""
    costs = replace(ONE, worker_round_trips=2.0, round_trips=4.0)
    trace = simulate(scene(2, rtt_s=0.5, costs=costs, settings=replace(TREE, degree=1)), "kary")
    assert times(trace) == [2, 5]
    assert trace.heard_s == pytest.approx([2.25, 5.5]), "messages take half a round trip whoever sends them"


def test_signatures_come_from_the_workers_agent_up_the_tree() -> None:
    """A chain: h0 is ready at 1.5, links to h1 for 1.5 and asks the agent 4 times over 0.5 s; h1's asks take 1 s."""
    costs = replace(ONE, agent_round_trips=4.0)
    chain = replace(TREE, degree=1)
    for cores in (0.0, 10.0):
        trace = simulate(scene(3, rtt_s=0.5, costs=costs, settings=chain, cores=cores), "kary")
        assert times(trace) == [1.5, 5, 10.5]
    key = replace(chain, inner_login="key")
    assert times(simulate(scene(3, rtt_s=0.5, costs=costs, settings=key), "kary")) == [1.5, 3, 4.5]


def test_a_login_takes_its_place_until_the_host_is_ready() -> None:
    """Two at once, the first of them far away: the third begins when the second is ready, not the first."""
    distances = [10.0, 1.0, 1.0, 1.0]
    net = Network(range(4), lambda a, b: distances[max(a, b)], -1)
    limits = replace(TREE, worker_logins_at_once=2)
    trace = simulate(scene(4, network=net, settings=limits), "flat")
    assert times(trace) == [11, 3, 5, 7]
    assert plan_estimate(scene(4, network=net, settings=limits), "flat") == 11


def test_hosts_that_share_cores() -> None:
    """Two cores: the worker's one link at a time; at the hosts 1 s of CPU each, side by side."""
    costs = LinkCosts(1.0, 1.0, 0.5, 0.5, 0.25)
    own = simulate(scene(2, costs=costs), "flat")
    assert times(own) == [2.25, 3.25]
    shared = simulate(scene(2, costs=costs, cores=2.0), "flat")
    assert times(shared) == [2.25, 3.25], "two cores are enough"
    # One core: 0 to 1 for the first link; its host starts at 1.25, so that 1 to 1.25 is the second link's alone; they
    # share until that has had the rest at 2.75. The first host has 0.25 left then: 3. The second starts then.
    assert times(simulate(scene(2, costs=costs, cores=1.0), "flat")) == [3.0, 4.0]


def test_ssh_of_one_host_run_side_by_side_on_shared_cores() -> None:
    only = {"settings": replace(TREE, degree=2, depth=2), "costs": replace(ONE, worker_connect_s=0.0)}
    parents = {0: -1, 1: -1, 2: 0, 3: 0}
    assert simulate(scene(4, **only, cores=2.0), "kary").parents == [*parents.values()]
    assert times(simulate(scene(4, **only), "kary")) == [0, 0, 1, 2], "one after the other on a processor of its own"
    assert times(simulate(scene(4, **only, cores=2.0), "kary")) == [0, 0, 1, 1]


def test_a_controller_with_a_share_of_a_core() -> None:
    scenario = scene(3, costs=replace(ONE, worker_connect_s=0.01), controller_cpu=0.1)
    assert times(simulate(scenario, "flat")) == [0.1, 0.2, 0.3]
    two = simulate(scene(2, worker_count=2, costs=scenario.costs, controller_cpu=0.1), "flat")
    assert times(two) == [0.2, 0.2], "its workers share it"


def test_stealing_by_hand() -> None:
    """A theft takes a round trip of 1 s: asked for at 2.0 by h0, ready then, which the worker has at 2.5."""
    trace = simulate(scene(4, rtt_s=1.0), STEALING)
    # The worker begins with a host each second: h0, h1 at 1, h2 at 2. h3 is stolen at 2.5, is h0's at 3, ready at 5.
    assert trace.opened_s == [0, 1, 2, 3]
    assert trace.parents == [-1, -1, -1, 0]
    assert times(trace) == [2, 3, 4, 5]


def test_stealing_has_its_own_limit_of_logins() -> None:
    costs = replace(ONE, worker_connect_s=0.0)
    limits = replace(TREE, worker_logins_at_once=3, logins_at_once=3)
    trace = simulate(scene(30, rtt_s=1.0, costs=costs, settings=limits), STEALING)
    assert trace.opened_s.count(0.0) == WINDOW


class Thefts:
    """Two levels, h1 below h0 below the worker, a round trip of 1 s each; ``keeps``: nodes that take what they get."""

    def __init__(self, share: Sequence[int], *keeps: int) -> None:
        self.agenda = Agenda()
        self.got: list[tuple[float, int]] = []  # when a node got something
        self.taken: dict[int, list[int | None]] = {}
        self.keeps = keeps
        self.stealing = Stealing(self.agenda, {-1: share}, [-1, 0], lambda _a, _b: 0.5, self._go_on)

    def _go_on(self, node: int) -> None:
        self.got.append((self.agenda.now_s, node))
        if node in self.keeps:
            self.taken.setdefault(node, []).append(self.stealing.take(node))


def test_a_thief_asks_once_until_it_got_something() -> None:
    thefts = Thefts([7, 8])
    thefts.stealing.want(0)
    thefts.stealing.want(0)
    thefts.agenda.run()
    assert thefts.got == [(1.0, 0)]
    thefts.stealing.want(0)
    thefts.agenda.run()
    assert thefts.got == [(1.0, 0)], "it has work"
    thefts.stealing.want(-1)
    assert [thefts.stealing.take(node) for node in (0, 0, -1, -1)] == [7, None, 8, None]


def test_a_thief_waits_for_what_its_parent_steals() -> None:
    thefts = Thefts([7])
    thefts.stealing.want(1)
    thefts.agenda.run()
    assert thefts.got == [(1.5, 0), (2.0, 1)], "asked for at 0.5 and 1.0, handed down at 1.5 and 2.0"
    assert [thefts.stealing.take(node) for node in (-1, 0, 1)] == [None, None, 7]


def test_a_parents_own_links_come_before_its_thieves() -> None:
    thefts = Thefts([7, 8, 9], 0)
    thefts.stealing.want(1)
    thefts.agenda.run()
    assert thefts.taken == {0: [7, 8, 9]}, "it asks again for the thief, as long as there is anything"
    assert {node for _, node in thefts.got} == {0}


def test_a_thief_whose_parent_has_nothing_is_served_from_above() -> None:
    """Slow enough at the top that thefts go through two levels."""
    costs = replace(ONE, worker_connect_s=100.0, host_connect_s=0.1)
    trace = simulate(scene(6, rtt_s=0.01, costs=costs), STEALING)
    assert max(trace.depths) > 2
    assert trace.summary().controller_links == 2, "the worker begins with its second before anybody can steal"


# Closed forms


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 31, 32, 100])
def test_binomial_takes_the_logarithm(count: int) -> None:
    """In the one-port model, with a link that takes both its ends 1 s."""
    trace = simulate(scene(count), "binomial")
    assert trace.summary().last_s == math.ceil(math.log2(count + 1))
    assert trace.summary().depth <= math.ceil(math.log2(count + 1))


def postal_most(at: int, latency: int) -> int:
    """Bar-Noy and Kipnis: how many nodes, the root included, can be ready at a time, in the unit of a link."""
    counts = [1] * latency
    while len(counts) <= at:
        counts.append(counts[-1] + counts[-latency])
    return counts[at]


@pytest.mark.parametrize("latency", [1, 2, 4, 9])
@pytest.mark.parametrize("count", [1, 2, 5, 50, 200])
def test_postal_is_the_optimum_of_its_recurrence(count: int, latency: int) -> None:
    limits = replace(TREE, logins_at_once=1000, worker_logins_at_once=1000)
    trace = simulate(scene(count, rtt_s=latency - 1.0, settings=limits), "postal")
    last = round(trace.summary().last_s)
    assert trace.summary().last_s == pytest.approx(last)
    assert postal_most(last, latency) >= count + 1 > postal_most(last - 1, latency)


def test_greedy_is_as_good_where_all_are_equally_far() -> None:
    limits = replace(TREE, degree=1000, logins_at_once=1000, worker_logins_at_once=1000)
    scenario = scene(200, rtt_s=3.0, settings=limits)
    assert simulate(scenario, "greedy").summary().last_s == simulate(scenario, "postal").summary().last_s


def test_compact_is_a_shortest_path_tree_with_bounded_degree() -> None:
    """On a line 1 s apart, where a link starts at once: two children each, so 2, 4, 8 ... hosts a level."""
    costs = replace(ONE, worker_connect_s=0.0, host_connect_s=0.0)
    trace = simulate(scene(14, rtt_s=1.0, settings=replace(TREE, degree=2), costs=costs), "compact")
    assert sorted(trace.depths) == [1] * 2 + [2] * 4 + [3] * 8
    assert trace.summary().last_s == 3
    line = Network(range(1, 5), lambda a, b: float(abs(a - b)), 0)
    trace = simulate(scene(4, network=line, settings=replace(TREE, degree=1), costs=costs), "compact")
    assert trace.parents == [-1, 0, 1, 2], "each the nearest to where the tree has got"
    distances = {frozenset((0, 1)): 1.0, frozenset((0, 2)): 1.5, frozenset((1, 2)): 1.0}
    corner = Network([1, 2], lambda a, b: distances.get(frozenset((a, b)), 0.0), 0)
    trace = simulate(scene(2, network=corner, costs=costs), "compact")
    assert trace.parents == [-1, -1], "nearer to the worker directly than over the nearest host"


def test_compact_keeps_the_depth_and_gives_the_rest_to_workers() -> None:
    trace = simulate(scene(7, worker_count=2, settings=replace(TREE, degree=1, depth=2)), "compact")
    assert sorted(trace.depths) == [1, 1, 1, 1, 1, 2, 2]
    assert sorted(p for p in trace.parents if p < 0) == [-2, -2, -1, -1, -1]


# What holds for every tree


def plan_estimate(scenario: Scenario, planner: str) -> float:
    table = scenario.costs.table(scenario.network, len(scenario.workers))
    return plan_tree(scenario.entries, scenario.workers, replace(scenario.settings, planner=planner), table).estimate_s


def test_the_built_in_costs_are_those_of_planners() -> None:
    table = LinkCosts().table(network.zero(2), 1)
    usual = network.CostTable([0, 0], table.rtt_s)
    for name in ("worker_connect_s", "host_connect_s", "round_trips", "start_s"):
        assert getattr(table, name) == pytest.approx(getattr(usual, name)), name


def test_planners_may_be_kept_from_knowing_the_network() -> None:
    """Sixty far hosts: with the network known greedy is quick; blind, its tree is one for 1 ms, and so played."""
    scenario = scene(60, network=plane(60, 1), costs=LinkCosts())
    scenario = replace(scenario, entries=entries(60, scenario.network.sites))
    known, blind = (simulate(replace(scenario, plans_blind=b), "greedy") for b in (False, True))
    assert known.summary().last_s < blind.summary().last_s
    made = plan_tree(scenario.entries, scenario.workers, replace(TREE, planner="greedy"))
    assert {h: p for h, p in enumerate(blind.parents) if p >= 0} == dict(made.parents)


random_scenes = st.builds(
    lambda count, seed, worker_count, degree, depth, at_once, by_worker: Scenario(
        entries(count, plane(count, seed).sites), workers(worker_count),
        SliceSettings(
            inner_login="key", degree=degree, depth=depth, logins_at_once=at_once, worker_logins_at_once=by_worker
        ),
        plane(count, seed), LinkCosts(),
    ),
    st.integers(1, 60), st.integers(0, 99), st.integers(1, 3), st.integers(1, 5), st.sampled_from([0, 0, 2, 3]),
    st.integers(1, 4), st.integers(1, 9),
)  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(random_scenes, st.sampled_from([*PLANNERS, "auto"]))
def test_the_simulation_is_what_the_planner_estimates(scenario: Scenario, planner: str) -> None:
    """They share the costs and the limits, but no code: one looks at parents in turn, the other at time."""
    assert simulate(scenario, planner).summary().last_s == pytest.approx(plan_estimate(scenario, planner))


@settings(deadline=None, max_examples=60)
@given(random_scenes, st.sampled_from(ALL_PLANNERS), st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([0.0, 0.1]))
def test_every_host_comes_up_once_below_one_that_is_up(
    scenario: Scenario, planner: str, cores: float, controller_cpu: float
) -> None:
    trace = simulate(replace(scenario, cores=cores, controller_cpu=controller_cpu), planner)
    wanted, count = scenario.settings, len(scenario.entries)
    assert not any(math.isnan(s) for s in trace.ready_s)
    assert NONE not in trace.parents
    links: dict[int, list[int]] = {}
    for host in range(count):
        parent = trace.parents[host]
        links.setdefault(parent, []).append(host)
        began_s = trace.ready_s[parent] if parent >= 0 else 0.0
        assert began_s <= trace.opened_s[host] < trace.ready_s[host] <= trace.heard_s[host]
        assert trace.depths[host] == (trace.depths[parent] + 1 if parent >= 0 else 1)
    for parent, hosts in links.items():
        most = wanted.logins_at_once if parent >= 0 else wanted.worker_logins_at_once
        most = WINDOW if planner == STEALING else most
        for host in hosts:
            at_s = trace.opened_s[host]
            assert sum(trace.opened_s[h] <= at_s < trace.ready_s[h] for h in hosts) <= most, "logins in progress"
        if parent >= 0 and planner in (*PLANNERS, "compact"):
            assert len(hosts) <= wanted.degree
    if wanted.depth and planner in (*PLANNERS, "compact"):
        assert max(trace.depths) <= wanted.depth
    assert trace.series()[-1] == (max(trace.ready_s), count)
    assert trace.summary().host_count == count


@settings(deadline=None, max_examples=20)
@given(random_scenes, st.sampled_from(sorted(PLANNERS)))
def test_cores_to_share_only_make_it_slower(scenario: Scenario, planner: str) -> None:
    many = simulate(replace(scenario, cores=1000.0), planner).summary()
    few = simulate(replace(scenario, cores=0.5), planner).summary()
    assert many.mean_s <= few.mean_s + 1e-9
    work_s = len(scenario.entries) * (scenario.costs.server_s + scenario.costs.node_s)
    assert few.last_s >= work_s / 0.5 - 1e-9, "all of the hosts' work takes so long at least"


# What can't be simulated


def test_planners_of_equal_hosts_refuse_others_by_name() -> None:
    behind = [*entries(2), HostEntry("inner", "inner", known_hosts=("k",), reachable_from=("h0",))]
    scenario = Scenario(behind, workers(1), TREE, far(3, 0.1))
    for planner in ("binomial", "postal", "compact", STEALING):
        with pytest.raises(PlanError, match="inner isn't linked to by all"):
            simulate(scenario, planner)
    assert simulate(scenario, "greedy").parents[2] == 0
    with pytest.raises(PlanError, match=f"there are auto, {', '.join(PLANNERS)}"):
        simulate(scenario, "best")


def test_hosts_without_a_way_are_counted_and_left_out() -> None:
    lost = HostEntry("lost", "lost", known_hosts=("k",), reachable_from=("nobody",))
    trace = simulate(Scenario([*entries(1), lost], workers(1), TREE, far(2, 0.0), ONE), "flat")
    assert times(trace)[0] == 1 and math.isnan(trace.ready_s[1]) and trace.parents[1] == NONE
    found = trace.summary()
    assert (found.host_count, found.unreachable_count, found.last_s, found.heard_s) == (1, 1, 1, 1)
    with pytest.raises(PlanError, match="none of 1 hosts can be linked to: it is reachable from nobody"):
        simulate(Scenario([lost], workers(1), TREE, far(1, 0.0), ONE), "flat")

"""Tree plans: what must hold for every planner, whatever the hosts, workers, limits and reachability."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_worker.model import HostEntry, SliceSettings, WorkerInfo
from plush_worker.trees.costs import CostTable
from plush_worker.trees.plan import PlanError, TreePlan, check, plan_tree
from plush_worker.trees.planners import PLANNERS
from plush_worker.trees.problem import pose

KEY = ("ssh-ed25519 AAAA",)
NAMES = sorted(PLANNERS)


def host(name: str, **fields: object) -> HostEntry:
    return HostEntry(name, name, **{"known_hosts": KEY, **fields})  # type: ignore[arg-type]


def hosts(count: int, **fields: object) -> list[HostEntry]:
    return [host(f"n{index}", **fields) for index in range(count)]


def workers(count: int, **fields: int) -> list[WorkerInfo]:
    return [WorkerInfo(f"w{index}", f"i{index}", f"worker.w{index}", 1, **fields) for index in range(count)]


def slice_of(planner: str = "auto", **fields: object) -> SliceSettings:
    return SliceSettings(planner=planner, **{"inner_login": "agent", **fields})  # type: ignore[arg-type]


def shape(plan: TreePlan, entries: list[HostEntry]) -> dict[str, str]:
    """child -> parent by name; roots -> their worker."""
    found = {entries[root].name: name for root, name in plan.worker_of.items()}
    return found | {entries[child].name: entries[parent].name for child, parent in plan.parents.items()}


labels = st.sampled_from(["n0", "n1", "n2", "n3", "n7", "ams", "lyon", "@big", "@worker", "elsewhere"])
random_entries = st.lists(
    st.builds(
        dict,
        site=st.sampled_from(["", "ams", "lyon"]),
        tags=st.sampled_from([(), ("big",)]),
        known_hosts=st.sampled_from([KEY, KEY, KEY, KEY, (), ("@revoked ssh-ed25519 AAAA",)]),
        proxy_jump=st.sampled_from(["", "", "", "n1", "outside"]),
        reachable_from=st.one_of(st.just(()), st.just(()), st.lists(labels, max_size=3).map(tuple)),
    ),
    max_size=40,
).map(lambda rows: [host(f"n{index}", **row) for index, row in enumerate(rows)])
random_settings = st.builds(
    slice_of,
    planner=st.sampled_from(["auto", *NAMES]),
    inner_login=st.sampled_from(["none", "agent", "agent", "key"]),
    degree=st.integers(1, 9),
    depth=st.integers(0, 4),
    logins_at_once=st.integers(1, 8),
)


@given(random_entries, st.integers(1, 5), random_settings)
def test_every_plan_holds_what_it_must(entries: list[HostEntry], worker_count: int, wanted: SliceSettings) -> None:
    own = workers(worker_count)
    plan = plan_tree(entries, own, wanted)
    assert check(plan, pose(entries, own, wanted)) == []
    order = plan.depth_first()
    assert sorted([*order, *plan.unreachable]) == list(range(len(entries)))
    assert all(plan.unreachable.values()), "each with a reason"
    place = {index: at for at, index in enumerate(order)}
    for root in plan.roots:
        members = plan.subtree(root)
        assert sorted(place[m] for m in members) == list(range(place[root], place[root] + len(members))), "one piece"
    if wanted.inner_login == "none":
        assert not plan.parents
    free = [e for e in entries if not e.reachable_from]
    if len(free) == len(entries) >= worker_count:
        assert len(set(plan.worker_of.values())) == worker_count
    assert not plan.unreachable.keys() & {i for i, e in enumerate(entries) if not e.reachable_from}


@given(random_entries)
def test_without_limits_only_who_really_has_no_parent_is_unreachable(entries: list[HostEntry]) -> None:
    own, wanted = workers(1), slice_of("kary", degree=1000)
    rules = pose(entries, own, wanted).rules
    reached: set[int] = set()
    while more := {i for i, r in enumerate(rules) if i not in reached and (r.worker or any(map(r.allows, reached)))}:
        reached |= more
    assert set(plan_tree(entries, own, wanted).depth_first()) == reached


@given(st.integers(0, 60), st.integers(1, 4), st.sampled_from(NAMES), st.integers(1, 5), st.integers(0, 4))
def test_free_hosts_are_all_planned(count: int, worker_count: int, planner: str, degree: int, depth: int) -> None:
    plan = plan_tree(hosts(count), workers(worker_count), slice_of(planner, degree=degree, depth=depth))
    assert len(plan.depth_first()) == count
    assert set(plan.worker_of.values()) == {f"w{index}" for index in range(min(worker_count, count))}


@pytest.mark.parametrize("planner", [*NAMES, "auto"])
def test_two_workers_share_four_hosts(planner: str) -> None:
    for entries in (hosts(4), hosts(4, site="ams"), hosts(16, site="ams")):
        plan = plan_tree(entries, workers(2), slice_of(planner))
        sizes = [sum(len(plan.subtree(r)) for r, name in plan.worker_of.items() if name == w) for w in ("w0", "w1")]
        assert min(sizes) >= len(entries) // 4


def test_kary() -> None:
    plan = plan_tree(hosts(14), workers(1), slice_of("kary", degree=2))
    assert plan.roots == (0, 1)
    assert plan.children == {0: (2, 3), 1: (4, 5), 2: (6, 7), 3: (8, 9), 4: (10, 11), 5: (12, 13)}
    assert plan.depth_first() == [0, 2, 6, 7, 3, 8, 9, 1, 4, 10, 11, 5, 12, 13]
    assert plan.depths[13] == 3


def test_kary_within_a_depth_limit_widens_at_the_worker() -> None:
    plan = plan_tree(hosts(14), workers(1), slice_of("kary", degree=2, depth=2))
    assert max(plan.depths.values()) == 2
    assert len(plan.roots) == 5, "each with two below it"


def test_a_site_is_entered_once() -> None:
    entries = [host(f"{site}{n}", site=site) for site in ("ams", "lyon", "oslo") for n in range(5)]
    plan = plan_tree(entries, workers(1), slice_of("site"))
    assert [entries[root].site for root in plan.roots] == ["ams", "lyon", "oslo"]
    assert all(entries[child].site == entries[parent].site for child, parent in plan.parents.items())


def test_sites_are_spread_over_workers_and_a_large_one_is_cut() -> None:
    entries = hosts(30, site="ams")
    plan = plan_tree(entries, workers(3), slice_of("site"))
    assert sorted(len(plan.subtree(root)) for root in plan.roots) == [10, 10, 10]


def test_capacity_weighs() -> None:
    big, small = workers(2)
    small = dataclasses.replace(small, capacity=100)
    plan = plan_tree(hosts(110), [big, small], slice_of("flat"))
    assert [list(plan.worker_of.values()).count(name) for name in ("w0", "w1")] == [100, 10]


def test_flat_for_a_few_and_a_tree_for_many() -> None:
    for count in (1, 16, 200):
        assert plan_tree(hosts(count), workers(1), slice_of()).planner == "flat"
    many = plan_tree(hosts(3000), workers(1), slice_of())
    assert many.planner != "flat"
    assert many.estimate_s < plan_tree(hosts(3000), workers(1), slice_of("flat")).estimate_s / 2


def test_without_inner_logins_all_is_flat() -> None:
    plan = plan_tree(hosts(50), workers(1), slice_of("kary", inner_login="none"))
    assert (plan.planner, len(plan.roots)) == ("flat", 50)


def test_a_far_network_makes_a_tree_of_fewer_hosts() -> None:
    costs = CostTable([0] * 300, lambda a, b: 0.001 if a == b else 0.3)
    plan = plan_tree(hosts(300), workers(1), slice_of(worker_logins_at_once=8), costs)
    assert plan.planner == "greedy"


def test_hosts_behind_a_gateway_hang_below_it() -> None:
    entries = [host("in0", reachable_from=("gw",)), host("gw"), host("in1", reachable_from=("gw",)), *hosts(3)]
    for planner in NAMES:
        plan = plan_tree(entries, workers(1), slice_of(planner))
        found = shape(plan, entries)
        assert (found["in0"], found["in1"]) == ("gw", "gw")
        assert plan.unreachable == {}


def test_gateways_behind_gateways_tags_and_sites() -> None:
    entries = [
        host("deep", reachable_from=("@inner",)),
        host("mid", reachable_from=("dmz",), tags=("inner",)),
        host("me@gw", site="dmz"),
    ]
    assert shape(plan_tree(entries, workers(1), slice_of()), entries) == {"me@gw": "w0", "mid": "me@gw", "deep": "mid"}
    by_name = [host("a", reachable_from=("gw",)), host("me@gw")]
    assert shape(plan_tree(by_name, workers(1), slice_of()), by_name)["a"] == "me@gw", "a name counts without its login"


def test_a_gateway_keeps_its_room_for_those_that_need_it() -> None:
    entries = [host("gw"), *hosts(20), *(host(f"in{n}", reachable_from=("gw",)) for n in range(4))]
    for planner in NAMES:
        plan = plan_tree(entries, workers(1), slice_of(planner, degree=4))
        assert not plan.unreachable
        assert [entries[c].name for c in plan.children[0]] == ["in0", "in1", "in2", "in3"]


def test_a_full_gateway_hands_a_host_on() -> None:
    entries = [
        host("g1"), host("g2"), host("both", reachable_from=("g1", "g2")), host("both2", reachable_from=("g1", "g2")),
        host("only1", reachable_from=("g1",)),
    ]  # fmt: skip
    plan = plan_tree(entries, workers(1), slice_of(degree=2))
    assert not plan.unreachable
    crowded = [host("g1"), host("g2", reachable_from=("@worker",)), host("a", reachable_from=("g1", "g2", "lost")),
               host("b", reachable_from=("g1", "@none", "g1", "@one"))]  # fmt: skip
    assert not plan_tree(crowded, workers(1), slice_of(degree=1)).unreachable


def test_who_can_not_be_reached_is_reported_with_the_reason() -> None:
    entries = [
        host("ok"),
        host("lost", reachable_from=("gw", "@none")),
        host("loop1", reachable_from=("loop2",)),
        host("loop2", reachable_from=("loop1",)),
        host("self", reachable_from=("self",)),
        host("unpinned", reachable_from=("ok",), known_hosts=()),
        *(host(f"crowd{n}", reachable_from=("ok",)) for n in range(3)),
    ]
    plan = plan_tree(entries, workers(1), slice_of(degree=2))
    found = {entries[index].name: why for index, why in plan.unreachable.items()}
    assert set(found) == {"lost", "loop1", "loop2", "self", "unpinned", "crowd2"}
    assert "gw, @none, and no host of this run is that" in found["lost"]
    assert "loop2, and none of those can be reached" in found["loop1"]
    assert "plush hosts trust" in found["unpinned"]
    assert "no more than 2 children (degree)" in found["crowd2"]
    deep = plan_tree([host("gw"), host("in", reachable_from=("gw",))], workers(1), slice_of(depth=1))
    assert "depth limit of 1" in deep.unreachable[1]
    flat = plan_tree([host("gw"), host("in", reachable_from=("gw",))], workers(1), slice_of(inner_login="none"))
    assert "set inner_login" in flat.unreachable[1]


def test_hosts_without_a_pinned_key_are_linked_to_by_workers() -> None:
    """accept_new exists for a worker's own links alone, and a changed or unknown key is best told from there."""
    entries = [*hosts(10), host("new", known_hosts=(), accept_new=True), host("ca", known_hosts=("@cert-authority k",))]
    plan = plan_tree(entries, workers(1), slice_of("kary", degree=2))
    assert 10 in plan.roots
    assert 11 not in plan.roots


def test_hosts_behind_a_jump_host_are_linked_to_from_behind_it() -> None:
    outside = hosts(6)
    inside = [host(f"in{n}", proxy_jump="me@gw:22") for n in range(6)]
    entries = [*outside, *inside, host("gw")]
    plan = plan_tree(entries, workers(1), slice_of("kary", degree=2))
    for child, parent in plan.parents.items():
        if child in range(6, 12):
            assert parent in range(6, 12)


def test_no_worker_and_no_such_planner() -> None:
    with pytest.raises(PlanError, match="no workers"):
        plan_tree(hosts(1), [], slice_of())
    with pytest.raises(PlanError, match="no planner 'best': there are auto, flat"):
        plan_tree(hosts(1), workers(1), slice_of("best"))


def test_the_check_finds_what_is_wrong() -> None:
    entries = [*hosts(5), host("in", reachable_from=("n0",))]
    problem = pose(entries, workers(1), slice_of(degree=1, depth=2))
    good = plan_tree(entries, workers(1), slice_of(degree=1, depth=2))
    assert check(good, problem) == []

    def errors(**changes: object) -> str:
        fields = {
            "parents": {},
            "roots": tuple(range(5)),
            "worker_of": dict.fromkeys(range(5), "w0"),
            "unreachable": {5: "x"},
        }
        return "; ".join(check(dataclasses.replace(good, **{**fields, **changes}), problem))

    assert errors() == ""
    assert "n1 isn't reached: it is below itself" in errors(parents={1: 2, 2: 1}, roots=(0, 3, 4))
    assert "in can't be reached from n1" in errors(parents={5: 1}, unreachable={})
    assert "in can't be reached from a worker" in errors(roots=tuple(range(6)), unreachable={})
    assert "n0 has 2 children, more than degree 1" in errors(parents={1: 0, 2: 0}, roots=(0, 3, 4))
    assert "n2 is 3 links deep, more than 2" in errors(parents={1: 0, 2: 1}, roots=(0, 3, 4))
    assert "in has no place and no reason" in errors(unreachable={})
    assert "n0 is planned and called unreachable" in errors(unreachable={0: "x", 5: "x"})
    assert "n4 belongs to no worker" in errors(worker_of=dict.fromkeys(range(4), "w0"))
    assert "n0 belongs to no worker" in errors(worker_of=dict.fromkeys(range(5), "gone"))
    assert "n1 is a root and has a parent" in errors(parents={1: 0})

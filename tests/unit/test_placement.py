"""Hosts that only a host of the mesh can reach: which standing subtrees grow, and where."""

from __future__ import annotations

from typing import Any

from plush_worker.model import HostEntry, SliceSettings, SubtreeRecord
from plush_worker.placement import grow

KEY = ("ssh-ed25519 AAAA",)
INNER = SliceSettings(inner_login="key", degree=2)


def host(name: str, *reachable_from: str, pinned: bool = True) -> HostEntry:
    return HostEntry(name, name, known_hosts=KEY if pinned else (), reachable_from=reachable_from)


def subtree(root: int, members: str, parents: dict[str, int] | None = None, up: str = "", **more: Any) -> SubtreeRecord:
    return SubtreeRecord(root, "w", "i", 7, members, parents or {}, {}, up or members, **more)


def test_a_subtree_grows_below_the_gateway_and_keeps_what_it_has() -> None:
    standing = [subtree(0, "0-1", {"1": 0}), subtree(2, "2")]
    entries = {0: host("a"), 1: host("gate"), 2: host("b"), 5: host("in", "gate"), 6: host("deep", "in")}
    placed = grow([5, 6], standing, entries, INNER)
    assert [(r.root, r.members, r.parents, r.epoch) for r in placed.records] == [
        (0, "0-1,5-6", {"1": 0, "5": 1, "6": 5}, 7)
    ]
    assert not placed.unplaced


def test_a_gateway_that_is_down_or_full_takes_nobody() -> None:
    entries = {0: host("a"), 1: host("gate"), 5: host("in", "gate")}
    assert list(grow([5], [subtree(0, "0-1", {"1": 0}, up="0")], entries, INNER).unplaced) == [5]
    full = subtree(1, "1-3", {"2": 1, "3": 1})
    entries |= {2: host("b"), 3: host("c")}
    assert list(grow([5], [full], entries, INNER).unplaced) == [5]
    below_a_dead_one = subtree(0, "0-1", {"1": 0}, up="1")
    assert list(grow([5], [below_a_dead_one], entries, INNER).unplaced) == [5]


def test_the_depth_limit_holds() -> None:
    entries = {0: host("a"), 1: host("gate"), 5: host("in", "gate")}
    settings = SliceSettings(inner_login="key", degree=2, depth=2)
    assert list(grow([5], [subtree(0, "0-1", {"1": 0})], entries, settings).unplaced) == [5]


def test_the_rules_of_inner_links_hold() -> None:
    entries = {1: host("gate"), 5: host("in", "gate")}
    assert grow([5], [subtree(1, "1")], entries, INNER).records
    assert not grow([5], [subtree(1, "1")], entries, SliceSettings(inner_login="none")).records
    assert not grow([5], [subtree(1, "1")], entries | {5: host("in", "gate", pinned=False)}, INNER).records


def test_children_go_to_the_gateway_with_most_room() -> None:
    standing = [subtree(0, "0,2", {"2": 0}), subtree(1, "1")]
    entries = {0: host("g0"), 1: host("g1"), 2: host("c"), 5: host("x", "g0", "g1"), 6: host("y", "g0", "g1")}
    placed = grow([5, 6], standing, entries, INNER)
    assert {r.root: r.members for r in placed.records} in ({1: "1,5-6"}, {0: "0,2,6", 1: "1,5"})
    assert max(len(r.parents) for r in placed.records) <= 2

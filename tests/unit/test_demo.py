"""What the demo reads out of a run's record, and what it takes for a failure."""

from __future__ import annotations

from plush_api.demo import Finding, Subtree, describe
from plush_worker.model import SubtreeRecord

NAMES = {number: f"node{number}" for number in range(1, 6)}


def record(parents: dict[str, int]) -> SubtreeRecord:
    return SubtreeRecord(root=1, owner="w1", incarnation="i", epoch=1, members="1-4", parents=parents)


def test_depth_counts_links_from_the_worker() -> None:
    assert describe(record({"2": 1, "3": 2, "4": 1}), NAMES).depth == 3
    assert describe(record({}), NAMES).depth == 1


def test_a_circle_in_the_record_does_not_hang() -> None:
    assert describe(record({"2": 3, "3": 2}), NAMES).depth == 3


def test_root_and_members_have_their_names() -> None:
    subtree = describe(record({}), NAMES)
    assert (subtree.root, subtree.hosts) == ("node1", ["node1", "node2", "node3", "node4"])


def test_all_is_well_only_with_every_host_ok_every_worker_used_and_a_deep_tree() -> None:
    deep = [Subtree("w1", "node1", ["node1"], 2), Subtree("w2", "node2", ["node2"], 1)]
    assert Finding(2, 2, "m", deep).problems(2) == []
    assert Finding(1, 2, "m", deep).problems(2) == ["only 1 of 2 hosts are ok"]
    assert Finding(2, 2, "m", deep[:1]).problems(2) == ["not every one of 2 workers owns a subtree"]
    assert Finding(2, 2, "m", deep[1:]).problems(1) == ["the tree is less than two links deep"]

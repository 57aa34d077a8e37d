"""What the demo reads out of a run's record, and what it takes for a failure."""

from __future__ import annotations

from plush_api.demo_finding import Finding, HostRow, results, rows
from plush_worker.model import RunSpec, SubtreeRecord
from plush_worker.run_state import RunState

NAMES = {number: f"node{number}" for number in range(1, 5)}


def record(parents: dict[str, int], members: str = "1-4") -> SubtreeRecord:
    return SubtreeRecord(root=1, owner="w1", incarnation="i", epoch=1, members=members, parents=parents)


def test_every_host_has_its_way_from_the_subtree_root() -> None:
    found = rows(NAMES, {}, [record({"2": 1, "3": 2, "4": 1})])
    assert [(row.name, row.path) for row in found] == [
        ("node1", ("node1",)),
        ("node2", ("node1", "node2")),
        ("node3", ("node1", "node2", "node3")),
        ("node4", ("node1", "node4")),
    ]


def test_a_circle_in_the_record_does_not_hang() -> None:
    assert len(rows(NAMES, {}, [record({"2": 3, "3": 2})])) == 4


def test_a_host_in_no_subtree_has_a_row_too() -> None:
    found = rows(NAMES, {4: "unreachable why"}, [record({}, members="1-3")])
    assert found[0] == HostRow("node4", "", (), "unreachable why")


def test_results_come_from_the_events_of_the_run() -> None:
    state = RunState(RunSpec("r", "me", "true", ()))
    state.fold({"type": "hosts_joined", "mesh": "m", "hosts": "1-3"})
    ended = {"type": "op_ended", "op": 1, "state": "exited", "signal": None, "detail": ""}
    state.fold({**ended, "hosts": "1", "code": 0})
    state.fold({**ended, "hosts": "2", "code": 3})
    assert results(state) == {1: "ok", 2: "exited code 3"}


def test_all_is_well_only_with_every_host_ok_every_worker_used_and_a_deep_tree() -> None:
    top, deep = HostRow("a", "w1", ("a",), "ok"), HostRow("b", "w2", ("x", "b"), "ok")
    assert Finding("m", [top, deep]).problems(2) == []
    assert Finding("m", [top, HostRow("b", "w2", ("x", "b"), "killed")]).problems(2) == ["only 1 of 2 hosts are ok"]
    assert Finding("m", [deep]).problems(2) == ["not every one of 2 workers owns a subtree"]
    assert Finding("m", [top]).problems(1) == ["the tree is less than 2 links deep"]

"""When the tasks that people watch are over, and how they went: told what a worker reads and reports."""

from __future__ import annotations

from typing import Any

from plush_worker.model import OpRecord, SubtreeRecord
from plush_worker.subtree_tasks import Ended, Progressed, SubtreeTasks
from plush_worker.task_names import shown_arguments, shown_name

RUN, MESH = "r1", "m1"


def record(op: int, hosts: str, kind: str = "exec", **more: Any) -> OpRecord:
    return OpRecord(op=op, run_id=RUN, mesh=MESH, kind=kind, hosts=hosts, **more)


def ended(op: int, hosts: str, state: str = "exited", **more: Any) -> dict[str, Any]:
    return {"type": "op_ended", "op": op, "hosts": hosts, "state": state, "code": 0, "signal": None, **more}


def owner_of(*subtrees: tuple[int, str]) -> SubtreeTasks:
    tasks = SubtreeTasks()
    records = [
        SubtreeRecord(root=root, owner="w", incarnation="i", epoch=1, members=members, parents={}, settings={}, up="")
        for root, members in subtrees
    ]
    tasks.own(MESH, records)
    return tasks


def test_an_open_is_over_when_the_hosts_of_its_roots_are_up_or_given_up() -> None:
    tasks = owner_of((0, "0-3"), (8, "8-9"))
    tasks.take("t", RUN, "open", MESH, "0")
    tasks.run_read(RUN, {"numbers": "0-2,8"})
    assert tasks.waits("t")
    up = {"type": "hosts_up", "order": 1}
    assert tasks.reported(RUN, [{**up, "hosts": "0"}]) == [Progressed("t", "1/3 up")]
    assert tasks.reported(RUN, [{**up, "hosts": "8"}]) == [], "told of a host that isn't below its roots"
    lost = {"type": "hosts_lost", "hosts": "1", "detail": "refused"}
    assert tasks.reported(RUN, [{**lost, "final": False}, {**up, "hosts": "2"}]) == [Progressed("t", "2/3 up")]
    assert tasks.reported(RUN, [{**lost, "final": True}]) == [
        Ended("t", {"hosts": 3, "ok": 2}, "of 3 hosts 1 unreachable: refused")
    ]


def test_a_run_is_over_when_this_workers_hosts_have_ended_whatever_the_others_do() -> None:
    tasks = owner_of((0, "0-1"))
    tasks.take("t", RUN, "run", MESH)
    tasks.ops_read(RUN, [record(5, "0-9")])
    assert tasks.waits("t")
    assert tasks.reported(RUN, [ended(4, "0-1")]) == [], "another op"
    assert tasks.reported(RUN, [ended(5, "0")]) == [Progressed("t", "1/2 ended")]
    assert tasks.reported(RUN, [ended(5, "1")]) == [Ended("t", {"hosts": 2, "ok": 2})]


def test_a_host_with_several_processes_has_ended_when_all_have() -> None:
    tasks = owner_of((0, "0-1"))
    tasks.take("t", RUN, "run", MESH)
    tasks.ops_read(RUN, [record(5, "0-1", name="a"), record(6, "1", name="b")])
    assert tasks.reported(RUN, [ended(5, "0-1")]) == [Progressed("t", "1/2 ended")]
    assert tasks.reported(RUN, [ended(6, "1", code=3)]) == [
        Ended("t", {"hosts": 2, "ok": 1}, "of 2 hosts 1 exited with 3")
    ]


def test_each_step_belongs_to_the_task_that_was_sent_for_it() -> None:
    tasks = owner_of((0, "0-1"))
    tasks.take("d", RUN, "deploy", MESH)
    tasks.ops_read(RUN, [record(5, "0-1", "deploy")])
    assert tasks.reported(RUN, [ended(5, "0-1")]) == [Ended("d", {"hosts": 2, "ok": 2})]
    tasks.take("one", RUN, "run", MESH)
    tasks.ops_read(RUN, [record(5, "0-1", "deploy"), record(6, "0")])
    tasks.take("two", RUN, "run", MESH)
    tasks.ops_read(RUN, [record(5, "0-1", "deploy"), record(6, "0")])
    assert tasks.waits("one") and not tasks.waits("two"), "there was nothing new for the second"
    tasks.drop("two")
    assert tasks.reported(RUN, [ended(6, "0")]) == [Ended("one", {"hosts": 1, "ok": 1})]
    tasks.take("three", RUN, "run", MESH)
    tasks.ops_read(RUN, [record(6, "0"), record(8, "1")])
    assert tasks.reported(RUN, [ended(8, "1")]) == [Ended("three", {"hosts": 1, "ok": 1})], (
        "an earlier step counts again"
    )


def test_a_kill_is_over_when_what_it_is_meant_for_has_ended() -> None:
    tasks = owner_of((0, "0-1"))
    tasks.take("r", RUN, "run", MESH)
    tasks.ops_read(RUN, [record(5, "0-1")])
    tasks.take("k", RUN, "kill", MESH)
    tasks.ops_read(RUN, [record(5, "0-1"), record(7, "0-1", "signal", ref=5, signal=15)])
    assert tasks.waits("k")
    told = tasks.reported(RUN, [ended(5, "0-1", "killed", code=None, signal=15)])
    assert told == [
        Ended("r", {"hosts": 2, "ok": 0}, "of 2 hosts 2 killed by signal 15"),
        Ended("k", {"hosts": 2, "ended": 2}),
    ]


def test_the_end_of_the_run_ends_what_is_left() -> None:
    tasks = owner_of((0, "0-1"))
    tasks.take("t", RUN, "run", MESH)
    tasks.ops_read(RUN, [record(5, "0-1")])
    tasks.reported(RUN, [ended(5, "0")])
    why = "of 2 hosts 1 no answer until the run was over"
    assert tasks.run_read(RUN, {"finished": "1.0"}) == [Ended("t", {"hosts": 2, "ok": 1}, why)]
    assert tasks.run_read(RUN, {"finished": "1.0"}) == tasks.reported(RUN, [ended(5, "1")]) == []
    assert not tasks.tasks


def test_many_reasons_are_cut() -> None:
    tasks = owner_of((0, "0-9"))
    tasks.take("t", RUN, "run", MESH)
    tasks.ops_read(RUN, [record(5, "0-9")])
    events = [ended(5, str(host), code=host + 1) for host in range(9)]
    (told,) = tasks.reported(RUN, [*events, ended(5, "9", "failed", code=None, detail="no such command")])
    assert isinstance(told, Ended)
    assert told.failure == "of 10 hosts 1 exited with 1, 1 exited with 2, 1 exited with 3, and 7 other reasons"


def test_wake_ups_are_named_by_what_they_are_for() -> None:
    old_open, old_op = "plush.subtree.open", "plush.subtree.op"
    arguments = {"run_id": RUN, "host_count": 3, "slice": "s", "mesh": MESH}
    assert shown_name(old_open, arguments | {"what": "open"}) == "plush.open"
    for what in ("deploy", "run", "fetch", "kill"):
        assert shown_name(old_op, arguments | {"what": what}) == f"plush.{what}"
    assert shown_name(old_op, arguments | {"what": "run", "host_count": 0}) == "plush.wake"
    assert shown_name("plush.coordinate", {"run_id": RUN}) == "plush.coordinate"
    assert shown_arguments(arguments) == "{'uuid': 'r1', 'hosts': 3, 'slice': 's'}"
    assert shown_arguments({"run_id": RUN}) is None

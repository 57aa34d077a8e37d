"""Runs in the store: their life, their coordinator's lease and term, their events, ops and index of output."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from plush_worker.model import OpRecord, RunSpec
from plush_worker.store import Store, limits
from plush_worker.store.errors import Fenced, NoSuchMesh, NoSuchRun, TooLarge
from plush_worker.store.runs import KeptRun

from .conftest import Server, until


def spec(run_id: str = "r1", **changes: object) -> RunSpec:
    values = {"run_id": run_id, "owner": "me", "command": "echo \udcff", "hosts": ({"name": "a", "address": "a"},)}
    return RunSpec(**{**values, **changes})  # type: ignore[arg-type]


async def until_free(store: Store, run_id: str) -> None:
    await until(lambda: gone(store.coordination_lives(run_id)))


async def gone(lives: Awaitable[bool]) -> bool:
    return not await lives


def test_a_run_comes_back_as_it_was_submitted(server: Server) -> None:
    async def scenario(store: Store) -> None:
        assert await store.load_run("r1") is None
        assert await store.run_fields("r1") == {}
        assert await store.create_run(spec())
        assert await store.load_run("r1") == spec()
        fields = await store.run_fields("r1")
        assert fields["state"] == "submitted"
        assert fields["host_count"] == "1"
        assert [event for _, event in await store.read_events("r1", "0")] == [{"type": "run_submitted"}]

    server.run(scenario)


def test_a_run_is_created_once(server: Server) -> None:
    async def scenario(store: Store) -> None:
        assert await store.create_run(spec())
        assert not await store.create_run(spec(command="another"))
        loaded = await store.load_run("r1")
        assert loaded is not None and loaded.command == "echo \udcff"
        assert len(await store.read_events("r1", "0")) == 1

    server.run(scenario)


def test_fields_are_text_and_lists_are_json(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec())
        await store.set_run_fields("r1", state="running", hosts=[[0, "ä"]], rejected={"b": "no"}, odd="\udcfe", n=3)
        fields = await store.run_fields("r1")
        assert fields["hosts"] == '[[0,"\\u00e4"]]'
        assert fields["rejected"] == '{"b":"no"}'
        assert (fields["state"], fields["odd"], fields["n"]) == ("running", "\udcfe", "3")

    server.run(scenario)


def test_a_removed_run_leaves_nothing_and_nothing_brings_it_back(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        await store.create_run(spec())
        term = await store.take_coordination("r1", "w", "i", 60)
        assert term == 1
        await store.order_op(mesh, op(mesh), term, {"type": "op_ordered"})
        await store.commit_output("r1", "seg", 5, "i")
        await store.save_snapshot("r1", term, "0-1", {})
        await store.renew_client("r1", 60)
        assert await store.remove_run("r1")
        for refused in (
            store.append("r1", {"type": "x"}),
            store.append("r1", {"type": "x"}, term),
            store.append_worker("r1", mesh, {"type": "x"}),
            store.set_run_fields("r1", state="x"),
            store.commit_output("r1", "seg", 6, "i"),
            store.save_snapshot("r1", term, "0-1", {}),
            store.order_op(mesh, op(mesh), term, {"type": "op_ordered"}),
        ):
            with pytest.raises(NoSuchRun, match="does not exist"):
                await refused
        assert not await store.renew_coordination("r1", term, 60)
        assert await store.take_coordination("r1", "w", "i2", 60) is None
        assert not await store.renew_client("r1", 60)
        assert not await store.remove_run("r1")
        assert await store.list_runs() == []

    server.run(scenario)
    assert server.call("KEYS", "plush:run*") == []


def test_runs_are_listed_newest_first_without_their_large_fields(server: Server) -> None:
    async def scenario(store: Store) -> None:
        for n in range(5):
            await store.create_run(spec(f"r{n}"))
            await asyncio.sleep(0.002)  # the list is in order of milliseconds
        await store.set_run_fields("r3", hosts="x" * 10_000)
        listed = await store.list_runs(3)
        assert [run["run_id"] for run in listed] == ["r4", "r3", "r2"]
        assert "hosts" not in listed[1]
        assert listed[1]["state"] == "submitted"

    server.run(scenario)


def test_what_is_kept_of_every_run_is_told_oldest_first(server: Server) -> None:
    blob = "ab" * 32

    async def scenario(store: Store) -> None:
        file = {"dest": "f", "kind": "file", "mode": 0o644, "size": 1, "sha256": blob, "target": "", "hosts": None}
        await store.create_run(spec("r0", keep_s=60, files=(file, file)))
        await store.set_run_fields("r0", finished="12.500")
        await store.commit_output("r0", "one", 700, "i")
        await store.commit_output("r0", "two", 50, "i")
        await asyncio.sleep(0.002)
        await store.create_run(spec("r1"))
        assert await store.kept_runs() == [
            KeptRun("r0", 12.5, 60, 750, has_blobs=True),
            KeptRun("r1", 0, limits.KEEP_S, 0, has_blobs=False),
        ]
        assert await store.run_blobs("r0") == [blob]
        assert await store.run_blobs("r1") == []

    server.run(scenario)


def test_more_runs_than_a_page_are_all_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RUNS_IN_PAGE", 2)

    async def scenario(store: Store) -> None:
        for n in range(4):
            await store.create_run(spec(f"r{n}"))
        assert sorted(run.run_id for run in await store.kept_runs()) == ["r0", "r1", "r2", "r3"]

    server.run(scenario)


def test_removed_runs_are_remembered_and_unknown_ones_are_not_among_them(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_REMOVED_RUNS", 2)

    async def scenario(store: Store) -> None:
        for n in range(3):
            await store.create_run(spec(f"r{n}"))
            assert await store.remove_run(f"r{n}")
            await asyncio.sleep(0.002)
        assert not await store.remove_run("never")
        assert await store.removed_among(["never", "r0", "r1", "r2"]) == ["r1", "r2"], "not the two last"
        assert await store.removed_among([]) == []

    server.run(scenario)


def test_one_coordinator_at_a_time_with_growing_terms(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec())
        terms = await asyncio.gather(*(store.take_coordination("r1", "w", f"i{n}", 60) for n in range(20)))
        assert sorted(filter(None, terms)) == [1], "two coordinators took one run"
        assert await store.take_coordination("r1", "w", "i0", 60) is None
        assert await store.release_coordination("r1", 1)
        assert not await store.renew_coordination("r1", 1, 60), "a released lease came back"
        assert await store.take_coordination("r1", "w", "i1", 60) == 2

    server.run(scenario)


def test_a_lease_runs_out_by_the_servers_clock(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec())
        assert await store.take_coordination("r1", "w", "i1", 0.05) == 1
        await until_free(store, "r1")
        assert await store.renew_coordination("r1", 1, 0.05), "nobody took it, so an outage should cost nothing"
        await until_free(store, "r1")
        assert await store.take_coordination("r1", "w", "i2", 60) == 2
        assert not await store.renew_coordination("r1", 1, 60)
        assert not await store.release_coordination("r1", 1)
        assert await store.coordination_lives("r1")

    server.run(scenario)


def test_a_lower_term_is_refused_everywhere(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        await store.create_run(spec())
        await store.take_coordination("r1", "w", "i1", 0.02)
        await until_free(store, "r1")
        assert await store.take_coordination("r1", "w", "i2", 60) == 2
        for refused in (
            store.append("r1", {"type": "x"}, 1),
            store.append("r1", {"type": "x"}, 3),
            store.set_run_fields("r1", fence=1, state="x"),
            store.save_snapshot("r1", 1, "0-1", {}),
            store.order_op(mesh, op(mesh), 1, {"type": "op_ordered"}),
        ):
            with pytest.raises(Fenced, match="term 2"):
                await refused
        await store.append("r1", {"type": "fine"}, 2)
        assert [e["type"] for _, e in await store.read_events("r1", "0")] == ["run_submitted", "fine"]
        assert await store.ops("r1") == []

    server.run(scenario)


def test_events_are_read_in_order_from_where_one_was(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec())
        ids = [await store.append("r1", {"type": "n", "n": n, "text": "\udc80é"}) for n in range(3)]
        last = await store.append_all("r1", [{"type": "n", "n": 3}, {"type": "n", "n": 4}])
        events = await store.read_events("r1", ids[0])
        assert [e["n"] for _, e in events] == [1, 2, 3, 4]
        assert events[0][1]["text"] == "\udc80é"
        assert events[-1][0] == last == await store.last_event_id("r1")
        assert [e["n"] for _, e in await store.read_events("r1", ids[0], count=2)] == [1, 2]
        assert await store.read_events("r1", last) == []
        assert await store.append_all("r1", []) == ""

    server.run(scenario)


def test_a_reader_waits_for_the_next_event_and_holds_nobody_up(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec())
        after = await store.last_event_id("r1")
        readers = [
            asyncio.create_task(store.read_events("r1", after, 10_000)) for _ in range(limits.MAX_BLOCKED_READS + 10)
        ]
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await store.append("r1", {"type": "news"})
            found = await asyncio.gather(*readers)
        assert all([e["type"] for _, e in events] == ["news"] for events in found)
        assert await store.read_events("r1", found[0][0][0], 20) == []

    server.run(scenario)


def test_a_cancelled_reader_leaves_no_answer_to_the_next(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec("r1"))
        await store.create_run(spec("r2"))
        after = await store.last_event_id("r1")
        for _ in range(3):
            reader = asyncio.create_task(store.read_events("r1", after, 10_000))
            await asyncio.sleep(0.02)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
        await store.append("r1", {"type": "for r1"})
        events = await store.read_events("r2", "0", 1000)
        assert [e["type"] for _, e in events] == ["run_submitted"]

    server.run(scenario)


def test_streams_are_trimmed_and_limited(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec())
        ids = [await store.append("r1", {"type": "n", "n": n}) for n in range(4)]
        assert await store.trim_events("r1", ids[2]) == 3
        assert [e["n"] for _, e in await store.read_events("r1", "0")] == [2, 3]
        with pytest.raises(TooLarge, match="event big"):
            await store.append("r1", {"type": "big", "text": "x" * limits.MAX_EVENT_BYTES})
        with pytest.raises(ValueError, match="needs a type"):
            await store.append("r1", {"n": 1})

    server.run(scenario)


def test_a_snapshot_comes_back_with_its_event(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec())
        assert await store.load_snapshot("r1") is None
        term = await store.take_coordination("r1", "w", "i", 60)
        assert term is not None
        await store.save_snapshot("r1", term, "5-1", {"hosts": {"0": "ä"}})
        assert await store.load_snapshot("r1") == ("5-1", {"hosts": {"0": "ä"}})

    server.run(scenario)


def op(mesh: str, **changes: object) -> OpRecord:
    values = {"op": 0, "run_id": "r1", "mesh": mesh, "kind": "exec", "hosts": "0-3", "command": 'a "\udcff'}
    return OpRecord(**{**values, **changes})  # type: ignore[arg-type]


def test_an_op_is_numbered_stored_and_announced_at_once(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        await store.create_run(spec())
        term = await store.take_coordination("r1", "w", "i", 60)
        assert term is not None
        before = await store.draw(mesh)
        numbers = [
            await store.order_op(mesh, op(mesh, hosts=str(n)), term, {"type": "op_ordered", "op": 0, "hosts": str(n)})
            for n in range(3)
        ]
        assert numbers == [before + 1, before + 2, before + 3]
        assert [(o.op, o.hosts, o.command) for o in await store.ops("r1")] == [
            (number, str(n), 'a "\udcff') for n, number in enumerate(numbers)
        ]
        events = [e for _, e in await store.read_events("r1", "0") if e["type"] == "op_ordered"]
        assert [(e["op"], e["hosts"]) for e in events] == [(number, str(n)) for n, number in enumerate(numbers)]
        with pytest.raises(NoSuchMesh):
            await store.order_op("nomesh", op(mesh), term, {"type": "op_ordered"})

    server.run(scenario)


def test_the_same_step_is_ordered_once_also_by_a_later_coordinator(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        await store.create_run(spec())
        await store.take_coordination("r1", "w", "i1", 60)
        first = await store.order_op(mesh, op(mesh), 1, {"type": "op_ordered"}, request="start")
        await store.release_coordination("r1", 1)
        await store.take_coordination("r1", "w", "i2", 60)
        assert await store.order_op(mesh, op(mesh), 2, {"type": "op_ordered"}, request="start") == first
        assert len(await store.ops("r1")) == 1
        assert len(await store.read_events("r1", "0")) == 2

    server.run(scenario)


def test_the_index_of_output_only_grows_and_has_one_writer(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec())
        assert await store.committed("r1") == {}
        assert await store.commit_output("r1", "w-i.seg", 100, "i") == 100
        event = {"type": "output", "segment": "w-i.seg", "bytes": 1 << 40}
        assert await store.commit_output("r1", "w-i.seg", 1 << 40, "i", [event]) == 1 << 40
        assert await store.commit_output("r1", "w-i.seg", 50, "i") == 1 << 40
        with pytest.raises(Fenced, match="incarnation i"):
            await store.commit_output("r1", "w-i.seg", 1 << 41, "j")
        assert await store.commit_output("r1", "w-j.seg", 0, "j") == 0
        assert await store.committed("r1") == {"w-i.seg": 1 << 40, "w-j.seg": 0}
        assert (await store.read_events("r1", "0"))[-1][1] == event

    server.run(scenario)


def test_a_clients_lease_runs_out(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec())
        assert not await store.client_lives("r1")
        assert await store.renew_client("r1", 0.05)
        assert await store.client_lives("r1")
        await until(lambda: gone(store.client_lives("r1")))

    server.run(scenario)

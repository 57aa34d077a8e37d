"""Workers' leases, meshes, host numbers, and who owns which subtree."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from plush_worker.model import HostEntry, SubtreeRecord, WorkerInfo
from plush_worker.store import Store
from plush_worker.store.errors import Fenced, MeshClosing, NoSuchMesh, TooLarge

from .conftest import Server, until


def worker(name: str = "w", incarnation: str = "i", **changes: int) -> WorkerInfo:
    return WorkerInfo(name=name, incarnation=incarnation, queue=f"worker.{name}", protocol=1, **changes)


def subtree(root: int, members: str = "", epoch: int = 0, name: str = "w", incarnation: str = "i") -> SubtreeRecord:
    parents = {"5": root}
    return SubtreeRecord(root, name, incarnation, epoch, members or str(root), parents, {"name": "s"})


async def until_dead(store: Store, name: str) -> None:
    async def dead() -> bool:
        return name not in [w.name for w in await store.live_workers()]

    await until(dead)


def test_a_workers_lease_lives_while_it_is_renewed(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.register_worker(worker(load=1), 60)
        assert await store.live_workers() == [worker(load=1)]
        assert await store.renew_worker(worker(load=2), 0.05)
        assert await store.live_workers() == [worker(load=2)]
        await until_dead(store, "w")
        assert not await store.renew_worker(worker(load=2), 60), "a lease that ran out came back"
        assert await store.live_workers() == []

    server.run(scenario)
    assert server.call("EXISTS", "plush:workers") == 0, "a dead worker's name stays for ever"


def test_a_new_incarnation_takes_the_name_and_the_old_one_learns_it(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.register_worker(worker(incarnation="old"), 60)
        await store.register_worker(worker(incarnation="new"), 60)
        assert not await store.renew_worker(worker(incarnation="old"), 60)
        assert not await store.remove_worker("w", "old")
        assert await store.renew_worker(worker(incarnation="new"), 60)
        assert await store.remove_worker("w", "new")
        assert await store.live_workers() == []

    server.run(scenario)


def test_a_worker_notices_that_the_data_was_lost(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.register_worker(worker(), 60)
        assert await store.same_data()
        server.call("FLUSHALL")
        assert not await store.renew_worker(worker(), 60)
        other = await Store.connect(server.url)
        await other.register_worker(worker(), 60)
        await other.close()
        assert not await store.renew_worker(worker(), 60), "renewed in a data set that isn't the one it belongs to"
        assert not await store.same_data()
        await store.register_worker(worker(), 60)
        assert await store.renew_worker(worker(), 60)

    server.run(scenario)


def test_one_mesh_for_a_slice_and_an_owner(server: Server) -> None:
    async def scenario(store: Store) -> None:
        ids = await asyncio.gather(*(store.open_mesh("s", "me") for _ in range(10)))
        assert len(set(ids)) == 1
        assert len(ids[0]) == 12
        assert ids[0].isalnum() and ids[0] == ids[0].lower()
        assert await store.open_mesh("s", "you") != ids[0]
        assert await store.open_mesh("t", "me") != ids[0]
        assert (await store.mesh_fields(ids[0]))["state"] == "standing"

    server.run(scenario)


def test_the_counter_starts_at_unix_time_and_gives_no_number_twice(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        first = await store.draw(mesh, 10)
        assert abs((first >> 32) - time.time()) < 5
        assert first & 0xFFFFFFFF == 1
        drawn = await asyncio.gather(*(store.draw(mesh) for _ in range(50)))
        assert sorted(drawn) == list(range(first + 10, first + 60))
        with pytest.raises(NoSuchMesh, match="drawing numbers"):
            await store.draw("nomesh")

    server.run(scenario)


def test_an_equal_host_keeps_its_number_and_a_changed_one_gets_another(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        a, b = HostEntry("a", "1.2.3.4", known_hosts=("ssh-ed25519 AAAA",)), HostEntry("b", "b")
        assert await store.join_hosts(mesh, [a, b, a]) == [0, 1, 0]
        moved = HostEntry("a", "1.2.3.5", known_hosts=("ssh-ed25519 AAAA",))
        assert await store.join_hosts(mesh, [moved, a, b]) == [2, 0, 1]
        assert await store.host_entries(mesh, [2, 0, 77]) == {2: moved, 0: a}
        other_agent = replace(a, identity_agent="/tmp/another-terminal")
        assert await store.join_hosts(mesh, [other_agent]) == [0], "another way to log in makes it another host"
        assert await store.host_entries(mesh, [0]) == {0: other_agent}, "the next login would use the old way"
        assert await store.host_entries(mesh, []) == {}
        with pytest.raises(NoSuchMesh):
            await store.join_hosts("nomesh", [a])

    server.run(scenario)


def test_many_hosts_join_at_once_from_two_sides(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        entries = [HostEntry(f"h{n}", f"10.0.{n // 256}.{n % 256}") for n in range(1200)]
        one, two = await asyncio.gather(store.join_hosts(mesh, entries), store.join_hosts(mesh, entries[::-1]))
        assert one == two[::-1]
        assert sorted(one) == list(range(1200))

    server.run(scenario)


def test_a_mesh_that_has_no_number_left_says_so(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        server.call("HSET", f"plush:mesh:{mesh}", "next_host", (1 << 17) - 1)
        with pytest.raises(TooLarge, match="host numbers"):
            await store.join_hosts(mesh, [HostEntry("a", "a"), HostEntry("b", "b")])
        assert await store.join_hosts(mesh, [HostEntry("a", "a")]) == [(1 << 17) - 1]

    server.run(scenario)


def test_a_closing_mesh_takes_nobody_and_a_removed_one_is_made_anew(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        await store.register_worker(worker(), 60)
        await store.join_hosts(mesh, [HostEntry("a", "a")])
        assert await store.set_mesh_state(mesh, "closing")
        for refused in (
            store.open_mesh("s", "me"),
            store.join_hosts(mesh, [HostEntry("b", "b")]),
            store.assign_subtrees(mesh, [subtree(0)]),
        ):
            with pytest.raises(MeshClosing):
                await refused
        assert await store.remove_mesh(mesh)
        assert not await store.touch_mesh(mesh)
        assert not await store.set_mesh_state(mesh, "standing")
        assert not await store.remove_mesh(mesh)
        assert await store.meshes() == []
        assert await store.open_mesh("s", "me") != mesh

    server.run(scenario)


def test_a_mesh_in_use_is_not_removed(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        await store.register_worker(worker(), 60)
        await store.assign_subtrees(mesh, [subtree(3, "3,5")])
        assert not await store.remove_mesh(mesh), "a live worker owns a part of it"
        await store.remove_worker("w", "i")
        assert not await store.remove_mesh(mesh, idle_s=60)
        assert await store.remove_mesh(mesh)

    server.run(scenario)
    assert server.call("KEYS", "plush:*mesh*") == []
    assert server.call("KEYS", "plush:subtree*") == []


def test_meshes_are_listed_with_what_is_up(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        other = await store.open_mesh("t", "me")
        await store.join_hosts(mesh, [HostEntry(f"h{n}", "h") for n in range(7)])
        await store.register_worker(worker(), 60)
        await store.register_worker(worker("v", "j"), 0.5)
        granted = await store.assign_subtrees(mesh, [subtree(0, "0-2"), subtree(4, "4-5", name="v", incarnation="j")])
        await store.update_subtree(mesh, 0, granted[0].epoch, up="0-1")
        await until_dead(store, "v")
        await asyncio.sleep(0.002)
        assert await store.touch_mesh(mesh)
        listed = await store.meshes()
        assert [m["id"] for m in listed] == [mesh, other]
        first = listed[0]
        assert (first["slice"], first["owner"], first["hosts"]) == ("s", "me", 7)
        assert (first["up"], first["total"], first["workers"], first["dead_workers"]) == (2, 3, ["w"], ["v"])
        assert abs(first["last_used"] - time.time()) < 5

    server.run(scenario)


def test_subtrees_are_granted_under_one_new_epoch(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        await store.register_worker(worker(), 60)
        before = await store.draw(mesh)
        granted = await store.assign_subtrees(mesh, [subtree(0, "0-4,5"), subtree(7, "7-9")])
        assert [(g.root, g.epoch) for g in granted] == [(0, before + 1), (7, before + 1)]
        records, alive = await store.subtrees(mesh)
        assert records == {g.root: g for g in granted}
        assert alive == {"i"}
        assert await store.assign_subtrees(mesh, []) == []
        with pytest.raises(ValueError, match="twice"):
            await store.assign_subtrees(mesh, [subtree(1), subtree(1)])
        with pytest.raises(NoSuchMesh):
            await store.assign_subtrees("nomesh", [subtree(1)])

    server.run(scenario)


def test_hosts_of_a_live_owner_are_not_given_away(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        for w in (worker(), worker("v", "j")):
            await store.register_worker(w, 60)
        v = {"name": "v", "incarnation": "j"}
        rivals = [[subtree(0, "0-5")], [subtree(0, "0-5", **v)], [subtree(3, "3-9", **v)], [subtree(5, "5", **v)]]
        granted = await asyncio.gather(*(store.assign_subtrees(mesh, r) for r in rivals))
        first = granted[0]
        assert [len(g) for g in granted] == [1, 0, 0, 0], "a host has two owners"
        assert [g.root for g in await store.assign_subtrees(mesh, [subtree(4, **v), subtree(6, "6-9", **v)])] == [6]
        overlapping = [subtree(20, "20-25"), subtree(25, "25-30"), subtree(31, "31")]
        assert [g.root for g in await store.assign_subtrees(mesh, overlapping)] == [20, 31]
        records, _ = await store.subtrees(mesh)
        assert records[0] == first[0]

    server.run(scenario)


def test_nothing_is_given_to_a_worker_that_does_not_live(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        assert await store.assign_subtrees(mesh, [subtree(0)]) == []
        await store.register_worker(worker(incarnation="new"), 60)
        assert await store.assign_subtrees(mesh, [subtree(0, incarnation="old")]) == []
        assert await store.subtrees(mesh) == ({}, frozenset())

    server.run(scenario)


def test_a_dead_owners_hosts_go_to_others_and_its_updates_are_refused(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        await store.register_worker(worker(), 0.2)
        await store.register_worker(worker("v", "j"), 60)
        old = await store.assign_subtrees(mesh, [subtree(0, "0-5"), subtree(10, "10-12"), subtree(20, "20")])
        assert len(old) == 3
        await until_dead(store, "w")
        _, alive = await store.subtrees(mesh)
        assert alive == frozenset()
        v = {"name": "v", "incarnation": "j"}
        new = await store.assign_subtrees(mesh, [subtree(0, "0-2", **v), subtree(3, "3,10-11", **v)])
        assert [g.root for g in new] == [0, 3]
        assert new[0].epoch > old[0].epoch
        records, alive = await store.subtrees(mesh)
        assert {root: r.members for root, r in records.items()} == {0: "0-2", 3: "3,10-11", 10: "12", 20: "20"}
        assert alive == {"j"}
        assert not await store.update_subtree(mesh, 0, old[0].epoch, up="0")
        assert await store.drop_subtrees(mesh, [0, 3, 10], "i") == 1
        assert await store.drop_subtrees(mesh, [0, 3, 10], "j") == 2
        records, _ = await store.subtrees(mesh)
        assert list(records) == [20]
        assert not await store.update_subtree(mesh, 0, new[0].epoch, up="0"), "an update brought a subtree back"

    server.run(scenario)


def test_an_owner_extends_its_subtree_only_from_its_last_epoch(server: Server) -> None:
    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        await store.register_worker(worker(), 60)
        (first,) = await store.assign_subtrees(mesh, [subtree(0, "0-2")])
        assert await store.update_subtree(mesh, 0, first.epoch, members="0-2", parents={"1": 0}, up="0-1")
        assert await store.assign_subtrees(mesh, [subtree(0, "0-5")]) == [], "a new subtree replaced a live one"
        (second,) = await store.assign_subtrees(mesh, [subtree(0, "0-5", epoch=first.epoch)])
        assert second.epoch > first.epoch
        assert await store.assign_subtrees(mesh, [subtree(0, "0-9", epoch=first.epoch)]) == []
        records, _ = await store.subtrees(mesh)
        assert (records[0].members, records[0].up, records[0].epoch) == ("0-5", "0-1", second.epoch)

    server.run(scenario)


def test_a_worker_that_lost_a_subtree_can_not_append_for_it(server: Server) -> None:
    from .test_store_runs import spec

    async def scenario(store: Store) -> None:
        mesh = await store.open_mesh("s", "me")
        await store.create_run(spec())
        await store.register_worker(worker(), 60)
        (held,) = await store.assign_subtrees(mesh, [subtree(0, "0-2")])
        await store.append_worker("r1", mesh, {"type": "hosts_up"}, {0: held.epoch})
        await store.append_worker("r1", mesh, [{"type": "a"}, {"type": "b"}], {0: held.epoch})
        (newer,) = await store.assign_subtrees(mesh, [subtree(0, "0-5", epoch=held.epoch)])
        with pytest.raises(Fenced, match="subtree 0"):
            await store.append_worker("r1", mesh, {"type": "late"}, {0: held.epoch})
        with pytest.raises(Fenced, match="subtree 9"):
            await store.append_worker("r1", mesh, {"type": "late"}, {0: newer.epoch, 9: newer.epoch})
        types = [e["type"] for _, e in await store.read_events("r1", "0")]
        assert types == ["run_submitted", "hosts_up", "a", "b"]

    server.run(scenario)

"""The command line's store: the same data as the workers' one, without their imports."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from plush_worker.store import Store
from plush_worker.store.errors import NoSuchRun, StoreUnavailable, TooLarge
from plush_worker.store.light import LightStore

from .conftest import Server
from .test_store_meshes import subtree, worker
from .test_store_runs import spec


def test_submitting_stores_the_run_and_wakes_a_coordinator_once(server: Server) -> None:
    with LightStore.connect(server.url) as light:
        assert light.submit(spec())
        assert not light.submit(spec()), "a repeated submission made a second coordinator"
        assert light.load_run("r1") == spec()
        assert light.run_fields("r1")["state"] == "submitted"
        assert [run["run_id"] for run in light.runs()] == ["r1"]
    assert server.call("LLEN", "plush") == 1

    async def scenario(store: Store) -> None:
        assert await store.load_run("r1") == spec()

    server.run(scenario)


def test_events_are_followed_while_they_come(server: Server) -> None:
    with LightStore.connect(server.url) as light:
        light.submit(spec())
        ((first, event),) = light.events("r1", "0")
        assert event == {"type": "run_submitted"}
        assert light.events("r1", first, 20) == []
        found = []
        follower = threading.Thread(target=lambda: found.extend(light.events("r1", first, 10_000)))
        follower.start()
        with LightStore.connect(server.url) as other:
            last = other.append("r1", {"type": "n", "text": "\udcff"})
        follower.join(10)
        assert found == [(last, {"type": "n", "text": "\udcff"})]


def test_a_kill_is_an_event_of_the_run(server: Server) -> None:
    with LightStore.connect(server.url) as light:
        with pytest.raises(NoSuchRun):
            light.request_kill("r1")
        light.submit(spec())
        light.request_kill("r1", 2, 100, "me")
        wanted = {"type": "kill_requested", "signal": 2, "grace_ms": 100, "by": "me"}
        assert light.events("r1", "0")[-1][1] == wanted
        with pytest.raises(TooLarge):
            light.append("r1", {"type": "x", "text": "x" * (1 << 20)})


def test_what_workers_store_is_seen(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec())
        await store.commit_output("r1", "w-i.seg", 12, "i")
        mesh = await store.open_mesh("s", "me")
        await store.register_worker(worker(), 60)
        await store.register_worker(worker("v", "j"), 60)
        v = {"name": "v", "incarnation": "j"}
        await store.assign_subtrees(mesh, [subtree(0, "0-2"), subtree(4), subtree(8, **v)])
        with LightStore.connect(server.url) as light:
            assert light.committed("r1") == {"w-i.seg": 12}
            assert light.live_workers() == await store.live_workers()
            assert light.meshes() == await store.meshes()
            assert light.renew_client("r1", 60)
            assert await store.client_lives("r1")
            assert light.close_mesh(mesh) == 2
            assert light.close_mesh("none") == 0
            assert light.remove_run("r1")
            assert not light.renew_client("r1", 60)
            with pytest.raises(NoSuchRun, match="plush ps"):
                light.load_run("r1")
        assert await store.run_fields("r1") == {}

    server.run(scenario)
    assert (server.call("LLEN", "worker.w"), server.call("LLEN", "worker.v")) == (1, 1)


def test_a_restart_of_the_server_between_requests_is_not_noticed(server: Server) -> None:
    with LightStore.connect(server.url) as light:
        light.submit(spec())
        server.stop()
        with pytest.raises(StoreUnavailable, match="PLUSH_REDIS_URL"):
            light.runs()
        server.start()
        assert [run["run_id"] for run in light.runs()] == ["r1"]
        server.stop()
        server.start()
        assert light.request_kill("r1")


def test_a_server_that_does_not_answer_is_given_up(server: Server) -> None:
    with LightStore.connect(server.url, answer_timeout_s=0.2) as light:
        light.submit(spec())
        server.call("CLIENT", "PAUSE", "700")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"no answer within 0.2 s"):
            light.runs()
        assert time.monotonic() - began < 0.7
        server.call("CLIENT", "UNPAUSE")
        assert len(light.runs()) == 1


def test_importing_it_brings_in_nothing_heavy() -> None:
    """The command line's first request must leave within 150 ms; redis-py alone takes that long."""
    code = "import sys, plush_worker.store.light; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"redis", "celery", "kombu", "asyncio", "pydantic", "dataclasses", "inspect", "urllib.parse", "uuid", "ssl"}
    assert not heavy & set(done.stdout.split())


def test_both_stores_submit_alike(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec("r1"), "plush")
        with LightStore.connect(server.url) as light:
            await asyncio.to_thread(light.submit, spec("r2"))
        one, two = await store.run_fields("r1"), await store.run_fields("r2")
        assert one.keys() == two.keys()
        assert await store.read_events("r1", "0") != []

    server.run(scenario)
    assert server.call("LLEN", "plush") == 2

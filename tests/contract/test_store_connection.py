"""What happens to the store's requests when the server goes away, comes back, refuses, or its answers are lost."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from plush_worker.store import Store, limits
from plush_worker.store.address import Address
from plush_worker.store.errors import BadStoreURL, StoreFull, StoreUnavailable
from plush_worker.store.light import LightStore

from .conftest import PASSWORD, Server, free_port
from .test_store_meshes import subtree, worker
from .test_store_runs import op, spec


class LossyProxy:
    """Passes requests on; drops the answer to the next ``lose`` scripts, and the connection with it."""

    def __init__(self, target: Address) -> None:
        self._target = target
        self.lose = 0
        self.lost = 0
        self._serving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self, path: str) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self._serve, path)
        try:
            yield
        finally:
            server.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._target.path:
            return await asyncio.open_unix_connection(self._target.path)
        return await asyncio.open_connection(self._target.host, self._target.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        assert current is not None
        self._serving.add(current)
        up_reader, up_writer = await self._open()
        dropping = False

        async def requests() -> None:
            nonlocal dropping
            while data := await reader.read(1 << 20):
                if self.lose and b"EVAL" in data:
                    dropping = True
                up_writer.write(data)
                await up_writer.drain()

        async def answers() -> None:
            while data := await up_reader.read(1 << 20):
                if dropping and not data.startswith(b"-NOSCRIPT"):
                    self.lose -= 1
                    self.lost += 1
                    return
                writer.write(data)
                await writer.drain()

        tasks = [asyncio.create_task(requests()), asyncio.create_task(answers())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for end in (up_writer, writer):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()


def test_a_lost_answer_makes_nothing_happen_twice(server: Server) -> None:
    """A repeated order of an op would start the command twice on every host (promise P1)."""

    async def main(folder: Path) -> None:
        proxy = LossyProxy(server.address)
        address = Address(path=str(folder / "p"), password=server.address.password)
        async with proxy.listening(str(folder / "p")):
            store = await Store.connect(address.url())

            async def lossy(call: Callable[[], Awaitable[Any]]) -> Any:
                proxy.lose, before = 2, proxy.lost
                found = await call()
                assert proxy.lost == before + 2, "the proxy lost nothing, so this test tests nothing"
                return found

            mesh = await lossy(lambda: store.open_mesh("s", "me"))
            await lossy(lambda: store.create_run(spec()))
            term = await lossy(lambda: store.take_coordination("r1", "w", "i", 60))
            assert term == 1
            await lossy(lambda: store.append("r1", {"type": "a"}, term))
            await lossy(lambda: store.append_all("r1", [{"type": "b"}, {"type": "c"}], term))
            await lossy(lambda: store.order_op(mesh, op(mesh), term, {"type": "op_ordered"}))
            await lossy(lambda: store.commit_output("r1", "seg", 7, "i", [{"type": "output"}]))
            await lossy(lambda: store.register_worker(worker(), 60))
            granted = await lossy(lambda: store.assign_subtrees(mesh, [subtree(0, "0-3"), subtree(9)]))
            assert len(granted) == 2
            types = [e["type"] for _, e in await store.read_events("r1", "0")]
            assert types == ["run_submitted", "a", "b", "c", "op_ordered", "output"]
            assert len(await store.ops("r1")) == 1
            records, _ = await store.subtrees(mesh)
            assert records == {g.root: g for g in granted}
            await store.close()

    with tempfile.TemporaryDirectory(prefix="plush-") as folder:
        asyncio.run(main(Path(folder)))


def test_everything_goes_on_after_a_restart_of_the_server(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec())
        reader = asyncio.create_task(store.read_events("r1", await store.last_event_id("r1"), 10_000))
        await asyncio.sleep(0)
        await asyncio.to_thread(server.stop)
        with pytest.raises(StoreUnavailable, match="no Redis server answers at"):
            await store.append("r1", {"type": "lost"})
        await asyncio.to_thread(server.start)
        await store.append("r1", {"type": "found"})
        assert [e["type"] for _, e in await store.read_events("r1", "0")] == ["run_submitted", "found"]
        assert await store.same_data(), "with an append-only file nothing should be lost"
        with pytest.raises(StoreUnavailable):
            await reader
        assert len(await store.read_events("r1", "0", 1000)) == 2

    server.run(scenario)


def test_the_scripts_of_a_server_may_be_flushed(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec())
        server.call("SCRIPT", "FLUSH")
        await store.append("r1", {"type": "x"})

    server.run(scenario)


def test_a_full_server_says_what_to_do(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec())
        server.call("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreFull, match=r"maxmemory.*plush rm"):
            await store.append("r1", {"type": "x"})
        with LightStore.connect(server.url) as light, pytest.raises(StoreFull, match="plush rm"):
            light.request_kill("r1")

    try:
        server.run(scenario)
    finally:
        server.call("CONFIG", "SET", "maxmemory", "0")


def test_a_wrong_password_is_told_but_not_shown(server: Server) -> None:
    address = Address(path=server.address.path, host=server.address.host, port=server.address.port, password="secret!")

    async def connect() -> None:
        await (await Store.connect(address.url())).close()

    for attempt in (lambda: asyncio.run(connect()), lambda: LightStore.connect(address.url()).ping()):
        with pytest.raises(StoreUnavailable, match="password") as caught:
            attempt()
        assert "secret" not in str(caught.value)
        assert PASSWORD not in str(caught.value)


def test_no_server_is_told_with_what_to_do() -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/3"

    async def connect() -> None:
        await Store.connect(url)

    for attempt in (lambda: asyncio.run(connect()), lambda: LightStore.connect(url).ping()):
        with pytest.raises(
            StoreUnavailable, match=r"no Redis server answers at redis://127.0.0.1:\d+/3: .*PLUSH_REDIS"
        ) as c:
            attempt()
        assert "secret" not in str(c.value)


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(BadStoreURL):
        asyncio.run(Store.connect("http://x"))


def test_two_databases_of_a_server_are_apart(server: Server) -> None:
    other = Address(
        path=server.address.path,
        host=server.address.host,
        port=server.address.port,
        password=server.address.password,
        db=2,
    )

    async def scenario(store: Store) -> None:
        await store.create_run(spec())
        apart = await Store.connect(other.url())
        assert await apart.list_runs() == []
        assert apart.identity != store.identity
        await apart.close()
        with LightStore.connect(other.url()) as light:
            assert light.runs() == []

    server.run(scenario)


def test_many_requests_at_once_use_few_connections(server: Server) -> None:
    async def scenario(store: Store) -> None:
        await store.create_run(spec())
        await asyncio.gather(*(store.append("r1", {"type": "n", "n": n}) for n in range(300)))
        clients = server.call("CLIENT", "LIST").decode().splitlines()
        assert len(clients) <= limits.MAX_CONNECTIONS + 1
        assert await store.sync() == 0
        assert await store.sync(1, timeout_s=0.05) == 0, "there is no replica"

    server.run(scenario)

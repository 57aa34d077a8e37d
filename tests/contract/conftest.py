"""The servers that every implementation of the store is tested on: a Redis server, and the Valkey of the wheel."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plush_worker.store import Store
from plush_worker.store.address import Address
from plush_worker.store.server import start_server, wheel_server
from plush_worker.store.wire import Wire

PASSWORD = "p@ss w/ :%\"'\\"
Scenario = Callable[[Store], Awaitable[None]]


class Server:
    """A private server that a test may stop and start again."""

    def __init__(self, folder: Path, program: Path, *, port: int | None, password: str) -> None:
        self._folder, self._program, self._port = folder, program, port
        self._socket = None if port else folder / "s"
        self.address = Address(path=str(self._socket or ""), host="127.0.0.1", port=port or 6379, password=password)
        self.url = self.address.url()
        self.start()

    def start(self) -> None:
        self.process = start_server(
            self._folder,
            unix_socket=self._socket,
            port=self._port,
            password=self.address.password,
            appendonly=True,
            program=self._program,
        )

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def call(self, *command: str | int) -> Any:
        with Wire(self.address) as wire:
            return wire.call(*command)

    def run(self, scenario: Scenario) -> None:
        """Runs a scenario on a fresh store of this server."""

        async def main() -> None:
            store = await Store.connect(self.url)
            try:
                await scenario(store)
            finally:
                await store.close()

        asyncio.run(main())


@pytest.fixture(scope="session", params=["redis", "valkey"])
def running_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="plush-store-"))
    if request.param == "redis":
        program = shutil.which("redis-server")
        if program is None:
            if os.environ.get("CI"):
                pytest.fail("redis-server is not installed")
            pytest.skip("redis-server is not installed")
        server = Server(folder, Path(program), port=free_port(), password=PASSWORD)
    else:
        server = Server(folder, wheel_server(), port=None, password="")
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture
def server(running_server: Server) -> Server:
    """A running server without any data."""
    if running_server.process.poll() is not None:
        running_server.start()
    running_server.call("FLUSHALL")
    return running_server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until(condition: Callable[[], Awaitable[Any]], deadline_s: float = 10.0) -> Any:
    """What ``condition`` returns once that is true."""
    end = time.monotonic() + deadline_s
    while True:
        found = await condition()
        if found:
            return found
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.01)

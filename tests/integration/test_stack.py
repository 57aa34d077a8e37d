"""Parts that die are started again, a bounded number of times: a stack with small programs in place of workers."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plush_api.restarts import Restarts
from plush_api.signal_events import drain, signals_as_events
from plush_api.stack import Part, Stack
from plush_worker.errors import PartFailed
from plush_worker.store.address import Address

DEADLINE_S = 20.0
READY = "import os; os.write(int(os.environ['PLUSH_READY_FD']), b'ready\\n'); "
LIVES = ("-c", READY + "os.read(int(os.environ['PLUSH_LIFELINE_FD']), 1)")
DIES = ("-c", READY + "print('no such luck', flush=True); os._exit(3)")
NEVER_READY = ("-c", "import sys; sys.exit('not even ready')")


class Watched:
    """A stack whose ready parts and restarts are noted."""

    def __init__(self, folder: Path, restarts: Restarts | None) -> None:
        self.ready: list[str] = []
        self.told: list[str] = []
        address = Address(path=str(folder / "redis.sock"), password="secret")
        self.stack = Stack(
            folder, dict(os.environ), address, on_ready=self._note, restarts=restarts, on_restart=self.told.append
        )

    def _note(self, part: Part) -> None:
        self.ready.append(part.name)

    def wait_ready(self, count: int, signal_fd: int) -> None:
        """Until parts have become ready ``count`` times."""
        deadline = time.monotonic() + DEADLINE_S
        while len(self.ready) < count:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"ready: {self.ready}, told: {self.told}"
            self.stack.wait((signal_fd,), left_s)
            drain(signal_fd)

    def wait_failed(self, signal_fd: int) -> str:
        """Why the stack gave up."""
        with pytest.raises(PartFailed) as failed:
            self.wait_ready(1000, signal_fd)
        return str(failed.value)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="plush-s-", dir="/tmp") as name:
        yield Path(name)


def test_a_part_that_dies_is_started_again_and_its_log_goes_on(folder: Path) -> None:
    watched = Watched(folder, Restarts())
    with signals_as_events() as (signal_fd, _):
        watched.stack.start_worker("one", LIVES)
        watched.wait_ready(1, signal_fd)
        first = watched.stack.parts[0].process.pid
        os.kill(first, signal.SIGKILL)
        watched.wait_ready(2, signal_fd)
        assert watched.stack.all_ready() and watched.stack.parts[0].process.pid != first
        assert len(watched.stack.parts) == 1
        assert watched.stack.stop(5.0, gently=False) == []
    assert len(watched.told) == 1
    assert watched.told[0].startswith("worker one ended by signal 9: it is started again in 0.2 s")


def test_the_server_is_started_again_with_its_data(folder: Path) -> None:
    from plush_worker.store.wire import Wire

    watched = Watched(folder, Restarts())
    with signals_as_events() as (signal_fd, _):
        watched.stack.start_server(appendonly=True)
        with Wire(watched.stack.address) as wire:
            wire.call("SET", "kept", "yes")
        os.kill(watched.stack.parts[0].process.pid, signal.SIGTERM)
        watched.wait_ready(2, signal_fd)
        with Wire(watched.stack.address) as wire:
            assert wire.call("GET", "kept") == b"yes"
        watched.stack.stop(5.0, gently=True)


def test_a_part_that_dies_too_often_ends_all_and_its_last_words_are_told(folder: Path) -> None:
    watched = Watched(folder, Restarts(limit=2))
    with signals_as_events() as (signal_fd, _):
        watched.stack.start_worker("one", DIES)
        try:
            why = watched.wait_failed(signal_fd)
        finally:
            watched.stack.stop(5.0, gently=False)
    assert watched.ready == ["worker one"] * 3 and len(watched.told) == 2
    assert "worker one ended with exit code 3: it died 3 times within 60 s" in why
    assert why.count("no such luck") == 3, "what it said before the restarts is gone"


@pytest.mark.parametrize(("program", "restarts"), [(NEVER_READY, Restarts()), (DIES, None)])
def test_a_part_that_never_was_ready_or_may_not_die_is_not_started_again(
    folder: Path, program: tuple[str, ...], restarts: Restarts | None
) -> None:
    watched = Watched(folder, restarts)
    with signals_as_events() as (signal_fd, _):
        watched.stack.start_worker("one", program)
        try:
            why = watched.wait_failed(signal_fd)
        finally:
            watched.stack.stop(5.0, gently=False)
    assert watched.told == [] and "worker one ended with exit code" in why


def test_one_that_is_not_ready_in_time_after_a_restart_counts_as_dead(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plush_api.stack.READY_AGAIN_S", 0.3)
    once = f"import os\nif os.path.exists('{folder}/once'): os.read(int(os.environ['PLUSH_LIFELINE_FD']), 1)\n"
    once += f"open('{folder}/once', 'w').close(); {READY}os._exit(0)"
    watched = Watched(folder, Restarts(limit=1))
    with signals_as_events() as (signal_fd, _):
        watched.stack.start_worker("one", ("-c", once))
        try:
            why = watched.wait_failed(signal_fd)
        finally:
            watched.stack.stop(5.0, gently=False)
    assert watched.ready == ["worker one"] and "it died 2 times" in why

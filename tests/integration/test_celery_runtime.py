"""A real worker process over real servers: handing over, events that Flower shows, outages, stopping."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from plush_worker.celery_app import PlushApp, create_app
from plush_worker.config import load_settings
from plush_worker.model import RunSpec, WorkerInfo
from plush_worker.store import Store
from plush_worker.store.address import Address
from plush_worker.store.light import LightStore
from plush_worker.store.server import start_server, wheel_server

DEADLINE_S = 20.0
FAKE_WORKER = ("-P", str(Path(__file__).with_name("fake_parts.py")))


def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """What ``condition`` returns once that is true."""
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)
    return found


class Server:
    """A private server that keeps its data over a restart."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.folder, self._program = folder, program
        self.address = Address(path=str(folder / "s"), password="secret/with:odd@signs")
        self.url = self.address.url()
        self.start()

    def start(self) -> None:
        self.process = start_server(
            self.folder,
            unix_socket=Path(self.address.path),
            password=self.address.password,
            appendonly=True,
            program=self._program,
        )

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="plush-c-", dir="/tmp"))
    if request.param == "redis":
        program = shutil.which("redis-server")
        if program is None:
            shutil.rmtree(folder)
            (pytest.fail if os.environ.get("CI") else pytest.skip)("redis-server is not installed")
        server = Server(folder, Path(program))
    else:
        server = Server(folder, wheel_server())
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture
def app(server: Server) -> Iterator[PlushApp]:
    app = create_app(load_settings(redis_url=server.url, state_dir=server.folder))
    yield app
    app.close()


class Worker:
    """A worker process with fake parts; ``notes`` is what these noted, ``log`` what the process logged."""

    def __init__(self, server: Server, name: str = "w1", **environment: str) -> None:
        self._notes = server.folder / f"notes-{name}"
        self._log = server.folder / f"{name}.log"
        ready_read, ready_write = os.pipe()
        self.process = subprocess.Popen(
            (sys.executable, *FAKE_WORKER),
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "PLUSH_REDIS_URL": server.url,
                "PLUSH_STATE_DIR": str(server.folder),
                "PLUSH_WORKER_NAME": name,
                "PLUSH_WORKER_LEASE_TTL_S": "1.5",
                "PLUSH_WORKER_RENEW_S": "0.3",
                "PLUSH_READY_FD": str(ready_write),
                "PLUSH_LOG_FILE": str(self._log),
                "FAKE_PARTS_FILE": str(self._notes),
                **environment,
            },
            pass_fds=(ready_write,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.close(ready_write)
        with os.fdopen(ready_read, "rb") as ready:
            self.ready = ready.read() == b"ready\n"

    def notes(self) -> list[str]:
        try:
            return [line.partition(" ")[2] for line in self._notes.read_text().splitlines()]
        except FileNotFoundError:
            return []

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def stop(self) -> tuple[int, float]:
        """(exit code, seconds it took)."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, time.monotonic() - began


@pytest.fixture
def start_worker(server: Server) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(name: str = "w1", **environment: str) -> Worker:
        worker = Worker(server, name, **environment)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.communicate()


class Events:
    """What Celery's own event receiver gets, which is what Flower gets, folded by Celery's own State."""

    def __init__(self, app: PlushApp) -> None:
        self._app = app
        self._state = app.events.State()
        self.seen: list[tuple[str, str, str]] = []  # (task id, state after the event, text shown)
        self._enough = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(DEADLINE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join(DEADLINE_S)

    def of(self, task_id: str) -> list[tuple[str, str]]:
        return [(state, text) for seen, state, text in list(self.seen) if seen == task_id]

    def _run(self) -> None:
        with self._app.connection_for_read() as connection:
            receiver = self._app.events.Receiver(connection, handlers={"*": self._note})
            with receiver.consumer_context(wakeup=False) as (draining, _channel, _consumers):
                self._listening.set()
                while not self._enough.is_set():
                    try:
                        draining.drain_events(timeout=0.1)
                    except TimeoutError:
                        continue

    def _note(self, event: dict[str, Any]) -> None:
        self._state.event(event)
        if event["type"].startswith("task-"):
            task = self._state.tasks[event["uuid"]]
            shown = task.exception if task.state == "FAILURE" else task.result
            self.seen.append((event["uuid"], task.state, str(shown)))


def submit(app: PlushApp, run_id: str) -> None:
    app.send_task("plush.coordinate", kwargs={"run_id": run_id}, task_id=run_id, queue="plush")


def live_workers(server: Server) -> list[WorkerInfo]:
    with LightStore.connect(server.url) as store:
        return store.live_workers()


def test_ten_runs_share_two_threads_and_flower_sees_each_progress_and_succeed(
    app: PlushApp, start_worker: Callable[..., Worker]
) -> None:
    worker = start_worker(PLUSH_CONCURRENCY="2")
    assert worker.ready, worker.log()
    runs = [f"ten{number}-20" for number in range(10)]  # none ends before the last is taken
    with Events(app) as events:
        for run_id in runs:
            submit(app, run_id)
        for run_id in runs:
            assert app.AsyncResult(run_id).get(timeout=DEADLINE_S) == {"ok": 20}
        until(lambda: all(events.of(run_id)[-1:] == [("SUCCESS", "{'ok': 20}")] for run_id in runs), "ten successes")
    for run_id in runs:
        states = [state for state, _ in events.of(run_id)]
        assert states.index("STARTED") < states.index("PROGRESS") < states.index("SUCCESS") == len(states) - 1
        assert all(text.endswith("/20 up") for state, text in events.of(run_id) if state == "PROGRESS")
    assert worker.stop()[0] == 0
    assert "Warning" not in worker.log() and "Traceback" not in worker.log()


def test_a_failed_run_is_a_failure_with_its_reason(app: PlushApp, start_worker: Callable[..., Worker]) -> None:
    start_worker()
    with Events(app) as events:
        submit(app, "fail-2")
        until(lambda: events.of("fail-2")[-1:] == [("FAILURE", "3 of 4 hosts failed")], "the failure")
    result = app.AsyncResult("fail-2")
    assert result.state == "FAILURE" and "3 of 4 hosts failed" in str(result.result)
    assert result.name == "plush.coordinate" and result.kwargs == {"run_id": "fail-2"}


def test_messages_of_strangers_fail_clearly_and_stale_ones_are_dropped(
    app: PlushApp, server: Server, start_worker: Callable[..., Worker]
) -> None:
    worker = start_worker()
    mine = live_workers(server)[0].incarnation

    def ask(name: str, *args: Any, queue: str = "worker.w1", **kwargs: Any) -> Any:
        result = app.send_task(name, args=args, kwargs=kwargs, queue=queue)
        return result.get(timeout=DEADLINE_S, propagate=False)

    assert "missing: run_id" in str(ask("plush.coordinate", run="x"))
    assert "got 1 positional arguments" in str(ask("plush.coordinate", "x"))
    assert "run_id is int '7'" in str(ask("plush.coordinate", run_id=7))
    assert "not the run's id 'other'" in str(ask("plush.coordinate", run_id="other"))
    close = {"mesh": "m", "roots": "0-3", "kill": True}
    assert ask("plush.subtree.close", **close, incarnation="of another life") == {"stale": True}
    assert "mesh m can't be closed: it is a fake" in str(ask("plush.subtree.close", **close, incarnation=mine))
    opened = ask("plush.subtree.open", run_id="r", mesh="m", roots="0-3", incarnation=mine, newer="field")
    assert opened == {"opened": "0-3", "incarnation": mine}
    assert worker.process.poll() is None


def test_the_mesh_thread_outlives_an_outage_of_the_broker(
    app: PlushApp, server: Server, start_worker: Callable[..., Worker]
) -> None:
    worker = start_worker()
    before = live_workers(server)[0].incarnation
    submit(app, "during-100")  # goes on for five seconds
    until(lambda: "run during-100 taken" in worker.notes(), "the run is taken")
    server.stop()
    until(lambda: "can't be renewed" in worker.log(), "the worker notices the outage")
    server.start()
    until(lambda: [info.name for info in live_workers(server)] == ["w1"], "the lease is back")
    assert app.AsyncResult("during-100").get(timeout=DEADLINE_S) == {"ok": 100}
    submit(app, "after-1")
    assert app.AsyncResult("after-1").get(timeout=DEADLINE_S) == {"ok": 1}
    assert worker.notes().count("meshes started") == 1
    assert "meshes stopped" not in worker.notes()
    after = live_workers(server)[0].incarnation
    assert (after == before) or f"lost its lease as {before} and goes on as {after}" in worker.log()
    assert worker.stop()[0] == 0


def test_a_worker_stops_quickly_in_order_and_gives_its_lease_up(
    app: PlushApp, server: Server, start_worker: Callable[..., Worker]
) -> None:
    worker = start_worker()
    mine = live_workers(server)[0].incarnation
    submit(app, "endless-10000")
    app.send_task("plush.subtree.op", kwargs={"run_id": "r", "mesh": "slow", "incarnation": mine}, queue="worker.w1")
    until(lambda: {"slow op began", "run endless-10000 taken"} <= set(worker.notes()), "both are under way")
    code, took_s = worker.stop()
    assert code == 0
    assert took_s < 5, "a pool thread that waits for the mesh thread kept the worker"
    assert worker.notes()[-2:] == ["coordinators stopped", "meshes stopped"]
    assert live_workers(server) == []


def test_a_second_worker_of_the_same_name_refuses(server: Server, start_worker: Callable[..., Worker]) -> None:
    first = start_worker()
    second = Worker(server, "w1", FAKE_PARTS_FILE="/dev/null")
    assert not second.ready
    output, _ = second.process.communicate(timeout=DEADLINE_S)
    assert second.process.returncode == 1
    assert f"a worker called w1 lives already (pid {first.process.pid})" in output
    first.process.kill()
    first.process.communicate()
    again = start_worker()  # the dead one's lease may still live: it is on this machine, and its pid is gone
    assert again.ready, again.log()


def test_a_worker_whose_mesh_thread_dies_ends_and_says_why(server: Server, start_worker: Callable[..., Worker]) -> None:
    worker = start_worker()
    (server.folder / "notes-w1.broken").touch()
    output, _ = worker.process.communicate(timeout=DEADLINE_S)
    assert worker.process.returncode == 1
    assert "the mesh thread died: RuntimeError: the load is broken" in output
    assert worker.notes()[-2:] == ["coordinators stopped", "meshes stopped"]
    assert live_workers(server) == []


def test_a_run_without_a_coordinator_is_sent_again(server: Server, start_worker: Callable[..., Worker]) -> None:
    spec = RunSpec(run_id="lost-1", owner="me", command="true", hosts=())

    async def create() -> None:
        store = await Store.connect(server.url)
        await store.create_run(spec)  # without its message
        await store.close()

    asyncio.run(create())
    worker = start_worker(PLUSH_WORKER_LEASE_TTL_S="0.6", PLUSH_WORKER_RENEW_S="0.2")
    began = time.monotonic()
    until(lambda: "run lost-1 taken" in worker.notes(), "the run is sent again")
    assert time.monotonic() - began > 1.0, "judged before two lease times had passed"

"""What stands in a worker process beside Celery's pool: the mesh thread and everything on it.

Owns the thread, its asyncio loop, the store connection, the worker's lease, and the start and stop order of mesh,
coordinators and publisher. Decides nothing about runs, subtrees or hosts. Made by the bootstep (``bootsteps.py``);
tasks reach the mesh thread with ``WorkerRuntime.call``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from plush_worker import xdg
from plush_worker.errors import AlreadyRunning, CallTimeout, InternalError, PlushError, WorkerStopping
from plush_worker.model import WorkerInfo
from plush_worker.node.limits import PROTOCOL_VERSION
from plush_worker.publisher import Publisher

if TYPE_CHECKING:
    from plush_worker.celery_app import PlushApp
    from plush_worker.config import Settings
    from plush_worker.store import Store
    from plush_worker.task_reports import TaskReports

log = logging.getLogger(__name__)

START_TIMEOUT_S = 30.0
_LEASE_POLL_S = 0.2
_LINKS_IMPORT_S = 0.2


class Meshes(Protocol):
    """The meshes of this worker, as the runtime and the tasks use them; mesh/service.py has the real one."""

    async def start(self) -> None: ...
    async def stop(self, grace_s: float) -> None: ...
    async def open_subtrees(self, mesh: str, run_id: str, roots: str) -> dict[str, Any]: ...
    async def apply_ops(self, mesh: str, run_id: str) -> dict[str, Any]: ...
    async def close_subtrees(self, mesh: str, roots: str, kill: bool) -> dict[str, Any]: ...
    def load(self) -> int: ...


class RunCoordinators(Protocol):
    """The coordinators of this worker; coordinator.py has the real one."""

    async def start_run(self, run_id: str) -> dict[str, Any]: ...
    async def stop(self) -> None: ...


PartsFactory = Callable[["WorkerRuntime"], tuple[Meshes, RunCoordinators]]


class WorkerRuntime:
    """One life of a worker. ``start`` and ``stop`` from any thread but the mesh thread; ``call`` from pool threads."""

    settings: Settings
    store: Store
    publisher: Publisher
    reports: TaskReports
    meshes: Meshes
    coordinators: RunCoordinators

    def __init__(self, app: PlushApp, hostname: str) -> None:
        self._app = app
        self.settings = app.settings
        self.name = self.settings.worker_name
        self.incarnation = _new_incarnation()
        self.started_at = time.time()
        self.publisher = Publisher(app, hostname)
        self._factory = app.parts_factory or _real_parts
        self._thread = threading.Thread(target=self._run, name="mesh", daemon=False)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_asked: asyncio.Event | None = None
        self._up: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._closing = threading.Event()
        self._grace_s = self.settings.stop_grace_s
        self._calls: set[concurrent.futures.Future[Any]] = set()
        self._calls_lock = threading.Lock()

    def start(self) -> None:
        """Start the mesh thread and wait until it is up. Raises what kept it from coming up."""
        self._thread.start()
        self._up.result(START_TIMEOUT_S)

    def close(self) -> None:
        """Take no more calls, and end the waiting ones: the pool is about to wait for its threads."""
        self._closing.set()
        with self._calls_lock:
            calls = list(self._calls)
        for future in calls:
            future.cancel()

    def stop(self, grace_s: float | None = None) -> None:
        """Stop coordinators, meshes, lease and thread; bounded by ``grace_s`` (settings) and a little. Idempotent."""
        self.close()
        if grace_s is not None:
            self._grace_s = grace_s
        loop, asked = self._loop, self._stop_asked
        if loop is not None and asked is not None and self._thread.is_alive():
            try:
                loop.call_soon_threadsafe(asked.set)
            except RuntimeError:
                pass  # the loop has just ended by itself
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(2 * self._grace_s + 3.0)
            if self._thread.is_alive():
                log.error("the mesh thread didn't end in time and is left behind")

    def call(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float = 30.0) -> Any:
        """Run ``coroutine`` on the mesh thread and wait for its result; from pool threads only.

        Raises what it raises, WorkerStopping when the worker stops meanwhile, CallTimeout after ``timeout_s`` (the
        coroutine is cancelled then).
        """
        if self._closing.is_set() or self._loop is None:
            coroutine.close()
            raise WorkerStopping(f"worker {self.name} is stopping")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        with self._calls_lock:
            self._calls.add(future)
        try:
            if self._closing.is_set():  # close() may have looked before we were in the set
                future.cancel()
            return future.result(timeout_s)
        except TimeoutError as error:
            if future.done() and not future.cancelled():
                raise  # the coroutine's own
            future.cancel()
            raise CallTimeout(f"the mesh thread of worker {self.name} didn't answer within {timeout_s:g} s") from error
        except concurrent.futures.CancelledError as error:
            raise WorkerStopping(f"worker {self.name} is stopping") from error
        finally:
            with self._calls_lock:
                self._calls.discard(future)

    def info(self) -> WorkerInfo:
        """The lease's content as of now."""
        return WorkerInfo(
            name=self.name,
            incarnation=self.incarnation,
            queue=self.settings.worker_queue,
            protocol=PROTOCOL_VERSION,
            capacity=self.settings.worker_capacity,
            load=self.meshes.load(),
            pid=os.getpid(),
            host=xdg.machine_id(),
            uid=os.getuid(),
            state_dir=str(self.settings.state_dir),
            started_at=self.started_at,
        )

    # ---- on the mesh thread

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:
            if not self._up.done():
                self._up.set_exception(error)
                return
            log.exception("the mesh thread died")
            # Without it the worker would go on taking tasks that all fail: end as by SIGTERM.
            self._app.error = InternalError(f"the mesh thread died: {type(error).__name__}: {error}; see the log")
            os.kill(os.getpid(), signal.SIGTERM)

    async def _main(self) -> None:
        from plush_worker.reconcile import Reconciler
        from plush_worker.task_reports import TaskReports, WatchedStore

        self._loop = asyncio.get_running_loop()
        self._stop_asked = asyncio.Event()
        self.store = store = await WatchedStore.connect(self.settings.redis_url)
        self.reports = store.reports = TaskReports(self.publisher, lambda: self.incarnation)
        try:
            self.publisher.start()
            self.meshes, self.coordinators = self._factory(self)
            await self.meshes.start()
            try:
                await self._register()
                self._up.set_result(None)
                log.info("worker %s (%s) is up", self.name, self.incarnation)
                await self._serve(Reconciler(self))
            finally:
                await self._wind_down()
        finally:
            await self.store.close()

    async def _serve(self, reconciler: Any) -> None:
        """Until asked to stop. A background task that fails ends the worker: it would lie about being well."""
        assert self._stop_asked is not None
        asked = asyncio.create_task(self._stop_asked.wait(), name="stop")
        tasks = {
            asked,
            asyncio.create_task(self._keep_lease(), name="lease"),
            asyncio.create_task(reconciler.run(), name="reconciler"),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {asked}:
                task.result()
        finally:
            await _end(tasks)

    async def _wind_down(self) -> None:
        self._closing.set()
        await self._bounded("stopping the coordinators", self.coordinators.stop())
        await self._bounded("stopping the meshes", self.meshes.stop(self._grace_s))
        await self._bounded("removing the lease", self.store.remove_worker(self.name, self.incarnation))
        await asyncio.to_thread(self.publisher.stop)

    async def _bounded(self, what: str, step: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(step, name=what)
        done, _ = await asyncio.wait({task}, timeout=self._grace_s + 0.5)
        if not done:
            log.warning("%s took longer than %.1f s", what, self._grace_s)
            await _end({task})
            return
        try:
            task.result()
        except PlushError as error:
            log.warning("%s: %s", what, error)
        except Exception:
            log.exception("%s failed", what)  # the steps after it must still happen

    # ---- the lease

    async def _register(self) -> None:
        """Take the lease of this worker's name. Raises AlreadyRunning when a living worker keeps it."""
        deadline = time.monotonic() + self.settings.worker_lease_ttl_s + 1.0
        while True:
            other = await self._other_holder()
            if other is None:
                break
            if time.monotonic() > deadline:
                raise AlreadyRunning(
                    f"a worker called {self.name} lives already (pid {other.pid}): stop it, or choose another --name"
                )
            await asyncio.sleep(_LEASE_POLL_S)
        await self.store.register_worker(self.info(), self.settings.worker_lease_ttl_s)

    async def _other_holder(self) -> WorkerInfo | None:
        for info in await self.store.live_workers():
            if info.name == self.name and info.incarnation != self.incarnation:
                gone = info.host == xdg.machine_id() and not xdg.process_start(info.pid)
                if not gone:
                    return info
        return None

    async def _keep_lease(self) -> None:
        """Renew for ever. An outage of the store is waited out; a lease that was lost begins a new incarnation."""
        reachable = True
        while True:
            await asyncio.sleep(self.settings.worker_renew_s)
            try:
                held = await self.store.renew_worker(self.info(), self.settings.worker_lease_ttl_s)
                if not held:
                    await self._begin_anew()
                if not reachable:
                    log.warning("the store answers again")
                reachable = True
            except PlushError as error:
                if not error.retryable:
                    raise
                if reachable:
                    log.warning("the lease of worker %s can't be renewed: %s; trying on", self.name, error)
                reachable = False

    async def _begin_anew(self) -> None:
        lost, self.incarnation = self.incarnation, _new_incarnation()
        log.warning("worker %s lost its lease as %s and goes on as %s", self.name, lost, self.incarnation)
        await self._register()


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel until all have ended, or a second has passed.

    Once may not be enough: before Python 3.12 asyncio.wait_for, which redis-py sends through, swallows a cancellation
    that comes just as what it waits for is done (bpo-37658).
    """
    pending = tasks
    for _ in range(20):
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(tasks, timeout=0.05)
        if not pending:
            return
    log.error("can't be cancelled: %s", ", ".join(task.get_name() for task in pending))


def _new_incarnation() -> str:
    return secrets.token_hex(8)


def _real_parts(runtime: WorkerRuntime) -> tuple[Meshes, RunCoordinators]:
    from plush_worker.coordinator import Coordinators
    from plush_worker.mesh.service import MeshService

    # asyncssh takes a quarter of a second: after the worker is ready, before the first link wants it.
    loop = asyncio.get_running_loop()
    links = "plush_worker.mesh.asyncssh_link"
    loop.call_later(_LINKS_IMPORT_S, lambda: loop.run_in_executor(None, import_module, links))
    return MeshService(runtime), Coordinators(runtime)

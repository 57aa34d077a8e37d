"""All the meshes of one worker: what its tasks call, and what ends when the worker does.

Reads what to do from the store (tasks only wake it), makes a ``MeshDriver`` for each mesh and closes meshes that
nothing has used for their idle time. Lives on the mesh thread's loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from plush_worker.errors import PlushError
from plush_worker.mesh.driver import DriverContext, MeshDriver
from plush_worker.model import SliceSettings
from plush_worker.node import hostset

if TYPE_CHECKING:
    from plush_worker.runtime import WorkerRuntime

logger = logging.getLogger(__name__)

IDLE_CHECK_S = 1.0


class MeshService:
    """See the module's docstring."""

    def __init__(self, runtime: WorkerRuntime) -> None:
        self._runtime = runtime
        self._drivers: dict[str, MeshDriver] = {}
        self._early: dict[str, set[str]] = {}  # mesh -> runs whose ops came before their subtrees
        self._files = ThreadPoolExecutor(1, "plush-files")
        self._idle_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to look for idle meshes."""
        self._idle_task = asyncio.get_running_loop().create_task(self._close_idle())

    async def stop(self, grace_s: float) -> None:
        """Quits every mesh: node programs end their ops and leave. Takes at most about ``grace_s``."""
        if self._idle_task is not None:
            self._idle_task.cancel()
        owned = {mesh: list(driver.state.table.epochs) for mesh, driver in self._drivers.items()}
        await asyncio.gather(*(driver.stop(grace_s) for driver in self._drivers.values()))
        for mesh, roots in owned.items():
            try:
                await self._runtime.store.drop_subtrees(mesh, roots, self._runtime.incarnation)
            except PlushError as error:
                logger.warning("mesh %s: its subtrees stay in the store until the lease ends: %s", mesh, error)
        self._drivers.clear()
        self._files.shutdown(wait=True)

    def load(self) -> int:
        """Hosts under this worker."""
        return sum(len(driver.state.table.hosts) for driver in self._drivers.values())

    async def open_subtrees(self, mesh: str, run_id: str, roots: str) -> dict[str, Any]:
        """Owns the subtrees with these roots (host set text) for the run, and links them. Idempotent."""
        store = self._runtime.store
        wanted = hostset.from_text(roots)
        records, _alive = await store.subtrees(mesh)
        mine = [
            record
            for root, record in records.items()
            if wanted >> root & 1 and record.incarnation == self._runtime.incarnation
        ]
        if not mine:
            return {"subtrees": 0}
        numbers = [n for record in mine for n in hostset.members(hostset.from_text(record.members))]
        entries = await store.host_entries(mesh, numbers)
        fields = await store.run_fields(run_id)
        hosts = hostset.from_text(fields.get("numbers", "")) & hostset.of(numbers)
        driver = self._driver(mesh, SliceSettings.from_mapping(mine[-1].settings))
        driver.open_subtrees(run_id, mine, entries, hosts)
        for early in self._early.pop(mesh, ()):
            await self.apply_ops(mesh, early)
        return {"subtrees": len(mine), "hosts": len(numbers)}

    async def apply_ops(self, mesh: str, run_id: str) -> dict[str, Any]:
        """Orders the run's ops that aren't known here yet; forgets the run when it is over."""
        driver = self._drivers.get(mesh)
        if driver is None:
            self._early.setdefault(mesh, set()).add(run_id)
            return {"ops": "later"}
        fields = await self._runtime.store.run_fields(run_id)
        if fields.get("finished"):
            driver.forget_run(run_id)
            return {"forgotten": True}
        records = [record for record in await self._runtime.store.ops(run_id) if record.mesh == mesh]
        driver.apply_ops(records)
        return {"ops": len(records)}

    async def close_subtrees(self, mesh: str, roots: str, kill: bool) -> dict[str, Any]:
        """Ends subtrees of the mesh (host set text of roots; empty: all of this worker's)."""
        driver = self._drivers.get(mesh)
        if driver is None:
            return {"subtrees": 0}
        chosen = hostset.members(hostset.from_text(roots)) if roots else list(driver.state.table.epochs)
        await self._runtime.store.drop_subtrees(mesh, chosen, self._runtime.incarnation)
        driver.close_subtrees(chosen, kill)
        return {"subtrees": len(chosen)}

    def _driver(self, mesh: str, settings: SliceSettings) -> MeshDriver:
        driver = self._drivers.get(mesh)
        if driver is None:
            runtime = self._runtime
            context = DriverContext(
                runtime.store, runtime.name, runtime.incarnation, runtime.settings.state_dir / "runs", self._in_files
            )
            driver = self._drivers[mesh] = MeshDriver(context, mesh, settings)
        driver.use_settings(settings)
        return driver

    async def _in_files(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._files, call)

    async def _close_idle(self) -> None:
        while True:
            await asyncio.sleep(IDLE_CHECK_S)
            for mesh, driver in list(self._drivers.items()):
                if driver.state.table.epochs and driver.idle_s() > driver.settings.idle_timeout_s:
                    logger.info("mesh %s: idle for %s s: closed", mesh, driver.settings.idle_timeout_s)
                    await self.close_subtrees(mesh, "", kill=False)

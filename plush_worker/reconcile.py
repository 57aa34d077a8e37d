"""Mends what nobody stands over any more: runs without a coordinator get ``plush.coordinate`` again, old runs go.

One worker at a time does this, the first by name among those whose lease lives. It judges a run only after having seen
it without a coordinator in every look for two lease times, during which the store always answered: an outage of Redis
is not the death of all. The task it sends takes the run's lease or finds it taken, and a run is removed once, so that
two reconcilers for a moment do no harm. What is kept of ended runs is decided in ``retention.py``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from plush_worker.config import RUN_QUEUE
from plush_worker.errors import PlushError
from plush_worker.retention import Retention
from plush_worker.tasks import COORDINATE

if TYPE_CHECKING:
    from plush_worker.runtime import WorkerRuntime

log = logging.getLogger(__name__)

RUNS_AT_ONCE = 1000  # the newest; older ones without an end are left to people


class OrphanWatch:
    """Which runs have been without a coordinator for how long. Pure: time is passed in, in seconds."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since: dict[str, float] = {}  # run id -> first seen without a coordinator

    def look(self, orphans: Iterable[str], now_s: float) -> list[str]:
        """The runs of ``orphans`` to be sent again: in every look for the patience. Each starts anew then."""
        self._since = {run_id: self._since.get(run_id, now_s) for run_id in orphans}
        due = [run_id for run_id, since_s in self._since.items() if now_s - since_s >= self._patience_s]
        for run_id in due:
            self._since[run_id] = now_s
        return due

    def forget(self) -> None:
        """Nothing seen so far counts: the store was away, or another worker does this."""
        self._since.clear()


class Reconciler:
    """``run`` it on the mesh thread."""

    def __init__(self, runtime: WorkerRuntime) -> None:
        self._runtime = runtime
        self._pause_s = runtime.settings.worker_renew_s
        self._watch = OrphanWatch(2 * runtime.settings.worker_lease_ttl_s)
        self._retention = Retention(runtime)

    async def run(self) -> None:
        """For ever. Raises only what isn't about the store being away."""
        while True:
            await asyncio.sleep(self._pause_s)
            try:
                await self._step()
            except PlushError as error:
                if not error.retryable:
                    raise
                self._watch.forget()

    async def _step(self) -> None:
        store = self._runtime.store
        workers = await store.live_workers()
        leads = bool(workers) and workers[0].incarnation == self._runtime.incarnation
        await self._retention.look(leads=leads)
        if not leads:
            self._watch.forget()
            return
        runs = await store.list_runs(RUNS_AT_ONCE)
        unfinished = [run["run_id"] for run in runs if "finished" not in run]
        orphans = [run_id for run_id in unfinished if not await store.coordination_lives(run_id)]
        for run_id in self._watch.look(orphans, time.monotonic()):
            log.warning("run %s has no coordinator; sending its task again", run_id)
            self._runtime.publisher.send_task(COORDINATE, {"run_id": run_id}, RUN_QUEUE, task_id=run_id)

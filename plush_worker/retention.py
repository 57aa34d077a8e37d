"""What is kept of ended runs, and for how long: decided for all by one worker, carried out on its files by each.

A run is removed ``keep_s`` after its end, and the oldest ended ones are when the output of all ended runs together is
more than the limit. Removing is the store's (``Store.remove_run``, as ``plush rm`` does it): it remembers removed runs,
and every worker removes the files of those in its own state folder. Files of a run that the store merely doesn't know
stay: a store that lost its data must not cost the output, too. Entry point: ``Retention``, for the mesh thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plush_worker.blobs import BlobStore

if TYPE_CHECKING:
    from plush_worker.runtime import WorkerRuntime
    from plush_worker.store.runs import KeptRun

log = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
PRUNE_BLOBS_EVERY_S = 3600.0
BLOB_UNUSED_S = 86400.0  # blobs are sent before the run that needs them
NAMES_AT_ONCE = 1000


def plan_removal(runs: Sequence[KeptRun], now_s: float, limit_bytes: int) -> dict[str, str]:
    """Ended runs that are to go -> why. ``limit_bytes`` is for the output of all ended runs; 0: no limit."""
    going: dict[str, str] = {}
    ended = sorted((run for run in runs if run.finished_s), key=lambda run: run.finished_s)
    for run in ended:
        if run.keep_s and now_s - run.finished_s > run.keep_s:
            going[run.run_id] = f"it ended more than {run.keep_s} s ago"
    kept = [run for run in ended if run.run_id not in going]
    total_bytes = sum(run.output_bytes for run in kept)
    for run in kept if limit_bytes else ():
        if total_bytes <= limit_bytes:
            break
        if run.output_bytes:
            going[run.run_id] = f"ended runs have more than {limit_bytes} bytes of output, and it is the oldest"
            total_bytes -= run.output_bytes
    return going


class Retention:
    """Of one worker. ``look`` it often; it does something once a minute."""

    def __init__(self, runtime: WorkerRuntime) -> None:
        self._runtime = runtime
        state_dir = Path(runtime.settings.state_dir)
        self._folder = state_dir / "runs"
        self._blobs = BlobStore(state_dir)
        self._looked_s = self._pruned_s = time.monotonic()

    async def look(self, *, leads: bool) -> None:
        """``leads``: this worker decides what goes. Raises StoreUnavailable."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        if leads:
            await self.remove_old_runs(time.time())
        await self.remove_files()
        if now_s - self._pruned_s >= PRUNE_BLOBS_EVERY_S:
            self._pruned_s = now_s
            await self.prune_blobs(BLOB_UNUSED_S)

    async def remove_old_runs(self, now_s: float) -> None:
        """Removes what is kept too long or is too much; ``now_s`` is Unix time."""
        store = self._runtime.store
        going = plan_removal(await store.kept_runs(), now_s, self._runtime.settings.output_limit_bytes)
        for run_id, why in going.items():
            log.info("run %s is removed: %s", run_id, why)
            await store.remove_run(run_id)

    async def remove_files(self) -> None:
        """Removes the folders of removed runs from this worker's state folder."""
        names = await asyncio.to_thread(_names_in, self._folder)
        for first in range(0, len(names), NAMES_AT_ONCE):
            for run_id in await self._runtime.store.removed_among(names[first : first + NAMES_AT_ONCE]):
                await asyncio.to_thread(self._remove_folder, run_id)

    async def prune_blobs(self, unused_s: float) -> None:
        """Removes contents that no run needs, and that nobody has asked for within ``unused_s``."""
        store, wanted = self._runtime.store, set[str]()
        for run in await store.kept_runs():
            if run.has_blobs:
                wanted.update(await store.run_blobs(run.run_id))
        removed = await asyncio.to_thread(self._prune, wanted, unused_s)
        if removed:
            log.info("%d contents that no run needs are removed", removed)

    def _prune(self, wanted: set[str], unused_s: float) -> int:
        try:
            return self._blobs.prune(wanted, unused_s)
        except OSError as error:
            log.warning("contents that no run needs can't be removed: %s", error)
            return 0

    def _remove_folder(self, run_id: str) -> None:
        try:
            shutil.rmtree(self._folder / run_id)
            log.info("run %s: its files are removed", run_id)
        except OSError as error:
            log.warning("run %s: its files in %s can't be removed: %s", run_id, self._folder, error)


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []

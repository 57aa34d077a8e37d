"""A mesh and coordinators that do nothing but take their time, in a real worker process.

Run as a program it is a worker (``plush_worker.worker_process.main``) with these parts; runs whose id ends in ``-N``
take N steps of 50 ms and report each; those whose id begins with ``ten`` begin when ten have been taken.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

from plush_worker.errors import UserError

STEP_S = 0.05


def note(text: str) -> None:
    """A line in the file that the test reads."""
    path = os.environ.get("FAKE_PARTS_FILE")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{time.monotonic():.6f} {text}\n")


class FakeMeshes:
    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    async def start(self) -> None:
        note("meshes started")

    async def stop(self, grace_s: float) -> None:
        note("meshes stopped")

    async def open_subtrees(self, mesh: str, run_id: str, roots: str) -> dict[str, Any]:
        return {"opened": roots, "incarnation": self._runtime.incarnation}

    async def apply_ops(self, mesh: str, run_id: str) -> dict[str, Any]:
        if mesh == "slow":
            note("slow op began")
            await asyncio.sleep(60)
        return {"applied": run_id}

    async def close_subtrees(self, mesh: str, roots: str, kill: bool) -> dict[str, Any]:
        raise UserError(f"mesh {mesh} can't be closed: it is a fake")

    def load(self) -> int:
        if os.path.exists(os.environ.get("FAKE_PARTS_FILE", "") + ".broken"):
            raise RuntimeError("the load is broken")
        return 0


class FakeCoordinators:
    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._runs: set[asyncio.Task[None]] = set()
        self._ten = asyncio.Event()

    async def start_run(self, run_id: str) -> dict[str, Any]:
        task = asyncio.get_running_loop().create_task(self._run(run_id))
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)
        note(f"run {run_id} taken")
        if len(self._runs) == 10:
            self._ten.set()
        return {}

    async def _run(self, run_id: str) -> None:
        steps = int(run_id.rpartition("-")[2])
        if run_id.startswith("ten"):
            await self._ten.wait()
        for step in range(1, steps + 1):
            await asyncio.sleep(STEP_S)
            self._runtime.publisher.progress(run_id, f"{step}/{steps} up")
        if "fail" in run_id:
            self._runtime.publisher.fail(run_id, "3 of 4 hosts failed", steps * STEP_S)
        else:
            self._runtime.publisher.succeed(run_id, {"ok": steps}, steps * STEP_S)

    async def stop(self) -> None:
        for task in list(self._runs):
            task.cancel()
        note("coordinators stopped")


def make(runtime: Any) -> tuple[FakeMeshes, FakeCoordinators]:
    return FakeMeshes(runtime), FakeCoordinators(runtime)


if __name__ == "__main__":
    from plush_worker.worker_process import main

    sys.exit(main(factory=make))

"""The driver of a mesh: what it saves of a subtree when the store's record has moved on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from plush_worker.mesh.driver import DriverContext, MeshDriver
from plush_worker.model import SliceSettings, SubtreeRecord

OURS, THEIRS = "ours", "theirs"


class RecordsStore:
    """Stands for the store: one subtree, owned under an epoch."""

    def __init__(self, incarnation: str, epoch: int) -> None:
        self.record = SubtreeRecord(0, "worker", incarnation, epoch, "0")
        self.saved: list[str] = []

    async def update_subtree(self, mesh: str, root: int, epoch: int, *, up: str) -> bool:
        if epoch != self.record.epoch:
            return False
        self.saved.append(up)
        return True

    async def subtrees(self, mesh: str) -> tuple[dict[int, SubtreeRecord], frozenset[str]]:
        return {0: self.record}, frozenset()


def save(store: RecordsStore, tmp_path: Path) -> list[Any]:
    """What the driver closes, when it owns the subtree under epoch 5 and host 0 comes up."""

    async def run() -> list[Any]:
        context = DriverContext(cast("Any", store), "worker", OURS, tmp_path, cast("Any", None))
        driver = MeshDriver(context, "m1", SliceSettings())
        driver.state.table.epochs[0] = 5
        closed: list[Any] = []
        cast("Any", driver.state).close_subtrees = lambda roots, kill: closed.extend(roots) or []
        await driver._save_up(0, 1)
        return closed

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("incarnation", "epoch", "saved", "closed"),
    [(OURS, 5, ["0"], []), (OURS, 6, ["0"], []), (THEIRS, 6, [], [0])],
    ids=["as known", "grown meanwhile", "taken over"],
)
def test_a_subtree_is_let_go_only_when_another_owns_it(
    incarnation: str, epoch: int, saved: list[str], closed: list[int], tmp_path: Path
) -> None:
    """Growing draws a new epoch a moment before the owner hears of it: its links must stand."""
    store = RecordsStore(incarnation, epoch)
    assert save(store, tmp_path) == closed
    assert store.saved == saved

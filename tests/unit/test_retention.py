"""Which runs go, and that only removed ones lose their files."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_worker import retention
from plush_worker.retention import Retention, plan_removal
from plush_worker.store.runs import KeptRun

NOW_S = 1_000_000.0


def run(run_id: str, age_s: float = 0, size: int = 0, keep_s: int = 100, *, goes_on: bool = False) -> KeptRun:
    return KeptRun(run_id, 0 if goes_on else NOW_S - age_s, keep_s, size, has_blobs=False)


def going(*runs: KeptRun, limit: int = 0) -> list[str]:
    return list(plan_removal(runs, NOW_S, limit))


def test_a_run_goes_when_its_time_is_over_and_not_before() -> None:
    assert going(run("old", 101), run("young", 99), run("for-ever", 10_000, keep_s=0)) == ["old"]


def test_a_run_that_goes_on_is_never_removed() -> None:
    assert going(run("long", size=5000, goes_on=True), limit=10) == []


def test_the_oldest_go_first_until_the_rest_is_within_the_limit() -> None:
    runs = [run("c", 10, 400), run("a", 30, 400), run("b", 20, 400), run("none", 40)]
    assert going(*runs, limit=800) == ["a"], "not the oldest, or one that frees nothing"
    assert going(*runs, limit=1200) == []
    assert going(*runs, limit=0) == [], "0 is no limit"


def test_what_goes_by_age_does_not_count_for_the_limit() -> None:
    assert going(run("old", 200, 1000), run("young", 1, 500), limit=500) == ["old"]


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 50), st.booleans()), max_size=20), st.integers(1, 200))
def test_no_more_goes_than_has_to(runs: list[tuple[int, int, bool]], limit: int) -> None:
    every = [run(str(n), age, size, goes_on=on) for n, (age, size, on) in enumerate(runs)]
    gone = plan_removal(every, NOW_S, limit)
    kept = [r for r in every if r.finished_s and r.run_id not in gone]
    assert sum(r.output_bytes for r in kept) <= limit
    by_size = [r for r in every if r.run_id in gone and NOW_S - r.finished_s <= r.keep_s]
    if by_size:
        last = max(reversed(by_size), key=lambda r: r.finished_s)  # of those that ended at once the one listed last
        assert sum(r.output_bytes for r in kept) + last.output_bytes > limit, "the last one went without need"


class FakeStore:
    """Knows three runs and remembers one removed."""

    def __init__(self) -> None:
        self.removed = ["gone"]
        self.blobs = {"kept": ["a" * 64]}

    async def removed_among(self, run_ids: list[str]) -> list[str]:
        return [run_id for run_id in run_ids if run_id in self.removed]

    async def kept_runs(self) -> list[KeptRun]:
        return [KeptRun("kept", 0, 100, 0, has_blobs=True), run("old", 101)]

    async def run_blobs(self, run_id: str) -> list[str]:
        return self.blobs[run_id]

    async def remove_run(self, run_id: str) -> bool:
        self.removed.append(run_id)
        return True


@pytest.fixture
def worker(tmp_path: Path) -> Any:
    for name in ("gone", "kept", "unknown", "old"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "segment").write_text("x")
    settings = SimpleNamespace(state_dir=tmp_path, output_limit_bytes=1 << 30)
    return SimpleNamespace(store=FakeStore(), settings=settings)


def test_files_of_removed_runs_go_and_those_of_unknown_ones_stay(worker: Any, tmp_path: Path) -> None:
    """A store that lost its data knows no run: that must not cost the output."""
    asyncio.run(Retention(worker).remove_files())
    assert sorted(os.listdir(tmp_path / "runs")) == ["kept", "old", "unknown"]


def test_old_runs_are_removed_with_their_files_in_one_look_by_the_one_who_leads(
    worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(time, "time", lambda: NOW_S)
    asyncio.run(Retention(worker).look(leads=False))
    assert "old" in os.listdir(tmp_path / "runs"), "removed by a worker that doesn't lead"
    asyncio.run(Retention(worker).look(leads=True))
    assert sorted(os.listdir(tmp_path / "runs")) == ["kept", "unknown"]


def test_it_looks_once_in_a_while_only(worker: Any, tmp_path: Path) -> None:
    asyncio.run(Retention(worker).look(leads=True))
    assert "gone" in os.listdir(tmp_path / "runs"), "looked at once, as at every renewal of the lease"


def test_contents_that_a_run_needs_stay(worker: Any, tmp_path: Path) -> None:
    for digest in ("a" * 64, "b" * 64):
        path = tmp_path / "blobs" / digest[:2] / digest
        path.parent.mkdir(parents=True)
        path.write_text("x")
        os.utime(path, (1, 1))
    asyncio.run(Retention(worker).prune_blobs(unused_s=60))
    assert [path.name for path in (tmp_path / "blobs").glob("*/*")] == ["a" * 64]


def test_a_worker_without_any_output_has_nothing_to_remove(worker: Any, tmp_path: Path) -> None:
    worker.settings.state_dir = tmp_path / "new"
    asyncio.run(Retention(worker).remove_files())

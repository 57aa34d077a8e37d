"""Between a worker's store and Flower: sees what the worker reads and reports, and tells how its tasks get on.

``WatchedStore`` is the store of a worker; ``TaskReports`` performs what ``subtree_tasks.py`` says, by the publisher.
Both belong to the mesh thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plush_worker.errors import PlushError
from plush_worker.model import OpRecord, SubtreeRecord
from plush_worker.store import Store
from plush_worker.subtree_tasks import Ended, Progressed, SubtreeTasks, Telling

if TYPE_CHECKING:
    from plush_worker.publisher import Publisher

logger = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.5  # and not before a task is so old: most are over by then


@dataclass(slots=True)
class _Shown:
    name: str
    arguments: Mapping[str, Any]
    began_s: float
    told_s: float


class TaskReports:
    """The tasks of one worker that have been handed over to its mesh thread."""

    def __init__(self, publisher: Publisher, incarnation: Callable[[], str]) -> None:
        self._publisher = publisher
        self._incarnation = incarnation
        self._state = SubtreeTasks()
        self._shown: dict[str, _Shown] = {}

    async def follow(
        self, task_id: str, name: str, arguments: Mapping[str, Any], action: Coroutine[Any, Any, dict[str, Any]]
    ) -> dict[str, Any] | None:
        """Does ``action``, the wake-up's own; its answer, or None when the task goes on and is finished from here."""
        state, now_s = self._state, time.monotonic()
        run_id, what, mesh = (str(arguments[key]) for key in ("run_id", "what", "mesh"))
        state.take(task_id, run_id, what, mesh, str(arguments.get("roots", "")))
        self._shown[task_id] = _Shown(name, dict(arguments), now_s, now_s)
        try:
            answer = await action
        except BaseException:
            self._forget(task_id)
            raise
        if task_id not in self._shown:
            return None  # it was over at once
        if state.waits(task_id) or answer.get("ops") == "later":
            return None
        self._forget(task_id)
        return answer

    def perform(self, tellings: Iterable[Telling]) -> None:
        """Tells Flower, if the publisher takes it."""
        try:
            for telling in tellings:
                self._perform(telling)
        except PlushError as error:
            logger.warning("how tasks get on can't be shown: %s", error)

    # ---- what the store sees

    def subtrees_read(self, mesh: str, records: Iterable[SubtreeRecord]) -> None:
        """Some may be this worker's."""
        incarnation = self._incarnation()
        self._state.own(mesh, (record for record in records if record.incarnation == incarnation))

    def run_read(self, run_id: str, fields: Mapping[str, str]) -> None:
        """A run's fields."""
        self.perform(self._state.run_read(run_id, fields))

    def ops_read(self, run_id: str, records: Sequence[OpRecord]) -> None:
        """A run's ops."""
        self._state.ops_read(run_id, records)

    def reported(self, run_id: str, events: Iterable[Mapping[str, Any]]) -> None:
        """Events that this worker appended to a run's stream."""
        self.perform(self._state.reported(run_id, events))

    # ---- inside

    def _forget(self, task_id: str) -> None:
        self._state.drop(task_id)
        self._shown.pop(task_id, None)

    def _perform(self, telling: Telling) -> None:
        shown = self._shown.get(telling.task_id)
        if shown is None:
            return
        now_s = time.monotonic()
        match telling:
            case Progressed(task_id, text):
                if now_s - shown.told_s >= PROGRESS_EVERY_S:
                    shown.told_s = now_s
                    self._publisher.progress(task_id, text)
            case Ended(task_id, result, failure):
                del self._shown[task_id]
                runtime_s = now_s - shown.began_s
                if failure:
                    self._publisher.fail(task_id, failure, runtime_s, shown.name, shown.arguments)
                else:
                    self._publisher.succeed(task_id, result, runtime_s, shown.name, shown.arguments)


class WatchedStore(Store):
    """A Store that tells ``reports`` what goes through it."""

    reports: TaskReports | None = None

    async def append_worker(
        self,
        run_id: str,
        mesh: str,
        event: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        held: Mapping[int, int] | None = None,
    ) -> str:
        """See Store."""
        found = await super().append_worker(run_id, mesh, event, held)
        if self.reports is not None:
            self.reports.reported(run_id, [event] if isinstance(event, Mapping) else event)
        return found

    async def commit_output(
        self,
        run_id: str,
        segment: str,
        length_bytes: int,
        incarnation: str,
        events: Sequence[Mapping[str, Any]] = (),
    ) -> int:
        """See Store."""
        found = await super().commit_output(run_id, segment, length_bytes, incarnation, events)
        if self.reports is not None:
            self.reports.reported(run_id, events)
        return found

    async def run_fields(self, run_id: str) -> dict[str, str]:
        """See Store."""
        found = await super().run_fields(run_id)
        if self.reports is not None:
            self.reports.run_read(run_id, found)
        return found

    async def ops(self, run_id: str) -> list[OpRecord]:
        """See Store."""
        found = await super().ops(run_id)
        if self.reports is not None:
            self.reports.ops_read(run_id, found)
        return found

    async def subtrees(self, mesh: str) -> tuple[dict[int, SubtreeRecord], frozenset[str]]:
        """See Store."""
        found, alive = await super().subtrees(mesh)
        if self.reports is not None:
            self.reports.subtrees_read(mesh, found.values())
        return found, alive

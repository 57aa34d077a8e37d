"""Everything that a worker sends through Celery, from a thread of its own: tasks, events for Flower, results.

A blocking broker must never block the mesh thread, so callers only queue. Order is kept; progress of one task is
coalesced to its latest text, so that its queue is bounded by the number of tasks. While the broker is away the head of
the queue is tried again; what has waited longer than ``PATIENCE_S``, or can't be sent at all, is logged and dropped:
no promise rests on it, the run's own stream in the store does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery.app.task import Context
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from plush_worker.errors import PublisherOverloaded, RunFailed, WorkerStopping
from plush_worker.task_names import COORDINATE, shown_arguments, shown_name

if TYPE_CHECKING:
    from celery import Celery

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
PATIENCE_S = 60.0
PAUSES_S = (0.05, 0.2, 0.5, 1.0, 2.0)  # between tries; the last is repeated
_RETRIED = (OperationalError, RedisConnectionError, RedisTimeoutError, OSError)


class Publisher:
    """Thread-safe; ``start`` it, then queue. ``stop`` sends what is left, within a bound."""

    def __init__(self, app: Celery, hostname: str) -> None:
        self._app = app
        self._hostname = hostname
        self._waiting: deque[_Message] = deque()
        self._progress: dict[str, _Message] = {}  # task id -> its queued progress
        self._changed = threading.Condition()
        self._stopping = False
        self._give_up_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._dispatcher: Any = None
        self.dropped_count = 0

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Send what waits, for at most ``timeout_s``, and end the thread; nothing is taken on any more."""
        with self._changed:
            self._stopping = True
            self._give_up_at = time.monotonic() + timeout_s
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s + 1.0)

    def send_task(self, name: str, kwargs: dict[str, Any], queue: str, task_id: str | None = None) -> None:
        """Queue a task. Raises PublisherOverloaded or WorkerStopping; never blocks.

        A wake-up for a run goes under the name for what it is about, and as a child of the run's task.
        """
        shown, run_id = shown_name(name, kwargs), None if name == COORDINATE else kwargs.get("run_id")
        options: dict[str, Any] = {"root_id": run_id, "parent_id": run_id} if run_id else {}
        if (arguments := shown_arguments(kwargs)) is not None:
            options["kwargsrepr"] = arguments

        def send() -> None:
            self._app.send_task(shown, kwargs=kwargs, queue=queue, task_id=task_id, retry=False, **options)

        self._put(_Message(f"task {shown} for {queue}", send))

    def progress(self, task_id: str, text: str) -> None:
        """Flower shows the task in state PROGRESS with ``text``; an earlier text still waiting is replaced."""
        message = _Message(f"progress of {task_id}", lambda: self._send_event("task-progress", task_id, result=text))
        with self._changed:
            waiting = self._progress.get(task_id)
            if waiting is not None:
                waiting.send = message.send
                return
        message.progress_of = task_id
        self._put(message)

    def succeed(
        self,
        task_id: str,
        result: dict[str, Any],
        runtime_s: float,
        name: str = COORDINATE,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Store the result of ``task_id`` and tell Flower: SUCCESS. ``kwargs`` are the task's; a run's by default."""
        request = _request(task_id, name, kwargs)

        def send() -> None:
            self._app.backend.store_result(task_id, result, "SUCCESS", request=request)
            self._send_event("task-succeeded", task_id, result=repr(result), runtime=runtime_s)

        self._finish(_Message(f"success of {task_id}", send), task_id)

    def fail(
        self,
        task_id: str,
        error: str,
        runtime_s: float,
        name: str = COORDINATE,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Store the failure of ``task_id`` and tell Flower: FAILURE. ``kwargs`` as for ``succeed``."""
        request = _request(task_id, name, kwargs)

        def send() -> None:
            self._app.backend.store_result(task_id, RunFailed(error), "FAILURE", request=request)
            self._send_event("task-failed", task_id, exception=error, traceback="", runtime=runtime_s)

        self._finish(_Message(f"failure of {task_id}", send), task_id)

    def _finish(self, message: _Message, task_id: str) -> None:
        # Flower would show a late progress event over the result.
        with self._changed:
            waiting = self._progress.pop(task_id, None)
            if waiting is not None:
                waiting.send = _nothing
        self._put(message)

    def _put(self, message: _Message) -> None:
        with self._changed:
            if self._stopping:
                raise WorkerStopping(f"{message.what}: this worker is stopping and sends nothing more")
            if len(self._waiting) >= MAX_WAITING:
                raise PublisherOverloaded(f"{message.what}: {MAX_WAITING} messages wait for the broker already")
            if message.progress_of:
                self._progress[message.progress_of] = message
            self._waiting.append(message)
            self._changed.notify()

    def _run(self) -> None:
        connection = self._app.connection_for_write()
        self._dispatcher = self._app.events.Dispatcher(connection, hostname=self._hostname, buffer_while_offline=False)
        try:
            self._warm_up()
            while (message := self._take()) is not None:
                self._deliver(message)
        finally:
            self._dispatcher.close()
            connection.release()

    def _warm_up(self) -> None:
        """Connect before the first task waits for it."""
        try:
            with self._app.amqp.producer_pool.acquire(block=True) as producer:
                producer.channel.client.ping()
        except _RETRIED as error:
            log.info("the broker isn't there yet: %s", error)

    def _take(self) -> _Message | None:
        with self._changed:
            while not self._waiting:
                if self._stopping:
                    return None
                self._changed.wait()
            message = self._waiting.popleft()
            if self._progress.get(message.progress_of) is message:
                del self._progress[message.progress_of]
            return message

    def _deliver(self, message: _Message) -> None:
        give_up_at = time.monotonic() + PATIENCE_S
        tries = 0
        while True:
            try:
                message.send()
            except _RETRIED as error:
                if not self._pause(PAUSES_S[min(tries, len(PAUSES_S) - 1)], give_up_at):
                    self._drop(message, f"the broker didn't take it in {tries + 1} tries: {error}")
                    return
                if tries == 0:
                    log.warning("%s: %s; trying again", message.what, error)
                tries += 1
            except Exception:
                log.exception("%s could not be sent", message.what)  # ours; the rest of the queue must go on
                self._drop(message, "see the traceback above")
                return
            else:
                return

    def _pause(self, pause_s: float, give_up_at: float) -> bool:
        """Wait before the next try; False when there shall be none."""
        with self._changed:
            if self._give_up_at is not None:
                give_up_at = min(give_up_at, self._give_up_at)
            if time.monotonic() + pause_s >= give_up_at:
                return False
            # Not woken by new messages, which come all the time; a stop shortens it only by its bound.
        time.sleep(pause_s)
        return True

    def _drop(self, message: _Message, why: str) -> None:
        self.dropped_count += 1
        log.error("%s dropped: %s", message.what, why)

    def _send_event(self, kind: str, task_id: str, **fields: Any) -> None:
        self._dispatcher.send(kind, uuid=task_id, **fields)


class _Message:
    """One thing to send: what it is, for the log, and how."""

    __slots__ = ("progress_of", "send", "what")

    def __init__(self, what: str, send: Callable[[], None]) -> None:
        self.what = what
        self.send = send
        self.progress_of = ""


def _nothing() -> None:
    """In place of a progress that a result has overtaken."""


def _request(task_id: str, name: str, kwargs: Mapping[str, Any] | None) -> Context:
    """What ``result_extended`` stores beside the result: the same as the task itself would have."""
    given = {"run_id": task_id} if kwargs is None else dict(kwargs)
    return Context(id=task_id, task=name, args=[], kwargs=given, delivery_info={})

"""A worker process from its first instruction to its exit code: ``run`` (in-process) and ``main`` (as a part).

As a part of a stack (``python -m plush_worker.worker_process``) it gets its settings from the environment, and two
descriptors: PLUSH_READY_FD, on which it says that it takes tasks, and PLUSH_LIFELINE_FD, a pipe whose other end only
the owning command holds. At its end of file the owner is dead: the runtime stops and the process exits, within
``LIFELINE_BOUND_S``. Imports at the top are light, so that the lifeline is watched from the beginning.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from plush_worker.errors import PlushError, ServiceUnavailable

if TYPE_CHECKING:
    from plush_worker.celery_app import PlushApp
    from plush_worker.config import Settings
    from plush_worker.runtime import PartsFactory

log = logging.getLogger(__name__)

LIFELINE_BOUND_S = 4.0
READY_FD = "PLUSH_READY_FD"
LIFELINE_FD = "PLUSH_LIFELINE_FD"
LOG_FILE = "PLUSH_LOG_FILE"
EPHEMERAL = "PLUSH_EPHEMERAL"  # the worker of one command: nobody looks at its heartbeats
SERVER_WAIT_S = 10.0
_SERVER_POLL_S = 0.01


def main(factory: PartsFactory | None = None) -> int:
    """Be a part of a stack. Returns the exit code; ``factory`` as in ``create_app``."""
    lifeline = _Lifeline.from_environment()
    try:
        from plush_worker.config import load_settings
        from plush_worker.logs import configure_logging

        settings = load_settings()
        configure_logging(logging.INFO, os.environ.get(LOG_FILE), settings.log_format)
        return run(
            settings,
            factory=factory,
            lifeline=lifeline,
            ready_fd=_descriptor(READY_FD),
            heartbeat=not os.environ.get(EPHEMERAL),
            server_wait_s=SERVER_WAIT_S,
        )
    except PlushError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def run(
    settings: Settings,
    *,
    factory: PartsFactory | None = None,
    lifeline: _Lifeline | None = None,
    ready_fd: int | None = None,
    announce: Callable[[str], None] = lambda _text: None,
    heartbeat: bool = True,
    server_wait_s: float = 0.0,
) -> int:
    """Run a worker until a signal ends it. Returns the exit code.

    Logging is the caller's (``configure_logging``); ``announce`` gets one line when the worker takes tasks. Raises
    StoreUnavailable when Redis isn't there within ``server_wait_s``, and whatever else keeps it from starting.
    """
    from celery.platforms import SecurityWarning

    from plush_worker.celery_app import create_app
    from plush_worker.store.address import parse_url

    # Plush runs as whoever starts it, root included, and takes nothing but JSON.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app = create_app(settings, factory)
    if lifeline is not None:
        lifeline.app = app
    wait_for_server(settings.redis_url, server_wait_s)
    worker = _make_worker(app, settings, heartbeat)
    ready = _on_ready(
        ready_fd, announce, f"worker {settings.worker_name} takes tasks from {parse_url(settings.redis_url)}"
    )
    try:
        worker.start()
    finally:
        _forget_on_ready(ready)
        if app.runtime is not None:  # Celery leaves its steps as they are when the start of one fails
            app.runtime.stop()
    if app.error is not None:
        raise app.error
    return int(worker.exitcode or 0)


def wait_for_server(url: str, wait_s: float) -> None:
    """Return once the Redis server at ``url`` answers. Raises StoreUnavailable after ``wait_s``."""
    from plush_worker.store.address import parse_url
    from plush_worker.store.wire import Wire

    address = parse_url(url)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            with Wire(address) as wire:
                reply = wire.call("PING")
            if reply == b"PONG":
                return
            raise ServiceUnavailable(f"the Redis server at {address} refuses us: {reply}")
        except ServiceUnavailable:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_SERVER_POLL_S)


def _make_worker(app: PlushApp, settings: Settings, heartbeat: bool) -> Any:
    from plush_worker.config import RUN_QUEUE

    return app.Worker(
        hostname=f"{settings.worker_name}@{os.uname().nodename}",
        pool="threads",
        concurrency=settings.concurrency,
        queues=[RUN_QUEUE, settings.worker_queue],
        task_events=True,
        without_mingle=True,  # a second at the start, to learn of revokes that nothing here rests on
        without_gossip=True,
        without_heartbeat=not heartbeat,  # Flower calls a worker without heartbeats offline after two minutes
        loglevel=logging.getLogger().level,
        quiet=True,
    )


def _on_ready(ready_fd: int | None, announce: Callable[[str], None], text: str) -> Any:
    from celery.signals import worker_ready

    def tell(**_: Any) -> None:
        # Celery restarts itself on SIGHUP, by an argv that isn't one of its own.
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
        announce(text)
        if ready_fd is not None:
            os.write(ready_fd, b"ready\n")
            os.close(ready_fd)

    worker_ready.connect(tell, weak=False)
    return tell


def _forget_on_ready(tell: Any) -> None:
    from celery.signals import worker_ready

    worker_ready.disconnect(tell)


class _Lifeline:
    """A thread that ends this process when the owner of the pipe's other end is gone."""

    def __init__(self, descriptor: int) -> None:
        self.app: PlushApp | None = None
        self._descriptor = descriptor
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    @classmethod
    def from_environment(cls) -> _Lifeline | None:
        """The lifeline that PLUSH_LIFELINE_FD names, if any."""
        descriptor = _descriptor(LIFELINE_FD)
        return None if descriptor is None else cls(descriptor)

    def _watch(self) -> None:
        while os.read(self._descriptor, 4096):
            pass
        bound = threading.Timer(LIFELINE_BOUND_S, os._exit, (1,))
        bound.daemon = True
        bound.start()
        runtime = self.app.runtime if self.app is not None else None
        if runtime is not None:
            log.info("the command that owns this worker has ended")
            runtime.stop(LIFELINE_BOUND_S - 1.0)
        # Not Celery's shutdown: its queues and results die with the server a moment later.
        os._exit(0)


def _descriptor(variable: str) -> int | None:
    value = os.environ.pop(variable, "")
    if not value:
        return None
    descriptor = int(value)
    os.set_inheritable(descriptor, False)  # the ssh processes of this worker must not hold it
    return descriptor


if __name__ == "__main__":
    sys.exit(main())

"""The place of the runtime in Celery's Worker: started before the pool, stopped after it.

A Worker bootstep, because consumer bootsteps restart at each broker reconnect and links must outlive those. Celery
sorts its steps by ``requires``: importing this module adds the step to those of the pool.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.worker.components import Hub, Pool

from plush_worker.errors import PlushError

if TYPE_CHECKING:
    from plush_worker.runtime import WorkerRuntime

log = logging.getLogger(__name__)


class MeshStep(bootsteps.StartStopStep):
    """Starts and stops the WorkerRuntime of a PlushApp's worker."""

    requires = (Hub,)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._runtime: WorkerRuntime | None = None
        self._wakeup: tuple[int, int] | None = None

    def start(self, parent: Any) -> None:
        """Bring the mesh thread up; what keeps it from that ends the worker, and is left in ``app.error``."""
        from plush_worker.runtime import WorkerRuntime

        self._wakeup = _wake_on_signals()
        runtime = WorkerRuntime(parent.app, parent.hostname)
        parent.app.runtime = self._runtime = runtime
        try:
            runtime.start()
        except PlushError as error:
            runtime.stop()
            parent.app.error = error
            raise SystemExit(error.exit_code) from error  # Celery would log a traceback for anything else
        except BaseException:
            runtime.stop()
            raise

    def close(self, parent: Any) -> None:
        """Called before any step is stopped: pool threads that wait for the mesh thread must not keep the pool."""
        if self._runtime is not None:
            self._runtime.close()

    def stop(self, parent: Any) -> None:
        """Stop the mesh thread; the pool is stopped already."""
        if self._runtime is not None:
            self._runtime.stop()
        parent.app.runtime = None
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            for descriptor in self._wakeup:
                os.close(descriptor)
            self._wakeup = None

    terminate = stop

    def register_with_event_loop(self, parent: Any, hub: Any) -> None:
        """Called at each (re)start of the consumer, whose hub forgets its readers on errors."""
        if self._wakeup is not None:
            hub.add_reader(self._wakeup[0], _drain, self._wakeup[0])


def _wake_on_signals() -> tuple[int, int]:
    # The hub looks at Celery's should_stop only between polls, and poll goes on after a signal (PEP 475): without
    # this SIGTERM takes effect at the next timer or answer of the broker, up to a second later.
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    return read_end, write_end


def _drain(descriptor: int) -> None:
    try:
        os.read(descriptor, 4096)
    except BlockingIOError:
        pass


# The pool waits for us; see the module's docstring.
if MeshStep not in Pool.requires:
    Pool.requires = (*Pool.requires, MeshStep)

"""What the command does besides following its run: it renews the client lease, and asks for the run's end.

A thread with a connection of its own does both, because the main thread may stand still for long: waiting for events,
or for whoever reads our standard output (``plush run ... | less``). Signal handlers only put requests on its queue.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Self

from plush_worker.errors import PlushError

if TYPE_CHECKING:
    from plush_api.client import Client

LEASE_S = 60
RENEW_EVERY_S = 15.0
FIRST_RENEWAL_S = 1.0  # most commands end before, and need no second connection
RETRY_EVERY_S = 1.0
GRACE_MS = 5000  # between the first Ctrl-C and SIGKILL on the hosts
NOT_STARTED_WAIT_S = 2.0  # for an answer to a stop, when no coordinator has taken the run
STOP_WAIT_S = 35.0  # ... when one has: grace, links that break meanwhile, and some patience
STOP_NOW_WAIT_S = 10.0  # ... after the second Ctrl-C
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Abandoned(BaseException):
    """The third Ctrl-C: leave at once, whatever the run does. Not an Exception: nothing on the way may take it."""


class RunControl:
    """Stands beside one run from its submission to its end. Use as a context manager, in the main thread."""

    def __init__(
        self, connect: Callable[[], Client], run_id: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.interrupted_by = 0  # the first signal that asked for the end
        self.trouble = ""  # why the end could not be asked for, last attempt
        self._connect = connect
        self._run_id = run_id
        self._clock = clock
        self._presses = 0
        self._leave_at = 0.0
        self._requests: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="run-control", daemon=True)
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in _STOPPING:
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:  # ignored by nohup: so be it
                self._handlers[number] = signal.signal(number, self._on_signal)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._requests.put(None)
        self._thread.join(timeout=1)

    def stop(self, number: int) -> None:
        """Ask for the run's end as if the signal had come; a second call asks for it at once."""
        self._presses += 1
        if self._presses > 2:
            raise Abandoned
        self.interrupted_by = self.interrupted_by or number
        if self._presses == 1:
            wanted = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
            self._requests.put((wanted, GRACE_MS))
            self._leave_at = self._clock() + STOP_WAIT_S
        else:
            self._requests.put((signal.SIGKILL, 0))
            self._leave_at = self._clock() + STOP_NOW_WAIT_S

    def should_leave(self, *, coordinated: bool) -> bool:
        """Whether the end was asked for and has been waited for long enough."""
        if not self.interrupted_by:
            return False
        patience_s = 0.0 if coordinated else STOP_WAIT_S - NOT_STARTED_WAIT_S
        return self._clock() >= self._leave_at - patience_s

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.stop(number)
        text = (
            "stopping the run on all hosts (Ctrl-C again: at once)" if self._presses == 1 else
            "killing the run on all hosts at once (Ctrl-C again: leave without waiting)"
        )  # fmt: skip
        try:
            os.write(2, f"\nplush: {text}\n".encode())  # not the console: it may be in the middle of a line
        except OSError:
            pass  # the terminal is gone; that is why we are told to stop

    def _work(self) -> None:
        """The thread: requests as they come, the lease in between; what fails is tried again."""
        client = self._connect()
        pending: tuple[int, int] | None = None
        wait_s = FIRST_RENEWAL_S
        while True:
            try:
                request = self._requests.get(timeout=wait_s)
                if request is None:
                    break
                pending = request
            except queue.Empty:
                pass
            try:
                if pending:
                    client.kill(self._run_id, pending[0], pending[1], "plush run")
                    pending, self.trouble = None, ""
                client.renew(self._run_id, LEASE_S)
                wait_s = RENEW_EVERY_S
            except PlushError as error:
                self.trouble = str(error)
                wait_s = RETRY_EVERY_S
        client.close()

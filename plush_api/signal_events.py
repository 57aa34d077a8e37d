"""Signals as something to wait for with ``poll``, for a process that minds others."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def signals_as_events() -> Iterator[tuple[int, list[int]]]:
    """A descriptor that becomes readable at SIGCHLD and at the signals to end, and the list of the latter's numbers.

    For the main thread only; what was set before is set again afterwards.
    """
    asked: list[int] = []
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)

    def note(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            asked.append(number)

    numbers = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    try:
        yield read_end, asked
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read_end)
        os.close(write_end)


def drain(descriptor: int) -> None:
    """Empty the descriptor of ``signals_as_events``."""
    try:
        os.read(descriptor, 4096)
    except BlockingIOError:
        pass

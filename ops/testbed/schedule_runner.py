"""Performs a schedule of faults against a testbed while a command runs on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .control import ControlClient
from .errors import TestbedError
from .faults import Timed


class ScheduleRunner(threading.Thread):
    """Started with the command and stopped at its end; ``done`` is what happened, in order."""

    def __init__(self, schedule: Sequence[Timed], control: Path, say: Callable[[str], None]) -> None:
        super().__init__(name="fault schedule", daemon=True)
        self.done: list[dict[str, Any]] = []  # at_s as it was, the request, and the error if there was one
        self._schedule = schedule
        self._client = ControlClient.connect(control)
        self._say = say
        self._stopped = threading.Event()

    def run(self) -> None:
        """Thread body."""
        began = time.monotonic()
        for due_s, fault in self._schedule:
            if self._stopped.wait(max(0.0, began + due_s - time.monotonic())):
                return
            record: dict[str, Any] = {"at_s": round(time.monotonic() - began, 3), **fault.request()}
            try:
                self._client.ask(fault.request())
            except TestbedError as error:
                record["error"] = str(error)
                self._say(f"fault due at {due_s:g} s: {error}")
            self.done.append(record)

    def stop(self) -> None:
        """No further fault; returns when none is under way."""
        self._stopped.set()
        if self.is_alive():
            self.join()
        self._client.close()

"""A tool in the foreground of a terminal, and how a person ends it. For the inner half of a scenario."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

POLL_S = 0.02


class Foreground:
    """A command that runs; its output is read, counted and thrown away."""

    def __init__(self, running: subprocess.Popen[bytes]) -> None:
        self.running = running
        self.bytes_read = 0
        self.lines_read = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.running.stdout is not None
        while data := os.read(self.running.stdout.fileno(), 1 << 18):
            self.bytes_read += len(data)
            self.lines_read += data.count(b"\n")

    def ctrl_c(self) -> None:
        """What the terminal does: SIGINT to the whole foreground group; nothing when all of it has ended."""
        try:
            os.killpg(self.running.pid, signal.SIGINT)
        except ProcessLookupError:
            return

    def wait(self, limit_s: float) -> bool:
        """Whether the tool has ended within the limit."""
        try:
            self.running.wait(limit_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """End what is left of the group, and the reading."""
        try:
            os.killpg(self.running.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it ended by itself
        self.running.wait()
        self._reader.join()
        assert self.running.stdout is not None
        self.running.stdout.close()


@contextmanager
def foreground(argv: Sequence[str], environ: Mapping[str, str], standard_input: str = "") -> Iterator[Foreground]:
    """Start it in a group of its own; at the end of the block all of the group is killed."""
    with tempfile.TemporaryFile() as given:
        given.write(standard_input.encode())
        given.seek(0)
        running = subprocess.Popen(
            argv, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(environ),
            start_new_session=True,
        )  # fmt: skip
    held = Foreground(running)
    try:
        yield held
    finally:
        held.close()


def wait_for(condition: Callable[[], bool], limit_s: float) -> bool:
    """Poll until it holds; False at the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True

"""A service for one command: a Redis server on a private Unix socket and workers, brought up and taken down with it.

``EmbeddedStack`` is the command's side; the processes belong to a guard (``guard.py``), which ends them within 5 s of
this command's end, however it ends, and removes what they wrote. Light imports: this is on the way of ``plush run``.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Self

from plush_worker.errors import PartFailed

GUARD_MODULE = "plush_api.guard"
SERVER_TIMEOUT_S = 10.0
READY_TIMEOUT_S = 20.0
CLOSE_TIMEOUT_S = 6.0


class EmbeddedStack:
    """Context manager. On entering, the server answers and ``redis_url`` is known; workers come up meanwhile.

    A run may be submitted at once: it waits in the queue for the first worker. ``failure`` is to be asked while
    waiting for events; ``wait_ready`` is for those who want all workers first. Not for several threads at once.
    """

    def __init__(self, workers: int = 1, worker_arguments: tuple[str, ...] = ()) -> None:
        """``worker_arguments`` replace the worker's program behind the interpreter's name (tests)."""
        self._order = {"workers": workers, "worker_arguments": worker_arguments}
        self._guard: subprocess.Popen[bytes] | None = None
        self._heard = b""
        self._failure: str | None = None
        self._ready: list[str] = []
        self.redis_url = ""
        self.state_dir = ""

    def __enter__(self) -> Self:
        self._guard = subprocess.Popen(
            (sys.executable, "-P", "-m", GUARD_MODULE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is for the command, which then decides
        )
        assert self._guard.stdin is not None
        try:
            self._guard.stdin.write(json.dumps(self._order).encode() + b"\n")
            self._guard.stdin.flush()
            self._wait(SERVER_TIMEOUT_S, "the Redis server of the embedded stack", lambda: bool(self.redis_url))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once every worker takes tasks. Raises PartFailed."""
        self._wait(timeout_s, "the workers of the embedded stack", lambda: len(self._ready) == self._order["workers"])

    def failure(self) -> str | None:
        """Why the stack has ended or is about to, or None while it is well. Doesn't wait."""
        self._hear(0.0)
        return self._failure

    def close(self) -> None:
        """End all parts and remove what they wrote. Idempotent; at most ``CLOSE_TIMEOUT_S``."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        assert guard.stdin is not None and guard.stdout is not None
        try:
            guard.stdin.close()
        except BrokenPipeError:
            pass  # it is gone already
        try:
            guard.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            guard.kill()  # parts end by their lifelines and parent-death signals
            guard.wait()
        guard.stdout.close()

    def _wait(self, timeout_s: float, what: str, done: Any) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if self._failure is not None:
                raise PartFailed(f"the embedded stack could not be started: {self._failure}")
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise PartFailed(f"{what} didn't come up within {timeout_s:g} s")
            self._hear(left_s)

    def _hear(self, timeout_s: float) -> None:
        if self._guard is None or self._failure is not None:
            return
        assert self._guard.stdout is not None
        descriptor = self._guard.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while poll.poll(timeout_s * 1000):
            data = os.read(descriptor, 65536)
            if not data:
                self._failure = "its guard process ended"
                return
            *lines, self._heard = (self._heard + data).split(b"\n")
            for line in lines:
                self._note(json.loads(line))
            timeout_s = 0.0

    def _note(self, message: dict[str, str]) -> None:
        if "server" in message:
            self.redis_url, self.state_dir = message["server"], message["state_dir"]
        if "failed" in message:
            self._failure = message["failed"]
        if message.get("ready", "").startswith("worker "):
            self._ready.append(message["ready"])

"""Ends of child processes, as calls from the loop. Unpacked with the parts that start processes."""

import os
from _signal import SIGCHLD, set_wakeup_fd, signal


def install(loop):
    """Give the loop its on_child_exit(pid, callback), once."""
    if loop.on_child_exit is None:
        loop.on_child_exit = _Exits(loop).add


class _Exits:
    """Waits for known pids only, so that nobody's status is taken away."""

    def __init__(self, loop):
        self._loop = loop
        self._callbacks = {}  # pid -> callback(status)
        self._read_fd, write_fd = os.pipe()
        for fd in (self._read_fd, write_fd):
            os.set_blocking(fd, False)
        set_wakeup_fd(write_fd)
        signal(SIGCHLD, lambda number, frame: None)
        loop.watch(self._read_fd, self._reap)

    def add(self, pid, callback):
        """Call ``callback(status)`` when ``pid`` has ended: a wait status, -1 when somebody else reaped it."""
        self._callbacks[pid] = callback
        self._loop.call_later(0, self._reap)

    def _reap(self):
        try:
            os.read(self._read_fd, 4096)
        except BlockingIOError:
            pass
        for pid in list(self._callbacks):
            try:
                done, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                done, status = pid, -1
            if done:
                self._loop.call_later(0, lambda call=self._callbacks.pop(pid), status=status: call(status))

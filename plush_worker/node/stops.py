"""Ending what an op has started: signal, grace, SIGKILL to every descendant, look again; and how the op then ended.

Of the supervisor's process: all that the op started descends from it, since it is a subreaper.
"""

import os
import time
from _signal import SIGKILL

from . import process

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.002, 1.0  # before looking again for descendants that still live


class Stops:
    """The orders to end one op."""

    def __init__(self, log):
        self.session = None  # the op's, once started
        self.kill_at = None  # monotonic: SIGKILL to all that is left then, and again while something is
        self.terminated = False  # set by a handler of SIGTERM, looked at by the loop
        self._log = log
        self._ordered = {}  # signal -> who ordered it: signal, timeout, ttl
        self._ending = ""  # who ordered that it end
        self._last_signal = 0
        self._pause_s = FIRST_PAUSE_S

    def order(self, number, grace_s, who):
        """Signal ``number`` to the groups of the op's session, or, where ``grace_s`` says how long it may take to end,
        to the groups of all descendants; whatever is left then gets SIGKILL, by kill() when ``kill_at`` comes.
        """
        now = time.monotonic()
        self._ordered[number] = who
        self._last_signal = number
        if number == SIGKILL or (grace_s is not None and not process.children(os.getpid())):
            grace_s = 0
        if grace_s is not None:
            self._ending = who
            self.kill_at = min(self.kill_at or now + grace_s, now + grace_s)
        if self.session is not None and number != SIGKILL:
            process.signal_groups(number, self.session if grace_s is None else None)

    def kill(self, main):
        """SIGKILL to all descendants; True when none is left, else ``kill_at`` is set. ``main``: a pid, or None."""
        left = process.descendants(os.getpid())
        if main in left:
            self._last_signal = SIGKILL
        refused = process.kill_all(left)
        if len(left) > refused:
            self.kill_at = time.monotonic() + self._pause_s
            self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 1.5)
            return False
        if left:
            self._log("not ours to kill: process %s" % ", ".join(map(str, left)))
        self.kill_at = None
        return True

    def verdict(self, status):
        """(state, code, signal, detail) of an op whose main process has ended with wait status ``status``."""
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        if self._ending:
            return "killed", None, self._last_signal, self._ending
        if number in self._ordered:
            return "killed", None, number, self._ordered[number]
        return "exited", os.WEXITSTATUS(status) if number is None else None, number, ""

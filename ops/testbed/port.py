"""A host's device in the forwarder, and since when what is read from it may have waited there.

A device doesn't say when a packet came. But it came after the device was last found empty; and what lies in the device
at some moment is at most ``QUEUE_PACKETS``, so once so many have been read, the next came after that moment.
"""

from __future__ import annotations

import time
from collections import deque

from ops.testbed.tun import QUEUE_PACKETS


class Port:
    """A host's attached device. A host that comes back gets a new Port, so its old packets find this one closed."""

    __slots__ = ("_empty_s", "_mark_s", "_read_count", "_read_s", "fd", "held_until_s", "host", "waiting")

    def __init__(self, host: int, fd: int) -> None:
        self.host = host
        self.fd = fd  # -1: detached
        self.waiting: deque[tuple[float, bytes]] = deque()  # the device was full: (due, packet)
        self.held_until_s = 0.0  # when the last packet is written that waits for the downlink
        self._read_s = 0.0  # when the last read began
        self.found_empty(time.monotonic())

    def waited_s(self, now_s: float, seen_s: float) -> float:
        """A read begins: how long its packets have waited at most. Not read since ``seen_s``: it had nothing then."""
        if self._read_s < seen_s:
            self.found_empty(seen_s)
        self._read_s = now_s
        return now_s - self._empty_s

    def found_empty(self, now_s: float) -> None:
        """Nothing is left to read: whatever comes, comes later."""
        self._empty_s = self._mark_s = now_s
        self._read_count = 0  # since _mark_s

    def found_more(self, read_count: int) -> None:
        """So many were read, and perhaps not all. What the device held at ``_mark_s`` has all been read some day."""
        self._read_count += read_count
        if self._read_count >= QUEUE_PACKETS:
            self._empty_s, self._mark_s, self._read_count = self._mark_s, self._read_s, 0

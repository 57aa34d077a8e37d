"""The standard input of one op on its way to the hosts of one worker: who is how far, and which piece goes next. Pure.

Hosts ask for it and say how far they have read (NEED); each may have STDIN_WINDOW_BYTES beyond that. Hosts that are
equally far are one group and get a piece together, so that it travels each link once; a group waits a moment for those
of its hosts that can't take the next piece yet, then goes on without them. Time is passed in.
"""

from __future__ import annotations

from typing import NamedTuple

from plush_worker.node import hostset
from plush_worker.node.limits import OUTPUT_CUT_BYTES, STDIN_WINDOW_BYTES

PATIENCE_S = 0.5  # for the slower hosts of a group
FIRST_PATIENCE_S = 1.0  # for hosts that haven't asked yet, since the last one that has
SMALL_BYTES = 4 * OUTPUT_CUT_BYTES  # so little isn't worth waiting for others


class Piece(NamedTuple):
    """What is to be sent now: ``length`` bytes at ``offset``, to ``hosts``; with ``end`` nothing comes behind it."""

    hosts: int
    offset: int
    length: int
    end: bool


class StdinFeed:
    """See the module's docstring. All sets are host sets; ``size_bytes`` is the whole standard input."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.asked = 0  # hosts that have asked for it at any time
        self._at: dict[int, int] = {}  # next offset -> hosts
        self._read: dict[int, int] = {}  # how far they have read -> hosts
        self._asked_at_s = 0.0  # when a host asked for the first time
        self._waiting_since_s: dict[tuple[int, int], float] = {}  # (lowest host, offset) of a group that waits
        self.wake_at_s: float | None = None  # when a group that waits goes on

    def need(self, hosts: int, offset: int, again: bool, now_s: float) -> None:
        """A NEED message: read up to ``offset``, with ``again`` to be sent from there; below 0: nothing more."""
        if hosts & ~self.asked:
            self._asked_at_s = now_s
        self.asked |= hosts
        _remove(self._read, hosts)
        if offset < 0 or offset > self.size_bytes:
            _remove(self._at, hosts)
            return
        _add(self._read, offset, hosts)
        if again:
            _remove(self._at, hosts)
            _add(self._at, offset, hosts)

    def drop(self, hosts: int) -> None:
        """These hosts are gone, or their process is; they may ask again."""
        self.asked &= ~hosts
        _remove(self._at, hosts)
        _remove(self._read, hosts)

    def next_piece(self, below: int, expected: int, now_s: float) -> Piece | None:
        """The next piece for hosts among ``below``, which is taken as sent; None: nothing, before ``wake_at_s``.

        ``expected`` are hosts that may still ask for the first time.
        """
        for offset in sorted(self._at):
            group = self._at[offset] & below
            able = group & self._may_have(offset)
            if not able:
                continue
            key = (hostset.lowest(group), offset)
            if self._is_to_wait(key, group ^ able, expected & below & ~self.asked, now_s):
                continue
            self._waiting_since_s.pop(key, None)
            return self._take(able, offset)
        return None

    def _may_have(self, offset: int) -> int:
        """The hosts whose window takes a byte (or the end) at ``offset``."""
        found = 0
        for read, hosts in self._read.items():
            if offset < read + STDIN_WINDOW_BYTES:
                found |= hosts
        return found

    def _is_to_wait(self, key: tuple[int, int], slower: int, late: int, now_s: float) -> bool:
        until_s = 0.0
        if slower:
            until_s = self._waiting_since_s.setdefault(key, now_s) + PATIENCE_S
        if late and key[1] == 0 and self.size_bytes > SMALL_BYTES:
            until_s = max(until_s, self._asked_at_s + FIRST_PATIENCE_S)
        if now_s >= until_s:
            return False
        self.wake_at_s = min(self.wake_at_s or until_s, until_s)
        return True

    def _take(self, hosts: int, offset: int) -> Piece:
        length = min(OUTPUT_CUT_BYTES - offset % OUTPUT_CUT_BYTES, self.size_bytes - offset)
        end = offset + length == self.size_bytes
        _remove(self._at, hosts)
        if not end:
            _add(self._at, offset + length, hosts)
        return Piece(hosts, offset, length, end)

    def check_invariants(self) -> None:
        """Every host at one place, and none that hasn't asked. Raises AssertionError."""
        for groups in (self._at, self._read):
            seen = 0
            for offset, hosts in groups.items():
                assert hosts and not seen & hosts, f"hosts {hostset.to_text(seen & hosts)} twice, or none at {offset}"
                seen |= hosts
            assert not seen & ~self.asked, "a host that hasn't asked"


def _add(groups: dict[int, int], offset: int, hosts: int) -> None:
    groups[offset] = groups.get(offset, 0) | hosts


def _remove(groups: dict[int, int], hosts: int) -> None:
    for offset, group in list(groups.items()):
        if group & hosts:
            groups[offset] = group & ~hosts
            if not groups[offset]:
                del groups[offset]

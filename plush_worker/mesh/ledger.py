"""How far the output of each host has been taken in, kept by groups of hosts instead of host by host.

Pure. A ledger maps offset -> host set: hosts that print the same (the usual case) stay one group, so a frame that
speaks for 489 hosts costs what a frame for one costs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from plush_worker.node import hostset


@dataclass(slots=True)
class StreamLedger:
    """One stream of one op: what has been taken in, and where the stream ended."""

    groups: dict[int, int] = field(default_factory=dict)  # next offset -> hosts; hosts at 0 are not listed
    ended: int = 0  # hosts whose stream is whole

    def advance(self, hosts: int, offset: int, length_bytes: int, end: bool) -> tuple[int, int]:
        """Takes a piece in. Returns (accepted, ahead): hosts whose next piece it is, hosts that miss earlier ones.

        The rest of ``hosts`` have it already, or a part of it (``partly_known``).
        """
        accepted = self._at(offset) & hosts & ~self.ended
        behind_or_here = accepted
        for known, group in self.groups.items():
            if known > offset:
                behind_or_here |= group
        ahead = hosts & ~behind_or_here & ~self.ended
        if accepted:
            self._move(accepted, offset, offset + length_bytes)
            if end:
                self.ended |= accepted
        return accepted, ahead

    def partly_known(self, hosts: int, offset: int, length_bytes: int, end: bool) -> list[tuple[int, int]]:
        """(known offset, hosts) for those of ``hosts`` that have the first part of a piece and not all of it.

        Hosts cut a resend as before, so this is rare: a gap that has grown, or an end that came with bytes known.
        """
        until = offset + length_bytes
        return [
            (known, group & hosts & ~self.ended)
            for known, group in self.groups.items()
            if offset < known and (known < until or (end and known == until)) and group & hosts & ~self.ended
        ]

    def offsets(self, hosts: int) -> list[tuple[int, int]]:
        """(offset, hosts) for every group that has members among ``hosts``; together they are ``hosts``."""
        found = [(offset, group & hosts) for offset, group in self.groups.items() if group & hosts]
        start = hosts & ~self._past_start()
        return ([(0, start)] if start else []) + found

    def _past_start(self) -> int:
        past = 0
        for group in self.groups.values():
            past |= group
        return past

    def _at(self, offset: int) -> int:
        return ~self._past_start() if offset == 0 else self.groups.get(offset, 0)

    def _move(self, hosts: int, source: int, target: int) -> None:
        if source == target:
            return
        if source:
            left = self.groups[source] & ~hosts
            if left:
                self.groups[source] = left
            else:
                del self.groups[source]
        self.groups[target] = self.groups.get(target, 0) | hosts

    def check_invariants(self) -> None:
        """Every host in one group, no empty group. Raises AssertionError."""
        seen = 0
        for offset, group in self.groups.items():
            assert offset > 0 and group, "empty group or group at 0"
            assert not seen & group, f"hosts {hostset.to_text(seen & group)} in two groups"
            seen |= group

"""From stored output records to each host's streams: in order, each byte once.

Owns the positions per (op, stream); the renderer behind it gets every byte of a host's stream once and in order.
Records may come doubled (resent after a failure) or, from several segments, too early. Pure but for the renderer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from plush_worker.node.messages import GAP

from .view import Outcome

EARLY_BYTES = 8 << 20  # records kept that came before their predecessors; beyond it the hole is reported as lost


class Renderer(Protocol):
    """Something that shows or keeps the output of hosts."""

    def output(self, hosts: int, stream: int, data: bytes) -> None:
        """The next bytes of one stream of each of ``hosts``."""

    def gap(self, hosts: int, stream: int, lost_bytes: int) -> None:
        """So many bytes were lost here."""

    def ended(self, outcome: Outcome) -> None:
        """Hosts have their final state; nothing more comes of them."""

    def finish(self) -> None:
        """The run is over."""


@dataclass(slots=True)
class _StreamState:
    """One (op, stream): offset -> hosts whose next byte is that one; hosts that aren't in any are at 0."""

    at: dict[int, int] = field(default_factory=dict)
    seen: int = 0
    early: list[tuple[int, int, bytes, bool]] = field(default_factory=list)  # hosts, offset, data, is a gap


class Assembler:
    """Feeds a renderer from records of any segment."""

    def __init__(self, renderer: Renderer, early_bytes: int = EARLY_BYTES) -> None:
        self._renderer = renderer
        self._early_limit_bytes = early_bytes
        self._early_bytes = 0
        self._streams: dict[tuple[int, int], _StreamState] = {}

    def record(self, hosts: int, op: int, stream: int, flags: int, offset: int, data: bytes) -> None:
        """One record of a segment. A gap's data is the number of lost bytes as a u64."""
        state = self._streams.setdefault((op, stream), _StreamState())
        new = hosts & ~state.seen
        if new:
            state.at[0] = state.at.get(0, 0) | new
            state.seen |= new
        if not data:
            return
        self._place(state, stream, hosts, offset, data, bool(flags & GAP))
        if state.early:
            self._retry_early(state, stream)
        while self._early_bytes > self._early_limit_bytes and state.early:
            self._skip_hole(state, stream, -1)

    def flush(self, hosts: int) -> None:
        """Nothing more comes of these hosts: what came too early follows its hole, which is reported as lost."""
        for (_, stream), state in self._streams.items():
            while any(hosts & early[0] for early in state.early):
                self._skip_hole(state, stream, hosts)

    def _place(self, state: _StreamState, stream: int, hosts: int, offset: int, data: bytes, is_gap: bool) -> None:
        end = offset + (int.from_bytes(data, "big") if is_gap else len(data))
        for position in sorted(state.at):
            here = state.at.get(position, 0) & hosts
            if not here or position >= end:  # beyond its end: a double
                continue
            if position < offset:
                state.early.append((here, offset, data, is_gap))
                self._early_bytes += len(data)
                continue
            self._move(state, here, position, end)
            if is_gap:
                self._renderer.gap(here, stream, end - position)
            else:
                self._renderer.output(here, stream, data[position - offset :] if position > offset else data)

    def _move(self, state: _StreamState, hosts: int, old: int, new: int) -> None:
        left = state.at[old] & ~hosts
        if left:
            state.at[old] = left
        else:
            del state.at[old]
        state.at[new] = state.at.get(new, 0) | hosts

    def _retry_early(self, state: _StreamState, stream: int) -> None:
        """Place what fits now, by offset; ``_place`` keeps the rest again."""
        waiting, state.early = sorted(state.early, key=lambda early: early[1]), []
        self._early_bytes -= sum(len(early[2]) for early in waiting)
        for early in waiting:
            self._place(state, stream, *early)

    def _skip_hole(self, state: _StreamState, stream: int, among: int) -> None:
        """Report the first hole of the hosts ``among`` as lost, then place what came after it."""
        hosts, offset, _, _ = min((e for e in state.early if e[0] & among), key=lambda early: early[1])
        for position in sorted(state.at):
            here = state.at[position] & hosts
            if here and position < offset:
                self._move(state, here, position, offset)
                self._renderer.gap(here, stream, offset - position)
        self._retry_early(state, stream)

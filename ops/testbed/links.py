"""When a packet arrives: a pure model of delays, jitter, loss, cuts and narrow links. No clock, socket or device here.

Each host hangs on the wide area by an uplink and a downlink of its own, which send one packet after the other at their
rate; between them lies the pair's delay and nothing else, so the core is never the bottleneck. A packet passes in two
steps, since what the downlink does depends on all that arrives, from near and far: ``Links.send`` when a host sends
it, and ``Links.arrive`` when it has come to the downlink's end, at the time that ``send`` said.

Packets of a pair never overtake each other, whatever is changed while they are under way. A TSO packet passes the
links segment by segment: the downlink begins with its first segment while the uplink still sends the others.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

DROPPED = -1.0  # instead of a time
QUEUE_S = 1.0  # a host's link holds what it sends in this time,
QUEUE_MAX_BYTES = 4_000_000  # but not more than this
QUEUE_MIN_BYTES = 262_144  # nor less: four TSO packets


@dataclass(frozen=True, slots=True)
class PathSettings:
    """The network at its start. ``RttMatrix.one_way_s()`` gives the matrix."""

    one_way_s: array[float]  # typecode "f"; row by row, host_count ** 2 numbers: [source * host_count + target]
    jitter: float = 0.0  # 0..1: a packet's delay is drawn evenly from delay * (1 - jitter) .. delay * (1 + jitter)
    loss: float = 0.0  # share of packets, 0..1
    seed: int = 1  # of jitter and loss
    rate_mbit: float = 0.0  # 10**6 bit/s, up and down, of every host; 0: no limit


class Rate:
    """One direction of a host's link to the wide area, and until when it is busy."""

    __slots__ = ("free_s", "queue_s", "s_per_byte")

    def __init__(self, mbit: float) -> None:
        self.free_s = 0.0
        self.s_per_byte = 0.0
        self.queue_s = 0.0
        self.change(mbit)

    def change(self, mbit: float) -> None:
        """0: no limit. What is queued keeps its time."""
        self.s_per_byte = 8e-6 / mbit if mbit else 0.0
        queue_bytes = max(QUEUE_MIN_BYTES, min(QUEUE_MAX_BYTES, mbit * 1e6 / 8 * QUEUE_S))
        self.queue_s = queue_bytes * self.s_per_byte if mbit else QUEUE_S


class Links:
    """Hosts by index. Times are of the caller's clock and grow from call to call.

    ``rated`` says whether any host ever had a rate: only then must the caller find out sizes and call ``arrive``.
    """

    def __init__(self, host_count: int, settings: PathSettings) -> None:
        """Raises ValueError for settings out of bounds."""
        if len(settings.one_way_s) != host_count**2:
            raise ValueError(f"{len(settings.one_way_s)} delays for {host_count} hosts, not {host_count**2}")
        self.lost_count = self.cut_count = self.overflow_count = 0
        self.cut_targets: list[set[int]] = [set() for _ in range(host_count)]
        self.rated = False
        self._host_count = host_count
        self._matrix_s = settings.one_way_s
        self._delay_s = [
            list(settings.one_way_s[start : start + host_count]) for start in range(0, host_count**2, host_count)
        ]
        self._last_due_s = [[0.0] * host_count for _ in range(host_count)]
        self._up: list[Rate | None] = [None] * host_count
        self._down: list[Rate | None] = [None] * host_count
        self._loss = _share(settings.loss, "loss")
        self._pair_loss: dict[tuple[int, int], float] = {}
        self._jitter = _share(settings.jitter, "jitter")
        # One for each source, so that a host's n-th packet fares the same whatever the others send.
        self._random = [random.Random(f"{settings.seed} {source}") for source in range(host_count)]
        self._uneven = bool(self._loss or self._jitter)
        if settings.rate_mbit:
            self.set_rate(range(host_count), settings.rate_mbit, settings.rate_mbit)

    def send(self, now_s: float, source: int, target: int, sizes: tuple[int, int] | None) -> float:
        """A host sends a packet: when it will have arrived if the downlink is idle, or DROPPED (and counted).

        ``sizes`` is ``packets.wire_sizes``; it may be None while not ``rated``.
        """
        if target in self.cut_targets[source]:
            self.cut_count += 1
            return DROPPED
        due_s = now_s + self._delay_s[source][target]
        if sizes is not None:
            up, down = self._up[source], self._down[target]
            if up is not None:
                queued_s = up.free_s - now_s
                if queued_s > up.queue_s:
                    self.overflow_count += 1
                    return DROPPED
                sending_s = sizes[0] * up.s_per_byte
                if queued_s > 0:
                    sending_s += queued_s
                due_s += sending_s
                up.free_s = now_s + sending_s
            if down is not None:
                due_s += sizes[1] * down.s_per_byte
        if self._uneven:
            draw = self._random[source].random
            if draw() < self._pair_loss.get((source, target), self._loss):
                self.lost_count += 1
                return DROPPED
            due_s += self._delay_s[source][target] * self._jitter * (2 * draw() - 1)
        last_due_s = self._last_due_s[source]
        if due_s < last_due_s[target]:
            return last_due_s[target]
        last_due_s[target] = due_s
        return due_s

    def arrive(self, due_s: float, source: int, target: int, sizes: tuple[int, int]) -> float:
        """A packet came through, at the time ``send`` said: when the downlink is done with it, or DROPPED."""
        down, up = self._down[target], self._up[source]
        if down is None:
            return due_s
        queued_s = down.free_s - due_s
        if queued_s > down.queue_s:
            self.overflow_count += 1
            return DROPPED
        wire_bytes, first_bytes = sizes
        begin_s = due_s - first_bytes * down.s_per_byte  # the first segment is here,
        if up is not None:
            begin_s -= (wire_bytes - first_bytes) * up.s_per_byte  # which left before the others
        done_s = max(begin_s, down.free_s) + wire_bytes * down.s_per_byte
        down.free_s = max(done_s, due_s)
        return down.free_s

    def idle_s(self, now_s: float, source: int) -> float:
        """For how long the host's uplink had nothing to send: what is sent late by less is not late at all."""
        up = self._up[source]
        return math.inf if up is None or not up.s_per_byte else max(0.0, now_s - up.free_s)

    def cut(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """One way. The caller looks into ``cut_targets`` again for what is under way."""
        for source in sources:
            self.cut_targets[source].update(targets)

    def heal(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """One way."""
        for source in sources:
            self.cut_targets[source].difference_update(targets)

    def set_delay(self, sources: Sequence[int], targets: Sequence[int], one_way_s: float | None) -> None:
        """One way; None: the matrix's again. Raises ValueError."""
        if one_way_s is not None and not 0 <= one_way_s <= 3600:
            raise ValueError(f"a delay of {one_way_s} s is not within 0..3600")
        for source in sources:
            for target in targets:
                matrix_s = self._matrix_s[source * self._host_count + target]
                self._delay_s[source][target] = matrix_s if one_way_s is None else one_way_s

    def set_loss(self, sources: Sequence[int], targets: Sequence[int], share: float | None) -> None:
        """One way; None: as at the start. Raises ValueError."""
        pairs = [(source, target) for source in sources for target in targets]
        if share is None:
            for pair in pairs:
                self._pair_loss.pop(pair, None)
        else:
            self._pair_loss.update(dict.fromkeys(pairs, _share(share, "loss")))
        self._uneven = bool(self._loss or self._jitter or self._pair_loss)

    def set_jitter(self, share: float) -> None:
        """Of every pair. Raises ValueError."""
        self._jitter = _share(share, "jitter")
        self._uneven = bool(self._loss or self._jitter or self._pair_loss)

    def set_rate(self, hosts: Sequence[int], mbit_up: float, mbit_down: float) -> None:
        """0: no limit. Raises ValueError."""
        for mbit in (mbit_up, mbit_down):
            if mbit and not 0.001 <= mbit <= 1e6:
                raise ValueError(f"a rate of {mbit} Mbit/s is not within 0.001..1000000, nor 0 for no limit")
        for host in hosts:
            for rates, mbit in ((self._up, mbit_up), (self._down, mbit_down)):
                rate = rates[host]
                if rate is not None:
                    rate.change(mbit)
                elif mbit:
                    rates[host] = Rate(mbit)
                    self.rated = True

    def forget(self, host: int) -> None:
        """Its packets are gone: nothing is queued before those it sends when it is back."""
        for rates in (self._up, self._down):
            rate = rates[host]
            if rate is not None:
                rate.free_s = 0.0
        self._last_due_s[host] = [0.0] * self._host_count
        for last_due_s in self._last_due_s:
            last_due_s[host] = 0.0


def _share(value: float, what: str) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{what} {value} is a share, from 0 to 1")
    return float(value)

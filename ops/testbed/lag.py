"""How late packets were written: a histogram with bins of 0.1 ms up to a second."""

from __future__ import annotations

from dataclasses import dataclass

BINS_PER_S = 10_000
LAST_BIN = BINS_PER_S  # this late or later


@dataclass(frozen=True, slots=True)
class Lag:
    """How late the forwarder itself was: from the moment a packet should have arrived until it was written.

    The time that a packet may have waited unread counts too (its upper bound, since nobody saw it come), unless its
    host's uplink was busy with others meanwhile, so that it made no difference.
    Percentiles are the upper edge of their 0.1 ms bin, and 1000 ms stands for anything later.
    """

    p50_ms: float
    p99_ms: float
    max_ms: float
    packet_count: int


class LagHistogram:
    """Counts by lateness. ``record`` is on the path of every packet."""

    __slots__ = ("_counts", "_max_s")

    def __init__(self) -> None:
        self._counts = [0] * (LAST_BIN + 1)
        self._max_s = 0.0

    def record(self, late_s: float) -> None:
        """One packet; not negative."""
        if late_s > self._max_s:  # noqa: PLR1730 (a call costs as much as the rest)
            self._max_s = late_s
        bin_index = int(late_s * BINS_PER_S)
        self._counts[min(bin_index, LAST_BIN)] += 1

    def summary(self) -> Lag:
        """All zero when there was no packet."""
        packet_count = sum(self._counts)
        return Lag(self._percentile_ms(0.5), self._percentile_ms(0.99), self._max_s * 1000, packet_count)

    def reset(self) -> None:
        """Forget everything."""
        self._counts = [0] * (LAST_BIN + 1)
        self._max_s = 0.0

    def _percentile_ms(self, share: float) -> float:
        wanted = share * sum(self._counts)
        if not wanted:
            return 0.0
        seen = 0
        for bin_index, count in enumerate(self._counts):
            seen += count
            if seen >= wanted:
                return min((bin_index + 1) * 1000 / BINS_PER_S, self._max_s * 1000)
        return self._max_s * 1000

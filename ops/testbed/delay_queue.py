"""Items ordered by the time they are due: a calendar of short slots, first in first out within a slot.

A heap of slots instead of a heap of items: thousands of packets share a few hundred slots, and a slot costs one push
where each packet would (Brown's calendar queue, CACM 1988, with a heap instead of the ring of days, so that a fault of
ten seconds needs no larger ring).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

SLOT_S = 1 / 4096  # 0.24 ms: an item may come that much too early, and counts as late from the start of its slot

T = TypeVar("T")


class DelayQueue(Generic[T]):
    """Unbounded: whoever puts items in counts their bytes."""

    __slots__ = ("_slots", "_times")

    def __init__(self) -> None:
        self._slots: dict[int, list[T]] = {}
        self._times: list[int] = []

    def put(self, due_s: float, item: T) -> None:
        """Items with the same or growing ``due_s`` leave in the order they came; a time that has passed is fine."""
        time = int(due_s / SLOT_S)
        slot = self._slots.get(time)
        if slot is None:
            self._slots[time] = [item]
            heapq.heappush(self._times, time)
        else:
            slot.append(item)

    def next_s(self) -> float | None:
        """When the next item is due; None: there is none."""
        return self._times[0] * SLOT_S if self._times else None

    def take(self, now_s: float) -> Iterator[tuple[float, list[T]]]:
        """Every slot that is due by now, as (its time, its items), the earliest first; what is put meanwhile too."""
        until = now_s / SLOT_S
        while self._times and self._times[0] <= until:
            time = heapq.heappop(self._times)
            yield time * SLOT_S, self._slots.pop(time)

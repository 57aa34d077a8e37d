"""Discrete events: an agenda of what happens when, and processors that many jobs share. Pure; time is simulated.

Owns simulated time and nothing of trees. Entry points: ``Agenda``, ``Processor``.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, TypeVarTuple

Ts = TypeVarTuple("Ts")


class Agenda:
    """What happens when. Events of one time happen in the order in which they were put down."""

    __slots__ = ("_events", "_number", "now_s")

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0

    def after(self, delay_s: float, act: Callable[[*Ts], None], *args: *Ts) -> None:
        """Calls ``act(*args)`` ``delay_s`` from now; a negative delay is taken for none."""
        self._number += 1
        heapq.heappush(self._events, (self.now_s + max(0.0, delay_s), self._number, act, args))

    def run(self) -> None:
        """Goes on until nothing is left to happen."""
        events = self._events
        while events:
            self.now_s, _, act, args = heapq.heappop(events)
            act(*args)


class Processor:
    """``cores`` shared evenly by all jobs on them, each of which uses one core at most (processor sharing).

    What a time-sharing kernel does, without the length of its turns. All jobs on it proceed at one rate, so a job ends
    when the time that each of them was served reaches a mark set at its start: O(log jobs) for each job.
    """

    __slots__ = ("_agenda", "_at_s", "_cores", "_jobs", "_number", "_served_s", "_turn")

    def __init__(self, agenda: Agenda, cores: float) -> None:
        if not cores > 0:
            raise ValueError(f"a processor of {cores} cores does nothing: more than 0 are needed")
        self._agenda = agenda
        self._cores = cores
        self._jobs: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []  # heap: mark, order, what then
        self._served_s = 0.0  # how long a job was served that has been here all along
        self._at_s = 0.0  # as of then
        self._number = 0
        self._turn = 0  # of the jobs on it; the end that was foreseen in an earlier turn doesn't come

    def run(self, work_s: float, then: Callable[[*Ts], None], *args: *Ts) -> None:
        """Calls ``then(*args)`` when a job of ``work_s`` seconds of CPU time has been done."""
        self._catch_up()
        self._number += 1
        heapq.heappush(self._jobs, (self._served_s + work_s, self._number, then, args))
        self._foresee()

    def _rate(self) -> float:
        return min(1.0, self._cores / len(self._jobs))

    def _catch_up(self) -> None:
        if self._jobs:
            self._served_s += (self._agenda.now_s - self._at_s) * self._rate()
        self._at_s = self._agenda.now_s

    def _foresee(self) -> None:
        self._turn += 1
        if self._jobs:
            self._agenda.after((self._jobs[0][0] - self._served_s) / self._rate(), self._end, self._turn)

    def _end(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._catch_up()
        self._served_s = self._jobs[0][0]  # but for rounding it is that already
        ended = []
        while self._jobs and self._jobs[0][0] <= self._served_s:
            ended.append(heapq.heappop(self._jobs))
        self._foresee()
        for _, _, then, args in ended:
            then(*args)

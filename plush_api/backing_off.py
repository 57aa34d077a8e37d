"""How long to wait before something is tried again, and when to stop trying. Pure; time and chance are passed in."""

from __future__ import annotations

from collections.abc import Callable

FIRST_S, LONGEST_S = 0.2, 5.0


class Patience:
    """Trouble that lasts no longer than ``limit_s`` without a success in between is waited out.

    Waits double from 0.2 to 5 s, each less a random part of a half, so that many clients of a service that was down
    don't come back at once.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._random = random
        self._began: float | None = None
        self._next_s = FIRST_S

    def succeeded(self) -> None:
        """The trouble is over."""
        self._began, self._next_s = None, FIRST_S

    def wait_s(self, asked_s: float = 0.0) -> float | None:
        """Seconds until the next attempt, at least ``asked_s``; None when there should be none."""
        now = self._clock()
        self._began = now if self._began is None else self._began
        wait = max(asked_s, self._next_s * (1 - self._random() / 2))
        self._next_s = min(LONGEST_S, self._next_s * 2)
        return wait if now + wait - self._began <= self._limit_s else None

"""When a part of the service that died is started again, and when that is given up. Pure: time is passed in."""

from __future__ import annotations

from collections import deque

PAUSES_S = (0.2, 1.0, 3.0, 8.0)  # before the first restart, the second, ...; the last is repeated
DEATHS_LIMIT = 5
WITHIN_S = 60.0


class Restarts:
    """Counts the deaths of each part: at most ``limit`` of them within ``within_s`` are answered with a restart."""

    def __init__(self, limit: int = DEATHS_LIMIT, within_s: float = WITHIN_S) -> None:
        self.limit = limit
        self.within_s = within_s
        self._deaths: dict[str, deque[float]] = {}

    def pause_s(self, part: str, now_s: float) -> float | None:
        """``part`` died at ``now_s``: how long to wait before it is started again; None: it has died too often."""
        deaths = self._deaths.setdefault(part, deque())
        while deaths and now_s - deaths[0] >= self.within_s:
            deaths.popleft()
        deaths.append(now_s)
        if len(deaths) > self.limit:
            return None
        return PAUSES_S[min(len(deaths), len(PAUSES_S)) - 1]

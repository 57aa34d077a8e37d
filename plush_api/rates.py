"""How often somebody may ask: token buckets, a bounded number of them. Pure; time is passed in."""

from __future__ import annotations

from collections import OrderedDict

MAX_KEYS = 10_000  # beyond it the one not asked for longest is forgotten, and with it its debt


class Buckets:
    """One bucket for each key, which holds ``burst`` and gains ``rate_per_s``."""

    def __init__(self, rate_per_s: float, burst: int, max_keys: int = MAX_KEYS) -> None:
        self._rate_per_s = rate_per_s
        self._burst = float(burst)
        self._max_keys = max_keys
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> level, as of time

    def take(self, key: str, now_s: float) -> float:
        """Takes one; 0 when there was one, else nothing is taken and it is the seconds until there is."""
        level = self._level(key, now_s)
        missing = max(0.0, 1.0 - level)
        self._levels[key] = (level - (0.0 if missing else 1.0), now_s)
        self._levels.move_to_end(key)
        if len(self._levels) > self._max_keys:
            self._levels.popitem(last=False)
        return missing / self._rate_per_s

    def wait_s(self, key: str, now_s: float) -> float:
        """Seconds until there is one to take; 0 when there is. Takes nothing."""
        return max(0.0, 1.0 - self._level(key, now_s)) / self._rate_per_s

    def _level(self, key: str, now_s: float) -> float:
        level, since_s = self._levels.get(key, (self._burst, now_s))
        return min(self._burst, level + (now_s - since_s) * self._rate_per_s)

"""How often somebody may come: a token bucket for each uid. Pure; the caller brings the time."""

from __future__ import annotations

FORGET_ABOVE = 1024
"""How many uids are remembered before those with full buckets are dropped."""


class Rates:
    """Each uid may come `burst` times at once, and `per_s` times a second in the long run."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._buckets: dict[int, tuple[float, float]] = {}

    def allows(self, uid: int, now: float) -> bool:
        """Whether `uid` may come at `now` (seconds, monotonic); if so, it counts."""
        tokens, at = self._buckets.get(uid, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._per_s)
        allowed = tokens >= 1
        self._buckets[uid] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > FORGET_ABOVE:
            self._forget(now)
        return allowed

    def _forget(self, now: float) -> None:
        full_after_s = self._burst / self._per_s
        self._buckets = {uid: (tokens, at) for uid, (tokens, at) in self._buckets.items() if now - at < full_after_s}

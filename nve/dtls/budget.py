"""How often something may be done that others can ask for: a token bucket that says when there is the next token."""

from __future__ import annotations

import math


class Budget:
    """``burst`` at once, then ``per_second``. Times in seconds; a clock that goes back brings nothing."""

    __slots__ = ("_burst", "_noted", "_rate", "_tokens")

    def __init__(self, per_second: float, burst: float) -> None:
        self._rate, self._burst, self._tokens, self._noted = per_second, burst, burst, -math.inf

    def take(self, now: float) -> bool:
        """Tell whether it may be done at ``now``; it counts as done then."""
        tokens = self._filled(now)
        allowed = tokens >= 1.0
        self._tokens, self._noted = tokens - allowed, max(self._noted, now)
        return allowed

    def ready_at(self, now: float) -> float:
        """Return when it may be done next: ``now``, or later."""
        tokens = self._filled(now)
        # A little late rather than early by the rounding of floats: whoever comes then is to find the token.
        return now if tokens >= 1.0 else now + (1.0 - tokens) / self._rate + 1e-6

    def _filled(self, now: float) -> float:
        passed = 0.0 if self._noted == -math.inf else max(0.0, now - self._noted)
        return min(self._burst, self._tokens + passed * self._rate)

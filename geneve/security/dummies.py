"""When dummy packets are due (SEC-GEN-7). Pure: the time comes in as a number of seconds.

What an observer of times learns. CONSTANT and FILL put dummies on a grid of 1/rate while data is sent at once, so
who knows the grid can tell most data by its time: they hide whether and (FILL, below the rate) how much is sent in
all, not which packet is which. POISSON has no grid. Data above the rate shows in every mode, and after it FILL
is silent for a second and a little more.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from geneve.control.profile import Dummies, DummyMode

MAX_LAG = 0.05
"""Seconds that a schedule catches up on after a pause; what was due before is left out."""
MAX_CREDIT = 1.0
"""Seconds for which data above the rate can keep dummies away."""


class DummySchedule:
    """Decides how many dummies are due. ``random`` returns numbers from 0 up to, not including, 1."""

    def __init__(self, dummies: Dummies, now: float, random: Callable[[], float]) -> None:
        self.dummies = dummies
        self._random = random
        self._next = now + self._gap()

    def _gap(self) -> float:
        if self.dummies.mode is DummyMode.POISSON:
            return -math.log(1.0 - self._random()) / self.dummies.rate
        return 1.0 / self.dummies.rate

    def due(self, now: float) -> int:
        """Return how many dummies are to be sent at ``now``; each is counted as sent."""
        count = 0
        while self._next <= now:
            if now - self._next <= MAX_LAG or count == 0:
                count += 1
            if now - self._next > MAX_LAG:
                self._next = max(self._next, now - MAX_LAG)
            self._next += self._gap()
        return count

    def data_sent(self, now: float, count: int = 1) -> None:
        """Note data packets: under FILL each takes the place of one dummy."""
        if self.dummies.mode is DummyMode.FILL:
            self._next = min(self._next + count / self.dummies.rate, now + MAX_CREDIT + 1.0 / self.dummies.rate)

    def next_due(self) -> float:
        """Return when the next dummy is due."""
        return self._next

    def frame_size(self, largest: int) -> int:
        """Return the size of the frame that the next dummy imitates, in bytes, at most ``largest``."""
        sizes = self.dummies.sizes
        return min(sizes[int(self._random() * len(sizes))], largest) if sizes else largest

"""The highest rate at which a path loses less than a limit: how it is searched. Pure.

Trials cost time and their outcome is noisy near the limit, so: first climb by a factor until a trial fails, then halve
the interval on a logarithmic scale, and in the end confirm the best rate in a longer trial. A confirmation that fails
sends the search down by one step of its resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

LOSS_LIMIT = 0.001
"""Share of datagrams that may be lost."""
_MOST_TRIALS = 40


@dataclass(frozen=True, slots=True)
class Trial:
    """What one trial showed: datagrams sent and received in time, and seconds of sending."""

    sent: int
    received: int
    seconds: float
    wanted: float
    """Datagrams per second that were asked for."""

    @property
    def loss(self) -> float:
        """The share that did not arrive, or too late."""
        return 1.0 if self.sent == 0 else max(0.0, 1 - self.received / self.sent)

    @property
    def rate(self) -> float:
        """Datagrams per second that were sent."""
        return self.sent / self.seconds if self.seconds > 0 else 0.0

    @property
    def good(self) -> bool:
        """Whether less than the limit was lost."""
        return self.sent > 0 and self.loss < LOSS_LIMIT

    @property
    def held_back(self) -> bool:
        """Whether the sender could not keep up with what was asked: then its own rate is the limit."""
        return self.rate < 0.93 * self.wanted


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search: the confirmed trial. ``limited``: the sender, not the path, set the rate."""

    trial: Trial
    limited: bool
    trials: int


Try = Callable[[float, bool], Trial]
"""Carries out a trial at a rate in datagrams per second; the flag asks for the longer one that confirms."""


@dataclass(frozen=True, slots=True)
class Search:
    """How to search: from ``start`` datagrams per second by ``factor``, down to ``lowest``, to ``resolution``."""

    start: float = 10_000.0
    factor: float = 2.0
    resolution: float = 1.05
    """Ratio of two neighbouring rates that are told apart."""
    lowest: float = 50.0

    def run(self, attempt: Try) -> Found | None:
        """Search; None when even the lowest rate loses too much."""
        low, high, best, count = self._bracket(attempt)
        if best is None:
            return None
        while not best.held_back and high / low > self.resolution and count < _MOST_TRIALS:
            middle = math.sqrt(low * high)
            trial = attempt(middle, False)
            count += 1
            if trial.good:
                low, best = middle, trial
                if trial.held_back:
                    break
            else:
                high = middle
        return self._confirm(attempt, low, count)

    def _bracket(self, attempt: Try) -> tuple[float, float, Trial | None, int]:
        """Return a rate that passes and one that fails, the trial that passed, and the number of trials."""
        rate, low, high, best, count = self.start, 0.0, math.inf, None, 0
        while count < _MOST_TRIALS:
            trial = attempt(rate, False)
            count += 1
            if trial.good:
                low, best = rate, trial
                if trial.held_back or math.isfinite(high):
                    break
                rate *= self.factor
            else:
                high = rate
                if best is not None or rate <= self.lowest:
                    break
                rate = max(self.lowest, rate / self.factor)
        return low, high, best, count

    def _confirm(self, attempt: Try, rate: float, count: int) -> Found | None:
        step = self.resolution
        while rate >= self.lowest:
            trial = attempt(rate, True)
            count += 1
            if trial.good:
                return Found(trial, trial.held_back, count)
            if count >= _MOST_TRIALS:
                return None
            rate /= step
            step *= self.resolution  # farther each time: the shorter trials may have been far too kind
        return None

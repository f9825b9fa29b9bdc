"""The highest rate at which a path loses less than a limit: how it is searched. Pure.

Trials cost time and their outcome is noisy near the limit. So a coarse search with short trials comes first, unless the
neighbourhood is known from an earlier repeat: climb by a factor until a trial fails, then halve the interval on a
logarithmic scale. From there a walk with long trials goes up by small steps while they pass, or down until one does.
A trial that fails is made once more before it counts: a machine that did something else for a moment is no limit of
the path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

LOSS_LIMIT = 0.001
"""Share of datagrams that may be lost."""
MOST_TRIALS = 40
_MOST_STEPS_UP = 6


@dataclass(frozen=True, slots=True)
class Trial:
    """What one trial showed: datagrams sent and received in time, and seconds of sending."""

    sent: int
    received: int
    seconds: float
    busy: float = 0.0
    """Share of the time in which the sender did not wait for the next datagram to be due."""

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
        """Whether the sender had no time left: it cannot go faster, whatever the path can."""
        return self.busy > 0.97


Try = Callable[[float, bool], Trial]
"""Carries out a trial at a rate in datagrams per second; the flag asks for a long one."""


@dataclass(slots=True)
class Search:
    """How to search; ``known`` is the rate that was found before, ``resolution`` the ratio of two steps of the walk."""

    attempt: Try
    known: float | None = None
    start: float = 10_000.0
    factor: float = 2.0
    coarse: float = 1.15
    resolution: float = 1.05
    lowest: float = 50.0
    trials: int = field(default=0, init=False)

    def run(self) -> Trial | None:
        """Return the best long trial; None when even the lowest rate loses too much."""
        rate = self.known if self.known is not None else self._coarse()
        return None if rate is None else self._walk(rate)

    def _try(self, rate: float, long: bool) -> Trial:
        self.trials += 1
        trial = self.attempt(rate, long)
        if not trial.good and self.trials < MOST_TRIALS:
            self.trials += 1
            trial = self.attempt(rate, long)
        return trial

    def _coarse(self) -> float | None:
        low, high, held_back = 0.0, math.inf, False
        rate = self.start
        while self.trials < MOST_TRIALS:
            trial = self._try(rate, False)
            if trial.good:
                low, held_back = rate, trial.held_back
            else:
                high = rate
            if held_back or (low and high / low <= self.coarse):
                break
            if not low:
                if rate <= self.lowest:
                    return None
                rate = max(self.lowest, rate / self.factor)
            else:
                rate = low * self.factor if math.isinf(high) else math.sqrt(low * high)
        return low or None

    def _walk(self, rate: float) -> Trial | None:
        best = self._try(rate, True)
        if best.good:
            for number in range(1, _MOST_STEPS_UP + 1):
                if best.held_back or self.trials >= MOST_TRIALS:
                    break
                trial = self._try(rate * self.resolution**number, True)
                if not trial.good:
                    break
                best = trial
            return best
        step = self.resolution
        while self.trials < MOST_TRIALS and rate > self.lowest:
            rate /= step
            step *= self.resolution  # farther each time: what went before may have been far too kind
            trial = self._try(rate, True)
            if trial.good:
                return trial
        return None

"""Statistics of few, noisy samples: medians with exact confidence intervals, and proportions.

A missing sample is ``None`` and is never counted as a number; every summary says how many are missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
"""Confidence level that every interval in the results aims at."""

_Z95 = 1.959963984540054
"""Two-sided 95% quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The median of some samples and its confidence interval.

    ``coverage`` is the interval's true confidence (0 to 1); it lies below :data:`CONFIDENCE` where
    there are fewer than six samples, and the interval is then simply smallest to largest.
    ``median``, ``low`` and ``high`` are None when there is no sample at all.
    """

    median: float | None
    low: float | None
    high: float | None
    coverage: float
    count: int
    missing: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the fields for a JSON or CSV file."""
        return {
            "median": self.median, "ci_low": self.low, "ci_high": self.high,
            "ci_coverage": round(self.coverage, 4), "count": self.count, "missing": self.missing,
        }  # fmt: skip


def quantile(values: Sequence[float], fraction: float) -> float:
    """Return a quantile by linear interpolation between order statistics; ValueError on no values."""
    if not values:
        raise ValueError("no values, no quantile")
    if not 0 <= fraction <= 1:
        raise ValueError(f"quantile {fraction} is not between 0 and 1")
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median_interval_ranks(count: int, confidence: float = CONFIDENCE) -> tuple[int, int, float]:
    """Return ranks (from 0) of the order statistics that enclose the median, and their true coverage.

    Exact and free of any assumption about the distribution: the number of samples below the median
    is binomial (count, 1/2). The narrowest symmetric interval that reaches ``confidence`` is taken;
    below six samples none reaches 95%, and the widest is returned with the coverage it has.
    """
    if count < 1:
        raise ValueError("no samples, no interval")
    total = 2**count
    tail = 0.0
    best = (0, count - 1, max(0.0, 1 - 2 / total))
    for rank in range(count // 2):
        tail += math.comb(count, rank) / total
        coverage = 1 - 2 * tail
        if coverage < confidence:
            break
        best = (rank, count - 1 - rank, coverage)
    return best


def summarise(samples: Iterable[float | None]) -> Summary:
    """Return median and order-statistics interval of ``samples``; None counts as missing."""
    given = list(samples)
    values = sorted(value for value in given if value is not None)
    missing = len(given) - len(values)
    if not values:
        return Summary(None, None, None, 0.0, 0, missing)
    low, high, coverage = median_interval_ranks(len(values))
    return Summary(quantile(values, 0.5), values[low], values[high], coverage, len(values), missing)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return the Wilson 95% interval of a proportion; ValueError when there are no trials."""
    if trials < 1:
        raise ValueError("no trials, no proportion")
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials cannot be")
    rate, z2 = successes / trials, _Z95 * _Z95
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    margin = _Z95 * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    low = 0.0 if successes == 0 else max(0.0, centre - margin)
    high = 1.0 if successes == trials else min(1.0, centre + margin)
    return low, high


def ecdf(values: Iterable[float]) -> tuple[list[float], list[float]]:
    """Return the empirical distribution function: sorted values and the fraction at or below each."""
    ordered = sorted(values)
    return ordered, [(index + 1) / len(ordered) for index in range(len(ordered))]

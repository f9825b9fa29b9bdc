"""Statistics against values known from elsewhere."""

from __future__ import annotations

import random

import pytest

from experiments.statistics import ecdf, median_interval_ranks, quantile, summarise, wilson


def test_quantiles_interpolate() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    assert [quantile(values, q) for q in (0, 0.25, 0.5, 1)] == [1.0, 1.75, 2.5, 4.0]
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)
    with pytest.raises(ValueError, match="not between"):
        quantile(values, 1.1)


@pytest.mark.parametrize(
    ("count", "low", "high", "coverage"),
    # Conover, Practical Nonparametric Statistics: binomial(n, 1/2) tables.
    [(5, 0, 4, 0.9375), (6, 0, 5, 0.96875), (8, 0, 7, 0.9921875), (9, 1, 7, 0.9609375), (20, 5, 14, 0.9586)],
)
def test_median_interval_has_the_ranks_of_the_tables(count: int, low: int, high: int, coverage: float) -> None:
    ranks = median_interval_ranks(count)
    assert ranks[:2] == (low, high)
    assert ranks[2] == pytest.approx(coverage, abs=1e-4)


def test_median_interval_covers_as_often_as_it_says() -> None:
    chance = random.Random(1)
    low, high, coverage = median_interval_ranks(10)
    hits = 0
    for _ in range(4000):
        drawn = sorted(chance.expovariate(1) for _ in range(10))
        hits += drawn[low] <= 0.693147 <= drawn[high]
    assert hits / 4000 == pytest.approx(coverage, abs=0.015)


def test_missing_samples_are_counted_and_never_zero() -> None:
    whole = summarise([10.0, None, 12.0, None, 11.0])
    assert (whole.median, whole.low, whole.high, whole.count, whole.missing) == (11.0, 10.0, 12.0, 3, 2)
    nothing = summarise([None, None])
    assert (nothing.median, nothing.low, nothing.count, nothing.missing) == (None, None, 0, 2)


def test_few_samples_admit_their_low_confidence() -> None:
    assert summarise([1.0, 2.0, 3.0]).coverage == pytest.approx(0.75)
    assert summarise([1.0]).coverage == 0.0


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)],
)
def test_wilson_against_newcombe(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_wilson_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="no trials"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="cannot be"):
        wilson(3, 2)


def test_ecdf_ends_at_one() -> None:
    assert ecdf([3.0, 1.0]) == ([1.0, 3.0], [0.5, 1.0])

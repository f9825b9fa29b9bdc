"""The limiter of failed attempts: what is plausible is always tried, what is not only so often."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve.security.limiter import PLAUSIBLE_AHEAD, FailureLimiter

ATTEMPT = st.tuples(
    st.integers(1, 3),  # whose association
    st.one_of(st.integers(-100, 100), st.integers(PLAUSIBLE_AHEAD - 2, PLAUSIBLE_AHEAD + 2), st.integers(1, 2**63)),
    st.floats(0, 2),  # seconds since the one before
    st.booleans(),  # a true packet
)


def association(spi: int = 1, highest: int = 1000) -> Any:
    return SimpleNamespace(spi=spi, window=SimpleNamespace(highest=highest))


def attempt(limiter: FailureLimiter, held: Any, number: int, now: float, true: bool = False) -> bool:
    """As an opener does it; returns whether the tag was tried."""
    if not limiter.allows(held, number, now):
        return False
    if true:
        held.window.highest = max(held.window.highest, number)
    else:
        limiter.failed(held, number, now)
    return True


@given(st.lists(ATTEMPT, max_size=300))
def test_a_plausible_number_is_never_refused(attempts):
    limiter, ends, now = FailureLimiter(), {spi: association(spi) for spi in (1, 2, 3)}, 0.0
    for spi, ahead, later, true in attempts:
        now += later
        held = ends[spi]
        before = held.window.highest
        tried = attempt(limiter, held, before + ahead, now, true)
        assert tried or ahead > PLAUSIBLE_AHEAD


@given(st.lists(st.floats(0, 0.05), min_size=1, max_size=600), st.integers(1, 50), st.integers(1, 50))
def test_attempts_on_implausible_numbers_are_bounded(pauses, rate, burst):
    limiter, held, now, tried = FailureLimiter(rate, burst), association(), 0.0, 0
    for pause in pauses:
        now += pause
        tried += attempt(limiter, held, 2**40, now)
        assert tried <= burst + rate * now + 1


@given(st.lists(ATTEMPT, max_size=200))
def test_failures_of_one_association_are_not_held_against_another(attempts):
    limiter, flooded, other, now = FailureLimiter(), association(1), association(2), 0.0
    for _, ahead, later, _ in attempts:
        now += later
        attempt(limiter, flooded, flooded.window.highest + ahead, now)
        assert limiter.allows(other, 2**50, now)


def test_what_verifies_costs_nothing_and_makes_what_follows_plausible():
    limiter, held = FailureLimiter(1.0, 2.0), association()
    for number in range(2**30, 2**30 + 10 * 2**25, 2**25):
        assert attempt(limiter, held, number, 0.0, true=True), "ten true packets, each far ahead of the one before"
    assert attempt(limiter, held, 2**50, 0.0)
    assert attempt(limiter, held, 2**50, 0.0)
    assert not attempt(limiter, held, 2**50, 0.0), "two failures are all there is"
    assert not attempt(limiter, held, 2**50, 0.0, true=True), "the sender is lost in the flood"
    assert attempt(limiter, held, 2**50, 1.0, true=True), "until the bucket has something again"
    assert attempt(limiter, held, 2**50 + 1, 1.0), "and from then on it is plausible"


def test_nothing_is_refused_before_anything_has_verified():
    limiter, held = FailureLimiter(1.0, 1.0), association(highest=0)
    assert all(attempt(limiter, held, 2**50 + n, 0.0) for n in range(100))


@pytest.mark.parametrize("now", [5.0, 4.0])
def test_a_clock_that_stands_still_or_goes_back_gives_nothing(now):
    limiter, held = FailureLimiter(1.0, 1.0), association()
    assert attempt(limiter, held, 2**50, 5.0)
    assert not attempt(limiter, held, 2**50, now)

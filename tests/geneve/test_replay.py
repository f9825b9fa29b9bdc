"""The anti-replay window against a model that remembers everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve.drops import DropReason
from geneve.security.replay import ReplayWindow

sizes = st.sampled_from([64, 128, 1024, 65536])


@given(sizes, st.lists(st.tuples(st.integers(-200, 200), st.sampled_from([1, 7, 64, 999, 65537])), max_size=200))
def test_the_window_agrees_with_a_set(size, moves):
    window, seen, highest, number = ReplayWindow(size), set(), 0, 0
    for step, factor in moves:
        number = max(0, number + step * factor)
        if number < 1 or number <= highest - size:
            expected = DropReason.BEHIND_WINDOW
        else:
            expected = DropReason.REPLAYED if number in seen else None
        assert window.check(number) is expected
        assert window.check(number) is expected, "asking changes nothing"
        if expected is None:
            window.commit(number)
            seen.add(number)
            highest = max(highest, number)


@pytest.mark.parametrize("size", [64, 1024, 65536])
def test_the_edges(size):
    window = ReplayWindow(size)
    window.commit(size * 10)
    assert window.check(size * 9 + 1) is None
    assert window.check(size * 9) is DropReason.BEHIND_WINDOW
    assert window.check(size * 10) is DropReason.REPLAYED
    assert window.check(2**64 - 1) is None


@pytest.mark.parametrize("size", [0, 63, 65, 65600])
def test_a_size_outside_the_range_is_refused(size):
    with pytest.raises(ValueError, match="replay window"):
        ReplayWindow(size)

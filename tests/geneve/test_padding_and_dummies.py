"""Padding, and when dummies are due."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve.control.profile import Dummies, DummyMode, Padding, PaddingMode
from geneve.security.dummies import MAX_LAG, DummySchedule
from geneve.security.padding import padded_size, unwrap, wrap

MODES = [
    Padding(),
    Padding(mode=PaddingMode.MULTIPLE, multiple=128),
    Padding(mode=PaddingMode.BUCKETS, buckets=(128, 512, 1024)),
    Padding(mode=PaddingMode.MTU),
    Padding(mode=PaddingMode.RANDOM, most=100),
]


@given(st.sampled_from(MODES), st.integers(2, 1416), st.integers(0, 2**31))
def test_padding_never_shrinks_and_never_exceeds_what_fits(padding, size, seed):
    total = padded_size(padding, size, 1416, random.Random(seed).randrange)
    assert size <= total <= 1416


@pytest.mark.parametrize(
    ("padding", "size", "expected"),
    [
        (MODES[0], 100, {100}),
        (MODES[1], 100, {128}),
        (MODES[1], 128, {128}),
        (MODES[1], 1400, {1408}),
        (MODES[1], 1410, {1416}),
        (MODES[2], 100, {128}),
        (MODES[2], 129, {512}),
        (MODES[2], 1025, {1416}),
        (MODES[3], 20, {1416}),
        (MODES[4], 100, set(range(100, 201))),
        (MODES[4], 1400, set(range(1400, 1417))),
    ],
)
def test_each_mode_pads_to_what_it_says(padding, size, expected):
    drawn = random.Random(1)
    assert {padded_size(padding, size, 1416, drawn.randrange) for _ in range(3000)} == expected


def test_what_is_too_large_is_an_error():
    with pytest.raises(ValueError, match="1416"):
        padded_size(MODES[0], 1417, 1416, lambda _: 0)
    with pytest.raises(ValueError, match="fit"):
        wrap(bytes(10), 11)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_what_is_wrapped_unwraps(frame, extra):
    wrapped = wrap(frame, len(frame) + 2 + extra)
    assert len(wrapped) == len(frame) + 2 + extra
    assert unwrap(wrapped) == frame


@given(st.binary(max_size=50))
def test_unwrap_never_gives_more_than_is_there(data):
    frame = unwrap(data)
    assert frame is None or len(frame) <= len(data) - 2
    assert (frame is None) == (len(data) < 2 or int.from_bytes(data[:2], "big") > len(data) - 2)


def schedule(mode: DummyMode, rate: float = 50, sizes: tuple[int, ...] = ()) -> DummySchedule:
    return DummySchedule(Dummies(mode=mode, rate=rate, sizes=sizes), 0.0, random.Random(7).random)


def run(made: DummySchedule, seconds: float, data_every: float | None = None) -> tuple[int, list[float]]:
    """Return how many dummies came in ``seconds`` and the times of all packets."""
    now, next_data, times, dummies = 0.0, data_every, [], 0
    while now < seconds:
        deadline = made.next_due()
        if next_data is not None and next_data <= deadline:
            now, next_data = next_data, next_data + data_every
            made.data_sent(now)
            times.append(now)
            continue
        now = max(now, deadline)
        count = made.due(now)
        dummies += count
        times += [now] * count
    return dummies, times


@pytest.mark.parametrize("mode", DummyMode)
def test_without_data_the_rate_is_kept(mode):
    dummies, _ = run(schedule(mode), 100)
    assert 4700 < dummies < 5300


def test_constant_dummies_do_not_depend_on_data():
    assert abs(run(schedule(DummyMode.CONSTANT), 20, 0.05)[0] - run(schedule(DummyMode.CONSTANT), 20)[0]) <= 1


def test_fill_keeps_the_total_at_the_rate_whatever_the_data_is():
    for data_every in (1.0, 0.1, 0.025):
        _, times = run(schedule(DummyMode.FILL), 50, data_every)
        assert 2450 <= len(times) <= 2560


def test_data_above_the_rate_leaves_no_room_and_stops_nothing_for_long():
    made = schedule(DummyMode.FILL)
    dummies, _ = run(made, 10, 0.005)
    assert dummies == 0
    assert made.next_due() <= 10 + 1.1


def test_poisson_gaps_are_not_a_clock():
    _, times = run(schedule(DummyMode.POISSON), 100)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.02, rel=0.1)
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.2)


def test_after_a_pause_there_is_no_flood():
    made = schedule(DummyMode.CONSTANT)
    assert 1 <= made.due(1000.0) <= 50 * MAX_LAG + 2
    assert made.due(1000.0) == 0


def test_sizes_are_those_asked_for():
    made = schedule(DummyMode.CONSTANT, sizes=(100, 5000))
    assert {made.frame_size(1400) for _ in range(100)} == {100, 1400}
    assert schedule(DummyMode.CONSTANT).frame_size(1400) == 1400

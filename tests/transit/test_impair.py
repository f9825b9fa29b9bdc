"""Impairment: seeded, ordered unless asked otherwise, nothing lost that is not counted."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transit.config import Impair
from transit.impair import REORDER_HOLD, Impairment

TICK = 1e-9


def drain(impairment: Impairment[int]) -> list[tuple[float, int]]:
    """Run the clock from deadline to deadline; (time, context) of every frame."""
    out: list[tuple[float, int]] = []
    while (deadline := impairment.next_deadline()) is not None:
        frames = impairment.due(deadline)
        assert frames, "a deadline must bring something"
        out += [(deadline, context) for _, context in frames]
    return out


def run(settings: Impair, times: list[float]) -> list[tuple[float, int]]:
    """Submit one frame at each time, taking out what is due in between; (departure, number)."""
    impairment: Impairment[int] = Impairment(settings)
    out: list[tuple[float, int]] = []
    for number, now in enumerate(times):
        while (deadline := impairment.next_deadline()) is not None and deadline <= now:
            out += [(deadline, context) for _, context in impairment.due(deadline)]
        impairment.submit(bytes(1000), number, now)
    return out + drain(impairment)


def evenly(count: int, gap: float) -> list[float]:
    return [number * gap for number in range(count)]


times = st.lists(st.floats(0, 0.02), max_size=60).map(lambda gaps: [sum(gaps[:n]) for n in range(len(gaps))])
impairs = st.builds(
    Impair,
    delay_ms=st.floats(5, 50),
    jitter_ms=st.floats(0, 5),
    loss=st.sampled_from([0.0, 0.3]),
    reorder=st.sampled_from([0.0, 0.2, 1.0]),
    rate_mbit=st.sampled_from([None, 1.0, 100.0]),
    seed=st.integers(),
)


@given(impairs, times)
def test_every_frame_leaves_once_or_is_counted(settings: Impair, submitted: list[float]) -> None:
    impairment: Impairment[int] = Impairment(settings, queue_frames=20)
    for number, now in enumerate(submitted):
        impairment.submit(b"frame", number, now)
    left = [context for _, context in drain(impairment)]
    assert len(set(left)) == len(left)
    assert len(left) + impairment.lost + impairment.overflowed == len(submitted)
    assert len(impairment) == 0


@given(impairs, times)
def test_order_is_kept_unless_reordering_is_asked_for(settings: Impair, submitted: list[float]) -> None:
    out = run(settings, submitted)
    if settings.reorder == 0:
        numbers = [number for _, number in out]
        assert numbers == sorted(numbers)
    assert [time for time, _ in out] == sorted(time for time, _ in out)


@given(impairs, times)
def test_same_seed_same_result(settings: Impair, submitted: list[float]) -> None:
    assert run(settings, submitted) == run(settings, submitted)


@given(impairs, times)
def test_delay_lies_within_its_bounds(settings: Impair, submitted: list[float]) -> None:
    settings = settings.model_copy(update={"rate_mbit": None, "reorder": 0.0})
    for time, number in run(settings, submitted):
        delay = time - submitted[number]
        assert (settings.delay_ms - settings.jitter_ms) / 1000 - TICK <= delay
        assert delay <= (settings.delay_ms + settings.jitter_ms) / 1000 + TICK


def test_nothing_asked_for_means_at_once_and_in_order() -> None:
    assert Impair().idle
    assert run(Impair(), [0.0, 0.0, 1.0]) == [(0.0, 0), (0.0, 1), (1.0, 2)]


def test_constant_delay() -> None:
    out = run(Impair(delay_ms=20.0), evenly(100, 0.001))
    assert [time for time, _ in out] == pytest.approx([0.020 + number * 0.001 for number in range(100)])


def test_jitter_spreads_evenly_when_frames_are_far_apart() -> None:
    submitted = evenly(4000, 0.1)
    out = run(Impair(delay_ms=20.0, jitter_ms=10.0), submitted)
    delays = [time - submitted[number] for time, number in out]
    assert sum(delays) / len(delays) == pytest.approx(0.020, abs=0.0004)
    assert min(delays) < 0.0105
    assert max(delays) > 0.0295


def test_loss_rate() -> None:
    out = run(Impair(loss=0.1, seed=3), evenly(20_000, 0.001))
    assert 1 - len(out) / 20_000 == pytest.approx(0.1, abs=0.007)


def test_directions_draw_differently() -> None:
    def survivors(stream: str) -> list[int]:
        impairment: Impairment[int] = Impairment(Impair(loss=0.5), stream)
        for number in range(200):
            impairment.submit(b"", number, 0.0)
        return [context for _, context in impairment.due(0.0)]

    assert survivors("port 0") != survivors("port 1")
    assert survivors("port 0") == survivors("port 0")


def test_rate_spaces_frames_out() -> None:
    out = run(Impair(rate_mbit=8.0), [0.0] * 100)
    assert [time for time, _ in out] == pytest.approx([0.001 * (number + 1) for number in range(100)])


def test_rate_below_the_limit_costs_only_the_sending_time() -> None:
    submitted = evenly(50, 0.01)
    for time, number in run(Impair(rate_mbit=8.0), submitted):
        assert time - submitted[number] == pytest.approx(0.001)


def test_rate_queue_is_bounded() -> None:
    impairment: Impairment[int] = Impairment(Impair(rate_mbit=8.0), rate_queue_bytes=10_000)
    for number in range(100):
        impairment.submit(bytes(1000), number, 0.0)
    assert len(drain(impairment)) == 10
    assert impairment.counters() == {"impair_loss": 0, "impair_overflow": 90}


def test_queue_is_bounded() -> None:
    impairment: Impairment[int] = Impairment(Impair(delay_ms=10.0), queue_frames=5)
    for number in range(8):
        impairment.submit(b"x", number, 0.0)
    assert [number for _, number in drain(impairment)] == [0, 1, 2, 3, 4]
    assert impairment.overflowed == 3


def test_reordering_exchanges_neighbours() -> None:
    out = run(Impair(reorder=1.0), evenly(6, 0.001))
    assert [number for _, number in out] == [1, 0, 3, 2, 5, 4]


def test_reordering_rate() -> None:
    numbers = [number for _, number in run(Impair(reorder=0.05, seed=9), evenly(20_000, 0.001))]
    overtaken = sum(1 for first, second in pairwise(numbers) if first > second)
    assert overtaken / 20_000 == pytest.approx(0.05, abs=0.006)


def test_a_held_frame_does_not_wait_for_ever() -> None:
    ((departure, number),) = run(Impair(reorder=1.0, delay_ms=5.0), [0.0])
    assert number == 0
    assert departure == pytest.approx(0.005 + REORDER_HOLD)
    late = run(Impair(reorder=1.0), [0.0, 1.0])
    assert [number for _, number in late] == [0, 1], "the second came too late to overtake"

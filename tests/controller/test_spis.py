"""SPIs: never the same twice, not across crashes either, and never one of the reserved."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.authority import spis
from controller.authority.spis import BLOCK, FIRST_SPI, KEY_SIZE, SpisExhaustedError, SpiSpace, permute

KEYS = st.binary(min_size=KEY_SIZE, max_size=KEY_SIZE)
NUMBERS = st.integers(0, (1 << 32) - 1)


@given(KEYS, st.lists(NUMBERS, unique=True, max_size=50))
def test_the_permutation_maps_different_numbers_to_different_numbers(key: bytes, numbers: list[int]) -> None:
    images = [permute(key, number) for number in numbers]
    assert len(set(images)) == len(images)
    assert all(0 <= image < 1 << 32 for image in images)


def test_a_whole_stretch_is_a_permutation_too() -> None:
    assert len({permute(bytes(KEY_SIZE), number) for number in range(100_000)}) == 100_000


def test_the_order_tells_nothing_without_the_key() -> None:
    first, second = ([permute(bytes([k]) * KEY_SIZE, number) for number in range(1000)] for k in (1, 2))
    assert len(set(first) & set(second)) < 5
    assert sum(low < high for low, high in itertools.pairwise(first)) in range(400, 600)


@settings(deadline=None)
@given(KEYS, st.lists(st.integers(0, 2 * BLOCK), min_size=1, max_size=6))
def test_no_number_comes_back_after_a_crash_wherever_it_falls(key: bytes, lives: list[int]) -> None:
    stored, given_out = 0, set()

    def reserve(limit: int) -> None:
        nonlocal stored
        stored = limit

    for count in lives:
        space = SpiSpace(key, stored, reserve)
        for _ in range(count):
            spi = space.take()
            assert spi >= FIRST_SPI
            assert spi not in given_out
            given_out.add(spi)
        # Here the NVA dies: what it had reserved and not given out is lost, and never used.


def test_the_reservation_comes_before_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    space = SpiSpace(bytes(KEY_SIZE), 0, lambda limit: order.append(f"reserved {limit}"))
    monkeypatch.setattr(spis, "permute", lambda _, number: order.append(f"made {number}") or number + FIRST_SPI)
    for _ in range(BLOCK + 1):
        space.take()
    assert order[:2] == [f"reserved {BLOCK}", "made 0"]
    assert order[-2:] == [f"reserved {2 * BLOCK}", f"made {BLOCK}"]


def test_reserved_numbers_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spis, "permute", lambda _, number: number)
    space = SpiSpace(bytes(KEY_SIZE), 0, lambda _: None)
    assert [space.take(), space.take()] == [FIRST_SPI, FIRST_SPI + 1]


def test_after_the_last_number_there_is_none() -> None:
    space = SpiSpace(bytes(KEY_SIZE), (1 << 32) - 2, lambda _: None)
    space.take()
    space.take()
    for _ in range(2):
        with pytest.raises(SpisExhaustedError, match="new store"):
            space.take()

"""Payload is told apart: random bytes of any sample's size, text, and what only looks busy."""

from __future__ import annotations

import base64
import lzma
import random

import pytest

from experiments.audit.counters import Gaps, Numbers, Recent, Table
from experiments.audit.patterns import describe_sizes
from experiments.audit.payload import ENOUGH, entropy, looks_random


@pytest.mark.parametrize("size", [ENOUGH, 300, 512, 1024])
def test_random_bytes_look_random_and_nothing_else_does(size: int) -> None:
    chance = random.Random(size)
    assert all(looks_random(chance.randbytes(size)) for _ in range(500))
    for made in (
        b"the quick brown fox jumps over the lazy dog " * 30,
        base64.b64encode(chance.randbytes(2048)),
        chance.randbytes(1024).hex().encode(),
        bytes(2048),
        b"".join(n.to_bytes(4, "big") for n in range(512)),
    ):
        assert looks_random(made[:size]) is False


def test_well_compressed_data_cannot_be_told_from_ciphertext() -> None:
    text = " ".join(str(random.Random(n).random()) for n in range(2000)).encode()
    assert looks_random(lzma.compress(text)[1000:2024]) is True


def test_small_samples_say_nothing() -> None:
    assert looks_random(bytes(ENOUGH - 1)) is None


def test_entropy_is_between_none_and_eight_bits() -> None:
    assert entropy(b"") == 0
    assert entropy(bytes(100)) == 0
    assert 7.8 < entropy(random.Random(1).randbytes(1024)) <= 8
    assert 3 < entropy(b"the quick brown fox jumps over the lazy dog " * 30) < 5


def test_sequence_numbers_out_of_order_are_not_repeated_ones() -> None:
    numbers = Numbers()
    assert [numbers.add(n) for n in (5, 3, 4, 9, 3, 5, 2000, 9, 1999, 1999)] == [
        False, False, False, False, True, True, False, False, False, True,
    ]  # fmt: skip
    assert numbers.repeated == 3


def test_recent_packets_are_forgotten_in_the_end() -> None:
    recent = Recent(4)
    assert not any(recent.seen(bytes([n])) for n in range(6))
    assert recent.seen(b"\x05")
    for n in range(6, 20):
        recent.seen(bytes([n]))
    assert not recent.seen(b"\x05")


def test_a_full_table_keeps_the_heavy_rows() -> None:
    gone: list[list[int]] = []
    table: Table[int, list[int]] = Table(4, lambda row: row[0], gone.append)
    for key, weight in enumerate((9, 1, 8, 2, 5)):
        assert table.put(key, [weight])
    assert sorted(table.rows) == [0, 2, 4]
    assert sorted(gone) == [[1], [2]]
    fixed: Table[int, int] = Table(2)
    assert [fixed.put(n, n) for n in range(3)] == [True, True, False]
    assert fixed.evicted == 1


def test_bursts_count_once() -> None:
    gaps = Gaps(0.0)
    for beat in range(1, 15):
        for packet in range(3):
            gaps.add(beat + packet * 0.001)
    assert gaps.count == 14
    assert gaps.regular


@pytest.mark.parametrize(
    ("sizes", "padded"),
    [
        ({100: 200}, True),
        (dict.fromkeys(range(60, 1400), 5), False),
        ({128 * n + 40: 10 for n in range(1, 11)}, True),
        ({1: 10, 2: 10}, None),
        ({128 * n + 40: 10 for n in range(1, 11)} | {41: 1}, False),
        ({128 * n + 40: 10 for n in range(1, 11)} | {-1: 1}, False),
    ],
)
def test_padding_shows_in_sizes(sizes: dict[int, int], padded: bool | None) -> None:
    assert describe_sizes(sizes).padded is padded

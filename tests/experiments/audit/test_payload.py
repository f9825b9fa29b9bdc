"""Payload is told apart: random bytes of any sample's size, text, and what only looks busy."""

from __future__ import annotations

import base64
import lzma
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.audit.counters import Gaps, Numbers, Recent, Table
from experiments.audit.patterns import describe_sizes
from experiments.audit.payload import ENOUGH, LEAST, Content, entropy, looks_random, recognise, shows_pattern
from tests.experiments.audit import captures


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


@pytest.mark.parametrize("size", [LEAST, 24, 40, 100, 1000])
def test_a_pattern_shows_in_few_bytes(size: int) -> None:
    chance = random.Random(size)
    assert sum(bool(shows_pattern(chance.randbytes(size))) for _ in range(2000)) <= 2
    for made in (bytes(1000), b"a" * 1000, b"the quick brown fox jumps over the lazy dog " * 30):
        assert shows_pattern(made[: max(size, 24)]) is True
    assert shows_pattern(bytes(LEAST - 1)) is None


NOISE = random.Random(7).randbytes(2000)


def over(protocol: int, data: bytes, port: int = 443, size: int | None = None) -> Content | None:
    return recognise(protocol, 40000, port, data, len(data) if size is None else size)


@pytest.mark.parametrize(
    "data",
    [
        b"\x17\x03\x03\x01\x00" + NOISE[:256],
        b"\x17\x03\x03\x04\x00" + NOISE[:600],  # goes on in the next segment
        b"\x17\x03\x03\x00\x40" + NOISE[:64] + b"\x17\x03\x03\x00\x40" + NOISE[:64],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + NOISE[:506],  # ClientHello
        b"\x16\x03\x03\x00\x04\x0e\x00\x00\x00",  # ServerHelloDone
        b"\x14\x03\x03\x00\x01\x01\x16\x03\x03\x00\x28" + NOISE[:40],  # ChangeCipherSpec, Finished
        b"\x16\x03\x03\x00\x28" + bytes(7) + b"\x01" + NOISE[:32],  # Finished with an explicit nonce
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x15\x03\x03\x00\x1a" + NOISE[:26],
        b"\x17\x03\x03\x04\x00",  # all that was captured
    ],
)
def test_tls_is_recognised_by_its_records(data: bytes) -> None:
    assert over(6, data) is Content.TLS


@pytest.mark.parametrize(
    "data",
    [
        b"\x17\x03\x03\x01\x00" + b"words of a protocol in clear " * 9,
        b"\x17\x03\x03\x01\x00" + bytes(256),
        b"\x17\x03\x03\x00\x00" + NOISE[:256],
        b"\x17\x03\x03\x48\x01" + NOISE[:256],
        b"\x17\x03\x03\x00\x40" + NOISE[:64] + b"words that no record begins with",
        b"\x16\x03\x01\x00\x40" + bytes(64),
        b"\x14\x03\x03\x00\x02\x01\x01",
        b"\x15\x03\x03\x00\x02\x07\x28",
        b"\x17\x03\x03\x01",
    ],
)
def test_what_only_begins_like_tls_is_none(data: bytes) -> None:
    assert over(6, data) is None


def test_ah_encrypts_nothing_for_a_tenant() -> None:
    ah = bytes([6, 4]) + bytes(2) + b"\0\0\x10\x01\0\0\0\x01" + NOISE[:12]
    assert over(51, ah + b"words in clear " * 20) is Content.AUTHENTICATED
    assert over(51, b"") is Content.AUTHENTICATED
    esp = b"\0\0\x10\x02\0\0\0\x01" + NOISE[:100]
    assert over(51, bytes([50]) + ah[1:] + esp) is Content.IPSEC
    assert over(51, bytes([50]) + ah[1:] + esp[:8] + bytes(100)) is Content.AUTHENTICATED


def test_esp_is_encryption_unless_it_can_be_read() -> None:
    head = b"\0\0\x10\x02\0\0\0\x01"
    for body in (NOISE[:100], bytes(7) + b"\x01" + NOISE[:100], bytes(7) + b"\x01" + NOISE[:20], NOISE[:16]):
        assert over(50, head + body) is Content.IPSEC
        assert over(17, head + body, port=4500) is Content.IPSEC
    for body in (b"words in clear, and more " * 20, bytes(48)):
        assert over(50, head + body, size=400) is Content.AUTHENTICATED
        assert over(17, head + body, port=4500, size=400) is None
    assert over(17, head + NOISE[:8], port=4500, size=200) is None, "too little was captured to say"


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"\0\0\0\0" + NOISE[:60], 64),  # the marker of IKE, and no IKE
        (b"\0\0\0\xff" + NOISE[:60], 64),  # a reserved SPI
        (NOISE[:63], 63),
        (NOISE[:20], 20),
        (b"what is your name? my name is nobody, sir", 44),
    ],
)
def test_a_port_alone_is_no_ipsec(data: bytes, size: int) -> None:
    assert over(17, data, port=4500, size=size) is None
    assert over(17, data, port=500, size=size) is None
    assert recognise(17, 4500, 40000, data, size) is None


def test_ike_agrees_on_keys_and_protects_no_data() -> None:
    message = captures.ike(120)
    assert over(17, message, port=500) is Content.IKE
    assert over(17, bytes(4) + message, port=4500) is Content.IKE
    assert recognise(17, 500, 500, message[:40], 120) is Content.IKE
    assert over(17, message, port=500, size=119) is None
    assert over(17, message[:17] + b"\x50" + message[18:], port=500) is None
    assert over(17, message) is None


@given(st.sampled_from([6, 17, 50, 51]), st.sampled_from([443, 500, 4500]), st.binary(max_size=80), st.integers(0, 99))
def test_no_payload_breaks_it(protocol: int, port: int, data: bytes, more: int) -> None:
    assert recognise(protocol, port, port, data, len(data) + more) in {None, *Content}


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

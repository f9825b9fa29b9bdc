"""Datagrams in one piece: whoever cuts a piece again has what went in, and there are as few pieces as can be."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from nve.datagrams import MAX_DATAGRAMS, MAX_PIECE, Received, cut, pieces, together

SOURCES = (bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2]))


@st.composite
def received(draw: st.DrawFn) -> Received:
    """One datagram, or many that the kernel put together: all of one size, the last perhaps shorter."""
    size = draw(st.sampled_from([1, 3, 4, 4, 4]))
    length = draw(st.sampled_from([0, 1, 3, 4, 4, 8, 8, 9, 12]))
    payload = draw(st.binary(min_size=length, max_size=length))
    segment = size if length > size else 0
    return Received(payload, draw(st.sampled_from(SOURCES)), draw(st.sampled_from([0, 0, 0, 3])), segment)


def one_by_one(packets: Iterable[Received]) -> list[tuple[bytes, bytes, int]]:
    return [(data, item.source, item.traffic_class) for item in packets for data in cut(item.payload, item.segment)]


@given(st.lists(received(), max_size=12))
def test_what_is_put_together_is_what_came(packets: list[Received]) -> None:
    found = list(together(packets))
    assert one_by_one(found) == one_by_one(packets)
    for item in found:
        assert item.segment < max(1, len(item.payload)), "a piece of one datagram says so"
        assert item.count == len(list(cut(item.payload, item.segment)))


@given(st.lists(received(), max_size=12))
def test_neighbours_that_remain_apart_have_a_reason(packets: list[Received]) -> None:
    for first, second in itertools.pairwise(together(packets)):
        size = first.segment or len(first.payload)
        same = (first.source, first.traffic_class) == (second.source, second.traffic_class)
        whole = size > 0 and not len(first.payload) % size
        fits = second.segment == size if second.segment else 0 < len(second.payload) <= size
        assert not (same and whole and fits)


def test_no_piece_stands_for_more_than_a_socket_takes_at_once() -> None:
    packets = [Received(bytes(50 * 60), SOURCES[0], 0, 60), *[Received(bytes(60), SOURCES[0])] * 70]
    assert [piece.count for piece in together(packets)] == [64, 56]


def test_what_the_kernel_had_to_leave_apart_comes_together() -> None:
    whole, rest, last = bytes(45 * 1400), bytes(6 * 1400), bytes(100)
    packets = [Received(whole, SOURCES[0], 0, 1400), Received(rest, SOURCES[0], 0, 1400), Received(last, SOURCES[0])]
    (found,) = together(packets)
    assert (found.count, found.segment) == (52, 1400)


@given(st.lists(st.binary(min_size=1, max_size=5), max_size=30), st.sampled_from([1, 20_000]))
def test_pieces_are_the_payloads_within_the_kernels_bounds(payloads: list[bytes], times: int) -> None:
    given_payloads = [payload * times for payload in payloads]
    made = list(pieces(given_payloads))
    assert [data for payload, size in made for data in cut(payload, size)] == given_payloads
    for payload, size in made:
        assert not size or (len(payload) <= MAX_PIECE and len(payload) <= size * MAX_DATAGRAMS)

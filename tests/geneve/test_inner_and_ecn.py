"""Inner frames and RFC 6040."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve import ecn
from geneve.errors import ParseError
from geneve.inner import parse_inner
from tests.support import checksum, udp_frame

VLAN = b"\x81\x00\x00\x05"


@given(st.binary(max_size=120))
def test_any_bytes_are_a_frame_or_the_one_error(data):
    try:
        inner = parse_inner(data)
    except ParseError:
        return
    assert len(data) >= 14
    for outer in range(4):
        changed = ecn.decapsulate(data, inner, outer)
        assert changed is None or len(changed) == len(data)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tags", [b"", VLAN, b"\x88\xa8\x00\x07" + VLAN])
def test_addresses_and_flow_are_found_behind_tags(version, tags):
    plain = udp_frame(version=version, tos=0xB9)
    inner = parse_inner(plain[:12] + tags + plain[12:])
    assert inner.traffic_class == 0xB9
    assert inner.claims[0][1] == (bytes([10, 0, 0, 1]) if version == 4 else bytes.fromhex("fd000010" + 23 * "0" + "1"))
    assert b"\x0f\xa0\x13\x88" in inner.flow, "ports 4000 and 5000"


def test_all_fragments_of_a_packet_are_one_flow():
    frame = bytearray(udp_frame(data=bytes(100)))
    frame[20:22] = b"\x20\x00"  # first fragment: more to come
    first = parse_inner(bytes(frame)).flow
    frame[20:22] = b"\x00\x10"  # a later one: no ports in it
    assert parse_inner(bytes(frame)).flow == first


def test_a_damaged_ip_header_leaves_a_frame_without_addresses():
    frame = bytearray(udp_frame())
    frame[14] = 0x65
    inner = parse_inner(bytes(frame))
    assert (inner.claims[0][1], inner.readable, inner.traffic_class) == (b"", False, None)


# RFC 6040, figure 4: rows are the inner field, columns the outer one: Not-ECT, ECT(0), ECT(1), CE.
FIGURE_4 = {
    ecn.NOT_ECT: (ecn.NOT_ECT, ecn.NOT_ECT, ecn.NOT_ECT, None),
    ecn.ECT_0: (ecn.ECT_0, ecn.ECT_0, ecn.ECT_1, ecn.CE),
    ecn.ECT_1: (ecn.ECT_1, ecn.ECT_1, ecn.ECT_1, ecn.CE),
    ecn.CE: (ecn.CE, ecn.CE, ecn.CE, ecn.CE),
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("inner", FIGURE_4)
@pytest.mark.parametrize("column", range(4))
def test_decapsulation_follows_the_table(version, inner, column):
    outer = (ecn.NOT_ECT, ecn.ECT_0, ecn.ECT_1, ecn.CE)[column]
    frame = udp_frame(tos=0x28 | inner, version=version)
    result = ecn.decapsulate(frame, parse_inner(frame), 0x40 | outer)
    expected = FIGURE_4[inner][column]
    if expected is None:
        assert result is None
        return
    assert result == udp_frame(tos=0x28 | expected, version=version), "only the ECN field and checksum change"
    if version == 4:
        assert checksum(result[14:34]) == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("dscp", "expected"), [(None, 0xBA), (0, 0x02), (46, 0xBA), (10, 0x2A)])
def test_the_outer_class_copies_ecn_and_maps_dscp(version, dscp, expected):
    inner = parse_inner(udp_frame(tos=0xBA, version=version))
    assert ecn.outer_traffic_class(inner, dscp) == expected


def test_a_frame_that_is_not_ip_gets_no_ecn():
    assert ecn.outer_traffic_class(parse_inner(bytes(12) + b"\x08\x06" + bytes(28)), 0) == 0

"""The Geneve wire format: exact round trips, strict builders, and one family of errors for bad bytes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve.errors import ParseError
from geneve.header import BaseHeader, HeaderField, fields_mask, parse_base_header
from geneve.option import Option, build_options, parse_options
from geneve.packet import Packet, make_packet, parse_packet
from geneve.security.option import is_security_option, scan_options
from geneve.telemetry import Telemetry, build_telemetry, parse_telemetry

words = st.integers(0, 31).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))
options = st.builds(Option, st.integers(0, 0xFFFF), st.integers(0, 0xFF), words, st.integers(0, 7))
option_lists = st.lists(options, max_size=8).filter(lambda found: sum(o.size for o in found) <= 252)
headers = st.builds(
    BaseHeader,
    vni=st.integers(0, 0xFFFFFF),
    protocol_type=st.integers(0, 0xFFFF),
    opt_len=st.just(0),
    oam=st.booleans(),
    critical=st.booleans(),
    version=st.integers(0, 3),
    reserved1=st.integers(0, 63),
    reserved2=st.integers(0, 255),
)


@given(headers, option_lists, st.binary(max_size=100))
def test_every_packet_survives_building_and_parsing(header, found, payload):
    packet = make_packet(header, found, payload)
    assert parse_packet(packet.build()) == packet
    assert packet.header.critical == any(option.critical for option in found)


@given(st.binary(max_size=400))
def test_any_bytes_parse_exactly_or_raise_the_one_error(data):
    try:
        packet = parse_packet(data)
    except ParseError:
        return
    assert packet.build() == data, "what was accepted must be rebuilt bit for bit"


@given(headers, option_lists.filter(bool), st.integers(0, 300))
def test_every_truncation_of_header_or_options_is_refused(header, found, cut):
    data = make_packet(header, found, b"").build()
    with pytest.raises(ParseError):
        parse_packet(data[: cut % len(data)])


@given(headers, option_lists.filter(bool), st.integers(0, 31), st.data())
def test_a_lie_about_an_option_length_never_yields_other_than_parse_error_or_exact_bytes(header, found, lie, data):
    packet = bytearray(make_packet(header, found, b"payload").build())
    index = data.draw(st.integers(0, len(found) - 1))
    position = 8 + sum(option.size for option in found[:index]) + 3
    packet[position] = packet[position] & 0xE0 | lie
    with contextlib.suppress(ParseError):
        assert parse_packet(bytes(packet)).build() == bytes(packet)


def test_known_packet():
    # RFC 8926, figure in section 3: VNI 0x010203, one option of class 0x0102, type 0x80, four bytes.
    data = bytes.fromhex("02 40 6558 010203 00 0102 80 01 deadbeef") + b"inner"
    packet = parse_packet(data)
    assert packet == Packet(
        BaseHeader(vni=0x010203, opt_len=8, critical=True),
        (Option(0x0102, 0x80, bytes.fromhex("deadbeef")),),
        b"inner",
    )


@pytest.mark.parametrize(
    "option",
    [
        Option(0, 0, b"123"),
        Option(0, 0, bytes(128)),
        Option(0x10000, 0),
        Option(0, 256),
        Option(0, 0, b"", 8),
    ],
)
def test_an_option_that_does_not_fit_is_not_built(option):
    with pytest.raises(ValueError, match=r"option"):
        option.build()


def test_options_beyond_252_bytes_are_not_built():
    fits = [Option(1, 1, bytes(124)), Option(1, 1, bytes(120))]
    assert len(build_options(fits)) == 252
    with pytest.raises(ValueError, match="252"):
        build_options([*fits, Option(1, 1)])


@pytest.mark.parametrize(
    "header", [BaseHeader(vni=1 << 24), BaseHeader(vni=-1), BaseHeader(0, opt_len=256), BaseHeader(0, opt_len=2),
               BaseHeader(0, version=4), BaseHeader(0, protocol_type=0x10000)]
)  # fmt: skip
def test_a_header_field_that_does_not_fit_is_not_built(header):
    with pytest.raises(ValueError):  # noqa: PT011 - each field has its own words
        header.build()


def test_the_field_masks_cover_the_header_once():
    assert fields_mask(frozenset(HeaderField)) == 2**64 - 1
    assert sum(fields_mask(frozenset({field})) for field in HeaderField) == 2**64 - 1


@given(headers)
def test_each_field_mask_hits_its_own_field_only(header):
    whole = int.from_bytes(header.build(), "big")
    for field in HeaderField:
        changed = whole ^ fields_mask(frozenset({field}))
        try:
            parsed = parse_base_header(changed.to_bytes(8, "big") + bytes(252))
        except ParseError:
            pytest.fail("252 bytes of options are there")
        different = {name for name in HeaderField if getattr(parsed, name.value) != getattr(header, name.value)}
        assert different == {field}


@given(st.binary(max_size=252))
def test_the_span_scanner_agrees_with_the_option_parser(block):
    try:
        parsed = parse_options(block)
    except ParseError:
        with pytest.raises(ParseError):
            scan_options(bytes(8) + block, 8 + len(block))
        return
    if any(is_security_option(o.option_class, o.type) and len(o.data) < 28 for o in parsed):
        with pytest.raises(ParseError, match="security option"):
            scan_options(bytes(8) + block, 8 + len(block))
        return
    spans = scan_options(bytes(8) + block, 8 + len(block))
    assert [(s.option_class, s.type, s.end - s.start) for s in spans] == [
        (o.option_class, o.type, o.size) for o in parsed
    ]


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_telemetry_round_trip(flow, sequence):
    (option,) = parse_options(build_telemetry(flow, sequence))
    assert parse_telemetry(option) == Telemetry(flow, sequence)
    assert Telemetry(flow, sequence).option() == option


@pytest.mark.parametrize("option", [Option(0xFF60, 2, bytes(8)), Option(0xFF60, 2, bytes(16)), Option(1, 2, bytes(12))])
def test_other_options_are_not_telemetry(option):
    with pytest.raises(ParseError):
        parse_telemetry(option)

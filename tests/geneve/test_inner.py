"""Where inner headers end, and what past faults of others looked like."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

from geneve.errors import ParseError
from geneve.inner import parse_inner
from tests.support import udp_frame

PAYLOAD = Raw(b"payload " * 8)
ENDS = [
    (Ether() / IP() / UDP() / PAYLOAD, 14 + 20 + 8),
    (Ether() / IP() / TCP(options=[("Timestamp", (1, 2))]) / PAYLOAD, 14 + 20 + 32),
    (Ether() / IP() / ICMP() / PAYLOAD, 14 + 20 + 8),
    (Ether() / IP() / SCTP() / PAYLOAD, 14 + 20 + 12),
    (Ether() / IP(options=[b"\x01\x01\x01\x00"]) / UDP() / PAYLOAD, 14 + 24 + 8),
    (Ether() / IP(proto=89) / PAYLOAD, 14 + 20),
    (Ether() / IP(frag=100, proto=17) / PAYLOAD, 14 + 20),
    (Ether() / Dot1Q(vlan=3) / Dot1Q(vlan=4) / IP() / UDP() / PAYLOAD, 14 + 8 + 20 + 8),
    (Ether() / IPv6() / UDP() / PAYLOAD, 14 + 40 + 8),
    (Ether() / IPv6() / ICMPv6EchoRequest() / PAYLOAD, 14 + 40 + 8),
    (Ether() / IPv6() / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / TCP() / PAYLOAD, 14 + 40 + 16 + 20),
    (Ether() / IPv6() / IPv6ExtHdrFragment(offset=9, nh=17) / PAYLOAD, 14 + 40 + 8),
    (Ether() / IPv6() / IPv6ExtHdrFragment(offset=0, m=1) / UDP() / PAYLOAD, 14 + 40 + 8 + 8),
]


@pytest.mark.parametrize(("frame", "end"), ENDS, ids=lambda value: value.summary() if hasattr(value, "summary") else "")
def test_where_the_headers_end(frame, end):
    assert parse_inner(bytes(frame)).headers_end == end


WHOLE = {
    "ARP": bytes(12) + b"\x08\x06" + bytes(46),
    "unknown protocol": bytes(12) + b"\x88\xcc" + bytes(46),
    "IPv4 header length below 5": udp_frame()[:14] + b"\x44" + udp_frame()[15:],
    "IPv4 header longer than the frame": udp_frame()[:14] + b"\x4f" + udp_frame()[15:50],
    "IPv4 cut short": udp_frame()[:30],
    "UDP cut short": udp_frame()[:38],
    "TCP data offset below 5": bytes(Ether() / IP() / TCP(dataofs=4) / PAYLOAD),
    "TCP data offset beyond the frame": bytes(Ether() / IP() / TCP(dataofs=15)),
    "IPv6 cut short": udp_frame(version=6)[:50],
    "IPv6 with nine extension headers": bytes(Ether() / IPv6(nh=0)) + (b"\x00\x00" + bytes(6)) * 9 + b"\x11",
    "IPv6 extension header beyond the frame": bytes(Ether() / IPv6(nh=0)) + b"\x11\xff" + bytes(6),
    "three VLAN tags": bytes(12) + b"\x81\x00\x00\x01" * 3 + b"\x08\x00" + udp_frame()[14:],
}


@pytest.mark.parametrize("frame", WHOLE.values(), ids=WHOLE)
def test_what_cannot_be_read_counts_as_headers_to_its_end(frame):
    assert parse_inner(frame).headers_end == len(frame)


@pytest.mark.parametrize("frame", [b"", bytes(13), bytes(12) + b"\x81\x00", bytes(12) + b"\x81\x00\x00\x01\x88"])
def test_frames_too_short_to_be_any_are_refused(frame):
    with pytest.raises(ParseError):
        parse_inner(frame)


SEEDS = [bytes(frame) for frame, _ in ENDS] + list(WHOLE.values())


@given(st.sampled_from(SEEDS), st.data())
@settings(max_examples=400, deadline=None)
def test_nothing_behind_the_headers_moves_their_end(seed, data):
    frame = bytearray(seed)
    for _ in range(data.draw(st.integers(0, 4))):
        frame[data.draw(st.integers(12, len(frame) - 1))] = data.draw(st.integers(0, 255))
    end = parse_inner(bytes(frame)).headers_end
    assert 14 <= end <= len(frame)
    if end < len(frame):
        behind = data.draw(st.binary(min_size=len(frame) - end, max_size=len(frame) - end))
        assert parse_inner(bytes(frame[:end]) + behind).headers_end == end


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_no_bytes_raise_anything_but_a_parse_error(data):
    for start in (b"", bytes(12) + b"\x08\x00", bytes(12) + b"\x86\xdd", bytes(12) + b"\x81\x00\x00\x07\x86\xdd"):
        try:
            inner = parse_inner(start + data)
        except ParseError:
            continue
        assert 14 <= inner.headers_end <= len(start + data)


def test_fields_of_a_tagged_ipv6_frame():
    frame = bytes(Ether() / Dot1Q(vlan=9) / IPv6(tc=0xB9, fl=7, src="fd00::1", dst="fd00::2") / UDP(sport=5, dport=6))
    inner = parse_inner(frame)
    assert (inner.vlan, inner.dscp, inner.flow_label, inner.protocol) == (9, 46, 7, 17)
    assert (inner.source_port, inner.destination_port, inner.icmp_type) == (5, 6, None)
    assert inner.destination_ip == bytes.fromhex("fd00") + bytes(13) + b"\x02"


def test_the_second_fragment_has_no_ports_and_shares_its_flow_with_the_first():
    first = bytes(Ether() / IP(flags=1, proto=17) / UDP(sport=5, dport=6) / PAYLOAD)
    second = bytes(Ether() / IP(frag=10, proto=17) / struct.pack("!HH", 5, 6) / PAYLOAD)
    assert parse_inner(second).source_port is None
    assert parse_inner(first).flow == parse_inner(second).flow

"""What a tenant is told whose packet is too big."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from geneve.errors import ParseError
from geneve.inner import parse_inner
from nve.too_big import ErrorRate, build_too_big

A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
ETHER = Ether(src=A, dst=B)
BIG = Raw(bytes(1400))


def told(frame, mtu: int = 1300):
    data = bytes(frame)
    reply = build_too_big(data, parse_inner(data), mtu)
    return None if reply is None else Ether(reply)


def test_ipv4_is_told_the_mtu_in_the_name_of_the_destination():
    frame = ETHER / IP(src="10.0.0.1", dst="10.0.0.2", flags="DF") / UDP(sport=5, dport=6) / BIG
    reply = told(frame)
    assert (reply.src, reply.dst, reply[IP].src, reply[IP].dst) == (B, A, "10.0.0.2", "10.0.0.1")
    assert (reply[ICMP].type, reply[ICMP].code, reply[ICMP].nexthopmtu) == (3, 4, 1300)
    assert len(reply[IP]) == 576
    assert bytes(reply[ICMP])[8:] == bytes(frame)[14 : 14 + 576 - 28], "the packet is quoted from its IP header on"
    check = reply.copy()
    del check[IP].chksum, check[ICMP].chksum
    assert bytes(Ether(bytes(check))) == bytes(reply), "both checksums are right"


def test_ipv6_is_told_as_well():
    frame = ETHER / IPv6(src="fd00::1", dst="fd00::2") / TCP(sport=5, dport=6) / BIG
    reply = told(frame, 1290)
    assert (reply[IPv6].src, reply[IPv6].dst) == ("fd00::2", "fd00::1")
    assert reply[ICMPv6PacketTooBig].mtu == 1290
    assert len(reply[IPv6]) <= 1280
    check = reply.copy()
    del check[ICMPv6PacketTooBig].cksum
    assert bytes(Ether(bytes(check))) == bytes(reply)


def test_tags_stay():
    reply = told(ETHER / Dot1Q(vlan=7, prio=3) / IP(src="10.0.0.1", dst="10.0.0.2") / UDP() / BIG)
    assert (reply[Dot1Q].vlan, reply[Dot1Q].prio, reply[ICMP].code) == (7, 3, 4)


SILENT = {
    "ARP": ETHER / ARP() / BIG,
    "to a group": Ether(src=A, dst="01:00:5e:01:01:01") / IP(src="10.0.0.1", dst="239.1.1.1") / UDP() / BIG,
    "a later fragment": ETHER / IP(src="10.0.0.1", dst="10.0.0.2", frag=5) / BIG,
    "an ICMP error": ETHER / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(type=3, code=1) / BIG,
    "an ICMPv6 error": ETHER / IPv6(src="fd00::1", dst="fd00::2") / ICMPv6PacketTooBig() / BIG,
    "no source": ETHER / IPv6(src="::", dst="fd00::2") / UDP() / BIG,
    "no IPv4 source": ETHER / IP(src="0.0.0.0", dst="10.0.0.2") / UDP() / BIG,
    "broadcast": ETHER / IP(src="10.0.0.1", dst="255.255.255.255") / UDP() / BIG,
    "unknown": Ether(src=A, dst=B, type=0x88B5) / BIG,
}


@pytest.mark.parametrize("frame", SILENT.values(), ids=SILENT)
def test_where_no_message_may_be_sent_there_is_none(frame):
    assert told(frame) is None


@pytest.mark.parametrize(
    "frame",
    [
        ETHER / IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(type=8) / BIG,
        ETHER / IPv6(src="fd00::1", dst="fd00::2") / ICMPv6EchoRequest() / BIG,
    ],
)
def test_a_ping_that_is_too_big_is_answered(frame):
    assert told(frame) is not None


@given(st.binary(max_size=120), st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x81\x00\x00\x07\x08\x00"]))
def test_no_frame_makes_it_raise(data, kind):
    frame = bytes.fromhex("02000000000b02000000000a") + kind + data
    try:
        inner = parse_inner(frame)
    except ParseError:
        return
    build_too_big(frame, inner, 1300)


def test_messages_are_limited_in_rate():
    rate = ErrorRate(10, 5)
    assert [rate.allow(0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert rate.allow(0.1)
    assert not rate.allow(0.1)
    assert sum(rate.allow(100.0) for _ in range(20)) == 5
    assert not rate.allow(50.0), "a clock that jumps back gives nothing"

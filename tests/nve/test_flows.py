"""Flow keys: two frames with one key read alike, so one decision is right for both. And the cache stays bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from geneve.errors import ParseError
from geneve.inner import parse_inner
from nve.flows import FlowCache, flow_key

ETHERNET = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4, V6 = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="fd00::1", dst="fd00::2")
BODY = Raw(b"body of some length")
WITH_KEY = {
    "udp": ETHERNET / V4 / UDP(sport=1, dport=2) / BODY,
    "tcp": ETHERNET / V4 / TCP(sport=1, dport=2) / BODY,
    "tcp with options": ETHERNET / V4 / TCP(sport=1, dport=2, options=[("Timestamp", (1, 2))]) / BODY,
    "icmp": ETHERNET / V4 / ICMP(id=1, seq=1) / BODY,
    "udp6": ETHERNET / V6 / UDP(sport=1, dport=2) / BODY,
    "tcp6": ETHERNET / V6 / TCP(sport=1, dport=2) / BODY,
    "echo request 6": ETHERNET / V6 / ICMPv6EchoRequest(id=1, seq=1) / BODY,
    "echo reply 6": ETHERNET / V6 / ICMPv6EchoReply(id=1, seq=1) / BODY,
}
WITHOUT_KEY = {
    "arp": ETHERNET / ARP(),
    "neighbour discovery": ETHERNET / V6 / ICMPv6ND_NS(tgt="fd00::2"),
    "first fragment": ETHERNET / IP(src="10.0.0.1", dst="10.0.0.2", flags="MF") / UDP() / BODY,
    "later fragment": ETHERNET / IP(src="10.0.0.1", dst="10.0.0.2", frag=100) / BODY,
    "tagged": ETHERNET / Dot1Q(vlan=5) / V4 / UDP() / BODY,
    "another protocol": ETHERNET / IP(src="10.0.0.1", dst="10.0.0.2", proto=50) / BODY,
}
FRAMES = {name: bytes(frame) for name, frame in (WITH_KEY | WITHOUT_KEY).items()}


@pytest.mark.parametrize("name", WITH_KEY)
def test_flows_that_are_many_have_a_key(name: str) -> None:
    assert flow_key(FRAMES[name]) is not None


@pytest.mark.parametrize("name", WITHOUT_KEY)
def test_frames_that_are_decided_about_one_by_one_have_none(name: str) -> None:
    assert flow_key(FRAMES[name]) is None


@pytest.mark.parametrize("size", range(64))
def test_no_cut_off_frame_has_a_key_that_stands_for_more_than_it_has(size: int) -> None:
    for frame in FRAMES.values():
        key = flow_key(frame[:size])
        assert key is None or len(key) <= size


def test_number_and_checksum_of_an_echo_are_not_part_of_its_flow_its_type_is() -> None:
    one, other = (bytes(ETHERNET / V4 / ICMP(id=7, seq=seq) / BODY) for seq in (1, 2))
    answer = bytes(ETHERNET / V4 / ICMP(type=0, id=7, seq=1) / BODY)
    assert flow_key(one) == flow_key(other) != flow_key(answer)


def read_alike(frame: bytes, other: bytes) -> bool:
    """Tell whether two frames have one key; fail if they do and are not read alike."""
    if flow_key(frame) is None or flow_key(frame) != flow_key(other):
        return False
    try:
        assert parse_inner(other) == parse_inner(frame)
    except ParseError:
        pytest.fail("a frame that cannot be read has the key of one that can")
    return True


@pytest.mark.parametrize("name", WITH_KEY)
def test_what_a_key_does_not_have_changes_nothing_in_what_is_read(name: str) -> None:
    frame, alike = FRAMES[name], 0
    for place in range(len(frame)):
        for bit in range(8):
            changed = bytearray(frame)
            changed[place] ^= 1 << bit
            alike += read_alike(frame, bytes(changed))
    assert alike >= 8 * len(BODY), "at least what is in the body is no part of the key"
    for size in range(len(frame)):
        read_alike(frame, frame[:size])


@given(st.sampled_from(sorted(WITH_KEY)), st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=4),
       st.integers(0, 120))  # fmt: skip
def test_two_frames_with_one_key_are_read_alike(name: str, changes: list[tuple[int, int]], size: int) -> None:
    changed = bytearray(FRAMES[name])
    for place, value in changes:
        if place < len(changed):
            changed[place] = value
    other = bytes(changed[:size] if size < len(changed) else changed)
    for frame in FRAMES.values():
        read_alike(frame, other)


@given(st.lists(st.integers(0, 30), max_size=200))
def test_the_cache_is_bounded_keeps_what_was_used_lately_and_never_mixes_flows(used: list[int]) -> None:
    size = 8
    cache: FlowCache[str] = FlowCache(size)
    for number in used:
        found = cache.get(number)
        assert found in (None, str(number))
        if found is None:
            cache.put(number, str(number))
        assert len(cache) <= size
    lately = list(dict.fromkeys(reversed(used)))[: size // 2]
    assert all(cache.get(number) == str(number) for number in lately)

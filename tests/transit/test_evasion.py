"""Frames in which a receiver finds Geneve although the device's parser does not: none passes an enforcing device."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneve.control.rules import TagRule, Verdict
from geneve.control.state import TransitVni
from geneve.outer import build_datagram, build_frame
from tests.support import udp_frame
from tests.transit.builders import DESTINATION, MAC_A, MAC_B, NOW_NS, SOURCE, device_state, plain, underlay_frame
from transit.device import Decision, Outcome, TransitDevice
from transit.evasion import find_evasion

PACKET = plain()
PORTS = struct.pack("!HH", 50000, 6081)
ENFORCED = TransitVni(vni=100, group_policy=(TagRule(verdict=Verdict.PERMIT),))


def enforcing() -> TransitDevice:
    device = TransitDevice("t1")
    device.apply(device_state(vnis=(ENFORCED,)))
    return device


def decide(device: TransitDevice, frame: bytes) -> Decision:
    return device.process(frame, 0, NOW_NS)


def ethernet(packet: bytes, tags: int = 0) -> bytes:
    return build_frame(MAC_A, MAC_B, packet, tags=((0x8100, 0),) * tags)


def ipv4(payload: bytes, fragment: int = 0x4000, protocol: int = 17, options: bytes = b"") -> bytes:
    total = 20 + len(options) + len(payload)
    head = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, total, 7, fragment, 64, protocol, 0)
    return head + bytes([192, 168, 1, 1, 192, 168, 1, 2]) + options + payload


def ipv6(payload: bytes, following: int = 17, size: int | None = None) -> bytes:
    size = len(payload) if size is None else size
    return struct.pack("!IHBB", 6 << 28, size, following, 64) + bytes(15) + b"\x01" + bytes(15) + b"\x02" + payload


def udp(data: bytes = PACKET, size: int | None = None, port: int = 6081) -> bytes:
    return struct.pack("!HHHH", 50000, port, 8 + len(data) if size is None else size, 0) + data


def extension(following: int, blocks: int = 0) -> bytes:
    return bytes([following, blocks]) + bytes(6 + 8 * blocks)


def fragment(following: int, place: int, more: bool) -> bytes:
    return struct.pack("!BBHI", following, 0, place << 3 | more, 7)


EVASIVE: dict[str, tuple[bytes, Outcome]] = {
    "first fragment": (ipv4(udp()[:64], 0x2000), Outcome.FRAGMENT),
    "later fragment": (ipv4(PACKET[56:], 8), Outcome.FRAGMENT),
    "middle fragment": (ipv4(PACKET[56:], 0x2008), Outcome.FRAGMENT),
    "fragment of the smallest size": (ipv4(udp()[:8], 0x2000), Outcome.FRAGMENT),
    "fragment far behind": (ipv4(PACKET, 0x1F00), Outcome.FRAGMENT),
    "fragment with IP options": (ipv4(udp()[:64], 0x2000, options=bytes(8)), Outcome.FRAGMENT),
    "IPv6 first fragment": (ipv6(fragment(17, 0, True) + udp()[:64], 44), Outcome.FRAGMENT),
    "IPv6 later fragment": (ipv6(fragment(17, 8, False) + PACKET[56:], 44), Outcome.FRAGMENT),
    "IPv6 atomic fragment": (ipv6(fragment(17, 0, False) + udp(), 44), Outcome.FRAGMENT),
    "IPv6 fragment behind options": (ipv6(extension(44) + fragment(17, 0, True) + udp(), 60), Outcome.FRAGMENT),
    "IPv6 fragment of an option": (ipv6(fragment(60, 0, True) + extension(17) + udp(), 44), Outcome.FRAGMENT),
    "IPv6 chain of nine": (ipv6(extension(60) * 8 + extension(17) + udp(), 60), Outcome.UNREADABLE),
    "IPv6 chain of forty": (ipv6(extension(60) * 39 + extension(17) + udp(), 60), Outcome.UNREADABLE),
    "IPv6 payload length of a jumbogram": (ipv6(extension(17) + udp(), 0, size=0), Outcome.UNREADABLE),
    "IPv6 UDP length 0": (ipv6(udp(size=0)), Outcome.UNREADABLE),
    "bytes behind the datagram": (ipv4(udp() + bytes(4)), Outcome.UNREADABLE),
    "IPv6 bytes behind the datagram": (ipv6(udp() + bytes(4)), Outcome.UNREADABLE),
    "bytes behind the datagram and IP options": (ipv4(udp() + bytes(4), options=bytes(4)), Outcome.UNREADABLE),
}


@pytest.mark.parametrize("tags", [0, 1, 4])
@pytest.mark.parametrize("name", EVASIVE)
def test_evasive_frame_is_dropped_under_its_name(name: str, tags: int) -> None:
    packet, outcome = EVASIVE[name]
    device = enforcing()
    assert decide(device, ethernet(packet, tags)) == Decision(outcome, forward=False)
    assert device.counters()[outcome.value] == 1


@pytest.mark.parametrize("name", EVASIVE)
def test_without_group_policy_it_is_none_of_the_devices_business(name: str) -> None:
    device = TransitDevice("t1")
    device.apply(device_state())
    assert decide(device, ethernet(EVASIVE[name][0])) == Decision(Outcome.NOT_GENEVE)


def test_stack_of_priority_tags() -> None:
    packet = ipv4(udp())
    assert decide(enforcing(), ethernet(packet, 4)).outcome is Outcome.TAG_MISSING
    for behind in (packet, FOREIGN["TCP"]):
        assert decide(enforcing(), ethernet(behind, 5)) == Decision(Outcome.UNREADABLE, forward=False)


FOREIGN = {
    "TCP": ipv4(PORTS + bytes(16), protocol=6),
    "fragment of TCP": ipv4(PORTS + bytes(16), 0x2000, protocol=6),
    "ICMP": ipv4(bytes(8), protocol=1),
    "ESP": ipv4(bytes(40), protocol=50),
    "UDP to another port": ipv4(udp(port=4789)),
    "UDP from the port": ipv4(struct.pack("!HHHH", 6081, 53, 8, 0)),
    "UDP to another port with options": ipv4(udp(port=4789), options=bytes(4)),
    "short UDP": ipv4(b"\x12\x34"),
    "IPv6 UDP to another port": ipv6(udp(port=53)),
    "IPv6 TCP": ipv6(PORTS + bytes(16), 6),
    "IPv6 fragment of TCP": ipv6(fragment(6, 0, True) + bytes(24), 44),
    "IPv6 neighbour discovery": ipv6(bytes(24), 58),
    "IPv6 router alert": ipv6(extension(58) + bytes(24), 0),
    "IPv6 cut short in the chain": ipv6(extension(60) + bytes(4), 60),
    "IPv6 cut short": ipv6(b"")[:30],
    "IPv4 cut short": ipv4(b"")[:15],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_frames_pass_an_enforcing_device(name: str) -> None:
    assert decide(enforcing(), ethernet(FOREIGN[name])) == Decision(Outcome.NOT_GENEVE)


@pytest.mark.parametrize("kind", [0x0806, 0x88CC, 0x8847, 0x9100])
def test_other_ethertypes_pass(kind: int) -> None:
    assert decide(enforcing(), MAC_A + MAC_B + kind.to_bytes(2, "big") + ipv4(udp())).forward


@given(
    st.integers(0, 7),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from([0, 43, 60, 44]), st.integers(0, 2)), max_size=12),
    st.sampled_from([0, 1, 4, 8]),
    st.sampled_from([None, 0]),
    st.sampled_from([0x4000, 0, 0x2000, 0x8000, 3]),
    st.integers(0, 3),
)
@settings(max_examples=500)
def test_no_combination_gets_a_packet_through(
    tags: int, six: bool, chain: list[tuple[int, int]], behind: int, size: int | None, fragment_word: int, words: int
) -> None:
    """A receiver that is as generous as can be would find the same untagged packet in every one of these frames."""
    datagram = udp(size=size) + bytes(behind)
    if six:
        kinds = [kind for kind, _ in chain] + [17]
        for (kind, blocks), following in zip(reversed(chain), reversed(kinds[1:]), strict=True):
            header = fragment(following, 0, False) if kind == 44 else extension(following, blocks)
            datagram = header + datagram
        packet = ipv6(datagram, kinds[0], size)
    else:
        packet = ipv4(datagram, fragment_word, options=bytes(4 * words))
    decision = decide(enforcing(), ethernet(packet, tags))
    assert not decision.forward, decision


@given(st.binary(max_size=200))
def test_any_bytes(frame: bytes) -> None:
    find_evasion(frame)
    decide(enforcing(), frame)


@given(st.integers(0, 120), st.binary(max_size=4), st.sampled_from(sorted(EVASIVE)))
def test_damaged_frames(position: int, damage: bytes, name: str) -> None:
    frame = ethernet(EVASIVE[name][0])
    decide(enforcing(), frame[:position] + damage)


def test_every_truncation() -> None:
    for packet, _ in EVASIVE.values():
        frame = ethernet(packet, 2)
        for size in range(len(frame)):
            decide(enforcing(), frame[:size])


@pytest.mark.parametrize(
    ("packet", "outcome"),
    [
        (b"", Outcome.MALFORMED),
        (PACKET[:7], Outcome.MALFORMED),
        (plain(version=1), Outcome.UNSUPPORTED_VERSION),
        (plain(vni=200, version=3, options=bytes(4)), Outcome.UNSUPPORTED_VERSION),
        (b"\x3f" + PACKET[1:40], Outcome.MALFORMED),
        (plain(options=b"\xff\x60\x02\x1f" + bytes(4)), Outcome.MALFORMED),
        (plain(oam=1), Outcome.TAG_MISSING),
        (plain(protocol_type=0x88B5), Outcome.TAG_MISSING),
        (PACKET[:8], Outcome.TAG_MISSING),
    ],
)
def test_what_cannot_be_read_or_has_no_tag(packet: bytes, outcome: Outcome) -> None:
    for source in (SOURCE, "fd00:6081::1"):
        assert decide(enforcing(), underlay_frame(packet, source)) == Decision(outcome, forward=False)


@pytest.mark.parametrize(
    ("packet", "outcome"),
    [
        (plain(vni=101), Outcome.NOT_ADDRESSED),
        (plain(vni=0, protocol_type=0x88B5), Outcome.NOT_ADDRESSED),
        (plain(vni=101, options=b"\xff\x60\x02\x1f" + bytes(4)), Outcome.MALFORMED),
    ],
)
def test_other_networks_are_left_alone(packet: bytes, outcome: Outcome) -> None:
    assert decide(enforcing(), underlay_frame(packet)) == Decision(outcome)


def test_builders_here_agree_with_those_of_the_program() -> None:
    assert ipv4(udp())[20:26] == build_datagram(SOURCE, DESTINATION, 50000, PACKET)[20:26]
    assert decide(enforcing(), ethernet(ipv6(extension(17, 1) + udp(), 60))).outcome is Outcome.TAG_MISSING
    assert PACKET.endswith(udp_frame())

"""The NVE's decisions, and chains NVE - transit - NVE in memory."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve.control.rules import Action, Rule
from geneve.drops import DropReason
from geneve.errors import ConfigError
from geneve.header import BaseHeader
from geneve.option import Option
from geneve.packet import make_packet, parse_packet
from geneve.security.association import InboundAssociation
from geneve.security.seal import Item
from geneve.security.transit import TransitVerifier, Verified
from geneve.telemetry import parse_telemetry
from nve.datagrams import Received, packed_address
from nve.dataplane import Dataplane
from tests.support import (
    ADDRESSES,
    CLEAR,
    FULL,
    IPS,
    MACS,
    association,
    checksum,
    mac,
    node_state,
    source,
    transit_association,
    udp_frame,
)

FLOW_SECRET = bytes(32)
BROADCAST = b"\xff" * 6


def nve(name: str, **state: object) -> Dataplane:
    made = Dataplane(name, FLOW_SECRET)
    made.apply(node_state(name, **state))
    return made


def send(sender: Dataplane, *frames: bytes, vni: int = 100) -> list[tuple[str, Received]]:
    """Return what leaves, as (outer destination, what its NVE receives)."""
    here = source(sender.name)
    return [
        (datagram.destination, Received(datagram.payload, here, datagram.traffic_class))
        for datagram in sender.from_tenants(vni, frames).datagrams
    ]


def only_drop(node: Dataplane) -> DropReason:
    (reason,) = node.drops
    assert node.drops[reason] >= 1
    return reason


MODES = [{"action": Action.BYPASS}, {"action": Action.SECURE}, {"action": Action.SECURE, "profile": CLEAR}]
modes = pytest.mark.parametrize("mode", MODES, ids=["none", "full", "clear"])


@modes
@pytest.mark.parametrize("version", [4, 6])
def test_a_unicast_frame_reaches_its_nve_only(mode, version):
    one, two = nve("nve1", **mode), nve("nve2", **mode)
    frame = udp_frame(version=version)
    ((destination, packet),) = send(one, frame)
    assert destination == ADDRESSES["nve2"]
    assert two.from_underlay([packet]) == [(100, frame)]
    assert not one.drops
    assert not two.drops


@given(st.lists(st.binary(min_size=14, max_size=200), max_size=20))
def test_no_tenant_frame_makes_the_nve_raise_and_every_one_is_accounted_for(frames):
    node = nve("nve1", telemetry=True, transit=("t1",))
    result = node.from_tenants(100, frames)
    told = sum(node.drops.values()) + len(result.replies) + node.counters["frames_for_local_tenants"]
    assert told + len(result.datagrams) >= len(frames)


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_no_bytes_from_the_underlay_make_the_nve_raise_or_reach_a_tenant(payloads):
    node = nve("nve2")
    assert node.from_underlay([Received(payload, source("nve1")) for payload in payloads]) == []
    assert sum(node.drops.values()) == len(payloads)


@modes
def test_broadcast_and_unknown_unicast_go_to_every_nve_of_the_vni(mode):
    one = nve("nve1", **mode)
    frame = udp_frame()
    for destination in (BROADCAST, b"\x33\x33\0\0\0\1", b"\x02\0\0\0\0\x99"):
        sent = send(one, destination + frame[6:])
        assert sorted(address for address, _ in sent) == [ADDRESSES["nve2"], ADDRESSES["nve3"]]
        for address, packet in sent:
            other = nve("nve" + address[-1], **mode)
            assert other.from_underlay([packet]) == [(100, destination + frame[6:])]


def test_virtual_networks_with_the_same_addresses_never_mix():
    for mode in MODES:
        one, two = nve("nve1", vnis=(100, 200), **mode), nve("nve2", vnis=(100, 200), **mode)
        red, blue = udp_frame(data=b"red"), udp_frame(data=b"blue")
        for vni, frame in ((100, red), (200, blue)):
            ((_, packet),) = send(one, frame, vni=vni)
            assert two.from_underlay([packet]) == [(vni, frame)]


def test_a_frame_for_a_local_tenant_is_left_to_the_bridge():
    one = nve("nve1")
    assert send(one, mac(MACS["nve1"]) + udp_frame()[6:]) == []
    assert one.counters["frames_for_local_tenants"] == 1
    assert not one.drops


# --- drops, each with its name ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "vni", "frame", "reason"),
    [
        ({}, 100, b"short", DropReason.MALFORMED_INNER),
        ({}, 999, udp_frame(), DropReason.UNKNOWN_VNI),
        ({}, 100, udp_frame(data=bytes(1373)), DropReason.FRAME_TOO_BIG),
        ({"policy": ()}, 100, udp_frame(), DropReason.POLICY_DISCARD),
        ({"policy": (Rule(action=Action.DISCARD),)}, 100, udp_frame(), DropReason.POLICY_DISCARD),
        ({"nves": ("nve1",)}, 100, BROADCAST + udp_frame()[6:], DropReason.UNKNOWN_DESTINATION),
    ],
)
def test_frames_that_tenants_send_in_vain(state, vni, frame, reason):
    node = nve("nve1", **state)
    assert send(node, frame, vni=vni) == []
    assert only_drop(node) is reason


def test_the_largest_frame_passes():
    node = nve("nve1")
    assert len(send(node, udp_frame(data=bytes(1372)))) == 1


def test_secure_without_an_association_fails_closed():  # invariant 6
    state = node_state("nve1")
    node = Dataplane("nve1", FLOW_SECRET)
    node.apply(state.model_copy(update={"outbound": ()}))
    assert send(node, udp_frame(), BROADCAST + udp_frame()[6:]) == []
    assert only_drop(node) is DropReason.NO_ASSOCIATION


def test_a_used_up_association_fails_closed():  # invariant 4
    node = nve("nve1")
    for end in node.outbound_associations():
        end.resume(end.hard_limit, end.hard_limit)
    assert send(node, udp_frame()) == []
    assert only_drop(node) is DropReason.SEQUENCE_EXHAUSTED


def receive(packet: bytes, *, at: Dataplane | None = None, from_nve: str = "nve1", tos: int = 0) -> Dataplane:
    node = at or nve("nve2")
    assert node.from_underlay([Received(packet, source(from_nve), tos)]) == []
    return node


def test_stripping_the_security_option_is_refused():  # invariant 6
    packet = parse_packet(send(nve("nve1"), udp_frame())[0][1].payload)
    for payload in (packet.payload, udp_frame()):
        stripped = make_packet(BaseHeader(vni=100), (), payload).build()
        assert only_drop(receive(stripped)) is DropReason.UNPROTECTED


def test_turning_the_security_option_into_one_for_transit_devices_is_refused():  # invariant 6
    payload = bytearray(send(nve("nve1"), udp_frame())[0][1].payload)
    payload[10] = 0x01
    assert only_drop(receive(bytes(payload))) is DropReason.UNPROTECTED


def test_protection_where_the_policy_demands_none_is_a_mismatch():  # invariant 6
    two = Dataplane("nve2", FLOW_SECRET)
    state = node_state("nve2")
    two.apply(state.model_copy(update={"policy": (Rule(action=Action.BYPASS),)}))
    assert only_drop(receive(send(nve("nve1"), udp_frame())[0][1].payload, at=two)) is DropReason.POLICY_MISMATCH


def test_a_weaker_profile_than_the_policy_demands_is_a_mismatch():  # invariant 6
    weak = association(7777, profile="clear")
    two = Dataplane("nve2", FLOW_SECRET)
    state = node_state("nve2")
    two.apply(state.model_copy(update={"profiles": (FULL, CLEAR), "inbound": (*state.inbound, weak)}))
    one = Dataplane("nve1", FLOW_SECRET)
    one.apply(node_state("nve1", profile=CLEAR).model_copy(update={"outbound": (weak,)}))
    packet = send(one, udp_frame())[0][1].payload
    assert only_drop(receive(packet, at=two)) is DropReason.POLICY_MISMATCH


def test_an_insider_cannot_use_its_key_of_one_vni_in_another():  # invariant 9
    insider = Dataplane("nve1", FLOW_SECRET)
    state = node_state("nve1", vnis=(100, 200))
    insider.apply(state)
    stolen = insider._applied.targets[100, "nve2", False, "full", None].sealer
    stolen.vni = 200
    (packet,) = stolen.seal([Item(udp_frame())])
    assert only_drop(receive(packet, at=nve("nve2", vnis=(100, 200)))) is DropReason.POLICY_MISMATCH


def test_an_unknown_vni_is_refused_also_when_it_is_plain():
    plain = make_packet(BaseHeader(vni=555), (), udp_frame()).build()
    assert only_drop(receive(plain)) is DropReason.UNKNOWN_VNI


def frame_from(source_mac: str, source_ip: bytes) -> bytes:
    frame = udp_frame()
    return frame[:6] + mac(source_mac) + frame[12:26] + source_ip + frame[30:]


@pytest.mark.parametrize(
    ("source_mac", "source_ip"),
    [
        (MACS["nve3"], bytes([10, 0, 0, 1])),
        (MACS["nve2"], bytes([10, 0, 0, 1])),
        ("02:00:00:00:00:99", bytes([10, 0, 0, 1])),
        (MACS["nve1"], bytes([10, 0, 0, 3])),
        (MACS["nve1"], bytes([10, 9, 9, 9])),
    ],
    ids=["another NVE's MAC", "own tenant's MAC", "nobody's MAC", "another NVE's IP", "nobody's IP"],
)
def test_a_registered_nve_cannot_speak_for_tenants_that_are_not_its_own(source_mac, source_ip):  # invariant 9
    packet = send(nve("nve1"), frame_from(source_mac, source_ip))[0][1].payload
    assert only_drop(receive(packet)) is DropReason.UNAUTHORISED_SOURCE


def test_arp_senders_are_checked_too():  # invariant 9
    def arp(ip: int) -> bytes:
        return (BROADCAST + mac(MACS["nve1"]) + bytes.fromhex("0806 0001 0800 06 04 0001") + mac(MACS["nve1"])
                + bytes([10, 0, 0, ip]) + bytes(6) + bytes([10, 0, 0, ip]))  # fmt: skip

    one, two = nve("nve1"), nve("nve2")
    (own, _), (foreign, _) = (send(one, arp(ip)) for ip in (1, 3))
    assert len(two.from_underlay([own[1]])) == 1
    assert only_drop(receive(foreign[1].payload, at=two)) is DropReason.UNAUTHORISED_SOURCE


def from_nve1(ethertype: bytes, body: bytes, destination: bytes = mac(MACS["nve2"])) -> bytes:
    return destination + mac(MACS["nve1"]) + ethertype + body


def ip6(payload: bytes, source: str, next_header: int = 58, destination: str = "ff02::1") -> bytes:
    packed = [ipaddress.ip_address(address).packed for address in (source, destination)]
    return struct.pack("!IHBB", 6 << 28, len(payload), next_header, 255) + packed[0] + packed[1] + payload


def advertisement(target: str, link_layer: str) -> bytes:
    return bytes([136, 0, 0, 0, 0x20, 0, 0, 0]) + ipaddress.ip_address(target).packed + b"\x02\x01" + mac(link_layer)


def arp_of(hardware: int, sender_mac: str, sender_ip: int) -> bytes:
    return (struct.pack("!HHBBH", hardware, 0x0800, 6, 4, 1) + mac(sender_mac) + bytes([10, 0, 0, sender_ip])
            + bytes(6) + bytes([10, 0, 0, 2]))  # fmt: skip


OWN6, FOREIGN6 = IPS["nve1"][1], IPS["nve3"][1]
VLAN0 = b"\x81\x00\x00\x00"
FOREIGN_IPV4 = udp_frame()[14:26] + bytes([10, 0, 0, 3]) + udp_frame()[30:]

SPOOFS = {
    "ARP of another hardware type": from_nve1(b"\x08\x06", arp_of(6, MACS["nve1"], 3)),
    "ARP for another's MAC": from_nve1(b"\x08\x06", arp_of(1, MACS["nve3"], 1)),
    "ARP cut short": from_nve1(b"\x08\x06", arp_of(1, MACS["nve1"], 1)[:20]),
    "IPv4 behind three tags": from_nve1(VLAN0 * 3 + b"\x08\x00", FOREIGN_IPV4),
    "IPv4 behind one tag": from_nve1(VLAN0 + b"\x08\x00", FOREIGN_IPV4),
    "IPv4 cut short": from_nve1(b"\x08\x00", FOREIGN_IPV4[:19]),
    "advertisement for another": from_nve1(b"\x86\xdd", ip6(advertisement(FOREIGN6, MACS["nve1"]), OWN6)),
    "advertisement from a link-local address": from_nve1(
        b"\x86\xdd", ip6(advertisement(FOREIGN6, MACS["nve1"]), "fe80::1")
    ),
    "advertisement behind an extension header": from_nve1(
        b"\x86\xdd", ip6(bytes([58, 0, 1, 4, 0, 0, 0, 0]) + advertisement(FOREIGN6, MACS["nve1"]), OWN6, 0)
    ),
    "advertisement of another's MAC": from_nve1(b"\x86\xdd", ip6(advertisement(OWN6, MACS["nve3"]), OWN6)),
    "solicitation that tells another's MAC": from_nve1(
        b"\x86\xdd", ip6(bytes([135]) + bytes(7) + bytes(16) + b"\x01\x01" + mac(MACS["nve3"]), OWN6)
    ),
    "neighbour option of no length": from_nve1(
        b"\x86\xdd", ip6(advertisement(OWN6, MACS["nve1"])[:24] + bytes(8), OWN6)
    ),
    "extension headers without end": from_nve1(b"\x86\xdd", ip6(bytes(8) * 9, OWN6, 0)),
}


@pytest.mark.parametrize("frame", SPOOFS.values(), ids=SPOOFS)
def test_no_form_of_a_frame_speaks_for_somebody_elses_tenant(frame):  # invariant 9
    ((_, packet), *_) = send(nve("nve1"), frame)
    two = nve("nve2")
    assert two.from_underlay([packet]) == []
    assert only_drop(two) is DropReason.UNAUTHORISED_SOURCE


@pytest.mark.parametrize(
    "frame",
    [
        from_nve1(b"\x08\x06", arp_of(1, MACS["nve1"], 1)),
        from_nve1(b"\x86\xdd", ip6(advertisement(OWN6, MACS["nve1"]), OWN6)),
        from_nve1(b"\x86\xdd", ip6(advertisement("fe80::1", MACS["nve1"]), "fe80::1")),
        from_nve1(b"\x86\xdd", ip6(bytes([128]) + bytes(7), OWN6)),
        from_nve1(VLAN0 * 2 + b"\x08\x00", udp_frame()[14:]),
        from_nve1(b"\x88\xb5", b"any other protocol"),
    ],
    ids=["ARP", "advertisement", "link-local advertisement", "echo", "two tags", "not IP"],
)
def test_the_true_forms_pass(frame):
    ((_, packet), *_) = send(nve("nve1"), frame)
    assert nve("nve2").from_underlay([packet]) == [(100, frame)]


@pytest.mark.parametrize(
    ("direction", "item"),
    [
        ("outbound", {"sender": "nve3", "audience": "nve2"}),
        ("inbound", {"sender": "nve2", "audience": "nve3"}),
        ("inbound", {"sender": "nve1", "audience": "nve1"}),
    ],
)
def test_keys_of_other_nodes_are_refused(direction, item):  # invariant 4
    state = node_state("nve1")
    foreign = association(9999, **item)
    with pytest.raises(ConfigError, match="0x0000270f"):
        Dataplane("nve1", FLOW_SECRET).apply(state.model_copy(update={direction: (foreign,)}))


def test_more_transit_devices_than_a_packet_has_room_for_are_refused_with_the_state():
    devices = tuple(f"t{n}" for n in range(1, 9))
    with pytest.raises(ConfigError, match="252"):
        nve("nve1", telemetry=True, transit=devices)
    six = nve("nve1", telemetry=True, transit=devices[:6])
    assert len(send(six, udp_frame())) == 1


def test_tenants_with_the_same_addresses_do_not_show_by_the_same_label():
    one = nve("nve1", vnis=(100, 200))
    first, second = (one.from_tenants(vni, [udp_frame()]).datagrams[0].entropy for vni in (100, 200))
    assert first != second


def test_congestion_that_cannot_be_told_to_the_tenant_is_a_drop():
    packet = send(nve("nve1"), udp_frame(tos=0))[0][1].payload
    assert only_drop(receive(packet, tos=3)) is DropReason.ECN


def test_congestion_marks_cross_the_tunnel():
    ((_, packet),) = send(nve("nve1"), udp_frame(tos=2))
    assert packet.traffic_class == 2
    marked = Received(packet.payload, packet.source, 3)
    ((_, frame),) = nve("nve2").from_underlay([marked])
    assert frame == udp_frame(tos=3)
    assert checksum(frame[14:34]) == 0


# --- states ----------------------------------------------------------------------------------


def test_a_bad_state_leaves_the_last_good_one_in_force():
    one, two = nve("nve1"), nve("nve2")
    good = node_state("nve1")
    broken = good.mappings[1].model_copy(update={"nve": "nowhere"})
    for bad in (
        node_state("nve2"),
        good.model_copy(update={"mappings": (good.mappings[0], broken)}),
        good.model_copy(update={"profiles": ()}),
        good.model_copy(update={"mappings": good.mappings * 2}),
        good.model_copy(update={"outbound": good.outbound * 2}),
    ):
        with pytest.raises(ConfigError):
            one.apply(bad)
    ((_, packet),) = send(one, udp_frame())
    assert two.from_underlay([packet]) == [(100, udp_frame())]


def test_the_same_state_again_changes_nothing():  # invariants 4 and 5
    one, two = nve("nve1"), nve("nve2")
    ((_, first),) = send(one, udp_frame())
    assert len(two.from_underlay([first])) == 1
    one.apply(node_state("nve1"))
    two.apply(node_state("nve2"))
    ((_, second),) = send(one, udp_frame())
    assert second.payload[16:24] == (2).to_bytes(8, "big")
    assert len(two.from_underlay([second])) == 1
    assert only_drop(receive(first.payload, at=two)) is DropReason.REPLAYED


def test_new_keys_replace_the_old_ones():
    one, two = nve("nve1"), nve("nve2")
    ((_, old),) = send(one, udp_frame())
    one.apply(node_state("nve1", epoch=1))
    two.apply(node_state("nve2", epoch=1))
    ((_, new),) = send(one, udp_frame())
    assert two.from_underlay([new]) == [(100, udp_frame())]
    assert only_drop(receive(old.payload, at=two)) is DropReason.UNKNOWN_SPI


# --- telemetry along the path ----------------------------------------------------------------


def test_each_transit_device_on_the_path_verifies_and_the_egress_opens():
    path = ("t1", "t2")
    one, two = nve("nve1", telemetry=True, transit=path), nve("nve2", telemetry=True, transit=path)
    packets = [packet for _, packet in send(one, *[udp_frame()] * 3)]
    for device in path:
        held = InboundAssociation(transit_association("nve1", device), FULL)
        seen = [TransitVerifier([held]).verify(packet.payload, packet.source) for packet in packets]
        assert all(isinstance(result, Verified) for result in seen)
        told = [parse_telemetry(result.options[0]) for result in seen]
        assert [item.sequence for item in told] == [1, 2, 3]
        assert len({item.flow for item in told}) == 1
    assert two.from_underlay(packets) == [(100, udp_frame())] * 3


def test_telemetry_without_protection_is_one_clear_option():
    ((_, packet),) = send(nve("nve1", telemetry=True, action=Action.BYPASS, transit=("t1",)), udp_frame())
    parsed = parse_packet(packet.payload)
    assert [option.size for option in parsed.options] == [16]
    assert parsed.payload == udp_frame()


# --- what the outside may learn --------------------------------------------------------------


def test_source_port_and_flow_label_depend_on_a_secret():
    def labels(secret: bytes) -> set[int]:
        node = Dataplane("nve1", secret)
        node.apply(node_state("nve1"))
        frames = [udp_frame(data=bytes(n)) for n in range(3)]
        return {datagram.entropy for datagram in node.from_tenants(100, frames).datagrams}

    first, second = labels(bytes(32)), labels(b"\1" * 32)
    assert len(first) == len(second) == 1, "one flow keeps its port"
    assert first != second, "who does not know the secret cannot compute it from the addresses"


def test_dscp_is_copied_only_when_asked_for():
    for dscp, expected in ((0, 0), (None, 0xB8), (10, 0x28)):
        node = Dataplane("nve1", FLOW_SECRET, dscp)
        node.apply(node_state("nve1"))
        assert node.from_tenants(100, [udp_frame(tos=0xB8)]).datagrams[0].traffic_class == expected


def test_foreign_options_in_plain_packets_are_accepted_unless_critical():
    for option, ok in ((Option(0x0102, 0x01, bytes(8)), True), (Option(0x0102, 0x81, bytes(8)), False)):
        node = nve("nve2", action=Action.BYPASS)
        packet = make_packet(BaseHeader(vni=100), [option], udp_frame()).build()
        delivered = node.from_underlay([Received(packet, source("nve1"))])
        assert bool(delivered) is ok
        assert ok or only_drop(node) is DropReason.UNKNOWN_CRITICAL_OPTION


def test_an_ipv4_mapped_source_is_an_ipv4_source():
    assert packed_address("::ffff:192.168.1.1") == source("nve1")
    assert len(packed_address("fd00::1")) == 16

"""Offloads change what one call handles, and nothing else: the same bytes at tenants, the same decisions and drops."""

from __future__ import annotations

import ipaddress
import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from geneve.control.rules import Action, Endpoint, Rule
from geneve.inner import parse_inner
from geneve.vnet import GSO_TCPV4, GSO_TCPV6, GSO_UDP, NEEDS_CHECKSUM, VnetHeader
from nve.datagrams import Datagram, Received
from nve.dataplane import Dataplane
from nve.segmentation import Frame, OffloadedFrame, segment
from tests.nve.test_segmentation import as_wire, offloaded
from tests.support import CLEAR, IPS, MACS, node_state, source, udp_frame

MODES = [{"action": Action.BYPASS}, {"action": Action.SECURE}, {"action": Action.SECURE, "profile": CLEAR}]
COMBINATIONS = list(itertools.product([False, True], repeat=4))
"""TSO and USO; UDP_SEGMENT; UDP_GRO; merging."""


def tenant_frames() -> list[OffloadedFrame]:
    """Return what a tenant's kernel leaves whole: two flows, and one with a source that is not its own."""
    ether = Ether(src=MACS["nve1"], dst=MACS["nve2"])
    here, there = IPS["nve1"][0], IPS["nve2"][0]
    ip = IP(src=here, dst=there, id=5, flags="DF")
    data = bytes(i * 31 & 0xFF for i in range(6000))
    tcp = ether / ip / TCP(sport=50001, dport=50002, seq=1, flags="PA") / Raw(data)
    udp = ether / ip / UDP(sport=50003, dport=50004) / Raw(data[:1300])
    stolen = ether / IP(src="10.9.9.9", dst=there, id=5, flags="DF") / TCP(sport=50001, flags="A") / Raw(data)
    return [offloaded(packet, size)[0] for packet, size in ((tcp, 1000), (udp, 100), (stolen, 1000), (tcp, 999))]


def on_the_wire(datagrams: list[Datagram]) -> list[tuple[bytes, int]]:
    return [(payload, item.traffic_class) for item in datagrams for payload in item.payloads()]


@pytest.mark.parametrize("mode", MODES, ids=["none", "full", "clear"])
@pytest.mark.parametrize(("whole", "batching", "gro", "merging"), COMBINATIONS)
def test_every_combination_decides_and_delivers_alike(
    mode: dict[str, object], whole: bool, batching: bool, gro: bool, merging: bool
) -> None:
    one = Dataplane("nve1", bytes(32), batching=batching)
    two = Dataplane("nve2", bytes(32), merging=merging)
    one.apply(node_state("nve1", **mode))
    two.apply(node_state("nve2", **mode))
    frames: list[Frame] = [*tenant_frames(), udp_frame()]
    wire = [piece for frame in frames for piece in as_wire(frame)]
    sent = one.from_tenants(100, frames if whole else wire).datagrams
    packets = on_the_wire(sent)
    assert len(packets) == len(wire)
    assert one.counters["datagrams_sent"] == one.counters["frames_from_tenants"] == len(wire)
    damaged = bytearray(packets[3][0])
    damaged[-1] ^= 1
    packets[3] = (bytes(damaged), packets[3][1])
    packets.insert(8, packets[7])  # a replay in the middle
    received = [Received(payload, source("nve1"), traffic_class) for payload, traffic_class in packets]
    if gro:
        received = [*_joined(received)]
    delivered = two.from_underlay(received)
    protected = mode["action"] is Action.SECURE
    stolen = bytes([10, 9, 9, 9])
    expected = [piece for number, piece in enumerate(wire) if number != 3 and stolen not in piece[:34]]
    got = [piece for _, frame in delivered for piece in as_wire(frame)]
    if protected:
        assert got == expected
        assert {reason.value: count for reason, count in two.drops.items()} == {
            "authentication_failed": 1, "replayed": 1, "unauthorised_source": 6,
        }  # fmt: skip
    else:
        assert len(got) == len(wire) + 1, "nothing is checked, the repeated one comes twice"
        assert not two.drops
    assert two.counters["datagrams_received"] == len(packets)
    assert two.counters["frames_to_tenants"] == len(got)
    if merging:
        assert any(isinstance(frame, OffloadedFrame) for _, frame in delivered)


def _joined(received: list[Received]) -> list[Received]:
    """Put neighbours of one size together, as UDP_GRO does."""
    out: list[Received] = []
    for packet in received:
        last = out[-1] if out else None
        if last is not None and last.traffic_class == packet.traffic_class:
            size = last.segment or len(last.payload)
            if len(last.payload) % size == 0 and len(packet.payload) <= size:
                out[-1] = Received(last.payload + packet.payload, last.source, last.traffic_class, size)
                continue
        out.append(packet)
    return out


def test_a_frame_that_makes_no_sense_is_counted() -> None:
    one = Dataplane("nve1", bytes(32))
    one.apply(node_state("nve1"))
    frame = tenant_frames()[0]
    broken = frame._replace(header=frame.header._replace(gso_size=0))
    assert segment(broken, parse_inner(broken.frame)) is None
    assert one.from_tenants(100, [broken]).datagrams == []
    assert {reason.value for reason in one.drops} == {"malformed_inner"}


OPEN_NETWORKS = ("10.99.0.0/16", "fd99::/16")
WRITES = st.builds(
    VnetHeader, st.just(NEEDS_CHECKSUM), st.sampled_from([0, 0, GSO_UDP, GSO_TCPV4, GSO_TCPV6]), st.just(0),
    st.sampled_from([20, 60]), st.sampled_from([14, 20, 26, 30, 34, 38, 42, 54, 58]), st.integers(0, 20),
)  # fmt: skip
"""What a tenant may say about where its frames are to be cut and their checksums to be written."""


@given(WRITES, st.sampled_from([4, 6]), st.sampled_from([6, 17]), st.binary(min_size=2, max_size=2),
       st.sampled_from([1, 20]))  # fmt: skip
@example(VnetHeader(NEEDS_CHECKSUM, GSO_UDP, 0, 60, 34, 6), 6, 17, b"..", 1)
@example(VnetHeader(NEEDS_CHECKSUM, GSO_UDP, 0, 60, 34, 6), 6, 17, b"..", 20)
@example(VnetHeader(NEEDS_CHECKSUM, 0, 0, 0, 30, 0), 4, 17, b"..", 1)
@example(VnetHeader(NEEDS_CHECKSUM, 0, 0, 0, 30, 0), 4, 17, b"..", 20)
@settings(deadline=None)
def test_the_policy_decides_about_the_frames_that_leave(
    header: VnetHeader, version: int, protocol: int, data: bytes, count: int
) -> None:
    """A tenant says where to write, but cannot make of a frame that may leave in clear one that may not."""
    rules = [Rule(vni=100, destination=Endpoint(ip=prefix), action=Action.BYPASS) for prefix in OPEN_NETWORKS]
    one = Dataplane("nve1", bytes(32), batching=True)
    one.apply(node_state("nve1", policy=(*rules, Rule(vni=100, action=Action.SECURE, profile="full"))))
    frame = bytearray(udp_frame(version=version, data=bytes(100) + data))
    frame[23 if version == 4 else 20] = protocol
    if version == 4:
        frame[30:34] = ipaddress.ip_address("10.99.0.2").packed
    else:
        frame[38:54] = ipaddress.ip_address("fd99::2").packed
    if protocol == 6:
        frame[(34 if version == 4 else 54) + 12] = 0x50
    result = one.from_tenants(100, [OffloadedFrame(header, bytes(frame))] * count, 1.0)
    for datagram in result.datagrams:
        for payload in datagram.payloads():
            if payload[2:4] == b"\x65\x58" and not payload[0] & 0x3F:  # without options: in clear
                left = ipaddress.ip_address(parse_inner(payload[8:]).destination_ip)
                assert any(left in ipaddress.ip_network(prefix) for prefix in OPEN_NETWORKS), left

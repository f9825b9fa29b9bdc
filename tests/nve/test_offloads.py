"""Offloads change what one call handles, and nothing else: the same bytes at tenants, the same decisions and drops."""

from __future__ import annotations

import itertools

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from geneve.control.rules import Action
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
    assert segment(broken, 14) is None
    assert one.from_tenants(100, [broken]).datagrams == []
    assert {reason.value for reason in one.drops} == {"malformed_inner"}

"""ARP and neighbour discovery answered at the NVE."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from nve.dataplane import Dataplane
from tests.support import IPS, MACS, node_state


@pytest.fixture
def node() -> Dataplane:
    made = Dataplane("nve1", bytes(32))
    made.apply(node_state("nve1"))
    return made


def arp(target: str, sender: str = IPS["nve1"][0], op: int = 1) -> bytes:
    return bytes(Ether(src=MACS["nve1"], dst="ff:ff:ff:ff:ff:ff")
                 / ARP(op=op, hwsrc=MACS["nve1"], psrc=sender, pdst=target))  # fmt: skip


def solicitation(target: str, source: str = IPS["nve1"][1], hlim: int = 255) -> bytes:
    return bytes(Ether(src=MACS["nve1"], dst="33:33:ff:00:00:02") / IPv6(src=source, dst="ff02::1:ff00:2", hlim=hlim)
                 / ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=MACS["nve1"]))  # fmt: skip


def test_an_arp_request_for_a_remote_tenant_is_answered_as_it_would_answer(node):
    result = node.from_tenants(100, [arp(IPS["nve2"][0])])
    assert result.datagrams == []
    reply = Ether(result.replies[0])
    assert (reply.src, reply.dst) == (MACS["nve2"], MACS["nve1"])
    assert (reply[ARP].op, reply[ARP].hwsrc, reply[ARP].psrc) == (2, MACS["nve2"], IPS["nve2"][0])
    assert (reply[ARP].hwdst, reply[ARP].pdst) == (MACS["nve1"], IPS["nve1"][0])


def test_a_solicitation_for_a_remote_tenant_is_answered_with_a_right_checksum(node):
    result = node.from_tenants(100, [solicitation(IPS["nve2"][1])])
    assert result.datagrams == []
    reply = Ether(result.replies[0])
    advertisement = reply[ICMPv6ND_NA]
    assert (advertisement.tgt, advertisement.S, advertisement.O, advertisement.R) == (IPS["nve2"][1], 1, 1, 0)
    assert reply[IPv6].hlim == 255
    assert advertisement.lladdr == MACS["nve2"]
    given = advertisement.cksum
    del advertisement.cksum
    assert Ether(bytes(reply))[ICMPv6ND_NA].cksum == given


def test_a_vlan_tag_of_the_request_stands_in_the_reply(node):
    frame = arp(IPS["nve2"][0])
    tagged = frame[:12] + b"\x81\x00\x00\x05" + frame[12:]
    (reply,) = node.from_tenants(100, [tagged]).replies
    assert reply[12:18] == b"\x81\x00\x00\x05\x08\x06"


@pytest.mark.parametrize(
    "frame",
    [
        arp("10.0.0.77"),
        arp(IPS["nve2"][0], sender=IPS["nve2"][0]),
        arp(IPS["nve2"][0], op=2),
        solicitation("fd00:10::77"),
        solicitation(IPS["nve2"][1], source="::"),
        solicitation(IPS["nve2"][1], hlim=64),
    ],
    ids=["unknown IPv4", "announcement", "reply", "unknown IPv6", "duplicate address detection", "off-link"],
)
def test_what_is_not_the_nves_to_answer_is_flooded(node, frame):
    result = node.from_tenants(100, [frame])
    assert result.replies == []
    assert len(result.datagrams) == 2


def test_a_local_tenant_answers_for_itself(node):
    assert node.from_tenants(100, [arp(IPS["nve1"][0], sender="10.0.0.50")]).replies == []


@pytest.mark.parametrize("size", range(14, 86))
def test_cut_off_requests_are_flooded_not_answered(node, size):
    for whole, least in ((arp(IPS["nve2"][0]), 42), (solicitation(IPS["nve2"][1]), 78)):
        replies = node.from_tenants(100, [whole[:size]]).replies
        assert bool(replies) == (size >= least)


def test_the_two_checksum_algorithms_agree():
    from geneve.outer import internet_checksum

    for data in (bytes(8), b"\xff" * 8, ipaddress.ip_address("fd00::1").packed, b"\xff\xff\x00\x01"):
        total = sum(struct.unpack(f"!{len(data) // 2}H", data))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        assert internet_checksum(data) == ~total & 0xFFFF

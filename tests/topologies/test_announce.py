"""A host's announcements are what others understand, by Scapy's reading."""

from __future__ import annotations

import pytest
from scapy.all import ARP, Ether, ICMPv6ND_NA, IPv6

from topologies.announce import announcements


def test_an_ipv4_address_is_announced_by_a_gratuitous_arp_request() -> None:
    (frame,) = announcements("02:00:00:00:00:07", ["10.0.0.7"])
    packet = Ether(frame)
    assert (packet.dst, packet.src) == ("ff:ff:ff:ff:ff:ff", "02:00:00:00:00:07")
    assert (packet[ARP].op, packet[ARP].hwsrc) == (1, "02:00:00:00:00:07")
    assert packet[ARP].psrc == packet[ARP].pdst == "10.0.0.7"


def test_an_ipv6_address_is_announced_by_an_unsolicited_advertisement() -> None:
    (frame,) = announcements("02:00:00:00:00:07", ["fd00:10::7"])
    packet = Ether(frame)
    assert packet.dst == "33:33:00:00:00:01"
    assert (packet[IPv6].hlim, packet[IPv6].src, packet[IPv6].dst) == (255, "fd00:10::7", "ff02::1")
    advertisement = packet[ICMPv6ND_NA]
    assert (advertisement.tgt, advertisement.S, advertisement.O) == ("fd00:10::7", 0, 1)
    written = advertisement.cksum
    del packet[ICMPv6ND_NA].cksum
    assert Ether(bytes(packet))[ICMPv6ND_NA].cksum == written


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0"):
        announcements("02:00:00:00:00:07", ["10.0.0"])

"""``python -m topologies.announce INTERFACE MAC [ADDRESS ...]``: tell a network which addresses a host has.

What a hypervisor does for a machine that has just started or arrived: a gratuitous ARP for each IPv4 address
(RFC 5227, section 3), an unsolicited neighbour advertisement for each IPv6 address (RFC 4861, section 7.2.6). So NVEs
learn where the host is without waiting for it to speak.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from collections.abc import Sequence

from geneve.outer import internet_checksum

_ETHERTYPE_ARP, _ETHERTYPE_IPV6 = 0x0806, 0x86DD
_BROADCAST = b"\xff" * 6
_ICMPV6, _ADVERTISEMENT, _OVERRIDE = 58, 136, 0x20000000
_ALL_NODES = ipaddress.ip_address("ff02::1").packed


def arp_announcement(mac: bytes, address: bytes) -> bytes:
    """Return the Ethernet frame that announces an IPv4 address of 4 bytes."""
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return _BROADCAST + mac + struct.pack("!H", _ETHERTYPE_ARP) + head + mac + address + bytes(6) + address


def neighbour_announcement(mac: bytes, address: bytes) -> bytes:
    """Return the Ethernet frame that announces an IPv6 address of 16 bytes."""
    body = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _OVERRIDE) + address + b"\x02\x01" + mac
    pseudo = address + _ALL_NODES + struct.pack("!II", len(body), _ICMPV6)
    body = body[:2] + struct.pack("!H", internet_checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, 255) + address + _ALL_NODES
    return b"\x33\x33" + _ALL_NODES[-4:] + mac + struct.pack("!H", _ETHERTYPE_IPV6) + header + body


def announcements(mac: str, addresses: Sequence[str]) -> list[bytes]:
    """Return one frame for each address; ValueError when one is none."""
    source = bytes.fromhex(mac.replace(":", ""))
    frames = []
    for text in addresses:
        address = ipaddress.ip_address(text)
        make = arp_announcement if address.version == 4 else neighbour_announcement
        frames.append(make(source, address.packed))
    return frames


def main(argv: Sequence[str] | None = None) -> int:
    """Send the announcements; returns the exit code."""
    interface, mac, *addresses = sys.argv[1:] if argv is None else argv
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((interface, 0))
        for frame in announcements(mac, addresses):
            sender.send(frame)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

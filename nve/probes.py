"""Questions to a tenant on the NVE's own bridge whether it is still there: ARP and neighbour solicitation (pure).

They are sent from an address that no tenant has, so that the answers come back to the NVE, which keeps them to
itself.
"""

from __future__ import annotations

import ipaddress
import struct

from geneve.outer import internet_checksum

PROBE_MAC = bytes.fromhex("026081ff0000")
"""Ethernet source of the questions, locally administered; the same everywhere, since no question leaves its bridge."""

_BROADCAST = b"\xff" * 6
_ETHERTYPE_ARP, _ETHERTYPE_IPV6 = b"\x08\x06", b"\x86\xdd"
_ARP_REQUEST = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
_PROBE_IPV6 = ipaddress.ip_address("fe80::60:81ff:feff:0").packed
_SOLICITED_NODE = ipaddress.ip_address("ff02::1:ff00:0").packed
_ICMPV6 = 58
_NEIGHBOUR_SOLICITATION = 135
_HOP_LIMIT = 255


def build_probe(ip: bytes) -> bytes:
    """Return the frame that asks for whoever has ``ip`` (4 or 16 bytes)."""
    return _arp_probe(ip) if len(ip) == 4 else _solicitation(ip)


def _arp_probe(ip: bytes) -> bytes:
    """An ARP probe: sender 0.0.0.0, so that no tenant's ARP cache changes (RFC 5227, section 1.1)."""
    return _BROADCAST + PROBE_MAC + _ETHERTYPE_ARP + _ARP_REQUEST + PROBE_MAC + bytes(4) + bytes(6) + ip


def _solicitation(ip: bytes) -> bytes:
    """A neighbour solicitation (RFC 4861, section 4.3) from a link-local address of the NVE's own.

    From the unspecified address it would be duplicate address detection (RFC 4862, section 5.4): a tenant that
    is about to take the address would give it up, and the answer of one that has it would go to all nodes.
    """
    group = _SOLICITED_NODE[:13] + ip[13:]
    body = struct.pack("!BBHI", _NEIGHBOUR_SOLICITATION, 0, 0, 0) + ip + b"\x01\x01" + PROBE_MAC
    checksum = internet_checksum(_PROBE_IPV6 + group + struct.pack("!II", len(body), _ICMPV6) + body)
    body = body[:2] + struct.pack("!H", checksum) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, _HOP_LIMIT) + _PROBE_IPV6 + group
    return b"\x33\x33" + group[12:] + PROBE_MAC + _ETHERTYPE_IPV6 + header + body

"""What is under the overlay in a captured frame: link layer, IP with extension headers, and what IP carries.

More forms than an NVE or a transit device meets (``geneve/outer.py``): captures come from other places than Ethernet
ports, and may hold the beginning of each packet only. Nothing is verified, and nothing is reassembled.
"""

from __future__ import annotations

from typing import NamedTuple

from geneve.outer import ETHERTYPE_IPV4, ETHERTYPE_IPV6, MAX_EXTENSION_HEADERS, MAX_TAGS

LINKTYPE_ETHERNET = 1
ETHERTYPE_MACSEC = 0x88E5
PROTOCOL_UDP, PROTOCOL_ESP, PROTOCOL_AH = 17, 50, 51

LINK_NAMES = {
    0: "BSD loopback", 1: "Ethernet", 12: "raw IP", 14: "raw IP", 101: "raw IP", 108: "OpenBSD loopback",
    113: "Linux cooked v1", 228: "raw IPv4", 229: "raw IPv6", 276: "Linux cooked v2",
}  # fmt: skip
"""Link types that are read (tcpdump.org/linktypes.html); 12 and 14 are raw IP's number on some systems."""

_RAW = frozenset({12, 14, 101, 228, 229})
_TAGS = frozenset({0x8100, 0x88A8, 0x9100})
_EXTENSIONS = frozenset({0, 43, 60})
_FRAGMENT = 44
_BSD_IPV4 = frozenset({2})
_BSD_IPV6 = frozenset({10, 24, 28, 30})
"""AF_INET6 on Linux, NetBSD and OpenBSD, FreeBSD, and Darwin."""


class Network(NamedTuple):
    """An IP packet in a frame. Addresses are packed; offsets count from the frame's start, ``end`` by IP's own word.

    ``protocol`` is what stands at ``transport``, behind extension headers. ``fragment`` is set for any part of a
    fragmented packet; ``first`` where the transport header is in this part.
    """

    source: bytes
    destination: bytes
    protocol: int
    transport: int
    end: int
    fragment: bool
    first: bool


def find_network(linktype: int, data: bytes) -> tuple[int, int] | None:
    """Return the EtherType of what a frame carries and where it starts; None for other link types and short frames."""
    if linktype == LINKTYPE_ETHERNET:
        return _tagged(data, 12)
    if linktype in _RAW:
        return _raw(data, 0)
    if linktype == 113:
        return _tagged(data, 14)
    if linktype == 276:
        kind = int.from_bytes(data[0:2], "big")
        return (kind, 20) if kind not in _TAGS and len(data) >= 20 else _tagged(data, 22) if len(data) > 20 else None
    if linktype in (0, 108):
        family = int.from_bytes(data[:4], "big")
        family = family if family < 0x10000 else int.from_bytes(data[:4], "little")
        if len(data) > 4 and family in _BSD_IPV4 | _BSD_IPV6:
            return (ETHERTYPE_IPV4 if family in _BSD_IPV4 else ETHERTYPE_IPV6), 4
    return None


def _raw(data: bytes, at: int) -> tuple[int, int] | None:
    version = data[at] >> 4 if len(data) > at else 0
    return {4: (ETHERTYPE_IPV4, at), 6: (ETHERTYPE_IPV6, at)}.get(version)


def _tagged(data: bytes, at: int) -> tuple[int, int] | None:
    """Read an EtherType at ``at`` and go past VLAN tags."""
    for _ in range(MAX_TAGS + 1):
        if len(data) < at + 2:
            return None
        kind = data[at] << 8 | data[at + 1]
        if kind not in _TAGS:
            return kind, at + 2
        at += 4
    return None


def parse_network(data: bytes, kind: int, at: int) -> Network | None:
    """Read the IP packet of EtherType ``kind`` at ``at``; None when it is none, or is damaged."""
    if kind == ETHERTYPE_IPV4:
        return _ipv4(data, at)
    return _ipv6(data, at) if kind == ETHERTYPE_IPV6 else None


def _ipv4(data: bytes, at: int) -> Network | None:
    """RFC 791, section 3.1. A total length of 0 is what segmentation offload leaves in a sender's own capture."""
    if len(data) < at + 20 or data[at] >> 4 != 4:
        return None
    header = (data[at] & 15) * 4
    total = (data[at + 2] << 8 | data[at + 3]) or len(data) - at
    if header < 20 or total < header:
        return None
    word = data[at + 6] << 8 | data[at + 7]
    return Network(
        data[at + 12 : at + 16], data[at + 16 : at + 20], data[at + 9], at + header, at + total,
        bool(word & 0x3FFF), not word & 0x1FFF,
    )  # fmt: skip


def _ipv6(data: bytes, at: int) -> Network | None:
    """RFC 8200, sections 3 and 4."""
    if len(data) < at + 40 or data[at] >> 4 != 6:
        return None
    following, start = data[at + 6], at + 40
    end = start + ((data[at + 4] << 8 | data[at + 5]) or len(data) - start)
    fragment, first = False, True
    for _ in range(MAX_EXTENSION_HEADERS):
        if following == _FRAGMENT and len(data) >= start + 8:
            word = data[start + 2] << 8 | data[start + 3]
            fragment = fragment or bool(word & 0xFFF9)
            following, start = data[start], start + 8
            if word & 0xFFF8:
                first = False
                break
        elif following in _EXTENSIONS and len(data) >= start + 8:
            following, start = data[start], start + (data[start + 1] + 1) * 8
        else:
            break
    if following in _EXTENSIONS or (following == _FRAGMENT and first) or start > end:
        return None
    return Network(data[at + 8 : at + 24], data[at + 24 : at + 40], following, start, end, fragment, first)


def authenticated_by_ah(network: Network, data: bytes) -> Network | None:
    """Return what AH carries (RFC 4302, section 2), as if it were not there; None when its header is cut."""
    at = network.transport
    if len(data) < at + 12:
        return None
    start = at + (data[at + 1] + 2) * 4
    if start > network.end:
        return None
    return network._replace(protocol=data[at], transport=start)

"""The tenant's Ethernet frame: what the overlay reads of it, and nothing more.

Frames come from tenants, who may send anything: every length is checked, and a frame that is
Ethernet but carries a damaged IP header is still a frame (the overlay is layer 2), it just has no
IP addresses.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from geneve.errors import ParseError

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_VLAN = 0x8100
ETHERTYPE_QINQ = 0x88A8
ETHERTYPE_IPV6 = 0x86DD

MIN_FRAME_SIZE = 14
"""Bytes of an Ethernet header; the overlay carries no preamble, padding or FCS of its own."""

MAX_VLAN_TAGS = 2

_ETHERTYPE = struct.Struct("!H")
_ARP_IPV4 = b"\x00\x01\x08\x00\x06\x04"
_PORTS_PROTOCOLS = frozenset({6, 17, 33, 132})
_ICMPV6 = 58
_EXTENSION_HEADERS = frozenset({0, 43, 60})
"""Hop-by-hop, routing and destination options: what may stand between IPv6 and a neighbour message."""
_MAX_EXTENSION_HEADERS = 8
_NEIGHBOUR_OPTIONS_AT = {133: 8, 134: 16, 135: 24, 136: 24, 137: 40}
"""ICMPv6 type of each neighbour discovery message -> where its options start (RFC 4861, section 4)."""
_NEIGHBOUR_ADVERTISEMENT = 136


@dataclass(frozen=True, slots=True)
class InnerFrame:
    """What was read of a frame. Addresses are bytes; those that the frame does not have are empty.

    ``claims`` are the (MAC, IP) pairs that the frame says belong to its sender: from Ethernet and IP, and
    what ARP and neighbour discovery tell the receiver to believe. ``readable`` is false when the frame
    may say more than could be read, so that nobody can tell whom it speaks for.
    ``flow`` identifies the inner flow: addresses, protocol and, where they can be read, ports.
    """

    destination: bytes
    source: bytes
    ethertype: int
    network_offset: int
    traffic_class: int | None
    claims: tuple[tuple[bytes, bytes], ...]
    readable: bool
    flow: bytes


def parse_inner(frame: bytes) -> InnerFrame:
    """Read an Ethernet frame's headers; ParseError when it is too short to be one, or has a cut-off tag."""
    size = len(frame)
    if size < MIN_FRAME_SIZE:
        raise ParseError(f"inner frame of {size} bytes, at least {MIN_FRAME_SIZE} needed")
    offset = 12
    (ethertype,) = _ETHERTYPE.unpack_from(frame, offset)
    for _ in range(MAX_VLAN_TAGS):
        if ethertype not in (ETHERTYPE_VLAN, ETHERTYPE_QINQ):
            break
        offset += 4
        if size < offset + 2:
            raise ParseError("802.1Q tag cut short")
        (ethertype,) = _ETHERTYPE.unpack_from(frame, offset)
    start = offset + 2
    source = frame[6:12]
    traffic_class: int | None = None
    claims: tuple[tuple[bytes, bytes], ...] = ((source, b""),)
    readable, flow = True, b""
    if ethertype == ETHERTYPE_IPV4:
        if readable := size >= start + 20 and frame[start] >> 4 == 4:
            traffic_class = frame[start + 1]
            claims = ((source, frame[start + 12 : start + 16]),)
            flow = frame[start + 9 : start + 10] + frame[start + 12 : start + 20] + _ipv4_ports(frame, start)
    elif ethertype == ETHERTYPE_IPV6:
        if readable := size >= start + 40 and frame[start] >> 4 == 6:
            traffic_class = (frame[start] << 4 | frame[start + 1] >> 4) & 0xFF
            protocol = frame[start + 6]
            told = () if protocol in _PORTS_PROTOCOLS else _neighbour_claims(frame, start)
            readable = told is not None
            claims = ((source, frame[start + 8 : start + 24]), *(told or ()))
            ports = frame[start + 40 : start + 44] if protocol in _PORTS_PROTOCOLS else b""
            flow = bytes([protocol]) + frame[start + 8 : start + 40] + ports
    elif ethertype == ETHERTYPE_ARP:
        # Any other form of ARP could not be read here, while a tenant's kernel may well believe it.
        if readable := frame[start : start + 6] == _ARP_IPV4 and size >= start + 28:
            claims = ((source, b""), (frame[start + 8 : start + 14], frame[start + 14 : start + 18]))
    elif ethertype in (ETHERTYPE_VLAN, ETHERTYPE_QINQ):
        readable = False  # more tags than are looked behind
    return InnerFrame(
        destination=frame[0:6],
        source=source,
        ethertype=ethertype,
        network_offset=start,
        traffic_class=traffic_class,
        claims=claims,
        readable=readable,
        flow=frame[0:12] + ethertype.to_bytes(2, "big") + flow,
    )


def _neighbour_claims(frame: bytes, start: int) -> tuple[tuple[bytes, bytes], ...] | None:
    """Return the addresses that an IPv6 packet's neighbour discovery message claims; None if unreadable.

    A message in fragments is left alone: receivers must ignore it (RFC 6980).
    """
    protocol, offset = frame[start + 6], start + 40
    for _ in range(_MAX_EXTENSION_HEADERS):
        if protocol not in _EXTENSION_HEADERS:
            break
        if len(frame) < offset + 2:
            return None
        protocol, offset = frame[offset], offset + (frame[offset + 1] + 1) * 8
    else:
        return None
    if protocol != _ICMPV6:
        return ()
    if len(frame) <= offset:
        return None
    options_at = _NEIGHBOUR_OPTIONS_AT.get(frame[offset])
    if options_at is None:
        return ()
    position = offset + options_at
    if len(frame) < position:
        return None
    address = frame[start + 8 : start + 24]
    claims: list[tuple[bytes, bytes]] = []
    if frame[offset] == _NEIGHBOUR_ADVERTISEMENT:
        address = frame[offset + 8 : offset + 24]
        claims.append((frame[6:12], address))
    while position + 8 <= len(frame):
        kind, length = frame[position], frame[position + 1] * 8
        if length == 0 or position + length > len(frame):
            return None
        if kind in (1, 2) and frame[offset] != 137:  # a redirect names another's address, not the sender's
            claims.append((frame[position + 2 : position + 8], address))
        position += length
    return tuple(claims)


def _ipv4_ports(frame: bytes, start: int) -> bytes:
    """Return the four bytes of ports, or nothing: fragments after the first have none to read."""
    (fragment,) = _ETHERTYPE.unpack_from(frame, start + 6)
    if frame[start + 9] not in _PORTS_PROTOCOLS or fragment & 0x3FFF:
        # The first fragment too is left without, so that all fragments of a packet take one path.
        return b""
    ports = start + (frame[start] & 0x0F) * 4
    return frame[ports : ports + 4]

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
_FRAGMENT_HEADER = 44
_MAX_EXTENSION_HEADERS = 8
_FRAGMENT_OFFSET = 0x1FFF
_ANY_FRAGMENT = 0x3FFF
"""Offset and "more fragments" of an IPv4 header's second word."""
_TCP = 6
_TRANSPORT_HEADERS = {1: 8, _TCP: 20, 17: 8, 33: 12, _ICMPV6: 8, 132: 12, 136: 8}
"""Protocol -> least size of its header in bytes: ICMP, TCP, UDP, DCCP, ICMPv6, SCTP, UDP-Lite."""
_PORTS = struct.Struct("!HH")
_NEIGHBOUR_OPTIONS_AT = {133: 8, 134: 16, 135: 24, 136: 24, 137: 40}
"""ICMPv6 type of each neighbour discovery message -> where its options start (RFC 4861, section 4)."""
_NEIGHBOUR_ADVERTISEMENT = 136


@dataclass(slots=True)
class InnerFrame:
    """What was read of a frame. Addresses are bytes; those that the frame does not have are empty.

    ``claims`` are the (MAC, IP) pairs that the frame says belong to its sender: from Ethernet and IP, and
    what ARP and neighbour discovery tell the receiver to believe. ``readable`` is false when the frame
    may say more than could be read, so that nobody can tell whom it speaks for.
    ``flow`` identifies the inner flow: addresses, protocol and, where they can be read, ports.
    ``headers_end`` is where the L2-L4 headers end, in bytes from the frame's start; the whole frame where they
    cannot be read. It depends on the frame's length and on bytes in front of it only, so nobody who may change
    what follows can move it. Fields that a frame does not have are None.
    """

    destination: bytes
    source: bytes
    ethertype: int
    network_offset: int
    traffic_class: int | None
    claims: tuple[tuple[bytes, bytes], ...]
    readable: bool
    flow: bytes
    headers_end: int
    vlan: int | None = None
    flow_label: int | None = None
    protocol: int | None = None
    source_ip: bytes = b""
    destination_ip: bytes = b""
    source_port: int | None = None
    destination_port: int | None = None
    icmp_type: int | None = None
    transport_offset: int | None = None
    """Where the header behind IP and its extension headers starts, in bytes; None where there is none to be seen."""

    @property
    def dscp(self) -> int | None:
        """The differentiated services code point; None where there is no IP header."""
        return None if self.traffic_class is None else self.traffic_class >> 2


def parse_inner(frame: bytes) -> InnerFrame:
    """Read an Ethernet frame's headers; ParseError when it is too short to be one, or has a cut-off tag."""
    size = len(frame)
    if size < MIN_FRAME_SIZE:
        raise ParseError(f"inner frame of {size} bytes, at least {MIN_FRAME_SIZE} needed")
    offset = 12
    vlan: int | None = None
    (ethertype,) = _ETHERTYPE.unpack_from(frame, offset)
    for _ in range(MAX_VLAN_TAGS):
        if ethertype not in (ETHERTYPE_VLAN, ETHERTYPE_QINQ):
            break
        offset += 4
        if size < offset + 2:
            raise ParseError("802.1Q tag cut short")
        if vlan is None:
            vlan = _ETHERTYPE.unpack_from(frame, offset - 2)[0] & 0xFFF
        (ethertype,) = _ETHERTYPE.unpack_from(frame, offset)
    start = offset + 2
    source = frame[6:12]
    inner = InnerFrame(
        destination=frame[0:6],
        source=source,
        ethertype=ethertype,
        network_offset=start,
        traffic_class=None,
        claims=((source, b""),),
        readable=True,
        flow=b"",
        headers_end=size,
        vlan=vlan,
    )
    if ethertype == ETHERTYPE_IPV4:
        _read_ipv4(frame, inner)
    elif ethertype == ETHERTYPE_IPV6:
        _read_ipv6(frame, inner)
    elif ethertype == ETHERTYPE_ARP:
        # Any other form of ARP could not be read here, while a tenant's kernel may well believe it.
        inner.readable = frame[start : start + 6] == _ARP_IPV4 and size >= start + 28
        if inner.readable:
            inner.claims = ((source, b""), (frame[start + 8 : start + 14], frame[start + 14 : start + 18]))
    elif ethertype in (ETHERTYPE_VLAN, ETHERTYPE_QINQ):
        inner.readable = False  # more tags than are looked behind
    inner.flow = frame[0:12] + ethertype.to_bytes(2, "big") + inner.flow
    return inner


def _read_ipv4(frame: bytes, inner: InnerFrame) -> None:
    start, size = inner.network_offset, len(frame)
    if size < start + 20 or frame[start] >> 4 != 4:
        inner.readable = False
        return
    protocol = frame[start + 9]
    inner.traffic_class = frame[start + 1]
    inner.protocol = protocol
    inner.source_ip, inner.destination_ip = frame[start + 12 : start + 16], frame[start + 16 : start + 20]
    inner.claims = ((inner.source, inner.source_ip),)
    inner.flow = frame[start + 9 : start + 10] + frame[start + 12 : start + 20]
    transport = start + ((frame[start] & 0x0F) << 2)
    (fragment,) = _ETHERTYPE.unpack_from(frame, start + 6)
    if transport < start + 20 or transport > size:
        return  # a damaged header: the frame is carried, but says nothing more
    if fragment & _FRAGMENT_OFFSET:
        inner.headers_end = transport
        return
    _read_transport(frame, inner, protocol, transport)
    # The first fragment too is left without ports in its flow, so that all fragments of a packet take one path.
    if protocol in _PORTS_PROTOCOLS and not fragment & _ANY_FRAGMENT:
        inner.flow += frame[transport : transport + 4]


def _read_ipv6(frame: bytes, inner: InnerFrame) -> None:
    start, size = inner.network_offset, len(frame)
    if size < start + 40 or frame[start] >> 4 != 6:
        inner.readable = False
        return
    first = int.from_bytes(frame[start : start + 4], "big")
    protocol = frame[start + 6]
    inner.traffic_class = first >> 20 & 0xFF
    inner.flow_label = first & 0xFFFFF
    inner.source_ip, inner.destination_ip = frame[start + 8 : start + 24], frame[start + 24 : start + 40]
    told = () if protocol in _PORTS_PROTOCOLS else _neighbour_claims(frame, start)
    inner.readable = told is not None
    inner.claims = ((inner.source, inner.source_ip), *(told or ()))
    ports = frame[start + 40 : start + 44] if protocol in _PORTS_PROTOCOLS else b""
    inner.flow = bytes([protocol]) + frame[start + 8 : start + 40] + ports
    transport = start + 40
    for _ in range(_MAX_EXTENSION_HEADERS):
        if protocol == _FRAGMENT_HEADER:
            if size < transport + 8:
                break
            (fragment,) = _ETHERTYPE.unpack_from(frame, transport + 2)
            protocol, transport = frame[transport], transport + 8
            if fragment & 0xFFF8:
                inner.protocol, inner.headers_end = protocol, transport
                return
        elif protocol in _EXTENSION_HEADERS:
            if size < transport + 8:
                break
            protocol, transport = frame[transport], transport + (frame[transport + 1] + 1) * 8
        else:
            inner.protocol = protocol
            if transport <= size:
                _read_transport(frame, inner, protocol, transport)
            return
    inner.protocol = protocol


def _read_transport(frame: bytes, inner: InnerFrame, protocol: int, start: int) -> None:
    """Read ports or ICMP type at ``start`` and where the header ends, if all of it is there."""
    size = len(frame)
    inner.transport_offset = start
    least = _TRANSPORT_HEADERS.get(protocol)
    if least is None:
        inner.headers_end = start  # what follows is nothing whose headers are known here
        return
    if size >= start + 4:
        if protocol in _PORTS_PROTOCOLS:
            inner.source_port, inner.destination_port = _PORTS.unpack_from(frame, start)
        else:
            inner.icmp_type = frame[start]
    end = start + least
    if size < end:
        return
    if protocol == _TCP:
        end = start + ((frame[start + 12] >> 4) << 2)
        if not start + least <= end <= size:
            return
    inner.headers_end = end


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

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


@dataclass(frozen=True, slots=True)
class InnerFrame:
    """What was read of a frame. Addresses are bytes; those that the frame does not have are empty.

    ``source_ip`` is the IP source, or the sender protocol address of an ARP packet.
    ``flow`` identifies the inner flow: addresses, protocol and, where they can be read, ports.
    """

    destination: bytes
    source: bytes
    ethertype: int
    network_offset: int
    traffic_class: int | None
    source_ip: bytes
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
    traffic_class: int | None = None
    source_ip, flow = b"", b""
    if ethertype == ETHERTYPE_IPV4 and size >= start + 20 and frame[start] >> 4 == 4:
        traffic_class = frame[start + 1]
        source_ip = frame[start + 12 : start + 16]
        flow = frame[start + 9 : start + 10] + frame[start + 12 : start + 20] + _ipv4_ports(frame, start)
    elif ethertype == ETHERTYPE_IPV6 and size >= start + 40 and frame[start] >> 4 == 6:
        traffic_class = (frame[start] << 4 | frame[start + 1] >> 4) & 0xFF
        source_ip = frame[start + 8 : start + 24]
        protocol = frame[start + 6]
        ports = frame[start + 40 : start + 44] if protocol in _PORTS_PROTOCOLS else b""
        flow = bytes([protocol]) + frame[start + 8 : start + 40] + ports
    elif ethertype == ETHERTYPE_ARP and frame[start : start + 6] == _ARP_IPV4 and size >= start + 28:
        source_ip = frame[start + 14 : start + 18]
    return InnerFrame(
        destination=frame[0:6],
        source=frame[6:12],
        ethertype=ethertype,
        network_offset=start,
        traffic_class=traffic_class,
        source_ip=source_ip,
        flow=frame[0:12] + ethertype.to_bytes(2, "big") + flow,
    )


def _ipv4_ports(frame: bytes, start: int) -> bytes:
    """Return the four bytes of ports, or nothing: fragments after the first have none to read."""
    (fragment,) = _ETHERTYPE.unpack_from(frame, start + 6)
    if frame[start + 9] not in _PORTS_PROTOCOLS or fragment & 0x3FFF:
        # The first fragment too is left without, so that all fragments of a packet take one path.
        return b""
    ports = start + (frame[start] & 0x0F) * 4
    return frame[ports : ports + 4]

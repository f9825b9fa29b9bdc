"""The underlay's headers around a Geneve packet: Ethernet, 802.1Q tags, IPv4 or IPv6, UDP.

A transit device looks at every frame that passes, so the parser answers "is this a Geneve datagram?"
and nothing more: whatever is damaged, fragmented or foreign is simply not one. :func:`locate` makes no
object for frames that are not Geneve, and looks at a handful of bytes of most of them.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from geneve.header import GENEVE_PORT

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_8021Q = 0x8100
"""Tag protocol identifier of a customer tag (IEEE 802.1Q)."""
ETHERTYPE_8021AD = 0x88A8
"""Tag protocol identifier of a service tag (IEEE 802.1ad, "QinQ")."""

PROTOCOL_UDP = 17

ETHERNET_SIZE = 14
IPV4_SIZE = 20
IPV6_SIZE = 40
UDP_SIZE = 8
MAX_TAGS = 4
"""VLAN tags that are followed; a deeper stack is not looked into."""
MAX_EXTENSION_HEADERS = 8
"""IPv6 extension headers that are skipped; a longer chain is not looked into."""

# RFC 8200, section 4: headers in the format "next header, length in 8 bytes beyond the first 8".
_EXTENSIONS = frozenset({0, 43, 60})
_EXTENSION_BYTES = tuple(bytes([number]) for number in _EXTENSIONS)
_PORT = GENEVE_PORT.to_bytes(2, "big")
_IPV4_TYPE = ETHERTYPE_IPV4.to_bytes(2, "big")
_IPV6_TYPE = ETHERTYPE_IPV6.to_bytes(2, "big")
_TAG_TYPES = (ETHERTYPE_8021Q.to_bytes(2, "big"), ETHERTYPE_8021AD.to_bytes(2, "big"))
_IPV4 = struct.Struct("!BBHHHBB")
_IPV6 = struct.Struct("!IHB")
_UDP = struct.Struct("!HHH")


Location = tuple[int, int, int]
"""Where a Geneve datagram is in a frame: offsets of the IP header, the UDP header and the payload's end."""


@dataclass(frozen=True, slots=True)
class OuterDatagram:
    """The underlay's view of a Geneve datagram. Addresses are canonical text; sizes and offsets are bytes."""

    source: str
    destination: str
    traffic_class: int
    source_port: int
    destination_port: int
    payload_offset: int
    payload_size: int

    def payload(self, frame: bytes) -> bytes:
        """Return the Geneve packet in the ``frame`` that this datagram was found in."""
        return frame[self.payload_offset : self.payload_offset + self.payload_size]


def locate(frame: bytes) -> Location | None:
    """Find the Geneve datagram in an Ethernet ``frame``; None when there is none that is whole and sound.

    None is also the answer for fragments (the ports are in the first one only), for lengths that
    contradict each other or the frame, for IPv6 jumbograms, and for header chains beyond the bounds
    above. Padding behind the IP packet is allowed and lies outside the returned range. Checksums are not
    checked: that is the endpoints' work.
    """
    kind = frame[12:14]
    # The cheap answers first; offsets are those of a frame without tags, IP options and extensions.
    if kind == _IPV4_TYPE:
        if frame[23:24] != b"\x11" or (frame[14] == 0x45 and frame[36:38] != _PORT):
            return None
        return _locate_ipv4(frame, ETHERNET_SIZE)
    if kind == _IPV6_TYPE:
        following = frame[20:21]
        if following == b"\x11":
            if frame[56:58] != _PORT:
                return None
        elif following not in _EXTENSION_BYTES:
            return None
        return _locate_ipv6(frame, ETHERNET_SIZE)
    if kind in _TAG_TYPES:
        return _locate_tagged(frame)
    return None


def _locate_tagged(frame: bytes) -> Location | None:
    offset = ETHERNET_SIZE
    for _ in range(MAX_TAGS):
        kind = frame[offset + 2 : offset + 4]
        offset += 4
        if kind == _IPV4_TYPE:
            return _locate_ipv4(frame, offset)
        if kind == _IPV6_TYPE:
            return _locate_ipv6(frame, offset)
        if kind not in _TAG_TYPES:
            return None
    return None


def _locate_ipv4(frame: bytes, start: int) -> Location | None:
    """RFC 791, section 3.1."""
    if len(frame) < start + IPV4_SIZE:
        return None
    first, _, total, _, fragment, _, protocol = _IPV4.unpack_from(frame, start)
    header_size = (first & 0x0F) * 4
    if first >> 4 != 4 or header_size < IPV4_SIZE or protocol != PROTOCOL_UDP:
        return None
    if fragment & 0x3FFF:  # More Fragments, or an offset
        return None
    end = start + total
    if total < header_size or end > len(frame):
        return None
    return _locate_udp(frame, start, start + header_size, end)


def _locate_ipv6(frame: bytes, start: int) -> Location | None:
    """RFC 8200, sections 3 and 4."""
    offset = start + IPV6_SIZE
    if len(frame) < offset:
        return None
    first, size, following = _IPV6.unpack_from(frame, start)
    end = offset + size
    if first >> 28 != 6 or end > len(frame):
        return None
    for _ in range(MAX_EXTENSION_HEADERS):
        if following == PROTOCOL_UDP:
            return _locate_udp(frame, start, offset, end)
        if following not in _EXTENSIONS or offset + 8 > end:
            return None
        following, offset = frame[offset], offset + 8 + frame[offset + 1] * 8
    return _locate_udp(frame, start, offset, end) if following == PROTOCOL_UDP else None


def _locate_udp(frame: bytes, network: int, start: int, end: int) -> Location | None:
    """RFC 768; the length must say exactly what IP carries, or the layers disagree about the end."""
    if start + UDP_SIZE > end:
        return None
    _, port, size = _UDP.unpack_from(frame, start)
    if port != GENEVE_PORT or size != end - start:
        return None
    return network, start, end


def source_address(frame: bytes, location: Location) -> bytes:
    """Return the packed source address (4 or 16 bytes) of the datagram at ``location``."""
    network = location[0]
    if frame[network] >> 4 == 4:
        return frame[network + 12 : network + 16]
    return frame[network + 8 : network + 24]


def outer_addresses(frame: bytes, location: Location) -> tuple[str, str]:
    """Return the source and destination address of the datagram at ``location`` as canonical text."""
    network = location[0]
    if frame[network] >> 4 == 4:
        source, destination = frame[network + 12 : network + 16], frame[network + 16 : network + 20]
    else:
        source, destination = frame[network + 8 : network + 24], frame[network + 24 : network + 40]
    return address_text(source), address_text(destination)


def describe(frame: bytes, location: Location) -> OuterDatagram:
    """Return the datagram that :func:`locate` found in the same ``frame`` at ``location``."""
    network, transport, end = location
    if frame[network] >> 4 == 4:
        traffic_class = frame[network + 1]
    else:
        traffic_class = (frame[network] & 0x0F) << 4 | frame[network + 1] >> 4
    source, destination = outer_addresses(frame, location)
    source_port, destination_port, _ = _UDP.unpack_from(frame, transport)
    start = transport + UDP_SIZE
    return OuterDatagram(
        source=source,
        destination=destination,
        traffic_class=traffic_class,
        source_port=source_port,
        destination_port=destination_port,
        payload_offset=start,
        payload_size=end - start,
    )


def parse_outer(frame: bytes) -> OuterDatagram | None:
    """Return the Geneve datagram in an Ethernet ``frame``, or None: :func:`locate`, then :func:`describe`."""
    location = locate(frame)
    return None if location is None else describe(frame, location)


@lru_cache(maxsize=4096)  # few addresses, many packets; the bound holds against made-up sources
def address_text(address: bytes) -> str:
    """Return the canonical text of a packed address (4 or 16 bytes); ValueError otherwise."""
    return str(ipaddress.ip_address(address))


def internet_checksum(data: bytes) -> int:
    """Return the 16-bit Internet checksum of ``data`` (RFC 1071), padded with a zero byte if odd."""
    if len(data) % 2:
        data += b"\0"
    # 2**16 is 1 modulo 65535, so the remainder is the one's complement sum; only zero has two forms.
    number = int.from_bytes(data, "big")
    total = number % 0xFFFF
    return 0xFFFF - (0xFFFF if total == 0 and number else total)


def build_datagram(
    source: str, destination: str, source_port: int, payload: bytes, *, port: int = GENEVE_PORT,
    traffic_class: int = 0, hops: int = 64, checksum: bool = True,
) -> bytes:  # fmt: skip
    """Return an IPv4 or IPv6 packet with ``payload`` in UDP, its checksums right.

    ``checksum=False`` leaves the UDP checksum zero, as Geneve allows (RFC 8926, section 3.3). ValueError
    when the addresses are not of one family or a field does not fit.
    """
    first, second = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if first.version != second.version:
        raise ValueError(f"{source} and {destination} are not of one address family")
    size = UDP_SIZE + len(payload)
    if max(source_port, port) > 0xFFFF or max(traffic_class, hops) > 0xFF or min(source_port, port) < 0:
        raise ValueError("a port, the traffic class or the hop limit does not fit")
    if size + (IPV4_SIZE if first.version == 4 else 0) > 0xFFFF:
        raise ValueError(f"a payload of {len(payload)} bytes does not fit into one datagram")
    addresses = first.packed + second.packed
    value = 0
    if checksum:
        pseudo = addresses + struct.pack("!IHH", size, 0, PROTOCOL_UDP)
        head = struct.pack("!HHHH", source_port, port, size, 0)
        value = internet_checksum(pseudo + head + payload) or 0xFFFF
    udp = struct.pack("!HHHH", source_port, port, size, value) + payload
    if first.version == 6:
        return struct.pack("!IHBB", 6 << 28 | traffic_class << 20, size, PROTOCOL_UDP, hops) + addresses + udp
    start = _IPV4.pack(0x45, traffic_class, IPV4_SIZE + size, 0, 0x4000, hops, PROTOCOL_UDP)
    header_sum = internet_checksum(start + b"\0\0" + addresses)
    return start + header_sum.to_bytes(2, "big") + addresses + udp


def build_frame(
    source_mac: bytes, destination_mac: bytes, packet: bytes, *, tags: Sequence[tuple[int, int]] = ()
) -> bytes:
    """Return an Ethernet frame around an IP ``packet``; ``tags`` are (TPID, TCI) pairs, outermost first."""
    if len(source_mac) != 6 or len(destination_mac) != 6:
        raise ValueError("a MAC address has 6 bytes")
    kind = ETHERTYPE_IPV6 if packet[0] >> 4 == 6 else ETHERTYPE_IPV4
    stack = b"".join(struct.pack("!HH", tpid, tci) for tpid, tci in tags)
    return destination_mac + source_mac + stack + kind.to_bytes(2, "big") + packet

"""What an observer without keys can read of a captured frame, whichever mechanism protects the overlay. Pure.

A channel that encrypts leaves the outer addresses, a length and its own counters; one with a NULL cipher, and AH, leave
the whole Geneve packet. Nothing here is told which it is: an observer tries (RFC 5879 has the same idea for ESP), and
what fits a UDP header, its length and a Geneve packet at once is no accident.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum

from experiments.underlay import LINKTYPE_ETHERNET, find_network, parse_network
from geneve.control.channel import DTLS_PORT, ESP_UDP_PORT, IP_PROTOCOL_AH, IP_PROTOCOL_ESP
from geneve.errors import ParseError
from geneve.header import ETHERTYPE_TEB, GENEVE_PORT
from geneve.outer import (
    ETHERTYPE_8021AD,
    ETHERTYPE_8021Q,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    PROTOCOL_UDP,
    UDP_SIZE,
    address_text,
)
from geneve.packet import Packet, parse_packet
from geneve.security.option import EGRESS_TYPE, SECURITY_CLASS, SEQUENCE_SIZE, SPI_SIZE

CAPTURE_FILTER = f"udp port {GENEVE_PORT} or udp port {ESP_UDP_PORT} or udp port {DTLS_PORT} or esp or ah"
"""What tcpdump is to keep, for every mechanism (pcap-filter(7): esp and ah are abbreviations for both IP versions)."""

_ESP_HEADER, _AH_FIXED, _DTLS_HEADER = 8, 12, 13
_ESP_ICV, _DTLS_MAC = 16, 20
_ESP_TRAILER = 2
_DTLS_APPLICATION_DATA = 23
_INNER_TYPES = frozenset({ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_8021Q, ETHERTYPE_8021AD, 0x0806})


class Carrier(str, Enum):
    """What a frame of the underlay carries, by its outer headers."""

    GENEVE = "geneve"
    ESP = "esp"
    ESP_UDP = "esp-udp"
    AH = "ah"
    DTLS = "dtls"


@dataclass(frozen=True, slots=True)
class View:
    """One frame of the overlay. Offsets are bytes from the frame's start, addresses canonical text.

    ``start`` is where the mechanism's own packet begins (behind IP, or behind UDP where UDP carries it), ``end`` where
    it ends. ``spi`` and ``sequence`` are what it shows of its keys: an SPI, for DTLS the epoch; None where it shows
    none. ``sequence_at`` is where the sequence number stands. ``data`` is False for what DTLS says of itself.
    ``packet`` is the Geneve packet and ``geneve`` where it is, both None where it cannot be read.
    """

    carrier: Carrier
    source: str
    destination: str
    network: int
    outer_udp: int | None
    start: int
    end: int
    data: bool = True
    spi: int | None = None
    sequence: int | None = None
    sequence_at: int | None = None
    geneve: tuple[int, int] | None = None
    packet: Packet | None = None

    @property
    def channel(self) -> bool:
        """Whether a channel protects the datagram, rather than options or nothing."""
        return self.carrier is not Carrier.GENEVE

    @property
    def opaque(self) -> bool:
        """Whether the Geneve packet cannot be read."""
        return self.packet is None

    @property
    def size(self) -> int:
        """Bytes that an observer counts: of the Geneve packet's payload, or of all that the channel carries."""
        return self.end - self.start if self.packet is None else len(self.packet.payload)


@dataclass(frozen=True, slots=True)
class _Ip:
    network: int
    protocol: int
    start: int
    end: int
    source: str
    destination: str


def view(frame: bytes) -> View | None:
    """Return what can be read of an Ethernet ``frame``; None when it carries nothing of the overlay."""
    ip = _ip(frame)
    if ip is None:
        return None
    if ip.protocol == IP_PROTOCOL_ESP:
        return _esp(frame, ip, Carrier.ESP, None, ip.start)
    if ip.protocol == IP_PROTOCOL_AH:
        return _ah(frame, ip)
    if ip.protocol != PROTOCOL_UDP:
        return None
    port = _udp_port(frame, ip.start, ip.end)
    inside = ip.start + UDP_SIZE
    if port == GENEVE_PORT:
        return _geneve(frame, ip, inside)
    if port == ESP_UDP_PORT:
        return _esp(frame, ip, Carrier.ESP_UDP, ip.start, inside)
    if port == DTLS_PORT or (ip.start + 2 <= ip.end and _source_port(frame, ip.start) == DTLS_PORT):
        return _dtls(frame, ip, inside)
    return None


def _ip(frame: bytes) -> _Ip | None:
    """Find IPv4 or IPv6 behind tags; fragments and damage are nothing."""
    found = find_network(LINKTYPE_ETHERNET, frame)
    ip = None if found is None else parse_network(frame, *found)
    if found is None or ip is None or ip.fragment or ip.end > len(frame):
        return None
    return _Ip(found[1], ip.protocol, ip.transport, ip.end, address_text(ip.source), address_text(ip.destination))


def _u16(frame: bytes, offset: int) -> int:
    return int.from_bytes(frame[offset : offset + 2], "big")


def _source_port(frame: bytes, start: int) -> int:
    return _u16(frame, start)


def _udp_port(frame: bytes, start: int, end: int) -> int | None:
    """Return a UDP datagram's destination port; None when its length is not exactly what IP carries."""
    if start + UDP_SIZE > end or _u16(frame, start + 4) != end - start:
        return None
    return _u16(frame, start + 2)


def _parsed(data: bytes) -> Packet | None:
    try:
        return parse_packet(data)
    except ParseError:
        return None


def _inner_geneve(frame: bytes, start: int, end: int) -> tuple[tuple[int, int], Packet] | None:
    """Return where a Geneve datagram's packet is when one fills the bytes from ``start`` to ``end`` exactly."""
    if _udp_port(frame, start, end) != GENEVE_PORT:
        return None
    packet = _parsed(frame[start + UDP_SIZE : end])
    return None if packet is None else ((start + UDP_SIZE, end), packet)


def _geneve(frame: bytes, ip: _Ip, start: int) -> View | None:
    packet = _parsed(frame[start : ip.end])
    if packet is None:
        return None
    spi = sequence = sequence_at = None
    offset = start + 8
    for option in packet.options:
        found = (option.option_class, option.type) == (SECURITY_CLASS, EGRESS_TYPE)
        if found and len(option.data) >= SPI_SIZE + SEQUENCE_SIZE:
            spi = int.from_bytes(option.data[:SPI_SIZE], "big")
            sequence = int.from_bytes(option.data[SPI_SIZE : SPI_SIZE + SEQUENCE_SIZE], "big")
            sequence_at = offset + 4 + SPI_SIZE
        offset += option.size
    return View(Carrier.GENEVE, ip.source, ip.destination, ip.network, ip.start, start, ip.end, True,
                spi, sequence, sequence_at, (start, ip.end), packet)  # fmt: skip


def _esp(frame: bytes, ip: _Ip, carrier: Carrier, udp: int | None, start: int) -> View | None:
    """RFC 4303, section 2; with NULL encryption the payload data is a UDP datagram and a trailer follows it."""
    if start + _ESP_HEADER > ip.end:
        return None
    spi, sequence = struct.unpack_from("!II", frame, start)
    if spi == 0:
        return None  # RFC 3948, section 2.2: not ESP, but IKE
    inside = None
    trailer = ip.end - _ESP_ICV - _ESP_TRAILER
    if trailer >= start + _ESP_HEADER + UDP_SIZE:
        padding, following = frame[trailer], frame[trailer + 1]
        pad = frame[trailer - padding : trailer] if padding <= trailer - start - _ESP_HEADER else b""
        # RFC 4303, section 2.4: the padding is 1, 2, 3, ...
        if following == PROTOCOL_UDP and pad == bytes(range(1, padding + 1)):
            inside = _inner_geneve(frame, start + _ESP_HEADER, trailer - padding)
    span, packet = inside or (None, None)
    return View(carrier, ip.source, ip.destination, ip.network, udp, start, ip.end, True,
                spi, sequence, start + 4, span, packet)  # fmt: skip


def _ah(frame: bytes, ip: _Ip) -> View | None:
    """RFC 4302, section 2: the length counts 4-byte words, minus 2; the ICV ends the header."""
    if ip.start + _AH_FIXED > ip.end:
        return None
    inside = ip.start + (frame[ip.start + 1] + 2) * 4
    spi, sequence = struct.unpack_from("!II", frame, ip.start + 4)
    found = None
    if frame[ip.start] == PROTOCOL_UDP and ip.start + _AH_FIXED <= inside <= ip.end:
        found = _inner_geneve(frame, inside, ip.end)
    span, packet = found or (None, None)
    return View(Carrier.AH, ip.source, ip.destination, ip.network, None, ip.start, ip.end, True,
                spi, sequence, ip.start + 8, span, packet)  # fmt: skip


def _dtls(frame: bytes, ip: _Ip, start: int) -> View | None:
    """RFC 6347, section 4.1; with NULL_SHA (RFC 5246, section 6.2.3.1) the header, the Geneve packet and a MAC."""
    if start + _DTLS_HEADER > ip.end:
        return None
    kind, _, epoch = struct.unpack_from("!BHH", frame, start)
    sequence = int.from_bytes(frame[start + 5 : start + 11], "big")
    end = start + _DTLS_HEADER + _u16(frame, start + 11)
    if end > ip.end:
        return None
    data = kind == _DTLS_APPLICATION_DATA and epoch > 0
    span, packet = None, None
    if data and end - _DTLS_MAC > start + _DTLS_HEADER:
        candidate = _parsed(frame[start + _DTLS_HEADER : end - _DTLS_MAC])
        if candidate is not None and _carries_a_frame(candidate):
            span, packet = (start + _DTLS_HEADER, end - _DTLS_MAC), candidate
    return View(Carrier.DTLS, ip.source, ip.destination, ip.network, ip.start, start, end, data,
                epoch, sequence, start + 5, span, packet)  # fmt: skip


def _carries_a_frame(packet: Packet) -> bool:
    """Whether this is a Geneve packet and no accident: here no UDP header says so."""
    inner = packet.payload[12:14]
    return packet.header.protocol_type == ETHERTYPE_TEB and int.from_bytes(inner, "big") in _INNER_TYPES

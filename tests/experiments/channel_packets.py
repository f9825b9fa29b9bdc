"""Frames of the underlay as each mechanism would send them, built by hand from the RFCs for tests of observers."""

from __future__ import annotations

import os
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from geneve.control.channel import DTLS_PORT, ESP_UDP_PORT, IP_PROTOCOL_AH, IP_PROTOCOL_ESP
from geneve.header import BaseHeader
from geneve.option import Option
from geneve.outer import build_datagram, build_frame, internet_checksum
from geneve.packet import make_packet

SOURCE, DESTINATION = "192.168.1.1", "192.168.1.2"
SPI = 0x1001
KINDS = ("none", "esp", "esp-null", "esp-udp", "esp-null-udp", "ah", "dtls", "dtls-null")
OPAQUE = ("esp", "esp-udp", "dtls")
_KEY = AESGCM(bytes(range(16)))


def geneve(frame: bytes, vni: int = 100, options: tuple[Option, ...] = ()) -> bytes:
    """A plain Geneve packet."""
    return make_packet(BaseHeader(vni=vni), options, frame).build()


def underlay(protocol: int, payload: bytes, source: str = SOURCE, destination: str = DESTINATION) -> bytes:
    """An Ethernet frame with an IP packet of any protocol: a UDP datagram's, its protocol number changed."""
    packet = bytearray(build_datagram(source, destination, 0, b""))
    if packet[0] >> 4 == 6:
        packet[4:7] = struct.pack("!HB", len(payload), protocol)
        return build_frame(bytes(6), bytes(6), bytes(packet[:40]) + payload)
    packet[2:4] = (20 + len(payload)).to_bytes(2, "big")
    packet[9] = protocol
    packet[10:12] = b"\0\0"
    packet[10:12] = internet_checksum(bytes(packet[:20])).to_bytes(2, "big")
    return build_frame(bytes(6), bytes(6), bytes(packet[:20]) + payload)


def _udp(payload: bytes, source: str, destination: str, checksum: bool) -> bytes:
    datagram = build_datagram(source, destination, 50000, payload, checksum=checksum)
    return datagram[20 if ":" not in source else 40 :]


def esp(datagram: bytes, number: int, null: bool, pad_to: int = 4) -> bytes:
    """RFC 4303 around a UDP datagram: AES-GCM (RFC 4106), or NULL with a 16-byte ICV that is no true one."""
    fill = -(len(datagram) + 2) % pad_to
    plain = datagram + bytes(range(1, fill + 1)) + bytes((fill, 17))
    header = struct.pack("!II", SPI, number)
    if null:
        return header + plain + os.urandom(16)
    vector = number.to_bytes(8, "big")
    return header + vector + _KEY.encrypt(b"salt" + vector, plain, header)


def ah(datagram: bytes, number: int, ipv6: bool = False) -> bytes:
    """RFC 4302 in front of a UDP datagram, with an ICV of 16 bytes; over IPv6 the header fills 8-byte units."""
    fill = 4 if ipv6 else 0
    return struct.pack("!BBHII", 17, (28 + fill) // 4 - 2, 0, SPI, number) + os.urandom(16) + bytes(fill) + datagram


def dtls(content: bytes, number: int, null: bool, kind: int = 23, epoch: int = 1) -> bytes:
    """A DTLS 1.2 record (RFC 6347): AES-GCM (RFC 5288), or NULL_SHA with a 20-byte MAC that is no true one."""
    vector = os.urandom(8)
    body = content + os.urandom(20) if null else vector + _KEY.encrypt(b"salt" + vector, content, None)
    return struct.pack("!BHHHIH", kind, 0xFEFD, epoch, number >> 32, number & 0xFFFFFFFF, len(body)) + body


def protected(
    kind: str, packet: bytes, number: int = 1, source: str = SOURCE, destination: str = DESTINATION,
    checksum: bool = False, pad_to: int = 4,
) -> bytes:  # fmt: skip
    """The frame in which the Geneve ``packet`` travels under one of KINDS."""
    datagram = _udp(packet, source, destination, checksum)
    if kind == "none":
        return underlay(17, datagram, source, destination)
    if kind == "ah":
        return underlay(IP_PROTOCOL_AH, ah(datagram, number, ":" in source), source, destination)
    if kind.startswith("dtls"):
        record = dtls(packet, number, kind == "dtls-null")
        carried = build_datagram(source, destination, DTLS_PORT, record, port=DTLS_PORT)
        return build_frame(bytes(6), bytes(6), carried)
    sealed = esp(datagram, number, "null" in kind, pad_to)
    if kind.endswith("udp"):
        carried = build_datagram(source, destination, ESP_UDP_PORT, sealed, port=ESP_UDP_PORT, checksum=False)
        return build_frame(bytes(6), bytes(6), carried)
    return underlay(IP_PROTOCOL_ESP, sealed, source, destination)

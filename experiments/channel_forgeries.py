"""What the attackers make up of a channel's packets (IPsec, DTLS): pure functions that return whole frames.

Each has sound lengths and checksums, an SPI or epoch and a sequence number that the attacker chose, and where only a
key helps a guess: tag and ICV are random. Inside stands the Geneve packet as she would have it read, so that a receiver
that does not look at the ICV, or whose cipher is NULL, would deliver it.
"""

from __future__ import annotations

import os
import struct

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from experiments.attack_frames import Addresses
from experiments.view import Carrier
from geneve.control.channel import DTLS_PORT, ESP_UDP_PORT, IP_PROTOCOL_AH, IP_PROTOCOL_ESP
from geneve.header import GENEVE_PORT
from geneve.outer import PROTOCOL_UDP, build_datagram

CONTROL_RECORDS = ("alert", "hello_request", "client_hello")
"""Unprotected DTLS records that are to end a session, or to put another in its place."""

_TAG, _NULL_MAC = 16, 20
_SOURCE_PORT = 50000
_VERSION_1_2 = 0xFEFD
_HANDSHAKE, _ALERT, _APPLICATION_DATA = 22, 21, 23
_HELLO_REQUEST, _CLIENT_HELLO = 0, 1
_SUITES = struct.pack("!HH", 0xC02B, 0x00FF)  # ECDHE-ECDSA with AES-128-GCM (RFC 5289); RFC 5746


def forged_data(
    addresses: Addresses, carrier: Carrier, spi: int, sequence: int, geneve: bytes, encrypts: bool
) -> bytes:
    """Return a frame with a made-up packet of a channel around a Geneve packet. ValueError for Geneve itself.

    ``spi`` is DTLS's epoch. ``encrypts``: whether the packet has the IV of a cipher; the content is never encrypted.
    """
    if carrier is Carrier.DTLS:
        body = os.urandom(8) + geneve + os.urandom(_TAG) if encrypts else geneve + os.urandom(_NULL_MAC)
        return _in_udp(addresses, DTLS_PORT, _record(_APPLICATION_DATA, spi & 0xFFFF, sequence, body))
    datagram = _datagram(addresses, geneve)
    number = sequence & 0xFFFFFFFF
    if carrier in (Carrier.ESP, Carrier.ESP_UDP):
        packet = _esp(spi, number, datagram, encrypts)
        if carrier is Carrier.ESP_UDP:
            return _in_udp(addresses, ESP_UDP_PORT, packet)
        return _in_ip(addresses, IP_PROTOCOL_ESP, packet)
    if carrier is Carrier.AH:
        fill = 4 if ":" in addresses.outer_source else 0  # RFC 4302, section 2.2: 8-byte units over IPv6
        head = struct.pack("!BBHII", PROTOCOL_UDP, (28 + fill) // 4 - 2, 0, spi, number)
        return _in_ip(addresses, IP_PROTOCOL_AH, head + os.urandom(_TAG) + bytes(fill) + datagram)
    raise ValueError(f"no channel has packets of kind {carrier.value}")


def forged_control(addresses: Addresses, variant: str, number: int) -> bytes:
    """Return a frame with an unprotected DTLS record, one of CONTROL_RECORDS (RFC 5246, RFC 6347); KeyError for others.

    ``number`` is its sequence number in epoch 0. Every second alert is a close_notify, the others are fatal.
    """
    kind, body = {
        "alert": (_ALERT, bytes((1, 0) if number % 2 else (2, 20))),
        "hello_request": (_HANDSHAKE, _message(_HELLO_REQUEST, b"")),
        "client_hello": (_HANDSHAKE, _message(_CLIENT_HELLO, _client_hello())),
    }[variant]
    return _in_udp(addresses, DTLS_PORT, _record(kind, 0, number, body))


def _message(kind: int, body: bytes) -> bytes:
    """RFC 6347, section 4.2.2: one fragment, the first message of a handshake."""
    size = len(body).to_bytes(3, "big")
    return bytes((kind,)) + size + bytes(5) + size + body


def _client_hello() -> bytes:
    """RFC 6347, section 4.2.1: without a session and a cookie, and with a curve and signature to choose from."""
    extensions = struct.pack("!HHHH", 10, 4, 2, 23) + struct.pack("!HHHH", 13, 4, 2, 0x0403)
    start = struct.pack("!H", _VERSION_1_2) + os.urandom(32) + bytes(2)
    suites = struct.pack("!H", len(_SUITES)) + _SUITES
    return start + suites + bytes((1, 0)) + struct.pack("!H", len(extensions)) + extensions


def _record(kind: int, epoch: int, sequence: int, body: bytes) -> bytes:
    """RFC 6347, section 4.1: the sequence number has 48 bits."""
    number = (sequence & (1 << 48) - 1).to_bytes(6, "big")
    return struct.pack("!BHH", kind, _VERSION_1_2, epoch) + number + struct.pack("!H", len(body)) + body


def _esp(spi: int, number: int, datagram: bytes, encrypts: bool) -> bytes:
    """RFC 4303, section 2, in transport mode; with an IV as RFC 4106 has it."""
    fill = -(len(datagram) + 2) % 4
    content = datagram + bytes(range(1, fill + 1)) + bytes((fill, PROTOCOL_UDP))
    vector = number.to_bytes(8, "big") if encrypts else b""
    return struct.pack("!II", spi, number) + vector + content + os.urandom(_TAG)


def _datagram(addresses: Addresses, geneve: bytes) -> bytes:
    packet = build_datagram(
        addresses.outer_source, addresses.outer_destination, _SOURCE_PORT, geneve, port=GENEVE_PORT
    )  # fmt: skip
    return packet[40 if ":" in addresses.outer_source else 20 :]


def _in_udp(addresses: Addresses, port: int, payload: bytes) -> bytes:
    return bytes(_outer(addresses, PROTOCOL_UDP) / UDP(sport=_SOURCE_PORT, dport=port) / Raw(payload))


def _in_ip(addresses: Addresses, protocol: int, payload: bytes) -> bytes:
    return bytes(_outer(addresses, protocol) / Raw(payload))


def _outer(addresses: Addresses, protocol: int) -> Ether:
    ether = Ether(src=addresses.outer_source_mac, dst=addresses.outer_destination_mac)
    source, destination = addresses.outer_source, addresses.outer_destination
    if ":" in source:
        return ether / IPv6(src=source, dst=destination, nh=protocol)
    return ether / IP(src=source, dst=destination, proto=protocol)

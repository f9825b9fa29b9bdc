"""What the attackers do to frames: pure functions from frame bytes to frame bytes, built with Scapy.

An attacker knows the wire format and the addresses, never a key. Each change leaves every length and
every checksum that she can compute right, so that only cryptography can tell.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from experiments.traffic import PORT
from experiments.view import View, view
from geneve.header import BASE_HEADER_SIZE, BaseHeader
from geneve.option import OPTION_HEADER_SIZE, Option
from geneve.packet import Packet, make_packet
from geneve.security.option import EGRESS_TYPE, SECURITY_CLASS, SPI_SIZE, is_security_option
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_TYPE, Telemetry

ALTERED_BYTES = 8
"""Bytes at the end of the tenant's payload that `modify` changes."""
FLIP = 0x20
_SPI_AND_SEQUENCE = 12
_TAG = 16
INNER_PORT = 35
"""Where the second byte of an inner UDP source port stands, over IPv4 without options or tags."""


@dataclass(frozen=True, slots=True)
class Target:
    """The packets an attack picks: outer addresses, VNI, and the size of what Geneve carries, in bytes.

    Of a channel whose packets cannot be read she picks those that are large enough to carry as much.
    """

    source: str
    destination: str
    vni: int
    size: int

    def match(self, frame: bytes) -> Packet | None:
        """Return the Geneve packet in ``frame`` when it is one of these and no channel protects it."""
        read = self.find(frame)
        return None if read is None or read.channel else read.packet

    def find(self, frame: bytes) -> View | None:
        """Return what can be read of ``frame`` when it is one of these, a channel's packets included."""
        read = view(frame)
        if read is None or not read.data or (read.source, read.destination) != (self.source, self.destination):
            return None
        packet = read.packet
        if packet is None:
            return read if read.size >= self.size else None
        return read if packet.header.vni == self.vni and len(packet.payload) == self.size else None


def rebuild(frame: bytes, packet: Packet) -> bytes:
    """Return ``frame`` with ``packet`` as its Geneve packet; outer lengths and checksums follow."""
    return with_geneve(frame, packet.build())


def with_geneve(frame: bytes, geneve: bytes) -> bytes:
    """Return ``frame`` with other bytes behind its UDP header; outer lengths and checksums follow."""
    layers = Ether(frame)
    old = layers[UDP]
    # A fresh UDP layer: what Scapy took the old one's payload for depends on the layers it has loaded.
    # A zero checksum stays zero (allowed over IPv4, RFC 8926, section 3.3); any other is made right.
    udp = UDP(sport=old.sport, dport=old.dport, chksum=None if old.chksum else 0) / Raw(geneve)
    below = old.underlayer
    below.remove_payload()
    below.add_payload(udp)
    if IP in layers:
        layers[IP].len = None
        layers[IP].chksum = None
    elif IPv6 in layers:
        layers[IPv6].plen = None
    return bytes(layers)


def modified(frame: bytes, packet: Packet) -> bytes:
    """Return ``frame`` with its packet's payload changed as :func:`modified_packet` does."""
    return rebuild(frame, modified_packet(packet))


def modified_packet(packet: Packet) -> Packet:
    """Change the last bytes of the tenant's payload.

    Where the inner frame can be read, its UDP checksum is made right, so that the victim's kernel
    accepts it; where it is ciphertext, the same bytes are changed blindly.
    """
    payload = bytearray(packet.payload)
    for index in range(len(payload) - ALTERED_BYTES, len(payload)):
        payload[index] ^= FLIP
    inner = Ether(bytes(payload))
    if UDP in inner and inner[UDP].dport == PORT:
        inner[UDP].chksum = None
        payload = bytearray(bytes(inner))
    return replace(packet, payload=bytes(payload))


def flipped(frame: bytes, packet: Packet, part: str, offset: int, mask: int) -> bytes:
    """Flip the bits of ``mask`` in one byte: of the base header, an option, or the payload (``part``).

    ``part`` is "header", "payload", "sequence" (the number for the egress NVE) or "option:CLASS:TYPE" in hexadecimal;
    ``offset`` counts from its start, for options from their data. ValueError when the packet has no such byte.
    """
    data = bytearray(packet.build())
    data[place(packet, part) + offset] ^= mask
    return with_geneve(frame, bytes(data))


def place(packet: Packet, part: str) -> int:
    """Return where a part (see :func:`flipped`) begins, in bytes from the base header; ValueError when it is not there.

    An option's part begins with its data.
    """
    if part == "header":
        return 0
    if part == "payload":
        return BASE_HEADER_SIZE + packet.header.opt_len
    after = 0
    if part == "sequence":
        part, after = f"option:{SECURITY_CLASS:x}:{EGRESS_TYPE:x}", SPI_SIZE
    _, option_class, option_type = part.split(":")
    start = BASE_HEADER_SIZE
    for option in packet.options:
        if (option.option_class, option.type) == (int(option_class, 16), int(option_type, 16)):
            return start + OPTION_HEADER_SIZE + after
        start += option.size
    raise ValueError(f"the packet has no {part}")


def with_other_port(frame: bytes, packet: Packet) -> bytes:
    """Change the source port of an inner UDP datagram that can be read, its checksum made right; else flip blindly."""
    changed = other_port_packet(packet)
    return flipped(frame, packet, "payload", INNER_PORT, FLIP) if changed is None else rebuild(frame, changed)


def other_port_packet(packet: Packet) -> Packet | None:
    """Return the packet with another inner source port, the checksum made right; None when that cannot be read."""
    inner = Ether(packet.payload)
    if UDP not in inner or inner[UDP].dport != PORT:
        return None
    inner[UDP].sport ^= 1
    inner[UDP].chksum = None if inner[UDP].chksum else 0
    return replace(packet, payload=bytes(inner))


def moved_to_vni(frame: bytes, packet: Packet, vni: int) -> bytes:
    """Give the packet another VNI; nothing else changes."""
    return rebuild(frame, replace(packet, header=replace(packet.header, vni=vni)))


def with_forged_telemetry(frame: bytes, packet: Packet, false: Telemetry) -> bytes:
    """Replace the contents of the telemetry option; add one in front where there is none."""
    return rebuild(frame, with_telemetry(packet, false))


def with_telemetry(packet: Packet, false: Telemetry) -> Packet:
    """Return the packet with other contents in its telemetry option, or with one in front where there is none."""
    forged = false.option()
    options = [
        replace(option, data=forged.data) if _is_telemetry(option) else option for option in packet.options
    ]
    if not any(_is_telemetry(option) for option in packet.options):
        options.insert(0, forged)
    return make_packet(packet.header, options, packet.payload)


def with_added_telemetry(frame: bytes, packet: Packet, false: Telemetry) -> bytes:
    """Take every option off, all protection included, and add a false telemetry option of her own."""
    return with_forged_telemetry(frame, make_packet(packet.header, (), packet.payload), false)


def _is_telemetry(option: Option) -> bool:
    return (option.option_class, option.type) == (TELEMETRY_CLASS, TELEMETRY_TYPE)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a forged packet seems to come from and goes to, outside and inside."""

    outer_source_mac: str
    outer_destination_mac: str
    outer_source: str
    outer_destination: str
    inner_source_mac: str
    inner_destination_mac: str
    inner_source: str
    inner_destination: str

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Addresses:
        """Make one from an object of the attacker's command."""
        return cls(**{name: str(fields[name]) for name in cls.__slots__})


def forged_packet(addresses: Addresses, vni: int, payload: bytes, options: tuple[Option, ...] = ()) -> bytes:
    """Return a Geneve packet made from nothing, with a tenant's UDP datagram in it."""
    network = IPv6 if ":" in addresses.inner_source else IP
    inner = (
        Ether(src=addresses.inner_source_mac, dst=addresses.inner_destination_mac)
        / network(src=addresses.inner_source, dst=addresses.inner_destination)
        / UDP(sport=PORT, dport=PORT)
        / Raw(payload)
    )
    return make_packet(BaseHeader(vni=vni), options, bytes(inner)).build()


def forged(addresses: Addresses, vni: int, payload: bytes, options: tuple[Option, ...] = ()) -> bytes:
    """Return a whole frame made from nothing: :func:`forged_packet` in plain Geneve from a false NVE."""
    underlay = IPv6 if ":" in addresses.outer_source else IP
    frame = (
        Ether(src=addresses.outer_source_mac, dst=addresses.outer_destination_mac)
        / underlay(src=addresses.outer_source, dst=addresses.outer_destination)
        / UDP(sport=50000, dport=6081)
        / Raw(forged_packet(addresses, vni, payload, options))
    )
    return bytes(frame)


def made_up_security(spi: int, sequence: int) -> Option:
    """Return a security option for an egress NVE with a tag that is a guess."""
    data = spi.to_bytes(4, "big") + sequence.to_bytes(8, "big") + os.urandom(_TAG)
    return Option(SECURITY_CLASS, EGRESS_TYPE, data)


def observed_security(packet: Packet) -> tuple[int, int] | None:
    """Return SPI and sequence number for the egress NVE, which anybody on the path can read."""
    for option in packet.options:
        egress = is_security_option(option.option_class, option.type) and option.type == EGRESS_TYPE
        if egress and len(option.data) >= _SPI_AND_SEQUENCE + _TAG:
            return int.from_bytes(option.data[:4], "big"), int.from_bytes(option.data[4:12], "big")
    return None

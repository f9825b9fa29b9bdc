"""What the on-path attacker does to packets of a channel (IPsec, DTLS): pure functions from frame bytes to frame bytes.

Where the channel does not encrypt she reads the Geneve packet inside and changes it as she would without a channel, all
checksums made right; where it does, she changes the ciphertext at the place where the wanted byte should be. Lengths
never change, but where plain Geneve takes the channel's place. Addresses and ports, and the channel's own header unless
that is what she is after, stay as they are.
"""

from __future__ import annotations

import ipaddress
import os
import struct
from dataclasses import replace
from typing import Any

from experiments.attack_frames import (
    ALTERED_BYTES,
    FLIP,
    INNER_PORT,
    modified_packet,
    other_port_packet,
    place,
    with_telemetry,
)
from experiments.view import Carrier, View
from geneve.header import BASE_HEADER_SIZE, BaseHeader
from geneve.option import OPTION_HEADER_SIZE
from geneve.outer import ETHERNET_SIZE, PROTOCOL_UDP, UDP_SIZE, build_datagram, internet_checksum
from geneve.packet import Packet, make_packet
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_TYPE, Telemetry

CHANGES = ("flip", "modify", "other_port", "cross_vni")
"""The attacks that change a packet."""

_CLEAR_SIZES = {
    # ESP: SPI, sequence number and IV (RFC 4106), then the UDP header in the ciphertext.
    Carrier.ESP: 16 + UDP_SIZE,
    Carrier.ESP_UDP: 16 + UDP_SIZE,
    # DTLS: the record header and the explicit nonce (RFC 5288).
    Carrier.DTLS: 21,
    Carrier.AH: 28 + UDP_SIZE,
    Carrier.GENEVE: 0,
}
"""Bytes from the start of a channel's packet to where the Geneve packet's ciphertext begins."""
_ENDING = 24
"""Bytes behind the tenant's payload in a ciphertext: tag, trailer and padding, about."""
_VNI_BYTE = 6


def altered(frame: bytes, read: View, order: dict[str, Any]) -> bytes:
    """Return ``frame`` as the attack ordered (one of CHANGES) leaves it. ValueError when it has no such part."""
    attack = order["attack"]
    if attack == "flip":
        return flipped_inside(frame, read, order["part"], order["offset"], order["mask"])
    if read.packet is None:
        return _blindly(frame, read, attack)
    if attack == "modify":
        return _with_packet(frame, read, modified_packet(read.packet))
    if attack == "cross_vni":
        header = replace(read.packet.header, vni=order["vni"])
        return _with_packet(frame, read, replace(read.packet, header=header))
    changed = other_port_packet(read.packet)
    if changed is None:
        return flipped_inside(frame, read, "payload", INNER_PORT, FLIP)
    return _with_packet(frame, read, changed)


def _blindly(frame: bytes, read: View, attack: str) -> bytes:
    if attack == "cross_vni":
        return flipped_inside(frame, read, "header", _VNI_BYTE, 1)
    if attack == "other_port":
        return flipped_inside(frame, read, "payload", INNER_PORT, FLIP)
    data = bytearray(frame)
    for index in range(read.end - _ENDING - ALTERED_BYTES, read.end - _ENDING):
        data[index] ^= FLIP
    return _checked(data, read)


def with_forged_telemetry(frame: bytes, read: View, false: Telemetry) -> bytes:
    """Put false contents into the telemetry option inside a channel; where it cannot be read, change it blindly.

    A readable packet without one is changed where an option would be: lengths stay.
    """
    if read.packet is not None:
        changed = with_telemetry(read.packet, false)
        if len(changed.options) == len(read.packet.options):
            return _with_packet(frame, read, changed)
        return flipped_inside(frame, read, "payload", 0, FLIP)
    return flipped_inside(frame, read, f"option:{TELEMETRY_CLASS:x}:{TELEMETRY_TYPE:x}", 0, FLIP)


def with_added_telemetry(frame: bytes, read: View, vni: int, size: int, false: Telemetry) -> bytes:
    """Put plain Geneve with a telemetry option in place of a channel's packet, as if nothing had ever protected it.

    Where she cannot read the tenant's frame, ``size`` bytes of her own stand for it.
    """
    payload = os.urandom(size) if read.packet is None else read.packet.payload
    packet = make_packet(BaseHeader(vni=vni), (false.option(),), payload).build()
    return frame[:ETHERNET_SIZE] + build_datagram(read.source, read.destination, 50000, packet)


def flipped_inside(frame: bytes, read: View, part: str, offset: int, mask: int) -> bytes:
    """Flip the bits of ``mask`` in one byte of a part: "header", "payload", "sequence" or "option:CLASS:TYPE".

    ``sequence`` is the channel's own number, most significant byte first. In a ciphertext an option is taken to be the
    first, and the payload to follow the header. ValueError when the packet has no such byte.
    """
    data = bytearray(frame)
    if part == "sequence":
        if read.sequence_at is None:
            raise ValueError("the packet has no sequence number")
        position = read.sequence_at + offset
    elif read.packet is not None and read.geneve is not None:
        position = read.geneve[0] + place(read.packet, part) + offset
    else:
        before = 0 if part == "header" else BASE_HEADER_SIZE
        if part.startswith("option:"):
            before += OPTION_HEADER_SIZE
        position = min(read.start + _CLEAR_SIZES[read.carrier] + before + offset, read.end - 1)
    if position >= read.end:
        raise ValueError(f"the packet has no byte {offset} of its {part}")
    data[position] ^= mask
    return _checked(data, read)


def _with_packet(frame: bytes, read: View, packet: Packet) -> bytes:
    assert read.geneve is not None
    start, end = read.geneve
    built = packet.build()
    if len(built) != end - start:
        raise ValueError("a change that keeps lengths has another length")
    data = bytearray(frame)
    data[start:end] = built
    return _checked(data, read)


def _checked(data: bytearray, read: View) -> bytes:
    """Make the UDP checksums right that are not zero: the datagram's inside the channel, then the one around it."""
    # Between DTLS and Geneve there is no UDP header.
    if read.geneve is not None and read.carrier is not Carrier.DTLS:
        _correct(data, read, read.geneve[0] - UDP_SIZE)
    if read.outer_udp is not None:
        _correct(data, read, read.outer_udp)
    return bytes(data)


def _correct(data: bytearray, read: View, start: int) -> None:
    size = struct.unpack_from("!H", data, start + 4)[0]
    if data[start + 6 : start + 8] == b"\0\0":
        return
    data[start + 6 : start + 8] = b"\0\0"
    addresses = b"".join(ipaddress.ip_address(text).packed for text in (read.source, read.destination))
    pseudo = addresses + struct.pack("!IHH", size, 0, PROTOCOL_UDP)
    value = internet_checksum(pseudo + bytes(data[start : start + size])) or 0xFFFF
    struct.pack_into("!H", data, start + 6, value)


def redirected(frame: bytes, read: View, destination: str, mac: str) -> bytes:
    """Return ``frame`` as sent to another node, by outer IP and MAC address; its outer checksums are made right.

    What the frame carries stays as it is, and so does its source. ``destination`` is of the frame's IP version.
    """
    data = bytearray(frame)
    data[:6] = bytes.fromhex(mac.replace(":", ""))
    address = ipaddress.ip_address(destination)
    start = read.network
    if address.version == 4:
        data[start + 16 : start + 20] = address.packed
        size = (data[start] & 0x0F) * 4
        data[start + 10 : start + 12] = b"\0\0"
        struct.pack_into("!H", data, start + 10, internet_checksum(bytes(data[start : start + size])))
    else:
        data[start + 24 : start + 40] = address.packed
    if read.outer_udp is not None:
        _correct(data, replace(read, destination=destination), read.outer_udp)
    return bytes(data)

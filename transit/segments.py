"""Cuts a super-datagram into the packets that the kernel would send for it (UDP_SEGMENT), where a relay has to.

A super-datagram is one Ethernet frame whose IP and UDP headers span many payloads, each of ``size`` bytes, the last
perhaps shorter. Every packet gets the headers, with its own lengths, the next IPv4 identification, and checksums.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from geneve.outer import PROTOCOL_UDP, UDP_SIZE, Location, internet_checksum

_LENGTH = struct.Struct("!H")
_IDENTIFICATION = 4
_IPV4_CHECKSUM = 10
_UDP_LENGTH, _UDP_CHECKSUM = 4, 6


def count_segments(location: Location, size: int) -> int:
    """Return how many packets of ``size`` payload bytes the datagram at ``location`` is; one if it is not cut."""
    payload = location[2] - location[1] - UDP_SIZE
    return max(1, -(-payload // size)) if size > 0 else 1


def cut(frame: bytes, location: Location, size: int, partial: bool, wanted: Sequence[int] | None = None) -> list[bytes]:
    """Return the frames of a super-datagram, those with the indexes ``wanted`` or all.

    ``partial`` says that the UDP checksum holds the sum over the pseudo header only (NEEDS_CHECKSUM). A zero checksum
    stays zero; others are computed. What stands behind the IP packet is padding of the whole and is left out.
    """
    network, transport, end = location
    start = transport + UDP_SIZE
    head = bytearray(frame[:start])
    pseudo = _pseudo_sum(frame, location, partial)
    version4 = head[network] >> 4 == 4
    (first_id,) = _LENGTH.unpack_from(head, network + _IDENTIFICATION)
    frames = []
    for index in range(count_segments(location, size)) if wanted is None else wanted:
        at = start + index * size
        payload = frame[at : min(at + size, end)]
        length = UDP_SIZE + len(payload)
        if version4:
            _LENGTH.pack_into(head, network + 2, transport - network + length)
            _LENGTH.pack_into(head, network + _IDENTIFICATION, (first_id + index) & 0xFFFF)
            _LENGTH.pack_into(head, network + _IPV4_CHECKSUM, 0)
            _LENGTH.pack_into(head, network + _IPV4_CHECKSUM, internet_checksum(bytes(head[network:transport])))
        else:
            _LENGTH.pack_into(head, network + 4, transport - network - 40 + length)
        _LENGTH.pack_into(head, transport + _UDP_LENGTH, length)
        _LENGTH.pack_into(head, transport + _UDP_CHECKSUM, 0)
        if pseudo is not None:
            total = (pseudo + length).to_bytes(4, "big")
            value = internet_checksum(total + head[transport:start] + payload) or 0xFFFF
            _LENGTH.pack_into(head, transport + _UDP_CHECKSUM, value)
        frames.append(bytes(head) + payload)
    return frames


def _pseudo_sum(frame: bytes, location: Location, partial: bool) -> int | None:
    """Return the sum over the pseudo header without the length, None where there is no checksum."""
    network, transport, end = location
    value = int.from_bytes(frame[transport + _UDP_CHECKSUM : transport + UDP_SIZE], "big")
    if not value:
        return None
    if partial:
        # What the sender put there, whatever a routing header says about the destination.
        return (value - (end - transport)) % 0xFFFF
    addresses = frame[network + 12 : network + 20] if frame[network] >> 4 == 4 else frame[network + 8 : network + 40]
    return (int.from_bytes(addresses, "big") + PROTOCOL_UDP) % 0xFFFF

"""What an observer of the underlay sees: packets of any IP protocol, and what of tenants' data stands in them. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.capture import CaptureReader
from geneve.outer import ETHERNET_SIZE, ETHERTYPE_IPV4, IPV4_SIZE

PROTOCOL_TCP = 6
WINDOW = 16
"""Bytes that must be the same before a place in a packet counts as a tenant's data: no accident. A run of a payload is
sure to be found from twice as many on."""
_APPLICATION_DATA, _TLS_LEGACY = 23, 0x0303
_RECORD = struct.Struct("!BHH")


def outer_packets(path: Path) -> list[bytes]:
    """Return the IPv4 packets of a capture in order, from the outer IP header on, without Ethernet padding."""
    found = []
    with CaptureReader(path) as reader:
        for frame in reader:
            if frame.data[12:14] != ETHERTYPE_IPV4.to_bytes(2, "big"):
                continue
            packet = frame.data[ETHERNET_SIZE:]
            found.append(packet[: int.from_bytes(packet[2:4], "big")])
    return found


def tcp_payloads(path: Path) -> list[bytes]:
    """Return the TCP payloads of a capture at a tenant's interface in order; frames without any are left out."""
    found = []
    for packet in outer_packets(path):
        if len(packet) < IPV4_SIZE or packet[9] != PROTOCOL_TCP:
            continue
        segment = packet[(packet[0] & 15) * 4 :]
        payload = segment[(segment[12] >> 4) * 4 :]
        if payload:
            found.append(payload)
    return found


@dataclass(frozen=True, slots=True)
class Seen:
    """What one packet of the underlay shows. Sizes in bytes."""

    size: int
    """Of the outer IP packet."""
    addresses: bool
    """Whether inner MAC or IP addresses stand in it."""
    readable: int
    """How much of what the tenant's flow put on its own wire stands in it as it was."""


class Sent:
    """What a tenant's flow put on its own wire, as it left the tenant, to be found again in packets of the underlay."""

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self._payloads = list(payloads)
        self._places: dict[bytes, tuple[int, int]] = {}
        for number, payload in enumerate(self._payloads):
            for at in range(0, len(payload) - WINDOW + 1, WINDOW):
                self._places.setdefault(payload[at : at + WINDOW], (number, at))

    def readable(self, packet: bytes) -> int:
        """Return the length of the longest run of one payload that stands in ``packet``; 0 if none is long enough."""
        best = place = 0
        while place + WINDOW <= len(packet):
            found = self._places.get(packet[place : place + WINDOW])
            if found is None:
                place += 1
                continue
            start, end = self._extended(packet, place, *found)
            best = max(best, end - start)
            place = max(end, place + 1)
        return best

    def _extended(self, packet: bytes, place: int, number: int, at: int) -> tuple[int, int]:
        """Return where a run of payload ``number`` begins and ends in a packet, of which ``at`` stands at ``place``."""
        payload = self._payloads[number]
        start, end, before, after = place, place, at, at
        while start and before and packet[start - 1] == payload[before - 1]:
            start, before = start - 1, before - 1
        while end < len(packet) and after < len(payload) and packet[end] == payload[after]:
            end, after = end + 1, after + 1
        return start, end


def seen(packet: bytes, sent: Sent, marks: Sequence[bytes]) -> Seen:
    """Judge an outer IP packet by what the tenant ``sent`` and by ``marks``, bytes of inner headers."""
    return Seen(len(packet), any(mark in packet for mark in marks), sent.readable(packet))


def tls_records(stream: bytes) -> tuple[int, int]:
    """Return how many TLS application records a stream has, and the bytes of their headers, from the first one found.

    A stream that begins in the middle of a record is followed from the first place from which two records in a row
    are well formed; none at all gives zeros.
    """
    for start in range(max(0, len(stream) - _RECORD.size)):
        length = _record_length(stream, start)
        if length is None:
            continue
        following = start + _RECORD.size + length
        if following + _RECORD.size > len(stream) or _record_length(stream, following) is None:
            continue
        return _follow(stream, start)
    return 0, 0


def _record_length(stream: bytes, place: int) -> int | None:
    kind, version, length = _RECORD.unpack_from(stream, place)
    return length if kind == _APPLICATION_DATA and version == _TLS_LEGACY and length <= (1 << 14) + 256 else None


def _follow(stream: bytes, place: int) -> tuple[int, int]:
    count = 0
    while place + _RECORD.size <= len(stream):
        length = _record_length(stream, place)
        if length is None:
            break
        count += 1
        place += _RECORD.size + length
    return count, count * _RECORD.size

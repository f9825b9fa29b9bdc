"""UDP datagrams of the underlay as the data plane sees them: alone, or many of one size in one piece."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MAX_DATAGRAMS = 64
"""Datagrams in one piece at most: Linux's own limit until 6.9 (UDP_MAX_SEGMENTS)."""
MAX_PIECE = 65_000
"""Bytes of one piece at most: with its headers it is one IP packet to the kernel, on its way to the interface."""


@dataclass(slots=True)
class Datagram:
    """What to send to another NVE or a group: a UDP payload, the outer traffic class, the source port's index.

    With ``segment`` it is many payloads of that many bytes each, the last perhaps shorter (UDP_SEGMENT).
    """

    destination: str
    payload: bytes
    traffic_class: int
    entropy: int
    segment: int = 0

    def payloads(self) -> Iterator[bytes]:
        """Yield the payload of each datagram."""
        return cut(self.payload, self.segment)

    @property
    def count(self) -> int:
        """The number of datagrams."""
        return count_of(self.payload, self.segment)


@dataclass(slots=True)
class Received:
    """A datagram from the underlay: UDP payload, outer source address (4 or 16 bytes), outer traffic class.

    With ``segment`` it is many payloads of that many bytes each, the last perhaps shorter (UDP_GRO).
    """

    payload: bytes
    source: bytes
    traffic_class: int = 0
    segment: int = 0

    @property
    def count(self) -> int:
        """The number of datagrams."""
        return count_of(self.payload, self.segment)


def cut(payload: bytes, segment: int) -> Iterator[bytes]:
    """Yield the datagrams of ``segment`` bytes that ``payload`` stands for; itself where that is zero."""
    if not segment:
        yield payload
        return
    for start in range(0, len(payload), segment):
        yield payload[start : start + segment]


def count_of(payload: bytes, segment: int) -> int:
    """Return how many datagrams :func:`cut` would yield."""
    return -(-len(payload) // segment) if segment else 1


def pieces(payloads: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield payloads to one place as few pieces, each with its segment size; zero for one that stands alone.

    In order, nothing but neighbours of one size together, the last of which may be shorter.
    """
    place = 0
    while place < len(payloads):
        size, end = len(payloads[place]), place + 1
        limit = min(len(payloads), place + MAX_DATAGRAMS, place + max(1, MAX_PIECE // max(1, size)))
        while end < limit and len(payloads[end]) == size:
            end += 1
        if end < limit and len(payloads[end]) < size:
            end += 1
        if end - place == 1:
            yield payloads[place], 0
        else:
            yield b"".join(payloads[place:end]), size
        place = end


def together(packets: Iterable[Received]) -> Iterator[Received]:
    """Yield datagrams as few pieces: neighbours of one size from one source with one traffic class.

    What the kernel does where it can, and only up to 64 KiB: the work behind it is cheaper on many at once. No more
    than :data:`MAX_DATAGRAMS` in a piece: tenants' sockets lose what comes in longer bursts.
    """
    run: list[Received] = []
    size = count = 0
    for packet in packets:
        if run and (count + packet.count > MAX_DATAGRAMS or not _continues(run, size, packet)):
            yield _joined(run, size)
            run = []
        if not run:
            size, count = packet.segment or len(packet.payload), 0
        run.append(packet)
        count += packet.count
    if run:
        yield _joined(run, size)


def _continues(run: Sequence[Received], size: int, packet: Received) -> bool:
    """Tell whether a packet can follow ``run``: datagrams of ``size`` bytes, of which the last may be shorter."""
    first, last = run[0], run[-1]
    fits = packet.segment == size if packet.segment else 0 < len(packet.payload) <= size
    return (
        fits
        and not len(last.payload) % size
        and packet.source == first.source
        and packet.traffic_class == first.traffic_class
    )


def _joined(run: Sequence[Received], size: int) -> Received:
    first = run[0]
    if len(run) == 1:
        return first
    return Received(b"".join([packet.payload for packet in run]), first.source, first.traffic_class, size)


@functools.lru_cache(maxsize=4096)
def packed_address(text: str) -> bytes:
    """Return the 4 or 16 bytes of an address; an IPv4-mapped IPv6 address gives its 4 IPv4 bytes."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.packed
    return address.packed

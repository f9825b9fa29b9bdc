"""AH in transport mode (RFC 4302) with HMAC-SHA-256-128 (RFC 4868), under IPv4 and IPv6. Pure.

    IP header 20 or 40 B | next header, length, reserved 4 B | SPI 4 B | sequence number 4 B | ICV 16 B | payload

Under IPv6 four bytes of padding follow the ICV: the header is then a multiple of 8 bytes (section 2.6). Packets are
whole IP packets, because the ICV covers the IP header; what routers may change counts as zero (section 3.3.3.1): of
IPv4 TOS, flags, offset, TTL and checksum, of IPv6 traffic class, flow label and hop limit.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from geneve.control.channel import IP_PROTOCOL_AH
from geneve.drops import DropReason
from geneve.outer import IPV4_SIZE, IPV6_SIZE, internet_checksum
from nve.ipsec.esp import SPI_SIZE, Columns, highs
from nve.ipsec.icv import ICV_SIZE, icv, icvs, wrong
from nve.ipsec.keys import SaKeys

FIXED_SIZE = 12
"""Bytes of AH in front of the ICV."""
HEADER_SIZE = {4: FIXED_SIZE + ICV_SIZE, 6: FIXED_SIZE + ICV_SIZE + 4}
"""Bytes of AH by IP version."""
HOPS = 64
"""TTL or hop limit of packets."""

_IP_SIZE = {4: IPV4_SIZE, 6: IPV6_SIZE}
_ZERO_ICV = bytes(ICV_SIZE)
_LOW = Struct("!I")
_IPV4 = Struct("!BBHHHBBH8s")
_IPV6 = Struct("!IHBB32s")
_DONT_FRAGMENT, _FRAGMENT = 0x4000, 0x3FFF
_ALIKE = {
    4: "1sx6sx1s2x16s4s16s",
    6: "1s3x3sx40s4s16s",
}  # fmt: skip
"""Columns of packets under IPv4 and IPv6: parts that do not change on the way, sequence number, ICV."""


class Addresses:
    """From where to where AH packets go, and the IP headers of that way. ValueError for two families."""

    def __init__(self, source: str, destination: str) -> None:
        first, second = ipaddress.ip_address(source), ipaddress.ip_address(destination)
        if first.version != second.version:
            raise ValueError(f"{source} and {destination} are not of one address family")
        self.version = first.version
        self._both = first.packed + second.packed
        self._made: dict[int, tuple[bytes, bytes]] = {}

    def headers(self, payload: int) -> tuple[bytes, bytes]:
        """Return the IP header of a packet with ``payload`` bytes behind AH, and what the ICV covers of it."""
        made = self._made.get(payload)
        if made is None:
            if len(self._made) >= 4096:
                self._made.clear()
            made = self._made[payload] = self._make(HEADER_SIZE[self.version] + payload)
        return made

    def _make(self, size: int) -> tuple[bytes, bytes]:
        if self.version == 6:
            header = _IPV6.pack(6 << 28, size, IP_PROTOCOL_AH, HOPS, self._both)
        else:
            fields = (0x45, 0, IPV4_SIZE + size, 0, _DONT_FRAGMENT, HOPS, IP_PROTOCOL_AH)
            header = _IPV4.pack(*fields, internet_checksum(_IPV4.pack(*fields, 0, self._both)), self._both)
        return header, covered_header(header)


def covered_header(packet: bytes) -> bytes:
    """Return what the ICV covers of a packet's IP header, which has no options (section 3.3.3.1)."""
    if packet[0] >> 4 == 6:
        _, size, protocol, _, both = _IPV6.unpack_from(packet)
        return _IPV6.pack(6 << 28, size, protocol, 0, both)
    first, _, size, identification, _, _, protocol, _, both = _IPV4.unpack_from(packet)
    return _IPV4.pack(first, 0, size, identification, 0, 0, protocol, 0, both)


class Found(NamedTuple):
    """An AH packet that is sound as far as can be told without keys: where AH starts, and of whom it is."""

    start: int
    spi: bytes
    source: bytes


def find(packet: bytes) -> Found | DropReason:
    """Look for AH right behind the IP header of a whole IP packet.

    UNSUPPORTED_PROTOCOL for another protocol, and for IP options or extension headers in front of AH: what of them the
    ICV covers depends on each, and no NVE sends any. MALFORMED for fragments, which are put together before AH is
    looked at (section 3.4.1), and for lengths that do not agree.
    """
    version = packet[0] >> 4 if packet else 0
    if version not in _IP_SIZE or len(packet) < _IP_SIZE[version] + HEADER_SIZE[version]:
        return DropReason.MALFORMED
    start = _IP_SIZE[version]
    if version == 4:
        first, _, size, _, fragment, _, protocol, _, _ = _IPV4.unpack_from(packet)
        if first & 0x0F < 5 or size != len(packet) or fragment & _FRAGMENT:
            return DropReason.MALFORMED
        if first != 0x45 or protocol != IP_PROTOCOL_AH:
            return DropReason.UNSUPPORTED_PROTOCOL
        source = packet[12:16]
    else:
        _, size, protocol, _, _ = _IPV6.unpack_from(packet)
        if size != len(packet) - IPV6_SIZE:
            return DropReason.MALFORMED
        if protocol != IP_PROTOCOL_AH:
            return DropReason.UNSUPPORTED_PROTOCOL
        source = packet[8:24]
    # Reserved bytes are the receiver's to ignore, but covered by the ICV (section 2.3).
    if packet[start + 1] != HEADER_SIZE[version] // 4 - 2:
        return DropReason.MALFORMED
    return Found(start, packet[start + 4 : start + 4 + SPI_SIZE], source)


class Ah:
    """Seals and opens under the keys of one security association; ``extended`` as for :class:`nve.ipsec.esp.Esp`."""

    def __init__(self, spi: int, keys: SaKeys, extended: bool) -> None:
        self.spi = spi.to_bytes(SPI_SIZE, "big")
        self.extended = extended
        self._key = keys.integrity
        self._cuts: dict[tuple[int, int], Struct] = {}

    def seal(self, number: int, payload: bytes, next_header: int, addresses: Addresses) -> bytes:
        """Return one IP packet."""
        return self.seal_all(number, [payload], next_header, addresses)[0]

    def seal_all(
        self, first: int, payloads: Sequence[bytes], next_header: int, addresses: Addresses
    ) -> list[bytes]:
        """Return an IP packet for each payload, numbered from ``first`` on."""
        size = HEADER_SIZE[addresses.version]
        start = bytes((next_header, size // 4 - 2, 0, 0)) + self.spi
        rest, join = bytes(size - FIXED_SIZE - ICV_SIZE), b"".join
        numbers = range(first, first + len(payloads))
        heads = [start + _LOW.pack(number & 0xFFFFFFFF) for number in numbers]
        headers = [addresses.headers(len(payload)) for payload in payloads]
        behind = highs(numbers) if self.extended else (b"",) * len(payloads)
        empty = _ZERO_ICV + rest
        parts = zip(headers, heads, payloads, behind, strict=True)
        made = icvs(self._key, [join((header[1], head, empty, *last)) for header, head, *last in parts])
        whole = zip(headers, heads, made, payloads, strict=True)
        return [join((header[0], head, value, rest, payload)) for header, head, value, payload in whole]

    def read(self, packet: bytes) -> tuple[int, bytes] | DropReason:
        """Return the sequence number as on the wire, and the packet as :meth:`open` wants it."""
        found = find(packet)
        if isinstance(found, DropReason):
            return found
        at = found.start + 8
        return int.from_bytes(packet[at : at + 4], "big"), packet

    def open(self, packet: bytes, number: int) -> bytes | None:
        """Return AH and what is behind it of a packet that :meth:`read` found sound; None when the ICV is wrong."""
        start = _IP_SIZE[packet[0] >> 4]
        at = start + FIXED_SIZE
        parts = [covered_header(packet), packet[start:at], _ZERO_ICV, packet[at + ICV_SIZE :]]
        if self.extended:
            parts.append(_LOW.pack(number >> 32))
        if wrong([icv(self._key, b"".join(parts))], [packet[at : at + ICV_SIZE]]):
            return None
        return packet[start:]

    def unpack(self, text: bytes) -> tuple[int, bytes] | None:
        """Return next header and payload of what :meth:`open` returned."""
        return text[0], text[8 + 4 * text[1] :]

    def read_all(self, packets: bytes | memoryview, size: int) -> Columns | None:
        """Read packets of ``size`` bytes that stand one behind the other; None unless all are alike and sound.

        They are when they differ in nothing but sequence number, ICV, payload, and what routers change.
        """
        first = bytes(packets[:size])
        found = find(first)
        if isinstance(found, DropReason) or found.spi != self.spi:
            return None
        version = first[0] >> 4
        rest = size - found.start - FIXED_SIZE - ICV_SIZE
        reader = self._cuts.get((version, rest))
        if reader is None:
            if len(self._cuts) >= 64:
                self._cuts.clear()
            reader = self._cuts[version, rest] = Struct(f"!{_ALIKE[version]}{rest}s")
        *alike, sequences, received, behind = zip(*reader.iter_unpack(packets), strict=True)
        if any(column.count(column[0]) != len(column) for column in alike):
            return None
        lows = Struct(f"!{len(sequences)}I").unpack(b"".join(sequences))
        return Columns(self.spi, lows, (first, sequences, received, behind))

    def open_all(self, columns: Columns, numbers: Sequence[int]) -> tuple[list[bytes], list[int]]:
        """Return AH and payload of each, and the indices of those whose ICV did not verify, which are empty."""
        first, sequences, received, behind = columns.rest
        start = _IP_SIZE[first[0] >> 4]
        fixed = first[start : start + 8]
        prefix, join = covered_header(first) + fixed, b"".join
        high = highs(numbers) if self.extended else (b"",) * len(numbers)
        covered = [
            join((prefix, sequence, _ZERO_ICV, rest, last))
            for sequence, rest, last in zip(sequences, behind, high, strict=True)
        ]
        refused = wrong(icvs(self._key, covered), received)
        gap = fixed + bytes(4 + ICV_SIZE)  # nobody reads number and ICV again
        texts = list(map(gap.__add__, behind))
        for index in refused:
            texts[index] = b""
        return texts, refused

    def unpack_all(self, texts: Sequence[bytes]) -> tuple[int, list[bytes]] | None:
        """Do what :meth:`unpack` does for all of :meth:`open_all`, whose headers are alike."""
        at = 8 + 4 * texts[0][1]
        return texts[0][0], [text[at:] for text in texts]

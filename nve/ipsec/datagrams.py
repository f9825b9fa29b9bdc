"""The UDP datagram around a Geneve packet that IPsec carries in transport mode: header, entropy, checksum. Pure."""

from __future__ import annotations

import ipaddress
import zlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from struct import Struct

import numpy as np

from geneve.header import GENEVE_PORT
from geneve.outer import PROTOCOL_UDP, UDP_SIZE, internet_checksum
from nve.segmentation import fold, sum16, swapped

FIRST_PORT, PORTS = 49152, 16384
"""Source ports, the dynamic range: one for each inner flow (RFC 8926, section 3.3)."""
HEADER = Struct("!HHHH")
_PSEUDO_IPV6 = Struct("!32sIHH")
_LEAST_NUMPY = 4
"""Datagrams from which it pays to sum them at once."""


def source_port(flow: bytes) -> int:
    """Return the source port of an inner flow."""
    return FIRST_PORT + zlib.crc32(flow) % PORTS


class Ipv6Checksums:
    """UDP checksums between two IPv6 addresses, which have to be there (RFC 8200, section 8.1)."""

    def __init__(self, source: str, destination: str) -> None:
        self._both = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(destination).packed

    def heads(self, port: int, payloads: Sequence[bytes]) -> list[bytes]:
        """Return the UDP header of each payload."""
        return [head for size, run in groupby(payloads, len) for head in self._alike(port, size, list(run))]

    def _alike(self, port: int, size: int, payloads: list[bytes]) -> Iterator[bytes]:
        length = UDP_SIZE + size
        head = HEADER.pack(port, GENEVE_PORT, length, 0)
        pseudo = _PSEUDO_IPV6.pack(self._both, length, 0, PROTOCOL_UDP) + head
        if len(payloads) < _LEAST_NUMPY:
            values = [internet_checksum(pseudo + payload) for payload in payloads]
        else:
            odd = b"\0" if size % 2 else b""
            rows = np.frombuffer(odd.join((*payloads, b"")) if odd else b"".join(payloads), np.uint8)
            sums = swapped(sum16(rows.reshape(len(payloads), size + size % 2), 0))
            values = (0xFFFF - fold(sums + (0xFFFF - internet_checksum(pseudo)))).tolist()
        for value in values:
            # Zero would say that there is none (RFC 768).
            yield HEADER.pack(port, GENEVE_PORT, length, value or 0xFFFF)

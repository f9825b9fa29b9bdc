"""The security option, one per audience of a packet::

    option header 4 B | SPI 4 B | sequence number 8 B | [flow id 4 B] | [inner length 4 B]
    | sealed part 0..n B | tag 16 B

For an endpoint the type's critical bit is set: an NVE that does not know the option would hand
ciphertext to a tenant. For transit devices it is clear: the option is none of the endpoint's business.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from geneve.errors import ParseError
from geneve.header import BASE_HEADER_SIZE
from geneve.option import CRITICAL_TYPE_BIT, EXPERIMENTAL_CLASS, OPTION_HEADER_SIZE

SECURITY_CLASS = EXPERIMENTAL_CLASS
TRANSIT_TYPE = 0x01
"""Type of a security option whose audience is one transit device."""
EGRESS_TYPE = TRANSIT_TYPE | CRITICAL_TYPE_BIT
"""Type of a security option whose audience is an NVE, or the receivers of a multicast group."""
GROUP_TYPE = 0x04
"""Type of a security option whose audience are the transit devices on the path and the egress NVE."""
SIGNATURE_TYPE = 0x05 | CRITICAL_TYPE_BIT
"""Type of the option that proves a multicast packet's sender."""
PADDING_TYPE = 0x03
"""Type of the option that fills a sealed part; never seen on the wire."""
SECURITY_TYPES = frozenset({TRANSIT_TYPE, EGRESS_TYPE, GROUP_TYPE})

TAG_SIZE = 16
"""Bytes of an AEAD tag; never truncated."""
SEQUENCE_SIZE = 8
SPI_SIZE = 4
SECURITY_OPTION_SIZE = OPTION_HEADER_SIZE + SPI_SIZE + SEQUENCE_SIZE + TAG_SIZE
"""Bytes of a security option that hides no options: 32."""

_OPTION = struct.Struct("!HBB")
_SPI_SEQUENCE = struct.Struct("!IQ")
_MIN_DATA = SPI_SIZE + SEQUENCE_SIZE + TAG_SIZE


@dataclass(frozen=True, slots=True)
class OptionSpan:
    """Where one option stands in a packet, without copying it. Offsets are in bytes from the base header."""

    option_class: int
    type: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class SecuritySpan(OptionSpan):
    """A security option in a packet, its SPI and sequence number read."""

    spi: int
    sequence: int


@lru_cache(maxsize=256)
def _sequences(count: int) -> tuple[struct.Struct, struct.Struct]:
    return struct.Struct(f"!{count}Q"), struct.Struct(f"{SEQUENCE_SIZE}s" * count)


def write_sequences(first: int, count: int) -> tuple[bytes, ...]:
    """Return ``count`` sequence numbers from ``first`` on as they stand in packets."""
    together, apart = _sequences(count)
    return apart.unpack(together.pack(*range(first, first + count)))


def read_sequences(numbers: Sequence[bytes]) -> tuple[int, ...]:
    """Return sequence numbers that stood in packets."""
    return _sequences(len(numbers))[0].unpack(b"".join(numbers))


def is_security_option(option_class: int, option_type: int) -> bool:
    """Return whether class and type name a security option, for whatever audience."""
    return option_class == SECURITY_CLASS and option_type in SECURITY_TYPES


def is_mechanism_option(option_class: int, option_type: int) -> bool:
    """Return whether class and type name an option that the mechanism itself puts into packets."""
    return option_class == SECURITY_CLASS and (option_type in SECURITY_TYPES or option_type == SIGNATURE_TYPE)


def scan_options(packet: bytes, end: int) -> list[OptionSpan]:
    """Find the options between the base header and ``end``; security options come as SecuritySpan.

    ParseError unless they fill the space exactly and each security option has room for its fields.
    """
    spans: list[OptionSpan] = []
    offset = BASE_HEADER_SIZE
    while offset < end:
        if end - offset < OPTION_HEADER_SIZE:
            raise ParseError("option header cut short")
        option_class, option_type, length = _OPTION.unpack_from(packet, offset)
        start, size = offset, (length & 0x1F) << 2
        offset += OPTION_HEADER_SIZE + size
        if offset > end:
            raise ParseError("option longer than what remains")
        if is_security_option(option_class, option_type):
            if size < _MIN_DATA:
                raise ParseError(f"security option with {size} bytes of data, at least {_MIN_DATA} needed")
            spi, sequence = _SPI_SEQUENCE.unpack_from(packet, start + OPTION_HEADER_SIZE)
            spans.append(SecuritySpan(option_class, option_type, start, offset, spi, sequence))
        else:
            spans.append(OptionSpan(option_class, option_type, start, offset))
    return spans

"""Geneve options (RFC 8926, section 3.5): strict builder, exact parser."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from geneve.errors import ParseError
from geneve.header import MAX_OPTIONS_SIZE

OPTION_HEADER_SIZE = 4
"""Size of an option's own header in bytes."""

MAX_OPTION_DATA = 31 * 4
"""Largest data of one option in bytes: its length field is five bits, in units of four bytes."""

CRITICAL_TYPE_BIT = 0x80
"""High-order bit of the type: who does not know such an option must drop the packet (section 3.5.1)."""

EXPERIMENTAL_CLASS = 0xFF60
"""Option class of this project, from the range for experimental use 0xFF00-0xFFFF (section 7)."""

_HEADER = struct.Struct("!HBB")


@dataclass(frozen=True, slots=True)
class Option:
    """One option. ``type`` is the whole octet, its critical bit included; ``reserved`` are the R bits."""

    option_class: int
    type: int
    data: bytes = b""
    reserved: int = 0

    @property
    def critical(self) -> bool:
        """Whether an endpoint that does not know the option must drop the packet."""
        return bool(self.type & CRITICAL_TYPE_BIT)

    @property
    def size(self) -> int:
        """Bytes on the wire, header included."""
        return OPTION_HEADER_SIZE + len(self.data)

    def build(self) -> bytes:
        """Return the option's bytes; ValueError when a field does not fit."""
        if not 0 <= self.option_class <= 0xFFFF or not 0 <= self.type <= 0xFF or not 0 <= self.reserved <= 7:
            raise ValueError("option class, type or reserved bits do not fit")
        return option_header(self.option_class, self.type, len(self.data), self.reserved) + self.data


def option_header(option_class: int, option_type: int, data_size: int, reserved: int = 0) -> bytes:
    """Return the 4-byte header of an option with ``data_size`` bytes of data; ValueError when that does not fit."""
    if data_size % 4 or not 0 <= data_size <= MAX_OPTION_DATA:
        raise ValueError(f"option data of {data_size} bytes is not a multiple of 4 from 0 to {MAX_OPTION_DATA}")
    return _HEADER.pack(option_class, option_type, reserved << 5 | data_size >> 2)


def build_options(options: Iterable[Option]) -> bytes:
    """Return all ``options`` one behind the other; ValueError when they exceed 252 bytes."""
    block = b"".join(option.build() for option in options)
    if len(block) > MAX_OPTIONS_SIZE:
        raise ValueError(f"options of {len(block)} bytes exceed the {MAX_OPTIONS_SIZE} that Opt Len can say")
    return block


def parse_options(block: bytes) -> tuple[Option, ...]:
    """Parse an option block exactly: ParseError unless the options fill it to the last byte."""
    options = []
    offset, end = 0, len(block)
    while offset < end:
        if end - offset < OPTION_HEADER_SIZE:
            raise ParseError(f"option header cut short at byte {offset} of the options")
        option_class, option_type, length = _HEADER.unpack_from(block, offset)
        start = offset + OPTION_HEADER_SIZE
        offset = start + (length & 0x1F) * 4
        if offset > end:
            raise ParseError(f"option at byte {start - OPTION_HEADER_SIZE} is longer than what remains")
        options.append(Option(option_class, option_type, bytes(block[start:offset]), length >> 5))
    return tuple(options)

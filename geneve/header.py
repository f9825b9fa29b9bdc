"""The Geneve base header (RFC 8926, section 3.4): 8 bytes in front of every Geneve packet."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum

from geneve.errors import ParseError

GENEVE_PORT = 6081
"""UDP destination port of Geneve (RFC 8926, section 3.3)."""

BASE_HEADER_SIZE = 8
"""Size of the base header in bytes."""

MAX_OPTIONS_SIZE = 63 * 4
"""Largest total of all options in bytes: Opt Len is six bits, in units of four bytes."""

MAX_VNI = 0xFFFFFF
"""A virtual network identifier has 24 bits."""

ETHERTYPE_TEB = 0x6558
"""Protocol type of an Ethernet frame (Transparent Ethernet Bridging), what this testbed carries."""

ETHERTYPE_HIDDEN = 0x88B5
"""Protocol type on the wire when the true one is hidden: IEEE Std 802, local experimental EtherType 1."""

_BASE = struct.Struct("!BBHI")


class HeaderField(str, Enum):
    """The fields of the base header, by the names that profiles and documents use."""

    VERSION = "version"
    OPT_LEN = "opt_len"
    OAM = "oam"
    CRITICAL = "critical"
    RESERVED1 = "reserved1"
    PROTOCOL_TYPE = "protocol_type"
    VNI = "vni"
    RESERVED2 = "reserved2"


FIELD_MASKS: dict[HeaderField, int] = {
    HeaderField.VERSION: 0xC0 << 56,
    HeaderField.OPT_LEN: 0x3F << 56,
    HeaderField.OAM: 0x80 << 48,
    HeaderField.CRITICAL: 0x40 << 48,
    HeaderField.RESERVED1: 0x3F << 48,
    HeaderField.PROTOCOL_TYPE: 0xFFFF << 32,
    HeaderField.VNI: 0xFFFFFF << 8,
    HeaderField.RESERVED2: 0xFF,
}
"""Bits of each field in the base header, read as one 64-bit big-endian number."""


def fields_mask(fields: frozenset[HeaderField]) -> int:
    """Return the 64-bit mask that keeps exactly ``fields`` of a base header."""
    mask = 0
    for field in fields:
        mask |= FIELD_MASKS[field]
    return mask


@dataclass(frozen=True, slots=True)
class BaseHeader:
    """One base header. ``opt_len`` counts bytes here (0 to 252), not the wire's units of four.

    The reserved fields are kept as received so that a packet can be rebuilt bit for bit; a sender
    leaves them zero and a receiver ignores them (RFC 8926, section 3.4).
    """

    vni: int
    protocol_type: int = ETHERTYPE_TEB
    opt_len: int = 0
    oam: bool = False
    critical: bool = False
    version: int = 0
    reserved1: int = 0
    reserved2: int = 0

    def build(self) -> bytes:
        """Return the 8 bytes on the wire; ValueError when a field does not fit."""
        if not 0 <= self.vni <= MAX_VNI:
            raise ValueError(f"VNI {self.vni} does not fit in 24 bits")
        if not 0 <= self.opt_len <= MAX_OPTIONS_SIZE or self.opt_len % 4:
            raise ValueError(f"option length {self.opt_len} is not a multiple of 4 from 0 to {MAX_OPTIONS_SIZE}")
        if not 0 <= self.protocol_type <= 0xFFFF:
            raise ValueError(f"protocol type {self.protocol_type} does not fit in 16 bits")
        if not (0 <= self.version <= 3 and 0 <= self.reserved1 <= 0x3F and 0 <= self.reserved2 <= 0xFF):
            raise ValueError("version or a reserved field does not fit")
        flags = self.oam << 7 | self.critical << 6 | self.reserved1
        return _BASE.pack(
            self.version << 6 | self.opt_len >> 2, flags, self.protocol_type, self.vni << 8 | self.reserved2
        )


def parse_base_header(packet: bytes) -> BaseHeader:
    """Parse the first 8 bytes of ``packet``; ParseError when there are fewer, or fewer than Opt Len says.

    Every version is parsed: whether one is acceptable is the caller's decision (an NVE drops what is
    not version 0, a transit device forwards it).
    """
    if len(packet) < BASE_HEADER_SIZE:
        raise ParseError(f"base header cut short: {len(packet)} of {BASE_HEADER_SIZE} bytes")
    first, flags, protocol_type, last = _BASE.unpack_from(packet)
    header = BaseHeader(
        vni=last >> 8,
        protocol_type=protocol_type,
        opt_len=(first & 0x3F) << 2,
        oam=bool(flags & 0x80),
        critical=bool(flags & 0x40),
        version=first >> 6,
        reserved1=flags & 0x3F,
        reserved2=last & 0xFF,
    )
    if len(packet) < BASE_HEADER_SIZE + header.opt_len:
        raise ParseError(f"options cut short: {len(packet) - BASE_HEADER_SIZE} of {header.opt_len} bytes")
    return header

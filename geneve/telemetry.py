"""The telemetry option: what lets transit devices report the path of a flow.

The ingress NVE adds it where the policy asks for telemetry. A transit device reads it and exports a
record; it never changes it (RFC 8926, section 2.2.1). Data, 12 bytes::

    flow label 4 B | sequence number 8 B

The flow label is a keyed hash of the inner flow, so an observer cannot learn the inner addresses
from it; the sequence number counts the packets that the ingress NVE sent with telemetry.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from geneve.errors import ParseError
from geneve.option import EXPERIMENTAL_CLASS, OPTION_HEADER_SIZE, Option, option_header

TELEMETRY_CLASS = EXPERIMENTAL_CLASS
TELEMETRY_TYPE = 0x02
"""Not critical: an endpoint that does not know it may ignore it."""

_DATA = struct.Struct("!IQ")
TELEMETRY_OPTION_SIZE = OPTION_HEADER_SIZE + _DATA.size
"""Bytes that telemetry adds to a packet: 16."""

_OPTION_HEADER = option_header(TELEMETRY_CLASS, TELEMETRY_TYPE, _DATA.size)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Contents of a telemetry option: a 32-bit flow label and a 64-bit sequence number."""

    flow: int
    sequence: int

    def option(self) -> Option:
        """Return the option that carries these values."""
        return Option(TELEMETRY_CLASS, TELEMETRY_TYPE, _DATA.pack(self.flow, self.sequence))


def build_telemetry(flow: int, sequence: int) -> bytes:
    """Return a telemetry option's 16 bytes; struct.error when a value does not fit."""
    return _OPTION_HEADER + _DATA.pack(flow, sequence)


def parse_telemetry(option: Option) -> Telemetry:
    """Read a telemetry option; ParseError when it is another option or its data is not 12 bytes."""
    if (option.option_class, option.type) != (TELEMETRY_CLASS, TELEMETRY_TYPE):
        raise ParseError("not a telemetry option")
    if len(option.data) != _DATA.size:
        raise ParseError(f"telemetry data of {len(option.data)} bytes, expected {_DATA.size}")
    return Telemetry(*_DATA.unpack(option.data))


def read_telemetry(data: bytes) -> tuple[int, int]:
    """Return flow label and sequence number from a telemetry option's 12 bytes of data; struct.error if too short."""
    flow, sequence = _DATA.unpack_from(data)
    return flow, sequence

"""A whole Geneve packet: base header, options, payload (RFC 8926, section 3). What UDP carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from geneve.header import BASE_HEADER_SIZE, BaseHeader, parse_base_header
from geneve.option import Option, build_options, parse_options


@dataclass(frozen=True, slots=True)
class Packet:
    """A parsed Geneve packet; ``payload`` is the inner frame as it stands on the wire."""

    header: BaseHeader
    options: tuple[Option, ...]
    payload: bytes

    def build(self) -> bytes:
        """Return the bytes on the wire exactly as this object says, Opt Len and C bit included.

        ValueError when a field does not fit or ``header.opt_len`` is not the options' true length;
        :func:`make_packet` sets both fields from the options.
        """
        block = build_options(self.options)
        if len(block) != self.header.opt_len:
            raise ValueError(f"header says {self.header.opt_len} bytes of options, there are {len(block)}")
        return self.header.build() + block + self.payload


def make_packet(header: BaseHeader, options: Sequence[Option], payload: bytes) -> Packet:
    """Return a packet whose Opt Len and C bit follow from ``options`` (RFC 8926, section 3.4)."""
    complete = replace(
        header,
        opt_len=sum(option.size for option in options),
        critical=any(option.critical for option in options),
    )
    return Packet(complete, tuple(options), payload)


def parse_packet(data: bytes) -> Packet:
    """Parse what UDP carried; ParseError when header or options are not exactly filled."""
    header = parse_base_header(data)
    end = BASE_HEADER_SIZE + header.opt_len
    return Packet(header, parse_options(data[BASE_HEADER_SIZE:end]), bytes(data[end:]))

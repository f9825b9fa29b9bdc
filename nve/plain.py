"""Geneve packets as RFC 8926 has them, without any protection: what is sent in clear, or through a channel. Pure."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from geneve.header import BaseHeader
from geneve.option import OPTION_HEADER_SIZE, parse_options
from geneve.packet import make_packet
from nve.segmentation import Segment


@functools.lru_cache(maxsize=1024)
def _plain_header(vni: int, option_heads: tuple[bytes, ...]) -> bytes:
    # An option's own four bytes say all that the base header needs to know of it.
    parsed = [parse_options(head + bytes((head[3] & 0x1F) * 4))[0] for head in option_heads]
    return make_packet(BaseHeader(vni=vni), parsed, b"").header.build()


def plain_packets(vni: int, frames: Sequence[Segment], options: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Return a packet for each of ``frames``; ``options[i]`` are those of frame i, and all have options of one form."""
    header = _plain_header(vni, tuple([option[:OPTION_HEADER_SIZE] for option in options[0]]))
    return [b"".join((header, *own, frame)) for frame, own in zip(frames, options, strict=True)]

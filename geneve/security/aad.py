"""What a tag covers besides the ciphertext: the AEAD's associated data (design invariant 2).

    label 12 B | audience role 1 B | own place 1 B | length of the stream 2 B
    | base header 8 B, uncovered bits zero
    | stream: in wire order each covered option whole, and the head of the security option itself
    | covered payload that is not encrypted

Every part has a fixed size, a stated one, or is an option that says its own, so two different packets
never give the same bytes. "Own place" says at which fourth byte of the stream the own head starts.
Sealing and opening use this one construction, on the packet's own bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from geneve.control.profile import Coverage
from geneve.control.state import AssociationRole
from geneve.header import BASE_HEADER_SIZE, fields_mask
from geneve.security.option import SECURITY_CLASS, SIGNATURE_TYPE, OptionSpan, is_security_option
from geneve.security.shape import Shape

LABEL = b"GENEVE-SEC-1"
ROLE_CODES = {
    AssociationRole.EGRESS: 1,
    AssociationRole.TRANSIT: 2,
    AssociationRole.GROUP: 3,
    AssociationRole.MULTICAST: 4,
}

Range = tuple[int, int]
"""From which to which byte of a packet, counted from the base header."""

_WHOLE_HEADER = 0xFFFFFFFFFFFFFFFF
_PREFIX = struct.Struct(f"!{len(LABEL)}sBBH")


class AadPlan:
    """Where the covered parts of packets of one layout stand, worked out once for many packets.

    ``spans`` are all options of the packet and ``own`` the security option whose tag is computed.
    """

    __slots__ = ("_mask", "_pieces", "_prefix", "_single")

    def __init__(self, role: AssociationRole, shape: Shape, spans: Sequence[OptionSpan], own: OptionSpan) -> None:
        self._mask = fields_mask(shape.coverage.header)
        pieces: list[Range] = []
        size = place = 0
        for span in spans:
            if span.start == own.start:
                place = size
                start, end = own.start, own.start + shape.head_size
            elif covers_option(shape.coverage, span, own):
                start, end = span.start, span.end
            else:
                continue
            size += end - start
            _append(pieces, start, end)
        if self._mask == _WHOLE_HEADER:
            pieces = join_ranges([(0, BASE_HEADER_SIZE), *pieces])
        self._prefix = _PREFIX.pack(LABEL, ROLE_CODES[role], place // 4, size)
        self._pieces = tuple(pieces)
        # Everything in front of the tag in one piece: the case of a fully covered packet.
        self._single = pieces[0] if self._mask == _WHOLE_HEADER and len(pieces) == 1 else None

    def build(self, packet: bytes | bytearray, clear: bytes) -> bytes:
        """Return the associated data of ``packet``; ``clear`` is the payload it covers unencrypted."""
        if self._single is not None:
            start, end = self._single
            return b"".join((self._prefix, packet[start:end], clear))
        parts: list[bytes | bytearray] = [self._prefix]
        if self._mask != _WHOLE_HEADER:
            header = int.from_bytes(packet[:BASE_HEADER_SIZE], "big") & self._mask
            parts.append(header.to_bytes(BASE_HEADER_SIZE, "big"))
        for start, end in self._pieces:
            parts.append(packet[start:end])
        parts.append(clear)
        return b"".join(parts)

    def parts(self, packet: bytes, varying: Sequence[Range]) -> list[bytes | Range]:
        """Return what :meth:`build` puts together in front of the clear payload, for packets that are alike.

        They differ from ``packet`` in the ranges ``varying`` only, which are in order and without the base
        header. Constant parts come as bytes, varying ones as the range of the packet to be read.
        """
        found: list[bytes | Range] = [self._prefix]
        if self._mask != _WHOLE_HEADER:
            header = int.from_bytes(packet[:BASE_HEADER_SIZE], "big") & self._mask
            _add_constant(found, header.to_bytes(BASE_HEADER_SIZE, "big"))
        for start, end in self._pieces:
            at = start
            for first, last in varying:
                if first < end and at < last:
                    _add_constant(found, packet[at:first])
                    at = min(last, end)
                    found.append((max(first, start), at))
            _add_constant(found, packet[at:end])
        return found


def _add_constant(parts: list[bytes | Range], constant: bytes) -> None:
    last = parts[-1]
    if isinstance(last, bytes):
        parts[-1] = last + constant
    elif constant:
        parts.append(constant)


def _append(pieces: list[Range], start: int, end: int) -> None:
    if pieces and pieces[-1][1] == start:
        pieces[-1] = (pieces[-1][0], end)
    else:
        pieces.append((start, end))


def join_ranges(pieces: Sequence[Range]) -> list[Range]:
    """Return ``pieces`` with those that touch made one."""
    joined: list[Range] = []
    for start, end in pieces:
        _append(joined, start, end)
    return joined


def covers_option(coverage: Coverage, span: OptionSpan, own: OptionSpan) -> bool:
    """Return whether the tag of the security option ``own`` covers the option at ``span``.

    Of other security options only those in front of the own one can be covered: their tags are
    computed before it. The signature is made over the tag, so no tag covers it.
    """
    if span.option_class == SECURITY_CLASS and span.type == SIGNATURE_TYPE:
        return False
    if is_security_option(span.option_class, span.type) and span.start >= own.start:
        return False
    if coverage.options is None:
        return True
    return any(item.option_class == span.option_class and item.type == span.type for item in coverage.options)

"""What a tag covers besides the ciphertext: the AEAD's associated data (design invariant 2).

    label | audience role 1 B | first 16 B of the security option (header, SPI, sequence number)
    | base header 8 B, uncovered bits zero | number of entries 1 B
    | per covered option, in wire order: length 2 B, the whole option
    | (length 0 marks where the security option itself stands)
    | length of clear payload 4 B, clear payload

Every part of variable size carries its length, so two different packets never give the same bytes.
Sealing and opening use this one construction, on the packet's own bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from geneve.control.profile import Coverage
from geneve.control.state import AssociationRole
from geneve.header import BASE_HEADER_SIZE, fields_mask
from geneve.security.option import OptionSpan, is_security_option

LABEL = b"GENEVE-SEC-1"
ROLE_CODES = {AssociationRole.EGRESS: b"\x01", AssociationRole.TRANSIT: b"\x02"}

_OWN_HEAD_SIZE = 16
_WHOLE_HEADER = 0xFFFFFFFFFFFFFFFF
_OWN_ENTRY = b"\x00\x00"
_LENGTH = struct.Struct("!I")


class AadPlan:
    """Where the covered parts of packets of one layout stand, worked out once for many packets.

    ``spans`` are all options of the packet and ``own`` the security option whose tag is computed.
    A transit device's tag never covers other security options: their tags are computed after it.
    """

    __slots__ = ("_entries", "_head", "_mask", "_own_end", "_own_start", "_prefix")

    def __init__(self, role: AssociationRole, coverage: Coverage, spans: Sequence[OptionSpan], own: OptionSpan) -> None:
        self._prefix = LABEL + ROLE_CODES[role]
        self._own_start, self._own_end = own.start, own.start + _OWN_HEAD_SIZE
        self._mask = fields_mask(coverage.header)
        entries: list[tuple[int, int, bytes]] = []
        for span in spans:
            if span.start == own.start:
                entries.append((0, 0, _OWN_ENTRY))
            elif covers_option(role, coverage, span):
                entries.append((span.start, span.end, struct.pack("!H", span.end - span.start)))
        self._entries = entries
        self._head = bytes([len(entries)])

    def build(self, packet: bytes | bytearray, clear: bytes) -> bytes:
        """Return the associated data of ``packet``; ``clear`` is the payload it covers unencrypted."""
        header: bytes = bytes(packet[:BASE_HEADER_SIZE])
        if self._mask != _WHOLE_HEADER:
            header = (int.from_bytes(header, "big") & self._mask).to_bytes(BASE_HEADER_SIZE, "big")
        parts: list[bytes | bytearray] = [
            self._prefix, packet[self._own_start : self._own_end], header, self._head
        ]  # fmt: skip
        for start, end, length in self._entries:
            parts.append(length)
            if end:
                parts.append(packet[start:end])
        parts.append(_LENGTH.pack(len(clear)))
        parts.append(clear)
        return b"".join(parts)


def covers_option(role: AssociationRole, coverage: Coverage, span: OptionSpan) -> bool:
    """Return whether an audience's tag covers the option at ``span`` (not its own security option)."""
    if is_security_option(span.option_class, span.type):
        return role is AssociationRole.EGRESS and coverage.options is None
    if coverage.options is None:
        return True
    return any(item.option_class == span.option_class and item.type == span.type for item in coverage.options)

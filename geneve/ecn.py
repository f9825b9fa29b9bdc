"""Explicit congestion notification through the tunnel (RFC 6040) and the DSCP beside it (RFC 2983)."""

from __future__ import annotations

import struct

from geneve.inner import ETHERTYPE_IPV4, ETHERTYPE_IPV6, InnerFrame

NOT_ECT, ECT_1, ECT_0, CE = 0, 1, 2, 3
"""The four codepoints of the ECN field (RFC 3168, section 5)."""

_DECAPSULATED: dict[tuple[int, int], int | None] = {
    **{(inner, NOT_ECT): inner for inner in (NOT_ECT, ECT_0, ECT_1, CE)},
    **{(inner, ECT_0): inner for inner in (NOT_ECT, ECT_0, ECT_1, CE)},
    (NOT_ECT, ECT_1): NOT_ECT, (ECT_0, ECT_1): ECT_1, (ECT_1, ECT_1): ECT_1, (CE, ECT_1): CE,
    (NOT_ECT, CE): None, (ECT_0, CE): CE, (ECT_1, CE): CE, (CE, CE): CE,
}  # fmt: skip
"""(inner, outer) -> codepoint to deliver; None is a drop (RFC 6040, section 4.2, figure 4)."""


def outer_traffic_class(inner: InnerFrame, dscp: int | None) -> int:
    """Return the 8-bit outer traffic class of an encapsulated frame, in normal mode (RFC 6040, section 4.1).

    The ECN field is always copied. ``dscp`` is the outer DSCP, or None to copy the inner one, which
    tells an observer how the tenant marks its traffic. A frame that is not IP gives ECN 0.
    """
    traffic_class = inner.traffic_class or 0
    high = traffic_class & 0xFC if dscp is None else dscp << 2
    return high | traffic_class & 0x03


def decapsulate(frame: bytes, inner: InnerFrame, outer_traffic_class: int) -> bytes | None:
    """Return ``frame`` with the ECN field that results from both headers, or None when it must be dropped."""
    outer = outer_traffic_class & 0x03
    if outer in (NOT_ECT, ECT_0) or inner.traffic_class is None:
        return frame
    result = _DECAPSULATED[inner.traffic_class & 0x03, outer]
    if result is None:
        return None
    if result == inner.traffic_class & 0x03:
        return frame
    return _with_ecn(frame, inner, result)


def _with_ecn(frame: bytes, inner: InnerFrame, ecn: int) -> bytes:
    start = inner.network_offset
    (word,) = struct.unpack_from("!H", frame, start)
    changed = bytearray(frame)
    if inner.ethertype == ETHERTYPE_IPV6:
        struct.pack_into("!H", changed, start, word & ~0x0030 | ecn << 4)
    elif inner.ethertype == ETHERTYPE_IPV4:
        new = word & ~0x0003 | ecn
        struct.pack_into("!H", changed, start, new)
        # Incremental update of the header checksum (RFC 1624, equation 3).
        (checksum,) = struct.unpack_from("!H", frame, start + 10)
        total = (~checksum & 0xFFFF) + (~word & 0xFFFF) + new
        total = (total & 0xFFFF) + (total >> 16)
        struct.pack_into("!H", changed, start + 10, ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
    return bytes(changed)

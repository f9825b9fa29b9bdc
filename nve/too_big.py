"""Telling a tenant that its packet is too big for the overlay (RFC 792, RFC 1191; RFC 4443, section 3.2).

The overlay is layer 2 and has no address of its own in the tenant's network, so the message comes in the
name of the destination: path MTU discovery looks at the packet that is quoted. A frame without DF gets the
message too: nothing on the way could fragment it.
"""

from __future__ import annotations

import struct

from geneve.inner import ETHERTYPE_IPV4, ETHERTYPE_IPV6, InnerFrame
from geneve.outer import internet_checksum

_ICMP, _ICMPV6 = 1, 58
_FRAGMENT_HEADER = 44
_ICMP_SIZE = 576
"""Largest ICMP error message in bytes, IP header included (RFC 1812, section 4.3.2.3)."""
_ICMPV6_SIZE = 1280
"""Largest ICMPv6 error message in bytes, IP header included (RFC 4443, section 2.4 c)."""
_TTL = 64
_ICMP_QUERIES = frozenset({0, 8, 9, 10, 13, 14, 15, 16, 17, 18})


class ErrorRate:
    """A token bucket: how many messages may be sent (RFC 4443, section 2.4 f). Times in seconds."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._rate, self._burst = per_second, burst
        self._tokens, self._last = burst, 0.0

    def allow(self, now: float) -> bool:
        """Return whether a message may be sent at ``now``; it counts as sent then."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._last) * self._rate)
        self._last = max(self._last, now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def build_too_big(frame: bytes, inner: InnerFrame, mtu: int) -> bytes | None:
    """Return the Ethernet frame that tells the sender of ``frame``; None where no message may be sent.

    ``mtu`` is the largest IP packet that would fit, in bytes. There is no message about what is not IP, to or
    from groups, about fragments behind the first, or about an ICMP error.
    """
    if (inner.destination[0] | inner.source[0]) & 1 or not inner.readable:
        return None
    if inner.ethertype == ETHERTYPE_IPV4:
        packet = _icmp(frame, inner, mtu)
    elif inner.ethertype == ETHERTYPE_IPV6:
        packet = _icmpv6(frame, inner, mtu)
    else:
        return None
    if packet is None:
        return None
    return inner.source + inner.destination + frame[12 : inner.network_offset] + packet


def _icmp(frame: bytes, inner: InnerFrame, mtu: int) -> bytes | None:
    start = inner.network_offset
    source, destination = inner.source_ip, inner.destination_ip
    (fragment,) = struct.unpack_from("!H", frame, start + 6)
    if fragment & 0x1FFF or source[0] in (0, 127) or source[0] >= 224 or destination[0] >= 224:
        return None
    if inner.protocol == _ICMP and inner.icmp_type not in _ICMP_QUERIES:
        return None
    quoted = frame[start : start + _ICMP_SIZE - 28]
    message = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quoted
    message = message[:2] + internet_checksum(message).to_bytes(2, "big") + message[4:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0x4000, _TTL, _ICMP, 0) + destination + source
    return header[:10] + internet_checksum(header).to_bytes(2, "big") + header[12:] + message


def _icmpv6(frame: bytes, inner: InnerFrame, mtu: int) -> bytes | None:
    start = inner.network_offset
    source, destination = inner.source_ip, inner.destination_ip
    if source[0] == 0xFF or destination[0] == 0xFF or source == bytes(16):
        return None
    if frame[start + 6] == _FRAGMENT_HEADER and int.from_bytes(frame[start + 42 : start + 44], "big") & 0xFFF8:
        return None
    if inner.protocol == _ICMPV6 and (inner.icmp_type is None or inner.icmp_type < 128):
        return None
    message = struct.pack("!BBHI", 2, 0, 0, mtu) + frame[start : start + _ICMPV6_SIZE - 48]
    pseudo = destination + source + struct.pack("!II", len(message), _ICMPV6)
    message = message[:2] + internet_checksum(pseudo + message).to_bytes(2, "big") + message[4:]
    return struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, _TTL) + destination + source + message

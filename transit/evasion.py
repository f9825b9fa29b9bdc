"""What an enforcing device must not let pass unread: frames that a receiver may take for Geneve all the same.

:func:`geneve.outer.locate` answers None for whatever is not one whole and sound Geneve datagram. Hosts are
more generous: they reassemble fragments, strip any number of priority tags, follow any number of extension
headers, and cut a datagram to the length that its UDP header says. So a sender could hide a datagram from a
device that forwards what it cannot read. NVEs of this project send none of these forms.

Not followed, and forwarded: other tunnels (IP in IP, GRE, VXLAN, ESP, AH). Only a receiver that was
set up to end such a tunnel finds Geneve in it, and then the tunnel is what has to be enforced.
"""

from __future__ import annotations

from geneve.header import GENEVE_PORT
from geneve.outer import (
    ETHERTYPE_8021AD,
    ETHERTYPE_8021Q,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    IPV4_SIZE,
    IPV6_SIZE,
    MAX_EXTENSION_HEADERS,
    MAX_TAGS,
    PROTOCOL_UDP,
)
from transit.outcome import Outcome

_FRAGMENT = 44
"""Next Header value of the fragment header (RFC 8200, section 4.5)."""
# Hop-by-hop options, routing header, destination options: what a host skips on its way to UDP.
_EXTENSIONS = frozenset({0, 43, 60})
_LEADS_TO_UDP = _EXTENSIONS | {_FRAGMENT, PROTOCOL_UDP}
_PORT = GENEVE_PORT.to_bytes(2, "big")
_IPV4_TYPE = ETHERTYPE_IPV4.to_bytes(2, "big")
_IPV6_TYPE = ETHERTYPE_IPV6.to_bytes(2, "big")
_TAG_TYPES = (ETHERTYPE_8021Q.to_bytes(2, "big"), ETHERTYPE_8021AD.to_bytes(2, "big"))


def find_evasion(frame: bytes) -> Outcome | None:
    """Return FRAGMENT or UNREADABLE if an endpoint may find Geneve in ``frame``, where ``locate`` found none.

    None for everything else. Never raises, whatever the bytes.
    """
    offset, tags = 12, 0
    kind = frame[12:14]
    while kind in _TAG_TYPES:
        if tags == MAX_TAGS:
            return Outcome.UNREADABLE
        tags += 1
        offset += 4
        kind = frame[offset : offset + 2]
    if kind == _IPV4_TYPE:
        return _in_ipv4(frame, offset + 2)
    if kind == _IPV6_TYPE:
        return _in_ipv6(frame, offset + 2)
    return None


def _in_ipv4(frame: bytes, start: int) -> Outcome | None:
    """RFC 791: every fragment says the protocol, so fragments of anything but UDP are none of it."""
    if len(frame) < start + IPV4_SIZE or frame[start + 9] != PROTOCOL_UDP or frame[start] >> 4 != 4:
        return None
    if frame[start + 6] & 0x3F or frame[start + 7]:
        return Outcome.FRAGMENT
    return _in_udp(frame, start + (frame[start] & 0x0F) * 4)


def _in_ipv6(frame: bytes, start: int) -> Outcome | None:
    """RFC 8200, section 4. The payload length is not looked at: hosts do not agree on what 0 means."""
    offset = start + IPV6_SIZE
    if len(frame) < offset or frame[start] >> 4 != 6:
        return None
    following = frame[start + 6]
    for _ in range(MAX_EXTENSION_HEADERS + 1):
        if following == PROTOCOL_UDP:
            return _in_udp(frame, offset)
        if following not in _LEADS_TO_UDP or len(frame) < offset + 8:
            return None
        if following == _FRAGMENT:
            # The first fragment decides what a reassembled packet is; without it the others are lost.
            return Outcome.FRAGMENT if frame[offset] in _LEADS_TO_UDP else None
        following, offset = frame[offset], offset + 8 + frame[offset + 1] * 8
    return Outcome.UNREADABLE


def _in_udp(frame: bytes, start: int) -> Outcome | None:
    """With Geneve's port it would have been located, were it not for lengths that contradict each other."""
    return Outcome.UNREADABLE if frame[start + 2 : start + 4] == _PORT else None

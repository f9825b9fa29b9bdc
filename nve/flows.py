"""Flows: what was decided for one packet holds for the next that looks the same, as long as nothing has changed.

A key has all header bytes that a decision can depend on, so that two frames with one key get one decision. Frames whose
headers say more (fragments, options of IPv4, neighbour discovery, anything but TCP, UDP and ICMP) have none: they are
decided about one by one.
"""

from __future__ import annotations

from typing import Generic, TypeVar

MAX_FLOWS = 32_768
"""Flows remembered for each direction; beyond, those not seen for longest are forgotten and decided anew."""

_IPV4 = b"\x08\x00\x45"
_IPV6 = b"\x86\xdd"
_ICMP, _TCP, _UDP, _ICMPV6 = 1, 6, 17, 58
_ECHO = (128, 129)
"""ICMPv6's types of echo request and reply."""
_ANY_FRAGMENT = 0x3F

V = TypeVar("V")


def flow_key(frame: bytes) -> bytes | None:
    """Return the key of a frame's flow, or None.

    Ethernet and IP headers but for lengths, identification and checksum, and the ports, for TCP also where its header
    ends; for ICMP its type and code.
    """
    if frame[12:15] == _IPV4:
        if len(frame) < 42 or frame[20] & _ANY_FRAGMENT or frame[21]:
            return None
        protocol, transport = frame[23], 34
        key = frame[:16] + frame[20:24] + frame[26:38]
    elif frame[12:14] == _IPV6:
        if len(frame) < 62 or frame[14] >> 4 != 6:
            return None
        protocol, transport = frame[20], 54
        key = frame[:18] + frame[20:58]
    else:
        return None
    if protocol == _UDP:
        return key
    if protocol == _ICMP or (protocol == _ICMPV6 and frame[transport] in _ECHO):
        return key[:-2]  # without the checksum
    if protocol != _TCP or len(frame) < transport + 20:
        return None
    offset = frame[transport + 12]
    end = transport + (offset >> 4) * 4
    return key + frame[transport + 12 : transport + 13] if transport + 20 <= end <= len(frame) else None


class FlowCache(Generic[V]):
    """Remembers at least ``size`` / 2 and at most ``size`` flows: those used lately.

    In two generations: what is used moves to the young one; when that is full, it becomes the old one, and what was
    old is forgotten. So neither look-up nor eviction costs more the more flows there are.
    """

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, size: int = MAX_FLOWS) -> None:
        self._half = size // 2
        self._young: dict[object, V] = {}
        self._old: dict[object, V] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: object) -> V | None:
        """Return what was remembered for ``key``, or None."""
        found = self._young.get(key)
        if found is None and self._old:
            found = self._old.pop(key, None)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: object, value: V) -> None:
        """Remember ``value`` for ``key``."""
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[key] = value

    def clear(self) -> None:
        """Forget everything."""
        self._young.clear()
        self._old.clear()

"""The kinds of forged packets that the flood consists of, made from one packet that the attacker has seen. Pure.

She knows everything that stands in clear: addresses, SPI, sequence numbers, form. All packets have the length of the
one they are made from, so that nothing but what is said here sets them apart from true ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable

UNKNOWN_SPI, BAD_TAG, BAD_TAG_FAR = "unknown SPI", "bad tag", "bad tag, far number"
BAD_TAG_FORM, REPLAYED, MALFORMED = "bad tag, new form", "replayed", "malformed"
ELSEWHERE, UNPROTECTED = "elsewhere", "unprotected"
KINDS = (UNKNOWN_SPI, BAD_TAG, BAD_TAG_FAR, BAD_TAG_FORM, REPLAYED, MALFORMED)
"""What the NVE is flooded with."""

REASONS: dict[str, tuple[str, ...]] = {
    UNKNOWN_SPI: ("unknown_spi",),
    BAD_TAG: ("authentication_failed",),
    BAD_TAG_FAR: ("authentication_failed", "authentication_limited"),
    BAD_TAG_FORM: ("authentication_failed",),
    REPLAYED: ("replayed", "behind_window"),
    MALFORMED: ("malformed",),
    ELSEWHERE: (),
    UNPROTECTED: ("unprotected",),
}
"""Why the NVE refuses each."""

AHEAD, FAR_AHEAD = 2**20, 2**40
"""Sequence numbers beyond the one that was seen: more than true packets come to meanwhile, and implausibly many."""
_HEADER, _OPTION_HEADER = 8, 4
_SPI, _NUMBER, _TAG = 12, 16, 24
"""Where these stand in a packet whose only option is the egress NVE's."""
_SECURITY_SIZE = 32
_NEW_CLASS = 0x0FFE
"""Option class that nobody in the testbed uses."""


def forge(kind: str, packet: bytes, index: int, chance: random.Random) -> bytes:
    """Return the ``index``-th Geneve packet of a kind, made from ``packet``, whose only option is the egress NVE's.

    ValueError when it is not of this form, where the kind depends on it.
    """
    if kind in (REPLAYED, ELSEWHERE):
        return packet
    if packet[0] & 0x3F != _SECURITY_SIZE // 4:
        raise ValueError("the packet is not one with a single security option")
    return _MAKERS[kind](packet, index, chance)


def security_of(packet: bytes) -> tuple[int, int]:
    """Return SPI and sequence number of such a packet."""
    return int.from_bytes(packet[_SPI:_NUMBER], "big"), int.from_bytes(packet[_NUMBER:_TAG], "big")


def _unknown_spi(packet: bytes, _: int, chance: random.Random) -> bytes:
    spi = (int.from_bytes(packet[_SPI:_NUMBER], "big") ^ chance.randrange(1, 2**32)).to_bytes(4, "big")
    return packet[:_SPI] + spi + packet[_NUMBER:]


def _bad_tag(packet: bytes, index: int, chance: random.Random, ahead: int = AHEAD) -> bytes:
    number = int.from_bytes(packet[_NUMBER:_TAG], "big") + ahead + index
    return packet[:_NUMBER] + number.to_bytes(8, "big") + chance.randbytes(16) + packet[_TAG + 16 :]


def _bad_tag_far(packet: bytes, _: int, chance: random.Random) -> bytes:
    return _bad_tag(packet, 0, chance, chance.randrange(FAR_AHEAD, 2**60))


def _bad_tag_form(packet: bytes, index: int, chance: random.Random) -> bytes:
    """An option in front that no packet had before: the NVE has to work out where everything stands, each time."""
    forged = _bad_tag(packet, index, chance)
    option = _NEW_CLASS.to_bytes(2, "big") + bytes([index & 0x7F, 1]) + index.to_bytes(4, "big")
    head = bytes([forged[0] + len(option) // 4])
    return head + forged[1:_HEADER] + option + forged[_HEADER : len(forged) - len(option)]


def _malformed(packet: bytes, _: int, __: random.Random) -> bytes:
    """The option says that it is longer than all options together."""
    return packet[:11] + bytes([31]) + packet[12:]


def _unprotected(packet: bytes, _: int, __: random.Random) -> bytes:
    return bytes([packet[0] & 0xC0]) + packet[1:_HEADER] + packet[_HEADER + _SECURITY_SIZE :]


_MAKERS: dict[str, Callable[[bytes, int, random.Random], bytes]] = {
    UNKNOWN_SPI: _unknown_spi, BAD_TAG: _bad_tag, BAD_TAG_FAR: _bad_tag_far, BAD_TAG_FORM: _bad_tag_form,
    MALFORMED: _malformed, UNPROTECTED: _unprotected,
}  # fmt: skip

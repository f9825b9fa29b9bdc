"""Security parameters indexes: never the same twice in a store's life, and no telling in which order. Pure.

A counter under a keyed permutation of 32-bit numbers (a Feistel network of four rounds): what has been given out need
not be remembered, only how far the counter is. Numbers are reserved in blocks, so that after a crash none comes back.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

FIRST_SPI = 256
"""SPIs below are reserved (RFC 4303, section 2.1)."""
KEY_SIZE = 32
"""Bytes of the permutation's key."""
BLOCK = 1024
"""Numbers that are reserved at once."""

_ROUNDS = 4


class SpisExhaustedError(RuntimeError):
    """All 2^32 numbers have been given out: the store's life is over."""


class SpiSpace:
    """Gives out SPIs. ``reserved`` is told how far the counter may have got, before it gets there."""

    def __init__(self, key: bytes, start: int, reserved: Callable[[int], None]) -> None:
        """Go on from ``start``, which an earlier life reserved; ``key`` is KEY_SIZE random bytes."""
        self._key = key
        self._next = self._limit = start
        self._reserved = reserved

    def take(self) -> int:
        """Return a new SPI; SpisExhaustedError after four billion."""
        while True:
            if self._next >= 1 << 32:
                raise SpisExhaustedError("every SPI has been used; start with a new store and new keys.")
            if self._next >= self._limit:
                self._limit = self._next + BLOCK
                self._reserved(self._limit)
            spi = permute(self._key, self._next)
            self._next += 1
            if spi >= FIRST_SPI:
                return spi


def permute(key: bytes, number: int) -> int:
    """Return the 32-bit number that ``number`` becomes: another one for each."""
    left, right = number >> 16, number & 0xFFFF
    for turn in range(_ROUNDS):
        digest = hmac.digest(key, bytes([turn]) + right.to_bytes(2, "big"), "sha256")
        left, right = right, left ^ int.from_bytes(digest[:2], "big")
    return left << 16 | right

"""Padding of the encrypted inner frame (SEC-GEN-6), inside the encryption, with the frame's own length in front.

    frame length 2 B | frame | zero bytes

A length of zero is a dummy: nothing but padding (SEC-GEN-7).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from geneve.control.profile import Padding, PaddingMode

LENGTH_SIZE = 2
"""Bytes of the frame's length."""

_LENGTH = struct.Struct("!H")


def padded_size(padding: Padding, size: int, largest: int, random_below: Callable[[int], int]) -> int:
    """Return how many bytes the encrypted part of ``size`` bytes, its length included, is padded to.

    ``largest`` is the most that fits the underlay; it is never exceeded, so the last step may be shorter.
    ``random_below(n)`` returns a number from 0 to n-1. ValueError when ``size`` itself is too large.
    """
    if size > largest:
        raise ValueError(f"{size} bytes to encrypt, and {largest} fit the underlay")
    if padding.mode is PaddingMode.MULTIPLE and padding.multiple is not None:
        return min(-(-size // padding.multiple) * padding.multiple, largest)
    if padding.mode is PaddingMode.BUCKETS:
        return min(next((bucket for bucket in padding.buckets if bucket >= size), largest), largest)
    if padding.mode is PaddingMode.MTU:
        return largest
    if padding.mode is PaddingMode.RANDOM and padding.most is not None:
        return min(size + random_below(padding.most + 1), largest)
    return size


def wrap(frame: bytes | memoryview, total: int) -> bytes:
    """Return ``frame`` behind its length, padded to ``total`` bytes; ValueError when it does not fit."""
    if LENGTH_SIZE + len(frame) > total:
        raise ValueError(f"a frame of {len(frame)} bytes does not fit {total} bytes")
    return (_LENGTH.pack(len(frame)) + frame).ljust(total, b"\x00")


def unwrap(data: bytes) -> bytes | None:
    """Return the frame in ``data``, empty for a dummy; None when it says to be longer than what is there."""
    if len(data) < LENGTH_SIZE:
        return None
    (size,) = _LENGTH.unpack_from(data)
    return data[LENGTH_SIZE : LENGTH_SIZE + size] if LENGTH_SIZE + size <= len(data) else None

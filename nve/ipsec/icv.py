"""HMAC-SHA-256-128 (RFC 4868): one integrity check value, or those of many packets."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from itertools import repeat

ICV_SIZE = 16
"""Bytes of an integrity check value: half of the hash, and all of a GCM tag (RFC 4868; RFC 4106, section 6)."""


def icv(key: bytes, covered: bytes) -> bytes:
    """Return the integrity check value of what it covers."""
    return hmac.digest(key, covered, "sha256")[:ICV_SIZE]


def icvs(key: bytes, covered: Iterable[bytes]) -> list[bytes]:
    """Return the integrity check value of each."""
    return [made[:ICV_SIZE] for made in map(hmac.digest, repeat(key), covered, repeat("sha256"))]


def wrong(expected: Sequence[bytes], received: Sequence[bytes]) -> list[int]:
    """Return the indices where the two differ. Its time says nothing of where in a value that is."""
    if hmac.compare_digest(b"".join(expected), b"".join(received)):
        return []
    pairs = zip(expected, received, strict=True)
    return [index for index, (one, other) in enumerate(pairs) if not hmac.compare_digest(one, other)]

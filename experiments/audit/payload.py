"""What a tenant's payload is: recognised security protocols, readable data, or bytes without a pattern.

Data that looks random is encrypted or compressed; which of them cannot be told from outside.
"""

from __future__ import annotations

import math
from enum import Enum

_TCP, _UDP, _ESP, _AH = 6, 17, 50, 51
_IPSEC_PORTS = frozenset({500, 4500})
_QUIC_VERSIONS = frozenset({1, 0x6B3343CF})
_WIREGUARD_SIZES = {1: 148, 2: 92, 3: 64}

ENOUGH = 256
"""Bytes from which on their distribution says something."""
MOST_CHI_SQUARE = 391.0
"""Pearson's statistic over 256 values up to which data is taken for random: 255 is expected, 22.6 the deviation.

Six deviations: once in some ten million random samples. Base64 has three times the sample's size, text some 15 times.
"""


class Content(str, Enum):
    """What was found in a payload."""

    EMPTY = "empty"
    TLS = "TLS"
    DTLS = "DTLS"
    QUIC = "QUIC"
    SSH = "SSH"
    IPSEC = "IPsec"
    WIREGUARD = "WireGuard"
    RANDOM = "random"
    CLEAR = "clear"
    UNKNOWN = "unknown"


SECURED = frozenset({Content.TLS, Content.DTLS, Content.QUIC, Content.SSH, Content.IPSEC, Content.WIREGUARD})
"""Protocols with which tenants protect their own payload."""


def entropy(sample: bytes | bytearray) -> float:
    """Return the entropy of ``sample`` in bits for each byte, with Miller and Madow's correction; 0 to 8."""
    size = len(sample)
    if not size:
        return 0.0
    counts = [0] * 256
    for value in sample:
        counts[value] += 1
    there = [count for count in counts if count]
    plain = -sum(count / size * math.log2(count / size) for count in there)
    return min(8.0, plain + (len(there) - 1) / (2 * size * math.log(2)))


def looks_random(sample: bytes | bytearray) -> bool | None:
    """Return whether all byte values are as frequent as each other in ``sample``; None when it is too small to say.

    Entropy decides nothing: its estimate from a few hundred bytes is biased by more than what tells data apart.
    """
    size = len(sample)
    if size < ENOUGH:
        return None
    counts = [0] * 256
    for value in sample:
        counts[value] += 1
    return sum(count * count for count in counts) * 256 / size - size <= MOST_CHI_SQUARE


def is_dtls(data: bytes) -> bool:
    """Return whether a UDP payload starts with a DTLS record (RFC 6347, section 4.1): types 20 to 25, version, length.

    The unified header of DTLS 1.3 (RFC 9147, section 4) has no fixed bytes and is not recognised.
    """
    return len(data) >= 13 and 20 <= data[0] <= 25 and data[1] == 0xFE and data[2] in (0xFD, 0xFF)


def is_wireguard(data: bytes, size: int) -> bool:
    """Return whether a UDP payload of ``size`` bytes, of which ``data`` are there, is a WireGuard message."""
    if len(data) < 4 or data[1:4] != b"\0\0\0":
        return False
    return _WIREGUARD_SIZES.get(data[0]) == size or (data[0] == 4 and size >= 32 and size % 16 == 0)


def recognise(protocol: int, source_port: int, destination_port: int, data: bytes, size: int) -> Content | None:
    """Return the security protocol at the start of a transport payload of ``size`` bytes; None when it is none."""
    if protocol in (_ESP, _AH):
        return Content.IPSEC
    if protocol == _TCP:
        # A TLS record (RFC 8446, section 5.1): type, version 3.x, at most 2^14 + 2048 bytes.
        if len(data) >= 5 and 20 <= data[0] <= 23 and data[1] == 3 and data[2] <= 4 and data[3] <= 0x48:
            return Content.TLS
        return Content.SSH if data[:4] == b"SSH-" else None
    if protocol != _UDP or len(data) < 4:
        return None
    if _IPSEC_PORTS & {source_port, destination_port}:
        return Content.IPSEC
    if is_dtls(data):
        return Content.DTLS
    if data[0] & 0xC0 == 0xC0 and size >= 21 and int.from_bytes(data[1:5], "big") in _QUIC_VERSIONS:
        return Content.QUIC
    return Content.WIREGUARD if is_wireguard(data, size) else None

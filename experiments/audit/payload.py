"""What a tenant's payload is: recognised security protocols, readable data, or bytes without a pattern.

Data that looks random is encrypted or compressed; which of them cannot be told from outside.
"""

from __future__ import annotations

import math
from enum import Enum

_TCP, _UDP, _ESP, _AH = 6, 17, 50, 51
_IKE_PORT, _ESP_UDP_PORT = 500, 4500
_MOST_RECORD = (1 << 14) + 2048
_CHANGE_CIPHER_SPEC, _ALERT, _HANDSHAKE, _APPLICATION_DATA = 20, 21, 22, 23
_HANDSHAKES = frozenset({0, 1, 2, 4, 5, 8, 11, 12, 13, 14, 15, 16, 20, 21, 22, 24, 25})
_LONGEST_IV = 16
_QUIC_VERSIONS = frozenset({1, 0x6B3343CF})
_WIREGUARD_SIZES = {1: 148, 2: 92, 3: 64}

ENOUGH = 256
"""Bytes from which on their distribution says something."""
MOST_CHI_SQUARE = 391.0
"""Pearson's statistic over 256 values up to which data is taken for random: 255 is expected, 22.6 the deviation.

Six deviations: once in some ten million random samples. Base64 has three times the sample's size, text some 15 times.
"""
LEAST = 16
"""Bytes from which on a pattern can be seen, though not that there is none."""


class Content(str, Enum):
    """What was found in a payload."""

    EMPTY = "empty"
    TLS = "TLS"
    DTLS = "DTLS"
    QUIC = "QUIC"
    SSH = "SSH"
    IPSEC = "IPsec"
    AUTHENTICATED = "AH or NULL cipher"
    IKE = "IKE"
    WIREGUARD = "WireGuard"
    RANDOM = "random"
    CLEAR = "clear"
    UNKNOWN = "unknown"


SECURED = frozenset({Content.TLS, Content.DTLS, Content.QUIC, Content.SSH, Content.IPSEC, Content.WIREGUARD})
"""Protocols with which tenants encrypt and authenticate their own payload."""
AUTHENTICATING = SECURED | {Content.AUTHENTICATED, Content.IKE}
"""Protocols with which they authenticate what they send, whether they encrypt it or not."""


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


def _chi_square(sample: bytes | bytearray) -> float:
    """Return Pearson's statistic of the byte values of ``sample``, which is not empty, against equal frequencies."""
    counts = [0] * 256
    for value in sample:
        counts[value] += 1
    size = len(sample)
    return sum(count * count for count in counts) * 256 / size - size


def looks_random(sample: bytes | bytearray) -> bool | None:
    """Return whether all byte values are as frequent as each other in ``sample``; None when it is too small to say.

    Entropy decides nothing: its estimate from a few hundred bytes is biased by more than what tells data apart.
    """
    return None if len(sample) < ENOUGH else _chi_square(sample) <= MOST_CHI_SQUARE


def shows_pattern(sample: bytes | bytearray) -> bool | None:
    """Return whether ``sample`` is text, zeros, or otherwise no ciphertext; None below :data:`LEAST` bytes.

    The same statistic as in :func:`looks_random`, which of few bytes says only this: values that come again and again
    are no ciphertext. One in some 10,000 ciphertexts of 16 bytes is taken for a pattern, and fewer of longer ones.
    """
    return None if len(sample) < LEAST else _chi_square(sample) > MOST_CHI_SQUARE


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


def is_tls(data: bytes) -> bool:
    """Return whether a TCP payload starts with a TLS record (RFC 8446, section 5.1; RFC 5246, section 6.2.1).

    Type, version 3.x and length have to be right, and so has what is there of the record and of the next one's header.
    """
    if not _is_record(data) or not (length := int.from_bytes(data[3:5], "big")):
        return False
    body, following = data[5 : 5 + length], data[5 + length : 10 + length]
    return (not body or _fits_record(data[0], length, body)) and (len(following) < 5 or _is_record(following))


def _is_record(head: bytes) -> bool:
    return (
        len(head) >= 5 and _CHANGE_CIPHER_SPEC <= head[0] <= _APPLICATION_DATA and head[1] == 3 and head[2] <= 4
        and int.from_bytes(head[3:5], "big") <= _MOST_RECORD
    )  # fmt: skip


def _fits_record(kind: int, length: int, body: bytes) -> bool:
    """Whether ``body``, as far as it is there, can be that of a record: a message in clear, or ciphertext."""
    if kind == _CHANGE_CIPHER_SPEC:
        return length == 1 and body[0] == 1
    if kind == _ALERT and length == 2:
        return body[0] in (1, 2)
    if kind == _HANDSHAKE and body[0] in _HANDSHAKES and len(body) >= 4:
        # Certificates go on in further records; no message of a handshake has more than 2^17 bytes.
        size = int.from_bytes(body[1:4], "big")
        if size <= 1 << 17 if size else length == 4 and body[0] in (0, 14):
            return True
    # An authentication tag has at least 8 bytes. An explicit nonce or IV in front may be a counter.
    return length > 8 and not shows_pattern(body[8:1032])


def _is_esp(data: bytes, size: int) -> bool:
    """Whether ``size`` bytes can be ESP (RFC 4303, section 2): SPIs below 256 are reserved, all is in steps of 4 bytes.

    24 bytes are SPI, number, the shortest trailer and a tag of 12 bytes.
    """
    return len(data) >= 8 and int.from_bytes(data[:4], "big") >= 256 and size >= 24 and size % 4 == 0


def _is_ike(data: bytes, size: int) -> bool:
    """Whether ``size`` bytes can be IKE: RFC 7296, section 3.1, and RFC 2408, section 3.1, of the same header."""
    return (
        len(data) >= 28 and any(data[:8]) and data[17] >> 4 in (1, 2)
        and int.from_bytes(data[24:28], "big") == size
    )  # fmt: skip


def _ipsec(protocol: int, data: bytes, size: int) -> Content | None:
    """Return what AH or ESP of a tenant does for it. AH (RFC 4302, section 2) names what it authenticates first."""
    if protocol == _AH:
        at = (data[1] + 2) * 4 if len(data) > 1 else 0
        inside = _ipsec(_ESP, data[at:], size - at) if at >= 12 and data[0] == _ESP else None
        return inside or Content.AUTHENTICATED
    if not _is_esp(data, size):
        return None
    return Content.AUTHENTICATED if _esp_shows_pattern(data) else Content.IPSEC


def _esp_shows_pattern(data: bytes) -> bool | None:
    """Whether ESP carries something readable; an IV may be a counter, and is left out as far as enough is left."""
    body = data[8:]
    return shows_pattern(body[max(0, min(_LONGEST_IV, len(body) - LEAST)) :][:1024])


def recognise(protocol: int, source_port: int, destination_port: int, data: bytes, size: int) -> Content | None:
    """Return the security protocol at the start of a transport payload of ``size`` bytes; None when it is none.

    ``data`` is what was captured of it. A port alone decides nothing.
    """
    if protocol in (_ESP, _AH):
        return _ipsec(protocol, data, size)
    if protocol == _TCP:
        return Content.TLS if is_tls(data) else Content.SSH if data[:4] == b"SSH-" else None
    if protocol != _UDP or len(data) < 4:
        return None
    ports = {source_port, destination_port}
    if _IKE_PORT in ports and _is_ike(data, size):
        return Content.IKE
    if _ESP_UDP_PORT in ports:
        # RFC 3948, section 2: four bytes of zeros, where ESP has its SPI, say that IKE follows.
        if data[:4] == bytes(4) and _is_ike(data[4:], size - 4):
            return Content.IKE
        if _is_esp(data, size) and _esp_shows_pattern(data) is False:
            return Content.IPSEC
    if is_dtls(data):
        return Content.DTLS
    if data[0] & 0xC0 == 0xC0 and size >= 21 and int.from_bytes(data[1:5], "big") in _QUIC_VERSIONS:
        return Content.QUIC
    return Content.WIREGUARD if is_wireguard(data, size) else None

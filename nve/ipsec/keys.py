"""From an association's secret to the keys of an IPsec security association (HKDF, RFC 5869, with SHA-256).

The derivation binds what both ends must agree on: who sends, who opens, in which role, under which SPI, with which
protocol and algorithm, and whether sequence numbers have 64 bits. The last is not in any packet (RFC 4303, section
2.2.1): ends that disagree on it share no key, instead of failing at the first wrap. What carries ESP (IP or UDP) is
not bound, since it changes nothing of the ESP packet.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from geneve.control.channel import Channel, ChannelProtocol, Cipher
from geneve.control.state import Association

HKDF_SALT = b"geneve-testbed ipsec 1"
GCM_KEY_SIZE, GCM_SALT_SIZE = 16, 4
"""Bytes of an AES-128-GCM key and of the salt that starts its nonces (RFC 4106, section 8.1)."""
HMAC_KEY_SIZE = 32
"""Bytes of an HMAC-SHA-256-128 key: as many as the hash has (RFC 4868, section 2.1.1)."""

_ALL_VNIS = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class SaKeys:
    """The keys of one security association; what its algorithms do not need is empty. Its representation shows none."""

    encryption: bytes = b""
    salt: bytes = b""
    integrity: bytes = b""

    def __repr__(self) -> str:
        return "SaKeys(...)"


def _part(data: bytes) -> bytes:
    return struct.pack("!H", len(data)) + data


def derivation_context(association: Association, channel: Channel) -> bytes:
    """Return the HKDF ``info`` of an association: every part length-prefixed, so no two contexts collide."""
    vni = _ALL_VNIS if association.vni is None else association.vni
    return b"".join(
        _part(part)
        for part in (
            b"ipsec keys",
            association.role.value.encode(),
            struct.pack("!I", association.spi),
            struct.pack("!I", vni),
            association.sender.encode(),
            association.audience.encode(),
            (association.rule or "").encode(),
            channel.protocol.value.encode(),
            channel.cipher.value.encode(),
            b"esn" if channel.extended_sequence_numbers else b"",
        )
    )


def derive_keys(association: Association, channel: Channel) -> SaKeys:
    """Derive the keys of ``association`` for ``channel``; ValueError when it is no IPsec."""
    if channel.protocol is ChannelProtocol.DTLS:
        raise ValueError("DTLS makes its own keys")
    encrypts = channel.cipher is Cipher.AES_128_GCM
    size = GCM_KEY_SIZE + GCM_SALT_SIZE if encrypts else HMAC_KEY_SIZE
    hkdf = HKDF(algorithm=SHA256(), length=size, salt=HKDF_SALT, info=derivation_context(association, channel))
    material = hkdf.derive(association.secret_bytes())
    if encrypts:
        return SaKeys(encryption=material[:GCM_KEY_SIZE], salt=material[GCM_KEY_SIZE:])
    return SaKeys(integrity=material)

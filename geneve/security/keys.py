"""From an association's secret to its AEAD key and nonce salt (HKDF, RFC 5869, with SHA-256).

The derivation binds everything the two ends must agree on: who sends, who opens, in which role, under
which SPI and VNI, with which algorithm and coverage. Ends that disagree on any of it derive different
keys and nothing verifies between them; a profile cannot be swapped under an existing association.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from geneve.control.profile import Aead, Coverage, Profile
from geneve.control.state import Association
from geneve.header import fields_mask

HKDF_SALT = b"geneve-testbed security option 1"
SALT_SIZE = 4
"""Bytes of the nonce that come from the key derivation; the other 8 are the sequence number (as RFC 4106)."""

KEY_SIZE = {Aead.AES_128_GCM: 16}
"""AEAD key size in bytes."""


@dataclass(frozen=True, slots=True)
class TrafficKey:
    """An AEAD ready for use and the 4-byte salt of its nonces. Its representation shows no key."""

    aead: AESGCM
    salt: bytes

    def __repr__(self) -> str:
        return "TrafficKey(...)"


def _part(data: bytes) -> bytes:
    return struct.pack("!H", len(data)) + data


def encode_coverage(coverage: Coverage) -> bytes:
    """Return the one byte string that stands for ``coverage`` in the key derivation."""
    parts = [struct.pack("!Q", fields_mask(coverage.header))]
    if coverage.options is None:
        parts.append(b"\xff\xff")
    else:
        selectors = sorted({(item.option_class, item.type) for item in coverage.options})
        parts.append(struct.pack("!H", len(selectors)))
        parts += [struct.pack("!HB", *selector) for selector in selectors]
    parts += [_part(coverage.authenticate_inner.value.encode()), _part(coverage.encrypt_inner.value.encode())]
    return b"".join(parts)


def derivation_context(association: Association, aead: Aead, coverage: Coverage) -> bytes:
    """Return the HKDF ``info`` of an association: every part length-prefixed, so no two contexts collide."""
    return b"".join(
        _part(part)
        for part in (
            b"traffic key and salt",
            association.role.value.encode(),
            struct.pack("!II", association.spi, association.vni),
            association.sender.encode(),
            association.audience.encode(),
            aead.value.encode(),
            encode_coverage(coverage),
        )
    )


def association_coverage(association: Association, profile: Profile) -> Coverage:
    """Return what ``association`` covers under ``profile``; ValueError when the profile has none for its role."""
    coverage = profile.egress if association.role.value == "egress" else profile.transit
    if coverage is None:
        raise ValueError(f"profile {profile.name!r} says nothing for transit devices")
    return coverage


def derive_key(association: Association, profile: Profile) -> TrafficKey:
    """Derive the key and nonce salt of ``association`` under ``profile`` (design: per audience, GSA, purpose)."""
    coverage = association_coverage(association, profile)
    size = KEY_SIZE[profile.aead]
    hkdf = HKDF(
        algorithm=SHA256(),
        length=size + SALT_SIZE,
        salt=HKDF_SALT,
        info=derivation_context(association, profile.aead, coverage),
    )
    material = hkdf.derive(association.secret_bytes())
    return TrafficKey(AESGCM(material[:size]), material[size:])

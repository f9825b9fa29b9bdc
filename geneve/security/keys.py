"""From an association's secret to its AEAD key and nonce salt (HKDF, RFC 5869, with SHA-256).

The derivation binds everything the two ends must agree on: who sends, who opens, in which role, under
which SPI and VNI, with which algorithm and coverage. Ends that disagree on any of it derive different
keys and nothing verifies between them; a profile cannot be swapped under an existing association.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from geneve.control.profile import Aead, InnerCoverage, OptionSelector, Profile
from geneve.control.state import Association, AssociationRole
from geneve.header import fields_mask
from geneve.security.shape import Shape, make_shape

HKDF_SALT = b"geneve-testbed security option 1"
SALT_SIZE = 4
"""Bytes of the nonce that come from the key derivation; the other 8 are the sequence number (as RFC 4106)."""

KEY_SIZE = {Aead.AES_128_GCM: 16, Aead.AES_256_GCM: 32, Aead.CHACHA20_POLY1305: 32}
"""AEAD key size in bytes."""

FLOW_ID_SIZE = 4
_ALL_VNIS = 0xFFFFFFFF
_ALL_OPTIONS = b"\xff\xff"


@dataclass(frozen=True, slots=True)
class TrafficKey:
    """An AEAD ready for use and the 4-byte salt of its nonces. Its representation shows no key."""

    aead: AESGCM | ChaCha20Poly1305
    salt: bytes

    def __repr__(self) -> str:
        return "TrafficKey(...)"


def _part(data: bytes) -> bytes:
    return struct.pack("!H", len(data)) + data


def _encode_selectors(selectors: Iterable[OptionSelector]) -> bytes:
    pairs = sorted({(item.option_class, item.type) for item in selectors})
    return struct.pack("!H", len(pairs)) + b"".join(struct.pack("!HB", *pair) for pair in pairs)


def _encode_inner(coverage: InnerCoverage) -> bytes:
    return _part(coverage.value.encode())


def encode_coverage(shape: Shape) -> bytes:
    """Return the one byte string that stands for an audience's coverage in the key derivation."""
    coverage = shape.coverage
    return b"".join(
        (
            struct.pack("!QQ", fields_mask(coverage.header), shape.reveal_mask),
            _ALL_OPTIONS if coverage.options is None else _encode_selectors(coverage.options),
            _encode_selectors(coverage.hidden_options),
            _encode_inner(coverage.authenticate_inner),
            _encode_inner(coverage.encrypt_inner),
        )
    )


def derivation_context(association: Association, profile: Profile, shape: Shape) -> bytes:
    """Return the HKDF ``info`` of an association: every part length-prefixed, so no two contexts collide."""
    proof = profile.source_proof.value if association.role is AssociationRole.MULTICAST else ""
    vni = _ALL_VNIS if association.vni is None else association.vni
    return b"".join(
        _part(part)
        for part in (
            b"traffic key and salt",
            association.role.value.encode(),
            struct.pack("!I", association.spi),
            struct.pack("!I", vni),
            association.sender.encode(),
            association.audience.encode(),
            (association.rule or "").encode(),
            profile.aead.value.encode(),
            profile.key_granularity.value.encode(),
            struct.pack("!Q", fields_mask(profile.hidden_header)),
            b"padded" if shape.padded else b"",
            proof.encode(),
            encode_coverage(shape),
        )
    )


def derive_material(association: Association, profile: Profile, flow_id: bytes = b"") -> tuple[bytes, bytes]:
    """Return the AEAD key and the 4-byte nonce salt of ``association`` under ``profile``, and of one of its flows.

    Only for making the key itself and for the key log of a demonstration.
    """
    context = derivation_context(association, profile, make_shape(profile, association.role, association.audience))
    if flow_id:
        context += _part(flow_id)
    size = KEY_SIZE[profile.aead]
    hkdf = HKDF(algorithm=SHA256(), length=size + SALT_SIZE, salt=HKDF_SALT, info=context)
    material = hkdf.derive(association.secret_bytes())
    return material[:size], material[size:]


def derive_key(association: Association, profile: Profile, flow_id: bytes = b"") -> TrafficKey:
    """Derive the key and nonce salt of ``association`` under ``profile`` (design: per audience, GSA, purpose)."""
    key, salt = derive_material(association, profile, flow_id)
    return TrafficKey(ChaCha20Poly1305(key) if profile.aead is Aead.CHACHA20_POLY1305 else AESGCM(key), salt)

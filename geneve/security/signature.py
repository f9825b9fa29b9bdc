"""Proof of the sending NVE against the other members of a multicast group (SEC-GEN-17; design invariant 8).

All members hold the group's AEAD key, so a tag that verifies says only that some member sent the packet.
The sender therefore signs, with Ed25519 (RFC 8032), a digest of all that the tag covers and of the
ciphertext. The digest is SHA-256 and not the tag: who knows the key of GCM or Poly1305 can make another
packet with the same tag.

Signing and verifying one by one costs far more than sealing. A batch therefore can share one signature
over the root of a Merkle tree; each packet carries its path to the root and stays verifiable alone. The
tree's hashes are cut to 16 bytes: a salt that the sender draws after the packets are fixed leaves an
attacker no collision to prepare, only a second preimage to find (the reasoning of RFC 8391, section 9).
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from geneve.control.profile import SourceProof
from geneve.option import OPTION_HEADER_SIZE

SEED_SIZE = 32
"""Bytes of the seed of a private key."""
SIGNATURE_SIZE = 64
SALT_SIZE = 8
HASH_SIZE = 16
"""Bytes kept of a hash in the tree."""
MAX_BATCH = 8
"""Most packets that share a signature: with more, the path would not fit one option."""

_DIGEST_LABEL = b"GENEVE-SEC-1 source"
_ED25519_LABEL = b"GENEVE-SEC-1 ed25519"
_MERKLE_LABEL = b"GENEVE-SEC-1 merkle"
_MAX_DEPTH = 3
_PLACE = struct.Struct("!BBH")
_MERKLE_FIXED = SIGNATURE_SIZE + SALT_SIZE + _PLACE.size


def source_digest(aad: bytes, ciphertext: bytes, tag: bytes) -> bytes:
    """Return the 32 bytes that stand for a sealed packet: what its tag covers, the ciphertext, and the tag."""
    return hashlib.sha256(b"".join((_DIGEST_LABEL, struct.pack("!I", len(aad)), aad, ciphertext, tag))).digest()


def tree_depth(batch: int) -> int:
    """Return the depth of the tree over ``batch`` packets; ValueError unless there are 1 to 8."""
    if not 1 <= batch <= MAX_BATCH:
        raise ValueError(f"a batch of {batch} packets; expected 1 to {MAX_BATCH}")
    return (batch - 1).bit_length()


def signature_option_size(proof: SourceProof, batch: int = MAX_BATCH) -> int:
    """Return the size of the signature option in bytes, its header included."""
    if proof is SourceProof.ED25519:
        return OPTION_HEADER_SIZE + SIGNATURE_SIZE
    return OPTION_HEADER_SIZE + _MERKLE_FIXED + HASH_SIZE * tree_depth(batch)


def _leaf(salt: bytes, digest: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + salt + digest).digest()[:HASH_SIZE]


def _node(salt: bytes, left: bytes, right: bytes) -> bytes:
    # Another first byte than a leaf's: neither can pass for the other.
    return hashlib.sha256(b"\x01" + salt + left + right).digest()[:HASH_SIZE]


class SourceSigner:
    """The sending NVE's end. Its representation shows no key."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def from_seed(cls, seed: bytes) -> SourceSigner:
        """Return the signer whose private key has the seed given, 32 bytes."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    def __repr__(self) -> str:
        return "SourceSigner(...)"

    def public_key(self) -> bytes:
        """Return the public key, 32 bytes."""
        return self._private.public_key().public_bytes_raw()

    def sign(self, digest: bytes) -> bytes:
        """Return the data of a packet's signature option under ``ed25519``."""
        return self._private.sign(_ED25519_LABEL + digest)

    def sign_batch(self, digests: Sequence[bytes], salt: bytes) -> list[bytes]:
        """Return the data of each packet's signature option under ``merkle``, for 1 to 8 packets.

        ``salt`` is 8 random bytes, drawn after the packets were sealed.
        """
        depth = tree_depth(len(digests))
        level = [_leaf(salt, digest) for digest in digests]
        level += [bytes(HASH_SIZE)] * ((1 << depth) - len(level))
        paths: list[list[bytes]] = [[] for _ in digests]
        for height in range(depth):
            for index, path in enumerate(paths):
                path.append(level[(index >> height) ^ 1])
            level = [_node(salt, *level[place : place + 2]) for place in range(0, len(level), 2)]
        signature = self._private.sign(_merkle_message(salt, depth, level[0]))
        return [
            b"".join((signature, salt, _PLACE.pack(index, depth, 0), *path)) for index, path in enumerate(paths)
        ]


def _merkle_message(salt: bytes, depth: int, root: bytes) -> bytes:
    return b"".join((_MERKLE_LABEL, salt, bytes([depth]), root))


class SourceVerifier:
    """A receiver's end for one sender. Roots that verified are remembered, ``cache`` of them, and no others."""

    def __init__(self, public: bytes, proof: SourceProof, cache: int = 256) -> None:
        """Raise ValueError when ``public`` is no Ed25519 public key (32 bytes)."""
        self._public = Ed25519PublicKey.from_public_bytes(public)
        self._proof = proof
        self._size = cache
        self._verified: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()

    def verify(self, digest: bytes, data: bytes) -> bool:
        """Return whether the signature option's ``data`` proves that the sender made the packet."""
        if self._proof is SourceProof.ED25519:
            return len(data) == SIGNATURE_SIZE and self._signed(data, _ED25519_LABEL + digest)
        return self._verify_merkle(digest, data)

    def _signed(self, signature: bytes, message: bytes) -> bool:
        try:
            self._public.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def _verify_merkle(self, digest: bytes, data: bytes) -> bool:
        if len(data) < _MERKLE_FIXED:
            return False
        signature, salt = data[:SIGNATURE_SIZE], data[SIGNATURE_SIZE : SIGNATURE_SIZE + SALT_SIZE]
        index, depth, zero = _PLACE.unpack_from(data, SIGNATURE_SIZE + SALT_SIZE)
        if zero or depth > _MAX_DEPTH or index >> depth or len(data) != _MERKLE_FIXED + HASH_SIZE * depth:
            return False
        found = _leaf(salt, digest)
        for height in range(depth):
            start = _MERKLE_FIXED + HASH_SIZE * height
            sibling = data[start : start + HASH_SIZE]
            found = _node(salt, sibling, found) if index >> height & 1 else _node(salt, found, sibling)
        message = _merkle_message(salt, depth, found)
        known = (signature, message)
        if known in self._verified:
            self._verified.move_to_end(known)
            return True
        if not self._signed(signature, message):
            return False
        self._verified[known] = None
        if len(self._verified) > self._size:
            self._verified.popitem(last=False)
        return True

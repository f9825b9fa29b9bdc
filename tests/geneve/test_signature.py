"""Proof of the sending NVE: alone and in batches; what insiders can try."""

from __future__ import annotations

import hashlib

import pytest

from geneve.control.profile import SourceProof
from geneve.security.signature import (
    MAX_BATCH,
    SourceSigner,
    SourceVerifier,
    signature_option_size,
    source_digest,
)

SIGNER, OTHER = SourceSigner.from_seed(bytes(32)), SourceSigner.from_seed(bytes([1]) * 32)
SALT = b"saltsalt"
DIGESTS = [source_digest(b"aad", b"packet %d" % n, bytes(16)) for n in range(MAX_BATCH)]


def verifier(proof: SourceProof, signer: SourceSigner = SIGNER, **options) -> SourceVerifier:
    return SourceVerifier(signer.public_key(), proof, **options)


def test_a_signature_verifies_for_its_packet_and_sender_only():
    data = SIGNER.sign(DIGESTS[0])
    assert len(data) + 4 == signature_option_size(SourceProof.ED25519) == 68
    assert verifier(SourceProof.ED25519).verify(DIGESTS[0], data)
    assert not verifier(SourceProof.ED25519).verify(DIGESTS[1], data)
    assert not verifier(SourceProof.ED25519, OTHER).verify(DIGESTS[0], data)
    assert not verifier(SourceProof.MERKLE).verify(DIGESTS[0], data)


@pytest.mark.parametrize("count", range(1, MAX_BATCH + 1))
def test_every_packet_of_a_batch_verifies_alone_and_in_any_order(count):
    batch = SIGNER.sign_batch(DIGESTS[:count], SALT)
    assert {len(data) + 4 for data in batch} == {signature_option_size(SourceProof.MERKLE, count)}
    for digest, data in zip(DIGESTS, batch, strict=False):
        assert verifier(SourceProof.MERKLE).verify(digest, data)
    one = verifier(SourceProof.MERKLE)
    assert all(one.verify(digest, data) for digest, data in reversed(list(zip(DIGESTS, batch, strict=False))))
    assert not verifier(SourceProof.MERKLE, OTHER).verify(DIGESTS[0], batch[0])


@pytest.mark.parametrize("proof", SourceProof)
def test_every_flipped_bit_of_the_data_is_refused(proof):
    data = SIGNER.sign(DIGESTS[0]) if proof is SourceProof.ED25519 else SIGNER.sign_batch(DIGESTS, SALT)[3]
    digest = DIGESTS[0] if proof is SourceProof.ED25519 else DIGESTS[3]
    end = verifier(proof)
    assert end.verify(digest, data)
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 0x80 >> bit % 8
        assert not end.verify(digest, bytes(changed)), f"bit {bit}"
    for size in range(len(data)):
        assert not end.verify(digest, data[:size])
    assert not end.verify(digest, data + bytes(16))


def test_a_packet_that_is_not_of_the_batch_cannot_borrow_its_signature():
    batch = SIGNER.sign_batch(DIGESTS[:4], SALT)
    end = verifier(SourceProof.MERKLE)
    assert all(end.verify(digest, data) for digest, data in zip(DIGESTS, batch, strict=False))
    for data in batch:
        assert not end.verify(DIGESTS[5], data), "although the root is remembered"
    assert not end.verify(DIGESTS[1], batch[0])


def test_a_node_of_the_tree_is_no_packet_and_an_empty_leaf_neither():
    batch = SIGNER.sign_batch(DIGESTS[:3], SALT)
    end = verifier(SourceProof.MERKLE)
    leaves = [hashlib.sha256(b"\x00" + SALT + digest).digest()[:16] for digest in DIGESTS[:2]]
    inner = leaves[0] + leaves[1]
    forged = batch[0][:64] + SALT + b"\x00\x01\x00\x00" + batch[0][-16:]
    assert not end.verify(inner, forged), "two leaves given as a packet one level up"
    assert not end.verify(b"", batch[2]), "the leaf that only fills the tree"


def test_a_batch_recomputed_by_hand():
    def h(first: bytes, *rest: bytes) -> bytes:
        return hashlib.sha256(first + SALT + b"".join(rest)).digest()[:16]

    leaves = [h(b"\x00", digest) for digest in DIGESTS[:3]] + [bytes(16)]
    left, right = h(b"\x01", *leaves[:2]), h(b"\x01", *leaves[2:])
    batch = SIGNER.sign_batch(DIGESTS[:3], SALT)
    assert batch[0][64:] == SALT + b"\x00\x02\x00\x00" + leaves[1] + right
    assert batch[2][64:] == SALT + b"\x02\x02\x00\x00" + leaves[3] + left


def test_only_roots_that_verified_are_remembered_and_not_too_many():
    end = verifier(SourceProof.MERKLE, cache=4)
    for number in range(20):
        salt = bytes([number]) * 8
        assert not end.verify(DIGESTS[0], OTHER.sign_batch(DIGESTS[:2], salt)[0])
        assert end.verify(DIGESTS[0], SIGNER.sign_batch(DIGESTS[:2], salt)[0])
        assert len(end._verified) <= 4


@pytest.mark.parametrize("count", [0, 9])
def test_a_batch_has_one_to_eight_packets(count):
    with pytest.raises(ValueError, match="1 to 8"):
        SIGNER.sign_batch((DIGESTS * 2)[:count], SALT)


def test_digests_of_different_packets_differ_where_their_parts_join():
    assert source_digest(b"ab", b"c", bytes(16)) != source_digest(b"a", b"bc", bytes(16))


def test_no_key_shows():
    assert "00" * 8 not in repr(SIGNER)
    assert repr(SIGNER) == "SourceSigner(...)"

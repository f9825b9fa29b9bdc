"""A Geneve Security Association (GSA) at one of its ends: key, sequence number or replay window.

One sender, one audience, one direction, one key. The sender's end only seals, the audience's end only
opens; neither can be made from the other's object.
"""

from __future__ import annotations

import ipaddress

from geneve.control.profile import Coverage, InnerCoverage, Profile
from geneve.control.state import Association
from geneve.option import OPTION_HEADER_SIZE, option_header
from geneve.security.keys import association_coverage, derive_key
from geneve.security.option import (
    EGRESS_TYPE,
    SECURITY_CLASS,
    SECURITY_OPTION_SIZE,
    SPI_SIZE,
    TRANSIT_TYPE,
)
from geneve.security.replay import ReplayWindow

HARD_LIMIT = 2**48
"""Packets after which sealing refuses, unless said otherwise: beyond any run of this testbed."""


class SequenceExhaustedError(Exception):
    """The association's hard packet limit is reached: nothing more may be sealed under its key."""


class _End:
    def __init__(self, association: Association, profile: Profile) -> None:
        if association.profile != profile.name:
            raise ValueError(f"association {association.spi} asks for profile {association.profile!r}")
        self.spi = association.spi
        self.vni = association.vni
        self.role = association.role
        self.sender = association.sender
        self.audience = association.audience
        self.profile = profile.name
        self.coverage: Coverage = association_coverage(association, profile)
        self.encrypts_inner = self.coverage.encrypt_inner is InnerCoverage.ALL
        self.covers_inner = self.coverage.authenticate_inner is InnerCoverage.ALL
        self._key = derive_key(association, profile)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(spi={self.spi:#010x}, {self.sender} -> {self.audience}, vni={self.vni})"


class OutboundAssociation(_End):
    """The sender's end. Gives out each sequence number once, from 1 to ``hard_limit``, never reset."""

    def __init__(self, association: Association, profile: Profile, hard_limit: int = HARD_LIMIT) -> None:
        super().__init__(association, profile)
        self.hard_limit = hard_limit
        self.last_sequence = 0
        option_type = EGRESS_TYPE if association.role.value == "egress" else TRANSIT_TYPE
        self.option_type = option_type
        self.option_head = option_header(
            SECURITY_CLASS, option_type, SECURITY_OPTION_SIZE - OPTION_HEADER_SIZE
        ) + self.spi.to_bytes(SPI_SIZE, "big")

    def next_sequence(self) -> bytes:
        """Return the next sequence number, 8 bytes; SequenceExhaustedError at the hard limit.

        The number is used up when it is given out, whatever happens to the packet: a nonce that
        was perhaps used must never be used again (invariant 4).
        """
        if self.last_sequence >= self.hard_limit:
            raise SequenceExhaustedError(f"association {self.spi:#010x} reached its limit of {self.hard_limit} packets")
        self.last_sequence += 1
        return self.last_sequence.to_bytes(8, "big")

    def resume(self, used: int, reserved: int) -> None:
        """Go on after ``used`` numbers that an earlier process may have spent, up to ``reserved`` at most."""
        if used < self.last_sequence or reserved > self.hard_limit:
            raise ValueError("sequence numbers only go forward, and never beyond the hard limit")
        self.last_sequence, self.hard_limit = used, reserved

    def encrypt(self, sequence: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Return ciphertext and tag for a number that :meth:`next_sequence` just gave out."""
        return self._key.aead.encrypt(self._key.salt + sequence, plaintext, aad)


class InboundAssociation(_End):
    """The audience's end: verifies, decrypts, and remembers what it has accepted."""

    def __init__(self, association: Association, profile: Profile) -> None:
        super().__init__(association, profile)
        self.window = ReplayWindow(profile.replay_window)
        self.sender_address = ipaddress.ip_address(association.sender_address).packed

    def decrypt(self, sequence: bytes, ciphertext_and_tag: bytes, aad: bytes) -> bytes:
        """Return the plaintext; cryptography's InvalidTag when the tag does not verify. Changes nothing."""
        return self._key.aead.decrypt(self._key.salt + sequence, ciphertext_and_tag, aad)

"""A Geneve Security Association (GSA) at one of its ends: keys, sequence numbers or replay window.

One sender, one audience, one direction, one secret. The sender's end only seals, the audience's end only
opens; neither can be made from the other's object. Where each flow has its own key, sequence numbers and
replay window stay the association's: a receiver keeps nothing per flow that it could not derive again.
"""

from __future__ import annotations

import base64
import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Protocol

from cryptography.exceptions import InvalidTag

from geneve.control.profile import InnerCoverage, Profile, SourceProof
from geneve.control.state import Association, AssociationRole
from geneve.drops import DropReason
from geneve.header import fields_mask
from geneve.option import OPTION_HEADER_SIZE, option_header
from geneve.security.keys import FLOW_ID_SIZE, TrafficKey, derive_key
from geneve.security.limiter import FailureLimiter
from geneve.security.option import (
    EGRESS_TYPE,
    GROUP_TYPE,
    SECURITY_CLASS,
    SPI_SIZE,
    TAG_SIZE,
    TRANSIT_TYPE,
)
from geneve.security.replay import ReplayWindow
from geneve.security.shape import Shape, make_shape
from geneve.security.signature import SourceVerifier

OPTION_TYPES = {
    AssociationRole.EGRESS: EGRESS_TYPE,
    AssociationRole.TRANSIT: TRANSIT_TYPE,
    AssociationRole.GROUP: GROUP_TYPE,
    AssociationRole.MULTICAST: EGRESS_TYPE,
}

MAX_FLOWS = 4096
"""Flows per association whose keys are kept ready; the least recently used makes room."""


class SequenceExhaustedError(Exception):
    """The association's hard packet limit is reached: nothing more may be sealed under its key."""


class Authenticated(Protocol):
    """Whose packet was opened, as far as policy and mappings ask: what any mechanism must be able to say."""

    @property
    def sender(self) -> str:
        """The NVE that sent it."""

    @property
    def audience(self) -> str:
        """The NVE, or multicast group, that it was for."""

    @property
    def role(self) -> AssociationRole:
        """Whether it was for one NVE (EGRESS) or a group (MULTICAST)."""

    @property
    def profile(self) -> str:
        """The profile that protected it."""

    @property
    def vni(self) -> int | None:
        """The VNI that the keys belong to; None: any."""

    @property
    def rule(self) -> str | None:
        """The policy rule that the keys belong to; None: any."""


class AssociationEnd:
    """What both ends of any association know of it, whatever it protects with."""

    def __init__(self, association: Association, profile: Profile) -> None:
        if association.profile != profile.name:
            raise ValueError(f"association {association.spi} asks for profile {association.profile!r}")
        self.spi = association.spi
        self.vni = association.vni
        self.rule = association.rule
        self.role = association.role
        self.sender = association.sender
        self.audience = association.audience
        self.profile = profile.name
        self.terms = profile

    def __repr__(self) -> str:
        vni = "all" if self.vni is None else self.vni
        return f"{type(self).__name__}(spi={self.spi:#010x}, {self.sender} -> {self.audience}, vni={vni})"


class OutboundEnd(AssociationEnd):
    """The sender's end. Gives out each sequence number once, from 1 to ``hard_limit``, never reset."""

    def __init__(self, association: Association, profile: Profile, hard_limit: int | None = None) -> None:
        super().__init__(association, profile)
        self.soft_limit = profile.soft_limit
        self.hard_limit = profile.hard_limit if hard_limit is None else hard_limit
        self.last_sequence = 0

    @property
    def wants_rekey(self) -> bool:
        """Whether the soft limit is reached: the hard limit should never be."""
        return self.last_sequence >= self.soft_limit

    @property
    def remaining(self) -> int:
        """How many packets may still be sealed."""
        return max(0, self.hard_limit - self.last_sequence)

    def reserve(self, count: int) -> int:
        """Return the first of the next ``count`` sequence numbers; SequenceExhaustedError beyond the hard limit.

        Then none is used up. Numbers are used up when they are given out, whatever happens to the
        packets: a nonce that was perhaps used must never be used again (invariant 4).
        """
        first = self.last_sequence + 1
        if self.last_sequence + count > self.hard_limit:
            raise SequenceExhaustedError(f"association {self.spi:#010x} reached its limit of {self.hard_limit} packets")
        self.last_sequence += count
        return first

    def resume(self, used: int, reserved: int) -> None:
        """Go on after ``used`` numbers that an earlier process may have spent, up to ``reserved`` at most."""
        if used < self.last_sequence or reserved > self.hard_limit:
            raise ValueError("sequence numbers only go forward, and never beyond the hard limit")
        self.last_sequence, self.hard_limit = used, reserved


class InboundEnd(AssociationEnd):
    """The audience's end: remembers what it has accepted."""

    def __init__(self, association: Association, profile: Profile) -> None:
        super().__init__(association, profile)
        self.window = ReplayWindow(profile.replay_window)
        self.limiter = FailureLimiter(self.window)
        """Kept with the window: a new state gives no attacker a new bucket."""
        self.sender_address = ipaddress.ip_address(association.sender_address).packed

    def refuse(self, number: int, now: float) -> DropReason | None:
        """Return why a packet with this number is refused before its tag is tried, or None; changes nothing."""
        refused = self.window.check(number)
        if refused is None and not self.limiter.allows(number, now):
            return DropReason.AUTHENTICATION_LIMITED
        return refused


class _Keyed:
    """The keys of a security option's association, and its shape: what the two kinds of ends have in common."""

    def __init__(self, association: Association, profile: Profile) -> None:
        if profile.channel is not None:
            raise ValueError(f"profile {profile.name!r} is that of a channel, not of security options")
        if association.role is AssociationRole.MULTICAST and association.signer is None:
            raise ValueError("a multicast association needs the sender's public key, 'signer'")
        self.shape: Shape = make_shape(profile, association.role, association.audience)
        coverage = self.shape.coverage
        self.authenticates_inner: InnerCoverage = coverage.authenticate_inner
        self.encrypts_inner: InnerCoverage = coverage.encrypt_inner
        self.hidden_mask = fields_mask(profile.hidden_header)
        self.option_type = OPTION_TYPES[association.role]
        self._association, self._profile = association, profile
        self.key = derive_key(association, profile)
        """The association's own key, where flows have none of theirs."""
        self._flow_keys: OrderedDict[bytes, TrafficKey] = OrderedDict()
        self.on_flow_key: Callable[[bytes], None] | None = None
        """Told of each flow id whose key was made; for key logs."""

    def _traffic_key(self, flow_id: bytes) -> TrafficKey:
        """Return the key of a flow; the association's own for no flow id. Keeps nothing (see _keep_flow_key)."""
        if not flow_id:
            return self.key
        return self._flow_keys.get(flow_id) or derive_key(self._association, self._profile, flow_id)

    def _keep_flow_key(self, flow_id: bytes, key: TrafficKey) -> None:
        if self.on_flow_key is not None and flow_id not in self._flow_keys:
            self.on_flow_key(flow_id)
        self._flow_keys[flow_id] = key
        self._flow_keys.move_to_end(flow_id)
        if len(self._flow_keys) > MAX_FLOWS:
            self._flow_keys.popitem(last=False)


class OutboundAssociation(OutboundEnd, _Keyed):
    """The sender's end of a security option's association."""

    def __init__(self, association: Association, profile: Profile, hard_limit: int | None = None) -> None:
        OutboundEnd.__init__(self, association, profile, hard_limit)
        _Keyed.__init__(self, association, profile)
        self.source_proof: SourceProof | None = (
            profile.source_proof if association.role is AssociationRole.MULTICAST else None
        )
        self._spi_bytes = self.spi.to_bytes(SPI_SIZE, "big")
        self._flows: OrderedDict[bytes, bytes] = OrderedDict()
        self._last_flow = 0

    def option_start(self, sealed_size: int) -> bytes:
        """Return the option's header and SPI, 8 bytes, for a sealed part of ``sealed_size`` bytes."""
        data = self.shape.head_size + sealed_size + TAG_SIZE - OPTION_HEADER_SIZE
        return option_header(SECURITY_CLASS, self.option_type, data) + self._spi_bytes

    def flow_id(self, flow: bytes) -> bytes:
        """Return the id of an inner flow, 4 bytes, a new one for a flow not seen lately.

        SequenceExhaustedError when there are no ids left: none is ever given twice.
        """
        flow_id = self._flows.get(flow)
        if flow_id is not None:
            self._flows.move_to_end(flow)
            return flow_id
        self._last_flow += 1
        if self._last_flow >> (8 * FLOW_ID_SIZE):
            raise SequenceExhaustedError(f"association {self.spi:#010x} has given out all its flow ids")
        flow_id = self._last_flow.to_bytes(FLOW_ID_SIZE, "big")
        self._flows[flow] = flow_id
        if len(self._flows) > MAX_FLOWS:
            self._flows.popitem(last=False)
        self._keep_flow_key(flow_id, self._traffic_key(flow_id))
        return flow_id

    def encrypt(self, number: bytes, plaintext: bytes | memoryview, aad: bytes, flow_id: bytes = b"") -> bytes:
        """Return ciphertext and tag, for a number that :meth:`reserve` just gave out."""
        key = self.key if not flow_id else self._traffic_key(flow_id)
        return key.aead.encrypt(key.salt + number, plaintext, aad)

    def encrypt_all(
        self,
        numbers: Iterable[bytes],
        plaintexts: Iterable[bytes | memoryview],
        aads: Iterable[bytes],
        flow_id: bytes = b"",
    ) -> list[bytes]:
        """Do what :meth:`encrypt` does for packets of one flow."""
        key = self.key if not flow_id else self._traffic_key(flow_id)
        return list(map(key.aead.encrypt, map(key.salt.__add__, numbers), plaintexts, aads))


class InboundAssociation(InboundEnd, _Keyed):
    """The audience's end: verifies, decrypts, and remembers what it has accepted."""

    def __init__(self, association: Association, profile: Profile) -> None:
        InboundEnd.__init__(self, association, profile)
        _Keyed.__init__(self, association, profile)
        self.source: SourceVerifier | None = None
        if association.role is AssociationRole.MULTICAST and association.signer is not None:
            self.source = SourceVerifier(base64.b64decode(association.signer), profile.source_proof)
        self.needs_group = profile.group is not None and association.role is AssociationRole.EGRESS

    def decrypt(self, sequence: bytes, ciphertext_and_tag: bytes, aad: bytes, flow_id: bytes = b"") -> bytes:
        """Return the plaintext; cryptography's InvalidTag when the tag does not verify.

        Changes nothing before the tag has verified; a flow's key is kept after it has.
        """
        if not flow_id:
            return self.key.aead.decrypt(self.key.salt + sequence, ciphertext_and_tag, aad)
        key = self._traffic_key(flow_id)
        plaintext = key.aead.decrypt(key.salt + sequence, ciphertext_and_tag, aad)
        self._keep_flow_key(flow_id, key)
        return plaintext

    def decrypt_all(
        self, numbers: Iterable[bytes], sealed: Iterable[bytes], aads: Iterable[bytes], flow_id: bytes = b""
    ) -> tuple[list[bytes], list[int]]:
        """Do what :meth:`decrypt` does for packets of one flow.

        Returns the plaintexts, and the indices of those whose tag did not verify, which are empty.
        """
        key = self.key if not flow_id else self._traffic_key(flow_id)
        plaintexts: list[bytes] = []
        refused: list[int] = []
        following = map(key.aead.decrypt, map(key.salt.__add__, numbers), sealed, aads)
        while True:
            try:
                plaintexts.extend(following)  # what it took before an exception stays
                break
            except InvalidTag:
                refused.append(len(plaintexts))
                plaintexts.append(b"")
        if flow_id and len(refused) < len(plaintexts):
            self._keep_flow_key(flow_id, key)
        return plaintexts, refused

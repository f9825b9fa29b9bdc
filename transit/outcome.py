"""What a transit device can find in a frame, and what becomes of the frame."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from geneve.drops import DropReason
from transit.records import Observation


class Outcome(str, Enum):
    """What the device found in one frame. Every frame has exactly one outcome.

    A device without group policy forwards the frame whatever the outcome (design invariant 7). With
    group policy, those in :data:`DROPPING` are drops where the policy applies.
    """

    __hash__ = str.__hash__  # that of Enum is written in Python, and outcomes are counted for each packet

    NOT_GENEVE = "not_geneve"
    """No sound Geneve datagram of version 0."""
    NOT_ADDRESSED = "not_addressed"
    """Geneve without anything for this device."""
    MALFORMED = "malformed"
    """The Geneve header or its options do not parse."""
    AUTHENTICATED = "authenticated"
    """The option for this device verified, and there is nothing to export."""
    EXPORTED = "exported"
    """Telemetry exported, after authentication where the policy demands it."""
    TELEMETRY_UNAUTHENTICATED = "telemetry_unauthenticated"
    """Telemetry in a VNI that demands authentication, and no tag for this device covers it."""
    TELEMETRY_MALFORMED = "telemetry_malformed"
    """A telemetry option of the wrong size, or more than one."""
    AUTHENTICATION_FAILED = DropReason.AUTHENTICATION_FAILED.value
    """The tag of the option for this device does not verify."""
    REPLAYED = DropReason.REPLAYED.value
    """Verified once before."""
    BEHIND_WINDOW = DropReason.BEHIND_WINDOW.value
    """Too old to tell whether it was seen before."""
    SOURCE_MISMATCH = DropReason.SOURCE_MISMATCH.value
    """The outer source address is not that of the association's sender."""
    POLICY_MISMATCH = DropReason.POLICY_MISMATCH.value
    """Verified under an association of another VNI."""
    TAG_MISSING = "tag_missing"
    """A VNI with group policy, and no security groups that the device may believe: none, or not covered."""
    TAG_MALFORMED = "tag_malformed"
    """The security groups have the wrong size, or stand there twice."""
    TAG_DENIED = "tag_denied"
    """No rule of group policy permits this pair of security groups."""
    FRAGMENT = "fragment"
    """A fragment that can be part of a Geneve datagram, at a device with group policy."""
    UNREADABLE = "unreadable"
    """Headers that a receiver may follow to a Geneve datagram and this device does not, with group policy."""
    UNSUPPORTED_VERSION = DropReason.UNSUPPORTED_VERSION.value
    """Geneve of another version, whose VNI cannot be known, at a device with group policy."""


class Decision(NamedTuple):
    """The outcome for one frame, what to report about it once it was sent on, and whether to send it on."""

    outcome: Outcome
    observation: Observation | None = None
    forward: bool = True


DROPPING = (
    Outcome.MALFORMED,
    Outcome.AUTHENTICATION_FAILED,
    Outcome.REPLAYED,
    Outcome.BEHIND_WINDOW,
    Outcome.SOURCE_MISMATCH,
    Outcome.POLICY_MISMATCH,
    Outcome.TAG_MISSING,
    Outcome.TAG_MALFORMED,
    Outcome.TAG_DENIED,
    Outcome.FRAGMENT,
    Outcome.UNREADABLE,
    Outcome.UNSUPPORTED_VERSION,
)
"""The outcomes under which group policy can drop a frame."""

# One object for each outcome: nothing is allocated for frames that merely pass, or are dropped.
PASS = {outcome: Decision(outcome) for outcome in Outcome}
DROP = {outcome: Decision(outcome, forward=False) for outcome in DROPPING}

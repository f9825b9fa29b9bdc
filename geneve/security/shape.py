"""What one audience's security options look like under a profile: sizes and places, the same at both ends."""

from __future__ import annotations

from dataclasses import dataclass

from geneve.control.profile import Coverage, InnerCoverage, KeyGranularity, Profile
from geneve.control.state import AssociationRole
from geneve.header import BASE_HEADER_SIZE, fields_mask
from geneve.option import MAX_OPTION_DATA, OPTION_HEADER_SIZE
from geneve.security.option import SEQUENCE_SIZE, SPI_SIZE, TAG_SIZE

WORD_SIZE = 4
"""Bytes of the flow id, and of the inner length with its two zero bytes."""

HEADERS_UNIT = 16
"""Bytes to a multiple of which the encrypted headers of an inner frame are rounded up."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The form of one audience's security options. Sizes in bytes; masks are of the base header's 64 bits."""

    coverage: Coverage
    reveal_mask: int
    """Hidden header fields of which this audience is told the true values."""
    flow: bool
    """Whether a flow id stands in the head."""
    inner_length: bool
    """Whether the inner length stands in the head."""
    padded: bool
    """Whether the encrypted part says its own length."""
    head_size: int
    """From the option header to what is sealed or the tag."""

    @property
    def max_sealed_size(self) -> int:
        """The most bytes a sealed part can have."""
        return OPTION_HEADER_SIZE + MAX_OPTION_DATA - self.head_size - TAG_SIZE

    def option_size(self, hidden_size: int) -> int:
        """Return the size of a whole option that hides ``hidden_size`` bytes of options; ValueError if too many."""
        sealed = hidden_size + (BASE_HEADER_SIZE if self.reveal_mask else 0)
        if sealed > self.max_sealed_size:
            raise ValueError(
                f"a security option has room for {self.max_sealed_size} sealed bytes, and {sealed} are to be hidden"
            )
        return self.head_size + sealed + TAG_SIZE


def profile_coverage(profile: Profile, role: AssociationRole, audience: str) -> Coverage:
    """Return what ``profile`` has for an audience; ValueError when it has nothing for it."""
    if role is AssociationRole.GROUP:
        coverage = profile.group
    elif role is AssociationRole.TRANSIT:
        coverage = profile.device_coverage(audience)
    else:
        coverage = profile.egress
    if coverage is None:
        what = f"transit device {audience!r}" if role is AssociationRole.TRANSIT else "a group of transit devices"
        raise ValueError(f"profile {profile.name!r} says nothing for {what}")
    return coverage


def make_shape(profile: Profile, role: AssociationRole, audience: str) -> Shape:
    """Return the form of security options for ``audience`` under ``profile``; ValueError as profile_coverage."""
    coverage = profile_coverage(profile, role, audience)
    to_nve = role in (AssociationRole.EGRESS, AssociationRole.MULTICAST)
    flow = profile.key_granularity is KeyGranularity.FLOW
    inner_length = InnerCoverage.HEADERS in (coverage.authenticate_inner, coverage.encrypt_inner)
    return Shape(
        coverage=coverage,
        reveal_mask=fields_mask(profile.hidden_header if to_nve else coverage.reveal_header),
        flow=flow,
        inner_length=inner_length,
        padded=to_nve and profile.padded,
        head_size=OPTION_HEADER_SIZE + SPI_SIZE + SEQUENCE_SIZE + WORD_SIZE * (flow + inner_length),
    )

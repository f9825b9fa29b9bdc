"""Which option travels where: in clear, or inside the security options of those who may read it. Pure arithmetic.

Sealing follows it, and so does the arithmetic of the tenants' MTU, which therefore cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from geneve.control.profile import Coverage, InnerCoverage, Profile
from geneve.control.state import AssociationRole
from geneve.security.aad import covers_option
from geneve.security.option import SECURITY_CLASS, TRANSIT_TYPE, OptionSpan
from geneve.security.shape import make_shape

Audience = tuple[AssociationRole, str]
"""Who opens a security option: role and name."""


@dataclass(frozen=True, slots=True)
class OptionSize:
    """An option by class, type and its size in bytes, header included."""

    option_class: int
    type: int
    size: int

    @property
    def kind(self) -> tuple[int, int]:
        """Class and type."""
        return self.option_class, self.type


@dataclass(frozen=True, slots=True)
class Carried:
    """One audience's security option: index of the audience, indices of the options hidden in it, size in bytes."""

    audience: int
    hidden: tuple[int, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Carriage:
    """Where the options of a packet travel: ``clear`` are indices of those that stay outside, in order."""

    clear: tuple[int, ...]
    carried: tuple[Carried, ...]
    size: int
    """Bytes of all options together, without filler and signature."""


def hidden_kinds(profile: Profile) -> frozenset[tuple[int, int]]:
    """Return the options that never travel in clear under ``profile``, whoever is on the path."""
    coverages = (profile.egress, profile.transit, profile.group, *profile.devices.values())
    return frozenset(
        (item.option_class, item.type) for coverage in coverages if coverage for item in coverage.hidden_options
    )


def carry(profile: Profile, audiences: Sequence[Audience], options: Sequence[OptionSize]) -> Carriage:
    """Work out where ``options`` travel in a packet for ``audiences``, which stand in wire order.

    A transit device gets a security option only where there is something for it; an option hidden for
    nobody who is on the path is left out. ValueError when a sealed part would be too large.
    """
    never_clear = hidden_kinds(profile)
    clear = tuple(index for index, option in enumerate(options) if option.kind not in never_clear)
    carried = []
    for place, (role, name) in enumerate(audiences):
        shape = make_shape(profile, role, name)
        selected = {(item.option_class, item.type) for item in shape.coverage.hidden_options}
        hidden = tuple(index for index, option in enumerate(options) if option.kind in selected)
        if role is AssociationRole.TRANSIT and not hidden and not _concerns(shape.coverage, options, clear):
            continue
        carried.append(Carried(place, hidden, shape.option_size(sum(options[index].size for index in hidden))))
    size = sum(options[index].size for index in clear) + sum(item.size for item in carried)
    return Carriage(clear, tuple(carried), size)


def _concerns(coverage: Coverage, options: Sequence[OptionSize], clear: Sequence[int]) -> bool:
    """Return whether there is anything in clear that a transit device authenticates."""
    if coverage.authenticate_inner is not InnerCoverage.NONE:
        return True
    own = OptionSpan(SECURITY_CLASS, TRANSIT_TYPE, 0, 0)
    spans = (OptionSpan(options[index].option_class, options[index].type, 0, 0) for index in clear)
    return any(covers_option(coverage, span, own) for span in spans)

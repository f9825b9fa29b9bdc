"""How many bytes the overlay adds to a tenant's frame, and the tenant MTU that follows.

RFC 8926, section 4.4.1: the MTU must assume the largest option set.
"""

from __future__ import annotations

from collections.abc import Sequence

from geneve.control.profile import Profile
from geneve.control.state import AssociationRole
from geneve.header import BASE_HEADER_SIZE, MAX_OPTIONS_SIZE
from geneve.option import MAX_OPTION_DATA, OPTION_HEADER_SIZE
from geneve.security import padding
from geneve.security.carriage import Audience, Carriage, OptionSize, carry
from geneve.security.signature import signature_option_size

UDP_HEADER_SIZE = 8
ETHERNET_HEADER_SIZE = 14
IP_HEADER_SIZE = {4: 20, 6: 40}
"""Bytes of the outer IP header by IP version; the testbed sends no IP options or extension headers."""


def max_options_size(
    profile: Profile | None, options: Sequence[OptionSize], devices: Sequence[str] = (), multicast: bool = False
) -> int:
    """Return the most bytes of options a packet carries under ``profile`` (None: no protection).

    ``devices`` are all transit devices that can be on a path; ``multicast`` says whether packets go to underlay
    groups too. ValueError when the options could not fit a packet, whose Opt Len ends at 252 bytes, or could not
    be kept at the profile's ``options_size`` on every path.
    """
    if profile is None:
        return _checked(sum(option.size for option in options), devices)
    audiences: list[Audience] = [(AssociationRole.GROUP, "egress")] if profile.group is not None else []
    audiences += [(AssociationRole.TRANSIT, name) for name in devices if profile.device_coverage(name) is not None]
    egress: Audience = (AssociationRole.EGRESS, "egress")
    size = carry(profile, [*audiences, egress], options).size
    if multicast:
        to_group = carry(profile, [(AssociationRole.MULTICAST, "group")], options)
        size = max(size, to_group.size + signature_option_size(profile.source_proof))
    if profile.options_size is not None:
        if size > profile.options_size:
            raise ValueError(
                f"profile {profile.name!r} keeps options at {profile.options_size} bytes, and they can need {size}"
            )
        # The filler is longest where nothing else is in the packet: no device on the path, or a batch of one.
        without_devices = [*audiences[: profile.group is not None], egress]
        _check_filler(profile, 0, carry(profile, without_devices, options))
        if multicast:
            _check_filler(profile, signature_option_size(profile.source_proof, 1), to_group)
        size = profile.options_size
    return _checked(size, devices)


def _check_filler(profile: Profile, proof: int, least: Carriage) -> None:
    """Raise ValueError when the smallest set of options, ``proof`` bytes of signature besides, cannot be filled."""
    most = least.size + proof + OPTION_HEADER_SIZE + MAX_OPTION_DATA - least.carried[-1].size
    if profile.options_size is not None and profile.options_size > most:
        raise ValueError(
            f"profile {profile.name!r} keeps options at {profile.options_size} bytes, and those of some packets can "
            f"be filled to {most} only"
        )


def _checked(size: int, devices: Sequence[str]) -> int:
    if size > MAX_OPTIONS_SIZE:
        raise ValueError(
            f"{len(devices)} transit devices need {size} bytes of options; a Geneve packet has room for "
            f"{MAX_OPTIONS_SIZE}"
        )
    return size


def inner_extra(profile: Profile | None) -> int:
    """Return the bytes that the encrypted inner part has besides the frame, without padding."""
    return padding.LENGTH_SIZE if profile is not None and profile.padded else 0


def encapsulation_size(family: int, options_size: int) -> int:
    """Return bytes from the outer IP header to the last option, for outer IP version ``family`` (4 or 6)."""
    return IP_HEADER_SIZE[family] + UDP_HEADER_SIZE + BASE_HEADER_SIZE + options_size


def tenant_mtu(underlay_mtu: int, family: int, options_size: int) -> int:
    """Return the largest inner IP packet, in bytes, that fits the underlay once encapsulated."""
    return underlay_mtu - encapsulation_size(family, options_size) - ETHERNET_HEADER_SIZE

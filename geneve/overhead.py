"""How many bytes the overlay adds to a tenant's frame, and the tenant MTU that follows.

RFC 8926, section 4.4.1: the MTU must assume the largest option set.
"""

from __future__ import annotations

from geneve.control.profile import Profile
from geneve.header import BASE_HEADER_SIZE, MAX_OPTIONS_SIZE
from geneve.security.option import SECURITY_OPTION_SIZE
from geneve.telemetry import TELEMETRY_OPTION_SIZE

UDP_HEADER_SIZE = 8
ETHERNET_HEADER_SIZE = 14
IP_HEADER_SIZE = {4: 20, 6: 40}
"""Bytes of the outer IP header by IP version; the testbed sends no IP options or extension headers."""


def max_options_size(profile: Profile | None, telemetry: bool, transit_devices: int) -> int:
    """Return the most bytes of options a packet carries under ``profile`` (None: no protection).

    ``transit_devices`` is the largest number of transit devices on a path. ValueError when the
    options could not fit a packet, whose Opt Len ends at 252 bytes.
    """
    size = TELEMETRY_OPTION_SIZE if telemetry else 0
    if profile is not None:
        size += SECURITY_OPTION_SIZE
        if telemetry and profile.transit is not None:
            size += transit_devices * SECURITY_OPTION_SIZE
    if size > MAX_OPTIONS_SIZE:
        raise ValueError(
            f"{transit_devices} transit devices need {size} bytes of options; a Geneve packet has room for "
            f"{MAX_OPTIONS_SIZE}"
        )
    return size


def encapsulation_size(family: int, options_size: int) -> int:
    """Return bytes from the outer IP header to the last option, for outer IP version ``family`` (4 or 6)."""
    return IP_HEADER_SIZE[family] + UDP_HEADER_SIZE + BASE_HEADER_SIZE + options_size


def tenant_mtu(underlay_mtu: int, family: int, options_size: int) -> int:
    """Return the largest inner IP packet, in bytes, that fits the underlay once encapsulated."""
    return underlay_mtu - encapsulation_size(family, options_size) - ETHERNET_HEADER_SIZE

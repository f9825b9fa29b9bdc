"""How many bytes the overlay adds to a tenant's frame, and the tenant MTU that follows.

RFC 8926, section 4.4.1: the MTU must assume the largest option set.
"""

from __future__ import annotations

from collections.abc import Sequence

from geneve.control.channel import Channel, ChannelProtocol, Cipher, Encapsulation
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
    """Return the most bytes of options a packet carries under ``profile`` (None: no protection; a channel adds none).

    ``devices`` are all transit devices that can be on a path; ``multicast`` says whether packets go to underlay
    groups too. ValueError when the options could not fit a packet, whose Opt Len ends at 252 bytes, or could not
    be kept at the profile's ``options_size`` on every path.
    """
    if profile is None or profile.channel is not None:
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
    options = profile is not None and profile.channel is None
    return padding.LENGTH_SIZE if options and profile is not None and profile.padded else 0


def encapsulation_size(family: int, options_size: int) -> int:
    """Return bytes from the outer IP header to the last option, for outer IP version ``family`` (4 or 6)."""
    return IP_HEADER_SIZE[family] + UDP_HEADER_SIZE + BASE_HEADER_SIZE + options_size


_ESP_HEADER_SIZE, _ESP_TRAILER_SIZE, _ESP_IV_SIZE, _ESP_ICV_SIZE = 8, 2, 8, 16
_AH_SIZE = {4: 28, 6: 32}
"""Bytes of AH with an ICV of 16, by IP version: in IPv6 a multiple of 8 (RFC 4302, section 2.2)."""
_DTLS_RECORD_SIZE = {Cipher.AES_128_GCM: 13 + 8 + 16, Cipher.NULL: 13 + 20}
"""Header, explicit nonce and tag of a record, or header and HMAC-SHA-1 (RFC 6347, RFC 5288)."""
_DTLS_PLAINTEXT = 2**14
"""Most bytes of a record's plaintext (RFC 5246, section 6.2.1), which is a Geneve packet without UDP header."""


def channel_size(datagram: int, family: int, channel: Channel | None) -> int:
    """Return the bytes that a UDP datagram of ``datagram`` bytes, header included, has in IP within a channel."""
    if channel is None:
        return datagram
    if channel.protocol is ChannelProtocol.AH:
        return datagram + _AH_SIZE[family]
    if channel.protocol is ChannelProtocol.DTLS:
        return datagram + _DTLS_RECORD_SIZE[channel.cipher]
    return _esp_size(channel) + -(-(datagram + _ESP_TRAILER_SIZE) // 4) * 4


def _esp_size(channel: Channel) -> int:
    """Return what ESP adds, apart from its trailer and what aligns that (RFC 4303, section 2.4)."""
    outer = UDP_HEADER_SIZE if channel.encapsulation is Encapsulation.UDP else 0
    return outer + _ESP_HEADER_SIZE + (0 if channel.cipher is Cipher.NULL else _ESP_IV_SIZE) + _ESP_ICV_SIZE


def largest_datagram(underlay_mtu: int, family: int, channel: Channel | None) -> int:
    """Return the bytes of the largest UDP datagram, header included, that fits the underlay within a channel."""
    room = underlay_mtu - IP_HEADER_SIZE[family]
    if channel is not None and channel.protocol is ChannelProtocol.DTLS:
        return min(room - channel_size(0, family, channel), UDP_HEADER_SIZE + _DTLS_PLAINTEXT)
    if channel is None or channel.protocol is not ChannelProtocol.ESP:
        return room - channel_size(0, family, channel)
    return (room - _esp_size(channel)) // 4 * 4 - _ESP_TRAILER_SIZE


def tenant_mtu(underlay_mtu: int, family: int, options_size: int, profile: Profile | None = None) -> int:
    """Return the largest inner IP packet, in bytes, that fits the underlay once encapsulated under ``profile``."""
    room = largest_datagram(underlay_mtu, family, None if profile is None else profile.channel)
    return room - UDP_HEADER_SIZE - BASE_HEADER_SIZE - options_size - ETHERNET_HEADER_SIZE - inner_extra(profile)

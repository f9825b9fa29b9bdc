"""The protections that every scenario can name: our own profiles, and the channels they are compared with."""

from __future__ import annotations

from geneve.control.channel import Channel, ChannelProtocol, Cipher, Encapsulation
from geneve.control.profile import Coverage, InnerCoverage, KeyGranularity, OptionSelector, Profile
from geneve.header import HeaderField
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_TYPE

OURS = "ours"
"""The mechanism of security options: each tenant has the profile that the scenario gives it."""
NO_PROTECTION = "none"
FULL_PROTECTION = "full"

_OUR_PROFILES = (
    Profile(
        name=FULL_PROTECTION,
        egress=Coverage(),
        transit=Coverage(
            header=frozenset(
                {HeaderField.VNI, HeaderField.PROTOCOL_TYPE, HeaderField.VERSION, HeaderField.OAM}
            ),
            options=(OptionSelector(option_class=TELEMETRY_CLASS, type=TELEMETRY_TYPE),),
            authenticate_inner=InnerCoverage.NONE,
            encrypt_inner=InnerCoverage.NONE,
        ),
    ),
)


def _channel(
    name: str,
    protocol: ChannelProtocol,
    cipher: Cipher = Cipher.AES_128_GCM,
    encapsulation: Encapsulation = Encapsulation.IP,
) -> Profile:
    channel = Channel(protocol=protocol, cipher=cipher, encapsulation=encapsulation)
    return Profile(name=name, channel=channel, key_granularity=KeyGranularity.PAIR)


CHANNEL_PROFILES = (
    _channel("dtls", ChannelProtocol.DTLS, encapsulation=Encapsulation.UDP),
    _channel("dtls-null", ChannelProtocol.DTLS, Cipher.NULL, Encapsulation.UDP),
    _channel("esp", ChannelProtocol.ESP),
    _channel("esp-null", ChannelProtocol.ESP, Cipher.NULL),
    _channel("esp-udp", ChannelProtocol.ESP, encapsulation=Encapsulation.UDP),
    _channel("esp-null-udp", ChannelProtocol.ESP, Cipher.NULL, Encapsulation.UDP),
    _channel("ah", ChannelProtocol.AH, Cipher.NULL),
)
"""Channels below Geneve, each the mechanism of a whole network."""

BUILT_IN_PROFILES = (*_OUR_PROFILES, *CHANNEL_PROFILES)
"""Profiles every scenario has, besides ``none``, which means plain Geneve."""

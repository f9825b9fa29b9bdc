"""What the tests of IPsec need: profiles of each kind, both ends of an association, and their sealer and opener."""

from __future__ import annotations

import ipaddress

from geneve.control.channel import Channel, ChannelProtocol, Cipher
from geneve.control.profile import KeyGranularity, Padding, Profile
from geneve.control.state import Association
from geneve.inner import parse_inner
from nve.ipsec.opener import IpsecOpener
from nve.ipsec.sa import InboundSa, OutboundSa
from nve.ipsec.sealer import IpsecSealer
from tests.support import association, udp_frame

ADDRESSES = {4: ("192.168.1.1", "192.168.1.2"), 6: ("fd00::1", "fd00::2")}
SPI = 0x1000


def channel(protocol: str = "esp", cipher: str = "aes-128-gcm", esn: bool = True) -> Channel:
    return Channel(protocol=ChannelProtocol(protocol), cipher=Cipher(cipher), extended_sequence_numbers=esn)


CHANNELS = {
    "esp": channel(),
    "esp-short": channel(esn=False),
    "esp-null": channel(cipher="null"),
    "esp-null-short": channel(cipher="null", esn=False),
    "ah": channel("ah", "null"),
    "ah-short": channel("ah", "null", esn=False),
}
KINDS = [(name, version) for name in CHANNELS for version in (4, 6)]


def profile(name: str = "esp", padding: Padding | None = None, **keys) -> Profile:
    return Profile(
        name=name, channel=CHANNELS[name], key_granularity=KeyGranularity.PAIR, padding=padding or Padding(), **keys
    )


def secured(name: str = "esp", version: int = 4, spi: int = SPI, role: str = "egress") -> Association:
    made = association(spi, role, vni=None, profile=name)
    return made.model_copy(update={"sender_address": ADDRESSES[version][0]})


class Pair:
    """A sealer at nve1 and the opener at nve2 for one association."""

    def __init__(self, name: str = "esp", version: int = 4, largest: int = 1500, at: int = 0, **keys) -> None:
        limits = {"soft_limit": 2**40, "hard_limit": 2**41} if at else {}
        self.profile = profile(name, **limits, **keys)
        self.association = secured(name, version)
        self.addresses = ADDRESSES[version]
        self.source = ipaddress.ip_address(self.addresses[0]).packed
        self.out = OutboundSa(self.association, self.profile)
        self.out.last_sequence = at
        self.end = InboundSa(self.association, self.profile)
        if at:
            self.end.window.commit(at)
        self.sealer = IpsecSealer(100, self.out, *self.addresses, largest, random_below=lambda n: n // 2)
        self.opener = IpsecOpener([self.end])

    def seal(self, *frames: bytes, options: tuple[bytes, ...] = ()) -> list[bytes]:
        return self.sealer.seal_burst(frames, parse_inner(udp_frame()), (options,) * len(frames))

    def open(self, *packets: bytes) -> list:
        return [result for packet in packets for result in self.open_burst(packet, len(packet))]

    def open_burst(self, buffer: bytes, size: int) -> list:
        return self.opener.open_burst(buffer, size, self.source, 1.0)

    def number(self, packet: bytes) -> int:
        """The sequence number that a packet shows."""
        at = 4 if self.profile.channel.protocol is ChannelProtocol.ESP else {4: 28, 6: 48}[packet[0] >> 4]
        return int.from_bytes(packet[at : at + 4], "big")


def frame(size: int = 100, mark: int = 0) -> bytes:
    """A tenant's frame of ``size`` bytes, from 42 on."""
    return udp_frame(data=bytes([mark]) * (size - 42))


def frames_of(results: list) -> list[bytes]:
    return [found for burst in results for found in burst.frames]

"""An IPsec security association at one of its ends: keys, sequence numbers or replay window."""

from __future__ import annotations

from typing import Protocol

from geneve.control.channel import Channel, ChannelProtocol, Cipher
from geneve.control.profile import Profile
from geneve.control.state import Association, AssociationRole
from geneve.drops import DropReason
from geneve.security.association import InboundEnd, OutboundEnd
from nve.ipsec.ah import Ah
from nve.ipsec.esp import Columns, Esp, GcmEsp, NullEsp
from nve.ipsec.keys import derive_keys

MAX_SHORT = 2**32 - 1
"""The last sequence number of 32 bits: the counter must not cycle (RFC 4303, section 3.3.3; RFC 4302, 3.3.2)."""
_LOW = 0xFFFFFFFF


class Opening(Protocol):
    """What opening needs of a protocol: :class:`nve.ipsec.esp.Esp` and :class:`nve.ipsec.ah.Ah` are the two."""

    def read(self, packet: bytes) -> tuple[int, bytes] | DropReason: ...
    def open(self, packet: bytes, number: int) -> bytes | None: ...
    def unpack(self, text: bytes) -> tuple[int, bytes] | None: ...
    def read_all(self, packets: bytes | memoryview, size: int) -> Columns | None: ...
    def open_all(self, columns: Columns, numbers: list[int]) -> tuple[list[bytes], list[int]]: ...
    def unpack_all(self, texts: list[bytes]) -> tuple[int, list[bytes]] | None: ...


def channel_of(profile: Profile) -> Channel:
    """Return the profile's channel; ValueError when it is not IPsec."""
    if profile.channel is None or profile.channel.protocol is ChannelProtocol.DTLS:
        raise ValueError(f"profile {profile.name!r} is not one of IPsec")
    return profile.channel


def make_codec(association: Association, channel: Channel) -> Esp | Ah:
    """Return what seals and opens under the association's keys; ValueError for a role that IPsec does not have."""
    if association.role not in (AssociationRole.EGRESS, AssociationRole.MULTICAST):
        raise ValueError("IPsec is between NVEs: there are no associations with transit devices")
    keys, extended = derive_keys(association, channel), channel.extended_sequence_numbers
    if channel.protocol is ChannelProtocol.AH:
        return Ah(association.spi, keys, extended)
    make = NullEsp if channel.cipher is Cipher.NULL else GcmEsp
    return make(association.spi, keys, extended)


class OutboundSa(OutboundEnd):
    """The sender's end. Without extended sequence numbers the limits are at most 2^32 - 1."""

    def __init__(self, association: Association, profile: Profile, hard_limit: int | None = None) -> None:
        super().__init__(association, profile, hard_limit)
        self.channel = channel_of(profile)
        if not self.channel.extended_sequence_numbers:
            self.hard_limit = min(self.hard_limit, MAX_SHORT)
            self.soft_limit = min(self.soft_limit, self.hard_limit)
        self.codec = make_codec(association, self.channel)


class InboundSa(InboundEnd):
    """The audience's end: remembers what it has accepted. Anti-replay is always on."""

    def __init__(self, association: Association, profile: Profile) -> None:
        super().__init__(association, profile)
        self.channel = channel_of(profile)
        self.extended = self.channel.extended_sequence_numbers
        self.codec: Opening = make_codec(association, self.channel)

    def number(self, low: int) -> int:
        """Return the whole sequence number of a packet that shows its low 32 bits; changes nothing."""
        return infer(low, self.window.highest, self.window.size) if self.extended else low


def infer(low: int, highest: int, size: int) -> int:
    """Return the 64-bit number with these low 32 bits, given the highest accepted one (RFC 4303, Appendix A).

    It is the least one that is not behind a window of ``size`` numbers: what is just behind looks 2^32 ahead, and its
    ICV then fails. That is the appendix' cases A and B in one; it leaves open what lies before the first number,
    and there are no negative ones here.
    """
    lowest = max(highest - size + 1, 0)
    return lowest + ((low - lowest) & _LOW)

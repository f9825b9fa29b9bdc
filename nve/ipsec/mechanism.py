"""IPsec with our own codec as the NVE's data path uses it: keys from the NVA (IKE-less, as RFC 9061 has it). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from geneve.control.channel import Channel
from geneve.control.profile import Profile
from geneve.control.state import Association
from geneve.header import BASE_HEADER_SIZE
from geneve.security.association import InboundEnd
from nve.ipsec.opener import IpsecOpener
from nve.ipsec.sa import InboundSa, OutboundSa
from nve.ipsec.sealer import IpsecSealer
from nve.protection import Chosen, KeysFromNva, Use


class IpsecKeys(KeysFromNva):
    """What any implementation of IPsec has in common: keys come with associations, and nothing else is ever due.

    ``address`` is this NVE's own, as text. Nothing passes in clear: the policy of RFC 4301 has one entry, PROTECT.
    """

    def __init__(self, channel: Channel, address: str) -> None:
        self._channel, self._address = channel, address

    @property
    def channel(self) -> Channel:
        """The channel that every profile must have."""
        return self._channel

    def document(self) -> dict[str, Any]:
        """Return the protocol and its choices."""
        return {"name": self._channel.protocol.value, "channel": self._channel.model_dump(mode="json")}


class Ipsec(IpsecKeys):
    """One security association for each direction of a pair of NVEs, and one for each sender to a multicast group."""

    def outbound(self, association: Association, profile: Profile) -> OutboundSa:
        """Return the sender's end; ValueError when the association does not make sense."""
        return OutboundSa(association, profile)

    def inbound(self, association: Association, profile: Profile) -> InboundSa:
        """Return the receiver's end; ValueError when the association does not make sense."""
        return InboundSa(association, profile)

    def opener(self, ends: Iterable[InboundEnd], expired: Iterable[InboundEnd]) -> IpsecOpener:
        """Return who opens under ``ends``, and says of what comes under ``expired`` ones what they are."""
        held = [end for end in ends if isinstance(end, InboundSa)]
        return IpsecOpener(held, (end.spi for end in expired), self._channel.protocol)

    def sealer(self, use: Use, chosen: Chosen) -> IpsecSealer | None:
        """Return who seals for ``use``, None without a key; ValueError when options do not fit into packets."""
        if not isinstance(chosen.egress, OutboundSa):
            return None
        largest = BASE_HEADER_SIZE + sum(map(len, use.options)) + use.largest_frame
        sealer = IpsecSealer(use.vni, chosen.egress, self._address, use.address, largest)
        sealer.check_room(use.options)
        return sealer

    def document(self) -> dict[str, Any]:
        """Return the protocol, its choices, and whose implementation it is."""
        return {**super().document(), "implementation": "user space"}

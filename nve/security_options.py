"""Our own mechanism, Geneve security options, as the NVE's data path uses it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from geneve.control.profile import Profile
from geneve.control.state import Association
from geneve.security import padding
from geneve.security.association import InboundAssociation, InboundEnd, OutboundAssociation, OutboundEnd
from geneve.security.open import PacketOpener
from geneve.security.seal import PacketSealer
from geneve.security.signature import SourceSigner
from nve.protection import Chosen, KeysFromNva, Use


class SecurityOptions(KeysFromNva):
    """Associations from the NVA, one security option for each audience; ``signer`` proves multicast packets.

    Packets that nothing protects pass too: what the policy lets through in clear is plain Geneve.
    """

    channel = None

    def __init__(self, signer: SourceSigner | None = None) -> None:
        self._signer = signer

    def outbound(self, association: Association, profile: Profile) -> OutboundAssociation:
        """Return the sender's end; ValueError when the association does not make sense."""
        return OutboundAssociation(association, profile)

    def inbound(self, association: Association, profile: Profile) -> InboundAssociation:
        """Return the receiver's end; ValueError when the association does not make sense."""
        return InboundAssociation(association, profile)

    def opener(self, ends: Iterable[InboundEnd], expired: Iterable[InboundEnd]) -> PacketOpener:
        """Return who opens under ``ends``, and says of what comes under ``expired`` ones what they are."""
        held = [end for end in ends if isinstance(end, InboundAssociation)]
        return PacketOpener(held, (end.spi for end in expired))

    def sealer(self, use: Use, chosen: Chosen) -> PacketSealer | None:
        """Return who seals for ``use``; ValueError when options do not fit into packets."""
        if use.multicast and self._signer is None:
            return None
        egress, group = _own(chosen.egress), _own(chosen.group)
        if egress is None:
            return None
        sealer = PacketSealer(
            use.vni,
            egress,
            [end for end in chosen.transit if isinstance(end, OutboundAssociation)],
            group,
            signer=self._signer if use.multicast else None,
            largest=use.largest_frame + padding.LENGTH_SIZE,
        )
        sealer.check_room(use.options)
        return sealer

    def document(self) -> dict[str, Any]:
        """Return the mechanism's name."""
        return {"name": "security options"}


def _own(end: OutboundEnd | None) -> OutboundAssociation | None:
    return end if isinstance(end, OutboundAssociation) else None

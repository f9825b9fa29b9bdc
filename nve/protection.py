"""What an NVE needs of a mechanism, whichever it is: ends of associations, somebody who seals, somebody who opens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from geneve.control.channel import Channel
from geneve.control.profile import Profile
from geneve.control.state import Association
from geneve.drops import DropReason
from geneve.inner import InnerFrame
from geneve.security.association import InboundEnd, OutboundEnd
from geneve.security.open import Burst
from geneve.security.seal import Item
from nve.datagrams import Datagram


class Sealer(Protocol):
    """Makes what is sent of frames of one VNI, to one egress NVE or multicast group: UDP payloads, or IP payloads.

    The methods are those of :class:`geneve.security.seal.PacketSealer`, which is the first of them.
    """

    @property
    def associations(self) -> tuple[OutboundEnd, ...]:
        """The associations that a packet uses up sequence numbers of; none where a protocol manages its own keys."""

    @property
    def terms(self) -> Profile:
        """The profile that packets are sealed under."""

    def check_room(self, options: Sequence[bytes]) -> None:
        """Raise ValueError when a packet with ``options`` has no room for what the mechanism adds."""

    def seal(self, items: Iterable[Item]) -> list[bytes]:
        """Return one packet for each item, in order; SequenceExhaustedError at an association's hard limit."""

    def seal_burst(
        self, frames: Sequence[bytes | memoryview], inner: InnerFrame, options: Sequence[Sequence[bytes]]
    ) -> list[bytes]:
        """Return packets for ``frames`` of one inner flow, in order; fewer where no more can be sealed."""

    def seal_dummy(self, size: int, options: Sequence[bytes] = ()) -> bytes:
        """Return a packet without a frame that looks like one with a frame of ``size`` bytes."""


class Opener(Protocol):
    """Opens what comes from the underlay."""

    def open_burst(self, buffer: bytes, size: int, source: bytes, now: float) -> list[Burst | DropReason]:
        """Open packets of ``size`` bytes that stand one behind the other, the last perhaps shorter.

        ``source`` is the outer address, 4 or 16 bytes. A burst's ``opened.association`` says whose packets they are.
        """


@dataclass(frozen=True, slots=True)
class Chosen:
    """The associations with which packets to one target are sealed; none where the mechanism has keys of its own."""

    egress: OutboundEnd | None = None
    transit: tuple[OutboundEnd, ...] = ()
    group: OutboundEnd | None = None

    @property
    def associations(self) -> tuple[OutboundEnd, ...]:
        """All of them, in wire order as :attr:`Sealer.associations`."""
        ends = (self.group, *self.transit, self.egress)
        return tuple([end for end in ends if end is not None])


@dataclass(frozen=True, slots=True)
class Use:
    """What a sealer is for: packets of one VNI to a peer or a multicast group.

    ``options`` is the largest set that its packets carry, with any values; ``largest_frame`` in bytes.
    """

    vni: int
    name: str
    address: str
    multicast: bool
    largest_frame: int
    options: tuple[bytes, ...]


class Mechanism(Protocol):
    """How an NVE protects what it sends: security options, IPsec or DTLS. One for all that it sends and receives."""

    @property
    def channel(self) -> Channel | None:
        """The channel that every profile must have; None: profiles of security options."""

    @property
    def keyed(self) -> bool:
        """Whether keys come from the NVA; else the mechanism agrees on them itself, when it is told whom it is for."""

    @property
    def version(self) -> int:
        """Grows when :meth:`sealer` may give another answer though nothing was applied."""

    def outbound(self, association: Association, profile: Profile) -> OutboundEnd:
        """Return the sender's end; ValueError when the association does not make sense."""

    def inbound(self, association: Association, profile: Profile) -> InboundEnd:
        """Return the receiver's end; ValueError when the association does not make sense."""

    def opener(self, ends: Iterable[InboundEnd], expired: Iterable[InboundEnd]) -> Opener:
        """Return who opens under ``ends``, and says of what comes under ``expired`` ones what they are."""

    def sealer(self, use: Use, chosen: Chosen) -> Sealer | None:
        """Return who seals for ``use``, None where there are no keys yet; ValueError when options do not fit."""

    def apply(self, peers: Mapping[str, str], profiles: Iterable[Profile], now: float) -> None:
        """Take over the other NVEs, name and address, and the profiles in force."""

    def check(self, profiles: Iterable[Profile]) -> None:
        """Raise ConfigError when the mechanism cannot work under these profiles; change nothing."""

    def hold(self, outbound: Iterable[OutboundEnd], inbound: Iterable[InboundEnd], peers: Mapping[str, str]) -> None:
        """Be told of all ends before they are used; ConfigError when somebody else, who has to, cannot hold them."""

    def close(self) -> None:
        """Leave nothing behind."""

    def want(self, peer: str, now: float) -> None:
        """Agree on keys with a peer, which frames wait for; only where ``keyed`` is false."""

    def run_due(self, now: float) -> list[Datagram]:
        """Return what the mechanism itself has to send now."""

    def next_deadline(self) -> float | None:
        """Return when :meth:`run_due` is needed next, or None."""

    def document(self) -> dict[str, Any]:
        """Return what the stats socket tells of the mechanism: names and numbers, never keys."""


class KeysFromNva:
    """What mechanisms with keys from the NVA have in common: of their own accord they do nothing."""

    keyed = True
    version = 0

    def check(self, profiles: Iterable[Profile]) -> None:
        """Do nothing: an association says when it does not fit."""

    def hold(self, outbound: Iterable[OutboundEnd], inbound: Iterable[InboundEnd], peers: Mapping[str, str]) -> None:
        """Do nothing: nobody else has to hold anything."""

    def close(self) -> None:
        """Do nothing: nothing is left behind."""

    def apply(self, peers: Mapping[str, str], profiles: Iterable[Profile], now: float) -> None:
        """Do nothing: all there is to know comes with the associations."""

    def want(self, peer: str, now: float) -> None:
        """Do nothing: the NVA is asked for keys."""

    def run_due(self, now: float) -> list[Datagram]:  # noqa: ARG002
        """Return nothing: there is nothing to say."""
        return []

    def next_deadline(self) -> float | None:
        """Return None: nothing is ever due."""
        return None

"""What an NVE goes by: everything that follows from one state of the NVA, swapped in as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from geneve.control.profile import Profile
from geneve.control.rules import Rule
from geneve.inner import InnerFrame
from geneve.policy import Policy
from geneve.security.association import InboundEnd
from geneve.security.open import PacketOpener
from nve.flows import FlowCache
from nve.protection import Opener
from nve.sealers import Key, Target
from nve.tables import VirtualNetwork


@dataclass(frozen=True, slots=True)
class OutboundFlow:
    """Where the frames of one flow go: to one peer, sealed by ``target``, or in clear where that is None.

    ``inner`` is what was read of its first frame, ``entropy`` and ``traffic_class`` are of its datagrams, ``options``
    those that are the same in all of its packets, and ``tags`` the security groups in them. ``largest`` is the size
    of the largest frame, in bytes.
    """

    network: VirtualNetwork
    inner: InnerFrame
    target: Target | None
    address: str
    entropy: int
    traffic_class: int
    tags: tuple[int, int]
    options: tuple[bytes, ...]
    largest: int
    claims: tuple[int, tuple[tuple[bytes, bytes], ...]] | None
    """What must be known of its sender, where tenants are learned."""


@dataclass(slots=True)
class Applied:
    """The parts; the flows are what was decided under them."""

    networks: dict[int, VirtualNetwork] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    profiles: tuple[Profile, ...] = ()
    policy: Policy = field(default_factory=lambda: Policy((), ()))
    inbound: tuple[list[InboundEnd], list[InboundEnd]] = ([], [])
    """The ends that can open, and those past their lifetime."""
    opener: Opener = field(default_factory=PacketOpener)
    targets: dict[Key, Target] = field(default_factory=dict)
    outgoing: FlowCache[OutboundFlow] = field(default_factory=FlowCache)
    incoming: FlowCache[InnerFrame] = field(default_factory=FlowCache)

    def forget_flows(self) -> None:
        """Decide anew about every flow: associations have changed."""
        self.outgoing.clear()
        self.incoming.clear()

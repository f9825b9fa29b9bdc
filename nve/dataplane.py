"""The NVE's decisions: tenant frames to Geneve packets and back. Pure: bytes in, bytes and counts out."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from geneve import ecn
from geneve.control.profile import Profile
from geneve.control.rules import Action
from geneve.control.state import AssociationRole, NodeState
from geneve.drops import DropReason
from geneve.errors import ConfigError, ParseError
from geneve.header import BaseHeader
from geneve.inner import InnerFrame, parse_inner
from geneve.option import OPTION_HEADER_SIZE, parse_options
from geneve.overhead import ETHERNET_HEADER_SIZE
from geneve.packet import make_packet
from geneve.policy import Decision, Policy
from geneve.security.association import InboundAssociation, OutboundAssociation, SequenceExhaustedError
from geneve.security.open import Opened, PacketOpener
from geneve.security.seal import PacketSealer
from geneve.security.store import AssociationStore
from geneve.telemetry import TELEMETRY_OPTION_SIZE, build_telemetry
from nve import neighbours
from nve.tables import Peer, VirtualNetwork, build_tables


@dataclass(frozen=True, slots=True)
class Datagram:
    """What to send to another NVE: a UDP payload, the outer traffic class, and the flow's source port index."""

    destination: str
    payload: bytes
    traffic_class: int
    entropy: int


@dataclass(slots=True)
class Outbound:
    """Result of frames from tenants: datagrams for the underlay, and frames back to the tenants."""

    datagrams: list[Datagram] = field(default_factory=list)
    replies: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Received:
    """A datagram from the underlay: UDP payload, outer source address (4 or 16 bytes), outer traffic class."""

    payload: bytes
    source: bytes
    traffic_class: int = 0


@dataclass(slots=True)
class _Applied:
    """Everything that follows from one NodeState, swapped in as a whole."""

    networks: dict[int, VirtualNetwork] = field(default_factory=dict)
    policy: Policy = field(default_factory=lambda: Policy((), ()))
    opener: PacketOpener = field(default_factory=PacketOpener)
    sealers: dict[tuple[int, str], PacketSealer] = field(default_factory=dict)


class Dataplane:
    """One NVE. ``flow_secret`` keys the hash that gives source ports and flow labels; ``dscp`` as in ecn.py."""

    def __init__(self, name: str, flow_secret: bytes, dscp: int | None = 0) -> None:
        self.name = name
        self.drops: Counter[DropReason] = Counter()
        self.counters: Counter[str] = Counter()
        self._flow_secret = flow_secret
        self._dscp = dscp
        self._telemetry_sequence = 0
        self._outbound: AssociationStore[OutboundAssociation] = AssociationStore(OutboundAssociation)
        self._inbound: AssociationStore[InboundAssociation] = AssociationStore(InboundAssociation)
        self._applied = _Applied()

    def apply(self, state: NodeState) -> None:
        """Take over a state as a whole; ConfigError leaves the previous one in force."""
        if state.node != self.name:
            raise ConfigError(f"the state is for node {state.node!r}, this is {self.name!r}.")
        self._check_ends(state)
        profiles = {profile.name: profile for profile in state.profiles}
        networks = build_tables(state)
        policy = Policy(state.policy, state.profiles)
        outbound = self._outbound.prepare(state.outbound, profiles)
        inbound = self._inbound.prepare(state.inbound, profiles)
        ends = [end for _, _, end in outbound.values()]
        try:
            opener = PacketOpener(end for _, _, end in inbound.values())
            sealers = _make_sealers(networks, policy, ends)
        except ValueError as error:
            raise ConfigError(f"the associations do not fit together: {error}.") from None
        self._outbound.commit(outbound)
        self._inbound.commit(inbound)
        self._applied = _Applied(networks, policy, opener, sealers)

    def _check_ends(self, state: NodeState) -> None:
        """Refuse a key that is not this node's to use: two senders under one key would repeat nonces."""
        for association in state.outbound:
            if association.sender != self.name:
                raise ConfigError(
                    f"outbound association {association.spi:#010x} has the sender {association.sender!r}; "
                    f"expected {self.name!r}."
                )
        for association in state.inbound:
            if association.audience != self.name or association.sender == self.name:
                raise ConfigError(
                    f"inbound association {association.spi:#010x} is from {association.sender!r} to "
                    f"{association.audience!r}; expected one from another node to {self.name!r}."
                )

    def outbound_associations(self) -> list[OutboundAssociation]:
        """Return the associations this NVE seals with."""
        return self._outbound.ends()

    @property
    def networks(self) -> dict[int, VirtualNetwork]:
        """The virtual networks in force, by VNI."""
        return self._applied.networks

    def from_tenants(self, vni: int, frames: Iterable[bytes]) -> Outbound:
        """Encapsulate frames that tenants of ``vni`` sent; drops are counted, never raised."""
        result = Outbound()
        network = self._applied.networks.get(vni)
        for frame in frames:
            self.counters["frames_from_tenants"] += 1
            reason = DropReason.UNKNOWN_VNI if network is None else self._from_tenant(network, frame, result)
            if reason is not None:
                self.drops[reason] += 1
        self.counters["datagrams_sent"] += len(result.datagrams)
        return result

    def _from_tenant(self, network: VirtualNetwork, frame: bytes, result: Outbound) -> DropReason | None:
        try:
            inner = parse_inner(frame)
        except ParseError:
            return DropReason.MALFORMED_INNER
        # The kernel lets a tagged frame be four bytes longer; encapsulated it would not fit the underlay.
        if len(frame) > network.mtu + ETHERNET_HEADER_SIZE:
            return DropReason.FRAME_TOO_BIG
        decision = self._applied.policy.decide(network.vni)
        if decision.action is Action.DISCARD:
            return DropReason.POLICY_DISCARD
        peers: Sequence[Peer]
        if inner.destination[0] & 1:
            reply = neighbours.answer(frame, inner, network, self.name)
            if reply is not None:
                self.counters["neighbour_replies"] += 1
                result.replies.append(reply)
                return None
            peers = tuple(network.peers.values())
        else:
            location = network.location.get(inner.destination)
            if location == self.name:
                self.counters["frames_for_local_tenants"] += 1
                return None
            peers = tuple(network.peers.values()) if location is None else (network.peers[location],)
        if not peers:
            return DropReason.UNKNOWN_DESTINATION
        return self._encapsulate(network, decision, frame, inner, peers, result)

    def _encapsulate(
        self,
        network: VirtualNetwork,
        decision: Decision,
        frame: bytes,
        inner: InnerFrame,
        peers: Sequence[Peer],
        result: Outbound,
    ) -> DropReason | None:
        label = self._flow_label(network.vni, inner)
        traffic_class = ecn.outer_traffic_class(inner, self._dscp)
        reason: DropReason | None = None
        for peer in peers:
            options: tuple[bytes, ...] = ()
            if network.telemetry:
                self._telemetry_sequence += 1
                options = (build_telemetry(label, self._telemetry_sequence),)
            if decision.action is Action.BYPASS:
                packet = _plain(network.vni, frame, options)
            else:
                sealer = self._applied.sealers.get((network.vni, peer.name))
                if sealer is None:
                    reason = DropReason.NO_ASSOCIATION
                    continue
                try:
                    (packet,) = sealer.seal([(frame, options)])
                except SequenceExhaustedError:
                    reason = DropReason.SEQUENCE_EXHAUSTED
                    continue
            result.datagrams.append(Datagram(peer.address, packet, traffic_class, label))
        return reason

    def _flow_label(self, vni: int, inner: InnerFrame) -> int:
        # With the VNI: two tenants that use the same addresses must not show by the same label.
        digest = hashlib.blake2s(vni.to_bytes(4, "big") + inner.flow, digest_size=4, key=self._flow_secret).digest()
        return int.from_bytes(digest, "big")

    def from_underlay(self, packets: Iterable[Received]) -> list[tuple[int, bytes]]:
        """Open packets from the underlay; return ``(vni, frame)`` for each to deliver to its tenants."""
        delivered: list[tuple[int, bytes]] = []
        for packet in packets:
            self.counters["datagrams_received"] += 1
            result = self._from_underlay(packet)
            if isinstance(result, DropReason):
                self.drops[result] += 1
            else:
                delivered.append(result)
        self.counters["frames_to_tenants"] += len(delivered)
        return delivered

    def _from_underlay(self, packet: Received) -> tuple[int, bytes] | DropReason:
        applied = self._applied
        opened = applied.opener.open(packet.payload, packet.source)
        if isinstance(opened, DropReason):
            return opened
        vni = opened.header.vni
        network = applied.networks.get(vni)
        if network is None:
            return DropReason.UNKNOWN_VNI
        refused = check_policy(applied.policy.decide(vni), opened)
        if refused is not None:
            return refused
        try:
            inner = parse_inner(opened.frame)
        except ParseError:
            return DropReason.MALFORMED_INNER
        association = opened.association
        if association is not None and not network.authorises(association.sender, inner):
            return DropReason.UNAUTHORISED_SOURCE
        frame = ecn.decapsulate(opened.frame, inner, packet.traffic_class)
        return DropReason.ECN if frame is None else (vni, frame)


def check_policy(decision: Decision, opened: Opened) -> DropReason | None:
    """Compare what protected a packet with what the policy demands for it (design invariant 6)."""
    association = opened.association
    if decision.action is Action.DISCARD:
        return DropReason.POLICY_DISCARD
    if decision.action is Action.BYPASS:
        return None if association is None else DropReason.POLICY_MISMATCH
    if association is None:
        return DropReason.UNPROTECTED
    profile: Profile | None = decision.profile
    if profile is None or association.profile != profile.name or association.vni != opened.header.vni:
        return DropReason.POLICY_MISMATCH
    return None


@functools.lru_cache(maxsize=1024)
def _plain_header(vni: int, option_heads: tuple[bytes, ...]) -> bytes:
    # An option's own four bytes say all that the base header needs to know of it.
    parsed = [parse_options(head + bytes((head[3] & 0x1F) * 4))[0] for head in option_heads]
    return make_packet(BaseHeader(vni=vni), parsed, b"").header.build()


def _plain(vni: int, frame: bytes, options: Sequence[bytes]) -> bytes:
    """Return the unprotected packet of RFC 8926."""
    header = _plain_header(vni, tuple([option[:OPTION_HEADER_SIZE] for option in options]))
    return b"".join((header, *options, frame))


def _make_sealers(
    networks: dict[int, VirtualNetwork], policy: Policy, ends: Sequence[OutboundAssociation]
) -> dict[tuple[int, str], PacketSealer]:
    """Pair each egress association with those of the transit devices on the way, where telemetry asks for them."""
    transit = {(end.vni, end.audience): end for end in ends if end.role is AssociationRole.TRANSIT}
    sealers: dict[tuple[int, str], PacketSealer] = {}
    for end in ends:
        network = networks.get(end.vni)
        if end.role is not AssociationRole.EGRESS or network is None or end.audience not in network.peers:
            continue
        profile = policy.decide(end.vni).profile
        if profile is None or profile.name != end.profile:
            continue
        path = network.peers[end.audience].transit if network.telemetry else ()
        on_path = [transit[end.vni, device] for device in path if (end.vni, device) in transit]
        sealer = PacketSealer(end.vni, end, on_path)
        sealer.check_room(TELEMETRY_OPTION_SIZE if network.telemetry else 0)
        sealers[end.vni, end.audience] = sealer
    return sealers


@functools.lru_cache(maxsize=4096)
def packed_address(text: str) -> bytes:
    """Return the 4 or 16 bytes of an address; an IPv4-mapped IPv6 address gives its 4 IPv4 bytes."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.packed
    return address.packed

"""The NVE's decisions: tenant frames to Geneve packets and back. Pure: bytes and times in, bytes and counts out."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from geneve import ecn
from geneve.control.demand import Demand
from geneve.control.profile import Profile
from geneve.control.rules import Action, Direction, Rule
from geneve.control.state import NodeState
from geneve.drops import DropReason
from geneve.errors import ConfigError, ParseError
from geneve.header import BaseHeader
from geneve.inner import InnerFrame, parse_inner
from geneve.option import OPTION_HEADER_SIZE, parse_options
from geneve.overhead import ETHERNET_HEADER_SIZE
from geneve.packet import make_packet
from geneve.policy import Decision, Policy
from geneve.security.association import InboundAssociation, OutboundAssociation, SequenceExhaustedError
from geneve.security.open import PacketOpener
from geneve.security.seal import Item
from geneve.security.signature import SourceSigner
from geneve.security.store import AssociationStore, Held, usable
from geneve.tags import build_tag
from geneve.telemetry import build_telemetry
from nve import neighbours
from nve.admission import refuse_frame
from nve.cover import CoverTraffic
from nve.presence import Presence
from nve.probes import PROBE_MAC
from nve.sealers import Key, Target, TargetMaker, covered_keys, sealer_key
from nve.seen import SeenOptions
from nve.tables import Group, VirtualNetwork, build_tables
from nve.too_big import ErrorRate, build_too_big
from nve.waiting import Waiting, WaitingFrames, unmapped

ERRORS_PER_SECOND, ERRORS_BURST = 100.0, 50.0
"""How many "too big" messages the tenants of this NVE get at most."""
EXHAUSTED_RETRY = 1.0
"""Seconds between two requests for another association in place of one at its hard limit."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """What to send to another NVE or a group: a UDP payload, the outer traffic class, the source port's index."""

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
    rules: tuple[Rule, ...] = ()
    profiles: tuple[Profile, ...] = ()
    policy: Policy = field(default_factory=lambda: Policy((), ()))
    inbound: tuple[list[InboundAssociation], list[InboundAssociation]] = ([], [])
    """The ends that can open, and those past their lifetime."""
    opener: PacketOpener = field(default_factory=PacketOpener)
    targets: dict[Key, Target] = field(default_factory=dict)


@dataclass(slots=True)
class _Prepared:
    """A state that was found good, and what is to be held for it."""

    applied: _Applied
    outbound: dict[int, Held[OutboundAssociation]]
    inbound: dict[int, Held[InboundAssociation]]


@dataclass(slots=True)
class _Batch:
    """Packets for a group whose proofs of source are made together."""

    items: list[Item] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class _Work:
    """What one call has gathered so far."""

    result: Outbound
    batches: dict[Key, _Batch] = field(default_factory=dict)
    again: Waiting | None = None
    """What the frame at hand was while it waited for keys; None for one that just came."""


class Dataplane:
    """One NVE. ``flow_secret`` keys the hash that gives source ports and flow labels; ``dscp`` as in ecn.py.

    ``signer`` proves this NVE to multicast groups. ``key_log`` is told of keys, for demonstrations only. With
    ``on_demand`` frames wait for keys that :meth:`take_demands` asks for; otherwise they are dropped. ``presence``
    notes the tenants behind this NVE. All times are seconds of one clock.
    """

    def __init__(
        self,
        name: str,
        flow_secret: bytes,
        dscp: int | None = 0,
        signer: SourceSigner | None = None,
        key_log: Callable[[str], None] | None = None,
        on_demand: bool = False,
        presence: Presence | None = None,
    ) -> None:
        self.name = name
        self.drops: Counter[DropReason] = Counter()
        self.counters: Counter[str] = Counter()
        self.seen = SeenOptions()
        self._flow_secret = flow_secret
        self._dscp = dscp
        self._signer = signer
        self._telemetry_sequence = 0
        self._errors = ErrorRate(ERRORS_PER_SECOND, ERRORS_BURST)
        self._cover = CoverTraffic()
        self._on_demand = on_demand
        self._waiting = WaitingFrames()
        self._presence = presence or Presence()
        self._next_expiry = math.inf
        self._rekey_asked: dict[int, int] = {}
        self._rekey_wanted: list[int] = []
        self._exhausted_asked: dict[int, float] = {}
        self._outbound: AssociationStore[OutboundAssociation] = AssociationStore(OutboundAssociation, key_log)
        self._inbound: AssociationStore[InboundAssociation] = AssociationStore(InboundAssociation, key_log)
        self._applied = _Applied()

    def apply(self, state: NodeState, now: float = 0.0) -> list[Datagram]:
        """Take over a state as a whole; ConfigError leaves the previous one in force.

        Returns what waited for keys that are there now, to be sent in front of anything that comes later.
        """
        self.expire(now)
        self._drop_stale(now)
        prepared = self._prepare(state, now)
        before, self._applied = self._applied, prepared.applied
        self._outbound.commit(prepared.outbound)
        self._inbound.commit(prepared.inbound)
        self._rekey_asked = {spi: n for spi, n in self._rekey_asked.items() if spi in prepared.outbound}
        self._exhausted_asked = {spi: t for spi, t in self._exhausted_asked.items() if spi in prepared.outbound}
        self._next_expiry = min(self._outbound.next_expiry(), self._inbound.next_expiry())
        self._presence.set_learned((vni for vni, network in self.networks.items() if network.learned), now)
        self._targets_changed(now)
        return self._release(before, now)

    def check(self, state: NodeState, now: float = 0.0) -> None:
        """Raise ConfigError where :meth:`apply` would; change nothing."""
        self._prepare(state, now)

    def _prepare(self, state: NodeState, now: float) -> _Prepared:
        """Work out all that follows from a state; what follows from unchanged parts of it is taken over."""
        if state.node != self.name:
            raise ConfigError(f"the state is for node {state.node!r}, this is {self.name!r}.")
        self._check_ends(state)
        before = self._applied
        networks = build_tables(state, before.networks)
        if (state.policy, state.profiles) == (before.rules, before.profiles):
            rules, profiles, policy = before.rules, before.profiles, before.policy
        else:
            rules, profiles, policy = state.policy, state.profiles, Policy(state.policy, state.profiles)
        by_name = {profile.name: profile for profile in profiles}
        outbound = self._outbound.prepare(state.outbound, by_name, now)
        inbound = self._inbound.prepare(state.inbound, by_name, now)
        ends = usable(inbound)
        try:
            opener = before.opener if ends == before.inbound else _make_opener(*ends)
            maker = TargetMaker(*usable(outbound), self.name, self._signer, before.targets)
            targets = maker.make(networks.values(), policy)
        except ValueError as error:
            raise ConfigError(f"the associations do not fit together: {error}.") from None
        return _Prepared(_Applied(networks, rules, profiles, policy, ends, opener, targets), outbound, inbound)

    def _targets_changed(self, now: float) -> None:
        applied = self._applied
        self._cover.apply(applied.targets, now)
        if self._on_demand:
            self._waiting.met(applied.targets)
            covered = covered_keys(applied.networks.values(), applied.policy)
            self._waiting.stand((key for key in covered if key not in applied.targets), now)

    def _check_ends(self, state: NodeState) -> None:
        """Refuse a key that is not this node's to use: two senders under one key would repeat nonces."""
        for association in state.outbound:
            if association.sender != self.name:
                raise ConfigError(
                    f"outbound association {association.spi:#010x} has the sender {association.sender!r}; "
                    f"expected {self.name!r}."
                )
        for association in state.inbound:
            if not association.opens(self.name) or association.sender == self.name:
                raise ConfigError(
                    f"inbound association {association.spi:#010x} is from {association.sender!r} to "
                    f"{association.audience!r}; expected one from another node to {self.name!r}."
                )

    def outbound_associations(self) -> list[OutboundAssociation]:
        """Return the associations this NVE seals with."""
        return self._outbound.ends()

    # Lifetimes ------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Stop to use associations that are past their lifetime: fail closed, whatever has become of the NVA."""
        if now < self._next_expiry:
            return
        outbound, inbound = self._outbound.expire(now), self._inbound.expire(now)
        self._next_expiry = min(self._outbound.next_expiry(), self._inbound.next_expiry())
        self.counters["associations_expired"] += len(outbound) + len(inbound)
        applied = self._applied
        if inbound:
            applied.inbound = self._inbound.ends(), self._inbound.expired_ends()
            applied.opener = _make_opener(*applied.inbound)
        if outbound:
            ends, expired = self._outbound.ends(), self._outbound.expired_ends()
            maker = TargetMaker(ends, expired, self.name, self._signer, applied.targets)
            applied.targets = maker.make(applied.networks.values(), applied.policy)
            self._targets_changed(now)

    # Keys on demand -------------------------------------------------------------------------------------

    def take_demands(self, now: float) -> list[Demand]:
        """Return the keys that the NVA is to be asked for now."""
        return self._waiting.take_demands(now) if self._on_demand else []

    def refuse_demand(self, demand: Demand, now: float) -> None:
        """Note that the NVA refused: what waits for these keys is dropped, and they are not asked for soon."""
        self.drops[DropReason.NO_ASSOCIATION] += self._waiting.refuse(demand, now)

    def _drop_stale(self, now: float) -> None:
        self.drops.update(self._waiting.expire(now))

    def _release(self, before: _Applied, now: float) -> list[Datagram]:
        """Decide anew about frames that waited, under what is applied now, and return what can be sent.

        Where policy or tables have changed, that is all of them: a tenant may have moved, a rule may demand
        other keys, or none at all.
        """
        if not self._waiting:
            return []
        applied = self._applied
        same = {vni for vni, network in applied.networks.items() if before.networks.get(vni) is network}
        if applied.policy is not before.policy:
            same.clear()
        work = _Work(Outbound())
        for waiting in self._waiting.take(lambda key: key in applied.targets or key[0] not in same):
            work.again = waiting
            reason = self._from_waiting(waiting, work, now)
            if reason is not None:
                self.drops[reason] += 1
        return self._finish(work, now).datagrams

    def _from_waiting(self, waiting: Waiting, work: _Work, now: float) -> DropReason | None:
        network = self._applied.networks.get(waiting.vni)
        if network is None:
            return DropReason.UNKNOWN_VNI
        if len(waiting.frame) > network.mtu + ETHERNET_HEADER_SIZE:
            return DropReason.FRAME_TOO_BIG
        return self._forward(network, waiting.frame, parse_inner(waiting.frame), work, now)

    def _wait(
        self, key: Key, network: VirtualNetwork, frame: bytes, work: _Work, now: float, only: str | None = None
    ) -> DropReason | None:
        """Have a frame wait for the keys of ``key``, or return why it is dropped; never in clear (invariant 6)."""
        if not self._on_demand:
            return DropReason.NO_ASSOCIATION
        reason = self._waiting.add(key, network.vni, frame, now, only, work.again)
        if reason is None and work.again is None:
            self.counters["frames_waited"] += 1
        return reason

    def take_rekey_requests(self) -> list[int]:
        """Return the SPIs of associations beyond their soft limit: the NVA is to replace them."""
        wanted, self._rekey_wanted = self._rekey_wanted, []
        return wanted

    @property
    def networks(self) -> dict[int, VirtualNetwork]:
        """The virtual networks in force, by VNI."""
        return self._applied.networks

    # From tenants ---------------------------------------------------------------------------------------

    def from_tenants(self, vni: int, frames: Iterable[bytes], now: float = 0.0) -> Outbound:
        """Encapsulate frames that tenants of ``vni`` sent; drops are counted, never raised."""
        work = _Work(Outbound())
        network = self._applied.networks.get(vni)
        for frame in frames:
            self.counters["frames_from_tenants"] += 1
            reason = DropReason.UNKNOWN_VNI if network is None else self._from_tenant(network, frame, work, now)
            if reason is not None:
                self.drops[reason] += 1
        return self._finish(work, now)

    def _finish(self, work: _Work, now: float) -> Outbound:
        for key, batch in work.batches.items():
            self._seal_batch(key, batch, work.result, now)
        self.counters["datagrams_sent"] += len(work.result.datagrams)
        return work.result

    def _from_tenant(self, network: VirtualNetwork, frame: bytes, work: _Work, now: float) -> DropReason | None:
        try:
            inner = parse_inner(frame)
        except ParseError:
            return DropReason.MALFORMED_INNER
        if network.learned:
            if (network.vni, inner.claims) not in self._presence.known:
                self._presence.note(network.vni, inner, now)
            if inner.destination == PROBE_MAC:
                self.counters["probe_answers"] += 1
                return None
        # The kernel lets a tagged frame be four bytes longer; encapsulated it would not fit the underlay.
        if len(frame) > network.mtu + ETHERNET_HEADER_SIZE:
            self._tell_too_big(network, frame, inner, work.result, now)
            return DropReason.FRAME_TOO_BIG
        to_many = bool(inner.destination[0] & 1)
        if to_many:
            reply = neighbours.answer(frame, inner, network, self.name)
            if reply is not None:
                self.counters["neighbour_replies"] += 1
                work.result.replies.append(reply)
                return None
        return self._forward(network, frame, inner, work, now)

    def _forward(
        self, network: VirtualNetwork, frame: bytes, inner: InnerFrame, work: _Work, now: float
    ) -> DropReason | None:
        """Ask the policy, find who is to have the frame, and send it there."""
        to_many = bool(inner.destination[0] & 1)
        decision = self._applied.policy.decide(Direction.OUT, network.vni, inner, network.kinds)
        if decision.action is Action.DISCARD:
            return DropReason.POLICY_DISCARD
        secured = decision.action is Action.SECURE
        if self._on_demand and network.learned and secured and not network.authorises(self.name, inner):
            # A tenant that has just come, perhaps from behind another NVE: the egress NVE goes by the NVA's mapping and
            # would refuse its frames until that says so (invariant 9). Who claims what is not its own waits in vain.
            return self._wait(unmapped(network.vni), network, frame, work, now)
        location = None if to_many else network.location.get(inner.destination)
        group = network.group_for(inner) if location is None else None
        only = None if work.again is None else work.again.only
        if only is not None:
            # One copy of a flooded frame, which is for that peer, or after a change for nobody: others had theirs.
            if only not in network.peers or location not in (None, only) or group is not None:
                self.counters["copies_not_needed"] += 1
                return None
            return self._send(network, decision, frame, inner, (only,), work, now)
        if location == self.name:
            self.counters["frames_for_local_tenants"] += 1
            return None
        if location is not None:
            return self._send(network, decision, frame, inner, (location,), work, now)
        if group is not None:
            return self._send_to_group(network, decision, frame, inner, group, work, now)
        if not network.peers:
            return DropReason.UNKNOWN_DESTINATION
        return self._send(network, decision, frame, inner, tuple(network.peers), work, now, flood=True)

    def _tell_too_big(
        self, network: VirtualNetwork, frame: bytes, inner: InnerFrame, result: Outbound, now: float
    ) -> None:
        # A tag takes its four bytes from what the tenant's IP packet may have.
        mtu = network.mtu + ETHERNET_HEADER_SIZE - inner.network_offset
        reply = build_too_big(frame, inner, mtu)
        if reply is not None and self._errors.allow(now):
            self.counters["too_big_replies"] += 1
            result.replies.append(reply)

    def _send(
        self,
        network: VirtualNetwork,
        decision: Decision,
        frame: bytes,
        inner: InnerFrame,
        peers: Sequence[str],
        work: _Work,
        now: float,
        flood: bool = False,
    ) -> DropReason | None:
        """Send a frame to each of ``peers``: one, or with ``flood`` all of the VNI."""
        label = self._flow_label(network.vni, inner)
        traffic_class = ecn.outer_traffic_class(inner, self._dscp)
        tags = _tags_of(network, inner)
        reason: DropReason | None = None
        for peer in peers:
            options = self._options(network, label, tags)
            address = network.peers[peer].address
            if decision.action is Action.BYPASS:
                packet = _plain(network.vni, frame, options)
            else:
                key = sealer_key(network.vni, peer, False, decision)
                target = self._applied.targets.get(key)
                if target is None:
                    reason = self._wait(key, network, frame, work, now, peer if flood else None) or reason
                    continue
                try:
                    (packet,) = target.sealer.seal([Item(frame, options, inner)])
                except SequenceExhaustedError:
                    self._note_exhausted(target, now)
                    reason = DropReason.SEQUENCE_EXHAUSTED
                    continue
                self._note_limits(target)
                target.entropy, target.traffic_class, target.tags = label, traffic_class, tags
                self._cover.data_sent(target, now)
            work.result.datagrams.append(Datagram(address, packet, traffic_class, label))
        return reason

    def _send_to_group(
        self,
        network: VirtualNetwork,
        decision: Decision,
        frame: bytes,
        inner: InnerFrame,
        group: Group,
        work: _Work,
        now: float,
    ) -> DropReason | None:
        """Send a frame to an underlay group, once for all its receivers; sealed when the call's frames are in."""
        if self.name not in group.senders:
            return DropReason.UNAUTHORISED_GROUP
        label = self._flow_label(network.vni, inner)
        traffic_class = ecn.outer_traffic_class(inner, self._dscp)
        options = self._options(network, label, _tags_of(network, inner))
        if decision.action is Action.BYPASS:
            packet = _plain(network.vni, frame, options)
            work.result.datagrams.append(Datagram(group.address, packet, traffic_class, label))
            return None
        key = sealer_key(network.vni, group.name, True, decision)
        if key not in self._applied.targets:
            return self._wait(key, network, frame, work, now)
        batch = work.batches.setdefault(key, _Batch())
        batch.items.append(Item(frame, options, inner))
        batch.marks.append((traffic_class, label))
        return None

    def _seal_batch(self, key: Key, batch: _Batch, result: Outbound, now: float) -> None:
        target = self._applied.targets[key]
        try:
            packets = target.sealer.seal(batch.items)
        except SequenceExhaustedError:
            self._note_exhausted(target, now)
            self.drops[DropReason.SEQUENCE_EXHAUSTED] += len(batch.items)
            return
        self._note_limits(target)
        for packet, (traffic_class, label) in zip(packets, batch.marks, strict=True):
            result.datagrams.append(Datagram(target.address, packet, traffic_class, label))

    def _options(self, network: VirtualNetwork, label: int, tags: tuple[int, int]) -> tuple[bytes, ...]:
        """Return the options that a packet carries, whole, in their order on the wire."""
        options = network.static_options
        if network.telemetry:
            self._telemetry_sequence += 1
            options = (build_telemetry(label, self._telemetry_sequence), *options)
        return (*options, build_tag(*tags)) if network.tags else options

    def _note_limits(self, target: Target) -> None:
        for association in target.associations:
            if association.wants_rekey and association.last_sequence >= self._rekey_asked.get(association.spi, 0):
                # The NVA may have had its reasons not to, or never have heard of it: ask again before it is too late.
                pause = max(1, (association.hard_limit - association.soft_limit) // 16)
                self._rekey_asked[association.spi] = association.last_sequence + pause
                self._rekey_wanted.append(association.spi)

    def _note_exhausted(self, target: Target, now: float) -> None:
        """Ask for others in place of associations that can seal nothing more: no packet of theirs asks again."""
        for association in target.associations:
            exhausted = association.last_sequence >= association.hard_limit
            if exhausted and now >= self._exhausted_asked.get(association.spi, -math.inf):
                self._exhausted_asked[association.spi] = now + EXHAUSTED_RETRY
                self._rekey_wanted.append(association.spi)

    def _flow_label(self, vni: int, inner: InnerFrame) -> int:
        # With the VNI: two tenants that use the same addresses must not show by the same label.
        digest = hashlib.blake2s(vni.to_bytes(4, "big") + inner.flow, digest_size=4, key=self._flow_secret).digest()
        return int.from_bytes(digest, "big")

    # What is due ----------------------------------------------------------------------------------------

    def run_due(self, now: float) -> list[Datagram]:
        """Return the dummy packets that are due (SEC-GEN-7); end lifetimes and waits that are over."""
        self.expire(now)
        if self._waiting:
            self._drop_stale(now)
        sent: list[Datagram] = []
        for target, size in self._cover.due(now):
            options = self._options(target.network, target.entropy, target.tags)
            try:
                packet = target.sealer.seal_dummy(size, options)
            except SequenceExhaustedError:
                self._note_exhausted(target, now)
                self.drops[DropReason.SEQUENCE_EXHAUSTED] += 1
                continue
            self._note_limits(target)
            sent.append(Datagram(target.address, packet, target.traffic_class, target.entropy))
        self.counters["dummies_sent"] += len(sent)
        self.counters["datagrams_sent"] += len(sent)
        return sent

    def next_deadline(self) -> float | None:
        """Return when :meth:`run_due` or :meth:`take_demands` is needed next, or None."""
        times = [self._cover.next_due(), self._waiting.next_deadline() if self._on_demand else None]
        if self._next_expiry != math.inf:
            times.append(self._next_expiry)
        return min((time for time in times if time is not None), default=None)

    # From the underlay ----------------------------------------------------------------------------------

    def from_underlay(self, packets: Iterable[Received]) -> list[tuple[int, bytes]]:
        """Open packets from the underlay; return ``(vni, frame)`` for each to deliver to its tenants."""
        delivered: list[tuple[int, bytes]] = []
        for packet in packets:
            self.counters["datagrams_received"] += 1
            result = self._from_underlay(packet)
            if isinstance(result, DropReason):
                self.drops[result] += 1
            elif result is None:
                self.counters["dummies_received"] += 1
            else:
                delivered.append(result)
        self.counters["frames_to_tenants"] += len(delivered)
        return delivered

    def _from_underlay(self, packet: Received) -> tuple[int, bytes] | DropReason | None:
        applied = self._applied
        opened = applied.opener.open(packet.payload, packet.source)
        if isinstance(opened, DropReason):
            return opened
        vni = opened.header.vni
        network = applied.networks.get(vni)
        if network is None:
            return DropReason.UNKNOWN_VNI
        if opened.dummy:
            association = opened.association
            bound = association is not None and association.vni in (None, vni)
            return None if bound else DropReason.POLICY_MISMATCH
        try:
            inner = parse_inner(opened.frame)
        except ParseError:
            return DropReason.MALFORMED_INNER
        decision = applied.policy.decide(Direction.IN, vni, inner, opened.kinds)
        refused = refuse_frame(decision, opened, network, inner)
        if refused is not None:
            return refused
        if opened.kinds:
            self.seen.note(opened)
        frame = ecn.decapsulate(opened.frame, inner, packet.traffic_class)
        return DropReason.ECN if frame is None else (vni, frame)


def _make_opener(usable_ends: Iterable[InboundAssociation], expired: Iterable[InboundAssociation]) -> PacketOpener:
    return PacketOpener(usable_ends, (end.spi for end in expired))


def _tags_of(network: VirtualNetwork, inner: InnerFrame) -> tuple[int, int]:
    """Return the security groups of sender and receiver; 0 for a receiver that is many or unknown."""
    if not network.tags:
        return 0, 0
    return network.tag_of.get(inner.source, 0), network.tag_of.get(inner.destination, 0)


@functools.lru_cache(maxsize=1024)
def _plain_header(vni: int, option_heads: tuple[bytes, ...]) -> bytes:
    # An option's own four bytes say all that the base header needs to know of it.
    parsed = [parse_options(head + bytes((head[3] & 0x1F) * 4))[0] for head in option_heads]
    return make_packet(BaseHeader(vni=vni), parsed, b"").header.build()


def _plain(vni: int, frame: bytes, options: Sequence[bytes]) -> bytes:
    """Return the unprotected packet of RFC 8926."""
    header = _plain_header(vni, tuple([option[:OPTION_HEADER_SIZE] for option in options]))
    return b"".join((header, *options, frame))


@functools.lru_cache(maxsize=4096)
def packed_address(text: str) -> bytes:
    """Return the 4 or 16 bytes of an address; an IPv4-mapped IPv6 address gives its 4 IPv4 bytes."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.packed
    return address.packed

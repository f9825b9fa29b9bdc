"""From the tenants to the underlay: policy, place, keys, and one packet for each frame. Pure.

What was decided for a frame holds for the next ones of its flow (flows.py); those of one call that belong to one flow
are sealed together.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from geneve import ecn
from geneve.control.rules import Action, Direction
from geneve.drops import DropReason
from geneve.errors import ParseError
from geneve.inner import InnerFrame, parse_inner
from geneve.overhead import ETHERNET_HEADER_SIZE
from geneve.policy import Decision
from geneve.security.association import SequenceExhaustedError
from geneve.security.seal import Item
from geneve.tags import build_tag
from geneve.telemetry import build_telemetry
from nve import neighbours
from nve.applied import Applied, OutboundFlow
from nve.cover import CoverTraffic
from nve.datagrams import Datagram, pieces
from nve.flows import flow_key
from nve.plain import plain_packets
from nve.presence import Presence
from nve.probes import PROBE_MAC
from nve.sealers import Key, Target, sealer_key
from nve.segmentation import Frame, Segment, finish_all, segment
from nve.tables import Group, VirtualNetwork
from nve.too_big import ErrorRate, build_too_big
from nve.waiting import Waiting, WaitingFrames, unmapped

ERRORS_PER_SECOND, ERRORS_BURST = 100.0, 50.0
"""How many "too big" messages the tenants of this NVE get at most."""
EXHAUSTED_RETRY = 1.0
"""Seconds between two requests for another association in place of one at its hard limit."""


@dataclass(slots=True)
class Outbound:
    """Result of frames from tenants: datagrams for the underlay, and frames back to the tenants."""

    datagrams: list[Datagram] = field(default_factory=list)
    replies: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _Batch:
    """Packets for a group whose proofs of source are made together."""

    items: list[Item] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Work:
    """What one call has gathered so far."""

    result: Outbound = field(default_factory=Outbound)
    batches: dict[Key, _Batch] = field(default_factory=dict)
    again: Waiting | None = None
    """What the frame at hand was while it waited for keys; None for one that just came."""


class Encapsulator:
    """The ingress NVE's decisions under ``applied``. The arguments are those of :class:`nve.dataplane.Dataplane`.

    With ``batching`` the packets of a flow that have one size leave as one :class:`Datagram`.
    """

    def __init__(
        self,
        name: str,
        flow_secret: bytes,
        dscp: int | None,
        on_demand: bool,
        presence: Presence,
        batching: bool,
        counters: Counter[str],
        drops: Counter[DropReason],
    ) -> None:
        self.name = name
        self.applied = Applied()
        self.waiting = WaitingFrames()
        self.cover = CoverTraffic()
        self._flow_secret = flow_secret
        self._dscp = dscp
        self._on_demand = on_demand
        self._presence = presence
        self._batching = batching
        self._counters = counters
        self._drops = drops
        self._telemetry_sequence = 0
        self._errors = ErrorRate(ERRORS_PER_SECOND, ERRORS_BURST)
        self._rekey_asked: dict[int, int] = {}
        self._rekey_wanted: list[int] = []
        self._exhausted_asked: dict[int, float] = {}

    def forget_associations(self, held: Iterable[int]) -> None:
        """Forget what was asked about associations other than those ``held``, by SPI."""
        spis = frozenset(held)
        self._rekey_asked = {spi: n for spi, n in self._rekey_asked.items() if spi in spis}
        self._exhausted_asked = {spi: t for spi, t in self._exhausted_asked.items() if spi in spis}

    def take_rekey_requests(self) -> list[int]:
        """Return the SPIs of associations beyond their soft limit: the NVA is to replace them."""
        wanted, self._rekey_wanted = self._rekey_wanted, []
        return wanted

    # Frames -----------------------------------------------------------------------------------------------

    def from_tenants(self, vni: int, frames: Sequence[Frame], now: float) -> Outbound:
        """Encapsulate frames that tenants of ``vni`` sent; drops are counted, never raised."""
        work = Work()
        network = self.applied.networks.get(vni)
        if network is None:
            self._counters["frames_from_tenants"] += len(frames)
            self._drops[DropReason.UNKNOWN_VNI] += len(frames)
            return work.result
        burst: list[Segment] = []
        last: OutboundFlow | None = None
        last_key: bytes | None = None
        taken = 0
        for item in finish_all(frames):
            frame = item if isinstance(item, bytes) else item.frame
            key = flow_key(frame)
            if key is None or key != last_key:
                if last is not None and burst:
                    self._send_burst(last, burst, work, now)
                    burst = []
                last = None if key is None else self._known_flow(vni, key)
                last_key = None if last is None else key
            if last is not None:
                cut = (item,) if isinstance(item, bytes) else segment(item, last.inner)
                if cut is not None and len(cut[0]) <= last.largest:
                    taken += len(cut)
                    burst += cut
                    continue
            self._begin_flow(network, item, key, work, now)
        self._counters["frames_from_tenants"] += taken
        if last is not None and burst:
            self._send_burst(last, burst, work, now)
        return self.finish(work, now)

    def _known_flow(self, vni: int, key: bytes) -> OutboundFlow | None:
        """Return what was decided for a flow, if its sender is known by now or need not be."""
        flow = self.applied.outgoing.get((vni, key))
        return flow if flow is not None and (flow.claims is None or flow.claims in self._presence.known) else None

    def finish(self, work: Work, now: float) -> Outbound:
        """Seal what waited for the end of the call, and return everything."""
        for key, batch in work.batches.items():
            self._seal_batch(key, batch, work.result, now)
        self._counters["datagrams_sent"] += sum([datagram.count for datagram in work.result.datagrams])
        return work.result

    def again(self, waiting: Waiting, work: Work, now: float) -> None:
        """Decide anew about a frame that waited, under what is applied now."""
        work.again = waiting
        network = self.applied.networks.get(waiting.vni)
        reason: DropReason | None = DropReason.UNKNOWN_VNI
        if network is not None:
            reason = DropReason.FRAME_TOO_BIG
            if len(waiting.frame) <= network.mtu + ETHERNET_HEADER_SIZE:
                reason = self._forward(network, (waiting.frame,), parse_inner(waiting.frame), None, work, now)
        if reason is not None:
            self._drops[reason] += 1

    def _begin_flow(self, network: VirtualNetwork, item: Frame, key: bytes | None, work: Work, now: float) -> None:
        """Decide about a frame whose flow is not known, or no longer, or that does not look like the rest of it."""
        frame = item if isinstance(item, bytes) else item.frame
        frames: Sequence[Segment] = (frame,)
        reason: DropReason | None = DropReason.MALFORMED_INNER
        with contextlib.suppress(ParseError):
            inner = parse_inner(frame)
            cut = frames if isinstance(item, bytes) else segment(item, inner)
            if cut is not None:
                frames, reason = cut, self._from_tenant(network, cut, inner, key, work, now)
        self._counters["frames_from_tenants"] += len(frames)
        if reason is not None:
            self._drops[reason] += len(frames)

    def _from_tenant(
        self,
        network: VirtualNetwork,
        frames: Sequence[Segment],
        inner: InnerFrame,
        key: bytes | None,
        work: Work,
        now: float,
    ) -> DropReason | None:
        if network.learned:
            if (network.vni, inner.claims) not in self._presence.known:
                self._presence.note(network.vni, inner, now)
            if inner.destination == PROBE_MAC:
                self._counters["probe_answers"] += 1
                return None
        # The kernel lets a tagged frame be four bytes longer; encapsulated it would not fit the underlay.
        if len(frames[0]) > network.mtu + ETHERNET_HEADER_SIZE:
            self._tell_too_big(network, bytes(frames[0]), inner, work.result, now)
            return DropReason.FRAME_TOO_BIG
        if inner.destination[0] & 1:
            reply = neighbours.answer(bytes(frames[0]), inner, network, self.name)
            if reply is not None:
                self._counters["neighbour_replies"] += 1
                work.result.replies.append(reply)
                return None
        return self._forward(network, frames, inner, key, work, now)

    def _forward(
        self,
        network: VirtualNetwork,
        frames: Sequence[Segment],
        inner: InnerFrame,
        key: bytes | None,
        work: Work,
        now: float,
    ) -> DropReason | None:
        """Ask the policy, find who is to have the frames, and send them there."""
        to_many = bool(inner.destination[0] & 1)
        decision = self.applied.policy.decide(Direction.OUT, network.vni, inner, network.kinds)
        if decision.action is Action.DISCARD:
            return DropReason.POLICY_DISCARD
        secured = decision.action is Action.SECURE
        if self._on_demand and network.learned and secured and not network.authorises(self.name, inner):
            # A tenant that has just come, perhaps from behind another NVE: the egress NVE goes by the NVA's mapping and
            # would refuse its frames until that says so (invariant 9). Who claims what is not its own waits in vain.
            return self._wait(unmapped(network.vni), network, frames, work, now)
        location = None if to_many else network.location.get(inner.destination)
        group = network.group_for(inner) if location is None else None
        only = None if work.again is None else work.again.only
        if only is not None:
            # One copy of a flooded frame, which is for that peer, or after a change for nobody: others had theirs.
            if only not in network.peers or location not in (None, only) or group is not None:
                self._counters["copies_not_needed"] += 1
                return None
            return self._send(network, decision, frames, inner, (only,), work, now)
        if location == self.name:
            self._counters["frames_for_local_tenants"] += len(frames)
            return None
        if location is not None:
            return self._send(network, decision, frames, inner, (location,), work, now, key=key)
        if group is not None:
            return self._send_to_group(network, decision, frames, inner, group, work, now)
        if not network.peers:
            return DropReason.UNKNOWN_DESTINATION
        return self._send(network, decision, frames, inner, tuple(network.peers), work, now, flood=True)

    def _wait(
        self,
        key: Key,
        network: VirtualNetwork,
        frames: Iterable[Segment],
        work: Work,
        now: float,
        only: str | None = None,
    ) -> DropReason | None:
        """Have frames wait for the keys of ``key``, or return why they are dropped; never in clear (invariant 6)."""
        if not self._on_demand:
            return DropReason.NO_ASSOCIATION
        reason: DropReason | None = None
        for frame in frames:
            refused = self.waiting.add(key, network.vni, bytes(frame), now, only, work.again)
            if refused is None and work.again is None:
                self._counters["frames_waited"] += 1
            reason = refused or reason
        return reason

    def _tell_too_big(
        self, network: VirtualNetwork, frame: bytes, inner: InnerFrame, result: Outbound, now: float
    ) -> None:
        # A tag takes its four bytes from what the tenant's IP packet may have.
        mtu = network.mtu + ETHERNET_HEADER_SIZE - inner.network_offset
        reply = build_too_big(frame, inner, mtu)
        if reply is not None and self._errors.allow(now):
            self._counters["too_big_replies"] += 1
            result.replies.append(reply)

    # Datagrams --------------------------------------------------------------------------------------------

    def _send(
        self,
        network: VirtualNetwork,
        decision: Decision,
        frames: Sequence[Segment],
        inner: InnerFrame,
        peers: Sequence[str],
        work: Work,
        now: float,
        flood: bool = False,
        key: bytes | None = None,
    ) -> DropReason | None:
        """Send frames to each of ``peers``: one, or with ``flood`` all of the VNI; ``key`` is that of their flow."""
        reason: DropReason | None = None
        for peer in peers:
            target: Target | None = None
            if decision.action is not Action.BYPASS:
                wanted = sealer_key(network.vni, peer, False, decision)
                target = self.applied.targets.get(wanted)
                if target is None:
                    reason = self._wait(wanted, network, frames, work, now, peer if flood else None) or reason
                    continue
            flow = self._make_flow(network, inner, network.peers[peer].address, target)
            if key is not None:
                self.applied.outgoing.put((network.vni, key), flow)
            self._send_burst(flow, frames, work, now)
        return reason

    def _make_flow(
        self, network: VirtualNetwork, inner: InnerFrame, address: str, target: Target | None
    ) -> OutboundFlow:
        tags = _tags_of(network, inner)
        covered = target is not None and target.sealer.terms.dummies is not None
        return OutboundFlow(
            network=network,
            inner=inner,
            target=target,
            address=address,
            entropy=self._flow_label(network.vni, inner) if not covered else self._cover_label(network.vni, address),
            traffic_class=ecn.outer_traffic_class(inner, self._dscp),
            tags=tags,
            options=(*network.static_options, build_tag(*tags)) if network.tags else network.static_options,
            largest=network.mtu + ETHERNET_HEADER_SIZE,
            claims=(network.vni, inner.claims) if network.learned else None,
        )

    def _send_burst(self, flow: OutboundFlow, frames: Sequence[Segment], work: Work, now: float) -> None:
        """Make a packet of each frame, all of one flow, and add them to what is to be sent."""
        options = self._options(flow.network, flow.entropy, flow.options, len(frames))
        target = flow.target
        if target is None:
            packets = plain_packets(flow.network.vni, frames, options)
        else:
            packets = target.sealer.seal_burst(frames, flow.inner, options)
            if len(packets) < len(frames):
                self._note_exhausted(target, now)
                self._drops[DropReason.SEQUENCE_EXHAUSTED] += len(frames) - len(packets)
            self._note_limits(target)
            if packets:
                target.traffic_class, target.tags = flow.traffic_class, flow.tags
                self.cover.data_sent(target, now)
        self._add(work.result, packets, flow.address, flow.traffic_class, flow.entropy)

    def _add(
        self, result: Outbound, packets: Sequence[bytes], address: str, traffic_class: int, entropy: int
    ) -> None:
        if self._batching and len(packets) > 1:
            result.datagrams += [
                Datagram(address, payload, traffic_class, entropy, size) for payload, size in pieces(packets)
            ]
        else:
            result.datagrams += [Datagram(address, packet, traffic_class, entropy) for packet in packets]

    def _options(
        self, network: VirtualNetwork, label: int, fixed: tuple[bytes, ...], count: int
    ) -> Sequence[Sequence[bytes]]:
        """Return for each of ``count`` packets the options that it carries, whole, in their order on the wire."""
        if not network.telemetry:
            return (fixed,) * count
        first = self._telemetry_sequence + 1
        self._telemetry_sequence += count
        return [(build_telemetry(label, number), *fixed) for number in range(first, first + count)]

    def _send_to_group(
        self,
        network: VirtualNetwork,
        decision: Decision,
        frames: Sequence[Segment],
        inner: InnerFrame,
        group: Group,
        work: Work,
        now: float,
    ) -> DropReason | None:
        """Send frames to an underlay group, once for all its receivers; sealed when the call's frames are in."""
        if self.name not in group.senders:
            return DropReason.UNAUTHORISED_GROUP
        flow = self._make_flow(network, inner, group.address, None)
        if decision.action is Action.BYPASS:
            self._send_burst(flow, frames, work, now)
            return None
        key = sealer_key(network.vni, group.name, True, decision)
        if key not in self.applied.targets:
            return self._wait(key, network, frames, work, now)
        batch = work.batches.setdefault(key, _Batch())
        options = self._options(network, flow.entropy, flow.options, len(frames))
        batch.items += [Item(bytes(frame), own, inner) for frame, own in zip(frames, options, strict=True)]
        batch.marks += [(flow.traffic_class, flow.entropy)] * len(frames)
        return None

    def _seal_batch(self, key: Key, batch: _Batch, result: Outbound, now: float) -> None:
        target = self.applied.targets[key]
        try:
            packets = target.sealer.seal(batch.items)
        except SequenceExhaustedError:
            self._note_exhausted(target, now)
            self._drops[DropReason.SEQUENCE_EXHAUSTED] += len(batch.items)
            return
        self._note_limits(target)
        for packet, (traffic_class, label) in zip(packets, batch.marks, strict=True):
            result.datagrams.append(Datagram(target.address, packet, traffic_class, label))

    def dummies(self, now: float) -> list[Datagram]:
        """Return the dummy packets that are due (SEC-GEN-7)."""
        sent: list[Datagram] = []
        for target, size in self.cover.due(now):
            network = target.network
            fixed = (*network.static_options, build_tag(*target.tags)) if network.tags else network.static_options
            label = self._cover_label(network.vni, target.address)
            (options,) = self._options(network, label, fixed, 1)
            try:
                packet = target.sealer.seal_dummy(size, options)
            except SequenceExhaustedError:
                self._note_exhausted(target, now)
                self._drops[DropReason.SEQUENCE_EXHAUSTED] += 1
                continue
            self._note_limits(target)
            sent.append(Datagram(target.address, packet, target.traffic_class, label))
        self._counters["dummies_sent"] += len(sent)
        self._counters["datagrams_sent"] += len(sent)
        return sent

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
        return self._label(vni.to_bytes(4, "big") + inner.flow)

    def _cover_label(self, vni: int, address: str) -> int:
        """Return the label of all packets to one peer under a profile with dummies.

        Data would show by labels of their own: dummies are sent before there is a flow, and belong to none.
        """
        return self._label(b"cover" + vni.to_bytes(4, "big") + address.encode())

    def _label(self, what: bytes) -> int:
        return int.from_bytes(hashlib.blake2s(what, digest_size=4, key=self._flow_secret).digest(), "big")


def _tags_of(network: VirtualNetwork, inner: InnerFrame) -> tuple[int, int]:
    """Return the security groups of sender and receiver; 0 for a receiver that is many or unknown."""
    if not network.tags:
        return 0, 0
    return network.tag_of.get(inner.source, 0), network.tag_of.get(inner.destination, 0)

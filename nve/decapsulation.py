"""From the underlay to the tenants: open, decide again, and only then deliver. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from geneve import ecn
from geneve.control.rules import Direction
from geneve.drops import DropReason
from geneve.errors import ParseError
from geneve.inner import InnerFrame, parse_inner
from geneve.security.open import Burst, Opened
from nve.admission import refuse_frame
from nve.applied import Applied
from nve.datagrams import Received, together
from nve.flows import flow_key
from nve.merging import LEAST_RUN, merge
from nve.seen import SeenOptions
from nve.segmentation import Frame
from nve.tables import VirtualNetwork


class Decapsulator:
    """The egress NVE's decisions under ``applied``; with ``merging`` frames of one flow are delivered in one piece."""

    def __init__(self, counters: Counter[str], drops: Counter[DropReason], merging: bool) -> None:
        self.applied = Applied()
        self.seen = SeenOptions()
        self._counters = counters
        self._drops = drops
        self._merging = merging

    def from_underlay(self, packets: Iterable[Received], now: float) -> list[tuple[int, Frame]]:
        """Open packets that came until ``now``; return ``(vni, frame)`` for each frame to deliver, in order."""
        delivered: list[tuple[int, Frame]] = []
        opener = self.applied.opener
        for packet in together(packets):
            self._counters["datagrams_received"] += packet.count
            size = packet.segment or len(packet.payload)
            for result in opener.open_burst(packet.payload, size, packet.source, now):
                if isinstance(result, DropReason):
                    self._drops[result] += 1
                else:
                    self._deliver(result, packet.traffic_class, delivered)
        return delivered

    def _deliver(self, burst: Burst, traffic_class: int, delivered: list[tuple[int, Frame]]) -> None:
        opened, frames = burst.opened, burst.frames
        if opened.dummy and not opened.packet:
            # A channel's dummy (RFC 4303, section 2.6) has no Geneve packet: it belongs to no virtual network.
            self._counters["dummies_received"] += 1
            return
        network = self.applied.networks.get(opened.header.vni)
        if network is None:
            self._drops[DropReason.UNKNOWN_VNI] += len(frames)
            return
        if opened.dummy:
            association = opened.association
            if association is None or association.vni not in (None, network.vni):
                self._drops[DropReason.POLICY_MISMATCH] += 1
            else:
                self._counters["dummies_received"] += 1
            return
        whole = merge(frames) if self._merging and len(frames) >= LEAST_RUN else [(frame, 1) for frame in frames]
        for frame, count in whole:
            result = self._admit(frame, count, opened, network, traffic_class)
            if isinstance(result, DropReason):
                self._drops[result] += count
            else:
                delivered.append((network.vni, result))
                self._counters["frames_to_tenants"] += count

    def _admit(
        self, item: Frame, count: int, opened: Opened, network: VirtualNetwork, traffic_class: int
    ) -> Frame | DropReason:
        """Return the frame as it is to be delivered, or why it is not. All frames that it stands for are alike."""
        frame = item if isinstance(item, bytes) else item.frame
        flow = flow_key(frame)
        key = None if flow is None else (opened.association, opened.kinds, network.vni, flow)
        inner = None if key is None else self.applied.incoming.get(key)
        if inner is None:
            decided = self._decide(frame, opened, network)
            if isinstance(decided, DropReason):
                return decided
            inner = decided
            if key is not None:
                self.applied.incoming.put(key, inner)
        if opened.kinds:
            self.seen.note(opened, count)
        changed = ecn.decapsulate(frame, inner, traffic_class)
        if changed is None:
            return DropReason.ECN
        if isinstance(item, bytes):
            return changed
        return item if changed is frame else item._replace(frame=changed)

    def _decide(self, frame: bytes, opened: Opened, network: VirtualNetwork) -> InnerFrame | DropReason:
        """Read a frame's headers, and compare them with policy and mappings (design invariants 6, 8 and 9)."""
        try:
            inner = parse_inner(frame)
        except ParseError:
            return DropReason.MALFORMED_INNER
        decision = self.applied.policy.decide(Direction.IN, network.vni, inner, opened.kinds)
        return refuse_frame(decision, opened, network, inner) or inner

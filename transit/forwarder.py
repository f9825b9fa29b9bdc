"""The way of frames through the device: decide, impair, send, export. Sockets and clocks stay outside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from geneve.outer import locate
from geneve.vnet import GSO_UDP, NEEDS_CHECKSUM, PLAIN_BYTES, parse_vnet
from transit.config import Impair
from transit.device import TransitDevice
from transit.exporter import Exporter
from transit.impair import Impairment
from transit.outcome import DROPPING, Decision
from transit.segments import cut

Send = Callable[[bytes], bool | None]
"""Sends one frame out of a port; False or None when it could not be sent."""
SendWhole = Callable[[bytes, bytes], bool | None]
"""As :data:`Send`, a frame with its virtio header; None if the kernel cannot segment it, and others may have to."""
_Context = tuple[Sequence[Decision], bytes]
"""What a delayed frame has with it: what was decided about it, and its virtio header."""


_FORWARDS = attrgetter("forward")


def _datagram_size(vnet: bytes) -> int:
    """Return the bytes of each datagram that the frame with this virtio header stands for; 0 if it is one frame."""
    header = parse_vnet(vnet)
    return header.gso_size if header.gso_type == GSO_UDP else 0


class Forwarder:
    """Joins two ports, given by their ``send`` functions; ``wall_clock_ns`` is the time that records carry.

    A frame leaves on the port it did not come in on, or is dropped by the device's group policy, or is lost to
    the impairment that was asked for. Its record is made when it has left: only packets that went on are part
    of a path. ``send_whole`` sends frames with virtio headers; without it there are none.

    A datagram that stands for many packets leaves in one piece, unless some of them are dropped, or an impairment
    acts on each, or the kernel cannot segment it: then it is cut here, as the kernel would do it.
    """

    def __init__(
        self,
        device: TransitDevice,
        exporter: Exporter | None,
        impair: Impair | None,
        send: tuple[Send, Send],
        wall_clock_ns: Callable[[], int],
        send_whole: tuple[SendWhole, SendWhole] | None = None,
    ) -> None:
        self.device = device
        self.exporter = exporter
        self._send = send
        self._send_whole = send_whole
        self._clock = wall_clock_ns
        self._refused = dict.fromkeys(DROPPING, 0)
        self.cut = 0
        """Datagrams that stood for many packets and were cut here."""
        self._unsegmented = 0
        self._impairments: tuple[Impairment[_Context], ...] = ()
        if impair is not None and not impair.idle:
            self._impairments = tuple(Impairment(impair, f"port {port}") for port in (0, 1))

    def take(self, arrivals: Iterable[tuple[bytes, int, bytes]], ingress: int, now: float) -> None:
        """Take frames with receive time (ns) and virtio header from port ``ingress`` at ``now`` (monotonic seconds)."""
        process, egress = self.device.process_segments, 1 - ingress
        for frame, received_ns, vnet in arrivals:
            size = _datagram_size(vnet) if vnet is not PLAIN_BYTES else 0
            decisions = process(frame, size, ingress, received_ns)
            if len(decisions) > 1:
                self._forward_segments(frame, vnet, size, decisions, egress, now)
            else:
                decision = decisions[0]
                if not decision.forward:
                    self._refused[decision.outcome] += 1
                elif self._impairments:
                    self._impairments[ingress].submit(frame, (decisions, vnet), now)
                elif self._transmit(frame, vnet, decisions, egress, now) is None and size:
                    self._send_cut(frame, vnet, size, decisions, egress, now)
        if self._impairments:
            self.run_due(now)

    def _forward_segments(
        self, frame: bytes, vnet: bytes, size: int, decisions: Sequence[Decision], egress: int, now: float
    ) -> None:
        """Forward a frame that stands for as many packets as there are ``decisions``."""
        whole = all(map(_FORWARDS, decisions))
        if not whole:
            for decision in decisions:
                if not decision.forward:
                    self._refused[decision.outcome] += 1
        if not whole or self._impairments or self._transmit(frame, vnet, decisions, egress, now) is None:
            self._send_cut(frame, vnet, size, decisions, egress, now)

    def _send_cut(
        self, frame: bytes, vnet: bytes, size: int, decisions: Sequence[Decision], egress: int, now: float
    ) -> None:
        """Cut a frame, and send those of its packets that are to be forwarded."""
        location = locate(frame)
        if location is None:
            self._unsegmented += 1  # not Geneve: what is in it is not looked into
            return
        self.cut += 1
        wanted = [index for index, decision in enumerate(decisions) if decision.forward]
        partial = bool(vnet[0] & NEEDS_CHECKSUM)
        for index, packet in zip(wanted, cut(frame, location, size, partial, wanted), strict=True):
            if self._impairments:
                self._impairments[1 - egress].submit(packet, (decisions[index : index + 1], PLAIN_BYTES), now)
            else:
                self._transmit(packet, PLAIN_BYTES, decisions[index : index + 1], egress, now)

    def _transmit(
        self, frame: bytes, vnet: bytes, decisions: Sequence[Decision], egress: int, now: float
    ) -> bool | None:
        """Send a frame and, if that was possible, report what was observed of its packets."""
        exporter = self.exporter
        left_ns = self._clock() if exporter is not None else 0
        if vnet is PLAIN_BYTES or self._send_whole is None:
            sent = self._send[egress](frame)
        else:
            sent = self._send_whole[egress](frame, vnet)
        if sent and exporter is not None:
            for _, observation, _ in decisions:
                if observation is not None:
                    exporter.add(observation.record(self.device.name, left_ns), now)
        return sent

    def run_due(self, now: float) -> None:
        """Send the frames whose delay is over."""
        for ingress, impairment in enumerate(self._impairments):
            for frame, (decisions, vnet) in impairment.due(now):
                self._transmit(frame, vnet, decisions, 1 - ingress, now)

    def next_deadline(self) -> float | None:
        """Return when :meth:`run_due` is needed next, or None."""
        deadlines = [impairment.next_deadline() for impairment in self._impairments]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def drops(self) -> dict[str, int]:
        """Return the frames that did not go on, both directions together.

        Dropped by group policy under their outcome's name, lost to impairment under ``impair_...``; under
        ``segmentation_failed`` frames of other protocols that stand for many and that the kernel cannot segment.
        """
        total = {outcome.value: count for outcome, count in self._refused.items()}
        total |= {"segmentation_failed": self._unsegmented, "impair_loss": 0, "impair_overflow": 0}
        for impairment in self._impairments:
            for name, count in impairment.counters().items():
                total[name] += count
        return total

"""The way of frames through the device: decide, impair, send, export. Sockets and clocks stay outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transit.config import Impair
from transit.device import TransitDevice
from transit.exporter import Exporter
from transit.impair import Impairment
from transit.outcome import DROPPING
from transit.records import Observation

Send = Callable[[bytes], bool]
"""Sends one frame out of a port; False when it could not be sent."""


class Forwarder:
    """Joins two ports, given by their ``send`` functions; ``wall_clock_ns`` is the time that records carry.

    A frame leaves on the port it did not come in on, or is dropped by the device's group policy, or is lost to
    the impairment that was asked for. Its record is made when it has left: only packets that went on are part
    of a path.
    """

    def __init__(
        self,
        device: TransitDevice,
        exporter: Exporter | None,
        impair: Impair | None,
        send: tuple[Send, Send],
        wall_clock_ns: Callable[[], int],
    ) -> None:
        self.device = device
        self.exporter = exporter
        self._send = send
        self._clock = wall_clock_ns
        self._refused = dict.fromkeys(DROPPING, 0)
        self._impairments: tuple[Impairment[Observation | None], ...] = ()
        if impair is not None and not impair.idle:
            self._impairments = tuple(Impairment(impair, f"port {port}") for port in (0, 1))

    def receive(self, frames: Sequence[tuple[bytes, int]], ingress: int, now: float) -> None:
        """Take ``(frame, receive time in ns)`` pairs from port ``ingress`` at ``now`` (monotonic seconds)."""
        process = self.device.process
        if self._impairments:
            impairment = self._impairments[ingress]
            for frame, received_ns in frames:
                outcome, observation, forward = process(frame, ingress, received_ns)
                if forward:
                    impairment.submit(frame, observation, now)
                else:
                    self._refused[outcome] += 1
            self.run_due(now)
            return
        send = self._send[1 - ingress]
        for frame, received_ns in frames:
            outcome, observation, forward = process(frame, ingress, received_ns)
            if not forward:
                self._refused[outcome] += 1
            elif observation is None:
                send(frame)
            else:
                self._send_observed(frame, observation, send, now)

    def run_due(self, now: float) -> None:
        """Send the frames whose delay is over."""
        for ingress, impairment in enumerate(self._impairments):
            send = self._send[1 - ingress]
            for frame, observation in impairment.due(now):
                if observation is None:
                    send(frame)
                else:
                    self._send_observed(frame, observation, send, now)

    def _send_observed(self, frame: bytes, observation: Observation, send: Send, now: float) -> None:
        left_ns = self._clock()
        if send(frame) and self.exporter is not None:
            self.exporter.add(observation.record(self.device.name, left_ns), now)

    def next_deadline(self) -> float | None:
        """Return when :meth:`run_due` is needed next, or None."""
        deadlines = [impairment.next_deadline() for impairment in self._impairments]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def drops(self) -> dict[str, int]:
        """Return the frames that did not go on, both directions together.

        Dropped by group policy under their outcome's name, lost to impairment under ``impair_...``.
        """
        total = {outcome.value: count for outcome, count in self._refused.items()}
        total |= {"impair_loss": 0, "impair_overflow": 0}
        for impairment in self._impairments:
            for name, count in impairment.counters().items():
                total[name] += count
        return total

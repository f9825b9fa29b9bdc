"""What an NVE needs of a mechanism, whichever it is: somebody who seals, and somebody who opens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from geneve.control.profile import Profile
from geneve.drops import DropReason
from geneve.inner import InnerFrame
from geneve.security.association import OutboundEnd
from geneve.security.open import Burst
from geneve.security.seal import Item


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

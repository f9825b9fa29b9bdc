"""What seals for one VNI and one peer with DTLS: Geneve packets without protection, one in each record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from geneve.control.profile import Profile
from geneve.header import MAX_OPTIONS_SIZE
from geneve.inner import InnerFrame
from geneve.security.association import OutboundEnd, SequenceExhaustedError
from geneve.security.seal import Item
from nve.dtls.link import Link
from nve.plain import plain_packets


class DtlsSealer:
    """A :class:`nve.protection.Sealer`. Sessions come and go behind it; without one it seals nothing."""

    def __init__(self, vni: int, link: Link) -> None:
        self.vni = vni
        self._link = link

    @property
    def associations(self) -> tuple[OutboundEnd, ...]:
        """None: DTLS agrees on its own keys."""
        return ()

    @property
    def terms(self) -> Profile:
        """The profile of the channel."""
        return self._link.terms

    def check_room(self, options: Sequence[bytes]) -> None:
        """Raise ValueError when the options exceed 252 bytes; a record has room for any packet."""
        size = sum(map(len, options))
        if size > MAX_OPTIONS_SIZE:
            raise ValueError(f"{size} bytes of options, and a packet has room for {MAX_OPTIONS_SIZE}")

    def seal(self, items: Iterable[Item]) -> list[bytes]:
        """Return one record for each item, in order; SequenceExhaustedError when not all of them can be sealed."""
        packets = [plain_packets(self.vni, [item.frame], [item.options])[0] for item in items]
        sealed = self._link.seal(packets)
        if len(sealed) < len(packets):
            raise SequenceExhaustedError(f"no DTLS session with {self._link.name} takes {len(packets)} packets more")
        return sealed

    def seal_burst(
        self,
        frames: Sequence[bytes | memoryview],
        inner: InnerFrame,  # noqa: ARG002 - DTLS knows no flows
        options: Sequence[Sequence[bytes]],
    ) -> list[bytes]:
        """Return records for ``frames`` of one inner flow, in order; fewer where no more can be sealed."""
        return self._link.seal(plain_packets(self.vni, frames, options)) if frames else []

    def seal_dummy(self, size: int, options: Sequence[bytes] = ()) -> bytes:  # noqa: ARG002
        """Raise ValueError: DTLS has no dummy packets (SEC-GEN-7)."""
        raise ValueError("DTLS has no dummy packets")

"""What seals for one VNI and one peer with DTLS: Geneve packets without protection, one in each record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from geneve.control.profile import Profile
from geneve.header import BASE_HEADER_SIZE, MAX_OPTIONS_SIZE
from geneve.inner import InnerFrame
from geneve.security.association import OutboundEnd, SequenceExhaustedError
from geneve.security.seal import Item
from nve.dtls import records
from nve.dtls.link import Link
from nve.plain import plain_packets


class DtlsSealer:
    """A :class:`nve.protection.Sealer`. Sessions come and go behind it; without one it seals nothing.

    It looks for its link in ``links`` by the peer's name: a peer whose address changes gets another link.
    """

    def __init__(self, vni: int, peer: str, links: Mapping[str, Link]) -> None:
        """KeyError when there is no link to the peer now."""
        self.vni, self.peer = vni, peer
        self._links = links
        self._terms = links[peer].terms

    @property
    def associations(self) -> tuple[OutboundEnd, ...]:
        """None: DTLS agrees on its own keys."""
        return ()

    @property
    def terms(self) -> Profile:
        """The profile of the channel."""
        link = self._links.get(self.peer)
        if link is not None:
            self._terms = link.terms
        return self._terms

    def check_room(self, options: Sequence[bytes]) -> None:
        """Raise ValueError when the options exceed 252 bytes."""
        check_room(options)

    def seal(self, items: Iterable[Item]) -> list[bytes]:
        """Return one record for each item, in order; SequenceExhaustedError when not all of them can be sealed."""
        packets = [plain_packets(self.vni, [item.frame], [item.options])[0] for item in items]
        sealed = self._seal(packets)
        if len(sealed) < len(packets):
            raise SequenceExhaustedError(f"no DTLS session with {self.peer} takes these {len(packets)} packets")
        return sealed

    def seal_burst(
        self,
        frames: Sequence[bytes | memoryview],
        inner: InnerFrame,  # noqa: ARG002 - DTLS knows no flows
        options: Sequence[Sequence[bytes]],
    ) -> list[bytes]:
        """Return records for ``frames`` of one inner flow, in order; fewer where no more can be sealed.

        Packets of more than 2**14 bytes are left out: no record has room for them (RFC 5246, section 6.2.1).
        """
        return self._seal(plain_packets(self.vni, frames, options)) if frames else []

    def seal_dummy(self, size: int, options: Sequence[bytes] = ()) -> bytes:  # noqa: ARG002
        """Raise ValueError: DTLS has no dummy packets (SEC-GEN-7)."""
        raise ValueError("DTLS has no dummy packets")

    def _seal(self, packets: Sequence[bytes]) -> list[bytes]:
        link = self._links.get(self.peer)
        return [] if link is None else link.seal(packets)


def check_room(options: Sequence[bytes], largest_frame: int = 0) -> None:
    """Raise ValueError when the options exceed 252 bytes, or a packet with a frame of ``largest_frame`` 2**14 bytes."""
    size = sum(map(len, options))
    if size > MAX_OPTIONS_SIZE:
        raise ValueError(f"{size} bytes of options, and a packet has room for {MAX_OPTIONS_SIZE}")
    packet = BASE_HEADER_SIZE + size + largest_frame
    if packet > records.MAX_PLAINTEXT:
        raise ValueError(f"packets of {packet} bytes, and a DTLS record has room for {records.MAX_PLAINTEXT}")

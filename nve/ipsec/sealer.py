"""The ingress NVE's side of IPsec: frames to Geneve packets in UDP in ESP or AH. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence

from geneve.control.profile import PaddingMode, Profile
from geneve.header import GENEVE_PORT
from geneve.inner import InnerFrame
from geneve.outer import UDP_SIZE
from geneve.security.association import OutboundEnd
from geneve.security.padding import padded_size
from geneve.security.seal import Item
from nve.ipsec.ah import Addresses, Ah
from nve.ipsec.datagrams import HEADER, Ipv6Checksums, source_port
from nve.ipsec.esp import NEXT_NONE, NEXT_UDP, trailer
from nve.ipsec.sa import OutboundSa
from nve.plain import plain_packets


class IpsecSealer:
    """Seals frames of one VNI to one egress NVE or multicast group under one security association (:class:`Sealer`).

    What it returns is with ESP the IP payload, SPI first, and with AH a whole IP packet from ``source`` to
    ``destination``, which are addresses as text. ``largest`` is the most bytes of a Geneve packet, for padding.
    """

    def __init__(
        self,
        vni: int,
        sa: OutboundSa,
        source: str,
        destination: str,
        largest: int,
        random_below: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self.vni = vni
        self.sa = sa
        self.largest = largest
        addresses = Addresses(source, destination)
        codec = sa.codec
        self._checksums = Ipv6Checksums(source, destination) if addresses.version == 6 else None
        self._pads = sa.terms.padding.mode is not PaddingMode.NONE
        self._random_below = random_below
        self._known_start: tuple[Sequence[bytes], bytes] = (), plain_packets(vni, (b"",), ((),))[0]
        self._trailer: Callable[[int, int], bytes]
        self._seal: Callable[[int, Sequence[bytes]], list[bytes]]
        if isinstance(codec, Ah):
            ah = codec
            self._trailer = _nothing
            self._seal = lambda first, texts: ah.seal_all(first, texts, NEXT_UDP, addresses)
        else:
            self._trailer = trailer
            self._seal = codec.seal_texts

    def __repr__(self) -> str:
        return f"IpsecSealer(vni={self.vni}, {self.sa!r})"

    @property
    def associations(self) -> tuple[OutboundEnd, ...]:
        """The one association that a packet uses up numbers of."""
        return (self.sa,)

    @property
    def terms(self) -> Profile:
        """The profile that packets are sealed under."""
        return self.sa.terms

    def check_room(self, options: Sequence[bytes]) -> None:
        """Raise ValueError when options exceed what Geneve has room for: IPsec adds nothing to them."""
        plain_packets(self.vni, (b"",), (options,))

    def seal(self, items: Iterable[Item]) -> list[bytes]:
        """Return one packet for each item, in order.

        SequenceExhaustedError at the association's hard limit: none is returned then, and no number used up.
        """
        pending = list(items)
        if not pending:
            return []
        made = [
            self._texts((item.frame,), b"" if item.inner is None else item.inner.flow, (item.options,))[0]
            for item in pending
        ]
        return self._seal(self.sa.reserve(len(made)), made)

    def seal_burst(
        self, frames: Sequence[bytes | memoryview], inner: InnerFrame, options: Sequence[Sequence[bytes]]
    ) -> list[bytes]:
        """Return packets for ``frames`` of one inner flow, in order; fewer at the association's hard limit.

        ``options[i]`` are those of frame i, of the same classes, types and lengths for all.
        """
        count = min(len(frames), self.sa.remaining)
        if count < len(frames):
            frames, options = frames[:count], options[:count]
        if not count:
            return []
        texts = self._texts(frames, inner.flow, options)
        return self._seal(self.sa.reserve(count), texts)

    def seal_dummy(self, size: int, options: Sequence[bytes] = ()) -> bytes:
        """Return an ESP packet without a next header as large as one with a frame of ``size`` bytes and ``options``.

        RFC 4303, section 2.6. ValueError for AH, which has no dummies; SequenceExhaustedError at the hard limit.
        """
        if self._trailer is _nothing:
            raise ValueError("AH has no dummy packets")
        head = self._start(options)
        total = min(len(head) + size, max(self.largest, len(head)))
        if self._pads:
            total = padded_size(self.terms.padding, total, max(total, self.largest), self._random_below)
        text = bytes(UDP_SIZE + total) + self._trailer(UDP_SIZE + total, NEXT_NONE)
        return self._seal(self.sa.reserve(1), [text])[0]

    def _texts(
        self, frames: Sequence[bytes | memoryview], flow: bytes, options: Sequence[Sequence[bytes]]
    ) -> list[bytes]:
        """Return for each frame what is sealed: UDP, Geneve, frame, and in ESP TFC padding and trailer."""
        count, port, join = len(frames), source_port(flow), b"".join
        alike = count == 1 or options.count(options[0]) == count
        starts = [self._start(options[0])] if alike else plain_packets(self.vni, (b"",) * count, options)
        if self._checksums is not None:
            return self._checked_texts(frames, port, starts * (count // len(starts)))
        start = starts[0]
        texts: list[bytes] = []
        head = tail = b""
        known = -1
        for index, frame in enumerate(frames):
            size = len(frame)
            if size != known:
                packet = len(start) + size
                head, tail, known = HEADER.pack(port, GENEVE_PORT, UDP_SIZE + packet, 0), self._tail(packet), size
                if alike:
                    head += start
                if self._pads:
                    known = -1  # padding may differ from packet to packet
            texts.append(join((head, frame, tail)) if alike else join((head, starts[index], frame, tail)))
        return texts

    def _start(self, options: Sequence[bytes]) -> bytes:
        """Return Geneve header and options; those of the packets before are often the same."""
        known, start = self._known_start
        if known != options:
            (start,) = plain_packets(self.vni, (b"",), (options,))
            self._known_start = tuple(options), start
        return start

    def _checked_texts(
        self, frames: Sequence[bytes | memoryview], port: int, starts: Sequence[bytes]
    ) -> list[bytes]:
        assert self._checksums is not None
        packets = list(map(b"".join, zip(starts, frames, strict=True)))
        heads = self._checksums.heads(port, packets)
        tails = [self._tail(len(packet)) for packet in packets]
        return list(map(b"".join, zip(heads, packets, tails, strict=True)))

    def _tail(self, size: int) -> bytes:
        """Return what follows a Geneve packet of ``size`` bytes, inside the encryption."""
        if self._pads:
            # A packet larger than it may be is the underlay's to refuse: there is then nothing to pad.
            most = max(size, self.largest)
            padding = padded_size(self.terms.padding, size, most, self._random_below) - size
            return bytes(padding) + self._trailer(UDP_SIZE + size + padding, NEXT_UDP)
        return self._trailer(UDP_SIZE + size, NEXT_UDP)


def _nothing(size: int, next_header: int) -> bytes:  # noqa: ARG001 - as trailer()
    return b""

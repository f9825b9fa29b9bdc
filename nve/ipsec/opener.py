"""The egress NVE's side of IPsec: refuse cheaply, verify, commit, and hand what was carried to Geneve. Pure.

Design invariant 5: no window changes before an ICV has verified. What is refused after it, as a wrong next header, has
used up its number: it is the sender's doing, and not to be replayed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from geneve.control.channel import ChannelProtocol
from geneve.drops import DropReason
from geneve.header import GENEVE_PORT, BaseHeader
from geneve.outer import UDP_SIZE
from geneve.security.limiter import PLAUSIBLE_AHEAD
from geneve.security.open import MIN_ALIKE, Burst, Opened, PacketOpener
from nve.ipsec import ah
from nve.ipsec.datagrams import HEADER
from nve.ipsec.esp import HEAD_SIZE, NEXT_NONE, NEXT_UDP, SPI_SIZE
from nve.ipsec.sa import InboundSa

_NO_HEADER = BaseHeader(vni=0)
"""Stands in for the Geneve header that a dummy does not have."""
_PORT = GENEVE_PORT.to_bytes(2, "big")


class IpsecOpener:
    """An NVE's end of all IPsec associations whose audience it is (:class:`nve.protection.Opener`).

    Takes IP payloads with ESP, SPI first, or whole IP packets with AH, as :class:`nve.ipsec.sealer.IpsecSealer` makes
    them: all associations are of one ``protocol``, which has to be given only where there are none. ``expired`` are
    SPIs past their lifetime. In UDP (RFC 3948) the payload of a datagram is given; IKE's marker is the unknown SPI 0.
    """

    def __init__(
        self, ends: Iterable[InboundSa], expired: Iterable[int] = (), protocol: ChannelProtocol | None = None
    ) -> None:
        held = list(ends)
        protocols = {end.channel.protocol for end in held} | ({protocol} if protocol is not None else set())
        if len(protocols) > 1:
            raise ValueError("one opener is for one protocol, ESP or AH")
        self._whole = ChannelProtocol.AH in protocols
        self._ends = {end.spi.to_bytes(SPI_SIZE, "big"): end for end in held}
        self._expired = frozenset(spi.to_bytes(SPI_SIZE, "big") for spi in expired)
        self._geneve = PacketOpener()

    def open_burst(self, buffer: bytes, size: int, source: bytes, now: float = 0.0) -> list[Burst | DropReason]:
        """Open packets of ``size`` bytes that stand one behind the other, the last perhaps shorter.

        ``source`` is the outer address, 4 or 16 bytes; ``now`` in seconds. A dummy is a burst whose ``opened`` is one,
        without a Geneve packet: ESP says of it neither VNI nor options.
        """
        gathered = _Gathered(self._geneve, source, now)
        if len(buffer) <= size:
            self._open(buffer, source, now, gathered)
            return gathered.finish()
        at, whole = 0, len(buffer) - len(buffer) % size
        if whole >= MIN_ALIKE * size:
            packets = buffer if whole == len(buffer) else memoryview(buffer)[:whole]
            if self._open_alike(packets, size, source, gathered):
                at = whole
        for start in range(at, len(buffer), size):
            self._open(buffer[start : start + size], source, now, gathered)
        return gathered.finish()

    def _find(self, packet: bytes, source: bytes) -> InboundSa | DropReason:
        """Return the association of a packet from the outer address ``source``, if it is its sender's."""
        if self._whole:
            found = ah.find(packet)
            if isinstance(found, DropReason):
                return found
            spi = found.spi
            if found.source != source:
                return DropReason.SOURCE_MISMATCH
        else:
            if len(packet) < HEAD_SIZE:
                return DropReason.MALFORMED
            spi = packet[:SPI_SIZE]
        end = self._ends.get(spi)
        if end is None:
            return DropReason.ASSOCIATION_EXPIRED if spi in self._expired else DropReason.UNKNOWN_SPI
        return end if end.sender_address == source else DropReason.SOURCE_MISMATCH

    def _open(self, packet: bytes, source: bytes, now: float, gathered: _Gathered) -> None:
        end = self._find(packet, source)
        if isinstance(end, DropReason):
            gathered.drop(end)
            return
        text = _verify(end, packet, now)
        if isinstance(text, DropReason):
            gathered.drop(text)
        else:
            _take(end, end.codec.unpack(text), gathered)

    def _open_alike(
        self, packets: bytes | memoryview, size: int, source: bytes, gathered: _Gathered
    ) -> bool:
        """Open packets of ``size`` bytes, if all are of one association and their numbers rise, else do nothing."""
        end = self._find(bytes(packets[:size]), source)
        if isinstance(end, DropReason):
            return False
        codec, window = end.codec, end.window
        columns = codec.read_all(packets, size)
        if columns is None:
            return False
        ahead = end.number(columns.lows[0]) - columns.lows[0]
        numbers = [low + ahead for low in columns.lows] if ahead else list(columns.lows)
        # Then nothing refuses any of them, whichever of those in front verify, and all high bits are those inferred.
        if not window.all_ahead(numbers) or numbers[-1] - window.highest > PLAUSIBLE_AHEAD:
            return False
        texts, refused = codec.open_all(columns, numbers)
        if refused:
            bad = frozenset(refused)
            window.commit_all([number for index, number in enumerate(numbers) if index not in bad])
            for index, text in enumerate(texts):
                if index in bad:
                    gathered.drop(DropReason.AUTHENTICATION_FAILED)
                else:
                    _take(end, codec.unpack(text), gathered)
            return True
        window.commit_all(numbers)
        carried = _all_geneve(codec.unpack_all(texts))
        if carried is not None:
            gathered.add(end, carried)
        else:
            for text in texts:
                _take(end, codec.unpack(text), gathered)
        return True


class _Gathered:
    """Results in order; Geneve packets of one association wait until they can be opened together."""

    def __init__(self, geneve: PacketOpener, source: bytes, now: float) -> None:
        self._geneve, self._source, self._now = geneve, source, now
        self._results: list[Burst | DropReason] = []
        self._packets: list[bytes] = []
        self._end: InboundSa | None = None

    def add(self, end: InboundSa, packets: list[bytes]) -> None:
        if end is not self._end:
            self._flush()
            self._end = end
        self._packets += packets

    def drop(self, reason: DropReason) -> None:
        self._flush()
        self._results.append(reason)

    def dummy(self, end: InboundSa) -> None:
        self._flush()
        opened = Opened(_NO_HEADER, b"", end, frozenset(), b"", (), dummy=True)
        self._results.append(Burst(opened, [b""]))

    def finish(self) -> list[Burst | DropReason]:
        self._flush()
        return self._results

    def _flush(self) -> None:
        if not self._packets:
            return
        for size, packets in _runs(self._packets):
            for result in self._geneve.open_burst(b"".join(packets), size, self._source, self._now):
                if isinstance(result, Burst):
                    result.opened.association = self._end
                self._results.append(result)
        self._packets = []


def _runs(packets: list[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield neighbours of one size, and with them a single shorter one that follows: the end of a tenant's burst."""
    if len(packets) == 1:
        yield len(packets[0]), packets
        return
    last: tuple[int, list[bytes]] | None = None
    for size, run in groupby(packets, len):
        alike = list(run)
        if last is not None and len(alike) == 1 and size < last[0]:
            last[1].append(alike[0])
            yield last
            last = None
            continue
        if last is not None:
            yield last
        last = size, alike
    if last is not None:
        yield last


def _verify(end: InboundSa, packet: bytes, now: float) -> bytes | DropReason:
    """Return what a packet carries, its number used up; or why it is refused."""
    read = end.codec.read(packet)
    if isinstance(read, DropReason):
        return read
    number = end.number(read[0])
    # Nearly all numbers are a little ahead of the highest. Nobody refuses those, and asking costs two calls.
    if not 0 < number - end.window.highest <= PLAUSIBLE_AHEAD:
        refused = end.refuse(number, now)
        if refused is not None:
            return refused
    text = end.codec.open(packet, number)
    if text is None:
        end.limiter.failed(number, now)
        return DropReason.AUTHENTICATION_FAILED
    end.window.commit(number)
    return text


def _take(end: InboundSa, unpacked: tuple[int, bytes] | None, gathered: _Gathered) -> None:
    """Gather what a packet carried, its padding checked already."""
    if unpacked is None:
        gathered.drop(DropReason.MALFORMED)
        return
    next_header, payload = unpacked
    if next_header == NEXT_NONE:
        gathered.dummy(end)
    elif next_header != NEXT_UDP:
        gathered.drop(DropReason.UNSUPPORTED_PROTOCOL)
    else:
        packet = _geneve(payload)
        if isinstance(packet, DropReason):
            gathered.drop(packet)
        else:
            gathered.add(end, [packet])


def _geneve(payload: bytes) -> bytes | DropReason:
    """Return the Geneve packet of a UDP datagram, without the TFC padding that may follow it.

    A UDP checksum is not looked at, which RFC 8926, section 3.3 leaves to the receiver: the ICV says more.
    """
    if len(payload) < UDP_SIZE:
        return DropReason.MALFORMED
    _, port, size, _ = HEADER.unpack_from(payload)
    if port != GENEVE_PORT:
        return DropReason.UNSUPPORTED_PROTOCOL
    if not UDP_SIZE < size <= len(payload):
        return DropReason.MALFORMED
    return payload[UDP_SIZE:size]


def _all_geneve(unpacked: tuple[int, list[bytes]] | None) -> list[bytes] | None:
    """Return the Geneve packets of datagrams of one size; None where any has to be looked at alone."""
    if unpacked is None or unpacked[0] != NEXT_UDP:
        return None
    payloads = unpacked[1]
    size = len(payloads[0])
    if size <= UDP_SIZE:
        return None
    wanted = _PORT + size.to_bytes(2, "big")
    if [payload[2:6] for payload in payloads].count(wanted) != len(payloads):
        return None
    return [payload[UDP_SIZE:] for payload in payloads]

"""ESP packets (RFC 4303): AES-128-GCM (RFC 4106), or no encryption (RFC 2410) with HMAC-SHA-256-128 (RFC 4868).

    SPI 4 B | sequence number 4 B | IV 8 B (GCM) | payload | TFC padding | padding | pad length | next header | ICV 16 B

A *text* is what stands between IV and ICV: what is encrypted where anything is. Payload and next header are anything:
a UDP datagram (transport mode), an IP packet (tunnel mode), or nothing worth reading (a dummy, section 2.6). The IV is
the sequence number in 64 bits, which never repeats under one key (RFC 4106, section 3.1). Pure.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import repeat
from operator import add
from struct import Struct
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from geneve.drops import DropReason
from nve.ipsec.icv import ICV_SIZE, icv, icvs, wrong
from nve.ipsec.keys import SaKeys

SPI_SIZE = 4
HEAD_SIZE = 8
"""Bytes of SPI and sequence number."""
GCM_IV_SIZE = 8
TRAILER_SIZE = 2
"""Bytes of pad length and next header."""
ALIGNMENT = 4
"""A text is a multiple of so many bytes (section 2.4; neither algorithm asks for more)."""

NEXT_IPV4, NEXT_UDP, NEXT_IPV6, NEXT_NONE = 4, 17, 41, 59
"""Next headers: an IPv4 packet, UDP, an IPv6 packet, and no next header, which makes a dummy."""

_PADDING = bytes(range(1, 256))
_LOW = Struct("!I")


class Columns(NamedTuple):
    """Packets of one size under one SPI, read at once: their sequence numbers as on the wire, and the other parts."""

    spi: bytes
    lows: Sequence[int]
    rest: tuple[Any, ...]


@functools.lru_cache(maxsize=1024)
def trailer(size: int, next_header: int) -> bytes:
    """Return what follows ``size`` bytes of payload and TFC padding: padding 1, 2, 3.., its length, next header."""
    pad = -(size + TRAILER_SIZE) % ALIGNMENT
    return _PADDING[:pad] + bytes((pad, next_header))


def make_text(payload: bytes | memoryview, next_header: int, padding: int = 0) -> bytes:
    """Return the text of a packet, with ``padding`` bytes of TFC padding behind its payload (section 2.7)."""
    return b"".join((payload, bytes(padding), trailer(len(payload) + padding, next_header)))


def read_text(text: bytes) -> tuple[int, bytes] | None:
    """Return next header and payload, TFC padding included; None where the padding is not 1, 2, 3.. (section 2.4)."""
    pad, next_header = text[-2], text[-1]
    end = len(text) - TRAILER_SIZE - pad
    if end < 0 or text[end:-TRAILER_SIZE] != _PADDING[:pad]:
        return None
    return next_header, text[:end]


def read_texts(texts: Sequence[bytes]) -> tuple[int, list[bytes]] | None:
    """Do what :func:`read_text` does for texts of one size that end alike; None where it has to be done one by one."""
    first = read_text(texts[0])
    if first is None:
        return None
    next_header, payload = first
    end = len(payload)
    behind = texts[0][end:]
    if not all(map(bytes.endswith, texts, repeat(behind))):
        return None
    return next_header, [text[:end] for text in texts]


class Esp(ABC):
    """Seals and opens under the keys of one security association.

    ``extended``: sequence numbers have 64 bits, of which a packet shows the low 32 (section 2.2.1). Sequence numbers
    in arguments are whole. Nothing here remembers numbers: that they are never used twice is the caller's work.
    """

    iv_size: int
    """Bytes between the sequence number and the text."""

    def __init__(self, spi: int, extended: bool) -> None:
        self.spi = spi.to_bytes(SPI_SIZE, "big")
        self.extended = extended
        self._cuts: dict[int, Struct] = {}

    def size(self, text: int) -> int:
        """Return the size of a packet with a text of ``text`` bytes."""
        return HEAD_SIZE + self.iv_size + text + ICV_SIZE

    def seal(self, number: int, payload: bytes, next_header: int, padding: int = 0) -> bytes:
        """Return one packet: SPI to ICV, with ``padding`` bytes of TFC padding."""
        return self.seal_texts(number, [make_text(payload, next_header, padding)])[0]

    def seal_all(self, first: int, payloads: Sequence[bytes], next_header: int) -> list[bytes]:
        """Return a packet for each payload, numbered from ``first`` on."""
        return self.seal_texts(first, [make_text(payload, next_header) for payload in payloads])

    def read(self, packet: bytes) -> tuple[int, bytes] | DropReason:
        """Return the sequence number as on the wire, and the packet as :meth:`open` wants it."""
        if len(packet) < self.size(ALIGNMENT) or (len(packet) - self.size(0)) % ALIGNMENT:
            return DropReason.MALFORMED
        return int.from_bytes(packet[SPI_SIZE:HEAD_SIZE], "big"), packet

    def read_all(self, packets: bytes | memoryview, size: int) -> Columns | None:
        """Read packets of ``size`` bytes that stand one behind the other; None unless all are this SPI's and sound."""
        text = size - self.size(0)
        if text < ALIGNMENT or text % ALIGNMENT:
            return None
        reader = self._cuts.get(text)
        if reader is None:
            if len(self._cuts) >= 64:
                self._cuts.clear()
            reader = self._cuts[text] = Struct(self._format(text))
        spis, lows, *rest = zip(*reader.iter_unpack(packets), strict=True)
        return Columns(self.spi, lows, tuple(rest)) if spis.count(self.spi) == len(spis) else None

    def unpack(self, text: bytes) -> tuple[int, bytes] | None:
        """Return next header and payload of what :meth:`open` returned; None where its padding is wrong."""
        return read_text(text)

    def unpack_all(self, texts: Sequence[bytes]) -> tuple[int, list[bytes]] | None:
        """Do the same for texts of one size that end alike; None where it has to be done one by one."""
        return read_texts(texts)

    @abstractmethod
    def seal_texts(self, first: int, texts: Sequence[bytes]) -> list[bytes]:
        """Return a packet for each text, numbered from ``first`` on."""

    @abstractmethod
    def open(self, packet: bytes, number: int) -> bytes | None:
        """Return the text of a packet that :meth:`read` found sound; None when its ICV does not verify."""

    @abstractmethod
    def open_all(self, columns: Columns, numbers: Sequence[int]) -> tuple[list[bytes], list[int]]:
        """Return the texts, and the indices of those whose ICV did not verify, which are empty."""

    @abstractmethod
    def _format(self, text: int) -> str: ...


class GcmEsp(Esp):
    """AES-128-GCM. Associated data are SPI and the whole sequence number, 8 or 12 bytes (RFC 4106, section 5)."""

    iv_size = GCM_IV_SIZE

    def __init__(self, spi: int, keys: SaKeys, extended: bool) -> None:
        super().__init__(spi, extended)
        self._aead = AESGCM(keys.encryption)
        self._salt = keys.salt

    def seal_texts(self, first: int, texts: Sequence[bytes]) -> list[bytes]:
        """See :meth:`Esp.seal_texts`; the IV is the whole number."""
        spi, salt = self.spi, self._salt
        numbers = [number.to_bytes(8, "big") for number in range(first, first + len(texts))]
        heads = [b"".join((spi, number[4:], number)) for number in numbers]
        nonces = [salt + number for number in numbers]
        covered = [spi + number for number in numbers] if self.extended else [head[:HEAD_SIZE] for head in heads]
        return list(map(add, heads, map(self._aead.encrypt, nonces, texts, covered)))

    def open(self, packet: bytes, number: int) -> bytes | None:
        """See :meth:`Esp.open`; the IV may be any."""
        start = HEAD_SIZE + GCM_IV_SIZE
        covered = self.spi + number.to_bytes(8, "big") if self.extended else packet[:HEAD_SIZE]
        try:
            return self._aead.decrypt(self._salt + packet[HEAD_SIZE:start], packet[start:], covered)
        except InvalidTag:
            return None

    def open_all(self, columns: Columns, numbers: Sequence[int]) -> tuple[list[bytes], list[int]]:
        """See :meth:`Esp.open_all`."""
        ivs, sealed = columns.rest
        spi, size = self.spi, 8 if self.extended else 4
        covered = [spi + number.to_bytes(size, "big") for number in numbers]
        texts: list[bytes] = []
        refused: list[int] = []
        following = map(self._aead.decrypt, map(self._salt.__add__, ivs), sealed, covered)
        while True:
            try:
                texts.extend(following)  # what it took before an exception stays
                return texts, refused
            except InvalidTag:
                refused.append(len(texts))
                texts.append(b"")

    def _format(self, text: int) -> str:
        return f"!4sI{GCM_IV_SIZE}s{text + ICV_SIZE}s"


class NullEsp(Esp):
    """No encryption, HMAC-SHA-256-128. The high 32 bits of a number follow the text where the ICV is computed.

    They are not sent (section 2.2.1, where integrity is an algorithm of its own).
    """

    iv_size = 0

    def __init__(self, spi: int, keys: SaKeys, extended: bool) -> None:
        super().__init__(spi, extended)
        self._key = keys.integrity

    def seal_texts(self, first: int, texts: Sequence[bytes]) -> list[bytes]:
        """See :meth:`Esp.seal_texts`."""
        spi, join = self.spi, b"".join
        numbers = range(first, first + len(texts))
        heads = [spi + _LOW.pack(number & 0xFFFFFFFF) for number in numbers]
        if self.extended:
            covered = list(map(join, zip(heads, texts, highs(numbers), strict=True)))
        else:
            covered = list(map(add, heads, texts))
        return list(map(join, zip(heads, texts, icvs(self._key, covered), strict=True)))

    def open(self, packet: bytes, number: int) -> bytes | None:
        """See :meth:`Esp.open`."""
        covered = packet[:-ICV_SIZE]
        text = covered[HEAD_SIZE:]
        if self.extended:
            covered += _LOW.pack(number >> 32)
        return None if wrong([icv(self._key, covered)], [packet[-ICV_SIZE:]]) else text

    def open_all(self, columns: Columns, numbers: Sequence[int]) -> tuple[list[bytes], list[int]]:
        """See :meth:`Esp.open_all`."""
        texts, received = columns.rest
        spi, join = self.spi, b"".join
        heads = [spi + _LOW.pack(low) for low in columns.lows]
        parts = zip(heads, texts, highs(numbers), strict=True) if self.extended else zip(heads, texts, strict=True)
        refused = wrong(icvs(self._key, map(join, parts)), received)
        texts = list(texts)
        for index in refused:
            texts[index] = b""
        return texts, refused

    def _format(self, text: int) -> str:
        return f"!4sI{text}s{ICV_SIZE}s"


def highs(numbers: Sequence[int]) -> list[bytes]:
    """Return the high 32 bits of each of rising numbers, 4 bytes."""
    first = numbers[0] >> 32
    if numbers[-1] >> 32 == first:
        return [_LOW.pack(first)] * len(numbers)
    return [_LOW.pack(number >> 32) for number in numbers]

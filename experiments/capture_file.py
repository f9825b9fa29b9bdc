"""Anybody's captures: pcap and pcapng files of any size, gzipped or not, read in bounded memory.

Classic pcap with micro- and nanoseconds and pcapng (draft-ietf-opsawg-pcapng: section headers, interfaces, enhanced,
simple and obsolete packet blocks; others are skipped), in both byte orders. A damaged file gives what stands in front
of the damage, and says where it is.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

Record = tuple[int, float, int, bytes, int]
"""Frame number as Wireshark counts, time in seconds since 1970, link type, bytes captured, bytes on the wire."""

MAX_FRAME = 1 << 20
"""No frame has more bytes; a record that says so is damage."""
MAX_BLOCK = 1 << 21
"""Larger pcapng blocks of kinds that are read are damage; of other kinds they are skipped piece by piece."""
MAX_INTERFACES = 1 << 16
CHUNK = 1 << 20
"""Bytes read at once."""

_CLASSIC = {0xA1B2C3D4: 1e-6, 0xA1B23C4D: 1e-9}
_SECTION = 0x0A0D0D0A
_BYTE_ORDER = 0x1A2B3C4D
_INTERFACE, _OBSOLETE_PACKET, _SIMPLE_PACKET, _ENHANCED_PACKET = 1, 2, 3, 6
_READ_BLOCKS = frozenset({_SECTION, _INTERFACE, _OBSOLETE_PACKET, _SIMPLE_PACKET, _ENHANCED_PACKET})
_NUMBERED_BLOCKS = frozenset({9, 0x204, 0x0BAD, 0x40000BAD})
"""Journal entries, sysdig events and custom blocks, which Wireshark numbers as it does packets."""
_OPTION_TSRESOL, _OPTION_TSOFFSET = 9, 14
_GZIP = b"\x1f\x8b"


@dataclass(slots=True)
class _Interface:
    linktype: int
    snaplen: int
    unit: float = 1e-6
    offset: int = 0


class CaptureError(ValueError):
    """A file is not a capture that can be read; the text says which and why."""


class _DamageError(Exception):
    """The file contradicts itself here; the text is the end of a sentence."""


class _CutError(_DamageError):
    """The file ends too early."""


class CaptureFile:
    """Iterates over the records of a capture once. CaptureError when it is none, or cannot be read at all.

    ``damage`` says what was wrong where reading ended early, ``cut`` that it was only the file's end; ``read`` is how
    many frames there were until then. ``format`` names what the file is. ``nameless`` counts packets of interfaces that
    the file does not describe.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage = ""
        self.cut = False
        self.read = 0
        self.nameless = 0
        self.linktypes: set[int] = set()
        self._buffer, self._at = b"", 0
        try:
            self._file: io.BufferedReader | gzip.GzipFile = path.open("rb")
            zipped = self._file.read(2) == _GZIP
            self._file.seek(0)
            if zipped:
                self._file = gzip.GzipFile(fileobj=self._file)
        except OSError as error:
            raise CaptureError(f"{path}: cannot be read ({error.strerror or error}).") from None
        try:
            self._begin(zipped)
        except CaptureError:
            self.close()
            raise

    def _begin(self, zipped: bool) -> None:
        try:
            start = self._peek(4)
        except _DamageError as error:
            raise CaptureError(f"{self.path}: not a gzip file that can be read ({error}).") from None
        if not start:
            raise CaptureError(f"{self.path}: the file is empty.")
        self._order = "<"
        suffix = " (gzip)" if zipped else ""
        for order in "<>":
            magic = struct.unpack(order + "I", start.ljust(4, b"\0"))[0]
            if magic in _CLASSIC:
                self._order, self._unit = order, _CLASSIC[magic]
                self.format = f"pcap{suffix}"
                return
        if struct.unpack("<I", start.ljust(4, b"\0"))[0] != _SECTION:
            raise CaptureError(f"{self.path}: neither pcap nor pcapng (it starts with {start.hex()}).")
        self.format = f"pcapng{suffix}"

    def __iter__(self) -> Iterator[Record]:
        records = self._classic() if self.format.startswith("pcap ") or self.format == "pcap" else self._blocks()
        try:
            for record in records:
                self.read = record[0]
                yield record
        except _DamageError as error:
            self.damage, self.cut = str(error), isinstance(error, _CutError)

    def _peek(self, size: int) -> bytes:
        """Return the next ``size`` bytes without passing them, fewer at the end of the file."""
        while len(self._buffer) - self._at < size:
            try:
                more = self._file.read1(CHUNK)  # of a cut gzip file, read() would lose what it has unpacked
            except (OSError, EOFError, zlib.error) as error:
                raise _DamageError(f"it cannot be read further: {error}") from None
            if not more:
                break
            self._buffer, self._at = self._buffer[self._at :] + more, 0
        return self._buffer[self._at : self._at + size]

    def _take(self, size: int, what: str) -> bytes:
        data = self._peek(size)
        if len(data) < size:
            raise _CutError(f"it ends within {what}")
        self._at += size
        return data

    def _classic(self) -> Iterator[Record]:
        header = self._take(24, "the file's header")
        # The upper bits say how long an FCS is, which only makes frames longer than IP says.
        linktype = struct.unpack(self._order + "I", header[20:24])[0] & 0xFFFF
        self.linktypes.add(linktype)
        unpack, unit, number = struct.Struct(self._order + "IIII").unpack_from, self._unit, 0
        while True:
            buffer, at = self._buffer, self._at
            if len(buffer) - at < 16:
                rest = self._peek(16)
                if not rest:
                    return
                if len(rest) < 16:
                    raise _CutError(f"it ends within the header of frame {number + 1}")
                buffer, at = self._buffer, self._at
            seconds, fraction, size, wire = unpack(buffer, at)
            if size > MAX_FRAME:
                raise _DamageError(f"frame {number + 1} claims {size} bytes")
            at += 16
            end = at + size
            if end > len(buffer):
                self._at = at
                data = self._take(size, f"frame {number + 1}")
            else:
                data = buffer[at:end]
                self._at = end
            number += 1
            yield number, seconds + fraction * unit, linktype, data, wire

    def _blocks(self) -> Iterator[Record]:
        interfaces: list[_Interface] = []
        number, time = 0, 0.0
        while self._peek(1):
            kind, body = self._block(number)
            if kind == _SECTION:
                interfaces = []
            elif kind == _INTERFACE:
                if len(interfaces) >= MAX_INTERFACES:
                    raise _DamageError(f"it describes more than {MAX_INTERFACES} interfaces")
                interfaces.append(self._interface(body))
            elif kind in _READ_BLOCKS:
                number += 1
                index, ticks, data, wire = self._packet(kind, body, interfaces, number)
                if index >= len(interfaces):
                    self.nameless += 1
                    continue
                interface = interfaces[index]
                if ticks is not None:
                    time = ticks * interface.unit + interface.offset
                self.linktypes.add(interface.linktype)
                yield number, time, interface.linktype, data, wire
            elif kind in _NUMBERED_BLOCKS:
                number += 1

    def _block(self, number: int) -> tuple[int, bytes]:
        """Return the next block's type and body, b"" for a block that is not read. Sets the section's byte order."""
        where = f"a block behind frame {number}"
        head = self._peek(12)
        if len(head) < 12:
            raise _CutError(f"it ends within {where}")
        kind = struct.unpack(self._order + "I", head[:4])[0]
        if kind == _SECTION:
            order = next((o for o in "<>" if struct.unpack(o + "I", head[8:12])[0] == _BYTE_ORDER), None)
            if order is None:
                raise _DamageError("a section has no byte order")
            self._order = order
        size = struct.unpack(self._order + "I", head[4:8])[0]
        if size < 12 or (kind in _READ_BLOCKS and size > MAX_BLOCK):
            raise _DamageError(f"{where} claims {size} bytes")
        size += -size % 4
        if kind not in _READ_BLOCKS:
            while size:
                piece = min(size, CHUNK)
                self._take(piece, where)
                size -= piece
            return kind, b""
        block = self._take(size, where)
        if struct.unpack(self._order + "I", block[-4:])[0] != struct.unpack(self._order + "I", block[4:8])[0]:
            raise _DamageError(f"{where} gives two different lengths")
        return kind, block[8:-4]

    def _interface(self, body: bytes) -> _Interface:
        if len(body) < 8:
            raise _DamageError("an interface's description is too short")
        linktype, _, snaplen = struct.unpack_from(self._order + "HHI", body)
        interface = _Interface(linktype, snaplen)
        at = 8
        while at + 4 <= len(body):
            code, size = struct.unpack_from(self._order + "HH", body, at)
            value = body[at + 4 : at + 4 + size]
            if code == 0 or len(value) < size:
                break
            if code == _OPTION_TSRESOL and size == 1:
                interface.unit = 2.0 ** -(value[0] & 0x7F) if value[0] & 0x80 else 10.0 ** -value[0]
            elif code == _OPTION_TSOFFSET and size == 8:
                interface.offset = struct.unpack(self._order + "q", value)[0]
            at += 4 + size + -size % 4
        return interface

    def _packet(
        self, kind: int, body: bytes, interfaces: list[_Interface], number: int
    ) -> tuple[int, int | None, bytes, int]:
        """Return interface, time in its units (None: not told), bytes captured, bytes on the wire."""
        if len(body) < (4 if kind == _SIMPLE_PACKET else 20):
            raise _DamageError(f"the block of frame {number} is too short")
        if kind == _SIMPLE_PACKET:
            wire = struct.unpack_from(self._order + "I", body)[0]
            limit = interfaces[0].snaplen if interfaces and interfaces[0].snaplen else wire
            size, start, index, ticks = min(wire, limit, len(body) - 4), 4, 0, None
        else:
            form = "IIIII" if kind == _ENHANCED_PACKET else "HHIIII"
            index, *middle, size, wire = struct.unpack_from(self._order + form, body)
            start, ticks = 20, middle[-2] << 32 | middle[-1]
        if start + size > len(body):
            raise _DamageError(f"frame {number} claims {size} bytes, its block has fewer")
        return index, ticks, body[start : start + size], wire

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> CaptureFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

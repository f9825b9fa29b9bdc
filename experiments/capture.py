"""Packet captures: a streaming reader of pcap files, and the Geneve packets in them.

Only the classic pcap format is read (tcpdump -w, Scapy); a file cut short, because its writer was
killed, gives every whole packet before the cut and says that it was cut.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from geneve.errors import ParseError
from geneve.outer import parse_outer
from geneve.packet import Packet, parse_packet

_MAGIC = {0xA1B2C3D4: 1e-6, 0xA1B23C4D: 1e-9}
_LINKTYPE_ETHERNET = 1
_MAX_FRAME = 1 << 20
"""No frame is longer than this many bytes; a record that says so is damage."""


class CaptureError(ValueError):
    """A file is not a capture that can be read; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One captured frame: time in seconds since 1970, its bytes, and its length on the wire in bytes."""

    timestamp: float
    data: bytes
    wire_length: int


class CaptureReader:
    """Iterates over the frames of a pcap file in constant memory.

    ``truncated`` is set once the end has been reached and the last record was not whole.
    CaptureError on a file that is not Ethernet in classic pcap format, or whose records are damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.truncated = False
        self._file = path.open("rb")
        header = self._file.read(24)
        if not header:
            # tcpdump writes the header with the first flush: killed before, it leaves an empty file.
            self.truncated = True
            self._record, self._unit = struct.Struct("<IIII"), 1e-6
            return
        order, unit = self._byte_order(header)
        self._record, self._unit = struct.Struct(order + "IIII"), unit
        linktype = struct.unpack(order + "I", header[20:24])[0] & 0x0FFFFFFF if len(header) == 24 else None
        if linktype != _LINKTYPE_ETHERNET:
            self.close()
            raise CaptureError(f"{path}: link type {linktype}, expected Ethernet (1).")

    def _byte_order(self, header: bytes) -> tuple[str, float]:
        for order in "<>":
            magic = struct.unpack(order + "I", header[:4].ljust(4, b"\0"))[0]
            if magic in _MAGIC:
                return order, _MAGIC[magic]
        self.close()
        raise CaptureError(f"{self.path}: not a pcap file (it starts with {header[:4].hex()}).")

    def __iter__(self) -> Iterator[Frame]:
        while True:
            header = self._file.read(16)
            if len(header) < 16:
                self.truncated = self.truncated or bool(header)
                return
            seconds, fraction, size, wire = self._record.unpack(header)
            if size > _MAX_FRAME:
                raise CaptureError(f"{self.path}: a record of {size} bytes; the file is damaged.")
            data = self._file.read(size)
            if len(data) < size:
                self.truncated = True
                return
            yield Frame(seconds + fraction * self._unit, data, wire)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> CaptureReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class GeneveFrame:
    """A captured frame that carries Geneve. ``wire_length`` is the whole outer frame in bytes, no FCS."""

    timestamp: float
    wire_length: int
    source: str
    destination: str
    packet: Packet


def geneve_frame(frame: Frame) -> GeneveFrame | None:
    """Return the Geneve packet in ``frame``; None when it carries none, or one that does not parse."""
    outer = parse_outer(frame.data)
    if outer is None:
        return None
    try:
        packet = parse_packet(outer.payload(frame.data))
    except ParseError:
        return None
    return GeneveFrame(frame.timestamp, frame.wire_length, outer.source, outer.destination, packet)


def geneve_frames(
    path: Path, *, vni: int | None = None, source: str | None = None, destination: str | None = None
) -> list[GeneveFrame]:
    """Return the Geneve packets of a capture in order: all, or those with VNI and outer addresses given."""
    found = []
    with CaptureReader(path) as reader:
        for frame in reader:
            geneve = geneve_frame(frame)
            if geneve is None:
                continue
            if vni is not None and geneve.packet.header.vni != vni:
                continue
            if source not in (None, geneve.source) or destination not in (None, geneve.destination):
                continue
            found.append(geneve)
    return found

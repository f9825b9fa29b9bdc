"""The testbed's own captures, frame by frame, and the Geneve packets in them.

A file cut short, because its writer was killed, gives every whole packet before the cut and says that it was cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from experiments.capture_file import CaptureError, CaptureFile
from experiments.underlay import LINKTYPE_ETHERNET
from geneve.errors import ParseError
from geneve.outer import parse_outer
from geneve.packet import Packet, parse_packet


@dataclass(frozen=True, slots=True)
class Frame:
    """One captured frame: time in seconds since 1970, its bytes, and its length on the wire in bytes."""

    timestamp: float
    data: bytes
    wire_length: int


class CaptureReader:
    """Iterates over the Ethernet frames of a capture (pcap or pcapng) in constant memory.

    ``truncated`` is set once the end has been reached and the last record was not whole.
    CaptureError on a file that is no capture of Ethernet, or whose records are damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # tcpdump writes the header with the first flush: killed before, it leaves an empty file.
        self.truncated = path.stat().st_size == 0
        self._file = None if self.truncated else CaptureFile(path)

    def __iter__(self) -> Iterator[Frame]:
        file = self._file
        if file is None:
            return
        for _, timestamp, linktype, data, wire_length in file:
            self._expect(linktype)
            yield Frame(timestamp, data, wire_length)
        for linktype in file.linktypes:
            self._expect(linktype)
        self.truncated = file.cut
        if file.damage and not file.cut:
            raise CaptureError(f"{self.path}: the file is damaged: {file.damage}.")

    def _expect(self, linktype: int) -> None:
        if linktype != LINKTYPE_ETHERNET:
            raise CaptureError(f"{self.path}: link type {linktype}, expected Ethernet (1).")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
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

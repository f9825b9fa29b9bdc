"""Cutting what the kernel left whole: a tenant's segmented frame becomes the frames that its wire would have seen.

Segmentation comes before sealing: each packet has its own sequence number and tag, and what a receiver opens is a
frame with right checksums. The headers of all segments are built at once, as columns of a matrix with a row for each.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geneve.inner import ETHERTYPE_IPV4, ETHERTYPE_IPV6, InnerFrame
from geneve.outer import internet_checksum
from geneve.vnet import GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, NEEDS_CHECKSUM, VnetHeader

TCP_FIN, TCP_PSH, TCP_CWR = 0x01, 0x08, 0x80
MAX_SEGMENTS = 4096
"""A frame of 64 KiB in segments of 16 bytes: more would be nobody's honest wish."""

_UDP_HEADER = 8
_UDP_CHECKSUM_AT = 6
_EXPECTED: dict[tuple[int, int | None], int] = {
    (ETHERTYPE_IPV4, 6): GSO_TCPV4, (ETHERTYPE_IPV6, 6): GSO_TCPV6,
    (ETHERTYPE_IPV4, 17): GSO_UDP, (ETHERTYPE_IPV6, 17): GSO_UDP,
}  # fmt: skip
"""Ethertype and protocol -> segmentation type."""
_LEAST_TOGETHER = 16
"""Frames from which it pays to finish them at once."""
_LEAST_NUMPY = 512
"""Bytes from which NumPy sums faster than Python's integers do."""


class OffloadedFrame(NamedTuple):
    """A frame that the kernel left unfinished, or wants to have in one piece: see :class:`VnetHeader`."""

    header: VnetHeader
    frame: bytes


Frame = bytes | OffloadedFrame
"""A frame as it is on a wire, or one that stands for several or lacks a checksum."""
Segment = bytes | memoryview


def segment(offloaded: OffloadedFrame, inner: InnerFrame) -> Sequence[Segment] | None:
    """Return the frames that ``offloaded`` stands for, whole and with right checksums; None when it makes no sense.

    The tenant says where to cut and where to write. Unless that is the transport header that was read, it is refused: a
    frame that is only finished here (see :func:`finish_all`), or one that would become another than was decided about.
    """
    header, frame = offloaded
    start = _payload_at(header, frame)
    if start is None or not header.gso_size or not _agrees(header, inner):
        return None
    count = -(-(len(frame) - start) // header.gso_size)
    return _cut(header, frame, inner.network_offset, start, count) if count <= MAX_SEGMENTS else None


def _agrees(header: VnetHeader, inner: InnerFrame) -> bool:
    """Tell whether a virtio header speaks of the transport header of a frame that was read as ``inner``."""
    expected = _EXPECTED.get((inner.ethertype, inner.protocol))
    return expected == header.gso_type & ~GSO_ECN and header.checksum_start == inner.transport_offset


def finish_checksum(header: VnetHeader, frame: bytes) -> bytes | None:
    """Fill in the checksum that was left to a device; None when its place is outside the frame."""
    if not header.flags & NEEDS_CHECKSUM:
        return frame
    start, at = header.checksum_start, header.checksum_start + header.checksum_offset
    if at + 2 > len(frame):
        return None
    value = _checksum(frame[start:]) or 0xFFFF  # zero would say that there is none (RFC 768)
    return b"".join((frame[:at], value.to_bytes(2, "big"), frame[at + 2 :]))


def finish_all(frames: Sequence[Frame]) -> Sequence[Frame]:
    """Return ``frames`` in order, those that only lack a checksum whole; those that alike follow each other at once.

    That comes before anything is decided about them: the tenant says where the checksum is to be written. What is to be
    cut, and a frame outside which that place is, stays as it is: for :func:`segment`.
    """
    if len(frames) < _LEAST_TOGETHER:
        return [_finish_one(frame) for frame in frames]
    finished: list[Frame] = []
    for alike, group in itertools.groupby(frames, _what_is_left):
        run = list(group)
        if alike is None or len(run) < _LEAST_TOGETHER:
            finished += [_finish_one(frame) for frame in run]
        else:
            finished += _finish_run(*alike, [frame.frame for frame in run if not isinstance(frame, bytes)])
    return finished


def _finish_one(frame: Frame) -> Frame:
    if isinstance(frame, bytes) or frame.header.gso_type != GSO_NONE:
        return frame
    return finish_checksum(frame.header, frame.frame) or frame


def _what_is_left(frame: Frame) -> tuple[VnetHeader, int] | None:
    """Return header and size of a frame that only lacks a checksum, which are alike in those to be finished at once."""
    if isinstance(frame, bytes):
        return None
    header, size = frame.header, len(frame.frame)
    start, at = header.checksum_start, header.checksum_start + header.checksum_offset
    if header.gso_type != GSO_NONE or not header.flags & NEEDS_CHECKSUM or at + 2 > size or start % 2:
        return None
    return header, size


def _finish_run(header: VnetHeader, size: int, frames: Sequence[bytes]) -> list[bytes]:
    """Do what :func:`finish_checksum` does for frames of ``size`` bytes with one header."""
    width = size + size % 2
    parts = frames if width == size else [frame + b"\0" for frame in frames]
    rows = np.frombuffer(bytearray(b"".join(parts)), np.uint8).reshape(len(frames), width)
    values = 0xFFFF - swapped(sum16(rows, header.checksum_start))
    values[values == 0] = 0xFFFF
    put16(rows, header.checksum_start + header.checksum_offset, values)
    whole = rows.tobytes()
    return [whole[at : at + size] for at in range(0, len(whole), width)]


def _checksum(data: bytes) -> int:
    if len(data) < _LEAST_NUMPY:
        return internet_checksum(data)
    if len(data) % 2:
        data += b"\0"
    # The one's complement sum does not depend on the byte order, but for that of the result (RFC 1071).
    total = int(np.add.reduce(np.frombuffer(data, np.uint16), dtype=np.uint32))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - int.from_bytes(total.to_bytes(2, sys.byteorder), "big")


def _payload_at(header: VnetHeader, frame: bytes) -> int | None:
    """Return where the transport payload of a segmented frame starts, or None."""
    start = header.checksum_start
    kind = header.gso_type & ~GSO_ECN
    if not header.flags & NEEDS_CHECKSUM:
        return None
    if kind == GSO_UDP:
        end = start + _UDP_HEADER if header.checksum_offset == _UDP_CHECKSUM_AT else 0
    elif kind in (GSO_TCPV4, GSO_TCPV6) and len(frame) > start + 12 and header.checksum_offset == 16:
        end = start + (frame[start + 12] >> 4) * 4
        if end < start + 20:
            return None
    else:
        return None
    return end if start < end < len(frame) else None


def _cut(header: VnetHeader, frame: bytes, network: int, start: int, count: int) -> Sequence[Segment]:
    """Build ``count`` rows: headers repeated, payload cut; then what differs from row to row."""
    size, transport = header.gso_size, header.checksum_start
    width = start + size
    last = len(frame) - start - (count - 1) * size
    rows = np.empty((count, width + width % 2), np.uint8)
    rows[:, :start] = np.frombuffer(frame, np.uint8, start)
    payload = np.frombuffer(frame, np.uint8, offset=start)
    rows[:-1, start:width] = payload[: (count - 1) * size].reshape(count - 1, size)
    rows[-1, start : start + last] = payload[(count - 1) * size :]
    rows[-1, start + last :] = 0
    if width % 2:
        rows[:, -1] = 0
    lengths = np.full(count, width - network, np.int64)
    lengths[-1] = start + last - network
    _number_network(rows, frame, network, transport, lengths)
    if header.gso_type & ~GSO_ECN == GSO_UDP:
        put16(rows, transport + 4, lengths - (transport - network))
    else:
        _number_tcp(rows, frame, transport, size)
    _fill_checksums(rows, frame, header, lengths - (transport - network))
    flat = memoryview(rows.reshape(-1).data)
    stride = rows.shape[1]
    segments = [flat[at : at + width] for at in range(0, (count - 1) * stride, stride)]
    segments.append(flat[(count - 1) * stride : (count - 1) * stride + start + last])
    return segments


def _number_network(
    rows: NDArray[np.uint8], frame: bytes, network: int, transport: int, lengths: NDArray[np.int64]
) -> None:
    """Set the IP length, and for IPv4 identification and header checksum."""
    if frame[network] >> 4 == 6:
        put16(rows, network + 4, lengths - 40)
        return
    first = int.from_bytes(frame[network + 4 : network + 6], "big")
    numbers = (first + np.arange(len(rows))) & 0xFFFF
    put16(rows, network + 2, lengths)
    put16(rows, network + 4, numbers)
    fixed = frame[network : network + 2] + frame[network + 6 : network + 10] + frame[network + 12 : transport]
    put16(rows, network + 10, 0xFFFF - fold((0xFFFF - internet_checksum(fixed)) + lengths + numbers))


def _number_tcp(rows: NDArray[np.uint8], frame: bytes, transport: int, size: int) -> None:
    """Set sequence numbers, and leave FIN and PSH to the last segment and CWR to the first (RFC 9293, RFC 3168)."""
    first = int.from_bytes(frame[transport + 4 : transport + 8], "big")
    numbers = (first + np.arange(len(rows)) * size) & 0xFFFFFFFF
    put16(rows, transport + 4, numbers >> 16)
    put16(rows, transport + 6, numbers & 0xFFFF)
    flags = rows[:, transport + 13]
    flags[:-1] &= 0xFF ^ (TCP_FIN | TCP_PSH)
    flags[1:] &= 0xFF ^ TCP_CWR


def _fill_checksums(
    rows: NDArray[np.uint8], frame: bytes, header: VnetHeader, lengths: NDArray[np.int64]
) -> None:
    """Complete the transport checksums; ``lengths`` are those of transport header and payload, in bytes."""
    transport, at = header.checksum_start, header.checksum_start + header.checksum_offset
    # The kernel's word is the sum of the pseudo-header with the length of the whole.
    pseudo = int.from_bytes(frame[at : at + 2], "big") + (0xFFFF - fold_one(len(frame) - transport))
    put16(rows, at, fold(pseudo + lengths))
    values = 0xFFFF - swapped(sum16(rows, transport))
    if at - transport == _UDP_CHECKSUM_AT:
        values[values == 0] = 0xFFFF
    put16(rows, at, values)


def sum16(rows: NDArray[np.uint8], start: int) -> NDArray[np.int64]:
    """Return for each row the folded sum of its 16-bit words from byte ``start`` on, in the machine's byte order.

    ``start`` and the row's width are even.
    """
    return fold(np.add.reduce(rows.view(np.uint16)[:, start // 2 :], axis=1, dtype=np.uint32).astype(np.int64))


def fold(totals: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one's complement sums of 16 bits."""
    totals = (totals & 0xFFFF) + (totals >> 16)
    return (totals & 0xFFFF) + (totals >> 16)


def fold_one(total: int) -> int:
    """Return one one's complement sum of 16 bits."""
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def swapped(words: NDArray[np.int64]) -> NDArray[np.int64]:
    """Turn 16-bit words of the machine's byte order into their values on the wire."""
    return (words & 0xFF) << 8 | words >> 8 if sys.byteorder == "little" else words


def put16(rows: NDArray[np.uint8], at: int, values: NDArray[np.int64]) -> None:
    """Write a 16-bit field of each row, in network byte order."""
    rows[:, at] = values >> 8
    rows[:, at + 1] = values & 0xFF

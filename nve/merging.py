"""Putting delivered frames of one flow together again, so that the kernel takes them in one piece.

Only after opening, and only what the kernel would cut into exactly the same frames: TCP segments, or UDP datagrams, of
one flow that follow each other, with right checksums, the same headers otherwise and the same size but for the last.
A frame that is in any way special passes as it is. Receivers see no difference, but for the calls that they save.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geneve.outer import internet_checksum
from geneve.vnet import GSO_TCPV4, GSO_TCPV6, GSO_UDP, NEEDS_CHECKSUM, VnetHeader
from nve.segmentation import Frame, OffloadedFrame, fold_one

MAX_MERGED = 65_535
"""Bytes of a merged IP packet at most: its length field has 16 bits."""
LEAST_RUN = 4
"""Frames of one size that are worth the look: looking at a run costs as much as handing over some."""
MAX_BREAKS = 3
"""How often a run may be broken before the rest of it passes as it is: flows that are interleaved merge badly."""

_TCP, _UDP = 6, 17
_NETWORK = 14
_TCP_ONLY_LAST = 0x09
"""FIN and PSH: segmentation leaves them to the last segment."""
_TCP_NEVER = 0xE6
"""CWR, ECE, URG, RST and SYN: such a segment says something of its own."""


@dataclass(frozen=True, slots=True)
class _Form:
    """Where things stand in the frames of a run. All in bytes from the frame's start."""

    ipv6: bool
    tcp: bool
    transport: int
    payload: int

    @property
    def checksum(self) -> int:
        """Place of the transport checksum."""
        return self.transport + (16 if self.tcp else 6)

    @property
    def differing(self) -> list[int]:
        """The 16-bit words of the headers that differ by right in the frames of a run, each with a rule of its own."""
        network = [9] if self.ipv6 else [8, 9, 12]  # length; identification and checksum
        start = self.transport // 2
        transport = [start + 2, start + 3, start + 6, start + 8] if self.tcp else [start + 2, start + 3]
        return [*network, *transport]


def merge(frames: Sequence[bytes]) -> list[tuple[Frame, int]]:
    """Return ``frames`` in order, runs of them merged, each with the number of frames that it stands for."""
    merged: list[tuple[Frame, int]] = []
    place = breaks = 0
    while place < len(frames):
        end = _alike(frames, place)
        form = _read_form(frames[place]) if end - place >= LEAST_RUN and breaks <= MAX_BREAKS else None
        if form is None:
            merged += [(frame, 1) for frame in frames[place:end]]
        else:
            end = place + _run(frames[place:end], form)
            breaks += 1
            alone = end - place == 1
            merged.append((frames[place] if alone else _join(frames[place:end], form), end - place))
        place = end
    return merged


def _alike(frames: Sequence[bytes], place: int) -> int:
    """Return the end of the frames that have the size of the one at ``place``; the last may be shorter."""
    size, end = len(frames[place]), place + 1
    while end < len(frames) and len(frames[end]) == size:
        end += 1
    return end + 1 if end < len(frames) and len(frames[end]) < size else end


def _read_form(frame: bytes) -> _Form | None:
    """Return the form of a frame that may start a run, or None.

    TCP or UDP right behind Ethernet and IP, without options of IPv4, extension headers, fragmentation and padding,
    with payload and with nothing in it that the kernel would not write the same way.
    """
    kind = frame[12:14]
    if kind == b"\x08\x00" and len(frame) > 42 and frame[14] == 0x45:
        if frame[20] & 0xBF or frame[21] or internet_checksum(frame[14:34]) or frame[24:26] == b"\xff\xff":
            return None
        ipv6, protocol, transport, length = False, frame[23], 34, int.from_bytes(frame[16:18], "big")
    elif kind == b"\x86\xdd" and len(frame) > 62 and frame[14] >> 4 == 6:
        ipv6, protocol, transport, length = True, frame[20], 54, int.from_bytes(frame[18:20], "big") + 40
    else:
        return None
    if protocol == _UDP:
        payload = transport + 8
        fits = int.from_bytes(frame[transport + 4 : transport + 6], "big") == len(frame) - transport
    elif protocol == _TCP and len(frame) > transport + 20:
        payload = transport + (frame[transport + 12] >> 4) * 4
        fits = payload >= transport + 20 and not frame[transport + 13] & _TCP_NEVER
    else:
        return None
    if not fits or length != len(frame) - _NETWORK or payload >= len(frame):
        return None
    return _Form(ipv6, protocol == _TCP, transport, payload)


def _run(frames: Sequence[bytes], form: _Form) -> int:
    """Return how many of ``frames``, from the first on, can be merged.

    They have one size, but for the last, which may be shorter; the first has this form.
    """
    size = len(frames[0])
    frames = frames[: (MAX_MERGED - (form.payload - _NETWORK)) // (size - form.payload)]
    shorter = len(frames[-1]) != size
    if shorter and not _lengths_hold(frames[-1], form):
        frames, shorter = frames[:-1], False
    stride = size + size % 2
    parts = frames if stride == size else [frame.ljust(stride, b"\0") for frame in frames]
    rows = np.frombuffer(b"".join(parts).ljust(stride * len(frames), b"\0"), np.uint8).reshape(len(frames), stride)
    good = _checksums_hold(rows, frames, form)
    good[1:] &= _follow(rows, size - form.payload, shorter, form)
    # The first stands for itself, whatever its checksum: then it is not merged with anything.
    return len(frames) if good.all() else max(1, int(good.argmin()))


def _lengths_hold(frame: bytes, form: _Form) -> bool:
    """Check the lengths of a last, shorter frame: those of all others are those of the first."""
    total = int.from_bytes(frame[18:20], "big") + 40 if form.ipv6 else int.from_bytes(frame[16:18], "big")
    if len(frame) <= form.payload or total != len(frame) - _NETWORK:
        return False
    length = int.from_bytes(frame[form.transport + 4 : form.transport + 6], "big")
    return form.tcp or length == len(frame) - form.transport


def _follow(rows: NDArray[np.uint8], size: int, shorter: bool, form: _Form) -> NDArray[np.bool_]:
    """Return for each row but the first whether it is what the kernel would have sent after the one before.

    ``size`` is that of a payload; the lengths of a ``shorter`` last one have been checked.
    """
    words = rows.view(">u2")[:, : form.payload // 2].astype(np.int64)
    steps = words[1:] - words[:-1]
    start = form.transport // 2
    lengths = [9 if form.ipv6 else 8, *([] if form.tcp else [start + 2])]
    alike = steps[:-1] if shorter else steps
    follows = np.ones(len(steps), np.bool_)
    follows[: len(alike)] = ~alike[:, lengths].any(axis=1)
    if not form.ipv6:
        # The header's sum stays right: what identification and length add, the checksum takes (RFC 1624).
        follows &= (steps[:, 9] & 0xFFFF == 1) & ((steps[:, 8] + steps[:, 9] + steps[:, 12]) % 0xFFFF == 0)
        follows &= words[1:, 12] != 0xFFFF
    if form.tcp:
        numbers = (steps[:, start + 2] << 16) + steps[:, start + 3]
        flags = words[:, start + 6]
        follows &= numbers & 0xFFFFFFFF == size
        follows &= (flags[:-1] & _TCP_ONLY_LAST == 0) & (flags[1:] & ~_TCP_ONLY_LAST == flags[:-1])
    steps[:, form.differing] = 0
    follows &= ~steps.any(axis=1)
    return follows


def _checksums_hold(rows: NDArray[np.uint8], frames: Sequence[bytes], form: _Form) -> NDArray[np.bool_]:
    """Return for each row whether its transport checksum is right, as the kernel would write it.

    A wrong one must reach the receiver wrong. The pseudo-header (addresses, protocol, length) is the first row's: whose
    is another is no follower.
    """
    first, last = frames[0], frames[-1]
    totals = np.add.reduce(rows.view(np.uint16)[:, form.transport // 2 :], axis=1, dtype=np.uint32)
    pseudo = int.from_bytes(_addresses(first, form), "big") + (_TCP if form.tcp else _UDP)
    totals[:-1] += _native((pseudo + len(first) - form.transport) % 0xFFFF)
    totals[-1] += _native((pseudo + len(last) - form.transport) % 0xFFFF)
    holds: NDArray[np.bool_] = totals % 0xFFFF == 0
    # One's complement has two zeros. Which one a sum of zero becomes is laid down (RFC 768, RFC 1071).
    holds &= rows.view(np.uint16)[:, form.checksum // 2] != (0xFFFF if form.tcp else 0)
    return holds


def _addresses(frame: bytes, form: _Form) -> bytes:
    return frame[22:54] if form.ipv6 else frame[26:34]


def _native(word: int) -> int:
    """Turn the value of a 16-bit word on the wire into that of the machine's byte order."""
    return int.from_bytes(word.to_bytes(2, "big"), sys.byteorder)


def _join(frames: Sequence[bytes], form: _Form) -> OffloadedFrame:
    """Make one frame of a run, its checksum left to the kernel as for one that it sends itself."""
    first, last = frames[0], frames[-1]
    payload = b"".join([frame[form.payload :] for frame in frames])
    head = bytearray(first[: form.payload])
    length = form.payload + len(payload) - form.transport
    if form.ipv6:
        head[18:20] = (length + form.transport - 54).to_bytes(2, "big")
    else:
        total = length + form.transport - _NETWORK
        # Incremental update of the header checksum (RFC 1624, equation 3).
        old, before = int.from_bytes(head[24:26], "big"), int.from_bytes(head[16:18], "big")
        head[24:26] = (0xFFFF - fold_one((0xFFFF - old) + (0xFFFF - before) + total)).to_bytes(2, "big")
        head[16:18] = total.to_bytes(2, "big")
    if form.tcp:
        head[form.transport + 13] = last[form.transport + 13]
    else:
        head[form.transport + 4 : form.transport + 6] = length.to_bytes(2, "big")
    pseudo = int.from_bytes(_addresses(first, form), "big") % 0xFFFF + length + (_TCP if form.tcp else _UDP)
    head[form.checksum : form.checksum + 2] = fold_one(pseudo).to_bytes(2, "big")
    kind = (GSO_TCPV6 if form.ipv6 else GSO_TCPV4) if form.tcp else GSO_UDP
    size = len(first) - form.payload
    header = VnetHeader(NEEDS_CHECKSUM, kind, form.payload, size, form.transport, form.checksum - form.transport)
    return OffloadedFrame(header, bytes(head) + payload)

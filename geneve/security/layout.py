"""Where everything stands in received packets, worked out once for packets of one layout.

A packet's base header and the four header bytes of each option say all there is to know of its layout.
A layout is remembered for packets that were authenticated, never for others: what a stranger sends
allocates nothing.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

from geneve.errors import ParseError
from geneve.header import BASE_HEADER_SIZE, BaseHeader
from geneve.option import OPTION_HEADER_SIZE
from geneve.security.aad import AadPlan, Range, covers_option, join_ranges
from geneve.security.association import InboundAssociation
from geneve.security.option import (
    SEQUENCE_SIZE,
    SPI_SIZE,
    TAG_SIZE,
    OptionSpan,
    is_mechanism_option,
    scan_options,
)
from geneve.security.shape import WORD_SIZE

MAX_LAYOUTS = 1024
"""Layouts kept ready; when there are more, all are worked out anew."""

MAX_CUTS = 512
"""Ways to cut packets kept ready: one for each layout, size and inner length."""

_KEY_SIZE = BASE_HEADER_SIZE + OPTION_HEADER_SIZE


@lru_cache(maxsize=MAX_CUTS)
def cut(ranges: tuple[Range, ...], size: int) -> struct.Struct:
    """Return what reads ``ranges``, in order and apart, out of packets of ``size`` bytes."""
    fields, at = [], 0
    for start, end in ranges:
        fields.append(f"{start - at}x{end - start}s")
        at = end
    return struct.Struct("".join(fields) + f"{size - at}x")


class Layout:
    """One layout: the base header, where the options end, and where each stands; ``block`` is one packet's, in bytes.

    ``entries`` and ``own`` are for the user of the layout: what depends on it and on an association, and from
    where to where the SPI stands that says which one.
    """

    __slots__ = ("_heads", "block", "end", "entries", "header", "own", "spans")

    def __init__(self, packet: bytes, header: BaseHeader) -> None:
        """Read the layout of ``packet``, whose base header is ``header``; ParseError as scan_options."""
        self.header = header
        self.end = BASE_HEADER_SIZE + header.opt_len
        self.spans = scan_options(packet, self.end)
        self.block = packet[: self.end]
        # The first option's header is part of the key.
        self._heads = [
            (span.start, span.start + OPTION_HEADER_SIZE, packet[span.start : span.start + OPTION_HEADER_SIZE])
            for span in self.spans[1:]
        ]
        self.entries: dict[bytes, Any] = {}
        self.own: slice | None = None

    def alike(self, packets: memoryview, size: int) -> bool:
        """Return whether all ``packets`` of ``size`` bytes have the layout and the SPI of the first one."""
        if size < self.end:
            return False
        heads = [(0, BASE_HEADER_SIZE), *[(span.start, span.start + OPTION_HEADER_SIZE) for span in self.spans]]
        if self.own is not None:
            heads.append((self.own.start, self.own.stop))
        rows = list(cut(tuple(join_ranges(sorted(heads))), size).iter_unpack(packets))
        return rows.count(rows[0]) == len(rows)

    def fits(self, packet: bytes) -> bool:
        """Return whether ``packet``, found under this layout's key, has this layout."""
        if len(packet) < self.end:
            return False
        for start, end, head in self._heads:  # noqa: SIM110 - a generator costs more than the comparison
            if packet[start:end] != head:
                return False
        return True


class LayoutCache:
    """The layouts of packets that were authenticated lately."""

    def __init__(self) -> None:
        self._layouts: dict[bytes, Layout] = {}

    def find(self, packet: bytes) -> Layout | None:
        """Return the layout of ``packet`` if it is remembered."""
        layout = self._layouts.get(packet[:_KEY_SIZE])
        return layout if layout is not None and layout.fits(packet) else None

    def remember(self, packet: bytes, layout: Layout) -> None:
        """Keep the layout of a packet that was authenticated."""
        if len(self._layouts) >= MAX_LAYOUTS:
            self._layouts.clear()
        self._layouts[packet[:_KEY_SIZE]] = layout


class Place:
    """Where the parts of one audience's security option stand, and what its tag covers."""

    __slots__ = (
        "_columns", "_layout", "covered", "end", "payload", "plain", "plan", "sealed", "sequence", "sequence_end",
        "tag",
    )  # fmt: skip

    def __init__(self, association: InboundAssociation, layout: Layout, own: OptionSpan) -> None:
        """Raise ParseError when the option has no room for what the association puts into it."""
        shape = association.shape
        self.sequence = own.start + OPTION_HEADER_SIZE + SPI_SIZE
        self.sequence_end = self.sequence + SEQUENCE_SIZE
        self.sealed = own.start + shape.head_size
        self.tag, self.end = own.end - TAG_SIZE, own.end
        self.payload = layout.end
        if self.tag < self.sealed:
            raise ParseError("security option shorter than its association says")
        self._layout = layout
        self._columns: Columns | None = None
        self.plan = AadPlan(association.role, shape, layout.spans, own)
        self.covered = tuple(
            span
            for span in layout.spans
            if not is_mechanism_option(span.option_class, span.type) and covers_option(shape.coverage, span, own)
        )
        # The common case: nothing sealed in the option, the inner frame encrypted whole, one key.
        self.plain = (
            self.tag == self.sealed
            and association.encrypts_inner.value == "all"
            and not shape.flow
            and not shape.inner_length
        )

    def columns(self) -> Columns:
        """Return how packets alike are read, worked out when first asked for: never for a stranger's."""
        if self._columns is None:
            self._columns = Columns(self, self._layout)
        return self._columns


class Columns:
    """How many packets of one layout are read at once for one audience: what all have at one place is a column.

    ``ranges`` are the places in front of the payload; ``sequence``, ``tag`` and ``words`` (flow id and inner
    length, where there are any) say which of them are what, and ``covered`` the parts of the associated data:
    constants, and columns by number.
    """

    __slots__ = ("covered", "ranges", "sequence", "tag", "words")

    def __init__(self, place: Place, layout: Layout) -> None:
        sequence, tag = (place.sequence, place.sequence_end), (place.tag, place.end)
        words = [(at, at + WORD_SIZE) for at in range(place.sequence_end, place.sealed, WORD_SIZE)]
        # In packets alike the base header and the own head are constant. What stands between is read as one.
        front = (BASE_HEADER_SIZE, place.sequence)
        first = front[1] - front[0] == OPTION_HEADER_SIZE + SPI_SIZE
        varying = [*([] if first else [front]), sequence, *words, (place.sealed, layout.end)]
        parts = place.plan.parts(layout.block, varying)
        ranges = sorted({sequence, tag, *words, *[part for part in parts if isinstance(part, tuple)]})
        self.ranges = tuple(ranges)
        self.sequence, self.tag = ranges.index(sequence), ranges.index(tag)
        self.words = tuple(ranges.index(word) for word in words)
        self.covered = tuple(part if isinstance(part, bytes) else ranges.index(part) for part in parts)

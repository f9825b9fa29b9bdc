"""Where everything stands in received packets, worked out once for packets of one layout.

A packet's base header and the four header bytes of each option say all there is to know of its layout.
A layout is remembered for packets that were authenticated, never for others: what a stranger sends
allocates nothing.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence
from itertools import pairwise, repeat
from operator import itemgetter
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

MAX_CUTS = 64
"""Sizes of packets, by inner length, that columns are kept ready for; when there are more, all are worked out anew."""

_KEY_SIZE = BASE_HEADER_SIZE + OPTION_HEADER_SIZE


class Layout:
    """One layout: the base header, where the options end, and where each stands.

    ``entries``, ``own`` and ``columns`` are for the user of the layout: what depends on it and on an association,
    from where to where the SPI stands that says which one, and how packets that have none are read at once.
    """

    __slots__ = ("columns", "end", "entries", "header", "heads", "own", "spans")

    def __init__(self, packet: bytes, header: BaseHeader) -> None:
        """Read the layout of ``packet``, whose base header is ``header``; ParseError as scan_options."""
        self.header = header
        self.end = BASE_HEADER_SIZE + header.opt_len
        self.spans = scan_options(packet, self.end)
        # The first option's header is part of the key.
        self.heads = [
            (span.start, span.start + OPTION_HEADER_SIZE, packet[span.start : span.start + OPTION_HEADER_SIZE])
            for span in self.spans[1:]
        ]
        self.entries: dict[bytes, Any] = {}
        self.own: slice | None = None
        self.columns: Columns | None = None

    def fits(self, packet: bytes) -> bool:
        """Return whether ``packet``, found under this layout's key, has this layout."""
        if len(packet) < self.end:
            return False
        for start, end, head in self.heads:  # noqa: SIM110 - a generator costs more than the comparison
            if packet[start:end] != head:
                return False
        return True


class LayoutCache:
    """The layouts of packets that were authenticated lately, and of the last packet that nothing protects."""

    def __init__(self) -> None:
        self._layouts: dict[bytes, Layout] = {}
        self._unprotected: tuple[bytes, Layout | None] = (b"", None)

    def find(self, packet: bytes) -> Layout | None:
        """Return the layout of ``packet`` if it is remembered."""
        key = packet[:_KEY_SIZE]
        layout = self._layouts.get(key)
        if layout is None and key == self._unprotected[0]:
            layout = self._unprotected[1]
        if layout is None:
            return None
        # With one option the key has said it all.
        fits = layout.fits(packet) if layout.heads else len(packet) >= layout.end
        return layout if fits else None

    def remember(self, packet: bytes, layout: Layout) -> None:
        """Keep the layout of a packet that was authenticated."""
        if len(self._layouts) >= MAX_LAYOUTS:
            self._layouts.clear()
        self._layouts[packet[:_KEY_SIZE]] = layout

    def note_unprotected(self, packet: bytes, layout: Layout) -> None:
        """Keep the layout of a packet that nothing protects, which anybody may have sent: one at most."""
        self._unprotected = packet[:_KEY_SIZE], layout


class Place:
    """Where the parts of one audience's security option stand, and what its tag covers.

    ``number``, ``proof`` and ``behind`` are the slices with sequence number, tag and payload.
    """

    __slots__ = (
        "_columns", "_layout", "behind", "covered", "end", "number", "payload", "plain", "plan", "proof", "sealed",
        "sequence", "sequence_end", "tag",
    )  # fmt: skip

    def __init__(self, association: InboundAssociation, layout: Layout, own: OptionSpan) -> None:
        """Raise ParseError when the option has no room for what the association puts into it."""
        shape = association.shape
        self.sequence = own.start + OPTION_HEADER_SIZE + SPI_SIZE
        self.sequence_end = self.sequence + SEQUENCE_SIZE
        self.sealed = own.start + shape.head_size
        self.tag, self.end = own.end - TAG_SIZE, own.end
        self.payload = layout.end
        self.number, self.proof = slice(self.sequence, self.sequence_end), slice(self.tag, self.end)
        self.behind = slice(self.payload, None)
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

    def columns(self, packet: bytes) -> Columns:
        """Return how packets like ``packet`` are read; worked out when first asked for, never for a stranger's."""
        if self._columns is None:
            self._columns = Columns(self._layout, self, packet)
        return self._columns


class Columns:
    """How many packets of one layout and association are read at once: what all have at one place is a column.

    ``sequence``, ``tag`` and ``words`` (flow id and inner length, where there are any) say which columns are
    those; ``covered`` picks those of the associated data, constants included. Without a ``place`` there are no
    such, only the payload.
    """

    __slots__ = ("_constants", "_cuts", "_end", "_heads", "_ranges", "covered", "sequence", "tag", "words")

    def __init__(self, layout: Layout, place: Place | None = None, packet: bytes = b"") -> None:
        """``packet`` is any of the layout and the association."""
        heads = [(0, BASE_HEADER_SIZE), *[(span.start, span.start + OPTION_HEADER_SIZE) for span in layout.spans]]
        if layout.own is not None:
            heads.append((layout.own.start, layout.own.stop))
        heads = join_ranges(sorted(heads))
        fields: list[Range] = []
        parts: list[bytes | Range] = []
        if place is not None:
            fields = [(place.sequence, place.sequence_end), (place.tag, place.end)]
            fields += [(at, at + WORD_SIZE) for at in range(place.sequence_end, place.sealed, WORD_SIZE)]
            # The heads are compared, so what is alike has them in common: everything else may vary.
            parts = place.plan.parts(packet, _between(heads, fields, layout.end))
        ranges = sorted({*heads, *fields, *[part for part in parts if isinstance(part, tuple)]})
        self._end = layout.end
        self._ranges = ranges
        self._heads = tuple(ranges.index(head) for head in heads)
        self._cuts: dict[tuple[int, int], struct.Struct] = {}
        self.sequence, self.tag, *words = [ranges.index(field) for field in fields] or (0, 0)
        self.words = words
        self._constants = [repeat(part) for part in parts if isinstance(part, bytes)]
        behind = itertools.count(len(ranges))
        covered = [next(behind) if isinstance(part, bytes) else ranges.index(part) for part in parts]
        self.covered: Callable[[Sequence[Any]], tuple[Any, ...]] = itemgetter(*covered) if covered else tuple

    def read(self, packets: bytes | memoryview, size: int, length: int = 0) -> list[Any] | None:
        """Return the columns of ``packets`` of ``size`` bytes; None unless layout and SPI are alike.

        The payload is the last column, or with a ``length`` two: that many bytes of it, and the others.
        """
        reader = self._cuts.get((size, length))
        if reader is None:
            if self._end + length > size:
                return None
            if len(self._cuts) >= MAX_CUTS:
                self._cuts.clear()
            reader = self._cuts[size, length] = self._cut(size, length)
        columns: list[Any] = list(zip(*reader.iter_unpack(packets)))  # noqa: B905 - as long as they are many
        for index in self._heads:
            head = columns[index]
            if head.count(head[0]) != len(head):
                return None
        columns[len(self._ranges) : len(self._ranges)] = self._constants
        return columns

    def _cut(self, size: int, length: int) -> struct.Struct:
        payload = [(self._end, self._end + length), (self._end + length, size)] if length else [(self._end, size)]
        return cut((*self._ranges, *payload), size)


def cut(ranges: Sequence[Range], size: int) -> struct.Struct:
    """Return what reads ``ranges``, in order and apart, out of packets of ``size`` bytes."""
    fields, at = [], 0
    for start, end in ranges:
        fields.append(f"{start - at}x{end - start}s")
        at = end
    return struct.Struct("".join(fields) + f"{size - at}x")


def _between(heads: Sequence[Range], fields: Sequence[Range], end: int) -> list[Range]:
    """Return what lies between ``heads``, up to ``end``, with each of ``fields`` a range of its own."""
    borders = sorted({end, *[border for part in (*heads, *fields) for border in part]})
    constant = set(heads)
    return [part for part in pairwise(borders) if part not in constant]

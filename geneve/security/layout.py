"""Where everything stands in received packets, worked out once for packets of one layout.

A packet's base header and the four header bytes of each option say all there is to know of its layout.
A layout is remembered for packets that were authenticated, never for others: what a stranger sends
allocates nothing.
"""

from __future__ import annotations

from typing import Any

from geneve.errors import ParseError
from geneve.header import BASE_HEADER_SIZE, BaseHeader
from geneve.option import OPTION_HEADER_SIZE
from geneve.security.aad import AadPlan, covers_option
from geneve.security.association import InboundAssociation
from geneve.security.option import (
    SEQUENCE_SIZE,
    SPI_SIZE,
    TAG_SIZE,
    OptionSpan,
    is_mechanism_option,
    scan_options,
)

MAX_LAYOUTS = 1024
"""Layouts kept ready; when there are more, all are worked out anew."""

_KEY_SIZE = BASE_HEADER_SIZE + OPTION_HEADER_SIZE


class Layout:
    """One layout: the base header, where the options end, and where each stands.

    ``entries`` and ``own`` are for the user of the layout: what depends on it and on an association, and from
    where to where the SPI stands that says which one.
    """

    __slots__ = ("_heads", "end", "entries", "header", "own", "spans")

    def __init__(self, packet: bytes, header: BaseHeader) -> None:
        """Read the layout of ``packet``, whose base header is ``header``; ParseError as scan_options."""
        self.header = header
        self.end = BASE_HEADER_SIZE + header.opt_len
        self.spans = scan_options(packet, self.end)
        # The first option's header is part of the key.
        self._heads = [
            (span.start, span.start + OPTION_HEADER_SIZE, packet[span.start : span.start + OPTION_HEADER_SIZE])
            for span in self.spans[1:]
        ]
        self.entries: dict[bytes, Any] = {}
        self.own: slice | None = None

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

    __slots__ = ("covered", "end", "payload", "plain", "plan", "sealed", "sequence", "sequence_end", "tag")

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

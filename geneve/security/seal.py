"""The ingress NVE's side: build packets with a security option for each audience.

Layout first, tags after (invariant 1): the options of a packet are laid out whole, then the transit
devices' tags are computed, then the egress NVE's, which covers the others, tags included.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from geneve.control.state import AssociationRole
from geneve.header import BASE_HEADER_SIZE, MAX_OPTIONS_SIZE, BaseHeader
from geneve.option import OPTION_HEADER_SIZE, parse_options
from geneve.security.aad import AadPlan
from geneve.security.association import OutboundAssociation
from geneve.security.option import (
    SECURITY_OPTION_SIZE,
    SEQUENCE_SIZE,
    TAG_SIZE,
    SecuritySpan,
    is_security_option,
    scan_options,
)

_SEQUENCE_OFFSET = SECURITY_OPTION_SIZE - TAG_SIZE - SEQUENCE_SIZE
_TAG_OFFSET = SECURITY_OPTION_SIZE - TAG_SIZE


@dataclass(frozen=True, slots=True)
class _Layout:
    """Everything about a packet that depends on its option layout only."""

    template: bytes
    transit: tuple[tuple[OutboundAssociation, int, AadPlan], ...]
    egress_start: int
    egress_plan: AadPlan


class PacketSealer:
    """Seals frames of one VNI to one egress NVE, past the transit devices on the way to it.

    ``transit`` are the associations for the transit devices that are to authenticate this packet.
    """

    def __init__(self, vni: int, egress: OutboundAssociation, transit: Sequence[OutboundAssociation] = ()) -> None:
        if egress.role is not AssociationRole.EGRESS or any(t.role is not AssociationRole.TRANSIT for t in transit):
            raise ValueError("an association was given for the wrong role")
        self.vni = vni
        self.egress = egress
        self.transit = tuple(transit)
        self._layouts: dict[tuple[bytes, ...], _Layout] = {}

    def check_room(self, clear_size: int) -> None:
        """Raise ValueError when the security options leave less than ``clear_size`` bytes for clear ones."""
        size = clear_size + (len(self.transit) + 1) * SECURITY_OPTION_SIZE
        if size > MAX_OPTIONS_SIZE:
            raise ValueError(
                f"{len(self.transit)} transit devices on the path need {size} bytes of options, and a packet "
                f"has room for {MAX_OPTIONS_SIZE}"
            )

    def seal(self, items: Iterable[tuple[bytes, Sequence[bytes]]]) -> list[bytes]:
        """Return one Geneve packet for each ``(inner frame, clear options)``, in order.

        Each clear option is one whole option in bytes; they stand in front of the security options.
        SequenceExhaustedError at an association's hard limit (nothing is returned then, and the
        numbers given out stay used). ValueError when the options exceed 252 bytes.
        """
        return [self._seal_one(frame, options) for frame, options in items]

    def _seal_one(self, frame: bytes, options: Sequence[bytes]) -> bytes:
        layout = self._layout(options)
        head = bytearray(layout.template)
        if options:
            clear_options = b"".join(options)
            head[BASE_HEADER_SIZE : BASE_HEADER_SIZE + len(clear_options)] = clear_options
        for association, start, plan in layout.transit:
            _seal_option(association, head, start, plan, b"", b"")
        egress = self.egress
        plaintext, clear = (frame, b"") if egress.encrypts_inner else (b"", frame)
        if not egress.covers_inner:
            clear = b""
        ciphertext = _seal_option(egress, head, layout.egress_start, layout.egress_plan, plaintext, clear)
        return bytes(head) + (ciphertext if egress.encrypts_inner else frame)

    def _layout(self, options: Sequence[bytes]) -> _Layout:
        # An option's own header says its class, type and length: all that the layout depends on.
        key = tuple([option[:OPTION_HEADER_SIZE] for option in options])
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._layouts[key] = self._lay_out(options)
        return layout

    def _lay_out(self, options: Sequence[bytes]) -> _Layout:
        for raw in options:
            (option,) = parse_options(raw)
            if is_security_option(option.option_class, option.type):
                raise ValueError("a security option cannot be given as a clear option")
        heads = [association.option_head for association in (*self.transit, self.egress)]
        block = b"".join(options) + b"".join(head + bytes(SEQUENCE_SIZE + TAG_SIZE) for head in heads)
        # The egress NVE's option is critical, so the base header's C bit is always set.
        template = BaseHeader(vni=self.vni, opt_len=len(block), critical=True).build() + block
        spans = scan_options(template, len(template))
        own = [span for span in spans if isinstance(span, SecuritySpan)]
        transit = tuple(
            (association, span.start, AadPlan(AssociationRole.TRANSIT, association.coverage, spans, span))
            for association, span in zip(self.transit, own, strict=False)
        )
        plan = AadPlan(AssociationRole.EGRESS, self.egress.coverage, spans, own[-1])
        return _Layout(template, transit, own[-1].start, plan)


def _seal_option(
    association: OutboundAssociation,
    head: bytearray,
    start: int,
    plan: AadPlan,
    plaintext: bytes,
    clear: bytes,
) -> bytes:
    """Number and tag the security option at ``start`` of ``head``, in place; return the ciphertext."""
    sequence = association.next_sequence()
    # The number goes into the packet first: the associated data is read from the packet's own bytes.
    head[start + _SEQUENCE_OFFSET : start + _TAG_OFFSET] = sequence
    sealed = association.encrypt(sequence, plaintext, plan.build(head, clear))
    head[start + _TAG_OFFSET : start + SECURITY_OPTION_SIZE] = sealed[-TAG_SIZE:]
    return sealed[:-TAG_SIZE]

"""A transit device's end of the mechanism: authenticate the options addressed to it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from geneve.control.state import AssociationRole
from geneve.drops import DropReason
from geneve.errors import ParseError
from geneve.header import BASE_HEADER_SIZE, FIELD_MASKS, BaseHeader, HeaderField, parse_base_header
from geneve.option import OPTION_HEADER_SIZE, Option
from geneve.security.association import InboundAssociation
from geneve.security.layout import Layout, LayoutCache, Place
from geneve.security.open import read_options
from geneve.security.option import GROUP_TYPE, SECURITY_CLASS, TRANSIT_TYPE, OptionSpan, SecuritySpan
from geneve.security.unseal import read_sealed, unseal

_OWN_HEADS = frozenset(SECURITY_CLASS.to_bytes(2, "big") + bytes([kind]) for kind in (TRANSIT_TYPE, GROUP_TYPE))
_VNI = FIELD_MASKS[HeaderField.VNI]


class Verified(NamedTuple):
    """What a transit device may act on: what its tags cover, what was hidden for it, and who sent it.

    ``header`` is the base header with the hidden fields that the device is told; ``vni`` the true VNI as far
    as the device can know it. ``associations`` are those that verified, in wire order, all of one sender.
    """

    associations: tuple[InboundAssociation, ...]
    vni: int
    header: BaseHeader
    options: tuple[Option, ...]

    @property
    def sender(self) -> str:
        """Name of the ingress NVE."""
        return self.associations[0].sender


class TransitVerifier:
    """Holds a transit device's associations, by SPI. Its keys open and forge nothing for anyone else."""

    def __init__(self, associations: Iterable[InboundAssociation] = ()) -> None:
        self._held: dict[bytes, InboundAssociation] = {}
        self._layouts = LayoutCache()
        for association in associations:
            if association.role not in (AssociationRole.TRANSIT, AssociationRole.GROUP):
                raise ValueError("an association was given for the wrong role")
            self._held[association.spi.to_bytes(4, "big")] = association

    def verify(self, packet: bytes, source: bytes) -> Verified | DropReason | None:
        """Look for this device's security options in a Geneve packet from outer address ``source``.

        None when nothing is addressed to the device, which includes every packet it cannot parse:
        such packets are none of its business (invariant 7). A DropReason says why an option addressed
        to it cannot be trusted. No replay window moves unless every option addressed to it verifies.
        """
        if not self._is_addressed(packet):
            return None
        layout = self._layouts.find(packet)
        known = layout is not None
        if layout is None:
            try:
                layout = Layout(packet, parse_base_header(packet))
            except ParseError:
                return None
        found: list[tuple[InboundAssociation, int, Place, bytes]] = []
        for span in layout.spans:
            if not isinstance(span, SecuritySpan):
                continue
            start = span.start + OPTION_HEADER_SIZE
            spi = packet[start : start + 4]
            association = self._held.get(spi)
            if association is None or association.option_type != span.type:
                continue
            opened = _open(association, layout, span, spi, packet, source)
            if isinstance(opened, DropReason):
                return opened
            found.append(opened)
        if not found:
            return None
        for association, number, _, _ in found:
            association.window.commit(number)
        if not known:
            self._layouts.remember(packet, layout)
        return _collect(found, layout, packet)

    def _is_addressed(self, packet: bytes) -> bool:
        """Return whether an option stands under an SPI that the device holds, at the least cost."""
        if len(packet) < BASE_HEADER_SIZE or packet[0] >> 6:
            return False  # what another version's fields mean is unknown here
        held, size = self._held, len(packet)
        offset, end = BASE_HEADER_SIZE, BASE_HEADER_SIZE + ((packet[0] & 0x3F) << 2)
        if end > size:
            return False
        while offset + OPTION_HEADER_SIZE <= end:
            if packet[offset : offset + 3] in _OWN_HEADS and packet[offset + 4 : offset + 8] in held:
                return True
            offset += OPTION_HEADER_SIZE + ((packet[offset + 3] & 0x1F) << 2)
        return False


def _open(
    association: InboundAssociation, layout: Layout, span: SecuritySpan, spi: bytes, packet: bytes, source: bytes
) -> tuple[InboundAssociation, int, Place, bytes] | DropReason:
    """Verify one option: association, sequence number, place and sealed part, or why it cannot be trusted."""
    if association.sender_address != source:
        return DropReason.SOURCE_MISMATCH
    place: Place | None = layout.entries.get(spi)
    number = int.from_bytes(packet[span.start + 8 : span.start + 16], "big")
    refused = association.window.check(number)
    if refused is not None:
        return refused
    if place is None:
        try:
            place = Place(association, layout, span)
        except ParseError:
            return DropReason.AUTHENTICATION_FAILED
    unsealed = unseal(association, place, packet)
    if unsealed is None:
        return DropReason.AUTHENTICATION_FAILED
    layout.entries[spi] = place
    return association, number, place, unsealed[0]


def _collect(
    found: list[tuple[InboundAssociation, int, Place, bytes]], layout: Layout, packet: bytes
) -> Verified | DropReason:
    """Put together what the options addressed to the device say, all of which have verified."""
    if len({association.sender for association, *_ in found}) > 1:
        return DropReason.POLICY_MISMATCH
    header = layout.header
    spans: list[OptionSpan] = []
    revealed: list[Option] = []
    seen_vni = not found[0][0].hidden_mask & _VNI
    for association, _, place, sealed in found:
        try:
            header, hidden, _ = read_sealed(association.shape, sealed, header)
        except ParseError:
            return DropReason.AUTHENTICATION_FAILED
        seen_vni = seen_vni or bool(association.shape.reveal_mask & _VNI)
        revealed += hidden
        spans += [span for span in place.covered if span not in spans]
    bound = {association.vni for association, *_ in found if association.vni is not None}
    if seen_vni:
        bound.add(header.vni)
    if len(bound) > 1:
        return DropReason.POLICY_MISMATCH
    vni = bound.pop() if bound else header.vni
    spans.sort(key=lambda span: span.start)
    options = (*read_options(packet, spans), *revealed)
    return Verified(tuple(association for association, *_ in found), vni, header, options)

"""A transit device's end of the mechanism: authenticate the options addressed to it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from geneve.control.state import AssociationRole
from geneve.drops import DropReason
from geneve.errors import ParseError
from geneve.header import BASE_HEADER_SIZE, BaseHeader, parse_base_header
from geneve.option import OPTION_HEADER_SIZE, Option
from geneve.security.aad import covers_option
from geneve.security.association import InboundAssociation
from geneve.security.open import verify
from geneve.security.option import SecuritySpan, scan_options


@dataclass(frozen=True, slots=True)
class Verified:
    """What a transit device may act on: the options that its tag covers, and who sent them."""

    association: InboundAssociation
    header: BaseHeader
    sequence: int
    options: tuple[Option, ...]


class TransitVerifier:
    """Holds a transit device's associations, by SPI. Its keys open and forge nothing for anyone else."""

    def __init__(self, associations: Iterable[InboundAssociation] = ()) -> None:
        self.associations = {}
        for association in associations:
            if association.role is not AssociationRole.TRANSIT:
                raise ValueError("an association was given for the wrong role")
            self.associations[association.spi] = association

    def verify(self, packet: bytes, source: bytes) -> Verified | DropReason | None:
        """Look for this device's security option in a Geneve packet from outer address ``source``.

        None when nothing is addressed to the device, which includes every packet it cannot parse:
        such packets are forwarded untouched (invariant 7). A DropReason says why the option cannot
        be trusted; the packet is not the device's to drop for that.
        """
        try:
            header = parse_base_header(packet)
            end = BASE_HEADER_SIZE + header.opt_len
            spans = scan_options(packet, end)
        except ParseError:
            return None
        for own in spans:
            if isinstance(own, SecuritySpan) and own.spi in self.associations:
                break
        else:
            return None
        association = self.associations[own.spi]
        if association.sender_address != source:
            return DropReason.SOURCE_MISMATCH
        refused = association.window.check(own.sequence)
        if refused is not None:
            return refused
        if verify(association, packet, spans, own, end) is None:
            return DropReason.AUTHENTICATION_FAILED
        association.window.commit(own.sequence)
        if association.vni != header.vni:
            return DropReason.POLICY_MISMATCH
        covered = tuple(
            Option(span.option_class, span.type, packet[span.start + OPTION_HEADER_SIZE : span.end])
            for span in spans
            if covers_option(association.role, association.coverage, span)
        )
        return Verified(association, header, own.sequence, covered)

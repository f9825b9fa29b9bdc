"""The audience's side: find the own security option, refuse cheaply, verify, and only then commit.

The order is that of design invariant 5: what costs nothing comes first, the tag next, and no window,
counter or byte of a tenant changes before the tag has verified.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag

from geneve.control.state import AssociationRole
from geneve.drops import DropReason
from geneve.errors import ParseError
from geneve.header import BASE_HEADER_SIZE, ETHERTYPE_TEB, BaseHeader, parse_base_header
from geneve.security.aad import AadPlan
from geneve.security.association import InboundAssociation
from geneve.security.option import (
    EGRESS_TYPE,
    SECURITY_OPTION_SIZE,
    SEQUENCE_SIZE,
    TAG_SIZE,
    OptionSpan,
    SecuritySpan,
    scan_options,
)

_SEQUENCE_OFFSET = SECURITY_OPTION_SIZE - TAG_SIZE - SEQUENCE_SIZE


@dataclass(frozen=True, slots=True)
class Opened:
    """A packet an NVE may look into: ``association`` is None when nothing protected it."""

    header: BaseHeader
    frame: bytes
    association: InboundAssociation | None


class PacketOpener:
    """An NVE's end of all associations whose audience it is, by SPI."""

    def __init__(self, associations: Iterable[InboundAssociation] = ()) -> None:
        self.associations = {}
        for association in associations:
            if association.role is not AssociationRole.EGRESS:
                raise ValueError("an association was given for the wrong role")
            self.associations[association.spi] = association

    def open(self, packet: bytes, source: bytes) -> Opened | DropReason:
        """Open one Geneve packet that came from the outer address ``source`` (4 or 16 bytes).

        Returns the opened packet, or why it is refused. A packet without protection for an
        endpoint is returned with ``association=None``: whether that is acceptable is the policy's
        decision, which the caller makes from the result.
        """
        try:
            header = parse_base_header(packet)
            if header.version != 0:
                return DropReason.UNSUPPORTED_VERSION
            end = BASE_HEADER_SIZE + header.opt_len
            spans = scan_options(packet, end)
        except ParseError:
            return DropReason.MALFORMED
        if header.oam:
            return DropReason.OAM
        if header.protocol_type != ETHERTYPE_TEB:
            return DropReason.UNSUPPORTED_PROTOCOL
        own: SecuritySpan | None = None
        for span in spans:
            if span.type == EGRESS_TYPE and isinstance(span, SecuritySpan):
                if own is not None:
                    # One audience, one option: with two, which of them decides would be anyone's guess.
                    return DropReason.MALFORMED
                own = span
            elif span.type & 0x80:
                return DropReason.UNKNOWN_CRITICAL_OPTION
        if own is None:
            return Opened(header, packet[end:], None)
        association = self.associations.get(own.spi)
        if association is None:
            return DropReason.UNKNOWN_SPI
        if association.sender_address != source:
            return DropReason.SOURCE_MISMATCH
        refused = association.window.check(own.sequence)
        if refused is not None:
            return refused
        frame = verify(association, packet, spans, own, end)
        if frame is None:
            return DropReason.AUTHENTICATION_FAILED
        association.window.commit(own.sequence)
        return Opened(header, frame, association)


def verify(
    association: InboundAssociation, packet: bytes, spans: Sequence[OptionSpan], own: SecuritySpan, end: int
) -> bytes | None:
    """Verify the tag of the security option ``own``; return the inner frame in clear, or None.

    Changes nothing. ``end`` is where the options end. For an association that does not encrypt the
    inner frame, the frame is returned as it stands in the packet.
    """
    if own.end - own.start != SECURITY_OPTION_SIZE:
        return None
    plan = AadPlan(association.role, association.coverage, spans, own)
    tag = packet[own.end - TAG_SIZE : own.end]
    sequence = packet[own.start + _SEQUENCE_OFFSET : own.end - TAG_SIZE]
    payload = packet[end:]
    try:
        if association.encrypts_inner:
            return association.decrypt(sequence, payload + tag, plan.build(packet, b""))
        association.decrypt(sequence, tag, plan.build(packet, payload if association.covers_inner else b""))
        return payload
    except InvalidTag:
        return None

"""The egress NVE's side: find the own security option, refuse cheaply, verify, and only then commit.

The order is that of design invariant 5: what costs nothing comes first, with it the limiter of failed tags, the tag
next, a signature after it, and no window, counter or byte of a tenant changes before all of them have verified.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from geneve.control.state import AssociationRole
from geneve.drops import DropReason
from geneve.errors import ParseError
from geneve.header import ETHERTYPE_HIDDEN, ETHERTYPE_TEB, BaseHeader, parse_base_header
from geneve.option import OPTION_HEADER_SIZE, Option
from geneve.security import padding
from geneve.security.association import Authenticated, InboundAssociation
from geneve.security.layout import Columns, Layout, LayoutCache, Place
from geneve.security.limiter import PLAUSIBLE_AHEAD
from geneve.security.option import (
    EGRESS_TYPE,
    GROUP_TYPE,
    SECURITY_CLASS,
    SIGNATURE_TYPE,
    SPI_SIZE,
    OptionSpan,
    SecuritySpan,
    is_mechanism_option,
)
from geneve.security.signature import source_digest
from geneve.security.unseal import cover, read_sealed, unseal, unseal_all

MIN_ALIKE = 4
"""From how many packets on it pays to open them at once."""

Kinds = frozenset[tuple[int, int]]
"""Options by class and type."""


@dataclass(slots=True)
class Opened:
    """A packet an NVE may look into: ``association`` is None when nothing protected it.

    ``header`` has the true values of hidden fields. ``kinds`` are the options that may be acted upon: those
    that are authenticated or were hidden, and in an unprotected packet all. A ``dummy`` has no frame.
    """

    header: BaseHeader
    frame: bytes
    association: Authenticated | None
    kinds: Kinds
    packet: bytes
    spans: tuple[OptionSpan, ...]
    revealed: tuple[Option, ...] = ()
    dummy: bool = False

    def options(self) -> tuple[Option, ...]:
        """Return the options that may be acted upon."""
        return (*read_options(self.packet, self.spans), *self.revealed)


@dataclass(slots=True)
class Burst:
    """Consecutive packets that say the same: one association, base header and kinds, no hidden options, no dummy.

    ``frames`` are theirs, in order; ``opened`` is the last packet.
    """

    opened: Opened
    frames: list[bytes]


def read_options(packet: bytes, spans: Iterable[OptionSpan]) -> tuple[Option, ...]:
    """Return the options that stand at ``spans``."""
    return tuple(
        Option(
            span.option_class,
            span.type,
            packet[span.start + OPTION_HEADER_SIZE : span.end],
            packet[span.start + OPTION_HEADER_SIZE - 1] >> 5,
        )
        for span in spans
    )


class _Entry:
    """What opening packets of one layout under one association needs."""

    __slots__ = ("association", "group", "group_places", "kinds", "place", "signature", "simple")

    def __init__(
        self,
        association: InboundAssociation,
        place: Place,
        group: SecuritySpan | None,
        signature: OptionSpan | None,
    ) -> None:
        self.association = association
        self.place = place
        self.group = group
        self.group_places: dict[bytes, Place] = {}
        self.signature = signature
        self.kinds: Kinds = frozenset((span.option_class, span.type) for span in place.covered)
        self.simple = (
            place.tag == place.sealed
            and association.source is None
            and not association.needs_group
            and not association.shape.padded
            and not association.hidden_mask
        )


class _Own(NamedTuple):
    """The mechanism's options of a packet for an NVE."""

    egress: SecuritySpan | None
    groups: tuple[SecuritySpan, ...]
    signatures: tuple[OptionSpan, ...]


class PacketOpener:
    """An NVE's end of all associations whose audience it is or belongs to."""

    def __init__(self, associations: Iterable[InboundAssociation] = (), expired: Iterable[int] = ()) -> None:
        """``expired`` are SPIs past their lifetime: nothing opens under them, and drops say why."""
        self._expired = frozenset(spi.to_bytes(SPI_SIZE, "big") for spi in expired)
        self._to_nve: dict[bytes, InboundAssociation] = {}
        self._groups: dict[bytes, InboundAssociation] = {}
        self._layouts = LayoutCache()
        for association in associations:
            if association.role is AssociationRole.TRANSIT:
                raise ValueError("an association was given for the wrong role")
            by_spi = self._groups if association.role is AssociationRole.GROUP else self._to_nve
            by_spi[association.spi.to_bytes(4, "big")] = association

    @property
    def associations(self) -> dict[int, InboundAssociation]:
        """All associations held, by SPI."""
        return {end.spi: end for end in (*self._to_nve.values(), *self._groups.values())}

    def open(self, packet: bytes, source: bytes, now: float = 0.0) -> Opened | DropReason:
        """Open one Geneve packet that came from the outer address ``source`` (4 or 16 bytes) at ``now``, in seconds.

        Returns the opened packet, or why it is refused. A packet without protection for an
        endpoint is returned with ``association=None``: whether that is acceptable is the policy's
        decision, which the caller makes from the result.
        """
        layout = self._layouts.find(packet)
        known = layout is not None
        if layout is None:
            found = _read_layout(packet)
            if isinstance(found, DropReason):
                return found
            layout = found
        own = layout.own
        if own is None:
            if not known:
                self._layouts.note_unprotected(packet, layout)
            return _unprotected(layout, packet)
        entry = layout.entries.get(packet[own])
        if entry is None:
            made = self._make_entry(layout, packet)
            if isinstance(made, DropReason):
                return made
            entry, known = made, False
        association, place = entry.association, entry.place
        if association.sender_address != source:
            return DropReason.SOURCE_MISMATCH
        number = int.from_bytes(packet[place.number], "big")
        # Nearly all numbers are a little ahead of the highest. Nobody refuses those, and asking costs two calls.
        if not 0 < number - association.window.highest <= PLAUSIBLE_AHEAD:
            refused = association.refuse(number, now)
            if refused is not None:
                return refused
        unsealed = unseal(association, place, packet)
        if unsealed is None:
            association.limiter.failed(number, now)
            return DropReason.AUTHENTICATION_FAILED
        if entry.simple:
            association.window.commit(number)
            opened = Opened(layout.header, unsealed[1], association, entry.kinds, packet, place.covered)
        else:
            complete = self._complete(layout, entry, packet, number, now, *unsealed)
            if isinstance(complete, DropReason):
                return complete
            opened = complete
        if not known:
            layout.entries[packet[own]] = entry
            self._layouts.remember(packet, layout)
        return opened

    def open_burst(self, buffer: bytes, size: int, source: bytes, now: float = 0.0) -> list[Burst | DropReason]:
        """Open packets of ``size`` bytes that stand one behind the other, the last perhaps shorter.

        That is how the kernel hands over several datagrams (UDP_GRO). Decides as :meth:`open` packet by packet.
        """
        results: list[Burst | DropReason] = []
        if len(buffer) <= size:
            _add(results, self.open(buffer, source, now))
            return results
        at, whole = 0, len(buffer) - len(buffer) % size
        # The first packet may be the one that makes the others known, or come late: then once more without it.
        for _ in range(2):
            if whole - at < MIN_ALIKE * size:
                break
            packets = buffer if whole - at == len(buffer) else memoryview(buffer)[at:whole]
            if self._open_alike(buffer[at : at + size], packets, source, results):
                at = whole
                break
            _add(results, self.open(buffer[at : at + size], source, now))
            at += size
        for start in range(at, len(buffer), size):
            _add(results, self.open(buffer[start : start + size], source, now))
        return results

    def _open_alike(
        self, first: bytes, packets: bytes | memoryview, source: bytes, results: list[Burst | DropReason]
    ) -> bool:
        """Open packets as large as the ``first``, if they are of one known layout and association, else do nothing."""
        layout, size = self._layouts.find(first), len(first)
        if layout is None:
            return False
        if layout.own is None:
            if layout.columns is None:
                layout.columns = Columns(layout)
            columns = layout.columns.read(packets, size)
            if columns is not None:
                _add_burst(results, _unprotected(layout, bytes(packets[-size:])), list(columns[-1]))
            return columns is not None
        entry = layout.entries.get(first[layout.own])
        if entry is None or not entry.simple or entry.association.sender_address != source:
            return False
        association, place = entry.association, entry.place
        unsealed = unseal_all(association, place, first, packets)
        if unsealed is None:
            return False
        sequences, frames, refused = unsealed
        if refused:
            sequences = [number for index, number in enumerate(sequences) if index not in refused]
        association.window.commit_all(sequences)
        at = 0
        for index in (*refused, len(frames)):
            if at < index:
                packet = bytes(packets[(index - 1) * size : index * size])
                opened = Opened(layout.header, frames[index - 1], association, entry.kinds, packet, place.covered)
                _add_burst(results, opened, frames[at:index] if refused else frames)
            if index < len(frames):
                results.append(DropReason.AUTHENTICATION_FAILED)
            at = index + 1
        return True

    def _make_entry(self, layout: Layout, packet: bytes) -> _Entry | DropReason:
        own = _find_own(layout)
        assert own.egress is not None
        start = own.egress.start + OPTION_HEADER_SIZE
        association = self._to_nve.get(packet[start : start + 4])
        if association is None:
            return self._not_held(packet[start : start + 4])
        if association.source is None and own.signatures:
            return DropReason.MALFORMED
        if association.source is not None and len(own.signatures) != 1:
            return DropReason.SOURCE_UNPROVEN
        try:
            place = Place(association, layout, own.egress)
        except ParseError:
            return DropReason.AUTHENTICATION_FAILED
        group = own.groups[0] if association.needs_group and own.groups else None
        return _Entry(association, place, group, own.signatures[0] if own.signatures else None)

    def _not_held(self, spi: bytes) -> DropReason:
        return DropReason.ASSOCIATION_EXPIRED if spi in self._expired else DropReason.UNKNOWN_SPI

    def _complete(
        self, layout: Layout, entry: _Entry, packet: bytes, number: int, now: float, sealed: bytes, payload: bytes
    ) -> Opened | DropReason:
        """Do all that follows the tag of the egress NVE's option, and commit if it all holds."""
        association = entry.association
        commits = [(association, number)]
        if entry.signature is not None and not _proves_source(entry, packet):
            return DropReason.SOURCE_UNPROVEN
        revealed: tuple[Option, ...] = ()
        if association.needs_group:
            group = self._open_group(layout, entry, packet, now)
            if isinstance(group, DropReason):
                return group
            member, group_number, revealed, group_payload = group
            commits.append((member, group_number))
            if association.encrypts_inner.value == "none":
                payload = group_payload
        try:
            header, hidden, filler = read_sealed(association.shape, sealed, layout.header)
        except ParseError:
            header, hidden, filler = layout.header, (), -1
        for end, end_number in commits:
            # Everything verified: whatever is still wrong is the sender's doing, and is not to be replayed.
            end.window.commit(end_number)
        if filler < 0:
            return DropReason.MALFORMED
        refused = _refuse_header(header, layout.header.opt_len - filler, association.hidden_mask)
        revealed += hidden
        if refused is None and any(option.critical for option in revealed):
            refused = DropReason.UNKNOWN_CRITICAL_OPTION
        if refused is not None:
            return refused
        dummy = False
        if association.shape.padded:
            frame = padding.unwrap(payload)
            if frame is None:
                return DropReason.MALFORMED_INNER
            payload, dummy = frame, not frame
        kinds = entry.kinds | {(option.option_class, option.type) for option in revealed}
        return Opened(header, payload, association, kinds, packet, entry.place.covered, revealed, dummy)

    def _open_group(
        self, layout: Layout, entry: _Entry, packet: bytes, now: float
    ) -> tuple[InboundAssociation, int, tuple[Option, ...], bytes] | DropReason:
        """Open the option that this NVE shares with transit devices: member, number, hidden options, payload."""
        span = entry.group
        if span is None:
            return DropReason.POLICY_MISMATCH
        start = span.start + OPTION_HEADER_SIZE
        spi = packet[start : start + 4]
        member = self._groups.get(spi)
        if member is None:
            return self._not_held(spi)
        association = entry.association
        if (member.sender, member.profile) != (association.sender, association.profile):
            return DropReason.POLICY_MISMATCH
        number = int.from_bytes(packet[start + 4 : start + 12], "big")
        refused = member.refuse(number, now)
        if refused is not None:
            return refused
        try:
            place = entry.group_places.get(spi) or Place(member, layout, span)
            unsealed = unseal(member, place, packet)
            if unsealed is None:
                member.limiter.failed(number, now)
                return DropReason.AUTHENTICATION_FAILED
            entry.group_places[spi] = place
            _, hidden, _ = read_sealed(member.shape, unsealed[0], layout.header)
        except ParseError:
            return DropReason.AUTHENTICATION_FAILED
        return member, number, hidden, unsealed[1]


def _add(results: list[Burst | DropReason], result: Opened | DropReason) -> None:
    """Add one packet's result, to the burst in front where it says the same."""
    if isinstance(result, DropReason):
        results.append(result)
    else:
        _add_burst(results, result, [result.frame])


def _add_burst(results: list[Burst | DropReason], opened: Opened, frames: list[bytes]) -> None:
    last = results[-1] if results else None
    if isinstance(last, Burst) and _says_the_same(last.opened, opened):
        last.frames += frames
        last.opened = opened
    else:
        results.append(Burst(opened, frames))


def _says_the_same(one: Opened, other: Opened) -> bool:
    return (
        one.association is other.association
        and (one.header is other.header or one.header == other.header)
        and one.kinds == other.kinds
        and not (one.revealed or other.revealed or one.dummy or other.dummy)
    )


def _read_layout(packet: bytes) -> Layout | DropReason:
    """Check what every packet must fulfil before anything of it is believed."""
    try:
        header = parse_base_header(packet)
        if header.version != 0:
            return DropReason.UNSUPPORTED_VERSION
        layout = Layout(packet, header)
    except ParseError:
        return DropReason.MALFORMED
    if layout.header.oam:
        return DropReason.OAM
    own = _find_own(layout)
    if layout.header.protocol_type != ETHERTYPE_TEB and (
        own.egress is None or layout.header.protocol_type != ETHERTYPE_HIDDEN
    ):
        return DropReason.UNSUPPORTED_PROTOCOL
    seen = 0
    for span in layout.spans:
        if span.type & 0x80 and not is_mechanism_option(span.option_class, span.type):
            return DropReason.UNKNOWN_CRITICAL_OPTION
        seen += span.type == EGRESS_TYPE and span.option_class == SECURITY_CLASS
    if seen > 1 or len(own.groups) > 1:
        # One audience, one option: with two, which of them decides would be anyone's guess.
        return DropReason.MALFORMED
    if own.egress is not None:
        start = own.egress.start + OPTION_HEADER_SIZE
        layout.own = slice(start, start + SPI_SIZE)
    return layout


def _find_own(layout: Layout) -> _Own:
    security = [span for span in layout.spans if isinstance(span, SecuritySpan)]
    return _Own(
        next((span for span in security if span.type == EGRESS_TYPE), None),
        tuple(span for span in security if span.type == GROUP_TYPE),
        tuple(s for s in layout.spans if s.type == SIGNATURE_TYPE and s.option_class == SECURITY_CLASS),
    )


def _unprotected(layout: Layout, packet: bytes) -> Opened:
    common: tuple[tuple[OptionSpan, ...], Kinds] | None = layout.entries.get(b"")
    if common is None:
        spans = tuple(span for span in layout.spans if not is_mechanism_option(span.option_class, span.type))
        common = layout.entries[b""] = spans, frozenset((span.option_class, span.type) for span in spans)
    spans, kinds = common
    return Opened(layout.header, packet[layout.end :], None, kinds, packet, spans)


def _proves_source(entry: _Entry, packet: bytes) -> bool:
    """Check the signature of a multicast packet, whose tag any member of the group could have made."""
    source, span, place = entry.association.source, entry.signature, entry.place
    parts = cover(entry.association, place, packet)
    if source is None or span is None or parts is None:
        return False
    if packet[span.start + OPTION_HEADER_SIZE - 1] >> 5:
        return False  # no tag covers the signature option, so nothing in it may be free: not even its reserved bits
    _, ciphertext, clear, _ = parts
    digest = source_digest(place.plan.build(packet, clear), ciphertext, packet[place.tag : place.end])
    return source.verify(digest, packet[span.start + OPTION_HEADER_SIZE : span.end])


def _refuse_header(header: BaseHeader, true_opt_len: int, hidden_mask: int) -> DropReason | None:
    """Check a base header whose hidden fields have been restored."""
    if not hidden_mask:
        return None
    if header.version != 0:
        return DropReason.UNSUPPORTED_VERSION
    if header.oam:
        return DropReason.OAM
    if header.protocol_type != ETHERTYPE_TEB:
        return DropReason.UNSUPPORTED_PROTOCOL
    return None if header.opt_len == true_opt_len else DropReason.MALFORMED

"""A transit device's end of the mechanism: authenticate the options addressed to it, and nothing else.

What a packet's layout, its SPIs and its outer source decide is worked out once, in a :class:`_Plan`, and kept for
the packets that follow: they are compared with it, and what is left is to look at the number, to verify the tag
and to record the number. A plan is remembered for packets that were authenticated, never for others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import starmap
from typing import Any, NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag

from geneve.control.profile import InnerCoverage
from geneve.control.state import AssociationRole
from geneve.drops import DropReason
from geneve.errors import ParseError
from geneve.header import BASE_HEADER_SIZE, FIELD_MASKS, BaseHeader, HeaderField, parse_base_header
from geneve.option import OPTION_HEADER_SIZE, Option
from geneve.security.aad import Range, join_ranges
from geneve.security.association import InboundAssociation
from geneve.security.keys import SALT_SIZE
from geneve.security.layout import MAX_LAYOUTS, Layout, LayoutCache, Place, cut
from geneve.security.open import read_options
from geneve.security.option import (
    GROUP_TYPE,
    SECURITY_CLASS,
    SEQUENCE_SIZE,
    SPI_SIZE,
    TAG_SIZE,
    TRANSIT_TYPE,
    OptionSpan,
    SecuritySpan,
)
from geneve.security.unseal import read_sealed, unseal

_OWN_HEADS = frozenset(SECURITY_CLASS.to_bytes(2, "big") + bytes([kind]) for kind in (TRANSIT_TYPE, GROUP_TYPE))
_VNI = FIELD_MASKS[HeaderField.VNI]
MIN_RUN = 9
"""Packets from which on it pays to verify them at once."""

NONCE_SIZE = SALT_SIZE + SEQUENCE_SIZE

_KEY_SIZE = BASE_HEADER_SIZE + OPTION_HEADER_SIZE


class Proof:
    """What a packet's options for the device prove: the same object for all packets that prove the same.

    ``header`` is the base header with the hidden fields that the device is told; ``vni`` the true VNI as far
    as the device can know it. ``associations`` are those that verified, in wire order, all of one ``sender``
    (name of the ingress NVE). ``spans`` is where the options stand that the tags cover, ``revealed`` are those
    that were hidden. ``note`` is for the user of the proof: what follows from it.
    """

    __slots__ = ("associations", "header", "note", "revealed", "sender", "spans", "vni")

    def __init__(
        self,
        associations: tuple[InboundAssociation, ...],
        vni: int,
        header: BaseHeader,
        spans: Sequence[OptionSpan],
        revealed: tuple[Option, ...],
    ) -> None:
        self.associations = associations
        self.sender = associations[0].sender
        self.vni = vni
        self.header = header
        self.spans = spans
        self.revealed = revealed
        self.note: Any = None

    def options(self, packet: bytes) -> tuple[Option, ...]:
        """Return the options of ``packet`` that may be acted upon."""
        return (*read_options(packet, self.spans), *self.revealed)


Verdict = Proof | DropReason | None
"""What came of one packet: proof, why an option addressed to the device cannot be trusted, or nothing addressed."""


class Verified(NamedTuple):
    """What a transit device may act on: a :class:`Proof`, and the options of one packet."""

    associations: tuple[InboundAssociation, ...]
    vni: int
    header: BaseHeader
    options: tuple[Option, ...]

    @property
    def sender(self) -> str:
        """Name of the ingress NVE."""
        return self.associations[0].sender


class _Step:
    """One option addressed to the device, in packets of one layout: what is to be verified, and where it stands."""

    __slots__ = ("_simple", "_whole", "aad", "association", "bare", "place", "ranges", "sequence")

    def __init__(self, association: InboundAssociation, layout: Layout, span: SecuritySpan, packet: bytes) -> None:
        """Raise ParseError when the option at ``span`` has no room for what the association puts into it."""
        self.association = association
        self.place = place = Place(association, layout, span)
        self.sequence = place.sequence
        # Simple: the layout says all that the tag is over, and nothing of the inner frame is encrypted.
        shape = association.shape
        self._simple = association.encrypts_inner is InnerCoverage.NONE and not shape.flow and not shape.inner_length
        self._whole = association.authenticates_inner is InnerCoverage.ALL
        self.bare = self._simple and not self._whole
        varying = [(other.start, other.end if other.end != place.end else place.sealed) for other in layout.spans]
        first, *others = place.plan.parts(packet, varying)
        assert isinstance(first, bytes)
        self.aad = first
        self.ranges = tuple(join_ranges([part for part in others if not isinstance(part, bytes)]))

    def unseal(self, buffer: bytes, start: int, end: int) -> bytes | None:
        """Verify the tag of the packet from ``start`` to ``end``; return the sealed part, None if it does not hold."""
        place = self.place
        if not self._simple:
            unsealed = unseal(self.association, place, buffer[start:end])
            return None if unsealed is None else unsealed[0]
        aad = self.aad
        for first, last in self.ranges:
            aad += buffer[start + first : start + last]
        if self._whole:
            aad += buffer[start + place.payload : end]
        key = self.association.key
        nonce = key.salt + buffer[start + place.sequence : start + place.sequence_end]
        try:
            return key.aead.decrypt(nonce, buffer[start + place.sealed : start + place.end], aad)
        except InvalidTag:
            return None


class _Matrix:
    """Verifies a run of packets at once: a matrix with a row for each, and what is looked at in all of them as columns.

    For one option addressed to the device, of which nothing is sealed and whose tag leaves out the inner frame. What
    the AEAD takes of a packet, nonce, tag and associated data, is one row of another matrix.
    """

    __slots__ = ("_association", "_copies", "_end", "_expected", "_mask", "_row", "_takes")

    def __init__(self, packet: bytes, layout: Layout, step: _Step, constant: Sequence[Range]) -> None:
        """``constant`` is where all packets of the plan are as ``packet``: base header, option heads and SPIs."""
        place = step.place
        self._association = step.association
        self._end = layout.end
        self._mask = np.zeros(layout.end, np.uint8)
        for start, end in constant:
            self._mask[start:end] = 0xFF
        self._expected = (np.frombuffer(packet, np.uint8, layout.end) & self._mask).tobytes()
        row = step.association.key.salt + bytes(SEQUENCE_SIZE + TAG_SIZE) + step.aad
        # Nothing stands between number and tag, as nothing is sealed.
        self._copies = [(slice(SALT_SIZE, NONCE_SIZE + TAG_SIZE), slice(place.sequence, place.end))]
        for start, end in step.ranges:
            self._copies.append((slice(len(row), len(row) + end - start), slice(start, end)))
            row += bytes(end - start)
        self._row = np.frombuffer(row, np.uint8)
        self._takes = struct.Struct(f"{NONCE_SIZE}s{TAG_SIZE}s{len(row) - NONCE_SIZE - TAG_SIZE}s").iter_unpack

    def verify(self, buffer: bytes, start: int, size: int, count: int) -> int:
        """Verify and commit packets of ``size`` bytes from ``start`` on; return how many, up to the first that fails.

        0 as well when they are not all of the plan, with numbers that rise: each is then to be looked at alone.
        """
        packets = np.frombuffer(buffer, np.uint8, size * count, start).reshape(count, size)
        if (packets[:, : self._end] & self._mask).tobytes() != self._expected * count:
            return 0
        rows = np.empty((count, self._row.size), np.uint8)
        rows[:] = self._row
        for target, source in self._copies:
            rows[:, target] = packets[:, source]
        numbers = struct.unpack(f"!{count}Q", rows[:, SALT_SIZE:NONCE_SIZE].tobytes())
        window = self._association.window
        if not window.all_ahead(numbers):
            return 0
        done: list[bytes] = []
        with suppress(InvalidTag):
            done.extend(starmap(self._association.key.aead.decrypt, self._takes(rows.tobytes())))
        window.commit_all(numbers[: len(done)])
        return len(done)


class _Plan:
    """All that packets of one layout, one set of SPIs and one outer source have in common.

    ``outcome`` is what they prove once all steps have verified, None if that depends on what is sealed in them.
    ``matrix`` verifies many of them at a time, where the case is simple enough.
    """

    __slots__ = ("constants", "end", "fields", "layout", "matrix", "outcome", "steps")

    def __init__(self, packet: bytes, layout: Layout, steps: Sequence[_Step]) -> None:
        self.layout, self.end = layout, layout.end
        self.steps = tuple(steps)
        ranges = [(0, BASE_HEADER_SIZE)]
        for span in layout.spans:
            # The SPIs of others, too: what stands there in another packet could be the device's own.
            size = OPTION_HEADER_SIZE + SPI_SIZE * isinstance(span, SecuritySpan)
            ranges.append((span.start, span.start + size))
        constant = join_ranges(ranges)
        self.fields = cut(tuple(constant), layout.end).unpack_from
        self.constants = self.fields(packet)
        self.outcome: Proof | DropReason | None = None
        self.matrix: _Matrix | None = None
        if all(step.place.sealed == step.place.tag for step in steps):
            self.outcome = _collect(steps, [b""] * len(steps), layout)
            if len(steps) == 1 and steps[0].bare:
                self.matrix = _Matrix(packet, layout, steps[0], constant)


class TransitVerifier:
    """Holds a transit device's associations, by SPI. Its keys open and forge nothing for anyone else."""

    def __init__(self, associations: Iterable[InboundAssociation] = ()) -> None:
        self._held: dict[bytes, InboundAssociation] = {}
        self._layouts = LayoutCache()
        self._plans: dict[bytes, _Plan] = {}
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
        if not packet:
            return None
        verdict = self._verify_one(packet, 0, len(packet), source)
        if isinstance(verdict, Proof):
            return Verified(verdict.associations, verdict.vni, verdict.header, verdict.options(packet))
        return verdict

    def verify_burst(self, buffer: bytes, start: int, size: int, end: int, source: bytes) -> list[Verdict]:
        """Verify the packets of ``size`` bytes that lie in ``buffer`` from ``start`` to ``end``, in order.

        The last may be shorter. One verdict for each, and the same as from :meth:`verify` one by one.
        """
        if end - start <= size:
            return [self._verify_one(buffer, start, end, source)] if start < end else []
        verdicts: list[Verdict] = []
        plan = self._find_plan(buffer, start, start + size, source)
        if plan is None:
            verdicts.append(self._verify_new(buffer[start : start + size], source))
            start += size
            plan = self._find_plan(buffer, start, min(start + size, end), source)
        count = (end - start) // size
        if plan is not None and plan.matrix is not None and count >= MIN_RUN:
            verified = plan.matrix.verify(buffer, start, size, count)
            verdicts += [plan.outcome] * verified
            start += verified * size
        for at in range(start, end, size):
            last = min(at + size, end)
            if plan is None or last - at < plan.end or plan.fields(buffer, at) != plan.constants:
                plan = self._find_plan(buffer, at, last, source)
            if plan is None:
                verdicts.append(self._verify_new(buffer[at:last], source))
            else:
                verdicts.append(_verify(plan, buffer, at, last))
        return verdicts

    def _verify_one(self, buffer: bytes, start: int, end: int, source: bytes) -> Verdict:
        plan = self._find_plan(buffer, start, end, source)
        return self._verify_new(buffer[start:end], source) if plan is None else _verify(plan, buffer, start, end)

    def _find_plan(self, buffer: bytes, start: int, end: int, source: bytes) -> _Plan | None:
        """Return the plan for the packet from ``start`` to ``end`` if one is remembered."""
        plan = self._plans.get(source + buffer[start : start + _KEY_SIZE])
        if plan is None or end - start < plan.end or plan.fields(buffer, start) != plan.constants:
            return None
        return plan

    def _verify_new(self, packet: bytes, source: bytes) -> Verdict:
        """Verify a packet that no plan fits, and remember its plan if it proves something."""
        if not self._is_addressed(packet):
            return None
        layout = self._layouts.find(packet)
        known = layout is not None
        if layout is None:
            try:
                layout = Layout(packet, parse_base_header(packet))
            except ParseError:
                return None
        plan = self._make_plan(packet, layout, source)
        if not isinstance(plan, _Plan):
            return plan
        verdict = _verify(plan, packet, 0, len(packet))
        if isinstance(verdict, Proof):
            if not known:
                self._layouts.remember(packet, layout)
            if len(self._plans) >= MAX_LAYOUTS:
                self._plans.clear()
            self._plans[source + packet[:_KEY_SIZE]] = plan
        return verdict

    def _make_plan(self, packet: bytes, layout: Layout, source: bytes) -> _Plan | DropReason | None:
        steps = []
        for span in layout.spans:
            if not isinstance(span, SecuritySpan):
                continue
            start = span.start + OPTION_HEADER_SIZE
            association = self._held.get(packet[start : start + SPI_SIZE])
            if association is None or association.option_type != span.type:
                continue
            if association.sender_address != source:
                return DropReason.SOURCE_MISMATCH
            try:
                steps.append(_Step(association, layout, span, packet))
            except ParseError:
                return DropReason.AUTHENTICATION_FAILED
        return _Plan(packet, layout, steps) if steps else None

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


def _verify(plan: _Plan, buffer: bytes, start: int, end: int) -> Verdict:
    """Verify every option addressed to the device in a packet that ``plan`` fits, and commit if all hold."""
    numbers, parts = [], []
    for step in plan.steps:
        at = start + step.sequence
        number = int.from_bytes(buffer[at : at + SEQUENCE_SIZE], "big")
        refused = step.association.window.check(number)
        if refused is not None:
            return refused
        sealed = step.unseal(buffer, start, end)
        if sealed is None:
            return DropReason.AUTHENTICATION_FAILED
        numbers.append(number)
        parts.append(sealed)
    for step, number in zip(plan.steps, numbers, strict=True):
        step.association.window.commit(number)
    return plan.outcome or _collect(plan.steps, parts, plan.layout)


def _collect(steps: Sequence[_Step], parts: Sequence[bytes], layout: Layout) -> Proof | DropReason:
    """Put together what options say that have all verified; ``parts`` are their sealed parts."""
    associations = tuple(step.association for step in steps)
    if len({association.sender for association in associations}) > 1:
        return DropReason.POLICY_MISMATCH
    header = layout.header
    spans: list[OptionSpan] = []
    revealed: list[Option] = []
    seen_vni = not associations[0].hidden_mask & _VNI
    for step, sealed in zip(steps, parts, strict=True):
        shape = step.association.shape
        try:
            header, hidden, _ = read_sealed(shape, sealed, header)
        except ParseError:
            return DropReason.AUTHENTICATION_FAILED
        seen_vni = seen_vni or bool(shape.reveal_mask & _VNI)
        revealed += hidden
        spans += [span for span in step.place.covered if span not in spans]
    bound = {association.vni for association in associations if association.vni is not None}
    if seen_vni:
        bound.add(header.vni)
    if len(bound) > 1:
        return DropReason.POLICY_MISMATCH
    vni = bound.pop() if bound else header.vni
    spans.sort(key=lambda span: span.start)
    return Proof(associations, vni, header, tuple(spans), tuple(revealed))

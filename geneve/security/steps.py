"""What sealing packets of one layout takes, step by step, worked out once; the same for one packet and for many.

A packet is divided where packets of its layout may differ. What stands between two such places is a **part**.
For one packet a part is its bytes; for many, a column: the bytes of each packet, in order. Each step (number,
encrypt, tag one security option) is done for whole columns at once, so that the interpreter's work is per step and
not per packet. :data:`ONE` and :data:`MANY` are the two ways to calculate; what is done is written once.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import itemgetter
from typing import Any

from geneve.control.profile import InnerCoverage
from geneve.header import BASE_HEADER_SIZE
from geneve.inner import InnerFrame
from geneve.option import OPTION_HEADER_SIZE
from geneve.security.aad import AadPlan, Range
from geneve.security.association import OutboundAssociation
from geneve.security.option import SEQUENCE_SIZE, SPI_SIZE, TAG_SIZE, OptionSpan, write_sequences
from geneve.security.shape import HEADERS_UNIT, WORD_SIZE
from geneve.security.signature import source_digest
from geneve.security.unseal import ALL, INNER_LENGTH, Split, split_payload

MAX_LENGTHS = 64
"""Inner lengths kept ready per option of a layout; when there are more, all are worked out anew."""

SEQUENCE_AT = OPTION_HEADER_SIZE + SPI_SIZE
"""Where in a security option the sequence number stands, in bytes."""

_WORDS_AT = SEQUENCE_AT + SEQUENCE_SIZE
_JOIN = b"".join


@dataclass(frozen=True, slots=True)
class How:
    """A way to calculate with parts. Where a part is the same in all packets, its column has no end."""

    constant: Callable[[bytes], Any]
    """The part that is the same in all packets."""
    numbers: Callable[[OutboundAssociation, int], Any]
    """The next sequence numbers of an association, so many."""
    option: Callable[[Any, int], Any]
    """Of the packets' options, those at an index."""
    each: Callable[[Callable[[Any], bytes], Any], Any]
    """What a function makes of a part."""
    size: Callable[[Any], int]
    """The least size of a part."""
    take: Callable[[Any, slice], Any]
    """A slice of a part."""
    join: Callable[[Iterable[Any]], Any]
    """Parts one behind the other."""
    lead: Callable[[bytes, Any], Any]
    """A constant in front of a part."""
    append: Callable[[Any, Any], Any]
    """Two parts one behind the other, to be read more than once."""
    encrypt: Callable[..., Any]
    """Ciphertext and tag of numbers, plaintext, associated data and flow id, for an association."""
    cut: Callable[[Callable[[bytes], tuple[bytes, ...]], Any], Any]
    """The parts into which a function takes a part apart."""


ONE = How(
    constant=bytes,
    numbers=lambda association, _: association.reserve(1).to_bytes(SEQUENCE_SIZE, "big"),
    option=operator.getitem,
    each=lambda function, part: function(part),
    size=len,
    take=operator.getitem,
    join=_JOIN,
    lead=operator.add,
    append=operator.add,
    encrypt=OutboundAssociation.encrypt,
    cut=lambda function, part: function(part),
)
"""A part is one packet's bytes."""

MANY = How(
    constant=repeat,
    numbers=lambda association, count: write_sequences(association.reserve(count), count),
    option=lambda options, index: [each[index] for each in options],
    each=lambda function, column: list(map(function, column)),
    size=lambda column: min(map(len, column)),
    take=lambda column, part: [each[part] for each in column],
    join=lambda columns: map(_JOIN, zip(*columns)),  # noqa: B905 - constants have no end
    lead=lambda constant, column: map(constant.__add__, column),
    append=lambda column, more: list(map(operator.add, column, more)),
    encrypt=OutboundAssociation.encrypt_all,
    cut=lambda function, column: zip(*map(function, column)),  # noqa: B905
)
"""A part is a column: the bytes of each packet, in order."""


@dataclass(slots=True)
class Work:
    """Packets of one layout that are being sealed: ``count`` of them, calculated with ``how``.

    ``parts`` are filled in one after another, ``options`` the caller's, ``inner`` what was read of the frames.
    """

    how: How
    count: int
    parts: list[Any]
    payload: Any
    options: Any
    inner: InnerFrame | None
    rest: Any = None
    """What stands behind the encrypted part of the payload, apart from it to save copies; None where nothing does."""
    digest: bytes = b""
    """What a signature has to cover, in the case of one multicast packet."""


@dataclass(frozen=True, slots=True)
class Step:
    """One security option of a layout. What is a number is the index of a part, 0 for one that it has not."""

    association: OutboundAssociation
    number: int
    flow: int
    length: int
    sealed: int
    tag: int
    lead: bytes
    """The associated data in front of the sequence number where nothing else in it varies, else nothing."""
    covered: Callable[[Sequence[Any]], tuple[Any, ...]]
    """Picks the parts of the associated data."""
    revealed: bytes
    hidden: tuple[int, ...]
    """Indices of the options hidden in it."""
    filler: bytes
    signed: bool
    padded: bool
    split: Split
    """How the payload is divided where no inner length says it."""
    lengths: dict[int, tuple[int, bytes, Split]]
    """For ends of inner headers seen lately: how far they are covered, how the packet says it, and the division."""
    cut: Callable[[bytes], tuple[bytes, ...]]
    """Takes ciphertext and tag apart: sealed part where there is one, encrypted payload, tag."""

    def seal(self, work: Work, flow_id: bytes) -> None:
        """Number, encrypt and tag; SequenceExhaustedError at the hard limit."""
        how, parts, association = work.how, work.parts, self.association
        if work.rest is not None:
            work.payload, work.rest = how.append(work.payload, work.rest), None
        payload = work.payload
        split = self._fill_length(work) if self.length else self.split
        if flow_id:
            parts[self.flow] = how.constant(flow_id)
        numbers = parts[self.number] = how.numbers(association, work.count)
        rest = None
        if split.encrypted is ALL:
            plain = payload
        elif split.cut is None:
            plain = how.constant(b"")
        else:
            plain, rest = how.cut(split.cut, payload)
        if self.sealed:
            hidden = [how.option(work.options, index) for index in self.hidden]
            plain = how.join((how.constant(self.revealed), *hidden, how.constant(self.filler), plain))
        if self.lead:
            aad = how.lead(self.lead, numbers)
        elif split.clear is None:
            aad = how.join(self.covered(parts))
        else:
            clear = rest
            if rest is None:
                clear = payload if split.clear is ALL else how.take(payload, split.clear)
            aad = how.join((*self.covered(parts), clear))
        sealed = how.encrypt(association, numbers, plain, aad, flow_id)
        if self.signed:
            work.digest = source_digest(aad, sealed[:-TAG_SIZE], sealed[-TAG_SIZE:])
        if self.sealed:
            parts[self.sealed], ciphertext, parts[self.tag] = how.cut(self.cut, sealed)
        elif split.encrypted is not None:
            ciphertext, parts[self.tag] = how.cut(self.cut, sealed)
        else:
            parts[self.tag] = sealed
        if split.encrypted is None:
            return
        work.payload, work.rest = ciphertext, rest

    def _fill_length(self, work: Work) -> Split:
        """Fill in the inner length; return how it divides the payload."""
        end = work.inner.headers_end if work.inner is not None else 0
        found = self.lengths.get(end)
        if found is None:
            association, length = self.association, end
            if association.encrypts_inner is InnerCoverage.HEADERS:
                # In steps, so that the length says little about which headers there are.
                length = -(-length // HEADERS_UNIT) * HEADERS_UNIT
            split = split_payload(association.authenticates_inner, association.encrypts_inner, length)
            if len(self.lengths) >= MAX_LENGTHS:
                self.lengths.clear()
            found = self.lengths[end] = length, INNER_LENGTH.pack(length, 0), split
        length, word, split = found
        if length <= work.how.size(work.payload):
            work.parts[self.length] = work.how.constant(word)
        else:
            work.parts[self.length] = work.how.each(
                lambda payload: INNER_LENGTH.pack(min(length, len(payload)), 0), work.payload
            )
        return split


class Table:
    """Divides the packets of one layout into parts: ``parts`` has the constant ones, and room for the others.

    The packet's own parts come first, its payload at ``payload`` and what is not encrypted of it behind that; those
    that only associated data has follow.
    """

    def __init__(
        self, template: bytes, clear: Sequence[OptionSpan], own: Sequence[tuple[OutboundAssociation, OptionSpan]]
    ) -> None:
        """``clear`` are the options in front, and ``own`` the security options behind them."""
        self.template = template
        self.varying: list[Range] = [(span.start, span.end) for span in clear]
        for association, span in own:
            at, sealed = span.start + _WORDS_AT, span.start + association.shape.head_size
            self.varying.append((span.start + SEQUENCE_AT, at))
            self.varying += [(word, word + WORD_SIZE) for word in range(at, sealed, WORD_SIZE)]
            if sealed < span.end - TAG_SIZE:
                self.varying.append((sealed, span.end - TAG_SIZE))
            self.varying.append((span.end - TAG_SIZE, span.end))
        self.parts: list[bytes] = []
        self.places: dict[Range, int] = {}
        at = 0
        for start, end in self.varying:
            if at < start:
                self._constant(template[at:start])
            self.places[start, end] = self._constant(b"")
            at = end
        if at < len(template):
            self._constant(template[at:])
        self.options = [self.places[span.start, span.end] for span in clear]
        self.payload = self._constant(b"")
        self._constant(b"")

    def _constant(self, part: bytes) -> int:
        self.parts.append(part)
        return len(self.parts) - 1

    def step(
        self,
        association: OutboundAssociation,
        spans: Sequence[OptionSpan],
        own: OptionSpan,
        hidden: tuple[int, ...],
        true_header: int,
        filler: bytes,
    ) -> Step:
        """Return what sealing the security option at ``own`` takes; ``spans`` are all options of the packet."""
        shape, places, at = association.shape, self.places, own.start + _WORDS_AT
        sealed, end = own.start + shape.head_size, own.end - TAG_SIZE
        number = (own.start + SEQUENCE_AT, at)
        data = AadPlan(association.role, shape, spans, own).parts(self.template, self.varying)
        split = split_payload(association.authenticates_inner, association.encrypts_inner, 0)
        first = data[0]
        lead = first if isinstance(first, bytes) and data[1:] == [number] and split.clear is None else b""
        covered = [self._constant(part) if isinstance(part, bytes) else places[part] for part in data]
        size = end - sealed
        ciphertext, tag = slice(size, -TAG_SIZE), slice(-TAG_SIZE, None)
        return Step(
            association=association,
            number=places[number],
            flow=places[at, at + WORD_SIZE] if shape.flow else 0,
            length=places[sealed - WORD_SIZE, sealed] if shape.inner_length else 0,
            sealed=places[sealed, end] if size else 0,
            tag=places[end, own.end],
            lead=lead,
            covered=itemgetter(*covered),
            revealed=(true_header & shape.reveal_mask).to_bytes(BASE_HEADER_SIZE, "big") if shape.reveal_mask else b"",
            hidden=hidden,
            filler=filler,
            signed=association.source_proof is not None,
            padded=shape.padded,
            split=split,
            lengths={},
            cut=itemgetter(slice(size), ciphertext, tag) if size else itemgetter(ciphertext, tag),
        )

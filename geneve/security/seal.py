"""The ingress NVE's side: build packets with a security option for each audience.

Layout first, tags after (invariant 1): the options of a packet are laid out whole, then sealed in wire
order: the group of transit devices and NVE, each transit device, the egress NVE. Each tag can cover what
stands in front of it, tags included; a signature, made last, covers the egress NVE's tag.
"""

from __future__ import annotations

import operator
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import itemgetter

from geneve.control.profile import InnerCoverage, SourceProof
from geneve.control.state import AssociationRole
from geneve.header import BASE_HEADER_SIZE, ETHERTYPE_HIDDEN, MAX_OPTIONS_SIZE, BaseHeader, HeaderField
from geneve.inner import InnerFrame, parse_inner
from geneve.option import CRITICAL_TYPE_BIT, OPTION_HEADER_SIZE, Option, option_header, parse_options
from geneve.security import padding
from geneve.security.aad import AadPlan, Range
from geneve.security.association import OutboundAssociation, SequenceExhaustedError
from geneve.security.carriage import OptionSize, carry
from geneve.security.option import (
    PADDING_TYPE,
    SECURITY_CLASS,
    SEQUENCE_SIZE,
    SIGNATURE_TYPE,
    SPI_SIZE,
    TAG_SIZE,
    OptionSpan,
    SecuritySpan,
    is_mechanism_option,
    scan_options,
)
from geneve.security.shape import HEADERS_UNIT, WORD_SIZE
from geneve.security.signature import MAX_BATCH, SALT_SIZE, SourceSigner, signature_option_size, source_digest
from geneve.security.unseal import ALL, INNER_LENGTH, Split, split_payload

MAX_LAYOUTS = 256
"""Layouts kept ready per sealer; when there are more, all are worked out anew."""

_SEQUENCE_AT = OPTION_HEADER_SIZE + SPI_SIZE
_WORDS_AT = _SEQUENCE_AT + SEQUENCE_SIZE
_JOIN = b"".join

Part = bytes | memoryview
Column = Iterable[Part]
"""One part of each packet of a burst, in order; a constant part repeats without end."""


@dataclass(slots=True)
class Item:
    """What one packet is made of: the inner frame, whole options in bytes, and the frame's headers if known."""

    frame: bytes
    options: Sequence[bytes] = ()
    inner: InnerFrame | None = None


@dataclass(frozen=True, slots=True)
class _Step:
    """One security option of a layout. What is a number is the place of a column, 0 for one that it has not."""

    association: OutboundAssociation
    number: int
    flow: int
    length: int
    sealed: int
    tag: int
    lead: bytes
    """The associated data in front of the sequence number where nothing else in it varies, else nothing."""
    covered: Callable[[Sequence[Column]], tuple[Column, ...]]
    """Picks the columns of the associated data."""
    revealed: bytes
    hidden: tuple[int, ...]
    """Indices of the options hidden in it."""
    filler: bytes
    whole: bool
    """Whether the ciphertext is the whole payload and nothing else."""
    cut: Callable[[bytes], tuple[bytes, ...]]
    """Takes ciphertext and tag apart: sealed part where there is one, encrypted payload, tag."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Everything about a packet that depends only on which options it has."""

    columns: list[Column]
    """Those of the packet, the payload's last, then constants of associated data; filled in are the constant ones."""
    packet: int
    """How many of them make the packet."""
    clear: tuple[tuple[int, int], ...]
    """Column and index of each option that travels in clear."""
    others: tuple[_Step, ...]
    egress: _Step
    signature: int
    """Where the data of the signature option starts; 0 without one."""
    start: bytes
    """What stands in front of the sequence number where that is the only part in clear that changes, else nothing."""


class PacketSealer:
    """Seals frames of one VNI to one egress NVE or multicast group, past the transit devices on the way.

    ``transit`` and ``group`` are the associations with transit devices. ``signer`` proves the source to a
    multicast group. ``largest`` is the most bytes that the encrypted inner part may have with its padding.
    """

    def __init__(
        self,
        vni: int,
        egress: OutboundAssociation,
        transit: Sequence[OutboundAssociation] = (),
        group: OutboundAssociation | None = None,
        signer: SourceSigner | None = None,
        largest: int = 65535,
        random_below: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        roles = [association.role for association in transit]
        if egress.role not in (AssociationRole.EGRESS, AssociationRole.MULTICAST) or any(
            role is not AssociationRole.TRANSIT for role in roles
        ):
            raise ValueError("an association was given for the wrong role")
        multicast = egress.role is AssociationRole.MULTICAST
        if multicast != (signer is not None):
            raise ValueError("multicast packets are signed, and no others")
        if (group is not None) != (egress.terms.group is not None and not multicast):
            raise ValueError(f"profile {egress.profile!r} and the association of the group do not belong together")
        if group is not None and group.role is not AssociationRole.GROUP:
            raise ValueError("an association was given for the wrong role")
        self.vni = vni
        self.egress = egress
        self.transit = tuple(transit)
        self.group = group
        self.largest = largest
        self._signer = signer
        self._random_below = random_below
        self._layouts: dict[tuple[bytes | int, ...], _Layout] = {}
        self._last_flow = b"dummy"
        self._reads_inner = any(end.shape.flow or end.shape.inner_length for end in self.associations)

    @property
    def associations(self) -> tuple[OutboundAssociation, ...]:
        """All associations that a packet uses, in wire order."""
        return (*((self.group,) if self.group else ()), *self.transit, self.egress)

    def check_room(self, options: Sequence[bytes]) -> None:
        """Raise ValueError when a packet with ``options`` has no room for its security options."""
        self._lay_out(options, MAX_BATCH)

    def seal(self, items: Iterable[Item]) -> list[bytes]:
        """Return one Geneve packet for each item, in order.

        SequenceExhaustedError at an association's hard limit (nothing is returned then, and the
        numbers given out stay used). ValueError when the options exceed 252 bytes.
        """
        if self._signer is None:
            return [self._seal_one(item, None)[0] for item in items]
        pending = list(items)
        size = MAX_BATCH if self.egress.source_proof is SourceProof.MERKLE else 1
        batches = [pending[start : start + size] for start in range(0, len(pending), size)]
        return [packet for batch in batches for packet in self._seal_signed(batch, self._signer)]

    def seal_burst(
        self, frames: Sequence[Part], inner: InnerFrame, options: Sequence[Sequence[bytes]]
    ) -> list[bytes]:
        """Return packets for ``frames`` of one inner flow, in order, as :meth:`seal` would one by one.

        ``inner`` is what was read of any of them: they agree in all that it says. ``options[i]`` are those of
        frame i, of the same classes, types and lengths for all. At an association's hard limit the list is
        shorter than ``frames``: as many as could be sealed. ValueError as :meth:`seal`, and for multicast.
        """
        if self._signer is not None:
            raise ValueError("multicast packets are signed, which bursts are not")
        if not frames:
            return []
        layout = self._layout(options[0], 1)
        room = min(step.association.remaining for step in (*layout.others, layout.egress))
        if room < len(frames):
            frames, options = frames[:room], options[:room]
        try:
            return self._seal_columns(layout, frames, inner, options)[0] if frames else []
        except SequenceExhaustedError:  # no flow ids are left
            return []

    def seal_dummy(self, size: int, options: Sequence[bytes] = ()) -> bytes:
        """Return a packet without a frame that looks like one with a frame of ``size`` bytes (SEC-GEN-7)."""
        total = self._padded_size(min(size + padding.LENGTH_SIZE, self.largest))
        return self._seal_one(Item(b"", options), total)[0]

    def _seal_signed(self, batch: Sequence[Item], signer: SourceSigner) -> list[bytes]:
        sealed = [self._seal_one(item, None, len(batch)) for item in batch]
        digests = [digest for _, digest, _ in sealed]
        if self.egress.source_proof is SourceProof.MERKLE:
            proofs = signer.sign_batch(digests, secrets.token_bytes(SALT_SIZE))
        else:
            proofs = [signer.sign(digest) for digest in digests]
        return [
            packet[:place] + proof + packet[place + len(proof) :]
            for (packet, _, place), proof in zip(sealed, proofs, strict=True)
        ]

    def _padded_size(self, size: int) -> int:
        return padding.padded_size(self.egress.terms.padding, size, self.largest, self._random_below)

    def _seal_one(self, item: Item, dummy_size: int | None, batch: int = 1) -> tuple[bytes, bytes, int]:
        """Return the packet, and for a multicast one the digest to be signed and where the proof belongs."""
        layout = self._layout(item.options, batch)
        if layout.start and not self.egress.shape.padded:
            # One short packet after another is a case of its own: columns of one would cost it half as much again.
            egress = self.egress
            (number,) = numbers = egress.reserve(1)
            (sealed,) = egress.encrypt(numbers, (item.frame,), (layout.egress.lead + number,))
            return _JOIN((layout.start, number, sealed[-TAG_SIZE:], sealed[:-TAG_SIZE])), b"", 0
        inner = item.inner
        if inner is None and item.frame and self._reads_inner:
            inner = parse_inner(item.frame)
        packets, digests = self._seal_columns(layout, (item.frame,), inner, (item.options,), dummy_size)
        return packets[0], digests[0] if digests else b"", layout.signature

    def _seal_columns(
        self,
        layout: _Layout,
        frames: Sequence[Part],
        inner: InnerFrame | None,
        options: Sequence[Sequence[bytes]],
        dummy_size: int | None = None,
    ) -> tuple[list[bytes], list[bytes]]:
        """Return packets of one layout, and for multicast ones the digests to be signed.

        What all packets need at one place is a column; each step of the work is done for a whole column at once.
        """
        columns = layout.columns.copy()
        for column, index in layout.clear:
            columns[column] = [each[index] for each in options]
        payloads: Sequence[Part] = frames
        for step in layout.others:
            payloads, _ = self._seal_step(step, columns, payloads, inner, options)
        if self.egress.shape.padded:
            payloads = [
                padding.wrap(payload, dummy_size or self._padded_size(len(payload) + padding.LENGTH_SIZE))
                for payload in payloads
            ]
        payloads, digests = self._seal_step(layout.egress, columns, payloads, inner, options)
        columns[layout.packet - 1] = payloads
        return list(map(_JOIN, zip(*columns[: layout.packet], strict=False))), digests

    def _seal_step(
        self,
        step: _Step,
        columns: list[Column],
        payloads: Sequence[Part],
        inner: InnerFrame | None,
        options: Sequence[Sequence[bytes]],
    ) -> tuple[Sequence[Part], list[bytes]]:
        """Number, encrypt and tag one security option of each packet; return the payloads then, and digests."""
        association = step.association
        numbers = columns[step.number] = association.reserve(len(payloads))
        flow_id, split = b"", _WHOLE
        if not step.whole:
            flow_id, split = self._fill_words(step, columns, payloads, inner)
        encrypted = _part(payloads, split.encrypted)
        if step.sealed:
            hidden = [_JOIN([each[index] for index in step.hidden]) for each in options]
            sealed_parts = zip(repeat(step.revealed), hidden, repeat(step.filler), encrypted, strict=False)
            encrypted = map(_JOIN, sealed_parts)
        aads: Iterable[bytes]
        if split.clear is not None:
            aads = map(_JOIN, zip(*step.covered(columns), _part(payloads, split.clear), strict=False))
        elif step.lead:
            aads = map(step.lead.__add__, numbers)
        else:
            aads = map(_JOIN, zip(*step.covered(columns), strict=False))
        if association.source_proof is not None:
            aads = list(aads)
        sealed = association.encrypt(numbers, encrypted, aads, flow_id)
        digests = []
        if association.source_proof is not None:
            digests = [
                source_digest(aad, each[:-TAG_SIZE], each[-TAG_SIZE:]) for aad, each in zip(aads, sealed, strict=True)
            ]
        if split.encrypted is None and not step.sealed:
            columns[step.tag] = sealed
            return payloads, digests
        if step.sealed:
            columns[step.sealed], ciphertexts, columns[step.tag] = zip(*map(step.cut, sealed), strict=True)
        else:
            ciphertexts, columns[step.tag] = zip(*map(step.cut, sealed), strict=True)
        if split.rest is None:
            return ciphertexts, digests
        return list(map(operator.add, ciphertexts, _part(payloads, split.rest))), digests

    def _fill_words(
        self, step: _Step, columns: list[Column], payloads: Sequence[Part], inner: InnerFrame | None
    ) -> tuple[bytes, Split]:
        """Fill in flow id and inner length where the association has them; return the id and the payload's division."""
        association = step.association
        flow_id, length = b"", 0
        if step.flow:
            if inner is not None:
                self._last_flow = inner.flow
            flow_id = association.flow_id(self._last_flow)
            columns[step.flow] = repeat(flow_id)
        if step.length and inner is not None:
            length = inner.headers_end
            if association.encrypts_inner is InnerCoverage.HEADERS:
                # In steps, so that the length says little about which headers there are.
                length = -(-length // HEADERS_UNIT) * HEADERS_UNIT
        if step.length:
            shortest = min(map(len, payloads))
            if length <= shortest:
                columns[step.length] = repeat(INNER_LENGTH.pack(length, 0))
            else:
                columns[step.length] = [INNER_LENGTH.pack(min(length, len(payload)), 0) for payload in payloads]
        return flow_id, split_payload(association.authenticates_inner, association.encrypts_inner, length)

    def _layout(self, options: Sequence[bytes], batch: int) -> _Layout:
        # An option's own header says its class, type and length: all that the layout depends on.
        key: tuple[bytes | int, ...] = (batch,)
        if options:
            key = (batch, *[option[:OPTION_HEADER_SIZE] for option in options])
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._lay_out(options, batch)
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.clear()
            self._layouts[key] = layout
        return layout

    def _lay_out(self, options: Sequence[bytes], batch: int) -> _Layout:
        parsed = [_parse_one(raw) for raw in options]
        audiences = [(association.role, association.audience) for association in self.associations]
        sizes_of = [OptionSize(option.option_class, option.type, option.size) for option in parsed]
        carriage = carry(self.egress.terms, audiences, sizes_of)
        clear = carriage.clear
        steps = [(self.associations[item.audience], item.hidden) for item in carriage.carried]
        sizes = [item.size for item in carriage.carried]
        proof = signature_option_size(self.egress.source_proof, batch) if self.egress.source_proof is not None else 0
        total = carriage.size + proof
        filler = self._filler(total, sizes[-1])
        sizes[-1] += len(filler)
        critical = any(option.critical for option in parsed)
        block = b"".join(
            [options[index] for index in clear]
            + [
                (head := association.option_start(size - association.shape.head_size - TAG_SIZE))
                + bytes(size - len(head))
                for (association, _), size in zip(steps, sizes, strict=True)
            ]
        )
        if proof:
            data = proof - OPTION_HEADER_SIZE
            block += option_header(SECURITY_CLASS, SIGNATURE_TYPE, data) + bytes(data)
        if len(block) > MAX_OPTIONS_SIZE:
            raise ValueError(
                f"the options of a packet to {self.egress.audience} need {len(block)} bytes, and a packet has room "
                f"for {MAX_OPTIONS_SIZE}"
            )
        template = self._header(len(block)).build() + block
        true = int.from_bytes(BaseHeader(vni=self.vni, opt_len=total, critical=critical).build(), "big")
        spans = scan_options(template, len(template))
        own = [span for span in spans if isinstance(span, SecuritySpan)]
        associations = [association for association, _ in steps]
        table = _Table(template, spans[: len(clear)], list(zip(associations, own, strict=True)))
        made = [
            table.step(association, spans, span, hidden, true, filler if association is self.egress else b"")
            for (association, hidden), span in zip(steps, own, strict=True)
        ]
        signature = len(template) - proof + OPTION_HEADER_SIZE if proof else 0
        alone = len(made) == 1 and not clear and not proof and made[0].whole and made[0].lead
        return _Layout(
            columns=table.columns,
            packet=table.packet,
            clear=tuple((table.places[span.start, span.end], index) for span, index in zip(spans, clear, strict=False)),
            others=tuple(made[:-1]),
            egress=made[-1],
            signature=signature,
            start=template[: own[-1].start + _SEQUENCE_AT] if alone else b"",
        )

    def _filler(self, total: int, egress_size: int) -> bytes:
        """Return the padding option that makes all packets' options equally long, where that is asked for."""
        constant = self.egress.terms.options_size
        if constant is None or total == constant:
            return b""
        room = OPTION_HEADER_SIZE + 31 * 4 - egress_size
        if not 0 <= constant - total <= room:
            raise ValueError(
                f"the options of a packet to {self.egress.audience} need {total} bytes and can be filled to "
                f"{total + room}; options_size of profile {self.egress.profile!r} is {constant}"
            )
        data = constant - total - OPTION_HEADER_SIZE
        return option_header(SECURITY_CLASS, PADDING_TYPE, data) + bytes(data)

    def _header(self, opt_len: int) -> BaseHeader:
        """Return the header on the wire: constants in hidden fields; C is set, since the last option is critical."""
        hidden = self.egress.terms.hidden_header
        plain = BaseHeader(vni=self.vni, opt_len=opt_len, critical=True)
        return BaseHeader(
            vni=0 if HeaderField.VNI in hidden else plain.vni,
            protocol_type=ETHERTYPE_HIDDEN if HeaderField.PROTOCOL_TYPE in hidden else plain.protocol_type,
            opt_len=opt_len,
            critical=True,
        )


def _parse_one(raw: bytes) -> Option:
    """Parse one option given as bytes; ValueError when it is one of the mechanism's own."""
    (option,) = parse_options(raw)
    if is_mechanism_option(option.option_class, option.type) or (
        option.option_class == SECURITY_CLASS and option.type & ~CRITICAL_TYPE_BIT == PADDING_TYPE
    ):
        raise ValueError("an option of the mechanism itself cannot be given as a clear option")
    return option


_WHOLE = Split(ALL, None, None)


def _part(payloads: Sequence[Part], part: slice | None) -> Column:
    """Return one part of each payload; copies nothing where that is all of it."""
    if part is None:
        return repeat(b"")
    return payloads if part is ALL else [payload[part] for payload in payloads]


class _Table:
    """Divides the packets of one layout into columns: at each place where they may differ."""

    def __init__(
        self, template: bytes, clear: Sequence[OptionSpan], own: Sequence[tuple[OutboundAssociation, OptionSpan]]
    ) -> None:
        """``clear`` are the options in front, and ``own`` the security options behind them."""
        self.template = template
        self.varying: list[Range] = [(span.start, span.end) for span in clear]
        for association, span in own:
            at, sealed = span.start + _WORDS_AT, span.start + association.shape.head_size
            self.varying.append((span.start + _SEQUENCE_AT, at))
            self.varying += [(word, word + WORD_SIZE) for word in range(at, sealed, WORD_SIZE)]
            if sealed < span.end - TAG_SIZE:
                self.varying.append((sealed, span.end - TAG_SIZE))
            self.varying.append((span.end - TAG_SIZE, span.end))
        self.columns: list[Column] = []
        self.places: dict[Range, int] = {}
        at = 0
        for start, end in self.varying:
            if at < start:
                self._constant(template[at:start])
            self.places[start, end] = len(self.columns)
            self.columns.append(())
            at = end
        if at < len(template):
            self._constant(template[at:])
        self.columns.append(())
        self.packet = len(self.columns)

    def _constant(self, part: bytes) -> int:
        self.columns.append(repeat(part))
        return len(self.columns) - 1

    def step(
        self,
        association: OutboundAssociation,
        spans: Sequence[OptionSpan],
        own: OptionSpan,
        hidden: tuple[int, ...],
        true_header: int,
        filler: bytes,
    ) -> _Step:
        """Return what sealing the security option at ``own`` needs."""
        shape, places, at = association.shape, self.places, own.start + _WORDS_AT
        sealed, end = own.start + shape.head_size, own.end - TAG_SIZE
        parts = AadPlan(association.role, shape, spans, own).parts(self.template, self.varying)
        number = (own.start + _SEQUENCE_AT, at)
        covered = [self._constant(part) if isinstance(part, bytes) else places[part] for part in parts]
        lead = parts[0] if len(parts) == 2 and parts[1] == number and isinstance(parts[0], bytes) else b""
        flow = places[at, at + WORD_SIZE] if shape.flow else 0
        length = places[sealed - WORD_SIZE, sealed] if shape.inner_length else 0
        size = end - sealed
        ciphertext, tag = slice(size, -TAG_SIZE), slice(-TAG_SIZE, None)
        whole = association.encrypts_inner is InnerCoverage.ALL and not flow and not length and not size
        return _Step(
            association=association,
            number=places[number],
            flow=flow,
            length=length,
            sealed=places[sealed, end] if size else 0,
            tag=places[end, own.end],
            lead=lead,
            covered=itemgetter(*covered),
            revealed=(true_header & shape.reveal_mask).to_bytes(BASE_HEADER_SIZE, "big") if shape.reveal_mask else b"",
            hidden=hidden,
            filler=filler,
            whole=whole,
            cut=itemgetter(slice(size), ciphertext, tag) if size else itemgetter(ciphertext, tag),
        )

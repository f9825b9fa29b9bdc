"""The ingress NVE's side: build packets with a security option for each audience.

Layout first, tags after (invariant 1): the options of a packet are laid out whole, then sealed in wire
order: the group of transit devices and NVE, each transit device, the egress NVE. Each tag can cover what
stands in front of it, tags included; a signature, made last, covers the egress NVE's tag.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from geneve.control.profile import InnerCoverage, SourceProof
from geneve.control.state import AssociationRole
from geneve.header import BASE_HEADER_SIZE, ETHERTYPE_HIDDEN, MAX_OPTIONS_SIZE, BaseHeader, HeaderField
from geneve.inner import InnerFrame, parse_inner
from geneve.option import CRITICAL_TYPE_BIT, OPTION_HEADER_SIZE, Option, option_header, parse_options
from geneve.security import padding
from geneve.security.aad import AadPlan
from geneve.security.association import OutboundAssociation
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
from geneve.security.unseal import INNER_LENGTH, split_payload

MAX_LAYOUTS = 256
"""Layouts kept ready per sealer; when there are more, all are worked out anew."""

_SEQUENCE_AT = OPTION_HEADER_SIZE + SPI_SIZE
_WORDS_AT = _SEQUENCE_AT + SEQUENCE_SIZE


@dataclass(slots=True)
class Item:
    """What one packet is made of: the inner frame, whole options in bytes, and the frame's headers if known."""

    frame: bytes
    options: Sequence[bytes] = ()
    inner: InnerFrame | None = None


@dataclass(frozen=True, slots=True)
class _Step:
    """One security option of a layout. Places in bytes from the base header; ``hidden`` are indices of options."""

    association: OutboundAssociation
    plan: AadPlan
    start: int
    sealed: int
    end: int
    revealed: bytes
    hidden: tuple[int, ...]
    filler: bytes
    plain: bool


@dataclass(frozen=True, slots=True)
class _Layout:
    """Everything about a packet that depends only on which options it has."""

    template: bytes
    clear: tuple[int, ...]
    others: tuple[_Step, ...]
    egress: _Step
    signature: int
    """Where the data of the signature option starts; 0 without one."""
    start: bytes
    """What stands in front of the sequence number where that is the only part in clear that changes, else nothing."""
    aad_start: bytes
    """The associated data up to the sequence number, in the same case."""


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
        options = item.options
        layout = self._layout(options, batch)
        if layout.start and not self.egress.shape.padded:
            egress = self.egress
            sequence = egress.next_sequence()
            sealed = egress.encrypt(sequence, item.frame, layout.aad_start + sequence)
            return b"".join((layout.start, sequence, sealed[-TAG_SIZE:], sealed[:-TAG_SIZE])), b"", 0
        head = bytearray(layout.template)
        if layout.clear:
            clear = b"".join([options[index] for index in layout.clear])
            head[BASE_HEADER_SIZE : BASE_HEADER_SIZE + len(clear)] = clear
        payload = item.frame
        for step in layout.others:
            payload, _ = self._seal_step(step, head, payload, item)
        if self.egress.shape.padded:
            total = dummy_size or self._padded_size(len(payload) + padding.LENGTH_SIZE)
            payload = padding.wrap(payload, total)
        payload, digest = self._seal_step(layout.egress, head, payload, item)
        return b"".join((head, payload)), digest, layout.signature

    def _seal_step(self, step: _Step, head: bytearray, payload: bytes, item: Item) -> tuple[bytes, bytes]:
        """Number, encrypt and tag one security option in place; return the payload then, and a multicast digest."""
        association, start = step.association, step.start
        sequence = association.next_sequence()
        # What the tag covers goes into the packet first: the associated data is read from the packet's own bytes.
        head[start + _SEQUENCE_AT : start + _WORDS_AT] = sequence
        flow_id = clear = rest = b""
        encrypted = payload
        if not step.plain:
            flow_id, length = self._fill_words(step, head, payload, item)
            encrypted, clear = split_payload(
                association.authenticates_inner, association.encrypts_inner, length, payload
            )
            rest = payload[len(encrypted) :]
            if step.sealed < step.end - TAG_SIZE:
                hidden = b"".join([item.options[index] for index in step.hidden])
                encrypted = b"".join((step.revealed, hidden, step.filler, encrypted))
        aad = step.plan.build(head, clear)
        sealed = association.encrypt(sequence, encrypted, aad, flow_id)
        ciphertext, tag = sealed[:-TAG_SIZE], sealed[-TAG_SIZE:]
        head[step.end - TAG_SIZE : step.end] = tag
        digest = b"" if association.source_proof is None else source_digest(aad, ciphertext, tag)
        if step.plain:
            return ciphertext, digest
        size = step.end - TAG_SIZE - step.sealed
        head[step.sealed : step.sealed + size] = ciphertext[:size]
        return ciphertext[size:] + rest, digest

    def _fill_words(self, step: _Step, head: bytearray, payload: bytes, item: Item) -> tuple[bytes, int]:
        """Write flow id and inner length where the association has them; return both."""
        association, at = step.association, step.start + _WORDS_AT
        shape = association.shape
        if not shape.flow and not shape.inner_length:
            return b"", 0
        inner = item.inner or (parse_inner(item.frame) if item.frame else None)
        flow_id, length = b"", 0
        if shape.flow:
            if inner is not None:
                self._last_flow = inner.flow
            flow_id = association.flow_id(self._last_flow)
            head[at : at + WORD_SIZE] = flow_id
            at += WORD_SIZE
        if shape.inner_length and inner is not None:
            length = inner.headers_end
            if association.encrypts_inner is InnerCoverage.HEADERS:
                # In steps, so that the length says little about which headers there are.
                length = min(-(-length // HEADERS_UNIT) * HEADERS_UNIT, len(payload))
            INNER_LENGTH.pack_into(head, at, length, 0)
        return flow_id, length

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
        made = [
            _make_step(association, hidden, spans, span, true, filler if association is self.egress else b"")
            for (association, hidden), span in zip(steps, own, strict=True)
        ]
        signature = len(template) - proof + OPTION_HEADER_SIZE if proof else 0
        start = aad_start = b""
        egress = made[-1]
        if len(made) == 1 and not clear and not proof and egress.plain:
            # The own head ends with the sequence number, and nothing follows it in the associated data.
            start = template[: egress.start + _SEQUENCE_AT]
            aad_start = egress.plan.build(template, b"")[:-SEQUENCE_SIZE]
        return _Layout(template, clear, tuple(made[:-1]), egress, signature, start, aad_start)

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


def _make_step(
    association: OutboundAssociation,
    hidden: tuple[int, ...],
    spans: Sequence[OptionSpan],
    own: OptionSpan,
    true_header: int,
    filler: bytes,
) -> _Step:
    shape = association.shape
    revealed = (true_header & shape.reveal_mask).to_bytes(BASE_HEADER_SIZE, "big") if shape.reveal_mask else b""
    sealed = own.start + shape.head_size
    return _Step(
        association=association,
        plan=AadPlan(association.role, shape, spans, own),
        start=own.start,
        sealed=sealed,
        end=own.end,
        revealed=revealed,
        hidden=hidden,
        filler=filler,
        plain=association.encrypts_inner is InnerCoverage.ALL
        and not shape.flow
        and not shape.inner_length
        and sealed == own.end - TAG_SIZE,
    )

"""The ingress NVE's side: build packets with a security option for each audience.

Layout first, tags after (invariant 1): the options of a packet are laid out whole, then sealed in wire
order: the group of transit devices and NVE, each transit device, the egress NVE. Each tag can cover what
stands in front of it, tags included; a signature, made last, covers the egress NVE's tag.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from geneve.control.profile import Profile, SourceProof
from geneve.control.state import AssociationRole
from geneve.header import ETHERTYPE_HIDDEN, MAX_OPTIONS_SIZE, BaseHeader, HeaderField
from geneve.inner import InnerFrame, parse_inner
from geneve.option import CRITICAL_TYPE_BIT, OPTION_HEADER_SIZE, Option, option_header, parse_options
from geneve.security import padding
from geneve.security.association import OutboundAssociation, SequenceExhaustedError
from geneve.security.carriage import OptionSize, carry
from geneve.security.option import (
    PADDING_TYPE,
    SECURITY_CLASS,
    SEQUENCE_SIZE,
    SIGNATURE_TYPE,
    TAG_SIZE,
    SecuritySpan,
    is_mechanism_option,
    scan_options,
)
from geneve.security.signature import MAX_BATCH, SALT_SIZE, SourceSigner, signature_option_size
from geneve.security.steps import MANY, ONE, SEQUENCE_AT, Step, Table, Work

MAX_LAYOUTS = 256
"""Layouts kept ready per sealer; when there are more, all are worked out anew."""

@dataclass(slots=True)
class Item:
    """What one packet is made of: the inner frame, whole options in bytes, and the frame's headers if known."""

    frame: bytes | memoryview
    options: Sequence[bytes] = ()
    inner: InnerFrame | None = None


@dataclass(frozen=True, slots=True)
class _Layout:
    """Everything about a packet that depends only on which options it has."""

    one: list[Any]
    """The parts of a packet, payload last, then constants of associated data; those that vary are still empty."""
    many: list[Any]
    """The same for many packets."""
    payload: int
    """Which part is the payload."""
    clear: tuple[tuple[int, int], ...]
    """Part and index of each option that travels in clear."""
    steps: tuple[Step, ...]
    """In wire order: the egress NVE's last."""
    signature: int
    """Where the data of the signature option starts; 0 without one."""
    start: bytes
    """What stands in front of the sequence number in packets of nothing else but that and an encrypted payload."""


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

    @property
    def terms(self) -> Profile:
        """The profile that packets are sealed under."""
        return self.egress.terms

    def check_room(self, options: Sequence[bytes]) -> None:
        """Raise ValueError when a packet with ``options`` has no room for its security options."""
        self._lay_out(options, MAX_BATCH)

    def seal(self, items: Iterable[Item]) -> list[bytes]:
        """Return one Geneve packet for each item, in order.

        SequenceExhaustedError at an association's hard limit (nothing is returned then, and the
        numbers given out stay used). ValueError when the options exceed 252 bytes.
        """
        if self._signer is None:
            return [self._seal_one(self._layout(item.options, 1), item)[0] for item in items]
        pending = list(items)
        size = MAX_BATCH if self.egress.source_proof is SourceProof.MERKLE else 1
        batches = [pending[start : start + size] for start in range(0, len(pending), size)]
        return [packet for batch in batches for packet in self._seal_signed(batch, self._signer)]

    def seal_burst(
        self, frames: Sequence[bytes | memoryview], inner: InnerFrame, options: Sequence[Sequence[bytes]]
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
        layout, count = self._layout(options[0], 1), len(frames)
        for step in layout.steps:
            count = min(count, step.association.remaining)
        try:
            if count == 1:
                return [self._seal_one(layout, Item(frames[0], options[0], inner))[0]]
            if count < len(frames):
                frames, options = frames[:count], options[:count]
            if not frames:
                return []
            work = Work(MANY, count, layout.many.copy(), frames, options, inner)
            return list(self._seal_work(layout, work))
        except SequenceExhaustedError:  # no flow ids are left
            return []

    def seal_dummy(self, size: int, options: Sequence[bytes] = ()) -> bytes:
        """Return a packet without a frame that looks like one with a frame of ``size`` bytes (SEC-GEN-7)."""
        total = self._padded_size(min(size + padding.LENGTH_SIZE, self.largest))
        return self._seal_one(self._layout(options, 1), Item(b"", options), total)[0]

    def _seal_signed(self, batch: Sequence[Item], signer: SourceSigner) -> list[bytes]:
        layouts = [self._layout(item.options, len(batch)) for item in batch]
        sealed = [self._seal_one(layout, item) for layout, item in zip(layouts, batch, strict=True)]
        digests = [digest for _, digest in sealed]
        if self.egress.source_proof is SourceProof.MERKLE:
            proofs = signer.sign_batch(digests, secrets.token_bytes(SALT_SIZE))
        else:
            proofs = [signer.sign(digest) for digest in digests]
        return [
            packet[: layout.signature] + proof + packet[layout.signature + len(proof) :]
            for (packet, _), proof, layout in zip(sealed, proofs, layouts, strict=True)
        ]

    def _padded_size(self, size: int) -> int:
        return padding.padded_size(self.egress.terms.padding, size, self.largest, self._random_below)

    def _seal_one(self, layout: _Layout, item: Item, dummy_size: int | None = None) -> tuple[bytes, bytes]:
        """Return the packet, and for a multicast one the digest to be signed."""
        if layout.start:
            return _seal_plain(layout, item.frame), b""
        inner = item.inner
        if inner is None and item.frame and self._reads_inner:
            inner = parse_inner(bytes(item.frame))
        work = Work(ONE, 1, layout.one.copy(), item.frame, item.options, inner)
        return self._seal_work(layout, work, dummy_size), work.digest

    def _seal_work(self, layout: _Layout, work: Work, dummy_size: int | None = None) -> Any:
        """Return the packet, or an iterable of many."""
        parts, how = work.parts, work.how
        for part, index in layout.clear:
            parts[part] = how.option(work.options, index)
        for step in layout.steps:
            flow_id = b""
            if step.padded:
                pad = self._pad if dummy_size is None else partial(padding.wrap, total=dummy_size)
                work.payload = how.each(pad, work.payload)
            if step.flow:
                if work.inner is not None:
                    self._last_flow = work.inner.flow
                flow_id = step.association.flow_id(self._last_flow)
            step.seal(work, flow_id)
        parts[layout.payload] = work.payload
        if work.rest is None:
            return how.join(parts[: layout.payload + 1])
        parts[layout.payload + 1] = work.rest
        return how.join(parts[: layout.payload + 2])

    def _pad(self, payload: bytes) -> bytes:
        return padding.wrap(payload, self._padded_size(len(payload) + padding.LENGTH_SIZE))

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
        table = Table(template, spans[: len(clear)], list(zip(associations, own, strict=True)))
        made = [
            table.step(association, spans, span, hidden, true, filler if association is self.egress else b"")
            for (association, hidden), span in zip(steps, own, strict=True)
        ]
        signature = len(template) - proof + OPTION_HEADER_SIZE if proof else 0
        egress, shape = made[-1], self.egress.shape
        plain = egress.lead and egress.split.rest is None and not (egress.sealed or shape.flow or shape.padded)
        alone = len(made) == 1 and not clear and not proof
        return _Layout(
            one=[ONE.constant(part) for part in table.parts],
            many=[MANY.constant(part) for part in table.parts],
            payload=table.payload,
            clear=tuple(zip(table.options, clear, strict=True)),
            steps=tuple(made),
            signature=signature,
            start=template[: own[-1].start + SEQUENCE_AT] if plain and alone else b"",
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


def _seal_plain(layout: _Layout, frame: bytes | memoryview) -> bytes:
    """Return a packet of the plainest layout: the same as step by step, at half the cost."""
    (step,) = layout.steps
    association = step.association
    number = association.reserve(1).to_bytes(SEQUENCE_SIZE, "big")
    sealed = association.encrypt(number, frame, step.lead + number)
    return b"".join((layout.start, number, sealed[-TAG_SIZE:], sealed[:-TAG_SIZE]))

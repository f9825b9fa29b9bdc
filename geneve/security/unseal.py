"""What every audience does with its security option: verify the tag, decrypt, read the sealed part."""

from __future__ import annotations

import operator
import struct
from collections.abc import Iterable
from itertools import repeat
from typing import NamedTuple

from cryptography.exceptions import InvalidTag

from geneve.control.profile import InnerCoverage
from geneve.errors import ParseError
from geneve.header import BASE_HEADER_SIZE, BaseHeader, parse_base_header
from geneve.option import Option, parse_options
from geneve.security.association import InboundAssociation
from geneve.security.layout import Place, cut
from geneve.security.option import PADDING_TYPE, SECURITY_CLASS, read_sequences
from geneve.security.shape import WORD_SIZE, Shape

INNER_LENGTH = struct.Struct("!HH")
"""The inner length in bytes, and two zero bytes."""


ALL = slice(None)
"""The part of a payload that is all of it."""


class Split(NamedTuple):
    """How the payload is divided, each None where there is nothing: what is encrypted, always its beginning;
    what is covered in clear; and what stands behind the encrypted part, covered or not."""

    encrypted: slice | None
    clear: slice | None
    rest: slice | None


def split_payload(authenticate: InnerCoverage, encrypt: InnerCoverage, length: int) -> Split:
    """Return how payloads are divided in which "headers" means the first ``length`` bytes."""
    if encrypt is InnerCoverage.ALL:
        return Split(ALL, None, None)
    covered = {InnerCoverage.ALL: ALL, InnerCoverage.HEADERS: slice(length)}.get(authenticate)
    if encrypt is InnerCoverage.NONE:
        return Split(None, covered, ALL)
    rest = slice(length, None)
    return Split(slice(length), rest if authenticate is InnerCoverage.ALL else None, rest)


def unseal(association: InboundAssociation, place: Place, packet: bytes) -> tuple[bytes, bytes] | None:
    """Verify the security option at ``place``; return its sealed part and the payload, decrypted, or None.

    None means that the tag does not verify. Changes nothing that an unverified packet could change.
    """
    sequence = packet[place.sequence : place.sequence_end]
    try:
        if place.plain:
            # The call is made here, one frame less than through the association: a refusal unwinds every frame.
            key, ciphertext = association.key, packet[place.payload :] + packet[place.tag : place.end]
            return b"", key.aead.decrypt(key.salt + sequence, ciphertext, place.plan.build(packet, b""))
        parts = cover(association, place, packet)
        if parts is None:
            return None
        flow_id, ciphertext, clear, rest = parts
        plaintext = association.decrypt(
            sequence, ciphertext + packet[place.tag : place.end], place.plan.build(packet, clear), flow_id
        )
    except InvalidTag:
        return None
    sealed_size = place.tag - place.sealed
    return plaintext[:sealed_size], plaintext[sealed_size:] + rest


def cover(association: InboundAssociation, place: Place, packet: bytes) -> tuple[bytes, bytes, bytes, bytes] | None:
    """Return flow id, ciphertext, covered clear payload, and the payload behind the ciphertext; None if impossible."""
    shape = association.shape
    payload = packet[place.payload :]
    length, word = 0, place.sealed
    if shape.inner_length:
        word -= WORD_SIZE
        length, zero = INNER_LENGTH.unpack_from(packet, word)
        if zero or length > len(payload):
            return None
    flow_id = packet[word - WORD_SIZE : word] if shape.flow else b""
    split = split_payload(association.authenticates_inner, association.encrypts_inner, length)
    encrypted, clear, rest = [b"" if part is None else payload[part] for part in split]
    return flow_id, packet[place.sealed : place.tag] + encrypted, clear, rest


def unseal_all(
    association: InboundAssociation, place: Place, packets: memoryview, size: int
) -> tuple[tuple[int, ...], list[bytes], list[int]] | None:
    """Do what :func:`unseal` does for ``packets`` of ``size`` bytes, alike, with nothing sealed in their options.

    Returns sequence numbers, payloads, and the indices of packets whose tag does not verify. None where they
    have to be looked at one by one: numbers that do not rise above the replay window, more than one flow.
    """
    how, shape = place.columns(), association.shape
    length = 0
    if shape.inner_length:
        length, zero = INNER_LENGTH.unpack_from(packets, place.sealed - WORD_SIZE)
        if zero or place.payload + length > size:
            return None
    split = split_payload(association.authenticates_inner, association.encrypts_inner, length)
    payload, behind = place.payload, place.payload + length
    cuts = ((payload, size),) if split.encrypted is None or split.rest is None else ((payload, behind), (behind, size))
    columns = list(zip(*cut((*how.ranges, *cuts), size).iter_unpack(packets), strict=True))
    numbers, tags = columns[how.sequence], columns[how.tag]
    sequences = read_sequences(numbers)
    if not association.window.all_ahead(sequences):
        return None
    for word in how.words:
        if columns[word].count(columns[word][0]) != len(numbers):
            return None
    rest = columns[-1]
    covered: list[Iterable[bytes]] = [
        repeat(part) if isinstance(part, bytes) else columns[part] for part in how.covered
    ]
    if split.clear is not None:
        covered.append(rest if split.clear in (split.rest, ALL) else [each[split.clear] for each in rest])
    aads = map(b"".join, zip(*covered, strict=False))
    sealed = tags if split.encrypted is None else map(operator.add, columns[len(how.ranges)], tags)
    flow_id = columns[how.words[0]][0] if shape.flow else b""
    payloads, refused = association.decrypt_all(numbers, sealed, aads, flow_id)
    if split.rest is not None:
        payloads = list(map(operator.add, payloads, rest))
    return sequences, payloads, refused


def read_sealed(shape: Shape, sealed: bytes, header: BaseHeader) -> tuple[BaseHeader, tuple[Option, ...], int]:
    """Return the base header with the revealed fields in place, the hidden options, and the filler's bytes.

    ``header`` is the one on the wire. ParseError when the sealed part is not what the format says:
    its tag has verified, so the sender is at fault.
    """
    if shape.reveal_mask:
        if len(sealed) < BASE_HEADER_SIZE:
            raise ParseError("sealed part without the base header")
        true = int.from_bytes(sealed[:BASE_HEADER_SIZE], "big") & shape.reveal_mask
        visible = int.from_bytes(header.build(), "big") & ~shape.reveal_mask
        # Its length fields are the sender's word; there are no options behind it to compare with.
        header = parse_base_header((true | visible).to_bytes(BASE_HEADER_SIZE, "big") + bytes(63 * 4))
        sealed = sealed[BASE_HEADER_SIZE:]
    options, filler = [], 0
    for option in parse_options(sealed):
        if option.option_class == SECURITY_CLASS and option.type == PADDING_TYPE:
            filler += option.size
        else:
            options.append(option)
    return header, tuple(options), filler

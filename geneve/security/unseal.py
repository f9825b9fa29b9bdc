"""What every audience does with its security option: verify the tag, decrypt, read the sealed part."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from cryptography.exceptions import InvalidTag

from geneve.control.profile import InnerCoverage
from geneve.errors import ParseError
from geneve.header import BASE_HEADER_SIZE, BaseHeader, parse_base_header
from geneve.option import Option, parse_options
from geneve.security.association import InboundAssociation
from geneve.security.layout import Place
from geneve.security.limiter import PLAUSIBLE_AHEAD
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
    cut: Callable[[bytes], tuple[bytes, bytes]] | None = None
    """Takes a payload of which a part is encrypted apart: that, and the rest."""


_WHOLE, _COVERED, _NOTHING = Split(ALL, None, None), Split(None, ALL, ALL), Split(None, None, ALL)


def split_payload(authenticate: InnerCoverage, encrypt: InnerCoverage, length: int) -> Split:
    """Return how payloads are divided in which "headers" means the first ``length`` bytes."""
    if encrypt is InnerCoverage.ALL:
        return _WHOLE
    if encrypt is InnerCoverage.HEADERS:
        return _split_at(length, authenticate is InnerCoverage.ALL)
    if authenticate is InnerCoverage.HEADERS:
        return Split(None, slice(length), ALL)
    return _COVERED if authenticate is InnerCoverage.ALL else _NOTHING


@lru_cache(maxsize=1024)
def _split_at(length: int, covered: bool) -> Split:
    rest = slice(length, None)
    return Split(slice(length), rest if covered else None, rest, itemgetter(slice(length), rest))


def unseal(association: InboundAssociation, place: Place, packet: bytes) -> tuple[bytes, bytes] | None:
    """Verify the security option at ``place``; return its sealed part and the payload, decrypted, or None.

    None means that the tag does not verify. Changes nothing that an unverified packet could change.
    """
    number = packet[place.number]
    try:
        if place.plain:
            # The call is made here, one frame less than through the association: a refusal unwinds every frame.
            key, ciphertext = association.key, packet[place.behind] + packet[place.proof]
            return b"", key.aead.decrypt(key.salt + number, ciphertext, place.plan.build(packet, b""))
        parts = cover(association, place, packet)
        if parts is None:
            return None
        flow_id, ciphertext, clear, rest = parts
        plaintext = association.decrypt(
            number, ciphertext + packet[place.proof], place.plan.build(packet, clear), flow_id
        )
    except InvalidTag:
        return None
    sealed_size = place.tag - place.sealed
    return plaintext[:sealed_size], plaintext[sealed_size:] + rest


def cover(association: InboundAssociation, place: Place, packet: bytes) -> tuple[bytes, bytes, bytes, bytes] | None:
    """Return flow id, ciphertext, covered clear payload, and the payload behind the ciphertext; None if impossible."""
    shape = association.shape
    payload = packet[place.behind]
    length, word = 0, place.sealed
    if shape.inner_length:
        word -= WORD_SIZE
        length, zero = INNER_LENGTH.unpack_from(packet, word)
        if zero or length > len(payload):
            return None
    flow_id = packet[word - WORD_SIZE : word] if shape.flow else b""
    split = split_payload(association.authenticates_inner, association.encrypts_inner, length)
    encrypted = b"" if split.encrypted is None else payload[split.encrypted]
    clear = b"" if split.clear is None else payload[split.clear]
    rest = b"" if split.rest is None else payload[split.rest]
    return flow_id, packet[place.sealed : place.tag] + encrypted, clear, rest


def unseal_all(
    association: InboundAssociation, place: Place, packet: bytes, packets: bytes | memoryview
) -> tuple[Sequence[int], list[bytes], list[int]] | None:
    """Do what :func:`unseal` does for ``packets`` as large as the first, ``packet``, whose options hide nothing.

    Returns sequence numbers, payloads, and the indices of packets whose tag does not verify. None where they
    have to be looked at one by one: not alike, several flows, numbers that do not rise above the replay window or
    that the limiter of failed tags would be asked about.
    """
    how, shape, size = place.columns(packet), association.shape, len(packet)
    length = 0
    if shape.inner_length:
        length, zero = INNER_LENGTH.unpack_from(packet, place.sealed - WORD_SIZE)
        if zero or not 0 < length <= size - place.payload:
            return None
    split = split_payload(association.authenticates_inner, association.encrypts_inner, length)
    columns = how.read(packets, size, 0 if split.encrypted is None else length)
    if columns is None:
        return None
    numbers, tags, payloads = columns[how.sequence], columns[how.tag], columns[-1]
    sequences = read_sequences(numbers)
    if not association.window.all_ahead(sequences):
        return None
    if sequences[-1] - association.window.highest > PLAUSIBLE_AHEAD:
        return None
    for word in how.words:
        if columns[word].count(columns[word][0]) != len(numbers):
            return None
    covered = how.covered(columns)
    if split.clear is not None:
        whole = split.clear in (split.rest, ALL)
        covered = (*covered, payloads if whole else [payload[split.clear] for payload in payloads])
    aads = map(b"".join, zip(*covered))  # noqa: B905 - constants repeat without end
    sealed: Iterable[bytes] = tags
    if split.encrypted is not None:
        sealed = map(operator.add, payloads if split.rest is None else columns[-2], tags)
    flow_id = columns[how.words[0]][0] if shape.flow else b""
    opened, refused = association.decrypt_all(numbers, sealed, aads, flow_id)
    if split.rest is None:
        return sequences, opened, refused
    if split.encrypted is None:
        return sequences, list(payloads), refused
    return sequences, list(map(operator.add, opened, payloads)), refused


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

"""What every audience does with its security option: verify the tag, decrypt, read the sealed part."""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag

from geneve.control.profile import InnerCoverage
from geneve.errors import ParseError
from geneve.header import BASE_HEADER_SIZE, BaseHeader, parse_base_header
from geneve.option import Option, parse_options
from geneve.security.association import InboundAssociation
from geneve.security.layout import Place
from geneve.security.option import PADDING_TYPE, SECURITY_CLASS
from geneve.security.shape import WORD_SIZE, Shape

INNER_LENGTH = struct.Struct("!HH")
"""The inner length in bytes, and two zero bytes."""


def split_payload(
    authenticate: InnerCoverage, encrypt: InnerCoverage, length: int, payload: bytes
) -> tuple[bytes, bytes]:
    """Return the part of ``payload`` that is encrypted, always its beginning, and what is covered in clear.

    ``length`` is what "headers" means for this packet, in bytes.
    """
    if encrypt is InnerCoverage.ALL:
        return payload, b""
    encrypted = payload[:length] if encrypt is InnerCoverage.HEADERS else b""
    if authenticate is InnerCoverage.ALL:
        return encrypted, payload[len(encrypted) :]
    if authenticate is InnerCoverage.HEADERS and not encrypted:
        return b"", payload[:length]
    return encrypted, b""


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
    encrypted, clear = split_payload(association.authenticates_inner, association.encrypts_inner, length, payload)
    return flow_id, packet[place.sealed : place.tag] + encrypted, clear, payload[len(encrypted) :]


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

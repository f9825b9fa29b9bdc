"""What of DTLS 1.2 records can be read without keys (RFC 6347, section 4.1), and HelloRequest. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from geneve.errors import ParseError

HEADER_SIZE = 13
"""Content type, version, epoch (2 bytes), sequence number (6), length (2)."""
MAX_PLAINTEXT = 2**14
"""Most bytes that one record protects (RFC 5246, section 6.2.1)."""
MAX_FRAGMENT = 2**14 + 2048
"""Most bytes behind the header (RFC 5246, section 6.2.3)."""
CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
HELLO_REQUEST, CLIENT_HELLO, SERVER_HELLO, HELLO_VERIFY_REQUEST = 0, 1, 2, 3
CERTIFICATE, SERVER_KEY_EXCHANGE, CERTIFICATE_REQUEST, SERVER_HELLO_DONE = 11, 12, 13, 14
CERTIFICATE_VERIFY, CLIENT_KEY_EXCHANGE = 15, 16
RANDOM_SIZE = 32

_TYPES = frozenset((CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA))
_VERSION = b"\xfe\xfd"
"""DTLS 1.2. A first hello and the answer to it may say 1.0, fe ff."""
_MESSAGE_HEADER_SIZE = 12
"""Handshake message: type, length (3), message number (2), offset of the fragment (3), its length (3)."""
_RANDOM_AT = HEADER_SIZE + _MESSAGE_HEADER_SIZE + 2
_PROTECTED = bytes((APPLICATION_DATA,)) + _VERSION + b"\x00\x01"
"""How each record of application data starts: epoch 1 is the only one that a session without renegotiation has."""


def split(datagram: bytes | memoryview) -> list[bytes]:
    """Return the records of a datagram; ParseError when it does not consist of records of known types."""
    records, at, end = [], 0, len(datagram)
    while at < end:
        if datagram[at] not in _TYPES or datagram[at + 1 : at + 2] != _VERSION[:1]:
            raise ParseError("a datagram with something else than a record")
        length = int.from_bytes(datagram[at + 11 : at + HEADER_SIZE], "big")
        following = at + HEADER_SIZE + length
        if at + HEADER_SIZE > end or following > end or length > MAX_FRAGMENT:
            raise ParseError("a datagram that does not end where its last record ends")
        records.append(bytes(datagram[at:following]))
        at = following
    if not records:
        raise ParseError("a datagram without a record")
    return records


def pack(records: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Yield datagrams of ``most`` bytes at most, each with as many of the records as have room (section 4.1.1)."""
    datagram = b""
    for record in records:
        if datagram and len(datagram) + len(record) > most:
            yield datagram
            datagram = b""
        datagram += record
    if datagram:
        yield datagram


def epoch(record: bytes) -> int:
    """Return a record's epoch: 0 before keys are agreed."""
    return int.from_bytes(record[3:5], "big")


def number(record: bytes) -> int:
    """Return a record's sequence number within its epoch."""
    return int.from_bytes(record[5:11], "big")


def renumbered(record: bytes, sequence: int) -> bytes:
    """Return the record with another sequence number; only for one that nothing protects."""
    return record[:5] + sequence.to_bytes(6, "big") + record[11:]


def is_change_cipher_spec(record: bytes) -> bool:
    """Tell whether a record is ChangeCipherSpec as there is only one (RFC 5246, section 7.1)."""
    return record[0] == CHANGE_CIPHER_SPEC and record[HEADER_SIZE:] == b"\x01"


def fatal_alert(record: bytes) -> int | None:
    """Return the description in an unprotected fatal alert; None when the record is none (RFC 5246, section 7.2)."""
    fatal = record[0] == ALERT and not epoch(record) and len(record) == HEADER_SIZE + 2 and record[HEADER_SIZE] == 2
    return record[-1] if fatal else None


def message_type(record: bytes) -> int | None:
    """Return the type of the handshake message in an unprotected record; None when there is none."""
    if record[0] != HANDSHAKE or epoch(record) or len(record) < HEADER_SIZE + _MESSAGE_HEADER_SIZE:
        return None
    return record[HEADER_SIZE]


def hello_random(record: bytes) -> bytes | None:
    """Return the 32 random bytes of a ClientHello in one piece; None when the record is none."""
    random = record[_RANDOM_AT : _RANDOM_AT + RANDOM_SIZE]
    return random if message_type(record) == CLIENT_HELLO and len(random) == RANDOM_SIZE else None


def hello_cookie(record: bytes) -> bytes:
    """Return the cookie of a ClientHello in one piece, empty when it has none (RFC 6347, section 4.2.1)."""
    at = _RANDOM_AT + RANDOM_SIZE
    at += 1 + int.from_bytes(record[at : at + 1], "big")  # the session's name
    size = int.from_bytes(record[at : at + 1], "big")
    cookie = record[at + 1 : at + 1 + size]
    return cookie if len(cookie) == size and hello_random(record) is not None else b""


def message_body(record: bytes) -> bytes:
    """Return what is behind the message header of a record for which :func:`message_type` is not None."""
    return record[HEADER_SIZE + _MESSAGE_HEADER_SIZE :]


def hello_request(sequence: int) -> bytes:
    """Return an unprotected HelloRequest, 25 bytes: the server asks for a handshake (RFC 5246, section 7.4.1.1)."""
    message = bytes((HELLO_REQUEST,)) + bytes(_MESSAGE_HEADER_SIZE - 1)
    head = bytes((HANDSHAKE,)) + _VERSION + bytes(2) + (sequence % 2**48).to_bytes(6, "big")
    return head + len(message).to_bytes(2, "big") + message


def is_hello_request(record: bytes) -> bool:
    """Tell whether a record is what :func:`hello_request` makes."""
    return message_type(record) == HELLO_REQUEST and record[HEADER_SIZE:] == bytes(_MESSAGE_HEADER_SIZE)


def is_data(datagram: bytes) -> bool:
    """Tell whether a datagram is one protected record of application data, to judge by its header."""
    length = len(datagram) - HEADER_SIZE
    return datagram.startswith(_PROTECTED) and 0 < length == int.from_bytes(datagram[11:HEADER_SIZE], "big")


def all_data(buffer: bytes, size: int, end: int) -> bool:
    """Tell whether all datagrams of ``size`` bytes up to ``end`` are as :func:`is_data` has them.

    Column by column, for all at once.
    """
    first = buffer[:size]
    if not is_data(first):
        return False
    count = end // size
    places = (0, 1, 2, 3, 4, 11, 12)
    return all(buffer[place:end:size] == first[place : place + 1] * count for place in places)

"""One DTLS 1.2 connection between two NVEs over memory BIOs: records and times in, records and a state out.

No method raises what comes of the peer's bytes: a connection that failed says why in ``failure``, one sentence. OpenSSL
keeps the retransmission timer (RFC 6347, section 4.2.4) by the machine's own clock; ``timer_at`` is when to look after
it, by the clock that all the times here are of.

Records of a handshake that nothing protects could be anybody's. So their numbers begin at one that the client draws;
the server's begin at that of the client's hello (section 4.2.1), and both take records only with numbers from there on.
Nobody knows them who does not see the handshake. OpenSSL counts from 0 still; and what it is given is numbered anew,
for by numbers it finds repetitions, and a forged record with the number that a true one is going to have would shut
that out. It gets only messages that can belong where they come, and no alerts.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
from collections.abc import Sequence

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

from nve.dtls import records
from nve.dtls.context import VERSION_NAME, DtlsContext, Expected, refuse_certificate

READ_AT_ONCE = 16_000
"""Bytes of records that OpenSSL is given in one piece: it reads a little more than 16 KiB at once, and what is cut off
there is lost. Records that follow each other are what a datagram may have (RFC 6347, section 4.1.1)."""
MAX_HELLO = 2**12
"""Bytes of the largest ClientHello that is looked at; ours have less than 200."""
_FIRST_BITS = 47
"""How many bits of a record number the client draws: all but one of them."""
_NUMBERS = 2**10
"""How many record numbers belong to a handshake; one that is disturbed by losses only has some dozens."""
_MOST_NUMBER = 2**48 - 2 * _NUMBERS
"""Record numbers of hellos end here, so that those which follow never come to an end."""
_FROM_SERVER = frozenset(
    (
        records.SERVER_HELLO,
        records.HELLO_VERIFY_REQUEST,
        records.CERTIFICATE,
        records.SERVER_KEY_EXCHANGE,
        records.CERTIFICATE_REQUEST,
        records.SERVER_HELLO_DONE,
    )
)
_FROM_CLIENT = frozenset((records.CERTIFICATE, records.CLIENT_KEY_EXCHANGE, records.CERTIFICATE_VERIFY))
_LEAST_TIMER = 0.001
_ROOM = 2**16

_lib, _ffi = Binding.lib, Binding.ffi
_plaintext = _ffi.new("char[]", _ROOM)
"""Where OpenSSL writes what it decrypts: one place for all sessions, copied from at once."""


class DtlsSession:
    """One end of one connection; a client, or the server that :class:`Listener` made of a client's second hello."""

    def __init__(
        self,
        connection: SSL.Connection,
        context: DtlsContext,
        peer: str,
        client: bool,
        now: float,
        first: int,
    ) -> None:
        """``first`` is the number of the client's hello, the last one that OpenSSL was given where this is a server."""
        self.peer, self.client, self.started = peer, client, now
        self.hello_random = b""
        """A server's: what tells the client's hello from another."""
        self.suite = context.suite
        self.established_at: float | None = None
        self.failure: str | None = None
        """Why it is of no more use; None while it is."""
        self.sent = self.received = 0
        """Records with data."""
        self.timer_at: float | None = None
        self._connection = connection
        self._mtu = context.mtu
        self._first = first
        self._number = 0 if client else first + 1
        self._verify_request: bytes | None = None
        # pyOpenSSL's send and recv are three times as long around SSL_write and SSL_read as those take themselves.
        self._ssl = connection._ssl
        self._handshake(now)

    @property
    def seconds(self) -> float:
        """How long the handshake took."""
        return 0.0 if self.established_at is None else self.established_at - self.started

    def receive(self, record: bytes, now: float) -> None:
        """Take one record that is part of a handshake, or an alert that is protected."""
        if self.failure is not None:
            return
        if records.epoch(record) == 0:
            if self.established_at is not None or not self.owns(record) or not self._fits(record):
                return
            record = records.renumbered(record, self._number)
            self._number += 1
        self._connection.bio_write(record)
        if self.established_at is None:
            self._handshake(now)
        else:
            self._read(1)

    def owns(self, record: bytes) -> bool:
        """Tell whether a record that nothing protects has a number of this handshake."""
        return 0 <= records.number(record) - self._first < _NUMBERS

    def contradicts(self, record: bytes) -> bool:
        """Tell whether a record is a HelloVerifyRequest with another cookie than the one that was taken.

        Then either of them is forged, or the server was started anew.
        """
        taken = self._verify_request
        hello = records.message_type(record) == records.HELLO_VERIFY_REQUEST
        return hello and taken is not None and records.message_body(record) != taken

    def run_timer(self, now: float) -> None:
        """Send again what got no answer, if OpenSSL's own timer says so too."""
        try:
            self._connection.DTLSv1_handle_timeout()
        except SSL.Error as error:
            self._fail(f"the DTLS handshake failed: {_reason(error)}")
        self._set_timer(now)

    def take_outgoing(self) -> list[bytes]:
        """Return what is to be sent of handshakes and alerts, as datagrams."""
        stream = b""
        try:
            while True:
                stream += self._connection.bio_read(_ROOM)
        except SSL.Error:
            return list(records.pack(map(self._sent, records.split(stream)), self._mtu)) if stream else []

    def seal(self, packets: Sequence[bytes]) -> list[bytes]:
        """Return a record for each packet, each ``suite.overhead`` bytes longer; fewer when the connection fails.

        A packet has 2**14 bytes at most: one more, and the connection fails.
        """
        if self.failure is not None or self.established_at is None or not packets:
            return []
        ssl, write, size, count = self._ssl, _lib.SSL_write, 0, 0
        for packet in packets:
            if write(ssl, packet, len(packet)) != len(packet):
                self._find_failure(-1, "sending over DTLS failed")
                break
            size += len(packet)
            count += 1
        if not count:
            return []
        overhead = self.suite.overhead
        stream = self._connection.bio_read(size + overhead * count)
        self.sent += count
        sealed, at = [], 0
        for packet in packets[:count]:
            end = at + len(packet) + overhead
            sealed.append(stream[at:end])
            at = end
        return sealed

    def open(self, buffer: bytes, size: int, end: int) -> tuple[bytes, int]:
        """Open records of ``size`` bytes that stand one behind the other in ``buffer``, up to ``end``.

        Returns the plaintexts of those that verified and were not received before, one behind the other, and their
        number. Each is ``suite.overhead`` bytes shorter than its record.
        """
        step = max(1, READ_AT_ONCE // size) * size
        if end <= step:
            return self._open(buffer if end == len(buffer) else memoryview(buffer)[:end], end // size)
        plaintexts, count, view = [], 0, memoryview(buffer)
        for start in range(0, end, step):
            stop = min(start + step, end)
            plaintext, opened = self._open(view[start:stop], (stop - start) // size)
            plaintexts.append(plaintext)
            count += opened
        return b"".join(plaintexts), count

    def close(self) -> None:
        """End the connection and tell the peer (close_notify); take_outgoing has the record."""
        if self.established_at is not None and self.failure is None:
            with contextlib.suppress(SSL.Error):
                self._connection.shutdown()
        self._fail("it was closed")

    def _open(self, piece: bytes | memoryview, count: int) -> tuple[bytes, int]:
        if self.failure is not None:
            return b"", 0
        self._connection.bio_write(piece)
        size, opened = self._read(count)
        self.received += opened
        return (_ffi.buffer(_plaintext, size)[:] if size else b""), opened

    def _read(self, count: int) -> tuple[int, int]:
        """Let OpenSSL decrypt what it was given, ``count`` records: size of all plaintexts, and number."""
        ssl, read, at = self._ssl, _lib.SSL_read, 0
        for opened in range(count):
            got = read(ssl, _plaintext + at, _ROOM - at)
            if got <= 0:
                self._find_failure(got, "the DTLS connection failed")
                return at, opened
            at += got
        return at, count

    def _sent(self, record: bytes) -> bytes:
        """Return a record of OpenSSL's as it is to be sent."""
        if records.epoch(record):
            return record
        return records.renumbered(record, self._first + records.number(record))

    def _fits(self, record: bytes) -> bool:
        """Tell whether OpenSSL is to see a record that nothing protects."""
        if record[0] != records.HANDSHAKE:
            return records.is_change_cipher_spec(record)
        message = records.message_type(record)
        if message == records.HELLO_VERIFY_REQUEST and self.client:
            # The first one counts. Others come of hellos that somebody else sent in our name.
            if self._verify_request is not None:
                return False
            self._verify_request = records.message_body(record)
            return True
        return message in (_FROM_SERVER if self.client else _FROM_CLIENT)

    def _handshake(self, now: float) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            self._set_timer(now)
            return
        except SSL.Error as error:
            self._fail(self._refusal() or f"the DTLS handshake failed: {_reason(error)}")
            return
        self.timer_at = None
        refusal = self._check()
        if refusal is None:
            self.established_at = now
        else:
            self._fail(refusal)

    def _check(self) -> str | None:
        """Look once more at what all depends on, now that the handshake is complete."""
        connection = self._connection
        certificate = connection.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            return "the peer showed no certificate"
        agreed = connection.get_protocol_version_name(), connection.get_cipher_name()
        if agreed != (VERSION_NAME, self.suite.name):
            return f"{agreed[0]} with {agreed[1]} was agreed on, which was not offered"
        return refuse_certificate(certificate, self.peer)

    def _refusal(self) -> str | None:
        expected = self._connection.get_app_data()
        return expected.refusal if isinstance(expected, Expected) else None

    def _find_failure(self, result: int, what: str) -> None:
        """Ask OpenSSL why there is no (further) record; that there is none is no failure."""
        try:
            self._connection._raise_ssl_error(self._ssl, result)
        except SSL.WantReadError:
            return
        except SSL.ZeroReturnError:
            self._fail("the peer closed it")
        except SSL.Error as error:
            self._fail(f"{what}: {_reason(error)}")

    def _fail(self, reason: str) -> None:
        self.timer_at = None
        if self.failure is None:
            self.failure = reason

    def _set_timer(self, now: float) -> None:
        left = None if self.failure is not None else self._connection.DTLSv1_get_timeout()
        self.timer_at = None if left is None else now + max(left, _LEAST_TIMER)


def connect(context: DtlsContext, peer: str, now: float) -> DtlsSession:
    """Return a client's session; its first flight is to be sent."""
    return DtlsSession(context.connect(peer), context, peer, True, now, secrets.randbits(_FIRST_BITS))


class Listener:
    """Answers clients' hellos, and keeps nothing of any until one comes back with its cookie (section 4.2.1)."""

    def __init__(self, context: DtlsContext) -> None:
        self._context = context
        self._connection = context.listen()

    def proven(self, record: bytes, address: bytes, now: float) -> bool:
        """Tell whether a ClientHello has a cookie that is good for the address."""
        cookie = records.hello_cookie(record)
        return any(hmac.compare_digest(cookie, good) for good in self._context.cookies(address, now))

    def offer(self, record: bytes, peer: str, address: bytes, now: float) -> tuple[list[bytes], DtlsSession | None]:
        """Take a ClientHello from an address; return datagrams to send there, a session once the cookie is right."""
        random, number = records.hello_random(record), records.number(record)
        if random is None or len(record) > min(MAX_HELLO, self._context.mtu) or number >= _MOST_NUMBER:
            return [], None
        connection = self._connection
        self._context.expect(connection, peer, address, now)
        connection.bio_write(record)
        try:
            connection.DTLSv1_listen()
        except SSL.WantReadError:
            if _unread(connection):
                self._connection = self._context.listen()  # what is left would be taken for part of the next hello
            return _take(connection), None
        except SSL.Error:
            self._connection = self._context.listen()
            return [], None
        self._connection = self._context.listen()
        session = DtlsSession(connection, self._context, peer, False, now, number)
        session.hello_random = random
        return session.take_outgoing(), session


def _unread(connection: SSL.Connection) -> int:
    """Return how many bytes OpenSSL has been given and has not read."""
    return int(_lib.BIO_get_mem_data(connection._into_ssl, _ffi.new("char **")))


def _take(connection: SSL.Connection) -> list[bytes]:
    try:
        return [connection.bio_read(_ROOM)]
    except SSL.Error:
        return []


def _reason(error: SSL.Error) -> str:
    """Return what OpenSSL says, in a few words."""
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    texts = [str(entry[-1]) for entry in entries if entry[-1]]
    return texts[0] if texts else type(error).__name__

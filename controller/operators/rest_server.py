"""The listener of the interface for operators (thin shell): sockets, TLS, deadlines, one thread for each connection.

A certificate is proof, an address is none. So whoever has not proven to be an operator must make room when too many
wait, the oldest first, and every connection has a deadline for each of its phases, however busy it seems.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from controller.admission import Admission, Waiting
from controller.operators.event_stream import EventStream
from controller.operators.http_message import MAX_BODY, HttpError, Request, RequestReader, response_head
from controller.operators.northbound import Northbound, Response, problem
from geneve.control.tls import TlsEndpoint
from geneve.errors import ParseError

MAX_UNPROVEN = 64
"""Connections at once that have not proven to be an operator's, at most."""
MAX_OPERATORS = 32
"""Connections of operators at once at most; further ones are told so."""
MAX_STREAMS = 16
"""Of these, streams of events at most."""
MAX_THREADS = 128
"""Connections at once in all, those included that are about to end; further ones wait to be accepted."""
HANDSHAKE_TIME = 5.0
"""Seconds until the handshake must be complete."""
REQUEST_TIME = 10.0
"""Seconds from then until the request must be complete."""
RESPONSE_TIME = 10.0
"""Seconds in which a client must take a response, or a part of a stream."""
LINGER_TIME = 1.0
"""Seconds in which a client may go on sending what nobody reads: at once closed, it might lose the response."""
STREAM_POLL = 0.25
"""Seconds between two looks for new events."""

_RECEIVE_SIZE = 65536

log = logging.getLogger("controller")


class _Client:
    """One connection; ``name`` is that in its certificate, once that is known."""

    def __init__(self, number: int, address: str, connected: socket.socket, context: ssl.SSLContext) -> None:
        self.number, self.address = number, address
        self._socket, self._tls = connected, TlsEndpoint(context)
        self.name: str | None = None
        self.operator = self.evicted = False

    @property
    def who(self) -> str:
        """What the audit log calls it."""
        return self.name or self.address

    @property
    def phase(self) -> str:
        """What it is about to complete."""
        return "the TLS handshake" if self.name is None else "its request"

    def evict(self) -> None:
        """End the connection, which has proven nothing, to make room for others."""
        self.evicted = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def handshake(self) -> bytes:
        """Learn the client's name; returns what it has sent already. ParseError or OSError when it fails."""
        deadline = time.monotonic() + HANDSHAKE_TIME
        while self._tls.peer_name is None:
            plaintext = self.receive(deadline)
        self.name = self._tls.peer_name
        return plaintext

    def receive(self, deadline: float) -> bytes:
        """Wait for bytes; returns the plaintext in them, if any. EOFError when there will be none."""
        self._socket.settimeout(_remaining(deadline))
        data = self._socket.recv(_RECEIVE_SIZE)
        if not data or self._tls.closed:
            raise EOFError
        try:
            plaintext = self._tls.receive(data)
        except ParseError:
            with contextlib.suppress(OSError):
                self._flush(deadline)  # the alert that tells the client why
            raise
        self._flush(deadline)
        return plaintext

    def send(self, data: bytes, deadline: float) -> None:
        """Send ``data``; TimeoutError when the client does not take all of it in time."""
        self._tls.send(data)
        self._flush(deadline)

    def _flush(self, deadline: float) -> None:
        outgoing = memoryview(self._tls.take_outgoing())
        while outgoing:
            self._socket.settimeout(_remaining(deadline))
            outgoing = outgoing[self._socket.send(outgoing) :]

    def linger(self) -> None:
        """Say that nothing more comes, and let what is on its way here run out."""
        deadline = time.monotonic() + LINGER_TIME
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while True:
                self._socket.settimeout(_remaining(deadline))
                if not self._socket.recv(_RECEIVE_SIZE):
                    return

    def close(self) -> None:
        """Free the socket."""
        self._socket.close()


def _remaining(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


class RestServer:
    """Serves operators."""

    def __init__(
        self,
        spawn: Callable[..., Any],
        context: ssl.SSLContext,
        listener: socket.socket,
        northbound: Northbound,
    ) -> None:
        """``spawn`` runs a function at the same time; ``context`` demands a certificate of clients."""
        self._spawn, self._context, self._listener, self._northbound = spawn, context, listener, northbound
        # Nobody is refused for its address: a full house evicts the oldest from where most come from.
        self._admission = Admission([], total=MAX_UNPROVEN, reserved=0, per_address=MAX_THREADS)
        self._slots = threading.Semaphore(MAX_THREADS)
        self._lock = threading.Lock()
        self._clients: dict[int, _Client] = {}
        self._streams = 0

    def serve(self) -> None:
        """Accept connections for ever."""
        number = 0
        while True:
            self._slots.acquire()
            number += 1
            try:
                connected, peer = self._listener.accept()
            except OSError as error:  # the client was gone already, or there are no descriptors left
                log.warning("REST: accept failed: %s", error.strerror)
                self._slots.release()
                time.sleep(0.1)
                continue
            client = _Client(number, peer[0], connected, self._context)
            self._make_room(client)
            try:
                self._spawn(self._handle, client)
            except RuntimeError as error:  # no more threads
                log.warning("REST: %s", error)
                self._leave(client)

    def _make_room(self, client: _Client) -> None:
        with self._lock:
            unproven = {
                entry.number: entry
                for entry in self._clients.values()
                if not entry.operator and not entry.evicted
            }
            waiting = [Waiting(number, entry.address) for number, entry in unproven.items()]
            verdict = self._admission.judge(client.address, waiting)
            if verdict.evicted is not None:
                unproven[verdict.evicted].evict()
            self._clients[client.number] = client

    def _leave(self, client: _Client) -> None:
        with self._lock:
            del self._clients[client.number]
        client.close()
        self._slots.release()

    def _handle(self, client: _Client) -> None:
        try:
            self._converse(client)
        except TimeoutError:
            self._refuse(client, f"did not complete {client.phase} in time")
        except EOFError:
            self._refuse(client, f"ended the connection before {client.phase} was complete")
        except ParseError as error:
            self._refuse(client, str(error))
            client.linger()
        except OSError as error:
            self._refuse(client, error.strerror or type(error).__name__)
        except Exception:  # whatever it was, it must show
            log.exception("REST: a connection failed")
        finally:
            self._leave(client)

    def _refuse(self, client: _Client, reason: str) -> None:
        if client.evicted:
            reason = "made room for others before it had proven to be an operator's"
        self._northbound.refuse(client.who, reason)

    def _converse(self, client: _Client) -> None:
        """Take one request and answer it."""
        first = client.handshake()
        assert client.name is not None
        try:
            if self._northbound.admits(client.name) and not self._promote(client):
                raise HttpError(503, f"more than {MAX_OPERATORS} requests of operators at once; try again.")
            request = self._read(client, first)
            response = self._northbound.answer(client.name, request, time.monotonic())
        except HttpError as error:
            request, response = None, self._northbound.fault(client.name, error)
        if response.stream is None:
            self._respond(client, response, request)
        else:
            self._stream(client, response, response.stream)

    def _promote(self, client: _Client) -> bool:
        """Count a connection as an operator's, which never makes room; returns False when there are too many."""
        with self._lock:
            if sum(entry.operator for entry in self._clients.values()) >= MAX_OPERATORS:
                return False
            client.operator = True
            return True

    @staticmethod
    def _read(client: _Client, data: bytes) -> Request:
        reader = RequestReader(MAX_BODY if client.operator else 0)  # memory is for who has proven to be an operator
        deadline = time.monotonic() + REQUEST_TIME
        while (request := reader.feed(data)) is None:
            if interim := reader.take_interim():
                client.send(interim, deadline)
            data = client.receive(deadline)
        return request

    @staticmethod
    def _respond(client: _Client, response: Response, request: Request | None) -> None:
        head = response_head(response.status, response.headers, len(response.body))
        body = b"" if request is not None and request.method == "HEAD" else response.body
        try:
            client.send(head + body, time.monotonic() + RESPONSE_TIME)
        except OSError as error:
            log.debug("REST: %s did not take its response (%s)", client.who, error)
            return
        client.linger()

    def _stream(self, client: _Client, response: Response, stream: EventStream) -> None:
        with self._lock:
            admitted = self._streams < MAX_STREAMS
            self._streams += admitted
        if not admitted:
            text = f"there are {MAX_STREAMS} streams of events already; try again later."
            self._respond(client, problem(503, text), None)
            return
        try:
            client.send(response_head(response.status, response.headers, None), time.monotonic() + RESPONSE_TIME)
            while True:
                if data := stream.poll(time.monotonic()):
                    client.send(data, time.monotonic() + RESPONSE_TIME)
                with contextlib.suppress(TimeoutError):
                    # A pause that ends when the client goes; one that talks instead of listening is not served on.
                    if client.receive(time.monotonic() + STREAM_POLL):
                        return
        except (OSError, EOFError, ParseError) as error:
            log.debug("REST: a stream to %s ended (%s)", client.who, type(error).__name__)
        finally:
            with self._lock:
                self._streams -= 1

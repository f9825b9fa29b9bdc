"""The NVA's TLS listener for nodes (thin shell): sockets, and a reader and writer for each.

A connection's writer alone sends on its socket, from a bounded queue: a slow node fills its own queue and
is cut off, and nobody waits for it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from controller.admission import Admission, MessageRate, Waiting
from controller.authority.nva import Close, Closed, Effect, Input, Opened, Received, Send
from controller.shell import Shell
from geneve.control import jsonrpc
from geneve.control.tls import TlsEndpoint
from geneve.errors import ConfigError, ParseError

MAX_CONNECTIONS = 2048
"""Connections at most; further ones are closed at once."""
HANDSHAKE_TIMEOUT = 5.0
"""Seconds until the handshake must be complete."""
IDLE_TIMEOUT = 20.0
"""Seconds without a byte after which a connection is closed; nodes ping more often."""
SEND_TIMEOUT = 5.0
"""Seconds in which a node must take what is sent to it."""
CROWDED_TIMEOUT = 0.5
"""Seconds for which a new connection waits in the kernel's queue while nodes are on their handshakes."""
CROWDED_STEP = 0.005
"""Seconds between two looks whether there is room."""
MAX_WAITING = 4096
"""Messages waiting for one node at most: what one read can bring is answered before the first answer is sent."""
MAX_WAITING_BYTES = 2 * jsonrpc.MAX_PUSH_SIZE
"""Bytes of them at most."""

_BACKLOG = 2048
_RECEIVE_SIZE = 65536
_END = object()
_FLUSH = b""

log = logging.getLogger("controller")


def listen(address: str, port: int, what: str) -> socket.socket:
    """Return a listening TCP socket; ConfigError says why there cannot be one."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"{what}: cannot listen on {address} port {port} ({error.strerror}).") from None
    return listener


class Connection:
    """One TLS connection of a node."""

    def __init__(
        self, number: int, endpoint: TlsEndpoint, connected: socket.socket, shell: Shell, address: str
    ) -> None:
        self.number, self.address = number, address
        self._tls, self._socket, self._shell = endpoint, connected, shell
        self._tls_lock = threading.Lock()
        self._queue: queue.Queue[object] = queue.Queue(MAX_WAITING)
        self._queued = 0
        self._queued_lock = threading.Lock()
        self._rate = MessageRate()
        self._reason: str | None = None
        """Why the connection ends: what came first, not what followed from it."""
        self.named = self.evicted = False

    def put(self, item: object) -> None:
        """Queue plaintext to send, or the end; a connection whose queue is full is cut off."""
        size = len(item) if isinstance(item, bytes) else 0
        with self._queued_lock:
            fits = not size or self._queued + size <= MAX_WAITING_BYTES
            self._queued += size if fits else 0
        try:
            if not fits:
                raise queue.Full
            self._queue.put_nowait(item)
        except queue.Full:
            self.cut("does not read")

    def cut(self, reason: str) -> None:
        """End the connection now."""
        self._reason = self._reason or reason
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def evict(self) -> None:
        """End the connection, which has proven nothing, to make room for others."""
        self.evicted = True
        self.cut("made room for others before its handshake was complete")

    def end(self, reason: str) -> None:
        """End the connection when what waits has been sent."""
        self._reason = self._reason or reason
        self.put(_END)

    def read(self) -> None:
        """Receive until the connection ends (the reader's thread)."""
        self._socket.settimeout(SEND_TIMEOUT)
        decoder = jsonrpc.FrameDecoder()
        deadline = time.monotonic() + HANDSHAKE_TIMEOUT
        try:
            while (data := self._receive(deadline)) != b"":
                self._take(data, decoder)
                if self.named:
                    deadline = time.monotonic() + IDLE_TIMEOUT
        except ParseError as error:
            self._reason = self._reason or str(error)
            self._finish_alert()
        except OSError as error:
            self._reason = self._reason or error.strerror or type(error).__name__
        finally:
            self._leave()

    def _receive(self, deadline: float) -> bytes:
        while time.monotonic() < deadline:
            try:
                return self._socket.recv(_RECEIVE_SIZE)
            except TimeoutError:
                continue
        self._reason = self._reason or ("was silent" if self.named else "did not complete the TLS handshake")
        return b""

    def _take(self, data: bytes, decoder: jsonrpc.FrameDecoder) -> None:
        with self._tls_lock:
            plaintext = self._tls.receive(data)
        self.put(_FLUSH)
        if not self.named and self._tls.peer_name is not None:
            self.named = True
            self._shell.node(Opened(self.number, self._tls.peer_name))
        if plaintext:
            self._spend(len(plaintext))
        decoder.feed(plaintext)
        messages: list[Input] = []
        try:
            while (message := decoder.next_message()) is not None:
                self._spend()
                messages.append(Received(self.number, message))
        finally:
            if messages:  # those before one that is not sound count
                self._shell.node(*messages)
        if self._tls.closed:
            self.cut("closed by the node")

    def _spend(self, size: int = 0) -> None:
        """Count a message, or ``size`` bytes of some, against what one node may send; ParseError beyond."""
        if not self._rate.allows(time.monotonic(), size):
            raise ParseError("sends more messages than any node needs")

    def _finish_alert(self) -> None:
        """Let the writer send TLS's alert, which tells the node why, before the socket closes."""
        self.put(_FLUSH)

    def _leave(self) -> None:
        reason = self._reason or "closed by the node"
        if self.named:
            self._shell.node(Closed(self.number, reason))
        else:
            self._shell.refused(self.address, reason)
        self.put(_END)

    def write(self) -> None:
        """Send what is queued until the end comes (the writer's thread), then close."""
        try:
            ended = False
            while not ended:
                items = [self._queue.get()]
                with contextlib.suppress(queue.Empty):
                    while items[-1] is not _END:
                        items.append(self._queue.get_nowait())
                ended = items[-1] is _END
                with self._queued_lock:
                    self._queued -= sum(len(item) for item in items if isinstance(item, bytes))
                with self._tls_lock:
                    for item in items:
                        if isinstance(item, bytes) and item:
                            self._tls.send(item)
                    outgoing = self._tls.take_outgoing()
                if outgoing:
                    self._socket.sendall(outgoing)
        except TimeoutError:
            self.cut("does not read")
        except (OSError, ParseError):
            self.cut("the connection failed")
        else:
            self.cut(self._reason or "closed by the node")


class NodeServer:
    """Listens for nodes."""

    def __init__(
        self,
        spawn: Callable[..., Any],
        shell: Shell,
        context: ssl.SSLContext,
        listener: socket.socket,
        admission: Admission,
    ) -> None:
        """``spawn`` runs a function at the same time and returns something with a method ``wait``."""
        self._spawn, self._shell, self._context = spawn, shell, context
        self._listener, self._admission = listener, admission
        self._numbers = itertools.count(1)
        self._connections: dict[int, Connection] = {}
        shell.dispatch_node = self._dispatch

    def _dispatch(self, effect: Effect) -> None:
        connection = self._connections.get(effect.connection)
        if connection is None:
            return
        if isinstance(effect, Send):
            try:
                connection.put(jsonrpc.encode(effect.message, jsonrpc.MAX_PUSH_SIZE))
            except ValueError as error:
                connection.end(str(error))
        elif isinstance(effect, Close):
            connection.end(effect.reason)

    def serve(self) -> None:
        """Accept connections for ever."""
        while True:
            self._wait_for_room()
            try:
                connected, peer = self._listener.accept()
            except OSError as error:  # the node was gone already, or there are no descriptors left
                log.warning("accept failed: %s", error.strerror)
                time.sleep(0.1)
                continue
            if not self._admits(peer[0]):
                self._shell.refused(peer[0], "too many connections: turned away at the door")
                connected.close()
                continue
            number = next(self._numbers)
            endpoint = TlsEndpoint(self._context)
            connection = Connection(number, endpoint, connected, self._shell, peer[0])
            self._connections[number] = connection
            self._spawn(self._serve, connection, connected)

    def _wait_for_room(self) -> None:
        """Leave new connections in the kernel's queue while as many nodes as it takes are on their handshakes."""
        deadline = time.monotonic() + CROWDED_TIMEOUT
        while self._admission.crowded(_waiting(self._unnamed())) and time.monotonic() < deadline:
            time.sleep(CROWDED_STEP)

    def _unnamed(self) -> dict[int, Connection]:
        return {entry.number: entry for entry in list(self._connections.values()) if not entry.named}

    def _admits(self, address: str) -> bool:
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        unnamed = self._unnamed()
        waiting = _waiting(unnamed)
        verdict = self._admission.judge(address, waiting)
        if verdict.evicted is not None:
            unnamed[verdict.evicted].evict()
        return verdict.admitted

    def _serve(self, connection: Connection, connected: socket.socket) -> None:
        writer = self._spawn(connection.write)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.read()
            writer.wait()
        finally:
            del self._connections[connection.number]
            connected.close()


def _waiting(unnamed: Mapping[int, Connection]) -> list[Waiting]:
    return [Waiting(number, entry.address) for number, entry in unnamed.items() if not entry.evicted]

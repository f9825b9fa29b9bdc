"""A node's connection to the NVA: the control protocol over TLS, and a new connection after each failure.

:class:`NodeSession` is one connection (bytes and times in, bytes and events out) around the protocol's own state
machine in protocol.py. :class:`ControlLink` keeps one going over a transport that the caller's ``connect`` opens, and
opens a new one after a failure, later and later, at random times.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Sequence
from typing import Protocol

from geneve.control import jsonrpc
from geneve.control.demand import Demand, Tenant
from geneve.control.protocol import (
    Disconnected,
    Event,
    Identity,
    NodeProtocol,
    Progress,
    SessionError,
    StateReceived,
)
from geneve.control.tls import TlsEndpoint
from geneve.errors import ParseError

MAX_OUTGOING = 2 * jsonrpc.MAX_FRAME_SIZE
"""Bytes that wait to be sent at most; beyond, the NVA does not read and the connection is given up."""

_RECEIVE_SIZE = 65536
_RECEIVES_PER_CALL = 8


class Transport(Protocol):
    """What a connection must offer; a connected or connecting non-blocking socket does."""

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        ...

    def recv(self, size: int, /) -> bytes:
        """Return received bytes, none at the end; BlockingIOError when there are none yet."""
        ...

    def send(self, data: bytes, /) -> int:
        """Send some of ``data``, return how much; BlockingIOError when none can be sent now."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class NodeSession:
    """One connection to the NVA. ``receive`` and ``on_timer`` raise ParseError when it has to end."""

    def __init__(self, identity: Identity, context: ssl.SSLContext, progress: Progress, now: float) -> None:
        self.protocol = NodeProtocol(identity, progress, now)
        self._tls = TlsEndpoint(context, server_name=identity.nva)
        self._decoder = jsonrpc.FrameDecoder(jsonrpc.MAX_PUSH_SIZE)
        self.flush()

    def flush(self) -> None:
        """Encrypt what the protocol has to say."""
        for message in self.protocol.take_outgoing():
            self._tls.send(jsonrpc.encode(message))

    def take_outgoing(self) -> bytes:
        """Return the bytes to send now."""
        self.flush()
        return self._tls.take_outgoing()

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take received bytes; ParseError ends the connection."""
        events: list[Event] = []
        self._decoder.feed(self._tls.receive(data))
        while (message := self._decoder.next_message()) is not None:
            events += self.protocol.handle(message, now)
        if self._tls.closed:
            raise SessionError("the NVA closed the connection")
        return events


class ControlLink:
    """A connection to the NVA that is always there or being made again.

    The caller waits until the descriptor ``fileno()`` is readable, or writable if ``wants_write``, or until
    ``next_deadline``, and calls the method of that name; each returns the events to act on. When
    ``generation`` has changed, the descriptor is another one, even if its number is the same.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        context: ssl.SSLContext,
        connect: Callable[[], Transport],
        random: Callable[[], float],
        backoff: tuple[float, float] = (0.25, 8.0),
    ) -> None:
        """Keep everything ready; the first connection is made by the first :meth:`on_timer`.

        ``random`` returns numbers from 0 to 1; ``backoff`` is the first and the longest delay in seconds.
        """
        self._identity, self._context = identity, context
        self._connect, self._random = connect, random
        self._backoff = backoff
        self._failures = 0
        self._retry_at = -math.inf
        self._transport: Transport | None = None
        self._session: NodeSession | None = None
        self._outgoing = bytearray()
        self.progress = Progress()
        """The newest state applied; it outlives connections."""
        self.generation = 0
        """Counts the connections made."""

    def fileno(self) -> int | None:
        """Return the descriptor to wait on, or None while there is no connection."""
        return None if self._transport is None else self._transport.fileno()

    @property
    def registered(self) -> bool:
        """Whether the NVA has accepted this node on the present connection."""
        return self._session is not None and self._session.protocol.registered

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait to be sent."""
        if self._session is not None:
            self._outgoing += self._session.take_outgoing()
        return bool(self._outgoing)

    @property
    def next_deadline(self) -> float:
        """When ``on_timer`` wants to be called; minus infinity means now."""
        return self._retry_at if self._session is None else self._session.protocol.next_deadline

    def on_timer(self, now: float) -> list[Event]:
        """Connect, ping or give up, whichever is due."""
        if self._session is None:
            return self._open(now) if now >= self._retry_at else []
        try:
            self._session.protocol.on_timer(now)
        except ParseError as error:
            return self._drop(str(error), now)
        return self.on_writable(now)

    def on_readable(self, now: float) -> list[Event]:
        """Receive what is there, a bounded amount at a time."""
        events: list[Event] = []
        for _ in range(_RECEIVES_PER_CALL):
            if self._session is None or self._transport is None:
                return events
            try:
                data = self._transport.recv(_RECEIVE_SIZE)
                if not data:
                    return events + self._drop("the NVA closed the connection", now)
                events += self._session.receive(data, now)
            except BlockingIOError:
                break
            except ParseError as error:
                self.on_writable(now)  # TLS may have an alert for the other side
                return events + self._drop(str(error), now)
            except OSError as error:
                return events + self._drop(_os_reason(error), now)
            if self.registered:
                self._failures = 0
        return events + self.on_writable(now)

    def on_writable(self, now: float) -> list[Event]:
        """Send what waits, as far as it goes."""
        while self._transport is not None and self.wants_write:
            try:
                sent = self._transport.send(bytes(self._outgoing))
            except BlockingIOError:
                break
            except OSError as error:
                return self._drop(_os_reason(error), now)
            del self._outgoing[:sent]
        if len(self._outgoing) > MAX_OUTGOING:
            return self._drop("the NVA does not read", now)
        return []

    def acknowledge(self, event: StateReceived) -> None:
        """Say that ``event``'s state is applied. Send with ``on_writable`` (``wants_write`` is set)."""
        if self._session is not None:
            self._session.protocol.acknowledge(event)

    def refuse(self, event: StateReceived, reason: str) -> None:
        """Say in one sentence why ``event``'s state cannot be applied; the last good one stays in force."""
        if self._session is not None:
            self._session.protocol.refuse(event, reason)

    def ask_rekey(self, spi: int, now: float) -> bool:
        """Ask for an association in place of ``spi``; False while the node is not registered."""
        if self._session is None or not self.registered:
            return False
        self._session.protocol.ask_rekey(spi, now)
        return True

    def ask_keys(self, demands: Sequence[Demand], now: float) -> bool:
        """Ask for keys; False while the node is not registered."""
        if self._session is None or not self.registered:
            return False
        self._session.protocol.ask_keys(demands, now)
        return True

    def tell_tenants(self, number: int, tenants: Sequence[Tenant], now: float) -> bool:
        """Report all tenants of this node; False while it is not registered."""
        if self._session is None or not self.registered:
            return False
        self._session.protocol.tell_tenants(number, tenants, now)
        return True

    def confirm(self, vni: int, mac: str, present: bool) -> None:
        """Answer the NVA's question whether a tenant is here."""
        if self._session is not None:
            self._session.protocol.confirm(vni, mac, present)

    def close(self) -> None:
        """Close the connection and make no other."""
        self._retry_at = math.inf
        if self._transport is not None:
            self._transport.close()
        self._transport = self._session = None
        self._outgoing.clear()

    def _open(self, now: float) -> list[Event]:
        try:
            self._transport = self._connect()
        except OSError as error:
            return self._drop(_os_reason(error), now)
        self.generation += 1
        self._session = NodeSession(self._identity, self._context, self.progress, now)
        return self.on_writable(now)

    def _drop(self, reason: str, now: float) -> list[Event]:
        if self._retry_at == math.inf:
            return []
        if self._transport is not None:
            self._transport.close()
        self._transport = self._session = None
        self._outgoing.clear()
        first, longest = self._backoff
        delay = min(longest, first * 2.0 ** min(self._failures, 16))
        # Half the delay is random, so that nodes that lost the NVA together do not return together.
        self._retry_at = now + delay * (0.5 + self._random() / 2)
        self._failures += 1
        return [Disconnected(reason)]


def _os_reason(error: OSError) -> str:
    return f"the connection failed: {error.strerror or type(error).__name__}"

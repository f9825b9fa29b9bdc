"""A node's side of the control channel: registration, state pushes, acknowledgements, reconnection.

:class:`NodeSession` is one connection as a state machine over TLS and JSON-RPC: bytes and times in,
bytes and events out. :class:`ControlLink` keeps one going over a transport that the caller's
``connect`` opens, and opens a new one after a failure, later and later, at random times.

Requests of the node: ``register {instance, protocol, signing_key}`` (the last for NVEs that have one), ``ping {}``
and ``rekey {spi}``. Request of the NVA:
``state {epoch, version, state}``, answered ``{version}`` once the node has applied it.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from geneve.config import validate
from geneve.control import jsonrpc
from geneve.control.state import NodeState, Role
from geneve.control.tls import TlsEndpoint
from geneve.errors import ConfigError, ParseError

PROTOCOL_VERSION = 1
"""Version of the control protocol that a node names when it registers."""

PING_INTERVAL = 5.0
"""Seconds between two pings of a registered node."""

SILENCE_LIMIT = 15.0
"""Seconds without a byte from the NVA, or without being registered, after which the node gives up."""

MAX_OUTGOING = 2 * jsonrpc.MAX_FRAME_SIZE
"""Bytes that wait to be sent at most; beyond, the NVA does not read and the connection is given up."""

_MAX_EPOCH = 64
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


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is. ``instance`` is random for each start of the process, so the NVA sees a restart.

    ``signing_key`` is base64 of the Ed25519 public key with which an NVE proves its multicast packets.
    """

    name: str
    role: Role
    instance: str
    nva: str
    signing_key: str | None = None


@dataclass(slots=True)
class Progress:
    """The newest state this node has applied: the NVA's lifetime (``epoch``) and the version in it."""

    epoch: str | None = None
    version: int = 0

    def advance(self, event: StateReceived) -> None:
        """Record that ``event``'s state was applied."""
        self.epoch, self.version = event.epoch, event.version


@dataclass(frozen=True, slots=True)
class Registered:
    """The NVA has accepted the registration."""


@dataclass(frozen=True, slots=True)
class StateReceived:
    """A new state to apply, then to acknowledge or to refuse."""

    state: NodeState
    epoch: str
    version: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone or could not be made, and why."""

    reason: str


Event = Registered | StateReceived | Disconnected


class SessionError(ParseError):
    """The NVA broke the protocol or refused this node; the text is one sentence."""


class NodeSession:
    """One connection to the NVA. ``receive`` and ``on_timer`` raise ParseError when it has to end."""

    def __init__(self, identity: Identity, context: ssl.SSLContext, progress: Progress, now: float) -> None:
        self._identity = identity
        self._progress = progress
        self._tls = TlsEndpoint(context, server_name=identity.nva)
        self._decoder = jsonrpc.FrameDecoder()
        self._register_id = 1
        self._next_id = 2
        # Requests to answer once the caller has decided about the state they brought.
        self._offers: dict[tuple[str, int], list[jsonrpc.RequestId]] = {}
        self._last_received = self._started = now
        self._next_ping = math.inf
        self.registered = False
        """Whether the NVA has accepted the registration."""
        params: dict[str, Any] = {"instance": identity.instance, "protocol": PROTOCOL_VERSION}
        if identity.signing_key is not None:
            params["signing_key"] = identity.signing_key
        self._send(jsonrpc.Request(self._register_id, "register", params))

    def take_outgoing(self) -> bytes:
        """Return the bytes to send now."""
        return self._tls.take_outgoing()

    @property
    def next_deadline(self) -> float:
        """When ``on_timer`` wants to be called."""
        base = self._last_received if self.registered else self._started
        return min(self._next_ping, base + SILENCE_LIMIT)

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take received bytes; ParseError ends the connection."""
        self._last_received = now
        events: list[Event] = []
        self._decoder.feed(self._tls.receive(data))
        while (message := self._decoder.next_message()) is not None:
            events += self._handle(message, now)
        if self._tls.closed:
            raise SessionError("the NVA closed the connection")
        return events

    def on_timer(self, now: float) -> None:
        """Ping when it is time; SessionError when the NVA has been silent for too long."""
        base = self._last_received if self.registered else self._started
        if now >= base + SILENCE_LIMIT:
            raise SessionError(f"the NVA did not answer for {SILENCE_LIMIT:g} s")
        if now >= self._next_ping:
            self._next_ping = now + PING_INTERVAL
            self._ask("ping")

    def acknowledge(self, event: StateReceived) -> None:
        """Record that the caller has applied ``event``'s state, and tell the NVA."""
        self._progress.advance(event)
        for request in self._offers.pop((event.epoch, event.version), ()):
            self._send(jsonrpc.Response(request, {"version": event.version}))

    def refuse(self, event: StateReceived, reason: str) -> None:
        """Tell the NVA that ``event``'s state cannot be applied; the last good one stays."""
        for request in self._offers.pop((event.epoch, event.version), ()):
            self._send(jsonrpc.ErrorResponse(request, jsonrpc.INVALID_PARAMS, reason))

    def ask_rekey(self, spi: int) -> None:
        """Ask the NVA for an association in place of one that has reached its soft limit."""
        self._ask("rekey", {"spi": spi})

    def _ask(self, method: str, params: dict[str, Any] | None = None) -> None:
        self._send(jsonrpc.Request(self._next_id, method, params or {}))
        self._next_id += 1

    def _send(self, message: jsonrpc.Message) -> None:
        self._tls.send(jsonrpc.encode(message))

    def _handle(self, message: jsonrpc.Message, now: float) -> list[Event]:
        if isinstance(message, jsonrpc.Request):
            if message.method == "state" and self.registered:
                return self._state(message)
            text = f"a node knows no method '{message.method}' now"
            self._send(jsonrpc.ErrorResponse(message.id, jsonrpc.METHOD_NOT_FOUND, text))
        elif isinstance(message, jsonrpc.Response):
            if message.id == self._register_id and not self.registered:
                self.registered = True
                self._next_ping = now + PING_INTERVAL
                return [Registered()]
        elif isinstance(message, jsonrpc.ErrorResponse) and message.id in {self._register_id, None}:
            raise SessionError(f"the NVA refused: {message.message}")
        return []

    def _state(self, request: jsonrpc.Request) -> list[Event]:
        try:
            epoch, version, document = _push(request.params)
            if (epoch, version) in self._offers:
                self._offers[epoch, version].append(request.id)
                return []
            if version <= self._newest(epoch):
                self._send(jsonrpc.Response(request.id, {"version": version}))
                return []
            state = self._own(document)
        except ConfigError as error:
            self._send(jsonrpc.ErrorResponse(request.id, jsonrpc.INVALID_PARAMS, str(error)))
            return []
        self._offers[epoch, version] = [request.id]
        return [StateReceived(state, epoch, version)]

    def _newest(self, epoch: str) -> int:
        offered = (version for other, version in self._offers if other == epoch)
        return max(offered, default=self._progress.version if epoch == self._progress.epoch else 0)

    def _own(self, document: object) -> NodeState:
        state = validate(document, "state", NodeState)
        if (state.node, state.role) != (self._identity.name, self._identity.role):
            raise ConfigError(
                f"state: it is for {state.role.value} '{state.node}'; "
                f"expected {self._identity.role.value} '{self._identity.name}'."
            )
        return state


def _push(params: Mapping[str, Any]) -> tuple[str, int, object]:
    """Return epoch, version and state of a push's parameters; ConfigError when they are not that."""
    epoch, version = params.get("epoch"), params.get("version")
    if set(params) != {"epoch", "version", "state"}:
        raise ConfigError("state: expected the parameters epoch, version and state.")
    if not isinstance(epoch, str) or not 0 < len(epoch) <= _MAX_EPOCH:
        raise ConfigError(f"state: epoch must be a text of 1 to {_MAX_EPOCH} characters.")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ConfigError("state: version must be a whole number from 1.")
    return epoch, version, params["state"]


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
        return self._session is not None and self._session.registered

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait to be sent."""
        if self._session is not None:
            self._outgoing += self._session.take_outgoing()
        return bool(self._outgoing)

    @property
    def next_deadline(self) -> float:
        """When ``on_timer`` wants to be called; minus infinity means now."""
        return self._retry_at if self._session is None else self._session.next_deadline

    def on_timer(self, now: float) -> list[Event]:
        """Connect, ping or give up, whichever is due."""
        if self._session is None:
            return self._open(now) if now >= self._retry_at else []
        try:
            self._session.on_timer(now)
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
            self._session.acknowledge(event)
        else:
            self.progress.advance(event)

    def refuse(self, event: StateReceived, reason: str) -> None:
        """Say in one sentence why ``event``'s state cannot be applied; the last good one stays in force."""
        if self._session is not None:
            self._session.refuse(event, reason)

    def ask_rekey(self, spi: int) -> bool:
        """Ask for an association in place of ``spi``; False while the node is not registered."""
        if self._session is None or not self._session.registered:
            return False
        self._session.ask_rekey(spi)
        return True

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

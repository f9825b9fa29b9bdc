"""Control connections without sockets: messages that are lost, repeated, late or out of order, and breaks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from geneve.control import jsonrpc
from geneve.control.protocol import Disconnected, Event, Identity, NodeProtocol, Progress, StateReceived
from geneve.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geneve.control.demand import Demand, Tenant

LATENCY = 0.001
"""Seconds for which a message is under way."""
BACKOFF = (0.25, 8.0)
"""As :class:`geneve.control.session.ControlLink` has it."""


@dataclass
class Envelope:
    """One message under way. ``number`` counts the messages of a run, ``kind`` says what it is without secrets."""

    number: int
    connection: int
    node: str
    to_nva: bool
    data: bytes
    kind: str


Fate = Callable[[Envelope], "list[float] | None"]
"""Says after how many seconds each copy of a message arrives; an empty list loses it, None holds it back until the
next message of its connection and direction is sent."""


def on_time(_: Envelope) -> list[float]:
    return [LATENCY]


@dataclass
class Connection:
    """A connection between a node and the NVA, as both its ends know it."""

    number: int
    node: str
    link: SimLink | None
    """None once the node's end is closed."""
    nva_open: bool = True
    heard: float = 0.0
    """When the NVA last heard of the node on it."""
    held: dict[bool, list[Envelope]] = field(default_factory=lambda: {True: [], False: []})


class SimLink:
    """Stands in for ControlLink: the same protocol object and progress, messages instead of TLS over a socket."""

    def __init__(
        self,
        identity: Identity,
        connect: Callable[[SimLink], Connection | None],
        send: Callable[[Connection, jsonrpc.Message], None],
        close: Callable[[Connection], None],
        random: Callable[[], float],
    ) -> None:
        self._identity, self._connect = identity, connect
        self._send, self._close, self._random = send, close, random
        self.progress = Progress()
        self.protocol: NodeProtocol | None = None
        self.connection: Connection | None = None
        self.generation = 0
        self._retry_at, self._failures = -math.inf, 0
        self._inbox: list[jsonrpc.Message] = []
        self._outgoing: list[jsonrpc.Message] = []

    def fileno(self) -> int | None:
        return None

    @property
    def registered(self) -> bool:
        return self.protocol is not None and self.protocol.registered

    @property
    def wants_write(self) -> bool:
        if self.protocol is not None:
            self._outgoing += self.protocol.take_outgoing()
        return bool(self._outgoing)

    @property
    def next_deadline(self) -> float:
        return self._retry_at if self.protocol is None else self.protocol.next_deadline

    def on_timer(self, now: float) -> list[Event]:
        if self.protocol is None:
            return self._open(now) if now >= self._retry_at else []
        try:
            self.protocol.on_timer(now)
        except ParseError as error:
            return self.drop(str(error), now)
        return self.on_writable(now)

    def put(self, message: jsonrpc.Message) -> None:
        """Have a message read at the next :meth:`on_readable`."""
        self._inbox.append(message)

    def on_readable(self, now: float) -> list[Event]:
        events: list[Event] = []
        while self._inbox and self.protocol is not None:
            try:
                events += self.protocol.handle(self._inbox.pop(0), now)
            except ParseError as error:
                return events + self.drop(str(error), now)
            if self.registered:
                self._failures = 0
        return events + self.on_writable(now)

    def on_writable(self, now: float) -> list[Event]:
        del now
        while self.wants_write and self.connection is not None:
            self._send(self.connection, self._outgoing.pop(0))
        return []

    def acknowledge(self, event: StateReceived) -> None:
        if self.protocol is not None:
            self.protocol.acknowledge(event)

    def refuse(self, event: StateReceived, reason: str) -> None:
        if self.protocol is not None:
            self.protocol.refuse(event, reason)

    def ask_rekey(self, spi: int, now: float) -> bool:
        if self.protocol is None or not self.registered:
            return False
        self.protocol.ask_rekey(spi, now)
        return True

    def ask_keys(self, demands: Sequence[Demand], now: float) -> bool:
        if self.protocol is None or not self.registered:
            return False
        self.protocol.ask_keys(demands, now)
        return True

    def tell_tenants(self, number: int, tenants: Sequence[Tenant], now: float) -> bool:
        if self.protocol is None or not self.registered:
            return False
        self.protocol.tell_tenants(number, tenants, now)
        return True

    def confirm(self, vni: int, mac: str, present: bool) -> None:
        if self.protocol is not None:
            self.protocol.confirm(vni, mac, present)

    def close(self) -> None:
        """Be gone, as a killed process is."""
        self.drop("killed", math.inf)

    def _open(self, now: float) -> list[Event]:
        self.connection = self._connect(self)
        if self.connection is None:
            return self.drop("the connection failed", now)
        self.generation += 1
        self.protocol = NodeProtocol(self._identity, self.progress, now)
        return self.on_writable(now)

    def drop(self, reason: str, now: float) -> list[Event]:
        """End the connection and plan the next."""
        connection, self.connection, self.protocol = self.connection, None, None
        self._inbox.clear()
        self._outgoing.clear()
        if connection is not None:
            self._close(connection)
        first, longest = BACKOFF
        delay = min(longest, first * 2.0 ** min(self._failures, 16))
        self._retry_at = now + delay * (0.5 + self._random() / 2)
        self._failures += 1
        return [Disconnected(reason)]


def describe(message: jsonrpc.Message) -> str:
    """Return what a message is, without anything secret."""
    if isinstance(message, jsonrpc.Request):
        parts = sorted({key.partition("/")[0] for key in _entries(message)})
        return f"{message.method}({','.join(parts)})" if parts else message.method
    if isinstance(message, jsonrpc.Response):
        return f"answer({','.join(sorted(message.result))})"
    if isinstance(message, jsonrpc.ErrorResponse):
        return f"error({message.code})"
    return message.method


def _entries(message: jsonrpc.Request) -> list[str]:
    node = message.params.get("scopes", {}).get("node", {})
    return [*node.get("set", {}), *(f"-{key}" for key in node.get("remove", []))]

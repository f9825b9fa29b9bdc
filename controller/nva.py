"""The network virtualization authority's decisions (RFC 8014): who may register, and what each is told.

Plain Python: :meth:`Nva.handle` takes a message and a time and returns what is to be done. Connections
are numbers that the caller chooses; a connection's name is the one in its verified certificate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from controller.associations import AssociationTable, Paths, role_of
from controller.inventory import Inventory
from controller.states import build_state
from geneve.control import jsonrpc
from geneve.control.state import PUBLIC_KEY_SIZE, NodeState, Role, is_base64
from geneve.errors import ParseError

ACKNOWLEDGE_WAIT = 2.0
"""Seconds after which a sender gets an association that its audience has not acknowledged."""
PUSH_LIMIT = 10.0
"""Seconds a node may take to answer a push before its connection is closed."""
MAX_EVENTS = 1000
"""Events kept for the REST view."""

_PROTOCOL = 1
_MAX_INSTANCE = 64
_NOT_REGISTERED = -32001
_REFUSED = -32002


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection's handshake is complete; ``name`` is the common name of its certificate."""

    connection: int
    name: str


@dataclass(frozen=True, slots=True)
class Received:
    """A message came on a connection."""

    connection: int
    message: jsonrpc.Message


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection is gone."""

    connection: int
    reason: str


@dataclass(frozen=True, slots=True)
class PathsAre:
    """The transit devices on the paths between NVEs."""

    paths: Paths


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Input = Opened | Received | Closed | PathsAre | Tick


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message on a connection."""

    connection: int
    message: jsonrpc.Message


@dataclass(frozen=True, slots=True)
class Close:
    """Close a connection once what was sent on it before is out."""

    connection: int
    reason: str


Effect = Send | Close


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of the events log; ``at`` is the caller's clock in seconds."""

    at: float
    kind: str
    node: str
    text: str


@dataclass(slots=True)
class _Push:
    request: int
    version: int
    since: float
    spis: frozenset[int]


@dataclass(slots=True)
class _Node:
    connection: int | None = None
    instance: str = ""
    known: bool = False
    registered_at: float = 0.0
    version: int = 0
    state: NodeState | None = field(default=None, repr=False)
    push: _Push | None = None
    refusal: str | None = None
    signing_key: str | None = None


class Nva:
    """All nodes of one inventory. ``token`` returns that many random bytes, fit for keys."""

    def __init__(
        self,
        inventory: Inventory,
        token: Callable[[int], bytes],
        listener: Callable[[LogEntry], None] = lambda _: None,
    ) -> None:
        """``listener`` is told each event as it happens."""
        self._inventory, self._listener = inventory, listener
        self.epoch = token(8).hex()
        """Names this NVA's lifetime; versions count within it."""
        self.associations = AssociationTable(inventory, token, ACKNOWLEDGE_WAIT)
        self._nodes = {name: _Node() for name in inventory.nodes}
        self._connections: dict[int, str] = {}
        self._paths: Paths = {}
        self._dirty: set[str] = set()
        self._version = 0
        self._next_request = 1
        self.events: deque[LogEntry] = deque(maxlen=MAX_EVENTS)
        """The newest events, oldest first."""

    def handle(self, message: Input, now: float) -> list[Effect]:
        """Take one message and return what is to be done, in order."""
        effects: list[Effect] = []
        if isinstance(message, Opened):
            effects += self._opened(message, now)
        elif isinstance(message, Closed):
            self._closed(message, now)
        elif isinstance(message, Received):
            effects += self._received(message, now)
        elif isinstance(message, PathsAre):
            self._paths = dict(message.paths)
            self._dirty |= set(self._nodes)
            self._dirty |= self.associations.settle(self._paths, self._registered(), now)
        else:
            effects += self._overdue(now)
        return effects + self._push_changes(now)

    def report(self, now: float, kind: str, node: str, text: str) -> None:
        """Add a line to the events log."""
        entry = LogEntry(now, kind, node, text)
        self.events.append(entry)
        self._listener(entry)

    def _registered(self) -> list[str]:
        return [name for name, node in self._nodes.items() if node.known]

    def _opened(self, message: Opened, now: float) -> list[Effect]:
        if role_of(self._inventory, message.name) is None:
            self.report(now, "refused", message.name, "a certificate of this name is not in the inventory")
            return [Close(message.connection, "not in the inventory")]
        self._connections[message.connection] = message.name
        return []

    def _closed(self, message: Closed, now: float) -> None:
        name = self._connections.pop(message.connection, None)
        if name is None:
            return
        node = self._nodes[name]
        registered = node.connection == message.connection
        if registered:
            # Its associations stay: a node that has only lost the NVA goes on forwarding.
            node.connection = node.push = None
        self.report(now, "disconnected" if registered else "refused", name, message.reason)

    def _end(self, connection: int, reason: str, now: float) -> Close:
        """Count a connection as closed from now on, whatever still comes on it, and have it closed."""
        self._closed(Closed(connection, reason), now)
        return Close(connection, reason)

    def _received(self, message: Received, now: float) -> list[Effect]:
        name = self._connections.get(message.connection)
        if name is None:
            return []  # already closed: what was still on its way does not count
        content = message.message
        if isinstance(content, jsonrpc.Request):
            return self._request(message.connection, name, content, now)
        if isinstance(content, (jsonrpc.Response, jsonrpc.ErrorResponse)):
            return self._answer(message.connection, name, content, now)
        return []

    def _request(self, connection: int, name: str, request: jsonrpc.Request, now: float) -> list[Effect]:
        if request.method == "register":
            return self._register(connection, name, request, now)
        if request.method == "ping":
            if self._nodes[name].connection == connection:
                return [Send(connection, jsonrpc.Response(request.id))]
            return [_error(connection, request, _NOT_REGISTERED, "register first")]
        if request.method == "rekey":
            return self._rekey(connection, name, request, now)
        answer = _error(connection, request, jsonrpc.METHOD_NOT_FOUND, "the methods are register, ping and rekey")
        return [answer, self._end(connection, "asked for a method that does not exist", now)]

    def _register(self, connection: int, name: str, request: jsonrpc.Request, now: float) -> list[Effect]:
        try:
            instance, signing_key = _registration(request, self._inventory.nodes[name].role)
        except ParseError as error:
            answer = _error(connection, request, jsonrpc.INVALID_PARAMS, str(error))
            return [answer, self._end(connection, str(error), now)]
        node = self._nodes[name]
        accepted = Send(connection, jsonrpc.Response(request.id))
        if node.connection == connection:
            if node.instance == instance:
                return [accepted]  # the same request once more
            text = "this connection is registered with another instance"
            return [_error(connection, request, _REFUSED, text)]
        effects: list[Effect] = []
        if node.connection is not None:
            effects.append(self._end(node.connection, "registered anew on another connection", now))
        again = "again" if node.known else "first time"
        self._nodes[name] = _Node(connection, instance, True, now, version=node.version, signing_key=signing_key)
        self.associations.set_signer(name, signing_key)
        # Neither an old key nor an old sequence number may meet a new replay window: all keys are fresh.
        self._dirty |= {name} | self.associations.forget(name)
        self._dirty |= self.associations.settle(self._paths, self._registered(), now)
        self.report(now, "registered", name, f"{self._inventory.nodes[name].role.value}, {again}")
        return [*effects, accepted]

    def _rekey(self, connection: int, name: str, request: jsonrpc.Request, now: float) -> list[Effect]:
        """Replace an association whose sender says that it has reached its soft limit."""
        if self._nodes[name].connection != connection:
            return [_error(connection, request, _NOT_REGISTERED, "register first")]
        spi = request.params.get("spi")
        if set(request.params) != {"spi"} or isinstance(spi, bool) or not isinstance(spi, int):
            return [_error(connection, request, jsonrpc.INVALID_PARAMS, "rekey takes the parameter spi, a number")]
        if self.associations.sender_of(spi) != name:
            self.report(now, "refused", name, f"asked to rekey {spi:#x}, which is none of its own")
            return [_error(connection, request, _REFUSED, "no such association of yours")]
        concerned = self.associations.renew(spi, now)
        if concerned:
            self.report(now, "rekey", name, f"association {spi:#010x} reached its soft limit")
        self._dirty |= concerned
        return [Send(connection, jsonrpc.Response(request.id))]

    def _answer(
        self, connection: int, name: str, answer: jsonrpc.Response | jsonrpc.ErrorResponse, now: float
    ) -> list[Effect]:
        node = self._nodes[name]
        push = node.push
        if node.connection != connection or push is None or answer.id != push.request:
            return []  # late, or for nothing that was asked
        node.push = None
        if isinstance(answer, jsonrpc.ErrorResponse):
            node.refusal = answer.message
            self.report(now, "refused-state", name, f"version {push.version}, error {answer.code}")
            return []
        node.version, node.refusal = push.version, None
        self._dirty |= self.associations.activate(name, push.spis)
        return []

    def _overdue(self, now: float) -> list[Effect]:
        self._dirty |= self.associations.tick(now)
        effects: list[Effect] = []
        for node in self._nodes.values():
            if node.push is not None and node.connection is not None and now - node.push.since > PUSH_LIMIT:
                effects.append(self._end(node.connection, "did not answer a state push", now))
        return effects

    def _push_changes(self, now: float) -> list[Effect]:
        """Push to all nodes whose state has changed and who have answered the last push."""
        effects: list[Effect] = []
        for name in sorted(self._dirty):
            node = self._nodes[name]
            if node.connection is None:
                self._dirty.discard(name)
            elif node.push is None:
                self._dirty.discard(name)
                effects += self._push(name, node, node.connection, now)
        return effects

    def _push(self, name: str, node: _Node, connection: int, now: float) -> list[Effect]:
        state = build_state(self._inventory, self.associations, self._paths, name)
        if state == node.state:
            return []
        self._version += 1
        request = self._next_request
        self._next_request += 1
        spis = frozenset(association.spi for association in state.inbound)
        node.state = state
        node.push = _Push(request, self._version, now, spis)
        params = {"epoch": self.epoch, "version": self._version, "state": state.to_wire()}
        return [Send(connection, jsonrpc.Request(request, "state", params))]

    def nodes_view(self, now: float) -> dict[str, Any]:
        """Return the nodes for the REST view, and whether everything has reached everyone."""
        nodes = []
        for name, node in self._nodes.items():
            entry = self._inventory.nodes[name]
            nodes.append(
                {
                    "name": name,
                    "role": entry.role.value,
                    "address": entry.address,
                    "connected": node.connection is not None,
                    "instance": node.instance or None,
                    "registered_s": round(now - node.registered_at, 3) if node.known else None,
                    "version": node.version,
                    "in_step": self._in_step(name),
                    "refusal": node.refusal,
                }
            )
        waiting = any(not held.active for held in self.associations.all())
        converged = not waiting and all(self._in_step(name) for name in self._nodes)
        return {"epoch": self.epoch, "version": self._version, "converged": converged, "nodes": nodes}

    def _in_step(self, name: str) -> bool:
        node = self._nodes[name]
        settled = node.push is None and node.refusal is None and name not in self._dirty
        return node.connection is not None and node.state is not None and settled

    def associations_view(self, now: float) -> dict[str, Any]:
        """Return the associations for the REST view: never their secrets."""
        return {
            "associations": [
                {
                    "spi": held.association.spi,
                    "role": held.association.role.value,
                    "sender": held.association.sender,
                    "audience": held.association.audience,
                    "members": list(held.association.members),
                    "vni": held.association.vni,
                    "rule": held.association.rule,
                    "profile": held.association.profile,
                    "active": held.active,
                    "replaces": None if held.previous is None else held.previous.association.spi,
                    "age_s": round(now - held.created, 3),
                }
                for held in self.associations.all()
            ]
        }

    def events_view(self, now: float) -> dict[str, Any]:
        """Return the events for the REST view, oldest first."""
        return {
            "events": [
                {"age_s": round(now - entry.at, 3), "kind": entry.kind, "node": entry.node, "text": entry.text}
                for entry in self.events
            ]
        }


def _error(connection: int, request: jsonrpc.Request, code: int, text: str) -> Send:
    return Send(connection, jsonrpc.ErrorResponse(request.id, code, text))


def _registration(request: jsonrpc.Request, role: Role) -> tuple[str, str | None]:
    """Return instance and signing key of a registration; ParseError when its parameters are not sound."""
    instance, protocol = request.params.get("instance"), request.params.get("protocol")
    if not {"instance", "protocol"} <= set(request.params) <= {"instance", "protocol", "signing_key"}:
        raise ParseError("register takes the parameters instance, protocol and, for an NVE, signing_key")
    if isinstance(protocol, bool) or protocol != _PROTOCOL:
        raise ParseError(f"only protocol {_PROTOCOL} is spoken here")
    if not isinstance(instance, str) or not 0 < len(instance) <= _MAX_INSTANCE or not instance.isascii():
        raise ParseError(f"instance must be 1 to {_MAX_INSTANCE} ASCII characters")
    signing_key = request.params.get("signing_key")
    if signing_key is not None:
        if role is not Role.NVE:
            raise ParseError("only an NVE has a signing key")
        if not isinstance(signing_key, str) or not is_base64(signing_key, PUBLIC_KEY_SIZE):
            raise ParseError(f"signing_key must be base64 of {PUBLIC_KEY_SIZE} bytes")
    return instance, signing_key

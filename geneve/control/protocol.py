"""A node's side of the control protocol: registration, pushes, requests and their repetition. Pure.

Messages and times in, messages and events out; TLS and framing are session.py's. Whatever is lost, repeated, late or
out of order leads to the same state: a push is applied once and in sequence, a gap is answered with the error GAP,
which makes the NVA send a snapshot, and requests are repeated until they are answered. docs/control-protocol.md has
the whole protocol.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from geneve.control import jsonrpc
from geneve.control.demand import MAX_DEMANDS, Demand, Tenant
from geneve.control.document import Document, Push, parse_push
from geneve.control.state import NodeState, Role
from geneve.errors import ConfigError, ParseError

PROTOCOL_VERSION = 2
"""Version of the control protocol that a node names when it registers."""
PING_INTERVAL = 5.0
"""Seconds between two pings of a registered node."""
SILENCE_LIMIT = 15.0
"""Seconds without a message from the NVA, or without being registered, after which the node gives up."""
REPEAT_INTERVAL = 2.0
"""Seconds after which a request without an answer is sent again."""
MAX_OPEN_REQUESTS = 256
"""Requests without an answer at most; what would be more is not sent, and asked again by whoever wanted it."""

GAP = -32010
"""Error code: the push does not start from what this node has."""

_REGISTER = 1


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
    """What this node has applied: the NVA's epoch, the sequence number in it, the document. Outlives connections."""

    epoch: str | None = None
    sequence: int = 0
    document: Document = field(default_factory=Document)


@dataclass(frozen=True, slots=True)
class Registered:
    """The NVA has accepted the registration."""


@dataclass(frozen=True, slots=True)
class StateReceived:
    """A new state to apply, then to acknowledge or to refuse. ``candidate``: only to be checked, before it."""

    state: NodeState
    candidate: NodeState | None
    push: Push
    document: Document = field(repr=False)


@dataclass(frozen=True, slots=True)
class DemandsRefused:
    """The NVA will not give these keys."""

    demands: tuple[Demand, ...]


@dataclass(frozen=True, slots=True)
class ConfirmAsked:
    """The NVA asks whether a tenant is still here; answer with ``confirm``."""

    vni: int
    mac: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone or could not be made, and why."""

    reason: str


Event = Registered | StateReceived | DemandsRefused | ConfirmAsked | Disconnected


class SessionError(ParseError):
    """The NVA broke the protocol or refused this node; the text is one sentence."""


@dataclass(slots=True)
class _Open:
    request: jsonrpc.Request
    sent: float
    demands: tuple[Demand, ...] = ()


class NodeProtocol:
    """One connection. ``handle`` and ``on_timer`` raise SessionError when it has to end."""

    def __init__(self, identity: Identity, progress: Progress, now: float) -> None:
        self._identity = identity
        self._progress = progress
        self._outgoing: list[jsonrpc.Message] = []
        self._open: dict[jsonrpc.RequestId, _Open] = {}
        self._next_id = _REGISTER
        self._offer: tuple[StateReceived, list[jsonrpc.RequestId]] | None = None
        self._questions: dict[tuple[int, str], set[jsonrpc.RequestId]] = {}
        self._tenants_request: jsonrpc.RequestId | None = None
        self._last_heard = self._started = now
        self._next_ping = math.inf
        self.epoch: str | None = None
        """The epoch in which the NVA has registered this node on this connection."""
        params: dict[str, Any] = {"instance": identity.instance, "protocol": PROTOCOL_VERSION}
        if identity.signing_key is not None:
            params["signing_key"] = identity.signing_key
        if progress.epoch is not None:
            params["resume"] = {"epoch": progress.epoch, "sequence": progress.sequence}
        self._ask("register", params, now)

    @property
    def registered(self) -> bool:
        """Whether the NVA has accepted the registration on this connection."""
        return self.epoch is not None

    def take_outgoing(self) -> list[jsonrpc.Message]:
        """Return the messages to send now, in order."""
        messages, self._outgoing = self._outgoing, []
        return messages

    @property
    def next_deadline(self) -> float:
        """When ``on_timer`` wants to be called."""
        base = self._last_heard if self.registered else self._started
        repeat = min((entry.sent for entry in self._open.values()), default=math.inf) + REPEAT_INTERVAL
        return min(self._next_ping, base + SILENCE_LIMIT, repeat)

    def on_timer(self, now: float) -> None:
        """Ping or repeat requests when it is time; SessionError when the NVA has been silent for too long."""
        base = self._last_heard if self.registered else self._started
        if now >= base + SILENCE_LIMIT:
            raise SessionError(f"the NVA did not answer for {SILENCE_LIMIT:g} s")
        for entry in self._open.values():
            if now >= entry.sent + REPEAT_INTERVAL:
                entry.sent = now
                self._outgoing.append(entry.request)
        if now >= self._next_ping:
            self._next_ping = now + PING_INTERVAL
            self._ask("ping", {}, now)

    # What the node wants --------------------------------------------------------------------------------

    def ask_rekey(self, spi: int, now: float) -> None:
        """Ask for an association in place of one that has reached its soft limit."""
        self._ask("rekey", {"spi": spi}, now)

    def ask_keys(self, demands: Sequence[Demand], now: float) -> None:
        """Ask for keys; they come with a push."""
        for start in range(0, len(demands), MAX_DEMANDS):
            part = tuple(demands[start : start + MAX_DEMANDS])
            self._ask("need", {"demands": [demand.model_dump(mode="json") for demand in part]}, now, part)

    def tell_tenants(self, number: int, tenants: Sequence[Tenant], now: float) -> None:
        """Report all tenants seen here; ``number`` grows with each report of this process."""
        if self._tenants_request is not None:
            self._open.pop(self._tenants_request, None)  # an older report has nothing to say any more
        present = [tenant.model_dump(mode="json") for tenant in tenants]
        # Always sent: there is one at most, and who reports does so once.
        self._tenants_request = self._send("tenants", {"number": number, "present": present}, now)

    def acknowledge(self, event: StateReceived) -> None:
        """Record that the caller has applied ``event``'s state, and tell the NVA."""
        progress, push = self._progress, event.push
        progress.epoch, progress.sequence, progress.document = push.epoch, push.sequence, event.document
        self._answer(event, lambda request: jsonrpc.Response(request, {"sequence": push.sequence}))

    def refuse(self, event: StateReceived, reason: str) -> None:
        """Tell the NVA that ``event``'s state cannot be applied; the last good one stays."""
        self._answer(event, lambda request: jsonrpc.ErrorResponse(request, jsonrpc.INVALID_PARAMS, reason))

    def confirm(self, vni: int, mac: str, present: bool) -> None:
        """Answer whether a tenant is here."""
        for request in self._questions.pop((vni, mac), ()):
            self._outgoing.append(jsonrpc.Response(request, {"present": present}))

    def _answer(self, event: StateReceived, make: Any) -> None:
        if self._offer is not None and self._offer[0] is event:
            self._outgoing += [make(request) for request in self._offer[1]]
            self._offer = None

    def _ask(self, method: str, params: dict[str, Any], now: float, demands: tuple[Demand, ...] = ()) -> None:
        if len(self._open) < MAX_OPEN_REQUESTS:
            self._send(method, params, now, demands)

    def _send(
        self, method: str, params: dict[str, Any], now: float, demands: tuple[Demand, ...] = ()
    ) -> jsonrpc.RequestId:
        request = jsonrpc.Request(self._next_id, method, params)
        self._next_id += 1
        self._open[request.id] = _Open(request, now, demands)
        self._outgoing.append(request)
        return request.id

    # What the NVA says ----------------------------------------------------------------------------------

    def handle(self, message: jsonrpc.Message, now: float) -> list[Event]:
        """Take a message; SessionError ends the connection."""
        self._last_heard = now
        if isinstance(message, jsonrpc.Request):
            return self._request(message)
        if isinstance(message, jsonrpc.Response):
            return self._response(message, now)
        if isinstance(message, jsonrpc.ErrorResponse):
            self._error(message)
        return []

    def _response(self, message: jsonrpc.Response, now: float) -> list[Event]:
        entry = self._open.pop(message.id, None)
        if entry is None:
            return []
        if entry.request.method == "register":
            epoch = message.result.get("epoch")
            if not isinstance(epoch, str) or not epoch:
                raise SessionError("the NVA did not say in which epoch it registered this node")
            self.epoch = epoch
            self._next_ping = now + PING_INTERVAL
            return [Registered()]
        refused = message.result.get("refused", [])
        if entry.demands and isinstance(refused, list):
            chosen = [entry.demands[place] for place in refused if _is_place(place, len(entry.demands))]
            return [DemandsRefused(tuple(chosen))] if chosen else []
        return []

    def _error(self, message: jsonrpc.ErrorResponse) -> None:
        entry = None if message.id is None else self._open.pop(message.id, None)
        if message.id is None or (entry is not None and entry.request.method == "register"):
            raise SessionError(f"the NVA refused: {message.message}")

    def _request(self, request: jsonrpc.Request) -> list[Event]:
        if request.method == "push" and self.registered:
            return self._push(request)
        if request.method == "confirm" and self.registered:
            return self._confirm(request)
        text = f"a node knows no method '{request.method}' now"
        self._outgoing.append(jsonrpc.ErrorResponse(request.id, jsonrpc.METHOD_NOT_FOUND, text))
        return []

    def _confirm(self, request: jsonrpc.Request) -> list[Event]:
        vni, mac = request.params.get("vni"), request.params.get("mac")
        if not isinstance(vni, int) or not isinstance(mac, str):
            text = "confirm takes the parameters vni and mac"
            self._outgoing.append(jsonrpc.ErrorResponse(request.id, jsonrpc.INVALID_PARAMS, text))
            return []
        asked = (vni, mac) in self._questions
        self._questions.setdefault((vni, mac), set()).add(request.id)
        return [] if asked else [ConfirmAsked(vni, mac)]

    def _push(self, request: jsonrpc.Request) -> list[Event]:
        progress = self._progress
        try:
            push = parse_push(request.params)
            if push.epoch != self.epoch:
                raise ConfigError("push: it is not of the epoch of this registration.")
            held = progress.sequence if progress.epoch == push.epoch else None
            if held is not None and push.sequence <= held:
                self._outgoing.append(jsonrpc.Response(request.id, {"sequence": push.sequence}))
                return []
            if self._offer is not None and self._offer[0].push.sequence == push.sequence:
                self._offer[1].append(request.id)
                return []
            overtaken = self._offer is not None and push.sequence < self._offer[0].push.sequence
            if overtaken or (push.base is not None and push.base != held):
                # Not taken for applied either: what overtook it can still be refused.
                text = "the push does not start from what this node has"
                self._outgoing.append(jsonrpc.ErrorResponse(request.id, GAP, text))
                return []
            document = progress.document.apply(push)
            state = document.state(self._identity.name, self._identity.role)
            candidate = document.candidate(self._identity.name, self._identity.role)
        except ConfigError as error:
            self._outgoing.append(jsonrpc.ErrorResponse(request.id, jsonrpc.INVALID_PARAMS, str(error)))
            return []
        event = StateReceived(state, candidate, push, document)
        self._offer = (event, [request.id])
        return [event]


def _is_place(value: object, count: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count

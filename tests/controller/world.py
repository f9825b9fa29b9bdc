"""An NVA with real nodes' protocols around it, in memory: no sockets, no clock, and a store that a restart reads."""

from __future__ import annotations

import base64
import copy
import hashlib
import itertools
import json
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from controller.authority import nva
from controller.authority.nva import Close, Closed, Opened, PathsAre, Received, Send, Tick
from controller.authority.records import AuditLine, Change, Keep
from controller.core import Core
from controller.inventory import Inventory
from controller.operators.operate import operate
from controller.operators.operations import Operation
from geneve.control import jsonrpc
from geneve.control.demand import Demand, Tenant
from geneve.control.protocol import (
    ConfirmAsked,
    Event,
    Identity,
    NodeProtocol,
    Progress,
    SessionError,
    StateReceived,
)
from geneve.control.state import Association, NodeState, Role
from tests.controller.inventories import build, document

RING = {
    ("nve1", "nve2"): ("t1",),
    ("nve2", "nve1"): ("t1",),
    ("nve1", "nve3"): ("t1", "t2"),
    ("nve3", "nve1"): ("t2", "t1"),
    ("nve2", "nve3"): ("t2",),
    ("nve3", "nve2"): ("t2",),
}
NODES = ("nve1", "nve2", "nve3", "t1", "t2")
NVES = NODES[:3]
SIGNING = {name: base64.b64encode(hashlib.sha256(name.encode()).digest()).decode() for name in NVES}
PAIRS = (("nve1", "nve2", 100), ("nve1", "nve3", 100), ("nve2", "nve3", 100), ("nve1", "nve2", 200))
"""Pairs of NVEs that may have keys in the inventory of these tests, and the VNI."""


def eager(changed: dict[str, Any] | None = None) -> Inventory:
    """The inventory with keys for all that may have some, whether they talk or not."""
    return build({**(changed or document()), "keys": {"on_demand": False}})


class Node:
    """One connection of a node, with its protocol; what comes waits in ``inbox`` while the node is silent."""

    def __init__(self, number: int, identity: Identity, progress: Progress, now: float) -> None:
        self.number, self.identity, self.name = number, identity, identity.name
        self.progress = progress
        self.protocol = NodeProtocol(identity, progress, now)
        self.inbox: deque[jsonrpc.Message] = deque()
        self.received: list[jsonrpc.Message] = []
        self.events: list[Event] = []
        self.states: list[NodeState] = []
        self.closed: str | None = None
        self.running = False
        """Whether the protocol runs; otherwise a test says what the node says."""
        self.present: set[tuple[int, str]] = set()
        """Tenants that this node says are there when it is asked."""
        self.refusal: Callable[[StateReceived], str | None] = lambda _: None

    @property
    def state(self) -> NodeState:
        """What the node has applied."""
        return self.progress.document.state(self.name, self.identity.role)

    @property
    def pushes(self) -> list[Mapping[str, Any]]:
        """The parameters of all pushes that came, secrets included."""
        return [m.params for m in self.received if isinstance(m, jsonrpc.Request) and m.method == "push"]


class World:
    """An NVA, its nodes and what it has stored. Nodes named in ``silent`` read nothing until :meth:`answer`."""

    def __init__(self, inventory: Inventory | None = None, seed: int = 1, paths: Any = RING) -> None:
        self.inventory = inventory or build()
        self.token = random.Random(seed).randbytes
        self.now = 100.0
        self.saved: dict[str, dict[str, Any]] = {}
        self.audit: list[AuditLine] = []
        self.nodes: dict[int, Node] = {}
        self.silent: set[str] = set()
        self.applied: list[tuple[str, NodeState]] = []
        """Every state that a node has applied, in order."""
        self.sent: list[tuple[str, jsonrpc.Message]] = []
        """Every message to a node, in order."""
        self._numbers = itertools.count(1)
        self._start()
        self.handle(PathsAre(paths))

    def _start(self) -> None:
        self.core = Core(
            self.inventory, token=self.token, saved=copy.deepcopy(self.saved), now=self.now, last_event=len(self.audit)
        )
        self.nva = self.core.nva
        self._store(self.nva.take_changes())

    def restart(self, inventory: Inventory | None = None) -> None:
        """Kill the NVA and start it again from its store; nobody is connected then."""
        self.inventory = inventory or self.inventory
        for node in self.nodes.values():
            node.closed = node.closed or "the NVA is gone"
        self._start()

    def _store(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if isinstance(change, AuditLine):
                self.audit.append(change)
            elif isinstance(change, Keep):
                content = json.loads(json.dumps(change.content))
                self.saved.setdefault(change.kind, {})[change.name] = content
            else:
                self.saved.get(change.kind, {}).pop(change.name, None)

    # The NVA's side -------------------------------------------------------------------------------------

    def handle(self, message: nva.Input) -> None:
        effects = self.nva.handle(message, self.now)
        self.carry_out(effects)

    def carry_out(self, effects: Iterable[nva.Effect]) -> None:
        self._store(self.nva.take_changes())
        for effect in effects:
            node = self.nodes[effect.connection]
            if isinstance(effect, Close):
                node.closed = effect.reason
            elif node.closed is None:
                assert isinstance(effect, Send)
                node.received.append(effect.message)
                self.sent.append((node.name, effect.message))
                node.inbox.append(effect.message)
        for node in list(self.nodes.values()):
            if node.name not in self.silent:
                self.answer(node)

    def operate(self, operation: Operation) -> dict[str, Any]:
        answer, effects = operate(self.nva, operation, self.now)
        self.carry_out(effects)
        return answer

    def send(self, node: Node, message: jsonrpc.Message) -> None:
        """Have a node say what its protocol would not."""
        self.handle(Received(node.number, message))

    def ask(self, node: Node, method: str, params: Mapping[str, Any] | None = None) -> jsonrpc.Message:
        """Have a node ask something of its own making; returns the answer."""
        count, request = len(node.received), 7_000_000 + len(node.received)
        self.send(node, jsonrpc.Request(request, method, params or {}))
        (answer,) = [m for m in node.received[count:] if not isinstance(m, jsonrpc.Request) and m.id == request]
        return answer

    def wait(self, seconds: float, step: float | None = None) -> None:
        """Let time pass, in steps; nodes that are not silent repeat what was not answered."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + (seconds if step is None else step))
            for node in list(self.nodes.values()):
                if node.running and node.closed is None and node.name not in self.silent:
                    node.protocol.on_timer(self.now)
                    self.flush(node)
            self.handle(Tick())

    def tick(self) -> None:
        self.handle(Tick())

    # The nodes' side ------------------------------------------------------------------------------------

    def answer(self, node: Node, limit: int | None = None) -> None:
        """Have a node read what has come, ``limit`` messages at most, and say what follows from it."""
        while node.inbox and node.running and node.closed is None and limit != 0:
            limit = None if limit is None else limit - 1
            try:
                events = node.protocol.handle(node.inbox.popleft(), self.now)
            except SessionError:
                self.lose(node)
                return
            for event in events:
                self._act(node, event)
            self.flush(node)

    def _act(self, node: Node, event: Event) -> None:
        node.events.append(event)
        if isinstance(event, StateReceived):
            reason = node.refusal(event)
            if reason is not None:
                node.protocol.refuse(event, reason)
                return
            node.states.append(event.state)
            self.applied.append((node.name, event.state))
            node.protocol.acknowledge(event)
        elif isinstance(event, ConfirmAsked):
            node.protocol.confirm(event.vni, event.mac, (event.vni, event.mac) in node.present)

    def flush(self, node: Node) -> None:
        for message in node.protocol.take_outgoing():
            if node.closed is None:
                self.handle(Received(node.number, message))

    def open(self, name: str, instance: str = "aa", key: str | None = None, progress: Progress | None = None) -> Node:
        """Make a connection whose certificate says ``name``, without a word on it yet."""
        role = Role.TRANSIT if name.startswith("t") else Role.NVE
        node = Node(next(self._numbers), Identity(name, role, instance, "nva", key), progress or Progress(), self.now)
        self.nodes[node.number] = node
        self.handle(Opened(node.number, name))
        return node

    def register(self, name: str, instance: str = "aa", key: str | None = None) -> Node:
        """Start a node's process, which registers."""
        return self._run(self.open(name, instance, key))

    def _run(self, node: Node) -> Node:
        node.running = True
        self.flush(node)
        return node

    def register_all(self, signing: bool = False) -> dict[str, Node]:
        return {name: self.register(name, key=SIGNING.get(name) if signing else None) for name in NODES}

    def lose(self, node: Node) -> None:
        """Cut a node's connection."""
        node.closed = "lost"
        self.handle(Closed(node.number, "lost"))

    def reconnect(self, node: Node) -> Node:
        """Connect the same process anew: same instance, and what it has applied."""
        again = self.open(node.name, node.identity.instance, node.identity.signing_key, node.progress)
        again.present = node.present
        return self._run(again)

    def need(self, node: Node, *demands: Demand) -> None:
        node.protocol.ask_keys(demands, self.now)
        self.flush(node)

    def talk(self, node: Node, audience: str, vni: int = 100, profile: str = "full", **more: Any) -> None:
        """Have an NVE want to send to another, or to a group."""
        self.need(node, Demand(audience=audience, vni=vni, profile=profile, **more))

    def talk_all(self, nodes: Mapping[str, Node]) -> None:
        for first, second, vni in PAIRS:
            self.talk(nodes[first], second, vni)
            self.talk(nodes[second], first, vni)

    def tenants(self, node: Node, number: int, *tenants: Tenant) -> None:
        """Have an NVE report its tenants; it confirms these when asked."""
        node.present = {(tenant.vni, tenant.mac) for tenant in tenants}
        node.protocol.tell_tenants(number, tenants, self.now)
        self.flush(node)
        self.tick()

    # What is to be seen ---------------------------------------------------------------------------------

    def view(self, name: str) -> dict[str, Any]:
        view = self.core.view(name, self.now)
        assert view is not None
        return view

    @property
    def converged(self) -> bool:
        return bool(self.view("nodes")["converged"])

    def events(self, kind: str, node: str | None = None) -> list[str]:
        """The texts of the audit log's lines of a kind."""
        self.nva.events.settle(self.now)
        self._store(self.nva.take_changes())
        return [line.text for line in self.audit if line.kind == kind and node in (None, line.node)]


def between(items: Iterable[Association], sender: str, audience: str, vni: int | None = 100) -> list[Association]:
    """The associations of one sender to one audience in a VNI."""
    return [item for item in items if (item.sender, item.audience, item.vni) == (sender, audience, vni)]


def spis(items: Iterable[Association]) -> set[int]:
    return {item.spi for item in items}


def secret(item: Association) -> str:
    return item.secret.get_secret_value()


def secrets_of(state: NodeState) -> set[str]:
    return {secret(item) for item in (*state.inbound, *state.outbound)}


def secrets_in(value: object) -> set[str]:
    """Every text under a key "secret" anywhere in a JSON value."""
    if isinstance(value, Mapping):
        own = {value["secret"]} if isinstance(value.get("secret"), str) else set()
        return own.union(*(secrets_in(item) for item in value.values()))
    if isinstance(value, (list, tuple)):
        return set().union(*(secrets_in(item) for item in value))
    return set()


def audience_of(item: Association) -> set[str]:
    return set(item.members) if item.role.value == "multicast" else {item.audience, *item.members}


def check_receivers_first(world: World) -> None:
    """Nobody ever got a key to send with before all of its audience had applied it."""
    ever: dict[str, set[int]] = {}
    for name, state in world.applied:
        for item in state.outbound:
            assert item.sender == name
            for holder in audience_of(item):
                assert item.spi in ever.get(holder, set()), (name, holder, item.spi)
        ever.setdefault(name, set()).update(spis(state.inbound))


def check_only_own_keys(world: World) -> None:
    """No push that a node ever got has a key of which it is no end, nor a mapping of a VNI that it does not serve."""
    for name, message in world.sent:
        if not isinstance(message, jsonrpc.Request) or message.method != "push":
            continue
        served = set(world.nva.membership.vnis_of(name))
        for scope, change in message.params["scopes"].items():
            assert scope == "node" or int(scope.partition("/")[2]) in served, (name, scope)
            for key, entry in change["set"].items():
                kind = key.partition("/")[0]
                if kind == "out":
                    assert entry["sender"] == name
                elif kind == "in":
                    assert Association.model_validate_json(json.dumps(entry)).opens(name), (name, key)
                    assert entry["sender"] != name
                else:
                    assert not secrets_in(entry)


def check_no_key_twice(world: World, seen: dict[int, str]) -> None:
    """No SPI ever has another secret, no secret another SPI; ``seen`` is what earlier calls have found."""
    for _, message in world.sent:
        if isinstance(message, jsonrpc.Request) and message.method == "push":
            for change in message.params["scopes"].values():
                for key, entry in change["set"].items():
                    if key.startswith(("in/", "out/")):
                        assert seen.setdefault(entry["spi"], entry["secret"]) == entry["secret"]
                        assert key.endswith(f"/{entry['spi']}")
    assert len(set(seen.values())) == len(seen)
    assert all(spi >= 256 for spi in seen)

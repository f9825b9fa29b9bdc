"""The simulated world: the real NVA and the real nodes, a clock, a store, a control network and an underlay.

Everything that happens is an entry of one queue, by time; nothing is random but what ``random`` gives, so a run can be
repeated. The NVA is driven as the shell drives it: handle, store, carry out; it can be killed between any two of
these. The ledger (ledger.py) sees every key, packet and frame, and raises when an invariant is broken.
"""

from __future__ import annotations

import heapq
import ipaddress
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from controller.authority import records
from controller.authority.nva import Close, Closed, Effect, Input, Nva, Opened, PathsAre, Tick
from controller.authority.nva import Received as NvaReceived
from controller.authority.records import Change, Drop, Keep, Saved
from controller.inventory import Inventory
from controller.operators.operate import operate
from controller.operators.operations import Operation, OperationError, Restore, Revoke
from geneve.control import jsonrpc
from nve.datagrams import Datagram, Received
from tests.simulation import scene
from tests.simulation.control import LATENCY, Connection, Envelope, Fate, SimLink, describe, on_time
from tests.simulation.ledger import Ledger
from tests.simulation.nodes import SimDevice, SimNode, SimNve
from transit.outcome import Outcome

TICK = 0.05
"""Seconds between two looks at what is due, as the shell has it."""
IDLE_TIMEOUT = 20.0
"""Seconds without a message after which the NVA closes a connection, as the server has it."""

BEFORE_STORE = -1
"""Killed after the decision, before it is stored; 0 and more: after so many effects."""


class DictStore:
    """A store in memory: what was committed, and no more."""

    def __init__(self) -> None:
        self.saved: dict[str, dict[str, Any]] = {}
        self.last = 0

    def commit(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if isinstance(change, Keep):
                self.saved.setdefault(change.kind, {})[change.name] = dict(change.content)
            elif isinstance(change, Drop):
                self.saved.get(change.kind, {}).pop(change.name, None)
            else:
                self.last = change.number

    def load(self) -> Saved:
        return {kind: {name: dict(content) for name, content in kept.items()} for kind, kept in self.saved.items()}

    def last_audit_number(self) -> int:
        return self.last


@dataclass(order=True)
class _Event:
    due: float
    serial: int
    act: Callable[[], None] = field(compare=False)


class World:
    """All there is. ``fate`` decides about each control message; ``crash_at`` when the NVA is killed."""

    def __init__(
        self, inventory: Inventory | None = None, seed: int = 1, store: Any = None, start: bool = True
    ) -> None:
        self.random = random.Random(seed)
        self.inventory = scene.build() if inventory is None else inventory
        self.now = 1000.0
        self.store = DictStore() if store is None else store
        self.fate: Fate = on_time
        self.crash_at: Callable[[int], int | None] = lambda _: None
        """Given the number of a step of the NVA, says at which point of it the NVA is killed, None for not."""
        self.downtime = 0.5
        self.underlay_fate: Callable[[], list[float]] = lambda: [LATENCY]
        self.partitioned: set[str] = set()
        self.paths = dict(scene.RING)
        self.ledger = Ledger(self)
        self.places: dict[scene.Tenant, str] = {t: f"nve{t.number}" for t in scene.TENANTS}
        self.nodes: dict[str, SimNode | None] = dict.fromkeys(scene.NODES)
        self.connections: dict[int, Connection] = {}
        self.nva: Nva | None = None
        self.nva_steps = 0
        self.busy_steps: list[int] = []
        """Steps of the NVA in which there was something to store or to send."""
        self.messages: list[Envelope] = []
        """Every control message of the run, once each, in the order of sending."""
        self.audit: list[records.AuditLine] = []
        self.verdicts: Counter[Outcome] = Counter()
        self.log: list[str] = []
        self._queue: list[_Event] = []
        self._serial = itertools.count(1)
        self._connection_numbers = itertools.count(1)
        self._frames = itertools.count(1)
        self._next_tick = self.now
        if start:
            self.start_nva()
            for name in scene.NODES:
                self.start_node(name)
            self.run(0.3)

    # Time -----------------------------------------------------------------------------------------------

    def at(self, delay: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._queue, _Event(self.now + delay, next(self._serial), act))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            due = min(self._queue[0].due if self._queue else end + 1, self._next_tick)
            if due > end:
                break
            self.now = max(self.now, due)
            if self._queue and self._queue[0].due <= self._next_tick:
                heapq.heappop(self._queue).act()
            else:
                self._next_tick += TICK
                self._tick()
        self.now = end

    def _tick(self) -> None:
        for connection in list(self.connections.values()):
            if connection.nva_open and self.now - connection.heard > IDLE_TIMEOUT:
                self.nva_closes(connection)
                self.to_nva(Closed(connection.number, "nothing was heard of it"))
        self.to_nva(Tick())
        for node in list(self.nodes.values()):
            if node is not None:
                node.poll(self.now)

    def run_until(self, condition: Callable[[], bool], limit: float, what: str) -> None:
        end = self.now + limit
        while not condition():
            assert self.now < end, f"not within {limit:g} s: {what}"
            self.run(TICK)

    # The NVA --------------------------------------------------------------------------------------------

    def start_nva(self) -> None:
        """Start the NVA from what is stored; a NVA that runs goes on."""
        if self.nva is not None:
            return
        self.nva = self.restored()
        self.store.commit(self.ledger.committed(self.nva.take_changes()))
        self.note("the NVA starts")
        self.to_nva(PathsAre(dict(self.paths)))

    def restored(self) -> Nva:
        """Return a NVA as a start from the store makes it."""
        return Nva(
            self.inventory, self.random.randbytes, self.audit.append,
            saved=self.store.load(), now=self.now, last_event=self.store.last_audit_number(),
        )  # fmt: skip

    def stored_spis(self) -> set[int]:
        """Return the SPIs of the associations that the store knows."""
        return {int(name) for name in self.store.load().get(records.ASSOCIATION, {})}

    def kill_nva(self, downtime: float | None = None) -> None:
        """Kill -9, and a start ``downtime`` later."""
        if self.nva is None:
            return
        self.note("the NVA is killed")
        self.nva = None
        for connection in list(self.connections.values()):
            self.nva_closes(connection)
        self.at(self.downtime if downtime is None else downtime, self.start_nva)

    def to_nva(self, message: Input) -> None:
        if self.nva is not None:
            nva = self.nva
            self.finish(nva.handle(message, self.now))

    def operate(self, operation: Operation) -> dict[str, Any] | None:
        """Carry out an operation; None when it is refused, or there is nobody to ask."""
        if self.nva is None:
            return None
        self.note(f"operator: {type(operation).__name__} {getattr(operation, 'node', '')}")
        try:
            answer, effects = operate(self.nva, operation, self.now)
        except OperationError:
            self.finish([])
            return None
        if self.finish(effects) and isinstance(operation, (Revoke, Restore)):
            self.ledger.membership(operation.node, isinstance(operation, Restore))
        return answer

    def finish(self, effects: list[Effect]) -> bool:
        """Store, then carry out, or be killed on the way; returns whether it was stored."""
        assert self.nva is not None
        self.nva_steps += 1
        crash = self.crash_at(self.nva_steps)
        changes = self.nva.take_changes()
        if changes or effects:
            self.busy_steps.append(self.nva_steps)
        if crash == BEFORE_STORE:
            self.kill_nva()
            return False
        self.store.commit(self.ledger.committed(changes))
        for done, effect in enumerate(effects):
            if crash == done:
                self.kill_nva()
                return True
            self._carry_out(effect)
        if crash is not None:
            self.kill_nva()
        return True

    def _carry_out(self, effect: Effect) -> None:
        connection = self.connections.get(effect.connection)
        if connection is None or not connection.nva_open:
            return
        if isinstance(effect, Close):
            self.nva_closes(connection)
        else:
            self.ledger.pushed(connection.node, effect.message, connection.link is not None)
            self._post(connection, False, effect.message)

    # Control connections --------------------------------------------------------------------------------

    def connect(self, link: SimLink) -> Connection | None:
        """Open a connection for a node, or fail."""
        name = link._identity.name
        if self.nva is None or name in self.partitioned:
            return None
        connection = Connection(next(self._connection_numbers), name, link, heard=self.now)
        self.connections[connection.number] = connection
        self.to_nva(Opened(connection.number, name))
        return connection if connection.link is link and self.nva is not None else None

    def node_sends(self, connection: Connection, message: jsonrpc.Message) -> None:
        self._post(connection, True, message)

    def _post(self, connection: Connection, to_nva: bool, message: jsonrpc.Message) -> None:
        data = jsonrpc.encode(message, jsonrpc.MAX_PUSH_SIZE)
        number = len(self.messages)
        envelope = Envelope(number, connection.number, connection.node, to_nva, data, describe(message))
        self.messages.append(envelope)
        held, connection.held[to_nva] = connection.held[to_nva], []
        delays = [] if connection.node in self.partitioned else self.fate(envelope)
        if delays is None:
            connection.held[to_nva].append(envelope)
        for delay in delays or ():
            self.at(delay, lambda: self._arrive(envelope))
        for late in held:
            self.at(LATENCY * 1.5, lambda late=late: self._arrive(late))

    def _arrive(self, envelope: Envelope) -> None:
        connection = self.connections.get(envelope.connection)
        if connection is None or connection.node in self.partitioned:
            return
        message = jsonrpc.decode(envelope.data[4:])
        if envelope.to_nva:
            if connection.nva_open and self.nva is not None:
                connection.heard = self.now
                self.to_nva(NvaReceived(connection.number, message))
        elif connection.link is not None:
            node = self.nodes[connection.node]
            assert node is not None
            assert node.link is connection.link
            connection.link.put(message)
            node.agent.handle(True, False, self.now)
            node.poll(self.now)
            self.ledger.check_node(node)

    def node_closes(self, connection: Connection) -> None:
        """The node's end is gone; the NVA hears of it, unless a partition is between them."""
        connection.link = None
        if connection.node not in self.partitioned:
            self.at(LATENCY, lambda: self._nva_hears_end(connection))

    def _nva_hears_end(self, connection: Connection) -> None:
        if connection.nva_open and connection.node not in self.partitioned:
            self.nva_closes(connection)
            self.to_nva(Closed(connection.number, "the node closed the connection"))

    def nva_closes(self, connection: Connection) -> None:
        """The NVA's end is gone; the node hears of it after what was sent before."""
        connection.nva_open = False
        self.connections.pop(connection.number, None)
        link = connection.link
        if link is not None and connection.node not in self.partitioned:
            self.connections[connection.number] = connection
            self.at(LATENCY * 2, lambda: self._node_hears_end(connection))

    def _node_hears_end(self, connection: Connection) -> None:
        self.connections.pop(connection.number, None)
        node = self.nodes[connection.node]
        if connection.link is not None and node is not None and node.link is connection.link:
            link, connection.link = connection.link, None
            if link.connection is connection:
                link.connection = None
                node.agent._act(link.drop("the NVA closed the connection", self.now))

    def break_connection(self, name: str) -> None:
        """Both ends lose a node's connections."""
        for connection in [item for item in self.connections.values() if item.node == name and item.nva_open]:
            self.nva_closes(connection)
            self.to_nva(Closed(connection.number, "reset"))

    # Nodes ----------------------------------------------------------------------------------------------

    def start_node(self, name: str) -> None:
        if self.nodes[name] is not None:
            return
        self.note(f"{name} starts")
        maker = SimNve if name in scene.NVES else SimDevice
        node = self.nodes[name] = maker(self, name, next(self._serial))
        self.ledger.node_started(node)
        if isinstance(node, SimNve):
            for tenant, place in self.places.items():
                if place == name and tenant.vni == scene.MOBILE:
                    node.appear(tenant)

    def kill_node(self, name: str, downtime: float = 0.5) -> None:
        node = self.nodes[name]
        if node is None:
            return
        self.note(f"{name} is killed")
        self.nodes[name] = None
        node.kill()
        self.at(downtime, lambda: self.start_node(name))

    def tenants_at(self, name: str, vni: int) -> list[scene.Tenant]:
        return [tenant for tenant, place in self.places.items() if place == name and tenant.vni == vni]

    def move(self, tenant: scene.Tenant, to: str) -> None:
        """A tenant of the learned network goes to another NVE."""
        before, self.places[tenant] = self.places[tenant], to
        if before == to:
            return
        self.note(f"tenant {tenant.number} moves from {before} to {to}")
        for name, change in ((to, "appear"), (before, "vanish")):
            node = self.nodes[name]
            if isinstance(node, SimNve):
                getattr(node, change)(tenant)
                node.poll(self.now)

    def set_paths(self, paths: dict[tuple[str, str], tuple[str, ...]]) -> None:
        self.note("other paths")
        self.paths = dict(paths)
        self.to_nva(PathsAre(dict(paths)))

    # Traffic --------------------------------------------------------------------------------------------

    def send(self, sender: scene.Tenant, receiver: scene.Tenant | None) -> int:
        """Have a tenant send a frame; returns its serial number."""
        serial = next(self._frames)
        node = self.nodes[self.places[sender]]
        self.ledger.frame_sent(serial, sender, receiver)
        if isinstance(node, SimNve):
            node.send(sender.vni, scene.frame(sender, receiver, serial))
            node.poll(self.now)
        return serial

    def got(self, serial: int) -> set[str]:
        """Return the NVEs that have delivered a frame."""
        return self.ledger.deliveries.get(serial, set())

    def underlay_send(self, sender: SimNve, datagram: Datagram) -> None:
        self.ledger.datagram(sender, datagram)
        for delay in self.underlay_fate():
            self.at(delay, lambda: self._underlay_arrives(sender.name, datagram))

    def _underlay_arrives(self, sender: str, datagram: Datagram) -> None:
        source = scene.ADDRESSES[sender]
        receivers = [name for name, address in scene.ADDRESSES.items() if address == datagram.destination]
        if not receivers:
            receivers = [name for name in scene.NVES if name != sender]
        for name in receivers:
            if len(receivers) == 1:
                for device in self.paths.get((sender, name), ()):
                    node = self.nodes[device]
                    if isinstance(node, SimDevice):
                        self.verdicts[node.pass_on(datagram.payload, source, datagram.destination)] += 1
            node = self.nodes[name]
            if isinstance(node, SimNve):
                node.receive(Received(datagram.payload, ipaddress.ip_address(source).packed))

    def delivered(self, node: SimNve, vni: int, frame: bytes) -> None:
        self.ledger.delivered(node, vni, frame)

    # Whether all is well --------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        self.log.append(f"{self.now:.3f} {text}")

    def quiet(self) -> bool:
        """Whether the NVA runs and every node that may be is in step with it."""
        nva = self.nva
        if nva is None or any(node is None for node in self.nodes.values()):
            return False
        return all(record.revoked or nva.in_step(record) for record in nva.nodes.values())

    def heal(self) -> None:
        """No more faults."""
        self.fate, self.crash_at, self.underlay_fate = on_time, lambda _: None, lambda: [LATENCY]
        self.partitioned.clear()

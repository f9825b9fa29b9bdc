"""What must never happen in the simulated world, checked as it happens: keys, nonces, plaintext, deliveries."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from controller.authority import records
from controller.authority.nva import Nva
from controller.authority.records import Change, Keep
from geneve.config import validate
from geneve.control import jsonrpc
from geneve.control.state import Association, AssociationRole
from geneve.option import parse_options
from geneve.security.association import OutboundAssociation
from geneve.security.option import SECURITY_CLASS
from tests.simulation import scene

if TYPE_CHECKING:
    from nve.datagrams import Datagram
    from tests.simulation.nodes import SimNode, SimNve
    from tests.simulation.world import World


ISOLATION = 0.5
"""Seconds after which nobody in step may use a key that a revoked node knows."""


class BrokenInvariantError(AssertionError):
    """Something happened that must not."""


def demand(holds: bool, text: str) -> None:
    if not holds:
        raise BrokenInvariantError(text)


class Ledger:
    """Sees everything of one world. Moments are numbers that grow with everything noted."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.spis: dict[int, tuple[Any, ...]] = {}
        self.secrets: dict[str, int] = {}
        self.made: dict[int, int] = {}
        """The moment at which an association was first stored or pushed."""
        self.nonces: set[tuple[str, int]] = set()
        self.since: dict[str, int] = {}
        """The moment since which a node may hold keys: its process's start, or the end of a revocation."""
        self.until: dict[str, int] = {}
        """The moment at which a node was revoked."""
        self.revoked_at: dict[str, float] = {}
        """The time of that."""
        self.registered: dict[str, int] = {}
        """The last moment at which the NVA answered a registration."""
        self.frames: dict[int, tuple[scene.Tenant, scene.Tenant | None]] = {}
        self.deliveries: dict[int, set[str]] = {}
        self.seals = 0
        self._moments = itertools.count(1)

    # Keys -----------------------------------------------------------------------------------------------

    def _meet(self, association: Association) -> None:
        """Note an association that is stored or pushed: an SPI and a secret are one association's for ever."""
        secret = association.secret.get_secret_value()
        identity = (secret, *(str(value) for key, value in association if key != "secret"))
        known = self.spis.setdefault(association.spi, identity)
        demand(known == identity, f"SPI {association.spi:#x} names two associations")
        demand(self.secrets.setdefault(secret, association.spi) == association.spi, "one secret has two SPIs")
        self.made.setdefault(association.spi, next(self._moments))

    def committed(self, changes: list[Change]) -> list[Change]:
        """Note what is being stored."""
        for change in changes:
            if isinstance(change, Keep) and change.kind == records.ASSOCIATION:
                fields = {key: value for key, value in change.content.items() if key not in ("stage", "created")}
                self._meet(validate(fields, "stored", Association))
        return changes

    def pushed(self, node: str, message: jsonrpc.Message, alive: bool) -> None:
        """Note what the NVA sends to a node: only what it may have, and only what is stored.

        ``alive``: the process that opened the connection still has it.
        """
        if isinstance(message, jsonrpc.Response) and "epoch" in message.result:
            self.registered[node] = next(self._moments)
        if not isinstance(message, jsonrpc.Request) or message.method != "push":
            return
        entries = message.params["scopes"].get("node", {}).get("set", {})
        stored = self.world.stored_spis() if entries else set()
        for key, value in entries.items():
            kind = key.partition("/")[0]
            if kind in ("in", "out"):
                association = validate(value, key, Association)
                self._meet(association)
                known = association.spi in stored or self._repeated(message)
                demand(known, f"{association.spi:#x} is pushed to {node} before it is stored")
                self._belongs(node, association, kind == "out")
                if alive:
                    self._in_time(node, association.spi)

    def _repeated(self, message: jsonrpc.Request) -> bool:
        """Whether a push is one that was sent before: what it holds may have ended meanwhile."""
        assert self.world.nva is not None
        pushes = [node.push for node in self.world.nva.nodes.values()]
        return any(push is not None and push.request == message.id and push.sent > push.since for push in pushes)

    def _belongs(self, node: str, association: Association, sends: bool) -> None:
        spi = association.spi
        if sends:
            demand(association.sender == node, f"{node} is given {spi:#x} to send, which is {association.sender}'s")
        else:
            demand(association.opens(node) and association.sender != node, f"{node} is given {spi:#x} to open")

    def _in_time(self, node: str, spi: int) -> None:
        made = self.made[spi]
        demand(made > self.since.get(node, 0), f"{node} holds {spi:#x}, made before it came")
        until = self.until.get(node)
        demand(until is None or made < until, f"{node} holds {spi:#x}, made after it was revoked")

    def node_started(self, node: SimNode) -> None:
        # A process that starts while its name is revoked is no member; what it may hold comes after the restoration.
        self.since[node.name] = next(self._moments)

    def membership(self, node: str, member: bool) -> None:
        """Note that a node is revoked, or restored."""
        if member:
            self.revoked_at.pop(node, None)
            if self.until.pop(node, None) is not None:
                self.since[node] = next(self._moments)
        else:
            self.until.setdefault(node, next(self._moments))
            self.revoked_at.setdefault(node, self.world.now)

    def check_node(self, node: SimNode) -> None:
        """Check that a node holds what belongs to it and no more, in its document and in force."""
        outbound, inbound = node.in_document()
        named = {item.spi for item in (*outbound, *inbound)}
        for association in outbound:
            demand(association.sender == node.name, f"{node.name} sends under {association.spi:#x}")
        for association in inbound:
            demand(association.opens(node.name), f"{node.name} opens {association.spi:#x}")
        for association in node.held():
            demand(association.spi in named, f"{node.name} keeps {association.spi:#x}, which was withdrawn")
        # Of one that was restored the process may be the one of before: what it held then it held by right.
        if node.link.registered:
            for spi in named:
                until = self.until.get(node.name)
                demand(until is None or self.made[spi] < until, f"{node.name} holds {spi:#x} after its revocation")

    # Packets --------------------------------------------------------------------------------------------

    def sealed(self, end: OutboundAssociation, number: int) -> None:
        """Note that a number of an association is given out: it is used then, whatever becomes of it."""
        self.seals += 1
        association = end._association
        use = (association.secret.get_secret_value(), number)
        demand(use not in self.nonces, f"a nonce of {association.spi:#x} is used twice")
        self.nonces.add(use)
        for name in sorted(_openers(association)):
            self._has_acknowledged(name, association)
            self._is_no_leaver(name, association)

    def _has_acknowledged(self, name: str, association: Association) -> None:
        """A sender uses only what its audience holds: its NVE always, others if they were there all the time."""
        node = self.world.nodes[name]
        made = self.made[association.spi]
        if node is None or made < self.since[name] or association.spi in node.ever_held:
            return
        egress = association.role in (AssociationRole.EGRESS, AssociationRole.GROUP) and name == association.audience
        nva = self.world.nva
        there = nva is not None and nva.nodes[name].connection is not None and made > self.registered.get(name, 0)
        what = f"{association.spi:#x} ({association.role.value})"
        demand(not (egress or there), f"{association.sender} uses {what}, which {name} does not hold")

    def _is_no_leaver(self, name: str, association: Association) -> None:
        """A sender that is in step uses no key that a node knows which was revoked."""
        nva = self.world.nva
        left = self.revoked_at.get(name)
        if nva is None or left is None or self.world.now < left + ISOLATION or not nva.nodes[name].revoked:
            return
        in_step = nva.in_step(nva.nodes[association.sender])
        demand(not in_step, f"{association.sender} uses {association.spi:#x}, which {name} knows, and that is revoked")

    def datagram(self, sender: SimNve, datagram: Datagram) -> None:
        """Look at what goes onto the underlay."""
        packet = datagram.payload
        vni = int.from_bytes(packet[4:7], "big")
        if not sender.secures(vni):
            demand(vni not in scene.SECURED, f"the policy of VNI {vni} is not SECURE at {sender.name}")
            return
        demand(scene.MARK not in packet, f"{sender.name} shows a tenant's data of VNI {vni}")
        options = parse_options(packet[8 : 8 + (packet[0] & 0x3F) * 4])
        secured = any(item.option_class == SECURITY_CLASS for item in options)
        demand(secured, f"{sender.name} sends a packet of VNI {vni} without a security option")

    # Frames ---------------------------------------------------------------------------------------------

    def frame_sent(self, serial: int, sender: scene.Tenant, receiver: scene.Tenant | None) -> None:
        self.frames[serial] = sender, receiver

    def delivered(self, node: SimNve, vni: int, frame: bytes) -> None:
        serial = scene.serial_of(frame)
        if not serial:
            return
        sender, _ = self.frames[serial]
        demand(vni == sender.vni, f"a frame of VNI {sender.vni} is delivered in VNI {vni}")
        got = self.deliveries.setdefault(serial, set())
        if vni in scene.SECURED:
            demand(node.name not in got, f"frame {serial} is delivered twice at {node.name}")
        got.add(node.name)


def _openers(association: Association) -> set[str]:
    members = set(association.members)
    return members if association.role is AssociationRole.MULTICAST else members | {association.audience}


@contextlib.contextmanager
def watched(world: World) -> Iterator[None]:
    """Have the world's ledger told of each use of a key, while this lasts."""
    reserve = OutboundAssociation.reserve

    def noted(self: OutboundAssociation, count: int) -> int:
        first = reserve(self, count)
        for number in range(first, first + count):
            world.ledger.sealed(self, number)
        return first

    OutboundAssociation.reserve = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        OutboundAssociation.reserve = reserve  # type: ignore[method-assign]


def memory_of(nva: Nva) -> dict[str, Any]:
    """Return what of a NVA must be the same after a restart from its store."""
    lines: dict[str, Any] = {}
    for line in nva.associations.all():
        stages: dict[str, Any] = {"offered": None, "current": None, "retiring": []}
        for stage, held in line.all():
            if stage == "retiring":
                stages["retiring"].append(held.association.spi)
            else:
                stages[stage] = held.association.spi
        stages["retiring"].sort()
        lines[repr(tuple(line.key))] = stages
    return {
        "nodes": {n.name: (n.instance, n.signing_key, n.known, n.revoked) for n in nva.nodes.values()},
        "policy": (nva.book.version, nva.book.document),
        "mappings": [mapping.model_dump(mode="json") for mapping in nva.directory.all()],
        "scopes": {
            name: {key: entry.model_dump(mode="json") for key, entry in sorted(scope.entries.items())}
            for name, scope in nva._pusher.scopes.items()
        },
        "demands": nva.associations.demands(),
        "paths": {pair: devices for pair, devices in nva._paths.items() if devices},
        "lines": lines,
    }


def check_restart(world: World) -> None:
    """Check that a restart from the store would give what the NVA has in memory."""
    assert world.nva is not None
    state = world.random.getstate()
    lines = len(world.audit)
    restored = memory_of(world.restored())
    world.random.setstate(state)
    del world.audit[lines:]
    mine = memory_of(world.nva)
    for part, value in mine.items():
        other = restored[part]
        if isinstance(value, dict) and value != other:
            keys = [key for key in {**value, **other} if value.get(key) != other.get(key)]
            value, other = {key: value.get(key) for key in keys}, {key: other.get(key) for key in keys}
        demand(other == value, f"{part}: {value} in memory and {other} after a restart")

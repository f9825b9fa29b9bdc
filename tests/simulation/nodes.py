"""Nodes of the simulated world: the real decisions behind the real agent, without TAPs, sockets and clocks."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from geneve.control.agent import ControlAgent
from geneve.control.protocol import Identity
from geneve.control.state import Association, NodeState, Role
from geneve.errors import ConfigError
from geneve.outer import build_datagram, build_frame
from geneve.security.signature import SourceSigner
from nve.datagrams import Datagram, Received
from nve.dataplane import Dataplane
from nve.fdb import MacGone, MacSeen, PortSeen
from nve.presence import Presence
from tests.simulation import scene
from tests.simulation.control import SimLink
from tests.support import mac
from transit.device import TransitDevice
from transit.outcome import Outcome

if TYPE_CHECKING:
    from tests.simulation.world import World

_TAP, _PORT = 10_000, 20_000
"""Interface indices of a VNI's TAP and of the port of its tenants: these plus the VNI; a bridge's is the VNI."""


class SimNode:
    """A process of a node: one instance, never reused after :meth:`kill`."""

    role: Role

    def __init__(self, world: World, name: str, serial: int, signing_key: bytes | None = None) -> None:
        self.world, self.name, self.serial = world, name, serial
        self.ever_held: set[int] = set()
        """SPIs that this process has had in force to open with."""
        key = None if signing_key is None else base64.b64encode(signing_key).decode()
        self.instance = f"{name}-{serial}"
        identity = Identity(name, self.role, self.instance, "nva", key)
        self.link = SimLink(identity, world.connect, world.node_sends, world.node_closes, world.random.random)
        self.agent = self._make_agent()

    def _make_agent(self) -> ControlAgent:
        raise NotImplementedError

    def held(self) -> list[Association]:
        """Return every association that this process holds, in its document or in force."""
        raise NotImplementedError

    def poll(self, now: float) -> None:
        """Do what is due."""
        self.agent.run_timers(now)

    def kill(self) -> None:
        self.link.close()

    def in_document(self) -> tuple[tuple[Association, ...], tuple[Association, ...]]:
        state = self.link.progress.document.state(self.name, self.role)
        return state.outbound, state.inbound


class SimNve(SimNode):
    """An NVE: the daemon's loop in a few lines, tenants on its bridges."""

    role = Role.NVE

    def __init__(self, world: World, name: str, serial: int) -> None:
        signer = SourceSigner.from_seed(hashlib.sha256(f"{name} {serial}".encode()).digest())
        self.presence = Presence()
        self.dataplane = Dataplane(
            name, bytes([serial % 256]) * 32, signer=signer, on_demand=True, presence=self.presence
        )
        for vni in (scene.MOBILE, scene.SHARED, scene.PAIRED, scene.PLAIN):
            self.presence.add_bridge(vni, vni, _TAP + vni)
            self.presence.handle([PortSeen(_PORT + vni, f"p{vni}", vni, True)], world.now)
        super().__init__(world, name, serial, signer.public_key())

    def _make_agent(self) -> ControlAgent:
        def nothing(*_: object) -> None:
            return None

        return ControlAgent(
            self.link,  # type: ignore[arg-type]
            self._apply,
            nothing,
            nothing,
            check=self._check,
            refused=lambda demand: self.dataplane.refuse_demand(demand, self.world.now),
            confirm=lambda vni, address: self.presence.confirm(vni, address, self.world.now),
        )

    def _apply(self, state: NodeState) -> None:
        self._emit(self.dataplane.apply(state, self.world.now))
        self.ever_held |= {end.spi for end in state.inbound}

    def _check(self, state: NodeState) -> None:
        if any(profile.name == scene.POISON for profile in state.profiles):
            raise ConfigError("this node cannot do that.")
        self.dataplane.check(state, self.world.now)

    def held(self) -> list[Association]:
        stores = self.dataplane._outbound, self.dataplane._inbound
        return [held.association for store in stores for held in store._held.values()]

    def secures(self, vni: int) -> bool:
        """Whether the policy in force here says SECURE for all packets of a VNI."""
        rules = self.dataplane._applied.policy.rules_for(vni)
        return bool(rules) and all(rule.profile is not None for rule in rules)

    def _emit(self, datagrams: list[Datagram]) -> None:
        for datagram in datagrams:
            self.world.underlay_send(self, datagram)

    def send(self, vni: int, frame: bytes) -> None:
        """Take a tenant's frame."""
        self._emit(self.dataplane.from_tenants(vni, [frame], self.world.now).datagrams)

    def receive(self, received: Received) -> None:
        for vni, frame in self.dataplane.from_underlay([received], self.world.now):
            self.world.delivered(self, vni, frame)

    def appear(self, tenant: scene.Tenant) -> None:
        self.presence.handle([MacSeen(tenant.vni, _PORT + tenant.vni, mac(tenant.mac))], self.world.now)

    def vanish(self, tenant: scene.Tenant) -> None:
        """The bridge finds the tenant behind its TAP: it has moved."""
        seen = mac(tenant.mac)
        events = [MacGone(tenant.vni, _PORT + tenant.vni, seen), MacSeen(tenant.vni, _TAP + tenant.vni, seen)]
        self.presence.handle(events, self.world.now)

    def poll(self, now: float) -> None:
        self._emit(self.dataplane.run_due(now))
        confirmations = self.presence.take_confirmations(now)
        for vni, _ in self.presence.take_frames():
            for tenant in self.world.tenants_at(self.name, vni):
                self.send(vni, scene.frame(tenant, tenant, 0))  # an answer, as good as ARP's
        report = self.presence.take_report(now)
        for spi in self.dataplane.take_rekey_requests():
            self.agent.ask_rekey(spi)
        self.agent.ask_keys(self.dataplane.take_demands(now))
        for vni, address, present in confirmations:
            self.agent.confirmed(vni, address, present)
        if report is not None:
            self.agent.tell_tenants(report)
        super().poll(now)


class SimDevice(SimNode):
    """A transit device on the way."""

    role = Role.TRANSIT

    def __init__(self, world: World, name: str, serial: int) -> None:
        self.device = TransitDevice(name)
        super().__init__(world, name, serial)

    def _make_agent(self) -> ControlAgent:
        def nothing(*_: object) -> None:
            return None

        return ControlAgent(self.link, self._apply, nothing, nothing)  # type: ignore[arg-type]

    def _apply(self, state: NodeState) -> None:
        self.device.apply(state, self.world.now)
        self.ever_held |= {end.spi for end in state.inbound}

    def held(self) -> list[Association]:
        return [held.association for held in self.device._store._held.values()]

    def pass_on(self, payload: bytes, source: str, destination: str) -> Outcome:
        """Look at a packet on its way; returns what was found in it."""
        outer = build_frame(bytes(6), bytes(6), build_datagram(source, destination, 50_000, payload))
        decision = self.device.process(outer, 1, int(self.world.now * 1e9))
        assert decision.forward, "there is no group policy here"
        return decision.outcome

    def poll(self, now: float) -> None:
        self.device.expire(now)
        super().poll(now)


Maker = Callable[["World", str, int], SimNode]

"""From a scenario to everything that can be known before anything runs: interfaces, addresses, MTUs.

Pure: nothing here touches the machine. The configuration files of the programs are made in
``configs.py`` from this plan.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

from topologies.scenario import NVA_NAME, Scenario

NVA_PORT = 6640
COLLECTOR_PORT = 6082
OPENFLOW_PORT = 6653
REST_PORT = 8080

MANAGEMENT_PREFIX = 30
MANAGEMENT_SANDBOX = "10.255.0.1"
"""The sandbox's own end of the management link, where the switches' OpenFlow connections come from."""
MANAGEMENT_NVA = "10.255.0.2"
"""The NVA's end of the management link: OpenFlow and REST listen there."""
MANAGEMENT_NETWORK = "10.255.0.0/30"
"""Both; nothing that comes from the underlay may reach it."""
MANAGEMENT_INTERFACES = ("mgmt-sandbox", "mgmt-nva")

_IPV4_PREFIX = 16
_IPV6_PREFIX = 64


class Kind(str, Enum):
    """What a node of the emulated network is."""

    SWITCH = "switch"
    NVA = "nva"
    NVE = "nve"
    TRANSIT = "transit"
    ATTACKER = "attacker"
    HOST = "host"


_THIRD_OCTET = {Kind.NVA: 0, Kind.NVE: 1, Kind.TRANSIT: 2, Kind.ATTACKER: 3}
_MAC_KIND = {Kind.SWITCH: 0x10, Kind.NVA: 0, Kind.NVE: 1, Kind.TRANSIT: 2, Kind.ATTACKER: 3, Kind.HOST: 4}


@dataclass(frozen=True)
class End:
    """One end of a wire. ``mac`` is None where the kernel may choose; ``addresses`` have prefix lengths."""

    node: str
    interface: str
    mac: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wire:
    """A veth pair between two nodes; ``mtu`` in bytes. ``underlay`` is False for a tenant's wire."""

    first: End
    second: End
    mtu: int
    underlay: bool = True


@dataclass(frozen=True)
class Shaping:
    """Rate (Mbit/s) and delay (ms) of one switch's outgoing interface."""

    switch: str
    interface: str
    rate_mbit: float | None
    delay_ms: float | None


@dataclass(frozen=True)
class Plan:
    """Everything decided before the network is built. Made by :func:`make_plan`."""

    scenario: Scenario
    kinds: dict[str, Kind]
    wires: tuple[Wire, ...]
    underlay_addresses: dict[str, str]
    """Node to underlay address, without prefix length."""
    tenant_mtu: dict[int, int]
    """VNI to the MTU of its tenants' hosts, bytes."""
    shaping: tuple[Shaping, ...]
    datapath_ids: dict[str, int]
    bridges: dict[str, tuple[str, str]]
    """Attackers on the path, and the two interfaces that each bridges."""

    def nodes(self, kind: Kind) -> list[str]:
        """Return the names of all nodes of one kind, in the scenario's order."""
        return [name for name, entry in self.kinds.items() if entry is kind]

    def ends(self, node: str) -> list[End]:
        """Return the node's ends of its wires, in the order of their interface numbers."""
        return [end for wire in self.wires for end in (wire.first, wire.second) if end.node == node]

    def interface(self, node: str, towards: str) -> str:
        """Return the interface of ``node`` on its wire to ``towards``; KeyError when there is none.

        A transit device's wire comes before its management port where both lead to one switch.
        """
        for wire in self.wires:
            for near, far in ((wire.first, wire.second), (wire.second, wire.first)):
                if (near.node, far.node) == (node, towards):
                    return near.interface
        raise KeyError(f"no wire joins '{node}' and '{towards}'")

    def attachment(self, node: str) -> tuple[str, str]:
        """Return the MAC address of a node's underlay address, and the switch; KeyError when it has none."""
        for wire in self.wires:
            if wire.underlay and wire.first.node == node and wire.first.addresses:
                return wire.first.mac, wire.second.node
        raise KeyError(f"'{node}' has no underlay address")

    def attachment_port(self, node: str) -> int:
        """Return the OpenFlow port of the switch that ``attachment`` names; KeyError when the node has none."""
        for wire in self.wires:
            if wire.underlay and wire.first.node == node and wire.first.addresses:
                return int(wire.second.interface.rpartition("-eth")[2])
        raise KeyError(f"'{node}' has no underlay address")

    def tenant_of(self, host: str) -> str:
        """Return the tenant that owns ``host``; KeyError when it is no tenant's host."""
        for name, tenant in self.scenario.tenants.items():
            if host in tenant.hosts:
                return name
        raise KeyError(f"'{host}' is no tenant's host")

    def link_ends(self, first: str, second: str) -> list[tuple[str, str]]:
        """Return (node, interface) to take down for the link between two neighbours to be down at both.

        Two switches joined through devices on the link count as neighbours; KeyError when there is no link.
        """
        for link in self.scenario.underlay.links:
            if {first, second} == set(link.between):
                chain = [link.between[0], *link.via, link.between[1]]
                return [
                    (chain[0], self.interface(chain[0], chain[1])),
                    (chain[-1], self.interface(chain[-1], chain[-2])),
                ]
        return [(first, self.interface(first, second)), (second, self.interface(second, first))]


@dataclass
class _Builder:
    scenario: Scenario
    kinds: dict[str, Kind] = field(default_factory=dict)
    wires: list[Wire] = field(default_factory=list)
    shaping: list[Shaping] = field(default_factory=list)
    addresses: dict[str, str] = field(default_factory=dict)
    used_ports: Counter[str] = field(default_factory=Counter)
    serials: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, kind: Kind) -> None:
        """Register a node and give it its underlay address, if its kind has one."""
        serial = 1 + sum(1 for other in self.kinds.values() if other is kind)
        self.kinds[name] = kind
        self.serials[name] = serial
        if kind in _THIRD_OCTET:
            self.addresses[name] = self._address(kind, 100 if kind is Kind.NVA else serial)

    def _address(self, kind: Kind, serial: int) -> str:
        if self.scenario.underlay.family == "ipv4":
            return f"192.168.{_THIRD_OCTET[kind]}.{serial}"
        return str(ipaddress.ip_address(f"fd00:6081::{_THIRD_OCTET[kind]:x}:{serial:x}"))

    @property
    def underlay_prefix(self) -> int:
        return _IPV4_PREFIX if self.scenario.underlay.family == "ipv4" else _IPV6_PREFIX

    def end(self, node: str, *, addressed: bool = False, mac: str | None = None) -> End:
        """Make the next interface of ``node``. Switch ports count from 1, as OpenFlow's do."""
        kind = self.kinds[node]
        number = self.used_ports[node] + (1 if kind is Kind.SWITCH else 0)
        self.used_ports[node] += 1
        addresses: tuple[str, ...] = ()
        if addressed:
            addresses = (f"{self.addresses[node]}/{self.underlay_prefix}",)
        # Locally administered, and told apart at a glance: 02:60:81, kind, node, interface.
        own = f"02:60:81:{_MAC_KIND[kind]:02x}:{self.serials[node]:02x}:{number:02x}"
        return End(node, f"{node}-eth{number}", mac or own, addresses)

    def attach(self, node: str, switch: str) -> None:
        """Join a node with an underlay address to a switch."""
        wire = Wire(self.end(node, addressed=True), self.end(switch), self.scenario.underlay.mtu)
        self.wires.append(wire)


def tenant_bridge(vni: int) -> str:
    """Return the name of the bridge that an NVE makes for a VNI's tenants (nve/tap.py)."""
    return f"br{vni}"


def make_plan(scenario: Scenario) -> Plan:
    """Decide every name, address and size of the network that ``scenario`` describes."""
    builder = _Builder(scenario)
    _add_nodes(builder)
    _add_links(builder)
    _add_attachments(builder)
    mtus = {tenant.vni: scenario.tenant_mtu(name) for name, tenant in scenario.tenants.items()}
    _add_tenants(builder, mtus)
    on_path = [name for name, attacker in scenario.attackers.items() if attacker.attach is None]
    for name in on_path:
        del builder.addresses[name]
    return Plan(
        scenario=scenario,
        kinds=builder.kinds,
        wires=tuple(builder.wires),
        underlay_addresses=builder.addresses,
        tenant_mtu=mtus,
        shaping=tuple(builder.shaping),
        datapath_ids={name: number for number, name in enumerate(scenario.underlay.switches, start=1)},
        bridges={name: (f"{name}-eth0", f"{name}-eth1") for name in on_path},
    )


def _add_nodes(builder: _Builder) -> None:
    scenario = builder.scenario
    groups = (
        (Kind.SWITCH, scenario.underlay.switches),
        (Kind.NVA, (NVA_NAME,)),
        (Kind.NVE, scenario.nves),
        (Kind.TRANSIT, scenario.transit_devices),
        (Kind.ATTACKER, scenario.attackers),
        (Kind.HOST, [host for tenant in scenario.tenants.values() for host in tenant.hosts]),
    )
    for kind, names in groups:
        for name in names:
            builder.add(name, kind)


def _add_links(builder: _Builder) -> None:
    for link in builder.scenario.underlay.links:
        chain = [link.between[0], *link.via, link.between[1]]
        first = last = None
        for near, far in pairwise(chain):
            wire = Wire(builder.end(near), builder.end(far), builder.scenario.underlay.mtu)
            builder.wires.append(wire)
            first, last = first or wire.first, wire.second
        if link.rate_mbit is not None or link.delay_ms is not None:
            for end in (first, last):
                assert end is not None
                builder.shaping.append(Shaping(end.node, end.interface, link.rate_mbit, link.delay_ms))


def _add_attachments(builder: _Builder) -> None:
    scenario = builder.scenario
    builder.attach(NVA_NAME, scenario.nva.attach)
    for name, nve in scenario.nves.items():
        builder.attach(name, nve.attach)
    for name, device in scenario.transit_devices.items():
        builder.attach(name, device.management)
    for name, attacker in scenario.attackers.items():
        if attacker.attach is not None:
            builder.attach(name, attacker.attach)


def _add_tenants(builder: _Builder, mtus: dict[int, int]) -> None:
    for tenant in builder.scenario.tenants.values():
        for name, host in tenant.hosts.items():
            own = builder.end(name, mac=host.mac)
            addresses = tuple(text for text in (host.ipv4, host.ipv6) if text is not None)
            own = End(own.node, own.interface, own.mac, addresses)
            builder.wires.append(Wire(own, builder.end(host.nve), mtus[tenant.vni], underlay=False))

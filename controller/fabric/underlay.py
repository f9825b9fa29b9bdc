"""The underlay as one state machine: events of switches and a time in, commands out.

Joins discovery and fabric with the inventory. Knows nothing of OpenFlow's encoding or of a framework.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controller.fabric.counters import Counters, FlowCount, PortCount
from controller.fabric.discovery import ETHERTYPE_LLDP, Discovery, PortId, Topology
from controller.fabric.flows import COOKIES, FlowRule, GroupEntry, Rules, difference, groups_of
from controller.fabric.forwarding import GroupMembers, Hosts, desired_rules
from controller.fabric.routes import Routes
from controller.fabric.spoofing import Owner
from controller.inventory import Inventory, InventoryNode, Nva
from geneve.control.state import MulticastGroup, Role
from geneve.errors import ParseError

Paths = Mapping[tuple[str, str], tuple[str, ...]]
"""For each ordered pair of NVEs the transit devices from the first to the second.

With several paths of equal cost these are the devices on any of them: the sender cannot know which path the hash of a
switch gives to a flow, so its packets serve all. Two devices on one path are in the order of travel; both directions
have the same devices. The price: a packet carries an option, and the sender computes a tag, for each device that it
does not meet (docs/architecture.md).
"""


@dataclass(frozen=True, slots=True)
class SwitchUp:
    """A switch has connected; ``ports`` tells for each port whether it is up."""

    dpid: int
    ports: Mapping[int, bool]


@dataclass(frozen=True, slots=True)
class SwitchDown:
    """A switch's connection is gone."""

    dpid: int


@dataclass(frozen=True, slots=True)
class PortStatus:
    """A port went up or down, appeared or disappeared (then ``up`` is false)."""

    dpid: int
    port: int
    up: bool


@dataclass(frozen=True, slots=True)
class PacketIn:
    """A frame, or its first bytes, that a switch did not know the source of, or LLDP."""

    dpid: int
    port: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class FlowStats:
    """A part of what a switch's rules counted; ``more`` parts follow or not."""

    dpid: int
    flows: tuple[FlowCount, ...]
    more: bool = False


@dataclass(frozen=True, slots=True)
class PortStats:
    """What (some of) a switch's ports counted."""

    dpid: int
    ports: tuple[PortCount, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


UnderlayEvent = SwitchUp | SwitchDown | PortStatus | PacketIn | FlowStats | PortStats | Tick


@dataclass(frozen=True, slots=True)
class Clear:
    """Delete every rule of a switch."""

    dpid: int


@dataclass(frozen=True, slots=True)
class Update:
    """Add and then delete rules of a switch; new groups come before the rules that use them, old ones go last."""

    dpid: int
    add: tuple[FlowRule, ...]
    delete: tuple[FlowRule, ...]
    new_groups: tuple[GroupEntry, ...] = ()
    old_groups: tuple[GroupEntry, ...] = ()
    cookie: int = 0


@dataclass(frozen=True, slots=True)
class Sweep:
    """Delete the rules that an earlier controller left on a switch: those under another cookie of ours."""

    dpid: int
    cookie: int


@dataclass(frozen=True, slots=True)
class Emit:
    """Send a frame from a port."""

    dpid: int
    port: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class AskStats:
    """Ask a switch what its rules and ports counted."""

    dpid: int


@dataclass(frozen=True, slots=True)
class PathsChanged:
    """The paths between NVEs are others now; all of them."""

    paths: Paths


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person may want to know."""

    text: str


Command = Clear | Update | Sweep | Emit | AskStats | PathsChanged | Notice


class Underlay:
    """All switches of the inventory. ``key`` authenticates the probes of this run.

    ``life`` counts the lives of this controller. After an earlier one, the rules that it left stay on the switches and
    carry the traffic until all switches and links are found, or until ``adopt_until``.
    """

    def __init__(self, inventory: Inventory, key: bytes, life: int = 0, adopt_until: float | None = None) -> None:
        self._cookie = COOKIES[life % len(COOKIES)]
        self._adopt_until = adopt_until
        self._adopted: set[int] = set()
        self._inventory = inventory
        self._costs = inventory.link_costs()
        self._names = {dpid: name for name, dpid in inventory.switches.items()}
        self._discovery = Discovery(self._costs, key)
        self._hosts = Hosts(inventory.fixed_places(), inventory.fixed_ports())
        self._topology = Topology()
        self._routes = Routes(self._topology, self._costs, inventory.fabric.ecmp)
        self._owners = _owners(inventory) if inventory.fabric.anti_spoofing else ()
        self._counters = Counters(inventory.fabric.counters_seconds)
        self._installed: dict[int, Rules] = {}
        self._paths: Paths = {}
        self._groups = tuple(self._members_of(vni.vni, group) for vni in inventory.vnis for group in vni.multicast)

    def _members_of(self, vni: int, group: MulticastGroup) -> GroupMembers:
        macs = (self._inventory.nodes[name].mac for name in self._inventory.members(vni))
        return GroupMembers(group.address, tuple(mac for mac in macs if mac is not None))

    def handle(self, event: UnderlayEvent, now: float) -> list[Command]:
        """Take one event and return what is to be done, in order."""
        commands: list[Command] = []
        learned = False
        if isinstance(event, SwitchUp):
            commands += self._switch_up(event, now)
        elif isinstance(event, SwitchDown):
            self._discovery.switch_down(event.dpid)
            self._counters.switch_down(event.dpid)
            self._installed.pop(event.dpid, None)
        elif isinstance(event, PortStatus):
            self._discovery.port_status(event.dpid, event.port, event.up, now)
        elif isinstance(event, PacketIn):
            learned = self._packet_in(event, now)
        elif isinstance(event, FlowStats):
            self._counters.flows(event.dpid, event.flows, event.more, now)
            return []
        elif isinstance(event, PortStats):
            self._counters.ports(event.dpid, event.ports)
            return []
        else:
            self._discovery.expire(now)
            commands += [AskStats(dpid) for dpid in self._counters.due(now)]
        topology = self._discovery.topology(now)
        if self._adopt_until is not None and (self._all_there(topology) or now >= self._adopt_until):
            return commands + self._take_over(topology)
        if learned or topology != self._topology or isinstance(event, SwitchUp):
            commands += self._change(topology)
        commands += [Emit(*place, frame) for place, frame in self._discovery.probes_due(now)]
        return commands

    def _take_over(self, topology: Topology) -> list[Command]:
        """Replace what an earlier controller installed: first the new rules, then the old go, so no frame is lost."""
        adopted, self._adopted, self._adopt_until = sorted(self._adopted), set(), None
        return [*self._change(topology), *(Sweep(dpid, self._cookie) for dpid in adopted)]

    def _all_there(self, topology: Topology) -> bool:
        return self._discovery.complete and set(self._names) == topology.switches

    def _switch_up(self, event: SwitchUp, now: float) -> list[Command]:
        if event.dpid not in self._names:
            return [Notice(f"switch {event.dpid:#x} is not in the inventory and is left alone")]
        self._discovery.switch_up(event.dpid, event.ports, now)
        self._counters.switch_up(event.dpid, now)
        self._installed[event.dpid] = frozenset()
        # Whatever was noted on its ports belongs to the rules that are deleted now.
        self._hosts.keep_only(frozenset(edge for edge in self._topology.edges if edge[0] != event.dpid))
        if self._adopt_until is not None:
            self._adopted.add(event.dpid)
            return []
        return [Clear(event.dpid)]

    def _packet_in(self, event: PacketIn, now: float) -> bool:
        frame, place = event.frame, (event.dpid, event.port)
        if len(frame) < 14:
            return False
        if int.from_bytes(frame[12:14], "big") == ETHERTYPE_LLDP:
            with contextlib.suppress(ParseError):  # some host's own LLDP, or a forgery: no news either way
                self._discovery.probe_received(*place, frame, now)
            return False
        self._discovery.host_frame(*place)
        if place not in self._topology.edges or frame[6] & 1 or not any(frame[6:12]):
            return False
        return self._hosts.note(frame[6:12].hex(":"), place)

    def _change(self, topology: Topology) -> list[Command]:
        commands: list[Command] = [Notice(text) for text in self._news(topology)]
        links_changed = (topology.switches, topology.links) != (self._topology.switches, self._topology.links)
        self._topology = topology
        self._hosts.keep_only(topology.edges)
        if links_changed:
            self._routes = Routes(topology, self._costs, self._inventory.fabric.ecmp)
        rules_of = desired_rules(topology, self._routes, self._hosts, self._groups, self._owners)
        for dpid, rules in rules_of.items():
            installed = self._installed.get(dpid, frozenset())
            if dpid in self._adopted:
                rules = frozenset(rule for rule in rules if rule.match.eth_type == ETHERTYPE_LLDP)
            added, deleted = difference(installed, rules)
            before, after = groups_of(installed), groups_of(rules)
            self._installed[dpid] = rules
            if added or deleted:
                new, old = sorted(after - before, key=repr), sorted(before - after, key=repr)
                commands.append(Update(dpid, tuple(added), tuple(deleted), tuple(new), tuple(old), self._cookie))
        paths = self._nve_paths() if links_changed or not self._paths else self._paths
        if paths != self._paths:
            self._paths = paths
            commands.append(PathsChanged(paths))
        return commands

    def _news(self, topology: Topology) -> list[str]:
        news = []
        for dpid in sorted(self._topology.switches ^ topology.switches):
            news.append(f"switch {self._names[dpid]} {'up' if dpid in topology.switches else 'down'}")
        before = {(link.a, link.b) for link in self._topology.links}
        after = {(link.a, link.b) for link in topology.links}
        for a, b in sorted(before ^ after):
            state = "up" if (a, b) in after else "down"
            news.append(f"link {self._names[a]}-{self._names[b]} {state}")
        return news

    def _nve_paths(self) -> dict[tuple[str, str], tuple[str, ...]]:
        nodes = self._inventory.nodes
        places = {
            name: self._inventory.switches[node.switch]
            for name, node in nodes.items()
            if node.role is Role.NVE and node.switch is not None
        }
        return {
            (first, second): self._transit(places[first], places[second])
            for first in places
            for second in places
            if first != second
        }

    def _transit(self, start: int, target: int) -> tuple[str, ...]:
        hops = self._routes.hops(start, target)
        devices = [device for a, b in hops for device in self._inventory.via(a, b)]
        nodes = self._inventory.nodes
        return tuple(name for name in devices if name in nodes and nodes[name].role is Role.TRANSIT)

    @property
    def complete(self) -> bool:
        """Whether every switch and link of the inventory is there."""
        return self._all_there(self._topology)

    def view(self) -> dict[str, Any]:
        """Return the topology for the REST view."""
        up = {(link.a, link.b): link for link in self._topology.links}
        links = []
        for expected in self._inventory.links:
            low, high = sorted(self._inventory.switches[name] for name in expected.between)
            link = up.get((low, high))
            ports = {} if link is None else {link.a: link.a_port, link.b: link.b_port}
            links.append(
                {
                    "between": list(expected.between),
                    "ports": [ports.get(self._inventory.switches[name]) for name in expected.between],
                    "via": list(expected.via),
                    "cost": expected.cost,
                    "up": link is not None,
                    "tree": link in self._routes.tree,
                }
            )
        return {
            "switches": [
                {"name": name, "dpid": dpid, "connected": dpid in self._topology.switches}
                for name, dpid in self._inventory.switches.items()
            ],
            "links": links,
            "hosts": [self._host(mac, place) for mac, place in sorted(self._hosts.locations().items())],
            "paths": [{"from": a, "to": b, "transit": list(via)} for (a, b), via in sorted(self._paths.items())],
            "complete": self.complete,
        }

    def flows_view(self, now: float) -> dict[str, Any]:
        """Return what rules and ports counted, for the REST view."""
        return self._counters.view(self._names, now)

    def _host(self, mac: str, place: PortId) -> dict[str, Any]:
        return {"mac": mac, "switch": self._names[place[0]], "port": place[1]}


def _owners(inventory: Inventory) -> tuple[Owner, ...]:
    """Return the NVA and the nodes whose MAC address and switch are known; of others no frame can be judged."""
    everybody: list[Nva | InventoryNode] = [inventory.nva, *inventory.nodes.values()]
    return tuple(
        Owner(owner.mac, owner.address, inventory.switches[owner.switch], owner.switch_port)
        for owner in everybody
        if owner.mac is not None and owner.switch is not None
    )

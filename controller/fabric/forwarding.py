"""Forwarding in the underlay: the hosts' places, and the flow rules that follow from topology, routes and places.

Pure functions of a topology and the hosts' places. Unknown unicast is flooded along the spanning tree,
as a learning switch does, so that no frame is lost while a place is being learned.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from controller.fabric.discovery import ETHERTYPE_LLDP, PortId, Topology
from controller.fabric.flows import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    FORWARD_TABLE,
    LEARN_TABLE,
    FlowRule,
    GroupEntry,
    Match,
    Rules,
)
from controller.fabric.routes import Routes
from controller.fabric.spoofing import Owner, guard_rules

MAX_HOSTS_PER_PORT = 256
"""Source addresses noted on one edge port; what comes beyond is forwarded and not noted."""

_GROUP_BIT = "01:00:00:00:00:00"
_LINK_LOCAL = ("01:80:c2:00:00:00", "ff:ff:ff:ff:ff:f0")


@dataclass(frozen=True, slots=True)
class GroupMembers:
    """A multicast group of the underlay, and the MAC addresses of its senders and receivers."""

    address: str
    macs: tuple[str, ...]


class Hosts:
    """Where source addresses were seen. The first place holds until its port goes down.

    So a host that sends with another's address cannot move it; it is only noted as seen there too, so that
    its frames need no further look. When a place becomes free, all of this is forgotten: whoever speaks next
    has it. An address with a fixed switch (a node of the inventory) has its place there or nowhere. One whose port
    is fixed too has its place as soon as that is an edge port, without having spoken.
    """

    def __init__(self, fixed: Mapping[str, int] | None = None, ports: Mapping[str, int] | None = None) -> None:
        """``fixed`` are addresses and the datapath ids of the only switches that they can be at; ``ports`` likewise."""
        self._fixed: Mapping[str, int] = fixed or {}
        self._ports: Mapping[str, int] = ports or {}
        self._places: dict[str, PortId] = {}
        self._seen: dict[PortId, set[str]] = {}

    def note(self, mac: str, place: PortId) -> bool:
        """Note ``mac`` as seen at an edge port; returns whether that is news that was kept."""
        seen = self._seen.setdefault(place, set())
        if mac in seen or len(seen) >= MAX_HOSTS_PER_PORT:
            return False
        seen.add(mac)
        if (self._fixed.get(mac, place[0]), self._ports.get(mac, place[1])) == place:
            self._places.setdefault(mac, place)
        return True

    def keep_only(self, edges: frozenset[PortId]) -> None:
        """Forget what was seen on ports that are no edge ports (any more); addresses of fixed ports that are, come."""
        freed: set[str] = set()
        for place in [place for place in self._seen if place not in edges]:
            freed |= {mac for mac in self._seen.pop(place) if self._places.get(mac) == place}
        for mac in freed:
            del self._places[mac]
        if freed:
            for seen in self._seen.values():
                seen -= freed
        for mac, port in self._ports.items():
            place = (self._fixed[mac], port)
            if place in edges:
                self._places[mac] = place
                self._seen.setdefault(place, set()).add(mac)

    def locations(self) -> dict[str, PortId]:
        """Return the place of each address."""
        return dict(self._places)

    def home(self, mac: str) -> int | None:
        """Return the datapath id of the only switch that an address can be at, None when it has none."""
        return self._fixed.get(mac)

    def seen(self, place: PortId) -> frozenset[str]:
        """Return the addresses seen at a port, also those whose place is another."""
        return frozenset(self._seen.get(place, ()))


def desired_rules(
    topology: Topology,
    routes: Routes,
    hosts: Hosts,
    groups: Iterable[GroupMembers] = (),
    owners: Collection[Owner] = (),
) -> dict[int, Rules]:
    """Return the rules that every connected switch should have; ``owners`` are guarded against spoofing."""
    locations = hosts.locations()
    link_ports: dict[int, dict[int, bool]] = {dpid: {} for dpid in topology.switches}
    for link in topology.links:
        in_tree = link in routes.tree
        link_ports[link.a][link.a_port] = in_tree
        link_ports[link.b][link.b_port] = in_tree
    edges: dict[int, list[int]] = {dpid: [] for dpid in topology.switches}
    for dpid, port in topology.edges:
        edges[dpid].append(port)
    multicast = _multicast_rules(topology, routes, hosts, groups)
    return {
        dpid: frozenset(multicast.get(dpid, ()))
        | frozenset(_learn_rules(dpid, link_ports[dpid], edges[dpid], hosts))
        | frozenset(_forward_rules(dpid, routes, locations))
        | frozenset(_flood_rules(link_ports[dpid], edges[dpid]))
        | frozenset(guard_rules(dpid, owners, locations))
        for dpid in topology.switches
    }


def _learn_rules(dpid: int, link_ports: Mapping[int, bool], edges: Iterable[int], hosts: Hosts) -> list[FlowRule]:
    rules = [
        FlowRule(LEARN_TABLE, 400, Match(eth_type=ETHERTYPE_LLDP), controller=True),
        FlowRule(LEARN_TABLE, 390, Match(eth_dst=_LINK_LOCAL[0], eth_dst_mask=_LINK_LOCAL[1])),
        # A port of which nothing is known yet forwards nothing; its first frame may make it an edge port.
        FlowRule(LEARN_TABLE, 0, Match(), controller=True),
    ]
    rules += [FlowRule(LEARN_TABLE, 300, Match(in_port=port), goto=FORWARD_TABLE) for port in link_ports]
    for port in edges:
        seen = hosts.seen((dpid, port))
        full = len(seen) >= MAX_HOSTS_PER_PORT
        rules.append(FlowRule(LEARN_TABLE, 100, Match(in_port=port), controller=not full, goto=FORWARD_TABLE))
        for mac in seen:
            match = Match(in_port=port, eth_src=mac)
            rules.append(FlowRule(LEARN_TABLE, 200, match, goto=FORWARD_TABLE))
    return rules


def _forward_rules(dpid: int, routes: Routes, locations: Mapping[str, PortId]) -> list[FlowRule]:
    rules = []
    for mac, (target, edge) in locations.items():
        ports = (edge,) if target == dpid else routes.ports(dpid, target)
        # Targets behind the same next hops share one group, so the failure of a link changes few of them.
        group = GroupEntry("", ports, select=True) if len(ports) > 1 else None
        if ports:
            outputs = () if group else ports
            rules.append(FlowRule(FORWARD_TABLE, 300, Match(eth_dst=mac), outputs=outputs, group=group))
    return rules


def _multicast_rules(
    topology: Topology, routes: Routes, hosts: Hosts, groups: Iterable[GroupMembers]
) -> dict[int, list[FlowRule]]:
    """Return the rules of each switch for multicast groups: along the spanning tree, to where members are only.

    The trees of all groups are parts of the one spanning tree, each with the branches that lead to its members. A
    shared tree needs one entry for a group in each switch whoever sends, is the same for all senders, and is the
    one that unknown frames take; trees of shortest paths would need one for each sender, and rules that match it.
    The price: group traffic between two members may take a longer way than their other traffic.
    """
    rules: dict[int, list[FlowRule]] = {}
    for group in groups:
        members = _member_places(group, topology, hosts)
        match = _group_match(group.address)
        for dpid in topology.switches:
            ports = {port for switch, port in members if switch == dpid}
            for port, reached in routes.tree_branches(dpid).items():
                if any(switch in reached for switch, _ in members):
                    ports.add(port)
            entry = GroupEntry(group.address, tuple(sorted(ports)))
            rules.setdefault(dpid, []).append(FlowRule(FORWARD_TABLE, 250, match, group=entry))
    return rules


def _member_places(group: GroupMembers, topology: Topology, hosts: Hosts) -> set[PortId]:
    """Return the ports at which a group's members are.

    A receiver need not ever send. One whose port is not known yet is reached as an unknown address is: on every
    edge port of its own switch that is nobody's place.
    """
    locations = hosts.locations()
    taken = set(locations.values())
    places: set[PortId] = set()
    for mac in group.macs:
        if mac in locations:
            places.add(locations[mac])
        else:
            places |= {edge for edge in topology.edges - taken if edge[0] == hosts.home(mac)}
    return places


def _group_match(address: str) -> Match:
    """Return the match of an IP multicast group, its Ethernet address included (RFC 1112 §6.4, RFC 2464 §7)."""
    group = ipaddress.ip_address(address)
    if group.version == 4:
        eth_type, mac = ETHERTYPE_IPV4, b"\x01\x00\x5e" + (int(group) & 0x7FFFFF).to_bytes(3, "big")
    else:
        eth_type, mac = ETHERTYPE_IPV6, b"\x33\x33" + group.packed[-4:]
    return Match(eth_type=eth_type, eth_dst=mac.hex(":"), ip_dst=address)


def _flood_rules(link_ports: Mapping[int, bool], edges: Iterable[int]) -> list[FlowRule]:
    group = Match(eth_dst=_GROUP_BIT, eth_dst_mask=_GROUP_BIT)
    outputs = tuple(sorted([*edges, *(port for port, in_tree in link_ports.items() if in_tree)]))
    rules = [
        FlowRule(FORWARD_TABLE, 200, group, outputs=outputs),
        FlowRule(FORWARD_TABLE, 0, Match(), outputs=outputs),
    ]
    for port, in_tree in link_ports.items():
        if not in_tree:  # what is flooded never travels on this link: never let it in, even for a moment
            match = Match(in_port=port, eth_dst=group.eth_dst, eth_dst_mask=group.eth_dst_mask)
            rules.append(FlowRule(FORWARD_TABLE, 260, match))
            rules.append(FlowRule(FORWARD_TABLE, 10, Match(in_port=port)))
    return rules

"""Forwarding in the underlay: shortest paths, a spanning tree, and the flow rules that follow from them.

Pure functions of a topology and the hosts' places. Unknown unicast is flooded along the spanning tree,
as a learning switch does, so that no frame is lost while a place is being learned.
"""

from __future__ import annotations

import heapq
import ipaddress
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller.discovery import ETHERTYPE_LLDP, Link, PortId, Topology

MAX_HOSTS_PER_PORT = 256
"""Source addresses noted on one edge port; what comes beyond is forwarded and not noted."""

LEARN_TABLE, FORWARD_TABLE = 0, 1
ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 0x0800, 0x86DD

_GROUP_BIT = "01:00:00:00:00:00"
_LINK_LOCAL = ("01:80:c2:00:00:00", "ff:ff:ff:ff:ff:f0")


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule matches; None matches all."""

    in_port: int | None = None
    eth_type: int | None = None
    eth_src: str | None = None
    eth_dst: str | None = None
    eth_dst_mask: str | None = None
    ip_dst: str | None = None
    """IPv4 or IPv6, as ``eth_type`` says."""


@dataclass(frozen=True, slots=True)
class GroupMembers:
    """A multicast group of the underlay, and the MAC addresses of its senders and receivers."""

    address: str
    macs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """One entry of a switch's group table, of type ALL: a packet goes to every port but the one it came from.

    An entry never changes: another set of ports is another entry, with an id of its own.
    """

    address: str
    ports: tuple[int, ...]

    @property
    def group_id(self) -> int:
        """The id in the switch's group table."""
        return zlib.crc32(f"{self.address} {self.ports}".encode()) & 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class FlowRule:
    """One OpenFlow rule as plain data. No output, no group and no ``goto`` means drop."""

    table: int
    priority: int
    match: Match
    outputs: tuple[int, ...] = ()
    controller: bool = False
    goto: int | None = None
    group: GroupEntry | None = None

    @property
    def key(self) -> tuple[int, int, Match]:
        """What identifies a rule in a switch: adding another one with the same key replaces it."""
        return self.table, self.priority, self.match


Rules = frozenset[FlowRule]


class Routes:
    """Shortest paths between all switches of a topology, and its minimum spanning tree.

    Ties are broken by giving each link a distinct power of two below one unit of cost. No two sets of
    links then weigh the same, so each pair has one shortest path, the same in both directions.
    """

    def __init__(self, topology: Topology, costs: Mapping[tuple[int, int], int]) -> None:
        self._links: dict[int, dict[int, tuple[int, int]]] = {dpid: {} for dpid in topology.switches}
        weighted = []
        for index, link in enumerate(topology.links):
            weight = costs.get((link.a, link.b), 1) << len(topology.links) | 1 << index
            weighted.append((weight, link))
            self._links[link.a][link.b] = (weight, link.a_port)
            self._links[link.b][link.a] = (weight, link.b_port)
        self._next: dict[int, dict[int, int]] = {dpid: self._towards(dpid) for dpid in topology.switches}
        self.tree = _spanning_tree(weighted)

    def _towards(self, target: int) -> dict[int, int]:
        """Return each switch's next switch on the shortest path to ``target`` (Dijkstra's algorithm)."""
        following: dict[int, int] = {}
        done: set[int] = set()
        queue = [(0, target, target)]
        while queue:
            distance, dpid, after = heapq.heappop(queue)
            if dpid in done:
                continue
            done.add(dpid)
            following[dpid] = after
            for neighbour, (weight, _) in self._links[dpid].items():
                if neighbour not in done:
                    heapq.heappush(queue, (distance + weight, neighbour, dpid))
        return following

    def port(self, dpid: int, target: int) -> int | None:
        """Return the port of ``dpid`` towards another switch, or None when it cannot be reached."""
        after = self._next.get(target, {}).get(dpid)
        return None if after is None or after == dpid else self._links[dpid][after][1]

    def tree_branches(self, dpid: int) -> dict[int, set[int]]:
        """Return each port of ``dpid`` that is part of the spanning tree, and the switches that are behind it."""
        neighbours: dict[int, dict[int, int]] = {}
        for link in self.tree:
            neighbours.setdefault(link.a, {})[link.b] = link.a_port
            neighbours.setdefault(link.b, {})[link.a] = link.b_port
        branches: dict[int, set[int]] = {}
        for first, port in neighbours.get(dpid, {}).items():
            reached, waiting = {dpid}, [first]
            while waiting:
                switch = waiting.pop()
                if switch not in reached:
                    reached.add(switch)
                    waiting += neighbours[switch]
            branches[port] = reached - {dpid}
        return branches

    def path(self, start: int, target: int) -> tuple[int, ...] | None:
        """Return the switches from ``start`` to ``target``, both included, or None."""
        following = self._next.get(target, {})
        if start not in following:
            return None
        path = [start]
        while path[-1] != target:
            path.append(following[path[-1]])
        return tuple(path)


def _spanning_tree(weighted: Iterable[tuple[int, Link]]) -> frozenset[Link]:
    """Return the minimum spanning tree (a forest when the topology is in parts; Kruskal's algorithm)."""
    parent: dict[int, int] = {}

    def root(dpid: int) -> int:
        while parent.setdefault(dpid, dpid) != dpid:
            parent[dpid] = parent[parent[dpid]]
            dpid = parent[dpid]
        return dpid

    tree = set()
    for _, link in sorted(weighted):
        first, second = root(link.a), root(link.b)
        if first != second:
            parent[first] = second
            tree.add(link)
    return frozenset(tree)


class Hosts:
    """Where source addresses were seen. The first place holds until its port goes down.

    So a host that sends with another's address cannot move it; it is only noted as seen there too, so that
    its frames need no further look. When a place becomes free, all of this is forgotten: whoever speaks next
    has it. An address with a fixed switch (a node of the inventory) has its place there or nowhere.
    """

    def __init__(self, fixed: Mapping[str, int] | None = None) -> None:
        """``fixed`` are addresses and the datapath ids of the only switches that they can be at."""
        self._fixed: Mapping[str, int] = fixed or {}
        self._places: dict[str, PortId] = {}
        self._seen: dict[PortId, set[str]] = {}

    def note(self, mac: str, place: PortId) -> bool:
        """Note ``mac`` as seen at an edge port; returns whether that is news that was kept."""
        seen = self._seen.setdefault(place, set())
        if mac in seen or len(seen) >= MAX_HOSTS_PER_PORT:
            return False
        seen.add(mac)
        if self._fixed.get(mac, place[0]) == place[0]:
            self._places.setdefault(mac, place)
        return True

    def keep_only(self, edges: frozenset[PortId]) -> None:
        """Forget what was seen on ports that are no edge ports (any more)."""
        freed: set[str] = set()
        for place in [place for place in self._seen if place not in edges]:
            freed |= {mac for mac in self._seen.pop(place) if self._places.get(mac) == place}
        for mac in freed:
            del self._places[mac]
        if freed:
            for seen in self._seen.values():
                seen -= freed

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
    topology: Topology, routes: Routes, hosts: Hosts, groups: Iterable[GroupMembers] = ()
) -> dict[int, Rules]:
    """Return the rules that every connected switch should have."""
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
        port = edge if target == dpid else routes.port(dpid, target)
        if port is not None:
            rules.append(FlowRule(FORWARD_TABLE, 300, Match(eth_dst=mac), outputs=(port,)))
    return rules


def _multicast_rules(
    topology: Topology, routes: Routes, hosts: Hosts, groups: Iterable[GroupMembers]
) -> dict[int, list[FlowRule]]:
    """Return the rules of each switch for multicast groups: along the spanning tree, to where members are only."""
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


def difference(installed: Rules, desired: Rules) -> tuple[list[FlowRule], list[FlowRule]]:
    """Return the rules to add (which replaces those with the same key) and those to delete, in a fixed order."""
    keys = {rule.key for rule in desired}
    added = sorted(desired - installed, key=repr)
    deleted = sorted((rule for rule in installed - desired if rule.key not in keys), key=repr)
    return added, deleted


def groups_of(rules: Iterable[FlowRule]) -> set[GroupEntry]:
    """Return the group entries that ``rules`` need."""
    return {rule.group for rule in rules if rule.group is not None}

"""Shortest paths between switches, one or all of them, and the spanning tree of a topology. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from controller.fabric.discovery import Link, Topology


class Routes:
    """Shortest paths between all switches of a topology, and its minimum spanning tree.

    Ties are broken by giving each link a distinct power of two below one unit of cost. No two sets of
    links then weigh the same, so each pair has one shortest path, the same in both directions.

    With ``ecmp`` a switch may use every neighbour that is on some shortest path (equal-cost multipath, RFC 2992).
    Costs are at least one, so each hop is nearer to the target than the last, and no choice of hops makes a loop.
    """

    def __init__(self, topology: Topology, costs: Mapping[tuple[int, int], int], ecmp: bool = False) -> None:
        self._shift = len(topology.links)
        self._ecmp = ecmp
        self._links: dict[int, dict[int, tuple[int, int]]] = {dpid: {} for dpid in topology.switches}
        weighted = []
        for index, link in enumerate(topology.links):
            weight = costs.get((link.a, link.b), 1) << self._shift | 1 << index
            weighted.append((weight, link))
            self._links[link.a][link.b] = (weight, link.a_port)
            self._links[link.b][link.a] = (weight, link.b_port)
        self._next: dict[int, dict[int, int]] = {}
        self._cost: dict[int, dict[int, int]] = {}
        for dpid in topology.switches:
            self._next[dpid], self._cost[dpid] = self._towards(dpid)
        self.tree = _spanning_tree(weighted)

    def _towards(self, target: int) -> tuple[dict[int, int], dict[int, int]]:
        """Return each switch's next switch on the shortest path to ``target``, and its cost (Dijkstra's algorithm)."""
        following: dict[int, int] = {}
        cost: dict[int, int] = {}
        queue = [(0, target, target)]
        while queue:
            distance, dpid, after = heapq.heappop(queue)
            if dpid in following:
                continue
            following[dpid] = after
            # A path uses no link twice, so what breaks its ties sums to less than one unit of cost.
            cost[dpid] = distance >> self._shift
            for neighbour, (weight, _) in self._links[dpid].items():
                if neighbour not in following:
                    heapq.heappush(queue, (distance + weight, neighbour, dpid))
        return following, cost

    def _hops(self, dpid: int, target: int) -> list[int]:
        """Return the neighbours to which ``dpid`` may send what is for ``target``."""
        after = self._next.get(target, {}).get(dpid)
        if after is None or dpid == target:
            return []
        if not self._ecmp:
            return [after]
        cost = self._cost[target]
        return [
            neighbour
            for neighbour, (weight, _) in self._links[dpid].items()
            if cost[neighbour] + (weight >> self._shift) == cost[dpid]
        ]

    def ports(self, dpid: int, target: int) -> tuple[int, ...]:
        """Return the ports of ``dpid`` towards another switch, sorted; none when it cannot be reached."""
        return tuple(sorted(self._links[dpid][hop][1] for hop in self._hops(dpid, target)))

    def path(self, start: int, target: int) -> tuple[int, ...] | None:
        """Return the switches from ``start`` to ``target``, both included, or None; the path that wins all ties."""
        following = self._next.get(target, {})
        if start not in following:
            return None
        path = [start]
        while path[-1] != target:
            path.append(following[path[-1]])
        return tuple(path)

    def hops(self, start: int, target: int) -> list[tuple[int, int]]:
        """Return each hop (from, to) of each path that packets may take, in an order that agrees with travel.

        Of two hops on one path the first comes first; hops that share no path are in the order of their switches'
        distance from ``start``, then of their numbers. Both directions have the same hops, reversed.
        """
        distance = self._cost.get(start, {})
        found: set[tuple[int, int]] = set()
        waiting, seen = [start], {start}
        while waiting:
            dpid = waiting.pop()
            for after in self._hops(dpid, target):
                found.add((dpid, after))
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
        return sorted(found, key=lambda hop: (distance[hop[0]], hop))

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

"""Equal-cost multipath on random topologies: whatever a switch's hash chooses, frames arrive and do not loop."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.fabric.discovery import Link, PortId
from controller.fabric.flows import FORWARD_TABLE, FlowRule, GroupEntry, Rules
from controller.fabric.forwarding import desired_rules
from controller.fabric.routes import Routes
from controller.fabric.underlay import Clear, Command, PacketIn, PortStatus, SwitchDown, SwitchUp, Update
from tests.controller.inventories import build, document
from tests.controller.test_fabric import HOST_PORT, Net, mac, net, nets
from tests.controller.test_underlay import Network, frame


def spread(network: Net) -> tuple[Routes, dict[int, Rules]]:
    routes = Routes(network.topology, network.costs, ecmp=True)
    return routes, desired_rules(network.topology, routes, network.hosts)


def rule_for(rules: Rules, target: str) -> FlowRule:
    (rule,) = [rule for rule in rules if rule.table == FORWARD_TABLE and rule.match.eth_dst == target]
    return rule


def walks(network: Net, rules: dict[int, Rules], start: int, target: str) -> Iterator[tuple[list[int], PortId]]:
    """Yield the switches and the last port of each way that a frame may go, for every choice of every hash."""
    wires = {(k.a, k.a_port): k.b for k in network.topology.links}
    wires |= {(k.b, k.b_port): k.a for k in network.topology.links}
    waiting = [[start]]
    while waiting:
        path = waiting.pop()
        assert len(set(path)) == len(path), "the frame loops"
        rule = rule_for(rules[path[-1]], target)
        for port in rule.group.ports if rule.group else rule.outputs:
            place = (path[-1], port)
            if place in wires:
                waiting.append([*path, wires[place]])
            else:
                yield path, place


@settings(deadline=None, max_examples=60)
@given(nets())
def test_every_choice_delivers_along_a_shortest_path_and_every_shortest_path_is_a_choice(network: Net) -> None:
    routes, rules = spread(network)
    neighbours = {frozenset((link.a, link.b)) for link in network.topology.links}
    for start, target in itertools.permutations(sorted(network.topology.switches), 2):
        found = list(walks(network, rules, start, mac(target)))
        assert {place for _, place in found} == {(target, HOST_PORT)}
        single = routes.path(start, target)
        assert single is not None
        least = cost(network, single)
        assert {cost(network, path) for path, _ in found} == {least}
        every = [path for path in simple_paths(neighbours, start, target) if cost(network, path) == least]
        assert sorted(path for path, _ in found) == sorted(every)


def cost(network: Net, path: list[int] | tuple[int, ...]) -> int:
    return sum(network.costs[min(hop), max(hop)] for hop in itertools.pairwise(path))


def simple_paths(neighbours: set[frozenset[int]], start: int, target: int) -> Iterator[list[int]]:
    waiting = [[start]]
    while waiting:
        path = waiting.pop()
        if path[-1] == target:
            yield path
            continue
        for pair in neighbours:
            if path[-1] in pair:
                (other,) = pair - {path[-1]}
                if other not in path:
                    waiting.append([*path, other])


@settings(deadline=None, max_examples=60)
@given(nets())
def test_hops_are_those_of_all_walks_in_the_order_of_travel_and_reversed_on_the_way_back(network: Net) -> None:
    routes, rules = spread(network)
    for start, target in itertools.permutations(sorted(network.topology.switches), 2):
        hops = routes.hops(start, target)
        paths = [path for path, _ in walks(network, rules, start, mac(target))]
        assert set(hops) == {hop for path in paths for hop in itertools.pairwise(path)}
        assert len(set(hops)) == len(hops)
        for path in paths:
            places = [hops.index(hop) for hop in itertools.pairwise(path)]
            assert places == sorted(places)
        assert {(b, a) for a, b in hops} == set(routes.hops(target, start))


@settings(deadline=None, max_examples=40)
@given(nets())
def test_without_it_there_is_one_path_and_no_group(network: Net) -> None:
    routes = Routes(network.topology, network.costs)
    rules = desired_rules(network.topology, routes, network.hosts)
    assert not [rule for each in rules.values() for rule in each if rule.group]
    for start, target in itertools.permutations(sorted(network.topology.switches), 2):
        ((path, _),) = walks(network, rules, start, mac(target))
        assert tuple(path) == routes.path(start, target)
        assert routes.hops(start, target) == list(itertools.pairwise(path))


def ring_of_four() -> Net:
    links = [Link(1, 1, 2, 1), Link(2, 2, 3, 1), Link(3, 2, 4, 1), Link(1, 2, 4, 2)]
    return net(range(1, 5), links, dict.fromkeys(((1, 2), (2, 3), (3, 4), (1, 4)), 10))


def test_targets_behind_the_same_next_hops_share_a_group() -> None:
    network = ring_of_four()
    network.hosts.note("02:00:00:00:01:03", (3, HOST_PORT))
    _, rules = spread(network)
    entry = GroupEntry("", (1, 2), select=True)
    assert rule_for(rules[1], mac(3)).group == rule_for(rules[1], "02:00:00:00:01:03").group == entry
    assert rule_for(rules[1], mac(2)).outputs == (1,)
    assert rule_for(rules[1], mac(2)).group is None


def test_flooding_stays_on_the_tree() -> None:
    network = ring_of_four()
    network.hosts.keep_only(frozenset())
    routes, rules = spread(network)
    assert rules == desired_rules(network.topology, Routes(network.topology, network.costs), network.hosts)
    assert len(routes.tree) == 3


# --- group tables through changes ------------------------------------------------------------------

NVES = {1: "026081010100", 2: "026081010200", 3: "026081010300"}
GROUP_ADDRESS = "239.60.81.1"


class Switches(Network):
    """The ring of the test inventory with equal costs; its group tables are checked after every single message."""

    def __init__(self) -> None:
        data = document()
        for link in data["links"]:
            link["cost"] = 10
        data["vnis"][0]["multicast"] = [{"name": "red", "address": GROUP_ADDRESS, "senders": ["nve1"]}]
        self.groups: dict[int, dict[int, GroupEntry]] = {}
        super().__init__(build(data))

    def apply(self, command: Command) -> None:
        if isinstance(command, Clear):
            self.groups[command.dpid] = {}
            super().apply(command)
        elif isinstance(command, Update):
            entries, rules = self.groups[command.dpid], self.rules[command.dpid]
            for entry in command.new_groups:
                assert entry.group_id not in entries, "a switch refuses to add a group that it has"
                entries[entry.group_id] = entry
            for rule in command.add:
                rules[rule.key] = rule
                self.check(command.dpid)
            for rule in command.delete:
                del rules[rule.key]
            for entry in command.old_groups:
                del entries[entry.group_id]
                self.check(command.dpid)
            assert {rule.group for rule in rules.values() if rule.group} == set(entries.values()), "none is left over"
        else:
            super().apply(command)

    def check(self, dpid: int) -> None:
        for rule in self.rules[dpid].values():
            assert rule.group is None or self.groups[dpid].get(rule.group.group_id) == rule.group


EVENTS = st.one_of(
    st.tuples(st.just("port"), st.integers(1, 4), st.integers(1, 2), st.booleans()),
    st.tuples(st.just("switch"), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("time"), st.floats(0.1, 4)),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(EVENTS, max_size=12))
def test_a_rule_never_points_to_a_missing_group_whatever_fails(events: list[tuple[object, ...]]) -> None:
    network = Switches()
    network.start()
    for dpid, address in NVES.items():
        network.handle(PacketIn(dpid, 3, frame(bytes.fromhex(address))))
    assert any(entry.select for entry in network.groups[1].values())
    up = {1, 2, 3, 4}
    for event in events:
        if event[0] == "port" and event[1] in up:
            network.handle(PortStatus(*event[1:]))  # type: ignore[arg-type]
        elif event[0] == "switch" and event[2] and event[1] not in up:
            up.add(event[1])  # type: ignore[arg-type]
            network.handle(SwitchUp(event[1], {1: True, 2: True, 3: True}))  # type: ignore[arg-type]
        elif event[0] == "switch" and not event[2] and event[1] in up:
            up.discard(event[1])  # type: ignore[arg-type]
            network.handle(SwitchDown(event[1]))  # type: ignore[arg-type]
        elif event[0] == "time":
            network.run(event[1])  # type: ignore[arg-type]


def equal_costs(ecmp: bool = True) -> Network:
    data = document()
    for link in data["links"]:
        link["cost"] = 10
    data["links"][3]["via"] = ["t3"]
    data["nodes"]["t3"] = {"role": "transit", "address": "192.168.2.3"}
    data["fabric"] = {"ecmp": ecmp}
    network = Network(build(data))
    network.start()
    return network


def test_paths_name_the_devices_of_all_ways_in_an_order_that_suits_each() -> None:
    network = equal_costs()
    paths = network.paths[-1].paths
    # From s1 to s3 by way of s2, past t1 and t2, or by way of s4, past t3.
    assert set(paths["nve1", "nve3"]) == set(paths["nve3", "nve1"]) == {"t1", "t2", "t3"}
    there, back = paths["nve1", "nve3"], paths["nve3", "nve1"]
    assert there.index("t1") < there.index("t2")
    assert back.index("t2") < back.index("t1")
    assert paths["nve1", "nve2"] == ("t1",)
    network.handle(PortStatus(1, 1, False))
    assert network.paths[-1].paths["nve1", "nve3"] == ("t3",)


def test_without_it_paths_are_one_way_and_the_same_both_ways() -> None:
    paths = equal_costs(ecmp=False).paths[-1].paths
    assert paths["nve1", "nve3"] in {("t1", "t2"), ("t3",)}
    assert paths["nve3", "nve1"] == paths["nve1", "nve3"][::-1]


@pytest.mark.parametrize("select", [False, True])
def test_ids_of_the_two_kinds_of_groups_never_meet(select: bool) -> None:
    ids = {GroupEntry("239.1.1.1", (port, port + 1), select).group_id for port in range(2000)}
    assert {number >> 30 for number in ids} == {1 if select else 0}

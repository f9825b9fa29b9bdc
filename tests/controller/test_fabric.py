"""Forwarding, checked by following the rules hop by hop on random topologies."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.fabric.discovery import ETHERTYPE_LLDP, Link, PortId, Topology
from controller.fabric.flows import FORWARD_TABLE, FlowRule, Match, Rules, difference
from controller.fabric.forwarding import MAX_HOSTS_PER_PORT, Hosts, desired_rules
from controller.fabric.routes import Routes

HOST_PORT = 100
BROADCAST = "ff:ff:ff:ff:ff:ff"
GROUP = "33:33:00:00:00:01"
UNKNOWN = "02:ff:ff:ff:ff:ff"
CONTROLLER = -1
MAX_STEPS = 2000


def mac(dpid: int) -> str:
    return f"02:00:00:00:00:{dpid:02x}"


@dataclass
class Net:
    """A topology, its costs, and the rules of its switches; frames are carried as a switch would."""

    topology: Topology
    costs: dict[tuple[int, int], int]
    hosts: Hosts

    @property
    def routes(self) -> Routes:
        return Routes(self.topology, self.costs)

    def rules(self) -> dict[int, Rules]:
        return desired_rules(self.topology, self.routes, self.hosts)

    def send(self, start: PortId, source: str, target: str, eth_type: int = 0x0800) -> Counter[PortId]:
        """Follow a frame through the rules; returns how often each place outside the fabric got it."""
        rules = self.rules()
        wires = {(k.a, k.a_port): (k.b, k.b_port) for k in self.topology.links}
        wires |= {b: a for a, b in wires.items()}
        delivered: Counter[PortId] = Counter()
        waiting = [start]
        for _ in range(MAX_STEPS):
            if not waiting:
                return delivered
            dpid, port = waiting.pop()
            for output in self.outputs(rules[dpid], port, source, target, eth_type):
                if output in {port, CONTROLLER}:
                    delivered[dpid, CONTROLLER] += output == CONTROLLER
                elif (dpid, output) in wires:
                    waiting.append(wires[dpid, output])
                else:
                    delivered[dpid, output] += 1
        raise AssertionError("the frame loops")

    @staticmethod
    def outputs(rules: Rules, port: int, source: str, target: str, eth_type: int) -> list[int]:
        result: list[int] = []
        table: int | None = 0
        while table is not None:
            fitting = [
                rule for rule in rules if rule.table == table and matches(rule.match, port, source, target, eth_type)
            ]
            best = max(fitting, key=lambda rule: rule.priority)
            assert sum(rule.priority == best.priority for rule in fitting) == 1, "which rule wins is not defined"
            result += [*best.outputs, *([CONTROLLER] if best.controller else [])]
            assert best.goto is None or best.goto > table
            table = best.goto
        return result


def matches(match: Match, port: int, source: str, target: str, eth_type: int) -> bool:
    def number(text: str) -> int:
        return int(text.replace(":", ""), 16)

    mask = number(match.eth_dst_mask) if match.eth_dst_mask else (1 << 48) - 1
    return (
        match.in_port in {None, port}
        and match.eth_type in {None, eth_type}
        and match.eth_src in {None, source}
        and (match.eth_dst is None or number(match.eth_dst) & mask == number(target) & mask)
    )


@st.composite
def nets(draw: st.DrawFn) -> Net:
    """A random connected graph with one host on each switch, all hosts known."""
    count = draw(st.integers(2, 7))
    pairs = {(draw(st.integers(1, dpid - 1)), dpid) for dpid in range(2, count + 1)}
    extra = st.tuples(st.integers(1, count), st.integers(1, count)).filter(lambda pair: pair[0] < pair[1])
    pairs |= draw(st.sets(extra, max_size=8))
    ports: Counter[int] = Counter()
    links, costs = [], {}
    for a, b in sorted(pairs):
        ports.update((a, b))
        links.append(Link(a, ports[a], b, ports[b]))
        costs[a, b] = draw(st.sampled_from([1, 1, 2, 10, 30]))
    return net(range(1, count + 1), links, costs)


def net(switches: range, links: list[Link], costs: dict[tuple[int, int], int]) -> Net:
    edges = frozenset((dpid, HOST_PORT) for dpid in switches)
    hosts = Hosts()
    for place in sorted(edges):
        hosts.note(mac(place[0]), place)
    return Net(Topology(frozenset(switches), tuple(sorted(links)), edges), costs, hosts)


def reachable(topology: Topology, start: int) -> set[int]:
    found, waiting = {start}, [start]
    while waiting:
        dpid = waiting.pop()
        for link in topology.links:
            for here, there in ((link.a, link.b), (link.b, link.a)):
                if here == dpid and there not in found:
                    found.add(there)
                    waiting.append(there)
    return found


def check_all(network: Net) -> None:
    switches = sorted(network.topology.switches)
    for start in switches:
        near = reachable(network.topology, start)
        others = Counter({(dpid, HOST_PORT): 1 for dpid in near if dpid != start})
        for target in (BROADCAST, GROUP, UNKNOWN):
            assert +network.send((start, HOST_PORT), mac(start), target) == others
        for dpid in near - {start}:
            assert +network.send((start, HOST_PORT), mac(start), mac(dpid)) == Counter({(dpid, HOST_PORT): 1})


@settings(deadline=None, max_examples=60)
@given(nets())
def test_every_pair_is_connected_and_broadcast_reaches_each_host_once(network: Net) -> None:
    check_all(network)


@settings(deadline=None, max_examples=30)
@given(nets())
def test_the_same_after_the_loss_of_any_link(network: Net) -> None:
    topology = network.topology
    for lost in topology.links:
        links = tuple(link for link in topology.links if link != lost)
        check_all(Net(Topology(topology.switches, links, topology.edges), network.costs, network.hosts))


@settings(deadline=None, max_examples=30)
@given(nets(), st.data())
def test_the_same_after_the_loss_of_any_switch(network: Net, data: st.DataObject) -> None:
    topology = network.topology
    lost = data.draw(st.sampled_from(sorted(topology.switches)))
    links = tuple(link for link in topology.links if lost not in {link.a, link.b})
    edges = frozenset(edge for edge in topology.edges if edge[0] != lost)
    network.hosts.keep_only(edges)
    check_all(Net(Topology(topology.switches - {lost}, links, edges), network.costs, network.hosts))


@settings(deadline=None, max_examples=60)
@given(nets())
def test_paths_are_shortest_symmetric_and_what_the_rules_do(network: Net) -> None:
    routes = network.routes
    inf = 1 << 60
    switches = sorted(network.topology.switches)
    cost = {(a, b): 0 if a == b else inf for a in switches for b in switches}
    for (a, b), value in network.costs.items():
        cost[a, b] = cost[b, a] = value
    for via in switches:
        for a in switches:
            for b in switches:
                cost[a, b] = min(cost[a, b], cost[a, via] + cost[via, b])
    for a in switches:
        for b in switches:
            path = routes.path(a, b)
            assert path is not None
            total = sum(network.costs[min(pair), max(pair)] for pair in itertools.pairwise(path))
            assert total == cost[a, b]
            assert routes.path(b, a) == path[::-1]


def test_equally_short_paths_are_the_same_in_both_directions() -> None:
    # Numbered so that taking the smallest neighbour at each end would go two different ways round.
    order = [1, 2, 5, 4, 3, 6]
    pairs = sorted((min(pair), max(pair)) for pair in zip(order, [*order[1:], 1], strict=True))
    links = [Link(a, b, b, a) for a, b in pairs]
    routes = net(range(1, 7), links, dict.fromkeys(pairs, 10)).routes
    there, back = routes.path(1, 4), routes.path(4, 1)
    assert there is not None
    assert back == there[::-1]


@settings(deadline=None, max_examples=30)
@given(nets(), st.data())
def test_flooded_frames_on_a_link_outside_the_tree_go_nowhere(network: Net, data: st.DataObject) -> None:
    outside = [link for link in network.topology.links if link not in network.routes.tree]
    if outside:
        link = data.draw(st.sampled_from(outside))
        for place in ((link.a, link.a_port), (link.b, link.b_port)):
            for target in (BROADCAST, UNKNOWN):
                assert not +network.send(place, mac(1), target)


@settings(deadline=None, max_examples=40)
@given(nets(), nets())
def test_differences_lead_from_any_rules_to_any_others(first: Net, second: Net) -> None:
    before, after = first.rules()[1], second.rules()[1]
    installed = {rule.key: rule for rule in before}
    added, deleted = difference(before, after)
    for rule in added:
        installed[rule.key] = rule
    for rule in deleted:
        del installed[rule.key]
    assert frozenset(installed.values()) == after
    assert difference(after, after) == ([], [])


def ring() -> Net:
    links = [Link(1, 1, 2, 1), Link(1, 2, 3, 1), Link(2, 2, 3, 2)]
    return net(range(1, 4), links, {(1, 2): 10, (1, 3): 10, (2, 3): 10})


def test_a_small_change_gives_few_rules() -> None:
    network = ring()
    before = network.rules()
    network.hosts.note("02:00:00:00:01:01", (1, HOST_PORT))
    after = network.rules()
    for dpid in (1, 2, 3):
        added, deleted = difference(before[dpid], after[dpid])
        assert len(added) == (2 if dpid == 1 else 1)
        assert deleted == []


def test_a_spoofed_source_does_not_move_the_host_and_is_still_forwarded() -> None:
    network = ring()
    assert network.hosts.note(mac(1), (3, HOST_PORT))
    delivered = network.send((2, HOST_PORT), mac(2), mac(1))
    assert +delivered == Counter({(1, HOST_PORT): 1})
    spoofed = network.send((3, HOST_PORT), mac(1), mac(2))
    assert +spoofed == Counter({(2, HOST_PORT): 1})  # and nothing more for the controller


def test_who_spoke_while_the_place_was_held_must_speak_again_once_it_is_free() -> None:
    network = ring()
    network.hosts.note(mac(1), (3, HOST_PORT))
    network.hosts.keep_only(network.topology.edges - {(1, HOST_PORT)})
    assert mac(1) not in network.hosts.locations(), "no second claimant takes over by itself"
    assert +network.send((3, HOST_PORT), mac(1), mac(2)) == Counter({(3, CONTROLLER): 1, (2, HOST_PORT): 1})
    assert network.hosts.note(mac(1), (1, HOST_PORT)), "the rightful owner comes back first"
    assert network.hosts.note(mac(1), (3, HOST_PORT))
    assert network.hosts.locations()[mac(1)] == (1, HOST_PORT)
    network.hosts.keep_only(frozenset())
    assert network.hosts.locations() == {}
    assert network.hosts.note(mac(1), (3, HOST_PORT)), "whoever speaks in a free place has it"
    assert network.hosts.locations()[mac(1)] == (3, HOST_PORT)


def test_a_node_of_the_inventory_is_at_its_own_switch_only() -> None:
    hosts = Hosts({mac(1): 1})
    assert hosts.note(mac(1), (3, HOST_PORT)), "noted, so that its frames need no further look"
    assert hosts.locations() == {}
    assert hosts.seen((3, HOST_PORT)) == {mac(1)}
    hosts.note(mac(1), (1, HOST_PORT))
    hosts.note(mac(2), (2, HOST_PORT))
    assert hosts.locations() == {mac(1): (1, HOST_PORT), mac(2): (2, HOST_PORT)}
    hosts.keep_only(frozenset({(3, HOST_PORT)}))
    hosts.note(mac(1), (3, HOST_PORT))
    assert hosts.locations() == {}


def test_a_node_whose_port_is_known_has_its_place_without_having_spoken() -> None:
    place, other = (1, HOST_PORT), (1, HOST_PORT + 1)
    hosts = Hosts({mac(1): 1}, {mac(1): HOST_PORT})
    hosts.note(mac(1), other)
    assert hosts.locations() == {}, "the right switch is not enough"
    hosts.keep_only(frozenset({place, other}))
    assert hosts.locations() == {mac(1): place}
    assert not hosts.note(mac(1), place), "no news"
    hosts.keep_only(frozenset({other}))
    assert hosts.locations() == {}
    hosts.note(mac(1), other)
    hosts.keep_only(frozenset({place}))
    assert hosts.locations() == {mac(1): place}


def test_an_unknown_source_goes_to_the_controller_and_on() -> None:
    delivered = ring().send((1, HOST_PORT), UNKNOWN, mac(2))
    assert +delivered == Counter({(1, CONTROLLER): 1, (2, HOST_PORT): 1})


def test_a_flood_of_source_addresses_is_bounded() -> None:
    network = ring()
    noted = sum(network.hosts.note(f"06:00:00:00:{n >> 8:02x}:{n & 255:02x}", (1, HOST_PORT)) for n in range(1000))
    assert noted == MAX_HOSTS_PER_PORT - 1  # its own host was noted before
    delivered = network.send((1, HOST_PORT), UNKNOWN, mac(2))
    assert +delivered == Counter({(2, HOST_PORT): 1})  # no more work for the controller from this port


@pytest.mark.parametrize(("target", "eth_type"), [("01:80:c2:00:00:0e", ETHERTYPE_LLDP), (mac(2), ETHERTYPE_LLDP)])
def test_lldp_goes_to_the_controller_only(target: str, eth_type: int) -> None:
    for port in (1, HOST_PORT, 55):
        assert +ring().send((1, port), mac(1), target, eth_type) == Counter({(1, CONTROLLER): 1})


def test_other_link_local_frames_and_ports_not_yet_known_are_not_forwarded() -> None:
    assert not +ring().send((1, HOST_PORT), mac(1), "01:80:c2:00:00:00")
    assert +ring().send((1, 55), mac(9), BROADCAST) == Counter({(1, CONTROLLER): 1})


def test_no_forwarding_rule_goes_to_the_controller() -> None:
    rules = [rule for rules in ring().rules().values() for rule in rules]
    assert all(isinstance(rule, FlowRule) for rule in rules)
    assert not [rule for rule in rules if rule.table == FORWARD_TABLE and (rule.controller or rule.goto)]

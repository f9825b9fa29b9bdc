"""Guards against spoofed sources, checked by matching frames against the rules as a switch does."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.fabric.discovery import ETHERTYPE_LLDP, PortId, Topology
from controller.fabric.flows import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    FORWARD_TABLE,
    LEARN_TABLE,
    FlowRule,
    Match,
)
from controller.fabric.forwarding import Hosts, desired_rules
from controller.fabric.routes import Routes
from controller.fabric.spoofing import Owner, is_guard
from controller.fabric.underlay import PacketIn
from tests.controller.inventories import build, document
from tests.controller.test_fabric import HOST_PORT, Net, mac, nets
from tests.controller.test_underlay import Network, frame

STRANGER_PORT = 101
STRANGER = "06:00:00:00:00:01"


@dataclass(frozen=True)
class Frame:
    """What the rules of the first table can look at."""

    source: str
    eth_type: int
    ip_source: str = ""
    nd_target: str | None = None
    """Of a neighbour advertisement."""


def fits(match: Match, port: int, seen: Frame) -> bool:
    return (
        match.in_port in {None, port}
        and match.eth_type in {None, seen.eth_type}
        and match.eth_src in {None, seen.source}
        and match.ip_src in {None, seen.ip_source}
        and (not match.advertisement or seen.nd_target is not None)
        and match.nd_target in {None, seen.nd_target}
        and match.eth_dst is None  # these frames go to a station
    )


def decide(rules: frozenset[FlowRule], port: int, seen: Frame) -> FlowRule:
    fitting = [rule for rule in rules if rule.table == LEARN_TABLE and fits(rule.match, port, seen)]
    best = max(rule.priority for rule in fitting)
    (rule,) = [rule for rule in fitting if rule.priority == best]
    return rule


def passes(rules: frozenset[FlowRule], port: int, seen: Frame) -> bool:
    rule = decide(rules, port, seen)
    assert rule.goto == FORWARD_TABLE or is_guard(rule.table, rule.priority) or not rule.outputs
    return rule.goto == FORWARD_TABLE


def address(dpid: int, version: int) -> str:
    return f"192.168.1.{dpid}" if version == 4 else f"fd00::1:{dpid}"


def frames(source: str, ip: str, version: int) -> list[Frame]:
    """Every kind of frame that says whose it is."""
    if version == 4:
        return [Frame(source, ETHERTYPE_IPV4, ip), Frame(source, ETHERTYPE_ARP, ip)]
    return [Frame(source, ETHERTYPE_IPV6, ip), Frame(source, ETHERTYPE_IPV6, ip, nd_target=ip)]


def guarded(network: Net, version: int) -> tuple[Net, list[Owner], dict[int, frozenset[FlowRule]]]:
    """A node of the inventory on each switch, and a port where anybody may be."""
    topology = network.topology
    strangers = frozenset((dpid, STRANGER_PORT) for dpid in topology.switches)
    topology = Topology(topology.switches, topology.links, topology.edges | strangers)
    owners = [Owner(mac(dpid), address(dpid, version), dpid) for dpid in sorted(topology.switches)]
    routes = Routes(topology, network.costs)
    return network, owners, desired_rules(topology, routes, network.hosts, (), owners)


@settings(deadline=None, max_examples=40)
@given(nets(), st.sampled_from([4, 6]))
def test_nodes_send_what_is_theirs_and_no_port_sends_what_is_not(network: Net, version: int) -> None:
    network, owners, rules = guarded(network, version)
    for owner in owners:
        for dpid in network.topology.switches:
            mine = dpid == owner.dpid
            for seen in frames(owner.mac, owner.address, version):
                assert passes(rules[dpid], HOST_PORT, seen) is mine
                assert not passes(rules[dpid], STRANGER_PORT, seen)
                stolen_address = replace(seen, source=STRANGER)
                assert not passes(rules[dpid], STRANGER_PORT, stolen_address)
                assert not passes(rules[dpid], HOST_PORT, stolen_address)
            for seen in frames(owner.mac, address(200, version), version):
                assert not passes(rules[dpid], HOST_PORT, seen), "its MAC with a stranger's address"
                assert not passes(rules[dpid], STRANGER_PORT, seen)
    for dpid in network.topology.switches:
        for seen in frames(STRANGER, address(200, version), version):
            assert passes(rules[dpid], STRANGER_PORT, seen), "strangers may talk as themselves"
            assert not passes(rules[dpid], HOST_PORT, seen)


@settings(deadline=None, max_examples=30)
@given(nets(), st.sampled_from([4, 6]))
def test_links_carry_everything(network: Net, version: int) -> None:
    network, owners, rules = guarded(network, version)
    for link in network.topology.links:
        for owner in owners:
            for seen in frames(owner.mac, owner.address, version):
                assert passes(rules[link.a], link.a_port, seen)
                assert passes(rules[link.b], link.b_port, seen)


def test_a_neighbour_advertisement_speaks_of_its_own_sender_only() -> None:
    _, owners, rules = guarded(Net(Topology(frozenset({1, 2}), (), EDGES), {}, known(1, 2)), 6)
    false = Frame(mac(1), ETHERTYPE_IPV6, owners[0].address, nd_target=owners[1].address)
    assert not passes(rules[1], HOST_PORT, false)
    claim = Frame(STRANGER, ETHERTYPE_IPV6, address(200, 6), nd_target=owners[1].address)
    assert not passes(rules[1], STRANGER_PORT, claim)
    assert passes(rules[1], STRANGER_PORT, replace(claim, nd_target=address(200, 6)))
    silent = Frame(mac(1), ETHERTYPE_IPV6, "::")
    assert passes(rules[1], HOST_PORT, silent), "a listener's report without an address"


EDGES: frozenset[PortId] = frozenset({(1, HOST_PORT), (2, HOST_PORT)})


def known(*dpids: int) -> Hosts:
    hosts = Hosts({mac(1): 1, mac(2): 2})
    for dpid in dpids:
        hosts.note(mac(dpid), (dpid, HOST_PORT))
    return hosts


def test_until_a_node_has_spoken_its_own_switch_asks_the_controller_and_others_refuse() -> None:
    _, owners, rules = guarded(Net(Topology(frozenset({1, 2}), (), EDGES), {}, known(2)), 4)
    first = Frame(mac(1), ETHERTYPE_ARP, owners[0].address)
    assert decide(rules[1], HOST_PORT, first).controller
    assert not passes(rules[2], STRANGER_PORT, first)
    assert not decide(rules[2], STRANGER_PORT, first).controller


def test_a_node_whose_port_is_known_is_guarded_before_it_speaks() -> None:
    hosts = Hosts({mac(1): 1}, {mac(1): HOST_PORT})
    owners = [Owner(mac(1), address(1, 4), 1, HOST_PORT)]
    edges = frozenset({(1, HOST_PORT), (1, STRANGER_PORT)})
    first = Frame(mac(1), ETHERTYPE_ARP, owners[0].address)
    for known_edges in (frozenset({(1, STRANGER_PORT)}), edges):
        topology = Topology(frozenset({1}), (), known_edges)
        hosts.keep_only(known_edges)
        rules = desired_rules(topology, Routes(topology, {}), hosts, (), owners)[1]
        assert not passes(rules, STRANGER_PORT, first)
        assert not decide(rules, STRANGER_PORT, first).controller, "it cannot take the node's place either"
        rule = decide(rules, HOST_PORT, first)
        assert passes(rules, HOST_PORT, first) is (known_edges == edges)
        assert rule.controller is (known_edges != edges), "what may tell that the port is an edge port"


def test_probes_still_reach_the_controller_everywhere() -> None:
    _, _, rules = guarded(Net(Topology(frozenset({1, 2}), (), EDGES), {}, known(1, 2)), 4)
    for port in (HOST_PORT, STRANGER_PORT):
        assert decide(rules[1], port, Frame("0e:00:00:00:00:01", ETHERTYPE_LLDP)).controller


@pytest.mark.parametrize("key", [{"anti_spoofing": True}, {"anti_spoofing": False}, {}])
def test_the_inventory_switches_it_on(key: dict[str, bool]) -> None:
    data, on = document(), key.get("anti_spoofing", False)
    data["fabric"] = key
    network = Network(build(data))
    network.start()
    nve1 = data["nodes"]["nve1"]
    network.handle(PacketIn(1, 3, frame(bytes.fromhex(nve1["mac"].replace(":", "")))))
    for dpid, rules in network.rules.items():
        guards = [rule for rule in rules.values() if is_guard(rule.table, rule.priority)]
        assert bool(guards) is on
        if on:
            spoofed = Frame(STRANGER, ETHERTYPE_IPV4, nve1["address"])
            assert not passes(frozenset(rules.values()), 3, spoofed)
            assert passes(frozenset(rules.values()), 3, Frame(nve1["mac"], ETHERTYPE_IPV4, nve1["address"])) is (
                dpid == 1
            )
        else:
            assert nve1["address"] not in repr(rules)

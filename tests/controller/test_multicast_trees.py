"""Multicast in the underlay: every member is reached exactly once, nobody else, whatever link is down."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.fabric.discovery import Link, PortId, Topology
from controller.fabric.flows import FORWARD_TABLE, FlowRule, GroupEntry, Match, groups_of
from controller.fabric.forwarding import GroupMembers, Hosts, desired_rules
from controller.fabric.routes import Routes
from controller.fabric.underlay import Clear, PacketIn, PortStatus, SwitchDown, SwitchUp, Update
from tests.controller.inventories import build, document
from tests.controller.test_fabric import HOST_PORT, Net, mac, nets, reachable
from tests.controller.test_underlay import Network, frame

RING = [Link(1, 1, 2, 1), Link(2, 2, 3, 1), Link(3, 2, 4, 1), Link(1, 2, 4, 2)]
EDGES = {"nve1": (1, 10), "nve2": (2, 10), "nve3": (3, 10), "nve4": (4, 10), "other": (2, 11)}
MACS = {name: f"02:00:00:00:00:{number:02x}" for number, name in enumerate(EDGES, 1)}
ADDRESS = "239.60.81.1"


def world(down: int | None, members: tuple[str, ...]):
    links = frozenset(link for number, link in enumerate(RING) if number != down)
    topology = Topology(switches=frozenset({1, 2, 3, 4}), links=links, edges=frozenset(EDGES.values()))
    hosts = Hosts()
    for name, place in EDGES.items():
        hosts.note(MACS[name], place)
    group = GroupMembers(ADDRESS, tuple(MACS[name] for name in members))
    return links, desired_rules(topology, Routes(topology, {}), hosts, [group])


def delivered(links, rules, start: tuple[int, int]) -> list[tuple[int, int]]:
    """Follow a packet from an edge port; return the edge ports it leaves from."""
    across = {}
    for link in links:
        across[link.a, link.a_port] = (link.b, link.b_port)
        across[link.b, link.b_port] = (link.a, link.a_port)
    out, waiting = [], [start]
    while waiting:
        assert len(out) + len(waiting) < 50, "the packet goes round in circles"
        dpid, in_port = waiting.pop()
        (rule,) = [rule for rule in rules[dpid] if rule.match.ip_dst == ADDRESS]
        assert rule.table == FORWARD_TABLE
        for port in rule.group.ports:
            if port == in_port:
                continue
            waiting.append(across[dpid, port]) if (dpid, port) in across else out.append((dpid, port))
    return out


@pytest.mark.parametrize("down", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("members", [("nve1", "nve2"), ("nve1", "nve3"), ("nve1", "nve2", "nve3", "nve4")])
def test_every_member_is_reached_once_and_no_other(down, members):
    links, rules = world(down, members)
    for sender in members:
        reached = delivered(links, rules, EDGES[sender])
        assert sorted(reached) == sorted(EDGES[name] for name in members if name != sender)


def test_a_changed_tree_is_another_group_entry():
    _, before = world(None, ("nve1", "nve2"))
    _, after = world(None, ("nve1", "nve2", "nve3"))
    changed = [dpid for dpid in (1, 2, 3, 4) if groups_of(before[dpid]) != groups_of(after[dpid])]
    assert changed
    for dpid in changed:
        (old,), (new,) = groups_of(before[dpid]), groups_of(after[dpid])
        assert old.group_id != new.group_id
    ids = [entry.group_id for rules in after.values() for entry in groups_of(rules)]
    assert all(0 <= number < 2**31 for number in ids)


@pytest.mark.parametrize(
    ("address", "ethernet", "eth_type"),
    [
        ("239.188.81.1", "01:00:5e:3c:51:01", 0x0800),  # 23 bits of the address: the bit above them is lost
        ("ff05::1:2:3", "33:33:00:02:00:03", 0x86DD),
    ],
)
def test_a_group_is_matched_by_its_ip_and_ethernet_addresses(address, ethernet, eth_type):
    topology = Topology(switches=frozenset({1}), edges=frozenset({(1, 10)}))
    rules = desired_rules(topology, Routes(topology, {}), Hosts(), [GroupMembers(address, ())])
    (rule,) = [rule for rule in rules[1] if rule.group is not None]
    assert rule.match == Match(eth_type=eth_type, eth_dst=ethernet, ip_dst=address)


def reached(net: Net, rules: dict[int, frozenset[FlowRule]], start: PortId, ip: str, target: str) -> Counter[PortId]:
    """Follow a packet hop by hop as switches do, all tables, priorities and groups; count where it comes out."""
    wires = {(k.a, k.a_port): (k.b, k.b_port) for k in net.topology.links}
    wires |= {b: a for a, b in wires.items()}
    out: Counter[PortId] = Counter()
    waiting = [start]
    for _ in range(500):
        if not waiting:
            return out
        dpid, port = waiting.pop()
        table: int | None = 0
        outputs: list[int] = []
        while table is not None:
            best = [rule for rule in rules[dpid] if rule.table == table and fits(rule.match, port, ip, target)]
            highest = max(rule.priority for rule in best)
            (rule,) = [rule for rule in best if rule.priority == highest]
            outputs += [*rule.outputs, *(rule.group.ports if rule.group else ())]
            table = rule.goto
        for output in set(outputs) - {port}:
            if (dpid, output) in wires:
                waiting.append(wires[dpid, output])
            else:
                out[dpid, output] += outputs.count(output)
    raise AssertionError("the packet goes round in circles")


def fits(match: Match, port: int, ip: str, target: str) -> bool:
    def bits(text: str | None) -> int:
        return (1 << 48) - 1 if text is None else int(text.replace(":", ""), 16)

    return (
        match.in_port in {None, port}
        and match.eth_type in {None, 0x0800}
        and match.eth_src is None
        and match.ip_dst in {None, ip}
        and (match.eth_dst is None or not (bits(match.eth_dst) ^ bits(target)) & bits(match.eth_dst_mask))
    )


ETHERNET = "01:00:5e:3c:51:01"


@given(nets(), st.data())
@settings(max_examples=60, deadline=None)
def test_on_any_topology_members_and_only_they_are_reached_once_and_after_a_lost_link_too(net: Net, data):
    switches = sorted(net.topology.switches)
    members = data.draw(st.sets(st.sampled_from(switches), min_size=1))
    sender = data.draw(st.sampled_from(switches))
    lost = data.draw(st.sampled_from([None, *net.topology.links]))
    links = tuple(link for link in net.topology.links if link != lost)
    net = Net(Topology(net.topology.switches, links, net.topology.edges), net.costs, net.hosts)
    group = GroupMembers(ADDRESS, tuple(mac(dpid) for dpid in members))
    rules = desired_rules(net.topology, net.routes, net.hosts, [group])
    near = reachable(net.topology, sender) - {sender}
    start = (sender, HOST_PORT)
    assert reached(net, rules, start, ADDRESS, ETHERNET) == Counter((dpid, HOST_PORT) for dpid in near & members)
    everybody = Counter((dpid, HOST_PORT) for dpid in near)
    assert reached(net, rules, start, "239.60.81.2", "01:00:5e:3c:51:02") == everybody, "no such group: flooded"
    for link in links:
        if link not in net.routes.tree:  # what somebody puts on a link outside the tree goes nowhere
            assert not reached(net, rules, (link.a, link.a_port), ADDRESS, ETHERNET)


def test_who_uses_a_groups_ip_address_with_a_stations_goes_to_the_station():
    links, rules = world(None, ("nve1", "nve2"))
    net = Net(Topology(frozenset({1, 2, 3, 4}), tuple(links), frozenset(EDGES.values())), {}, Hosts())
    assert reached(net, rules, EDGES["nve1"], ADDRESS, MACS["nve4"]) == {EDGES["nve4"]: 1}


def test_a_member_that_has_never_sent_is_reached_at_its_switch():
    links = frozenset(RING)
    topology = Topology(switches=frozenset({1, 2, 3, 4}), links=links, edges=frozenset(EDGES.values()))
    hosts = Hosts({MACS[name]: EDGES[name][0] for name in ("nve1", "nve2")})
    for name in ("nve1", "other", "nve4"):
        hosts.note(MACS[name], EDGES[name])
    group = [GroupMembers(ADDRESS, (MACS["nve1"], MACS["nve2"]))]
    rules = desired_rules(topology, Routes(topology, {}), hosts, group)
    assert delivered(links, rules, EDGES["nve1"]) == [EDGES["nve2"]], "not at the port that is another's place"
    hosts.note(MACS["nve2"], EDGES["nve2"])
    known = desired_rules(topology, Routes(topology, {}), hosts, group)
    assert [groups_of(known[dpid]) for dpid in known] == [groups_of(rules[dpid]) for dpid in known]


class Switches(Network):
    """The ring of the test inventory with a multicast group, its group tables kept as switches keep them."""

    def __init__(self) -> None:
        data = document()
        data["vnis"][0]["multicast"] = [{"name": "red", "address": ADDRESS, "senders": ["nve1"]}]
        super().__init__(build(data))
        self.groups: dict[int, dict[int, GroupEntry]] = {}

    def apply(self, command):
        super().apply(command)
        if isinstance(command, Clear):
            self.groups[command.dpid] = {}
        elif isinstance(command, Update):
            self._update(command)

    def _update(self, command: Update) -> None:
        entries = self.groups[command.dpid]
        for entry in command.new_groups:
            assert entry.group_id not in entries, "a switch refuses to add a group that it has"
            entries[entry.group_id] = entry
        for rule in command.add:
            assert rule.group is None or entries[rule.group.group_id] == rule.group, "the group comes first"
        for entry in command.old_groups:
            del entries[entry.group_id]
        used = {rule.group for rule in self.rules[command.dpid].values() if rule.group is not None}
        assert used == set(entries.values()), "no rule without its group, no group without a rule"

    def ports(self, dpid: int) -> tuple[int, ...]:
        (entry,) = self.groups[dpid].values()
        return entry.ports


NVES = {1: "026081010100", 2: "026081010200", 3: "026081010300"}


def test_switches_always_have_the_groups_that_their_rules_use():
    network = Switches()
    network.start()
    for dpid, address in NVES.items():
        network.handle(PacketIn(dpid, HOST_PORT_OF_RING, frame(bytes.fromhex(address))))
    # The ring's tree leaves out s3-s4 or s1-s4; both cost 30, s1-s2 and s2-s3 cost 10 and carry transit devices.
    assert network.ports(1) == (1, 3)
    assert network.ports(2) == (1, 2, 3)
    assert network.ports(3) == (1, 3)
    network.handle(PortStatus(1, 1, False))
    assert network.ports(1) == (2, 3), "by the other way round"
    assert network.ports(4) == (1, 2)
    network.handle(PortStatus(1, 1, True))
    network.run(0.5)
    assert network.ports(1) == (1, 3)
    network.handle(SwitchDown(2))
    assert 1 not in network.ports(1)
    network.handle(SwitchUp(2, {1: True, 2: True, HOST_PORT_OF_RING: True}))
    network.run(1)
    assert network.ports(2) == (1, 2, 3), "nve2 need not send again to be reached"


HOST_PORT_OF_RING = 3

"""Multicast in the underlay: every member is reached exactly once, nobody else, whatever link is down."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from controller import openflow
from controller.discovery import Link, Topology
from controller.fabric import FORWARD_TABLE, GroupMembers, Hosts, Routes, desired_rules, groups_of

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


def test_the_messages_name_group_buckets_and_match():
    class Parser:
        def __getattr__(self, name):
            return lambda *args, **kwargs: SimpleNamespace(kind=name, args=args, **kwargs)

    datapath = SimpleNamespace(
        ofproto=SimpleNamespace(OFPGC_ADD=0, OFPGC_DELETE=2, OFPGT_ALL=0, OFPG_ALL=7, OFPP_ANY=9, OFPG_ANY=9,
                                OFPIT_APPLY_ACTIONS=4, OFPFC_ADD=0),
        ofproto_parser=Parser(),
    )  # fmt: skip
    _, rules = world(None, ("nve1", "nve2"))
    (rule,) = [rule for rule in rules[1] if rule.group is not None]
    added = openflow.group_add(datapath, rule.group)
    assert [bucket.actions[0].args[0] for bucket in added.args[4]] == list(rule.group.ports)
    flow = openflow.flow_add(datapath, rule)
    assert flow.match.ipv4_dst == ADDRESS
    assert flow.match.eth_type == 0x0800
    assert openflow.group_delete(datapath, rule.group).args[3] == rule.group.group_id
    assert openflow.group_clear(datapath).args[3] == 7

"""The plan: names, addresses and sizes, checked against literal expectations."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from topologies.plan import Kind, Plan, make_plan
from topologies.scenario_file import load_scenario, scenario_names

ALL = [pytest.param(name, id=name) for name in scenario_names()]


def plan_of(name: str) -> Plan:
    return make_plan(load_scenario(name))


def all_ends(plan: Plan) -> list[tuple[str, str, str, tuple[str, ...]]]:
    ends = [end for wire in plan.wires for end in (wire.first, wire.second)]
    return [(end.node, end.interface, end.mac, end.addresses) for end in ends]


@pytest.mark.parametrize("name", ALL)
def test_interface_names_are_unique_and_short_enough_for_linux(name: str) -> None:
    names = [interface for _, interface, _, _ in all_ends(plan_of(name))]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 15


@pytest.mark.parametrize("name", ALL)
def test_underlay_addresses_and_macs_are_unique(name: str) -> None:
    plan = plan_of(name)
    assert len(set(plan.underlay_addresses.values())) == len(plan.underlay_addresses)
    macs = Counter(mac for node, _, mac, _ in all_ends(plan) if plan.kinds[node] is not Kind.HOST)
    assert max(macs.values()) == 1
    assert all(re.fullmatch(r"02:60:81(:[0-9a-f]{2}){3}", mac) for mac in macs)


@pytest.mark.parametrize("name", ALL)
def test_transit_wires_have_no_address_and_lead_to_the_first_switch_first(name: str) -> None:
    plan = plan_of(name)
    for device in plan.nodes(Kind.TRANSIT):
        wires = plan.ends(device)
        assert [bool(end.addresses) for end in wires] == [False, False, True]
        assert [end.interface for end in wires] == [f"{device}-eth{number}" for number in range(3)]


@pytest.mark.parametrize("name", ALL)
def test_switch_ports_count_from_one_without_gaps(name: str) -> None:
    plan = plan_of(name)
    for switch in plan.nodes(Kind.SWITCH):
        ports = [end.interface for end in plan.ends(switch)]
        assert ports == [f"{switch}-eth{number}" for number in range(1, len(ports) + 1)]


# Underlay MTU 1500, less outer IP 20 or 40, UDP 8, Geneve 8, inner Ethernet 14, telemetry option 16,
# and 32 for each security option: one for the egress NVE, with telemetry one per transit device too.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("default", {100: 1500 - 50 - 16 - 3 * 32, 200: 1500 - 50 - 32}),
        ("small", {100: 1370, 200: 1434}),
        ("small-ipv6", {100: 1350, 200: 1414}),
        ("overhead", {100: 1450, 200: 1418, 300: 1434, 400: 1306}),
    ],
)
def test_tenant_mtu(name: str, expected: dict[int, int]) -> None:
    plan = plan_of(name)
    assert plan.tenant_mtu == expected
    for wire in plan.wires:
        if not wire.underlay:
            tenant = plan.scenario.tenants[plan.tenant_of(wire.first.node)]
            assert wire.mtu == expected[tenant.vni]
        else:
            assert wire.mtu == 1500


def test_addresses_of_the_default_scenario() -> None:
    assert plan_of("default").underlay_addresses == {
        "nva": "192.168.0.100",
        "nve1": "192.168.1.1",
        "nve2": "192.168.1.2",
        "nve3": "192.168.1.3",
        "t1": "192.168.2.1",
        "t2": "192.168.2.2",
        "mallory": "192.168.3.1",
    }


def test_addresses_over_ipv6() -> None:
    addresses = plan_of("small-ipv6").underlay_addresses
    assert addresses["nve2"] == "fd00:6081::1:2"
    assert addresses["nva"] == "fd00:6081::64"


def test_neighbours_are_found_in_both_directions() -> None:
    plan = plan_of("small")
    assert plan.interface("nve1", "s1") == "nve1-eth0"
    assert plan.interface("s1", "nve1") == "s1-eth3"
    assert plan.interface("nve1", "red1") == "nve1-eth1"
    assert plan.interface("t1", "s1") == "t1-eth0"
    with pytest.raises(KeyError):
        plan.interface("red1", "red2")


def test_a_link_goes_down_at_both_switches_whatever_is_on_it() -> None:
    assert plan_of("default").link_ends("s3", "s2") == [("s2", "s2-eth2"), ("s3", "s3-eth1")]


def test_attacker_on_the_path_is_a_bridge_without_address() -> None:
    plan = plan_of("default")
    assert plan.bridges == {"eve": ("eve-eth0", "eve-eth1")}
    assert "eve" not in plan.underlay_addresses

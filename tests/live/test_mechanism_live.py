"""The complete mechanism on the emulated network: every scenario works, groups, limits, the key log."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from experiments.bench import Hosts
from experiments.samples import read_lines
from tests.live.conftest import make_testbed
from topologies.network import Testbed
from topologies.scenario_file import parse_scenario, scenario_names, scenario_path

pytestmark = pytest.mark.live

SHORT_LIVED = scenario_path("mechanism-confidentiality")
SCENARIOS = [name for name in scenario_names() if name.startswith("mechanism-")]


def pings(testbed: Testbed, host: str, address: str, size: int = 56) -> str:
    argv = ["ping", "-c", "3", "-i", "0.05", "-W", "2", "-M", "do", "-s", str(size), address]
    return testbed.node(host).run(argv, timeout=20, check=False).stdout


@pytest.mark.parametrize("name", SCENARIOS)
def test_tenants_talk_over_both_ip_versions_and_nothing_is_dropped(name: str, tmp_path: Path) -> None:
    with make_testbed(name, tmp_path) as testbed:
        # Tenants' kernels speak up while the last keys are still on their way: that may cost a frame.
        before = {nve: testbed.stats(nve)["drops"] for nve in testbed.scenario.nves}
        for tenant, entry in testbed.scenario.tenants.items():
            first, second = list(entry.hosts)[:2]
            for address in entry.hosts[second].ips:
                assert " 0% packet loss" in pings(testbed, first, address), (tenant, address)
            whole = testbed.plan.tenant_mtu[entry.vni] - 28
            address = entry.hosts[second].ips[0]
            assert " 0% packet loss" in pings(testbed, first, address, whole), f"{tenant}: a frame of the whole MTU"
        for nve in testbed.scenario.nves:
            assert testbed.stats(nve)["drops"] == before[nve]


def test_a_tenant_whose_packet_is_too_big_is_told(tmp_path: Path) -> None:
    with make_testbed("mechanism-confidentiality", tmp_path) as testbed:
        mtu = testbed.plan.tenant_mtu[101]
        # The tenant believes in a larger MTU than the overlay has, as one with its own bridges might.
        for node, towards in (("pay1", "nve1"), ("nve1", "pay1")):
            interface = testbed.interface(node, towards)
            testbed.node(node).ip([f"link set {interface} mtu {mtu + 20}"])
        for interface in ("tap101", "br101"):
            testbed.node("nve1").ip([f"link set {interface} mtu {mtu + 20}"])
        said = pings(testbed, "pay1", "10.0.0.2", mtu - 28 + 10)
        assert f"mtu = {mtu}" in said or f"mtu={mtu}" in said, said
        assert testbed.stats("nve1")["drops"]["frame_too_big"] >= 1


def test_underlay_multicast_goes_through_openflow_groups_to_members_only(tmp_path: Path) -> None:
    with make_testbed("mechanism-multicast", tmp_path) as testbed, Hosts(testbed, tmp_path) as hosts:
        logs = [hosts.receiver(f"sign{number}", everything=True) for number in (2, 3)]
        order = {"do": "send", "label": "group", "trial": 0, "destination": "10.0.0.255", "sizes": [200] * 20,
                 "interval": 0.002, "broadcast": True}  # fmt: skip
        hosts.sender("sign1").ask(order)
        deadline = time.monotonic() + 3
        while any(len(read_lines(log)) < 20 for log in logs) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [len(read_lines(log)) for log in logs] == [20, 20]
        groups = subprocess.run(
            ["ovs-ofctl", "-O", "OpenFlow13", "dump-groups", "s2"], capture_output=True, text=True, check=True
        ).stdout
        assert groups.count("type=all") == 3, groups
        restricted = testbed.stats("nve2")["drops"]
        hosts.sender("rest2").ask({**order, "label": "refused"})
        refused = testbed.stats("nve2")["drops"].get("unauthorised_group", 0)
        assert refused >= restricted.get("unauthorised_group", 0) + 20


def test_a_key_log_is_written_only_for_its_owner_and_said_out_loud(tmp_path: Path) -> None:
    with make_testbed("key-log", tmp_path) as testbed:
        assert any("ALL KEYS" in warning for warning in testbed.warnings)
        first, second = list(testbed.scenario.tenants["full"].hosts.items())[:2]
        assert " 0% packet loss" in pings(testbed, first[0], second[1].ips[0]), "keys are made for who talks"
        for nve in testbed.scenario.nves:
            path = testbed.layout.key_log(nve)
            assert path.stat().st_mode & 0o077 == 0
            lines = path.read_text().splitlines()
            assert lines
            assert all(line.startswith("GSA spi=0x") for line in lines)
        assert "ALL KEYS" in testbed.layout.log("nve1").read_text()


def test_at_the_soft_limit_keys_change_without_a_lost_packet(tmp_path: Path) -> None:
    limits = "  - {name: short, soft_limit: 40, hard_limit: 400}"
    short = SHORT_LIVED.read_text().replace("profiles:", f"profiles:\n{limits}")
    text = short.replace("profile: full", "profile: short").replace("name: mechanism-confidentiality", "name: short")
    scenario = parse_scenario(text, "short.yaml")
    with Testbed(scenario, tmp_path) as testbed:
        spis = {entry["spi"] for entry in testbed.rest("/v1/associations")["associations"] if entry["vni"] == 101}
        before = testbed.stats("nve1")["drops"]
        argv = ["ping", "-c", "200", "-i", "0.02", "-W", "2", "10.0.0.2"]
        said = testbed.node("pay1").run(argv, timeout=30, check=False).stdout
        assert " 0% packet loss" in said, said
        after = {entry["spi"] for entry in testbed.rest("/v1/associations")["associations"] if entry["vni"] == 101}
        assert spis.isdisjoint(after), "both directions have new keys"
        assert testbed.stats("nve1")["drops"] == before

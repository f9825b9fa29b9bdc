"""The small scenario builds, its underlay carries packets, its links go down and up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.key_material import leaks_of_folder, private_lines, suspicious
from topologies.network import Testbed
from topologies.nodes import NodeCommandError

pytestmark = pytest.mark.live


def ping(testbed: Testbed, node: str, address: str) -> bool:
    argv = ["ping", "-c", "3", "-i", "0.2", "-W", "2", address]
    return testbed.node(node).run(argv, timeout=20, check=False).returncode == 0


def test_every_node_reaches_every_other_over_the_underlay(small_testbed: Testbed) -> None:
    addresses = small_testbed.plan.underlay_addresses
    for node in ("nva", "nve1", "t1", "mallory"):
        assert ping(small_testbed, node, addresses["nve2"]), node


def test_tenants_reach_their_own(small_testbed: Testbed) -> None:
    for host, peer in (("red1", "red2"), ("blue1", "blue2")):
        tenant = small_testbed.scenario.tenants[small_testbed.plan.tenant_of(host)]
        for address in tenant.hosts[peer].ips:
            assert ping(small_testbed, host, address), (host, address)


def test_interfaces_have_the_planned_mtu_and_addresses(small_testbed: Testbed) -> None:
    shown = small_testbed.node("red1").run(["ip", "address", "show", "red1-eth0"], timeout=10).stdout
    assert "mtu 1370" in shown
    assert "02:00:00:00:00:01" in shown
    assert "10.0.0.1/24" in shown
    assert "fd00:10::1/64" in shown


def test_wires_of_transit_devices_and_attackers_speak_no_ip_of_their_own(small_testbed: Testbed) -> None:
    for node, interface in (("t1", "t1-eth0"), ("t1", "t1-eth1"), ("eve", "eve-eth0"), ("eve", "eve-br")):
        shown = small_testbed.node(node).run(["ip", "address", "show", interface], timeout=10).stdout
        assert "inet" not in shown, interface


def test_daemons_report_and_keys_are_private(small_testbed: Testbed) -> None:
    assert small_testbed.stats("nve1")["ready"] is True
    assert small_testbed.stats("t1")["ready"] is True
    for key in small_testbed.layout.pki.glob("*.key"):
        assert key.stat().st_mode & 0o077 == 0
    assert small_testbed.layout.private.is_relative_to("/run")
    assert small_testbed.layout.private.stat().st_mode & 0o077 == 0


def test_link_goes_down_and_up(small_testbed: Testbed) -> None:
    address = small_testbed.plan.underlay_addresses["nve2"]
    small_testbed.set_link("s1", "s2", up=False)
    argv = ["ping", "-c", "1", "-W", "1", address]
    assert small_testbed.node("nve1").run(argv, timeout=10, check=False).returncode != 0
    small_testbed.set_link("s1", "s2", up=True)
    argv = ["ping", "-c", "40", "-i", "0.5", "-w", "20", address]
    process = small_testbed.node("nve1").popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any("bytes from" in line for line in process.stdout), "the link did not come back in 20 s"
    process.terminate()
    process.wait()


def test_failing_command_says_what_where_and_why(small_testbed: Testbed) -> None:
    with pytest.raises(NodeCommandError, match="red1: 'ip link show nothing0' ended with exit code 1") as caught:
        small_testbed.node("red1").run(["ip", "link", "show", "nothing0"], timeout=10)
    assert caught.value.returncode == 1


def test_restarted_nve_serves_again(small_testbed: Testbed) -> None:
    before = small_testbed.daemon_pid("nve1")
    small_testbed.restart_daemon("nve1")
    assert small_testbed.daemon_pid("nve1") != before
    assert ping(small_testbed, "red1", "10.0.0.2")


def test_logs_are_kept_and_hold_no_key(small_testbed: Testbed) -> None:
    folder: Path = small_testbed.layout.run_dir / "logs"
    names = {path.stem for path in folder.glob("*.log")}
    assert {"controller", "nve1", "nve2", "t1", "ovs-vswitchd"} <= names
    keys = private_lines(small_testbed.layout.pki)
    assert len(keys) >= 4, "of the NVA, two NVEs and the transit device"
    assert any(suspicious(line) for line in keys), "the control: keys have the shape that is looked for"
    assert leaks_of_folder(small_testbed.layout.run_dir, keys) == {}

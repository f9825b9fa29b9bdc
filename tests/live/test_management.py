"""The management network is out of the underlay's reach."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from topologies.network import Testbed
from topologies.plan import MANAGEMENT_NVA, NVA_PORT, OPENFLOW_PORT, REST_PORT, Kind

pytestmark = pytest.mark.live

_TRY = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2).close()"


def answers(testbed: Testbed, node: str, address: str, port: int) -> bool:
    argv = [sys.executable, "-c", _TRY, address, str(port)]
    return testbed.node(node).run(argv, timeout=20, check=False).returncode == 0


@contextlib.contextmanager
def routed_through(testbed: Testbed, node: str, gateway: str) -> Iterator[None]:
    handle = testbed.node(node)
    handle.ip([f"route add {MANAGEMENT_NVA}/32 via {gateway}"])
    try:
        yield
    finally:
        handle.ip([f"route del {MANAGEMENT_NVA}/32"])


def test_an_attacker_on_the_underlay_reaches_neither_rest_nor_openflow(small_testbed: Testbed) -> None:
    nva = small_testbed.plan.underlay_addresses["nva"]
    for node in ("mallory", "nve1"):
        with routed_through(small_testbed, node, nva):
            assert not answers(small_testbed, node, MANAGEMENT_NVA, REST_PORT), node
            assert not answers(small_testbed, node, MANAGEMENT_NVA, OPENFLOW_PORT), node
        assert answers(small_testbed, node, nva, NVA_PORT), "the control: what is meant for the underlay answers"


def test_a_switch_port_is_no_way_round(small_testbed: Testbed) -> None:
    """A switch's ports are interfaces of the sandbox, whose kernel must hand nothing on to the NVA."""
    mallory, switch = small_testbed.node("mallory"), "s2"
    port = small_testbed.interface(switch, "mallory")
    mac = next(end.mac for end in small_testbed.plan.ends(switch) if end.interface == port)
    own = small_testbed.interface("mallory", switch)
    mallory.ip([f"neigh replace 192.168.77.77 lladdr {mac} dev {own}"])
    with routed_through(small_testbed, "mallory", "192.168.77.77"):
        assert not answers(small_testbed, "mallory", MANAGEMENT_NVA, REST_PORT)
    mallory.ip([f"neigh del 192.168.77.77 dev {own}"])


def test_the_sandbox_reaches_both(small_testbed: Testbed) -> None:
    assert small_testbed.rest("/v1/topology")["complete"]
    socket.create_connection((MANAGEMENT_NVA, OPENFLOW_PORT), timeout=5).close()


def test_no_node_forwards(small_testbed: Testbed) -> None:
    argv = ["sysctl", "-n", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]
    for name, kind in small_testbed.plan.kinds.items():
        shown = (
            subprocess.run(argv, capture_output=True, text=True, check=True)  # switches live in the sandbox itself
            if kind is Kind.SWITCH
            else small_testbed.node(name).run(argv, timeout=10)
        )
        assert shown.stdout.split() == ["0", "0"], name

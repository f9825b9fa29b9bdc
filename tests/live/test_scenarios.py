"""The other scenarios, both controller frameworks, and the underlay's answer to a broken link."""

from __future__ import annotations

import importlib.util
import subprocess
import time
from pathlib import Path

import pytest

from tests.live.conftest import make_testbed
from topologies.network import Testbed

pytestmark = pytest.mark.live

FRAMEWORKS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(module) is None,
            reason=f"{name} does not run on this Python",
        ),
    )
    for name, module in (("ryu", "ryu"), ("os-ken", "os_ken"))
]


def pings(testbed: Testbed, host: str, address: str, count: int = 3) -> bool:
    argv = ["ping", "-c", str(count), "-i", "0.2", "-W", "2", address]
    return testbed.node(host).run(argv, timeout=30, check=False).returncode == 0


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_controller_runs_on_both_frameworks(framework: str, tmp_path: Path) -> None:
    with make_testbed("small", tmp_path, framework) as testbed:
        for host in ("red1", "blue1"):
            for address in ("10.0.0.2", "fd00:10::2"):
                assert pings(testbed, host, address), (host, address)
        log = testbed.layout.log("controller").read_text()
    assert framework in log, "it says which framework runs"
    assert "Traceback" not in log


def test_an_underlay_of_ipv6(tmp_path: Path) -> None:
    with make_testbed("small-ipv6", tmp_path) as testbed:
        assert ":" in testbed.plan.underlay_addresses["nve1"]
        before = testbed.stats("nve2")["drops"]
        for host in ("red1", "blue1"):
            for address in ("10.0.0.2", "fd00:10::2"):
                assert pings(testbed, host, address), (host, address)
        assert testbed.stats("nve2")["drops"] == before


def test_the_default_scenario_survives_a_broken_link(tmp_path: Path) -> None:
    with make_testbed("default", tmp_path) as testbed:
        tenants = testbed.scenario.tenants
        for tenant in tenants.values():
            names = list(tenant.hosts)
            for peer in names[1:]:
                assert pings(testbed, names[0], tenant.hosts[peer].ips[0], count=1), (names[0], peer)
        first, last = (
            next(name for name, host in tenants["red"].hosts.items() if host.nve == nve) for nve in ("nve1", "nve3")
        )
        address = tenants["red"].hosts[last].ips[0]

        def devices() -> list[str]:
            paths = testbed.rest("/v1/topology")["paths"]
            return next(path["transit"] for path in paths if (path["from"], path["to"]) == ("nve1", "nve3"))

        assert devices() == ["t1", "t2"]
        argv = ["ping", "-D", "-i", "0.05", "-W", "1", "-c", "120", address]
        process = testbed.node(first).popen(argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(21):
            process.stdout.readline()
        testbed.set_link("s1", "s2", up=False)
        rest = process.stdout.read()
        process.wait(timeout=30)
        arrived = rest.count("bytes from")
        # 100 pings were left, one each 50 ms: fewer than 20 lost means the way was changed within a second.
        assert arrived > 80, rest[-400:]
        assert devices() == [], "the way round has no transit devices, and the NVA knows"
        assert pings(testbed, first, address)
        testbed.set_link("s1", "s2", up=True)
        deadline = time.monotonic() + 20
        while not testbed.rest("/v1/topology")["complete"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert pings(testbed, first, address)

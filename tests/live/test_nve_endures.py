"""What happens to an NVE when parts of its surroundings disappear: the rest goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from topologies.network import Testbed

pytestmark = pytest.mark.live


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def pings(testbed: Testbed, host: str) -> bool:
    argv = ["ping", "-c", "3", "-i", "0.2", "-W", "2", "10.0.0.2"]
    return testbed.node(host).run(argv, timeout=20, check=False).returncode == 0


def cpu_seconds(pid: int) -> float:
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def test_the_underlay_interface_goes_down_and_up(small_testbed: Testbed) -> None:
    assert pings(small_testbed, "red1"), "and from now on there are keys: without, frames would wait, not be sent"
    interface = small_testbed.interface("nve1", "s1")
    small_testbed.node("nve1").ip([f"link set {interface} down"])
    assert not pings(small_testbed, "red1")
    small_testbed.node("nve1").ip([f"link set {interface} up"])
    assert wait_until(lambda: pings(small_testbed, "red1"), 30)
    assert small_testbed.stats("nve1")["drops"].get("send_failed", 0) > 0


def test_a_tenants_interface_that_is_gone_leaves_the_others_with_service(small_testbed: Testbed) -> None:
    assert pings(small_testbed, "red1")
    port = small_testbed.interface("nve1", "blue1")
    small_testbed.node("nve1").ip([f"link delete {port}"])
    small_testbed.restart_daemon("nve2")  # brings a new state to nve1
    assert wait_until(lambda: pings(small_testbed, "red1"), 15)


def test_a_tap_that_is_gone_costs_its_vni_and_no_processor_time(small_testbed: Testbed) -> None:
    small_testbed.node("nve1").ip(["link delete tap200"])
    assert wait_until(lambda: small_testbed.stats("nve1")["counters"].get("tap_gone") == 1)
    pid = small_testbed.daemon_pid("nve1")
    before, start = cpu_seconds(pid), time.monotonic()
    time.sleep(1)  # the length of the measurement
    assert (cpu_seconds(pid) - before) / (time.monotonic() - start) < 0.5
    assert pings(small_testbed, "red1")

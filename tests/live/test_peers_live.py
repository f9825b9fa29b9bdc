"""The benchmark's network and its contenders without packages: they come up, are measured, and leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("veth", "kernel-vxlan", "nve-full", "nve-full-2t-export", "nve-dtls", "nve-ah")


@pytest.mark.live
def test_contenders_come_up_and_are_measured() -> None:
    inside = [sys.executable, "-m", "tests.live.peers_inside", *NAMES]
    command = [sys.executable, "-m", "topologies.sandbox", "--", *inside]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    # Figures are not looked at, only that the tenants were joined: how fast is no test's business.
    there = {(sample["contender"], sample["measure"]) for sample in seen["samples"] if sample["value"]}
    wanted = set(NAMES) - set(seen["missing"])
    assert set(NAMES) - {"kernel-vxlan"} <= wanted, seen["missing"]
    for name in wanted:
        assert {(name, "rtt_idle"), (name, "tcp_1"), (name, "tcp_4")} <= there
    assert ("nve-full", "cpu_tcp_left") in there
    assert ("nve-full-2t-export", "memory_transit") in there
    assert ("veth", "cpu_tcp_left") not in there
    devices = seen["facts"]["nve-full-2t-export"]["counters"]
    assert all(device["verified"] > 0 and device["authentication_failed"] == 0 for device in devices.values())
    assert seen["facts"]["nve-ah"]["mechanism"]["left"]["name"] == "ah"
    assert seen["left"] == []

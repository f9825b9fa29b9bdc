"""The transit device's relay on real interfaces, in namespaces that vanish with the test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMESPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.mark.live
def test_frames_cross_the_transit_device_bit_for_bit() -> None:
    command = [*NAMESPACES, sys.executable, "-m", "tests.live.relay_inside"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["exit_codes"] == [0, 0]
    assert not document["left_behind"]
    assert not any(document["drops"].values())
    assert document["interfaces"]["a1"]["interface_down"] >= 1, "the outage was seen and survived"
    # Four sealed packets each way and after the link's return; the same packets again are replays.
    assert document["counters"]["exported"] == 4
    assert document["counters"]["replayed"] == 8
    assert [record["flow"] for record in document["records"]] == [0, 1, 2, 3]
    for record in document["records"]:
        assert (record["device"], record["sender"]) == ("t1", "nve1")
        assert 0 < record["egress_ns"] - record["ingress_ns"] < 10**9

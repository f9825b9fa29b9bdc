"""Plain mode talks to Open vSwitch's own Geneve tunnel, options in both directions included."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PINGS = 5


@pytest.mark.live
def test_open_vswitch_and_the_nve_understand_each_other() -> None:
    command = [sys.executable, "-m", "topologies.sandbox", "--", sys.executable, "-m", "tests.live.ovs_interop_inside"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert f"{PINGS} received" in seen["there"]
    assert f"{PINGS} received" in seen["back"], "frames of the full tenant MTU, not fragmented"
    assert "geneve: key=100" in seen["datapath"]
    assert seen["nve"]["drops"] == {}

    # Open vSwitch matched our telemetry option; a packet without it would have met the rule of priority 0.
    rule = next(line for line in seen["flows"].splitlines() if "tun_metadata1" in line)
    assert int(re.search(r"n_packets=(\d+)", rule)[1]) >= 2 * PINGS
    # tshark, a third opinion, found each side's option in that side's packets.
    assert all(re.match(r"192\.168\.1\.[12],", line) for line in seen["dissected"])
    counts = Counter(tuple(line.split(";")[:4]) for line in seen["dissected"])
    assert {key[0].split(",")[0]: key[1:] for key in counts} == {
        "192.168.1.1": ("0x000064", "0xff60", "0x02"),
        "192.168.1.2": ("0x000064", "0x0102", "0x01"),
    }
    assert min(counts.values()) >= 2 * PINGS - 1

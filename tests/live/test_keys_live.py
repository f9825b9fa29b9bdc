"""The life of keys under load: replaced several times a second, by time, and ended by their lifetime."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from experiments.bench import Hosts
from tests.live.streams import Stream, current_spis, start, wait_for, with_profile

pytestmark = pytest.mark.live


def test_several_rekeys_a_second_lose_nothing(tmp_path: Path) -> None:
    # 50 packets at 250 a second: a new association five times a second, in each direction that talks.
    with start(with_profile("soft_limit: 50"), tmp_path) as testbed, Hosts(testbed, tmp_path) as hosts:
        stream = Stream(hosts, "red1", "red3", "10.0.0.3")
        seen: set[int] = set()
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            seen |= current_spis(testbed, "nve1", "nve3")
            time.sleep(0.1)
        sent, lost = stream.stop()
        assert not lost, f"{len(lost)} of {sent}"
        assert len(seen) > 15, f"only {len(seen)} associations in 6 s"
        open_now = [item for item in testbed.rest("/v1/associations")["associations"] if item["sender"] == "nve1"
                    and item["audience"] == "nve3"]  # fmt: skip
        assert len(open_now) < 40, "what was replaced is given up again"


def test_keys_that_are_old_are_replaced_without_loss(tmp_path: Path) -> None:
    limits = "rekey_seconds: 1\n    lifetime_seconds: 20"
    with start(with_profile(limits), tmp_path) as testbed, Hosts(testbed, tmp_path) as hosts:
        stream = Stream(hosts, "red1", "red2", "10.0.0.2")
        seen: set[int] = set()
        wait_for(lambda: bool(seen.update(current_spis(testbed, "nve1", "nve2"))) or len(seen) >= 4)
        sent, lost = stream.stop()
        assert not lost, f"{len(lost)} of {sent}"


def test_keys_work_until_their_lifetime_without_the_nva_and_then_nothing_passes(tmp_path: Path) -> None:
    limits = "rekey_seconds: 3\n    lifetime_seconds: 5"
    with start(with_profile(limits), tmp_path) as testbed, Hosts(testbed, tmp_path) as hosts:
        stream = Stream(hosts, "red1", "red3", "10.0.0.3")
        stream.wait_for_more()
        capture = tmp_path / "wire.pcap"
        argv = ["tcpdump", "-i", testbed.interface("nve1", "s1"), "-U", "-s", "0", "-w", str(capture), "udp port 6081"]
        recording = testbed.node("nve1").popen(argv)
        os.kill(testbed.daemon_pid("controller"), signal.SIGSTOP)  # the NVA cannot be reached, and says nothing
        killed = time.monotonic()
        stream.wait_for_more(250)
        wait_for(lambda: testbed.stats("nve1")["drops"].get("key_wait_timeout", 0) > 50)
        assert time.monotonic() - killed > 1.5, "it went on for a while"
        seen = len(stream.indices())
        time.sleep(0.5)  # the length of the observation
        assert len(stream.indices()) == seen, "then nothing passes any more"
        os.kill(testbed.daemon_pid("controller"), signal.SIGCONT)
        stream.wait_for_more(100)
        stream.stop()
        recording.send_signal(signal.SIGINT)
        recording.wait(10)
        assert b"tenant-data" not in capture.read_bytes(), "at no time in plaintext"

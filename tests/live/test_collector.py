"""The collector on the emulated network: whoever reaches its port adds no record."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from scapy.all import UDP, PcapReader

from topologies.network import Testbed
from topologies.plan import COLLECTOR_PORT

pytestmark = pytest.mark.live

NVA = "192.168.0.100"
FORGED = {
    "device": "t1", "ingress_ns": 1, "egress_ns": 2, "vni": 100, "flow": 0xF0F0, "sequence": 1, "sender": "nve1",
    "authenticated": True, "source": "192.168.1.1", "destination": "192.168.1.2",
}  # fmt: skip


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def records(testbed: Testbed) -> list[str]:
    return testbed.layout.telemetry.read_text().splitlines()


def counters(testbed: Testbed) -> dict[str, int]:
    document = testbed.stats("collector")
    return {**document["counters"], **document["drops"]}


def genuine_datagrams(testbed: Testbed, folder: Path) -> list[bytes]:
    """Let red talk, and return what the collector got of it, once its records are in the file."""
    path = folder / "export.pcap"
    argv = ["tcpdump", "-i", testbed.interface("nva", "s1"), "-U", "--immediate-mode", "-s", "0", "-w", str(path)]
    process = testbed.node("nva").popen([*argv, f"udp dst port {COLLECTOR_PORT}"], stderr=subprocess.PIPE)
    assert any(b"listening" in line for line in process.stderr)
    before = len(records(testbed))
    testbed.node("red1").run(["ping", "-c", "5", "-i", "0.1", "10.0.0.2"], timeout=20)
    wait_until(lambda: len(records(testbed)) >= before + 10)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    with PcapReader(str(path)) as reader:
        return [bytes(frame[UDP].payload) for frame in reader]


def send_from_mallory(testbed: Testbed, datagrams: list[bytes]) -> None:
    """Send to the collector, and return when it has taken all of it."""
    before = counters(testbed)["datagrams"]
    script = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        f"[s.sendto(bytes.fromhex(text), ({NVA!r}, {COLLECTOR_PORT})) for text in sys.argv[1:]]"
    )
    argv = [sys.executable, "-c", script, *(datagram.hex() for datagram in datagrams)]
    testbed.node("mallory").run(argv, timeout=20)
    wait_until(lambda: counters(testbed)["datagrams"] >= before + len(datagrams))


def test_an_attacker_s_plain_records_are_not_written(small_testbed: Testbed, tmp_path: Path) -> None:
    assert genuine_datagrams(small_testbed, tmp_path), "the control: the device's own records are"
    refused = counters(small_testbed).get("malformed", 0)
    send_from_mallory(small_testbed, [json.dumps([FORGED], separators=(",", ":")).encode()])
    assert not [line for line in records(small_testbed) if json.loads(line)["flow"] == FORGED["flow"]]
    assert counters(small_testbed)["malformed"] == refused + 1


def test_a_genuine_datagram_counts_once(small_testbed: Testbed, tmp_path: Path) -> None:
    datagrams = genuine_datagrams(small_testbed, tmp_path)
    assert datagrams
    send_from_mallory(small_testbed, datagrams)
    assert len(set(records(small_testbed))) == len(records(small_testbed))
    assert counters(small_testbed)["replayed"] == len(datagrams)


def test_a_restarted_device_is_heard_again(small_testbed: Testbed, tmp_path: Path) -> None:
    old = genuine_datagrams(small_testbed, tmp_path)
    small_testbed.restart_daemon("t1")
    assert genuine_datagrams(small_testbed, tmp_path)
    refused = counters(small_testbed)["replayed"]
    send_from_mallory(small_testbed, old)
    assert counters(small_testbed)["replayed"] == refused + len(old)
    assert len(set(records(small_testbed))) == len(records(small_testbed))


def test_keys_are_the_owner_s_alone_and_on_no_command_line(small_testbed: Testbed) -> None:
    path = small_testbed.layout.export_key("t1")
    assert path.is_relative_to("/run")
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    for name in ("t1", "collector"):
        command = Path(f"/proc/{small_testbed.daemon_pid(name)}/cmdline").read_bytes()
        assert path.read_bytes() not in command

"""The small scenario end to end: tenants reach their own, only their own, and what the wire shows of it.

Red is protected (`full`), blue is not (`none`): whatever an attacker cannot do to red is done to blue in
the same test, so that a test in which nothing works proves nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.all import IP, UDP, Ether, PcapReader, Raw, wrpcap

from experiments.bench import Hosts
from geneve.control.rest_client import RestClient, RestError
from geneve.control.tls import TlsFiles
from geneve.header import BaseHeader
from geneve.outer import parse_outer
from geneve.packet import make_packet, parse_packet
from geneve.security.option import EGRESS_TYPE, SECURITY_CLASS, TRANSIT_TYPE
from tests.key_material import leaks, private_lines
from topologies.configs import REST_URL
from topologies.network import Testbed

pytestmark = pytest.mark.live

RED, BLUE = 100, 200
SIZE = 200


@pytest.fixture(scope="module")
def hosts(small_testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with Hosts(small_testbed, tmp_path_factory.mktemp("hosts")) as made:
        yield made


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def received(log: Path) -> list[bytes]:
    if not log.exists():
        return []
    return [bytes.fromhex(json.loads(line)["payload"]) for line in log.read_text().splitlines()]


def count(log: Path, label: str) -> int:
    return sum(f":{label}:".encode() in payload for payload in received(log))


def send(hosts: Hosts, host: str, label: str, packets: int = 10, destination: str = "10.0.0.2") -> None:
    order = {"do": "send", "label": label, "trial": 0, "sizes": [SIZE] * packets, "interval": 0.01}
    answer = hosts.sender(host).ask({**order, "destination": destination})
    assert answer["sent"] == packets


def wait_for_tcpdump(process: subprocess.Popen[bytes]) -> None:
    """Return once it listens, which it says on standard error."""
    for line in process.stderr:
        if b"listening" in line:
            return
    raise AssertionError("tcpdump ended")


@contextlib.contextmanager
def capture(testbed: Testbed, node: str, interface: str, path: Path) -> Iterator[Path]:
    """Capture Geneve on an interface while the block runs."""
    argv = ["tcpdump", "-i", interface, "-U", "--immediate-mode", "-s", "0", "-w", str(path), "udp port 6081"]
    process = testbed.node(node).popen(argv, stderr=subprocess.PIPE)
    wait_for_tcpdump(process)
    yield path
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)


def geneve_packets(path: Path) -> list[bytes]:
    with PcapReader(str(path)) as reader:
        frames = [bytes(frame) for frame in reader]
    return [outer.payload(frame) for frame in frames if (outer := parse_outer(frame)) is not None]


def drops(testbed: Testbed, node: str) -> dict[str, int]:
    return dict(testbed.stats(node)["drops"])


# --- reachability and isolation --------------------------------------------------------------


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00:10::2"])
@pytest.mark.parametrize("tenant", ["red", "blue"])
def test_a_frame_of_the_whole_tenant_mtu_arrives_unfragmented_and_a_larger_one_does_not(
    small_testbed: Testbed, tenant: str, address: str
) -> None:
    node = small_testbed.node(f"{tenant}1")
    mtu = json.loads(node.run(["ip", "-j", "link", "show", f"{tenant}1-eth0"], timeout=10).stdout)[0]["mtu"]
    assert mtu == {"red": 1370, "blue": 1434}[tenant], "1500 less outer headers, options and inner Ethernet"
    size = mtu - (28 if "." in address else 48)
    ping = ["ping", "-M", "do", "-c", "2", "-i", "0.2", "-W", "2", address, "-s"]
    assert node.run([*ping, str(size)], timeout=20, check=False).returncode == 0
    assert node.run([*ping, str(size + 1)], timeout=20, check=False).returncode != 0


def test_tenants_with_the_same_addresses_get_their_own_traffic_only(hosts: Hosts) -> None:
    logs = {host: hosts.receiver(host) for host in ("red2", "blue2")}
    send(hosts, "red1", "red-unicast")
    send(hosts, "blue1", "blue-unicast")
    assert wait_until(lambda: count(logs["red2"], "red-unicast") == 10)
    assert wait_until(lambda: count(logs["blue2"], "blue-unicast") == 10)
    assert count(logs["blue2"], "red-unicast") == count(logs["red2"], "blue-unicast") == 0


def test_broadcast_stays_in_its_virtual_network(small_testbed: Testbed) -> None:
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1);"
        "[s.sendto(b'broadcast of red', ('10.0.0.255', 9)) for _ in range(5)]"
    )
    watchers = {}
    for host in ("red2", "blue2"):
        argv = ["tcpdump", "-i", f"{host}-eth0", "-l", "-n", "--immediate-mode", "udp dst port 9"]
        watchers[host] = small_testbed.node(host).popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for_tcpdump(watchers[host])
    small_testbed.node("red1").run([sys.executable, "-c", script], timeout=20)
    assert b"10.0.0.255" in watchers["red2"].stdout.readline()
    seen = {}
    for host, watcher in watchers.items():
        watcher.send_signal(signal.SIGINT)
        seen[host] = watcher.communicate(timeout=10)[0]
    assert b"10.0.0.255" not in seen["blue2"]


# --- what the wire shows ---------------------------------------------------------------------


def test_the_wire_shows_blues_payload_and_not_reds(small_testbed: Testbed, hosts: Hosts, tmp_path: Path) -> None:
    logs = {host: hosts.receiver(host) for host in ("red2", "blue2")}
    with capture(small_testbed, "eve", "eve-br", tmp_path / "wire.pcap") as path:
        send(hosts, "red1", "red-wire")
        send(hosts, "blue1", "blue-wire")
        assert wait_until(lambda: count(logs["red2"], "red-wire") == 10)
        assert wait_until(lambda: count(logs["blue2"], "blue-wire") == 10)
    packets = geneve_packets(path)
    by_vni: dict[int, list[bytes]] = {RED: [], BLUE: []}
    for packet in packets:
        by_vni[parse_packet(packet).header.vni].append(packet)
    assert sum(b"blue-wire" in packet for packet in by_vni[BLUE]) == 10, "the control: plain payload is seen"
    assert len(by_vni[RED]) >= 10
    assert not any(b"red-wire" in packet or b"tenant-data" in packet for packet in by_vni[RED])
    for packet in by_vni[RED]:
        kinds = [(option.option_class, option.type) for option in parse_packet(packet).options]
        assert kinds[1:] == [(SECURITY_CLASS, TRANSIT_TYPE), (SECURITY_CLASS, EGRESS_TYPE)]
        assert bytes([10, 0, 0, 2]) not in packet[8:], "nor the inner addresses"


def test_the_transit_device_forwards_bit_for_bit_and_reports_what_it_authenticated(
    small_testbed: Testbed, hosts: Hosts, tmp_path: Path
) -> None:
    before, behind = (small_testbed.interface("t1", towards) for towards in ("s1", "eve"))
    log = hosts.receiver("red2")
    with (
        capture(small_testbed, "t1", before, tmp_path / "before.pcap") as first,
        capture(small_testbed, "t1", behind, tmp_path / "behind.pcap") as second,
    ):
        send(hosts, "red1", "bit-for-bit", packets=50)
        assert wait_until(lambda: count(log, "bit-for-bit") == 50)
    frames = []
    for path in (first, second):
        with PcapReader(str(path)) as reader:
            frames.append(sorted(bytes(frame) for frame in reader))
    assert len(frames[0]) >= 50
    assert frames[0] == frames[1]

    def told() -> list[dict]:
        text = small_testbed.layout.telemetry.read_text()
        found = [json.loads(line) for line in text.splitlines()]
        return [record for record in found if record["vni"] == RED and record["source"] == "192.168.1.1"]

    assert wait_until(lambda: len(told()) >= 50)
    assert {(record["device"], record["sender"], record["authenticated"]) for record in told()} == {
        ("t1", "nve1", True)
    }


# --- attacks, each with its control ----------------------------------------------------------


def attack(testbed: Testbed, node: str, interface: str, frames: list[bytes], folder: Path) -> None:
    """Send frames from an attacker's interface, inside the sandbox."""
    path = folder / f"{node}.pcap"
    wrpcap(str(path), [Ether(frame) for frame in frames])
    script = (
        "import sys; from scapy.all import rdpcap, conf;"
        "s = conf.L2socket(iface=sys.argv[2]); [s.send(p) for p in rdpcap(sys.argv[1])]"
    )
    testbed.node(node).run([sys.executable, "-c", script, str(path), interface], timeout=60)


def test_forged_packets_reach_blue_but_not_red(small_testbed: Testbed, hosts: Hosts, tmp_path: Path) -> None:
    logs = {host: hosts.receiver(host) for host in ("red2", "blue2")}
    interface = small_testbed.interface("mallory", "s2")
    target = small_testbed.node("nve2").run(
        ["cat", f"/sys/class/net/{small_testbed.interface('nve2', 's2')}/address"], timeout=10
    )
    before = drops(small_testbed, "nve2").get("unprotected", 0)
    frames = []
    for vni in (RED, BLUE):
        inner = (
            Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
            / IP(src="10.0.0.1", dst="10.0.0.2")
            / UDP(sport=9999, dport=7000)
            / Raw(b"tenant-data:forged:0:0:00:")
        )
        geneve = make_packet(BaseHeader(vni=vni), (), bytes(inner)).build()
        outer = Ether(dst=target.stdout.strip()) / IP(src="192.168.1.1", dst="192.168.1.2")
        frames += [bytes(outer / UDP(sport=50000, dport=6081) / Raw(geneve))] * 5
    attack(small_testbed, "mallory", interface, frames, tmp_path)
    assert wait_until(lambda: count(logs["blue2"], "forged") == 5), "the control: it works on the plain tenant"
    assert wait_until(lambda: drops(small_testbed, "nve2").get("unprotected", 0) == before + 5)
    assert count(logs["red2"], "forged") == 0


def test_replayed_packets_reach_blue_but_not_red(small_testbed: Testbed, hosts: Hosts, tmp_path: Path) -> None:
    logs = {host: hosts.receiver(host) for host in ("red2", "blue2")}
    with capture(small_testbed, "eve", "eve-br", tmp_path / "recorded.pcap") as path:
        send(hosts, "red1", "red-replay", packets=5)
        send(hosts, "blue1", "blue-replay", packets=5)
        assert wait_until(lambda: count(logs["red2"], "red-replay") == 5)
        assert wait_until(lambda: count(logs["blue2"], "blue-replay") == 5)
    with PcapReader(str(path)) as reader:
        frames = [bytes(frame) for frame in reader]
    towards_nve2 = [frame for frame in frames if frame[30:34] == bytes([192, 168, 1, 2])]
    before = drops(small_testbed, "nve2").get("replayed", 0)
    attack(small_testbed, "eve", small_testbed.interface("eve", "s2"), towards_nve2, tmp_path)
    assert wait_until(lambda: count(logs["blue2"], "blue-replay") == 10), "the control: plain traffic is replayed"
    assert wait_until(lambda: drops(small_testbed, "nve2").get("replayed", 0) >= before + 5)
    assert count(logs["red2"], "red-replay") == 5


# --- life ------------------------------------------------------------------------------------


def test_an_nve_that_was_killed_comes_back_with_fresh_keys(small_testbed: Testbed, hosts: Hosts) -> None:
    def spis() -> set[int]:
        found = small_testbed.rest("/v1/associations")["associations"]
        return {item["spi"] for item in found if "nve1" in (item["sender"], item["audience"])}

    log = hosts.receiver("red2")
    before = spis()
    assert before
    os.kill(small_testbed.daemon_pid("nve1"), signal.SIGKILL)
    small_testbed.restart_daemon("nve1")
    assert wait_until(lambda: bool(spis()) and not spis() & before), "no association outlives its sender"

    def arrives() -> bool:
        send(hosts, "red1", "after-restart", packets=1)
        return wait_until(lambda: count(log, "after-restart") > 0, 0.5)

    assert wait_until(arrives, 15)


def test_operators_see_no_secrets_and_nobody_else_sees_anything(small_testbed: Testbed) -> None:
    keys = private_lines(small_testbed.layout.pki)
    assert keys
    for resource in ("nodes", "tenants", "mappings", "policy", "associations", "topology", "flows", "events"):
        text = json.dumps(small_testbed.rest(f"/v1/{resource}"))
        assert "secret" not in text
        assert leaks(text, keys) == [], resource
        with pytest.raises(RestError, match="knows only") as refusal:
            small_testbed.operate("PATCH", f"/v1/{resource}", {})
        assert refusal.value.status == 405
    pki = small_testbed.layout.pki
    node = TlsFiles(str(pki / "ca.pem"), str(pki / "nve1.pem"), str(pki / "nve1.key"))
    with pytest.raises(RestError, match="'nve1' is no operator") as refusal:
        RestClient(REST_URL, node).request("GET", "/v1/nodes")
    assert refusal.value.status == 403
    events = small_testbed.rest("/v1/events")["events"]
    assert [event["text"] for event in events if event["node"] == "nve1" and "REST" in event["text"]]

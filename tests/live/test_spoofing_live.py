"""Spoofed underlay sources end at the first switch, where a scenario asks for it; and reach an NVE where not."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

from geneve.header import GENEVE_PORT, BaseHeader
from geneve.packet import make_packet
from topologies import sandbox
from topologies.network import Testbed
from topologies.scenario_file import parse_scenario, scenario_path

pytestmark = pytest.mark.live

COUNT = 20
LOCK = 1.5
"""Seconds after which Linux lets an ARP reply replace what it has just learned (arp(7), locktime)."""


def guarded_testbed(name: str, guarded: bool, folder: Path) -> Testbed:
    if not sandbox.inside():
        pytest.skip("builds a network and so runs inside the sandbox only; run 'make test'")
    text = scenario_path(name).read_text()
    assert "anti_spoofing: false" in text
    scenario = parse_scenario(text.replace("anti_spoofing: false", f"anti_spoofing: {str(guarded).lower()}"), name)
    return Testbed(scenario, folder)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def spoofed_frames(testbed: Testbed) -> list[bytes]:
    """Frames of nve1, sent by mallory: Geneve and a claim of nve1's address, both with her own MAC, and nve1's MAC."""
    plan = testbed.plan
    inner = (
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src="10.0.0.1", dst="10.0.0.2")
        / UDP(sport=9999, dport=7000)
        / Raw(b"spoofed")
    )
    nve1, nve2 = (plan.underlay_addresses[name] for name in ("nve1", "nve2"))
    own, target = plan.attachment("mallory")[0], plan.attachment("nve2")[0]
    ethernet = Ether(src=own, dst=target)
    if ":" in nve1:
        network = IPv6(src=nve1, dst=nve2)
        mine = IPv6(src=plan.underlay_addresses["mallory"], dst=nve2, hlim=255)
        claim = ethernet / mine / ICMPv6ND_NA(tgt=nve1, R=0, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=own)
    else:
        network = IP(src=nve1, dst=nve2)
        claim = ethernet / ARP(op=2, hwsrc=own, psrc=nve1, hwdst=target, pdst=nve2)
    packet = make_packet(BaseHeader(vni=100), (), bytes(inner)).build()
    geneve = ethernet / network / UDP(sport=50000, dport=GENEVE_PORT) / Raw(packet)
    stolen = Ether(src=plan.attachment("nve1")[0], dst=target) / Raw(bytes(50))
    return [bytes(frame) for frame in (geneve, claim, stolen)] * COUNT


def send(testbed: Testbed, frames: list[bytes], folder: Path) -> None:
    path = folder / "frames.pcap"
    wrpcap(str(path), [Ether(frame) for frame in frames])
    script = (
        "import sys; from scapy.all import rdpcap, conf;"
        "s = conf.L2socket(iface=sys.argv[2]); [s.send(p) for p in rdpcap(sys.argv[1])]"
    )
    argv = [sys.executable, "-c", script, str(path), testbed.interface("mallory", "s2")]
    testbed.node("mallory").run(argv, timeout=60)


def pings(testbed: Testbed, node: str, address: str) -> bool:
    argv = ["ping", "-c", "3", "-i", "0.2", "-W", "2", address]
    return testbed.node(node).run(argv, timeout=20, check=False).returncode == 0


def reached(testbed: Testbed) -> int:
    return int(testbed.stats("nve2")["drops"].get("unprotected", 0))


def poisoned(testbed: Testbed) -> bool:
    """Whether nve2 takes mallory for nve1."""
    argv = ["ip", "neigh", "show", testbed.plan.underlay_addresses["nve1"]]
    return testbed.plan.attachment("mallory")[0] in testbed.node("nve2").run(argv, timeout=10).stdout


def spoofed(testbed: Testbed) -> int:
    return int(testbed.rest("/v1/flows")["spoofed_packets"])


@pytest.mark.parametrize("name", ["small", "small-ipv6"])
def test_spoofed_sources_end_at_the_switch_and_are_counted(name: str, tmp_path: Path) -> None:
    with guarded_testbed(name, True, tmp_path) as testbed:
        assert pings(testbed, "red1", "10.0.0.2")
        assert pings(testbed, "nve1", testbed.plan.underlay_addresses["nve2"])
        polled = {switch["name"] for switch in testbed.rest("/v1/flows")["switches"]}
        assert polled == {"s1", "s2"}
        time.sleep(LOCK)
        before = reached(testbed)
        send(testbed, spoofed_frames(testbed), tmp_path)
        until(lambda: spoofed(testbed) >= 3 * COUNT)
        print(f"{name}: spoofed frames sent {3 * COUNT}, dropped and counted {spoofed(testbed)}")
        assert reached(testbed) == before
        assert not poisoned(testbed)
        assert pings(testbed, "mallory", testbed.plan.underlay_addresses["nve2"]), "she may talk as herself"
        assert pings(testbed, "red1", "10.0.0.2")


@pytest.mark.parametrize("name", ["small", "small-ipv6"])
def test_without_the_guard_they_reach_the_nve(name: str, tmp_path: Path) -> None:
    """The control of the test above."""
    with guarded_testbed(name, False, tmp_path) as testbed:
        assert pings(testbed, "nve1", testbed.plan.underlay_addresses["nve2"])
        time.sleep(LOCK)
        before = reached(testbed)
        send(testbed, spoofed_frames(testbed), tmp_path)
        until(lambda: reached(testbed) == before + COUNT)
        assert poisoned(testbed)
        assert spoofed(testbed) == 0

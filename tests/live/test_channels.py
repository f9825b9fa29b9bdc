"""IPsec and DTLS on the emulated network: tenants talk, and the underlay carries what it should."""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path

import pytest

from experiments.capture import CaptureReader, Frame
from experiments.measure import Capture
from geneve.control.channel import DTLS_PORT, ESP_UDP_PORT
from tests.live.conftest import make_testbed_of
from topologies.network import Testbed
from topologies.profiles import CHANNEL_PROFILES
from topologies.scenario_file import load_scenario

pytestmark = pytest.mark.live

MARK = "6d61726b65642d6d"
"""What pings are filled with, in hexadecimal."""
PLAIN = {"dtls-null", "esp-null", "esp-null-udp", "ah"}
PROTOCOLS = {"esp": 50, "esp-null": 50, "ah": 51}
PORTS = {"dtls": DTLS_PORT, "dtls-null": DTLS_PORT, "esp-udp": ESP_UDP_PORT, "esp-null-udp": ESP_UDP_PORT}


def pings(testbed: Testbed, host: str, address: str, size: int = 56) -> str:
    argv = ["ping", "-n", "-c", "5", "-i", "0.05", "-W", "2", "-M", "do", "-p", MARK, "-s", str(size), address]
    return testbed.node(host).run(argv, timeout=20, check=False).stdout


def between_nves(path: Path, testbed: Testbed) -> list[Frame]:
    """Return the captured IP packets from nve1 to nve2."""
    ends = [ipaddress.ip_address(testbed.plan.underlay_addresses[name]).packed for name in ("nve1", "nve2")]
    with CaptureReader(path) as reader:
        return [frame for frame in reader if b"".join(ends) in frame.data[:54]]


@pytest.mark.parametrize(
    ("mechanism", "underlay"),
    [
        *((profile.name, "small") for profile in CHANNEL_PROFILES),
        # NULL ciphers differ from the others in nothing that has to do with addresses.
        *((name, "small-ipv6") for name in ("dtls", "esp", "esp-udp", "ah")),
    ],
)
def test_tenants_talk_through_the_channel(mechanism: str, underlay: str, tmp_path: Path) -> None:
    with make_testbed_of(load_scenario(underlay).under(mechanism), tmp_path) as testbed:
        before = {nve: testbed.stats(nve)["drops"] for nve in ("nve1", "nve2")}
        interface = testbed.interface("nve2", "s2")
        path = tmp_path / "nve2.pcap"
        with Capture(testbed.node("nve2"), interface, path, "ip or ip6", 100_000):
            for host in ("red1", "blue1"):
                for address in ("10.0.0.2", "fd00:10::2"):
                    assert " 0% packet loss" in pings(testbed, host, address), (host, address)
            whole = testbed.plan.tenant_mtu[100] - 28
            assert " 0% packet loss" in pings(testbed, "red1", "10.0.0.2", whole), "a frame of the whole MTU"
            time.sleep(0.2)
        for nve in ("nve1", "nve2"):
            assert testbed.stats(nve)["drops"] == before[nve]
        packets = between_nves(path, testbed)
    assert len(packets) >= 25
    ipv6 = underlay == "small-ipv6"
    network, header = 14, 40 if ipv6 else 20
    for frame in packets:
        protocol = frame.data[network + (6 if ipv6 else 9)]
        port = int.from_bytes(frame.data[network + header + 2 : network + header + 4], "big")
        assert protocol == PROTOCOLS.get(mechanism, 17)
        assert mechanism in PROTOCOLS or port == PORTS[mechanism]
    readable = [frame for frame in packets if bytes.fromhex(MARK) * 3 in frame.data]
    assert (len(readable) >= 25) == (mechanism in PLAIN)
    assert max(frame.wire_length for frame in packets) <= 1500 + 14
    assert max(frame.wire_length for frame in packets) > 1500 + 14 - 8, "the MTU leaves no room unused"

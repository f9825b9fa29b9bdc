"""The fabric on real switches: flows spread over paths of equal cost, failures, counters."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.test_scenarios import FRAMEWORKS
from topologies import sandbox
from topologies.network import Testbed
from topologies.nodes import NodeHandle
from topologies.scenario_file import parse_scenario

pytestmark = pytest.mark.live

RING = """
name: ring
underlay:
  switches: [s1, s2, s3, s4]
  links:
    - {between: [s1, s2]}
    - {between: [s2, s3]}
    - {between: [s3, s4]}
    - {between: [s4, s1]}
nva: {attach: s1}
nves:
  nve1: {attach: s1}
  nve2: {attach: s3}
tenants:
  red:
    vni: 100
    hosts:
      red1: {nve: nve1, mac: "02:00:00:00:00:01", ipv4: 10.0.0.1/24}
      red2: {nve: nve2, mac: "02:00:00:00:00:02", ipv4: 10.0.0.2/24}
"""

FLOWS, INTERVAL = 16, 0.002
"""Flows of the sender, and seconds from one packet to the next: each flow sends every 32 ms."""
MANY_FLOWS = 128
"""Flows where their spread is judged: of 16, random hashes leave all but one on one path in some run of hundreds."""
MAX_OUTAGE = 1.0
"""Seconds without a packet of a flow that a failure may cost; a spanning tree of old would take 30."""

SENDER = """
import socket, sys, time
flows, interval, seconds, target = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(flows)]
for number, s in enumerate(sockets):
    s.bind(("", 20000 + number))
begin, count = time.monotonic(), 0
while time.monotonic() - begin < seconds:
    sockets[count % flows].sendto(b"%d" % count, (target, 7000))
    count += 1
    time.sleep(max(0, begin + count * interval - time.monotonic()))
print(count, flush=True)
"""
RECEIVER = """
import json, socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
s.bind(("", 7000))
print("ready", flush=True)
heard = []
while (data := s.recv(100)) != b"end":
    heard.append((int(data), time.monotonic()))
print(json.dumps(heard), flush=True)
"""


@pytest.fixture(scope="module", params=FRAMEWORKS)
def ring(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    if not sandbox.inside():
        pytest.skip("builds a network and so runs inside the sandbox only; run 'make test'")
    print(f"controller on {request.param}")
    with Testbed(parse_scenario(RING, "ring.yaml"), tmp_path_factory.mktemp("ring"), request.param) as testbed:
        yield testbed
        log = testbed.layout.log("controller").read_text()
    assert "OpenFlow error" not in log, "no switch refused a rule or a group"
    assert "Traceback" not in log


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def whole(testbed: Testbed) -> bool:
    return bool(testbed.rest("/v1/topology")["complete"])


def sent(testbed: Testbed, switch: str, towards: str) -> int:
    """Packets that a switch has sent on a link, as the kernel counts them."""
    interface = testbed.interface(switch, towards)
    return int(Path(f"/sys/class/net/{interface}/statistics/tx_packets").read_text())


class Stream:
    """Numbered datagrams of many flows from red1 to red2; what arrived and when."""

    def __init__(self, testbed: Testbed, seconds: float, flows: int = FLOWS) -> None:
        self._flows = flows
        argv = [sys.executable, "-c", RECEIVER]
        self._red2: NodeHandle = testbed.node("red2")
        self.receiver = self._red2.popen(argv, stdout=subprocess.PIPE, text=True)
        assert self.receiver.stdout is not None
        assert self.receiver.stdout.readline() == "ready\n"
        argv = [sys.executable, "-c", SENDER, str(flows), str(INTERVAL), str(seconds), "10.0.0.2"]
        self.sender = testbed.node("red1").popen(argv, stdout=subprocess.PIPE, text=True)

    def end(self) -> tuple[int, float]:
        """Wait for the sender; returns the packets lost, and the longest time in seconds that a flow was not heard."""
        count = int(self.sender.communicate(timeout=60)[0])
        time.sleep(0.5)
        end = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'end', ('127.0.0.1', 7000))"
        self._red2.run([sys.executable, "-c", end], timeout=20)
        heard = json.loads(self.receiver.communicate(timeout=20)[0])
        times: dict[int, list[float]] = {flow: [] for flow in range(self._flows)}
        for number, at in heard:
            times[number % self._flows].append(at)
        gaps = [after - before for seen in times.values() for before, after in itertools.pairwise(seen)]
        assert all(times.values()), "every flow arrives"
        last = {flow: seen[-1] for flow, seen in times.items()}
        assert max(last.values()) - min(last.values()) < 0.5, "every flow arrives to the end"
        return count - len({number for number, _ in heard}), max(gaps)


def test_flows_of_one_pair_of_nves_use_both_paths(ring: Testbed) -> None:
    before = {way: sent(ring, "s1", way) for way in ("s2", "s4")}
    lost, _ = Stream(ring, 3, MANY_FLOWS).end()
    shares = [sent(ring, "s1", way) - before[way] for way in ("s2", "s4")]
    print(f"ECMP: {MANY_FLOWS} flows, packets by way of s2 and s4: {shares}, lost {lost}")
    assert lost == 0
    assert min(shares) > 0.1 * sum(shares)
    dump = ["ovs-ofctl", "-O", "OpenFlow15", "dump-groups", "s1"]
    groups = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    assert "type=select,selection_method=dp_hash" in groups
    assert groups.count("watch_port") == 2, groups


def outage(ring: Testbed, what: str, fail: Callable[[], None], mend: Callable[[], None]) -> None:
    stream = Stream(ring, 4)
    time.sleep(1.5)
    fail()
    lost, gap = stream.end()
    print(f"outage, {what}: {lost} of {round(4 / INTERVAL)} packets lost, worst flow {gap * 1000:.0f} ms")
    try:
        assert gap < MAX_OUTAGE
    finally:
        mend()
        until(lambda: whole(ring))


@pytest.mark.parametrize(("first", "second"), [("s1", "s2"), ("s2", "s3")], ids=["near", "far"])
def test_a_link_fails(ring: Testbed, first: str, second: str) -> None:
    outage(
        ring,
        f"link {first}-{second} down",
        lambda: ring.set_link(first, second, up=False),
        lambda: ring.set_link(first, second, up=True),
    )


def test_a_switch_fails_and_comes_back(ring: Testbed) -> None:
    switch = "s2"
    outage(ring, f"switch {switch} gone", lambda: ring.fail_switch(switch), lambda: ring.restore_switch(switch))
    before = sent(ring, "s1", switch)
    lost, _ = Stream(ring, 2).end()
    assert lost == 0
    assert sent(ring, "s1", switch) > before + 50, "it carries traffic again"


def test_what_rules_and_ports_counted_is_in_the_rest_view(ring: Testbed) -> None:
    def counted() -> bool:
        switches = ring.rest("/v1/flows")["switches"]
        return len(switches) == 4 and all(switch["flows"] and switch["ports"] for switch in switches)

    until(counted)
    Stream(ring, 2).end()
    s1 = next(switch for switch in ring.rest("/v1/flows")["switches"] if switch["name"] == "s1")
    assert {flow["table"] for flow in s1["flows"]} == {0, 1}
    nve2 = ring.plan.attachment("nve2")[0]

    def packets() -> int:
        flows = next(switch for switch in ring.rest("/v1/flows")["switches"] if switch["name"] == "s1")["flows"]
        return sum(flow["packets"] for flow in flows if flow["match"].get("eth_dst") == nve2 and flow["table"] == 1)

    until(lambda: packets() > 1.8 / INTERVAL)
    links = {port["port"]: port["tx_packets"] for port in s1["ports"]}
    assert len(links) == 4
    assert all(links.values())
    assert s1["age_s"] < 11

"""The NVE hears from the kernel which tenants are behind its ports, and tells the NVA: with real bridges and ports."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from scapy.layers.l2 import ARP, Ether

from geneve.control.demand import Demand, Tenant
from geneve.control.nva import Nva
from geneve.control.state import Mapping, NodeState
from nve import daemon as daemon_module
from nve.config import LocalVni, NveConfig, Underlay
from nve.daemon import NveDaemon
from nve.fdb import MacGone, MacSeen, PortSeen
from nve.netlink import BridgeWatch
from nve.probes import PROBE_MAC
from tests.support import node_state
from topologies import sandbox

pytestmark = pytest.mark.live

VNI = 4242
BRIDGE = f"br{VNI}"
MAC, MAC2 = "02:00:00:00:42:01", "02:00:00:00:42:02"
IP = "10.0.42.1"
SECONDS = 5.0


def ip(command: str, check: bool = True) -> None:
    subprocess.run(["ip", *command.split()], check=check, capture_output=True)


class Host:
    """A tenant host: the far end of a veth, as raw frames."""

    def __init__(self, name: str) -> None:
        self.name, self.port = f"{name}-host", f"{name}-port"
        ip(f"link add {self.name} type veth peer name {self.port}")
        for interface in (self.name, self.port):
            with contextlib.suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6", "w") as switch:
                switch.write("1")  # no frames but those that the test sends
        ip(f"link set {self.name} up")
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind((self.name, 0))
        self.socket.setblocking(False)

    def announce(self, mac: str = MAC, ip: str = IP) -> None:
        self.socket.send(bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=mac, psrc=ip, pdst=ip)))

    def answer(self, mac: str = MAC) -> int:
        """Answer ARP probes as Linux does; return how many there were."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = Ether(self.socket.recv(2048))
                if ARP in frame and frame[ARP].psrc == "0.0.0.0" and frame[ARP].op == 1:
                    ask = frame[ARP]
                    reply = ARP(op=2, hwsrc=mac, psrc=ask.pdst, hwdst=ask.hwsrc, pdst=ask.psrc)
                    self.socket.send(bytes(Ether(src=mac, dst=frame.src) / reply))
                    count += 1
        return count

    def close(self) -> None:
        self.socket.close()
        ip(f"link del {self.name}", check=False)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    if not sandbox.inside():
        pytest.skip("makes interfaces and so runs inside the sandbox only; run 'make test'")
    pair = Host("pres1"), Host("pres2")
    yield pair
    for host in pair:
        host.close()


def test_the_kernel_tells_of_a_mac_address_and_of_its_end(hosts: tuple[Host, Host]) -> None:
    host = hosts[0]
    watch = BridgeWatch()
    ip(f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
    try:
        ip(f"link set {host.port} master {BRIDGE} up")
        ip(f"link set {BRIDGE} up")
        bridge, port = socket.if_nametoindex(BRIDGE), socket.if_nametoindex(host.port)
        heard: list[object] = []

        def hears(*wanted: object) -> bool:
            heard.extend(watch.read(64) or ())
            return all(item in heard for item in wanted)

        assert wait(lambda: hears(PortSeen(port, host.port, bridge, True)))
        host.announce()
        here = MacSeen(bridge, port, bytes.fromhex(MAC.replace(":", "")))
        assert wait(lambda: hears(here))
        dump = watch.dump()
        assert here in dump
        assert PortSeen(port, host.port, bridge, True) in dump
        ip(f"link set {host.name} down")
        assert wait(lambda: hears(MacGone(bridge, port, here.mac), PortSeen(port, host.port, bridge, False)))
        assert here not in watch.dump()
    finally:
        watch.close()
        ip(f"link del {BRIDGE}", check=False)


class FakeAgent:
    """What the daemon needs of a control agent, remembering what it was told."""

    def __init__(self) -> None:
        self.reports: list[tuple[Tenant, ...]] = []
        self.demands: list[Demand] = []
        self.confirmations: list[tuple[int, str, bool]] = []
        self.apply: Callable[[NodeState], None]
        self.confirm: Callable[[int, str], None]
        self.registered = True
        self.next_deadline = float("inf")

    def make(self, *arguments: Any, **callbacks: Any) -> FakeAgent:
        """Take the place of ``make_agent``."""
        self.apply, self.confirm = arguments[2], callbacks["confirm"]
        return self

    def ask_rekey(self, spi: int) -> None: ...
    def ask_keys(self, demands: Sequence[Demand]) -> None:
        self.demands += demands

    def tell_tenants(self, tenants: Sequence[Tenant]) -> None:
        self.reports.append(tuple(tenants))

    def confirmed(self, vni: int, mac: str, present: bool) -> None:
        self.confirmations.append((vni, mac, present))

    def run_timers(self, now: float) -> None: ...
    def close(self) -> None: ...


def wait(condition: Callable[[], bool], step: Callable[[], object] = lambda: time.sleep(0.01)) -> bool:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        step()
    return True


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
def daemon(hosts: tuple[Host, Host], agent: FakeAgent, monkeypatch: pytest.MonkeyPatch) -> Iterator[NveDaemon]:
    monkeypatch.setattr(daemon_module, "make_agent", agent.make)
    monkeypatch.setattr(daemon_module, "IDLE_INTERVAL", 0.02)
    config = NveConfig(
        name="nve1",
        underlay=Underlay(address="127.0.0.1", port=16081),
        vnis=(LocalVni(vni=VNI, ports=(hosts[0].port,)),),
        nva=Nva(name="nva", address="127.0.0.1", port=1, ca="none", certificate="none", key="none"),
    )
    made = NveDaemon(config)
    made.start()
    agent.apply(told())
    yield made
    made.close()


def told(*mappings: Mapping) -> NodeState:
    """What the NVA tells the NVE: a VNI whose mappings are learned, and no keys."""
    state = node_state("nve1", vnis=(VNI,))
    vni = state.vnis[0].model_copy(update={"learned": True})
    return state.model_copy(update={"vnis": (vni,), "mappings": mappings, "outbound": ()})


def reports(agent: FakeAgent, daemon: NveDaemon, *tenants: Tenant) -> bool:
    return wait(lambda: bool(agent.reports) and agent.reports[-1] == tenants, daemon.step)


def test_tenants_are_reported_asked_and_withdrawn(
    hosts: tuple[Host, Host], agent: FakeAgent, daemon: NveDaemon
) -> None:
    host = hosts[0]
    tenant = Tenant(vni=VNI, mac=MAC, ips=(IP,))
    assert reports(agent, daemon)
    host.announce()
    assert reports(agent, daemon, tenant)
    assert agent.demands == [], "its broadcast waits until the NVA has said where it is"
    agent.apply(told(Mapping(vni=VNI, mac=MAC, ips=(IP,), nve="nve1")))
    assert wait(lambda: bool(agent.demands), daemon.step)
    assert [item.audience for item in agent.demands] == ["nve2", "nve3"], "and then for keys"

    agent.confirm(VNI, MAC)
    answered: list[int] = []

    def serve() -> None:
        answered.append(host.answer())
        daemon.step()

    assert wait(lambda: bool(agent.confirmations), serve)
    assert agent.confirmations.pop() == (VNI, MAC, True)
    assert sum(answered) >= 1
    assert daemon.document()["counters"]["probe_answers"] >= 1, "and the answer went no further"
    assert not any(item.mac == PROBE_MAC.hex(":") for item in agent.reports[-1])

    agent.confirm(VNI, MAC)
    assert wait(lambda: bool(agent.confirmations), daemon.step), "nobody answers now"
    assert agent.confirmations.pop() == (VNI, MAC, False)
    assert reports(agent, daemon)
    host.announce()
    assert reports(agent, daemon, tenant)
    ip(f"link set {host.name} down")
    assert reports(agent, daemon)


def test_an_interface_that_joins_the_bridge_later_is_a_tenants_port(
    hosts: tuple[Host, Host], agent: FakeAgent, daemon: NveDaemon
) -> None:
    first, second = hosts
    ip(f"link set {second.port} master {BRIDGE}")

    def mtu() -> str:
        with open(f"/sys/class/net/{second.port}/mtu") as file:
            return file.read().strip()

    assert wait(lambda: mtu() == "1400", daemon.step)
    moved = Tenant(vni=VNI, mac=MAC2, ips=("10.0.42.2",))

    def speak() -> None:
        second.announce(MAC2, "10.0.42.2")
        daemon.step()

    assert wait(lambda: bool(agent.reports) and moved in agent.reports[-1], speak)
    ip(f"link set {second.port} nomaster")
    assert wait(lambda: moved not in agent.reports[-1], daemon.step)
    first.announce()
    assert wait(lambda: Tenant(vni=VNI, mac=MAC, ips=(IP,)) in agent.reports[-1], daemon.step)


def test_a_port_that_leaves_the_namespace_takes_its_tenants_with_it(
    hosts: tuple[Host, Host], agent: FakeAgent, daemon: NveDaemon
) -> None:
    """As when a host is moved: the NVE's end of its link goes to another NVE's namespace."""
    host = hosts[0]
    host.announce()
    assert reports(agent, daemon, Tenant(vni=VNI, mac=MAC, ips=(IP,)))
    sleeper = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    try:
        own = f"/proc/{sleeper.pid}/ns/net"
        assert wait(lambda: _inode(own) not in (None, _inode("/proc/self/ns/net")))
        ip(f"link set {host.port} netns {sleeper.pid}")
        agent.confirm(VNI, MAC)
        assert wait(lambda: bool(agent.confirmations), daemon.step)
        assert agent.confirmations == [(VNI, MAC, False)]
        assert reports(agent, daemon)
    finally:
        sleeper.kill()
        sleeper.wait()


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None

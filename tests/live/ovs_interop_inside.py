"""Runs in a sandbox: our NVE in plain mode on one side, Open vSwitch's own Geneve tunnel on the other.

Prints one JSON document; tests/live/test_ovs_interop.py judges it.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from topologies.ovs import PrivateOvs

NVE, OVS = "192.168.1.1", "192.168.1.2"
TENANTS = {"h1": ("10.0.0.1/24", "02:00:00:00:00:01"), "h2": ("10.0.0.2/24", "02:00:00:00:00:02")}
FOREIGN_OPTION = "{class=0x0102,type=0x01,len=4}->tun_metadata0"
OUR_TELEMETRY = "{class=0xff60,type=0x02,len=12}->tun_metadata1"
PINGS = 5


def sh(command: str, **options: bool) -> str:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False, timeout=60)
    if done.returncode and not options.get("may_fail"):
        raise RuntimeError(f"{command}: {done.stderr or done.stdout}")
    return done.stdout


def wait_until(what: str, condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(0.05)


def build() -> None:
    Path("/run/netns").mkdir(exist_ok=True)
    for name in ("n1", "h1", "h2"):
        sh(f"ip netns add {name}")
        sh(f"ip -n {name} link set lo up")
    sh("ip link add under type veth peer name eth0 netns n1")
    sh(f"ip -n n1 addr add {NVE}/24 dev eth0")
    for host, peer in (("h1", "p1 netns n1"), ("h2", "p2")):
        address, mac = TENANTS[host]
        sh(f"ip link add e0 netns {host} address {mac} mtu 1400 type veth peer name {peer}")
        sh(f"ip -n {host} addr add {address} dev e0")
        sh(f"ip netns exec {host} ethtool -K e0 tx off")
        sh(f"ip -n {host} link set e0 up")
    sh("ip netns exec n1 ethtool -K eth0 tx off")
    sh("ip -n n1 link set eth0 up")
    for name in ("under", "p2"):
        sh(f"ip link set {name} up")


def start_ovs(folder: Path) -> PrivateOvs:
    ovs = PrivateOvs(folder / "ovs", folder)
    ovs.start()
    for bridge, port in (("phy", "under"), ("int", "p2")):
        ovs.vsctl("add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev", "--",
                  "add-port", bridge, port)  # fmt: skip
    ovs.vsctl("add-port", "int", "gnv", "--", "set", "interface", "gnv", "type=geneve", "options:key=100",
              f"options:remote_ip={NVE}")  # fmt: skip
    sh(f"ip addr add {OVS}/24 dev phy")
    sh("ip link set phy up")
    for options in (FOREIGN_OPTION, OUR_TELEMETRY):
        run(ovs, "ovs-ofctl", "add-tlv-map", "int", options)
    for flow in (
        "in_port=p2,actions=set_field:0xdeadbeef->tun_metadata0,output:gnv",
        # The flow label and sequence number of our telemetry option fill 12 bytes; any value counts.
        "priority=10,in_port=gnv,tun_metadata1=0/0,actions=output:p2",
    ):
        run(ovs, "ovs-ofctl", "add-flow", "int", flow)
    return ovs


def run(ovs: PrivateOvs, *argv: str) -> str:
    done = subprocess.run(argv, env=ovs.environment, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{argv}: {done.stderr}")
    return done.stdout


def start_nve(folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    stats = folder / "nve.sock"
    state = {
        "node": "nve1",
        "role": "nve",
        "vnis": [{"vni": 100, "telemetry": True, "mtu": 1400}],
        "nves": [{"name": "ovs", "address": OVS, "vnis": [100]}],
        "mappings": [{"vni": 100, "mac": TENANTS["h1"][1], "nve": "nve1"}],
        "policy": [{"vni": 100, "action": "bypass"}],
    }
    config = {
        "name": "nve1",
        "underlay": {"address": NVE},
        "vnis": [{"vni": 100, "ports": ["p1"]}],
        "static_state": state,
        "stats": str(stats),
    }
    (folder / "nve.json").write_text(json.dumps(config))
    argv = ["ip", "netns", "exec", "n1", sys.executable, "-m", "nve", "--config", str(folder / "nve.json")]
    with open(folder / "nve.log", "wb") as log:
        return subprocess.Popen(argv, stderr=log), stats


def read_stats(path: Path) -> dict:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        return json.loads(b"".join(iter(lambda: client.recv(65536), b"")))


def main() -> None:
    with tempfile.TemporaryDirectory(dir="/run") as name:
        folder = Path(name)
        build()
        ovs = start_ovs(folder)
        nve, stats = start_nve(folder)
        capture = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                "n1",
                "tcpdump",
                "-i",
                "eth0",
                "-U",
                "--immediate-mode",
                "-w",
                str(folder / "c.pcap"),
                "udp port 6081",
            ],
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until("the NVE", stats.exists)
            sh(f"ip netns exec n1 ping -c 1 -w 10 {OVS}")  # OVS learns the NVE's MAC on the underlay
            wait_until("the capture", (folder / "c.pcap").exists)
            sh("ip netns exec h1 ping -c 1 -w 10 10.0.0.2", may_fail=True)
            there = sh(f"ip netns exec h1 ping -c {PINGS} -i 0.2 10.0.0.2")
            back = sh(f"ip netns exec h2 ping -c {PINGS} -i 0.2 -s 1372 -M do 10.0.0.1")
            capture.send_signal(signal.SIGINT)
            capture.wait(10)
            fields = "-e ip.src -e geneve.vni -e geneve.option.class -e geneve.option.type -e icmp.type"
            dissected = sh(f"tshark -r {folder / 'c.pcap'} -Y icmp -T fields -E separator=; {fields}", may_fail=True)
            print(json.dumps({
                "there": there, "back": back, "nve": read_stats(stats), "dissected": dissected.splitlines(),
                "flows": run(ovs, "ovs-ofctl", "dump-flows", "int"),
                "datapath": run(ovs, "ovs-appctl", "dpif/show"),
            }))  # fmt: skip
        finally:
            nve.terminate()
            nve.wait(10)
            if capture.poll() is None:
                capture.kill()
            ovs.stop()


if __name__ == "__main__":
    main()

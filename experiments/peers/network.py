"""The network of the benchmark: two ends with an underlay between them, and a tenant behind each.

    tenant-left eth0 --- tenant left under ---(west device1 east)--- under right tenant --- eth0 tenant-right

Each is a network and mount namespace that stays for the whole run; wires and addresses are made anew for every
contender, so that nothing of one is left for the next. Offloads of the wires stay as the kernel has them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from topologies.daemon import TestbedError, wait_for
from topologies.nodes import NodeCommandError, NodeHandle, quiet_ipv6

LEFT, RIGHT = "left", "right"
SIDES = (LEFT, RIGHT)
UNDERLAY_MTU = 1500
UNDERLAY = {LEFT: "192.168.1.1", RIGHT: "192.168.1.2"}
"""Addresses of the ends on the underlay, a /24."""
MACS = {LEFT: "02:00:00:00:00:01", RIGHT: "02:00:00:00:00:02"}
"""Tenants' MAC addresses."""
WIRE, PORT, TENANT_INTERFACE = "under", "tenant", "eth0"
"""Interfaces: of an end on the underlay, of an end towards its tenant, and of a tenant."""
DEVICE_ENDS = ("west", "east")
"""Interfaces of a device on the underlay, without addresses; left is west."""
BRIDGED = {LEFT: "10.0.0.1", RIGHT: "10.0.0.2"}
"""Tenants' addresses where contenders join them on layer 2, one /24."""
ROUTED = {LEFT: "10.1.0.2", RIGHT: "10.2.0.2"}
"""Tenants' addresses where contenders route between them, a /24 each."""
GATEWAYS = {LEFT: "10.1.0.1", RIGHT: "10.2.0.1"}
PREFIXES = {LEFT: "10.1.0.0/24", RIGHT: "10.2.0.0/24"}
QUEUE = 1000
"""Packets that wait at most in front of a TAP or TUN, the same for all contenders."""
_SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": 0, "net.ipv4.conf.default.rp_filter": 0, "net.ipv4.tcp_no_metrics_save": 1,
    "net.ipv4.ip_forward": 0,
}  # fmt: skip


def other(side: str) -> str:
    """Return the other side."""
    return RIGHT if side == LEFT else LEFT


class Namespace:
    """A network and mount namespace, kept by a process that sleeps in it."""

    def __init__(self, name: str) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--net", "--mount", "sleep", "infinity"], stdin=subprocess.DEVNULL, start_new_session=True
        )
        self.node = NodeHandle(name, self._process.pid)
        wait_for(f"the namespaces of {name}", self._ready)
        quiet_ipv6(self.node)
        self.node.sysctl(_SYSCTLS)
        self.node.ip(["link set lo up"])

    def _ready(self) -> bool:
        if self._process.poll() is not None:
            raise TestbedError("unshare ended; the kernel refused namespaces")
        return Path(f"/proc/{self._process.pid}/comm").read_text().strip() == "sleep"

    def clear(self) -> None:
        """Remove every interface but the loopback, and with them addresses and routes."""
        for line in self.node.run(["ip", "-o", "link", "show"], 20.0).stdout.splitlines():
            name = line.split(":")[1].strip().split("@")[0]
            if name != "lo":
                # Some go by themselves, with the other end of a pair or with the process that owns them.
                self.node.run(["ip", "link", "delete", name], 20.0, check=False)

    def close(self) -> None:
        """End the process; the kernel removes the namespaces."""
        self._process.kill()
        self._process.wait()


class Network:
    """All namespaces of the benchmark and the wires between them."""

    def __init__(self, devices: int = 2) -> None:
        self._spaces: dict[str, Namespace] = {}
        try:
            for name in (*SIDES, *(f"tenant-{side}" for side in SIDES), *(f"device{n + 1}" for n in range(devices))):
                self._spaces[name] = Namespace(name)
        except BaseException:
            self.close()
            raise
        self.devices: list[str] = []
        """Devices on the underlay, from left to right."""
        self._routed = False

    def node(self, name: str) -> NodeHandle:
        """Return an end (``left``, ``right``) or a device."""
        return self._spaces[name].node

    def tenant(self, side: str) -> NodeHandle:
        """Return the tenant behind an end."""
        return self._spaces[f"tenant-{side}"].node

    def tenant_address(self, side: str) -> str:
        """Return the tenant's address with the contender that runs."""
        return (ROUTED if self._routed else BRIDGED)[side]

    def wire(
        self, tenant_mtu: int, *, routed: bool = False, devices: int = 0, underlay_mtu: int = UNDERLAY_MTU
    ) -> None:
        """Remove all wires and lay new ones, with ``devices`` on the underlay; MTUs in bytes.

        ``routed``: the ends are to be routers of their tenants.
        """
        self.clear()
        self._routed = routed
        self.devices = [f"device{number + 1}" for number in range(devices)]
        chain = [(LEFT, WIRE), *((name, end) for name in self.devices for end in DEVICE_ENDS), (RIGHT, WIRE)]
        commands = [self._pair(*chain[place : place + 2]) for place in range(0, len(chain), 2)]
        commands += [self._pair((side, PORT), (f"tenant-{side}", TENANT_INTERFACE)) for side in SIDES]
        _ip(commands)
        for name in self.devices:
            self.node(name).ip([f"link set {end} arp off mtu {underlay_mtu} up" for end in DEVICE_ENDS])
        for side in SIDES:
            self._set_up(side, tenant_mtu, underlay_mtu)

    def _pair(self, first: tuple[str, str], second: tuple[str, str]) -> str:
        (near, here), (far, there) = first, second
        return (f"link add {here} netns {self._spaces[near].node.pid} type veth "
                f"peer name {there} netns {self._spaces[far].node.pid}")  # fmt: skip

    def _set_up(self, side: str, tenant_mtu: int, underlay_mtu: int) -> None:
        self.node(side).ip([
            f"link set {WIRE} mtu {underlay_mtu} up", f"address add {UNDERLAY[side]}/24 dev {WIRE}",
            f"link set {PORT} mtu {tenant_mtu} up",
        ])  # fmt: skip
        commands = [
            f"link set {TENANT_INTERFACE} address {MACS[side]} mtu {tenant_mtu} up",
            f"address add {self.tenant_address(side)}/24 dev {TENANT_INTERFACE}",
        ]
        self.node(side).sysctl({"net.ipv4.ip_forward": int(self._routed)})
        if self._routed:
            self.node(side).ip([f"address add {GATEWAYS[side]}/24 dev {PORT}"])
            commands.append(f"route add default via {GATEWAYS[side]}")
        self.tenant(side).ip(commands)

    def bridge(self, side: str, interface: str, mtu: int) -> None:
        """Join the tenant's port and a tunnel's interface by a bridge like the one that an NVE makes."""
        self.node(side).ip([
            f"link set {interface} mtu {mtu} txqueuelen {QUEUE} up",
            "link add br0 type bridge stp_state 0 mcast_snooping 0",
            f"link set {interface} master br0", f"link set {PORT} master br0", f"link set br0 mtu {mtu} up",
        ])  # fmt: skip

    def route(self, side: str, interface: str, mtu: int) -> None:
        """Route to the other side's tenant through a tunnel's interface."""
        self.node(side).ip([
            f"link set {interface} mtu {mtu} txqueuelen {QUEUE} up",
            f"route replace {PREFIXES[other(side)]} dev {interface}",
        ])  # fmt: skip

    def has_interface(self, side: str, name: str) -> bool:
        """Tell whether an end has an interface of this name."""
        return self.node(side).run(["ip", "link", "show", "dev", name], 20.0, check=False).returncode == 0

    def clear(self) -> None:
        """Remove every wire."""
        for space in self._spaces.values():
            space.clear()

    def close(self) -> None:
        """End all namespaces."""
        for space in self._spaces.values():
            space.close()
        self._spaces = {}

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ip(commands: list[str]) -> None:
    done = subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(commands) + "\n", capture_output=True, text=True, check=False, timeout=20
    )
    if done.returncode != 0:
        raise NodeCommandError("underlay", ["ip", "-batch"], done.returncode, done.stderr)


@contextlib.contextmanager
def own_run_folder(node: NodeHandle, folder: Path) -> Iterator[None]:
    """Show ``folder`` as /run to what runs in the node: for programs that insist on fixed names there."""
    node.run(["mount", "--bind", str(folder), "/run"], 20.0)
    try:
        yield
    finally:
        node.run(["umount", "--lazy", "/run"], 20.0, check=False)


def open_to_owner_only(path: Path, text: str) -> Path:
    """Write a file that holds secrets, mode 0600 from its first moment, and return its path."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return path

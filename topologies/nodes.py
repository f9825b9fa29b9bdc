"""Nodes of the running network: how programs run in them and how their interfaces are set up.

Every program is started from an argv list through ``mnexec -a PID``, which enters the network and
mount namespaces of the node; no shell takes part.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

from topologies.ovs import find_program
from topologies.plan import End

_OFFLOADS = ("tx", "rx", "tso", "gso", "gro")
_RECORDED_OFFLOADS = (
    "rx-checksumming",
    "tx-checksumming",
    "tcp-segmentation-offload",
    "generic-segmentation-offload",
    "generic-receive-offload",
)
BRIDGE_LLDP_MASK = 0x4000
"""A Linux bridge swallows link-local group frames; this bit lets LLDP through, as on a plain wire."""

FORWARD_NOTHING = {"net.ipv4.ip_forward": 0, "net.ipv6.conf.all.forwarding": 0}
"""Sysctls of a network namespace that is no router."""

_SETUP_TIMEOUT = 20.0


class NodeCommandError(RuntimeError):
    """A command in a node failed; has ``argv``, ``returncode`` (None: timed out) and ``stderr``."""

    def __init__(self, node: str, argv: Sequence[str], returncode: int | None, stderr: str) -> None:
        how = "did not end in time" if returncode is None else f"ended with exit code {returncode}"
        said = stderr.strip() or "nothing"
        super().__init__(f"{node}: '{' '.join(argv)}' {how}; it said: {said}")
        self.node, self.argv, self.returncode, self.stderr = node, list(argv), returncode, stderr


class NodeHandle:
    """A node of the running network. ``pid`` is a process that lives in its namespaces."""

    def __init__(self, name: str, pid: int, *, own_namespace: bool = True) -> None:
        self.name = name
        self.pid = pid
        self._own_namespace = own_namespace

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs ``argv`` in the node."""
        if not self._own_namespace:
            return list(argv)
        mnexec = find_program("mnexec") or "mnexec"
        return [mnexec, "-a", str(self.pid), *argv]

    def popen(self, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]:
        """Start ``argv`` in the node and return at once; the process id is the program's own."""
        kwargs.setdefault("start_new_session", True)  # Ctrl-C is for the runner, not for each program
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(self.wrap(argv), **kwargs)

    def run(
        self, argv: Sequence[str], timeout: float, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` in the node; NodeCommandError when it fails (unless not ``check``) or times out."""
        try:
            done = subprocess.run(
                self.wrap(argv),
                input="" if stdin is None else stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else ""
            raise NodeCommandError(self.name, argv, None, said) from None
        if check and done.returncode != 0:
            raise NodeCommandError(self.name, argv, done.returncode, done.stderr)
        return done

    def ip(self, commands: Sequence[str]) -> None:
        """Run several ``ip`` commands at once; NodeCommandError at the first that fails."""
        self.run(["ip", "-batch", "-"], _SETUP_TIMEOUT, stdin="\n".join(commands) + "\n")

    def sysctl(self, values: dict[str, int]) -> None:
        """Set sysctls of the node's own network namespace."""
        self.run(["sysctl", "-q", "-w", *(f"{key}={value}" for key, value in values.items())], _SETUP_TIMEOUT)

    def offloads(self, interface: str) -> dict[str, str]:
        """Return the state of the offloads that matter, by ethtool's names."""
        text = self.run(["ethtool", "-k", interface], _SETUP_TIMEOUT).stdout
        pairs = (line.strip().split(":", 1) for line in text.splitlines() if ":" in line)
        return {key: value.strip() for key, value in pairs if key in _RECORDED_OFFLOADS}

    def offloads_off(self, interface: str) -> None:
        """Switch off checksum and segmentation offloads of one interface.

        A userspace switch hands frames on as they are: a checksum left to be filled in by hardware
        that does not exist would never be right, and TCP would hang.
        """
        argv = ["ethtool", "-K", interface]
        for name in _OFFLOADS:
            argv += [name, "off"]
        self.run(argv, _SETUP_TIMEOUT)


def quiet_ipv6(node: NodeHandle) -> None:
    """Let no interface of the node speak IPv6 of its own accord, present and future ones."""
    node.sysctl({f"net.ipv6.conf.{scope}.disable_ipv6": 1 for scope in ("all", "default")})


def forward_nothing(node: NodeHandle) -> None:
    """Let the node hand on no IP packet: a new namespace takes the host's setting, and a host may be a router."""
    node.sysctl(FORWARD_NOTHING)


def close_management(node: NodeHandle, underlay: str, management: str) -> None:
    """Let what comes in on the interface ``underlay`` not reach addresses of the network ``management``.

    Linux takes a packet for any of its addresses on any interface. So the rule comes before the look-up of
    local addresses, which is moved to make room; both places are filled in between, and nothing is cut off.
    It is one of IPv4, whatever the underlay speaks: an attacker chooses its own addresses.
    """
    node.ip(
        [
            "rule add pref 10 lookup local",
            f"rule add pref 5 iif {underlay} to {management} prohibit",
            "rule del pref 0",
        ]
    )


def configure_ends(node: NodeHandle, ends: Sequence[tuple[End, int]]) -> None:
    """Bring up a node's interfaces, each with its MTU, with the addresses the plan gives them."""
    sysctls: dict[str, int] = {}
    commands = ["link set lo up"]
    for end, mtu in ends:
        if any(":" in address for address in end.addresses):
            prefix = f"net.ipv6.conf.{end.interface}"
            sysctls[f"{prefix}.addr_gen_mode"] = 1  # none: no link-local address, no chatter about it
            sysctls[f"{prefix}.accept_dad"] = 0
            sysctls[f"{prefix}.router_solicitations"] = 0
            sysctls[f"{prefix}.accept_ra"] = 0
            sysctls[f"{prefix}.disable_ipv6"] = 0
        commands.append(f"link set {end.interface} mtu {mtu}")
        commands.append(f"link set {end.interface} up")
        for address in end.addresses:
            commands.append(f"address add {address} dev {end.interface}" + (" nodad" if ":" in address else ""))
    if sysctls:
        node.sysctl(sysctls)
    node.ip(commands)


def bridge_as_wire(node: NodeHandle, interfaces: tuple[str, str]) -> str:
    """Join two interfaces of an on-path attacker so that it is one more piece of wire; returns the bridge."""
    bridge = f"{node.name}-br"
    node.ip(
        [
            f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0 "
            f"group_fwd_mask {BRIDGE_LLDP_MASK}",
            *(f"link set {interface} master {bridge}" for interface in interfaces),
            # A wire learns no addresses: whatever comes in at one end leaves at the other.
            *(f"link set {interface} type bridge_slave learning off" for interface in interfaces),
            f"link set {bridge} up",
        ]
    )
    return bridge

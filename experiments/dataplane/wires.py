"""A wire of the experiment's own: it joins two NVEs past the switches, and the attacker sits in the middle.

The emulated switches run in user space and would give out before the NVE does. So both NVEs reach each other by a
kernel bridge in the attacker's namespace, by a host route to the other's underlay address; control stays on switches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from topologies.network import Testbed

BRIDGE = "fast"
"""Name of the bridge in the attacker's namespace, and of each NVE's end."""


@dataclass(frozen=True, slots=True)
class FastWire:
    """What was built: the attacker's ports by NVE, the NVEs' MAC addresses, and their interface."""

    ports: dict[str, str]
    macs: dict[str, str]
    interface: str = BRIDGE


def join(testbed: Testbed, attacker: str, nves: Sequence[str], mtu: int) -> FastWire:
    """Join NVEs in the attacker's namespace; NodeCommandError when that fails. The namespaces' end removes it."""
    addresses = testbed.plan.underlay_addresses
    middle = testbed.node(attacker)
    ports = {nve: f"{BRIDGE}{number}" for number, nve in enumerate(nves)}
    macs = {nve: f"02:fa:57:00:00:{number + 1:02x}" for number, nve in enumerate(nves)}
    commands = [f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"]
    for nve, port in ports.items():
        far = f"name {BRIDGE} address {macs[nve]} mtu {mtu} netns {testbed.node(nve).pid}"
        commands += [
            f"link add {port} mtu {mtu} type veth peer {far}",
            f"link set {port} master {BRIDGE}",
            f"link set {port} up",
        ]
    middle.ip([*commands, f"link set {BRIDGE} up"])
    for nve in nves:
        others = [other for other in nves if other != nve]
        testbed.node(nve).ip([
            f"link set {BRIDGE} up",
            *(f"route add {addresses[other]}/32 dev {BRIDGE} src {addresses[nve]}" for other in others),
            # Known beforehand: an attack on ARP is none of this.
            *(f"neigh replace {addresses[other]} lladdr {macs[other]} dev {BRIDGE} nud permanent" for other in others),
        ])  # fmt: skip
    return FastWire(ports, macs)

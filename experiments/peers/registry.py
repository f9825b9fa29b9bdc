"""All contenders, in the order of tables and plots."""

from __future__ import annotations

from experiments.peers.contender import Contender
from experiments.peers.fastd import Fastd
from experiments.peers.kernel import BareWire, KernelEsp, KernelTunnel, KernelWireGuard
from experiments.peers.openvpn import OpenVpn
from experiments.peers.openvswitch import OvsGeneve
from experiments.peers.ours import CHANNELS, OURS
from experiments.peers.strongswan import StrongSwan
from experiments.peers.tinc import Tinc
from experiments.peers.wireguard import WireGuardGo

CONTENDERS: dict[str, Contender] = {
    contender.description.name: contender
    for contender in (
        *OURS,
        *CHANNELS,
        OpenVpn(),
        WireGuardGo(),
        # IPv4 20, UDP 8, then 24 of the method (1 with null), inner Ethernet header 14.
        Fastd("fastd", "fastd", "aes128-ctr+umac", 66, True),
        Tinc(),
        StrongSwan(),
        Fastd("fastd-null", "fastd null", "null", 43, False),
        OvsGeneve(),
        KernelWireGuard(),
        KernelEsp(),
        KernelTunnel("vxlan", "Kernel VXLAN", "dstport 4789"),
        KernelTunnel("geneve", "Kernel Geneve", ""),
        BareWire(),
    )
}
"""Contenders by name."""

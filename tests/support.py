"""What several test files need: associations with fixed secrets, nodes' states, frames."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import struct

from geneve.control.profile import Coverage, InnerCoverage, OptionSelector, Profile
from geneve.control.rules import Action, Rule
from geneve.control.state import Association, AssociationRole, Mapping, NodeState, NveAddress, Role, VniState
from geneve.header import HeaderField
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_TYPE

TRANSIT_COVERAGE = Coverage(
    header=frozenset({HeaderField.VERSION, HeaderField.OAM, HeaderField.PROTOCOL_TYPE, HeaderField.VNI}),
    options=(OptionSelector(option_class=TELEMETRY_CLASS, type=TELEMETRY_TYPE),),
    authenticate_inner=InnerCoverage.NONE,
    encrypt_inner=InnerCoverage.NONE,
)
FULL = Profile(name="full", transit=TRANSIT_COVERAGE)
CLEAR = Profile(name="clear", egress=Coverage(encrypt_inner=InnerCoverage.NONE))

ADDRESSES = {f"nve{n}": f"192.168.1.{n}" for n in (1, 2, 3)}
MACS = {f"nve{n}": f"02:00:00:00:00:0{n}" for n in (1, 2, 3)}
IPS = {f"nve{n}": (f"10.0.0.{n}", f"fd00:10::{n}") for n in (1, 2, 3)}


def secret(seed: object) -> str:
    return base64.b64encode(hashlib.sha256(repr(seed).encode()).digest()).decode()


def association(
    spi: int = 1000,
    role: str = "egress",
    sender: str = "nve1",
    audience: str = "nve2",
    vni: int = 100,
    profile: str = "full",
    seed: object = None,
) -> Association:
    return Association.model_validate(
        {
            "spi": spi,
            "role": AssociationRole(role),
            "sender": sender,
            "audience": audience,
            "sender_address": ADDRESSES.get(sender, "192.168.3.1"),
            "vni": vni,
            "profile": profile,
            "secret": secret(seed or spi),
        }
    )


def source(nve: str) -> bytes:
    return ipaddress.ip_address(ADDRESSES[nve]).packed


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def udp_frame(
    sender: str = "nve1", receiver: str = "nve2", data: bytes = b"tenant data", tos: int = 0, version: int = 4
) -> bytes:
    """A tenant's UDP datagram (ports 4000 -> 5000) in an Ethernet frame; checksum of IPv4's header correct."""
    udp = struct.pack("!HHHH", 4000, 5000, 8 + len(data), 0) + data
    here = ipaddress.ip_address(IPS[sender][version == 6]).packed
    there = ipaddress.ip_address(IPS[receiver][version == 6]).packed
    ethernet = mac(MACS[receiver]) + mac(MACS[sender])
    if version == 6:
        head = struct.pack("!IHBB", 6 << 28 | tos << 20, len(udp), 17, 64)
        return ethernet + b"\x86\xdd" + head + here + there + udp
    head = struct.pack("!BBHHHBBH", 0x45, tos, 20 + len(udp), 1, 0, 64, 17, 0) + here + there
    return ethernet + b"\x08\x00" + head[:10] + struct.pack("!H", checksum(head)) + head[12:] + udp


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def node_state(
    node: str,
    action: Action = Action.SECURE,
    profile: Profile = FULL,
    vnis: tuple[int, ...] = (100,),
    telemetry: bool = False,
    transit: tuple[str, ...] = (),
    nves: tuple[str, ...] = ("nve1", "nve2", "nve3"),
    epoch: int = 0,
    policy: tuple[Rule, ...] | None = None,
) -> NodeState:
    """The state of one NVE in a network of ``nves``, all of them in all ``vnis``, one tenant each."""
    outbound, inbound = [], []
    for vni in vnis:
        for sender in nves:
            for receiver in nves:
                spi = 0x10000 * (epoch + 1) + vni * 256 + int(sender[-1]) * 16 + int(receiver[-1])
                item = association(spi, "egress", sender, receiver, vni, profile.name)
                if sender != receiver and action is Action.SECURE:
                    outbound += [item] if sender == node else []
                    inbound += [item] if receiver == node else []
            if telemetry and sender == node and action is Action.SECURE:
                outbound += [transit_association(sender, device, vni, epoch) for device in transit]
    default = tuple(
        Rule(vni=vni, action=action, profile=profile.name if action is Action.SECURE else None) for vni in vnis
    )
    return NodeState(
        node=node,
        role=Role.NVE,
        vnis=tuple(VniState(vni=vni, mtu=1400, telemetry=telemetry) for vni in vnis),
        nves=tuple(
            NveAddress(name=name, address=ADDRESSES[name], vnis=vnis, transit=transit) for name in nves if name != node
        ),
        mappings=tuple(Mapping(vni=vni, mac=MACS[name], ips=IPS[name], nve=name) for vni in vnis for name in nves),
        profiles=(profile,),
        policy=default if policy is None else policy,
        outbound=tuple(outbound),
        inbound=tuple(inbound),
    )


def transit_association(sender: str, device: str, vni: int = 100, epoch: int = 0) -> Association:
    spi = 0x1000000 * (epoch + 1) + vni * 4096 + int(sender[-1]) * 64 + sum(device.encode()) % 64
    return association(spi, "transit", sender, device, vni, "full")

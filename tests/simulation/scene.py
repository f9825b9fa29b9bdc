"""What the simulated world consists of: inventory, paths, policies that operators try, tenants and their frames."""

from __future__ import annotations

import copy
import ipaddress
import json
import struct
from dataclasses import dataclass
from typing import Any

from controller.inventory import Inventory, parse_inventory
from tests.support import checksum, mac

NVES = ("nve1", "nve2", "nve3")
DEVICES = ("t1", "t2")
NODES = (*NVES, *DEVICES)
ADDRESSES = {name: f"192.168.1.{number}" for number, name in enumerate(NVES, 1)}

MOBILE, SHARED, PAIRED, PLAIN = 100, 200, 300, 400
"""VNIs: learned tenants and keys for devices; keys shared by path and multicast group; keys by pair; policy varies."""
SECURED = (MOBILE, SHARED, PAIRED)
MARK = b"TENANT-DATA"
"""Stands in the payload of each tenant's frame, and must never be seen on the underlay where policy says SECURE."""
POISON = "poison"
"""A profile of this name is refused by every NVE of the simulation, as one that it cannot apply."""

RING = {
    ("nve1", "nve2"): ("t1",), ("nve2", "nve1"): ("t1",), ("nve1", "nve3"): ("t1", "t2"),
    ("nve3", "nve1"): ("t2", "t1"), ("nve2", "nve3"): ("t2",), ("nve3", "nve2"): ("t2",),
}  # fmt: skip
DETOUR = {pair: ("t2",) if "nve3" in pair else () for pair in RING}
PATHS = (RING, DETOUR, dict.fromkeys(RING, ()), dict.fromkeys(RING, ("t1", "t2")))

_BLIND = {"header": ["vni", "protocol_type"], "authenticate_inner": "none", "encrypt_inner": "none"}
_TIMES = {"rekey_seconds": 20.0, "lifetime_seconds": 60.0, "soft_limit": 30, "hard_limit": 400}


def document(**times: Any) -> dict[str, Any]:
    """Three NVEs, two transit devices, four virtual networks. ``times`` replace the limits of all profiles."""
    limits = {**_TIMES, **times}
    nodes: dict[str, Any] = {
        name: {
            "role": "nve", "address": ADDRESSES[name], "switch": "s1", "mac": f"02:60:81:01:0{name[3]}:00",
            "vnis": [MOBILE, SHARED, PAIRED, PLAIN],
        }
        for name in NVES
    }
    nodes |= {name: {"role": "transit", "address": f"192.168.2.{name[1]}"} for name in DEVICES}
    nodes["nve3"]["vnis"] = [MOBILE, SHARED, PLAIN]
    group = {"name": "group-shared", "address": "239.1.1.1", "senders": list(NVES)}
    return {
        "nva": {
            "name": "nva", "address": "192.168.0.100", "port": 6640,
            "ca": "ca.pem", "certificate": "nva.pem", "key": "nva.key", "switch": "s1", "mac": "02:60:81:00:01:00",
        },
        "openflow": {"address": "10.255.0.2", "port": 6653},
        "rest": {"address": "10.255.0.2", "port": 8080},
        "switches": {"s1": 1, "s2": 2},
        "links": [{"between": ["s1", "s2"], "via": ["t1", "t2"], "cost": 10}],
        "nodes": nodes,
        "profiles": [
            {"name": "devices", "transit": _BLIND, **limits},
            {"name": "shared", "group": _BLIND, **limits},
            {"name": "paired", "key_granularity": "pair", **limits},
        ],
        "vnis": [
            {"vni": MOBILE, "tenant": "red", "action": "secure", "profile": "devices", "telemetry": True,
             "learned": True, "mtu": 1334},
            {"vni": SHARED, "tenant": "blue", "action": "secure", "profile": "shared", "multicast": [group],
             "mtu": 1334},
            {"vni": PAIRED, "tenant": "green", "action": "secure", "profile": "paired", "mtu": 1334},
            {"vni": PLAIN, "tenant": "plain", "action": "bypass", "mtu": 1400},
        ],
        "mappings": [
            {"vni": vni, "mac": tenant_mac(number), "ips": [f"10.0.0.{number}"], "nve": f"nve{number}"}
            for vni, numbers in ((SHARED, (1, 2, 3)), (PAIRED, (1, 2)), (PLAIN, (1, 2, 3)))
            for number in numbers
        ],
    }  # fmt: skip


def build(data: dict[str, Any] | None = None) -> Inventory:
    return parse_inventory(json.dumps(document() if data is None else data), "inventory.json")


def policy(data: dict[str, Any]) -> dict[str, Any]:
    """Return the policy document that an inventory holds."""
    vnis = {str(v["vni"]): {"action": v["action"], "profile": v.get("profile")} for v in data["vnis"]}
    return {"profiles": copy.deepcopy(data["profiles"]), "policy": [], "vnis": vnis}


def policies(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what operators propose: policies that are put in force, and one that nodes refuse."""
    base = policy(data)
    stronger = copy.deepcopy(base)
    for profile in stronger["profiles"]:
        profile["aead"] = "aes-256-gcm"
    secured = copy.deepcopy(base)
    secured["vnis"][str(PLAIN)] = {"action": "secure", "profile": "devices"}
    swapped = copy.deepcopy(base)
    swapped["vnis"][str(PAIRED)]["profile"] = "devices"
    refused = copy.deepcopy(base)
    refused["profiles"].append({"name": POISON, **_TIMES})
    refused["vnis"][str(PLAIN)] = {"action": "secure", "profile": POISON}
    return {"base": base, "stronger": stronger, "secured": secured, "swapped": swapped, "refused": refused}


@dataclass(frozen=True)
class Tenant:
    """A tenant system; where it is, the world knows."""

    vni: int
    number: int

    @property
    def mac(self) -> str:
        return tenant_mac(self.number)

    @property
    def ip(self) -> str:
        return f"10.0.0.{self.number}"


TENANTS = tuple(
    Tenant(vni, number) for vni, numbers in
    ((MOBILE, (1, 2, 3)), (SHARED, (1, 2, 3)), (PAIRED, (1, 2)), (PLAIN, (1, 2, 3))) for number in numbers
)  # fmt: skip


def tenant_mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def frame(sender: Tenant, receiver: Tenant | None, serial: int) -> bytes:
    """Return a UDP frame that carries MARK and its serial number; to nobody in particular it is a broadcast."""
    data = MARK + b"%012d" % serial
    udp = struct.pack("!HHHH", 4000, 5000, 8 + len(data), 0) + data
    here = ipaddress.ip_address(sender.ip).packed
    there = ipaddress.ip_address(receiver.ip if receiver else "10.0.0.255").packed
    ethernet = (mac(receiver.mac) if receiver else b"\xff" * 6) + mac(sender.mac) + b"\x08\x00"
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + here + there
    return ethernet + head[:10] + struct.pack("!H", checksum(head)) + head[12:] + udp


def serial_of(data: bytes) -> int | None:
    """Return the serial number of the frame that stands in ``data`` in clear, None when there is none."""
    place = data.find(MARK)
    return None if place < 0 else int(data[place + len(MARK) : place + len(MARK) + 12])

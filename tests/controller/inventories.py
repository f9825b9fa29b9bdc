"""Inventories for the controller's tests, as plain data that a test can change."""

from __future__ import annotations

import json
from typing import Any

from controller.inventory import Inventory, parse_inventory


def document() -> dict[str, Any]:
    """Four switches in a ring, three NVEs, two transit devices, an attacker on a link, two tenants."""
    return {
        "nva": {
            "name": "nva",
            "address": "192.168.0.100",
            "port": 6640,
            "ca": "ca.pem",
            "certificate": "nva.pem",
            "key": "nva.key",
            "switch": "s2",
            "mac": "02:60:81:00:01:00",
        },
        "openflow": {"address": "10.255.0.2", "port": 6653},
        "rest": {"address": "10.255.0.2", "port": 8080},
        "switches": {"s1": 1, "s2": 2, "s3": 3, "s4": 4},
        "links": [
            {"between": ["s1", "s2"], "via": ["t1"], "cost": 10},
            {"between": ["s2", "s3"], "via": ["t2", "eve"], "cost": 10},
            {"between": ["s1", "s4"], "cost": 30},
            {"between": ["s4", "s3"], "cost": 30},
        ],
        "nodes": {
            "nve1": {"role": "nve", "address": "192.168.1.1", "switch": "s1", "mac": "02:60:81:01:01:00"},
            "nve2": {"role": "nve", "address": "192.168.1.2", "switch": "s2", "mac": "02:60:81:01:02:00"},
            "nve3": {"role": "nve", "address": "192.168.1.3", "switch": "s3", "mac": "02:60:81:01:03:00"},
            "t1": {"role": "transit", "address": "192.168.2.1", "switch": "s1", "mac": "02:60:81:02:01:02"},
            "t2": {"role": "transit", "address": "192.168.2.2"},
        },
        "profiles": [
            {
                "name": "full",
                "transit": {
                    "header": ["vni", "protocol_type"],
                    "authenticate_inner": "none",
                    "encrypt_inner": "none",
                },
            },
            {"name": "unused"},
        ],
        "vnis": [
            {"vni": 100, "tenant": "red", "action": "secure", "profile": "full", "telemetry": True, "mtu": 1334},
            {"vni": 200, "tenant": "blue", "action": "secure", "profile": "full", "telemetry": False, "mtu": 1334},
            {"vni": 300, "tenant": "plain", "action": "bypass", "telemetry": True, "mtu": 1400},
        ],
        "mappings": [
            {"vni": 100, "mac": "02:00:00:00:00:01", "ips": ["10.0.0.1", "fd00::1"], "nve": "nve1"},
            {"vni": 100, "mac": "02:00:00:00:00:02", "ips": ["10.0.0.2"], "nve": "nve2"},
            {"vni": 100, "mac": "02:00:00:00:00:03", "ips": ["10.0.0.3"], "nve": "nve3"},
            {"vni": 200, "mac": "02:00:00:00:00:01", "ips": ["10.0.0.1"], "nve": "nve1"},
            {"vni": 200, "mac": "02:00:00:00:00:02", "ips": ["10.0.0.2"], "nve": "nve2"},
            {"vni": 300, "mac": "02:00:00:00:00:01", "ips": ["10.0.0.1"], "nve": "nve2"},
            {"vni": 300, "mac": "02:00:00:00:00:02", "ips": ["10.0.0.2"], "nve": "nve3"},
        ],
    }


def build(changed: dict[str, Any] | None = None) -> Inventory:
    return parse_inventory(json.dumps(changed or document()), "inventory.json")

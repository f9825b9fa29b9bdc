"""Configuration files and command lines of the programs, from the plan. Pure.

The formats belong to the programs (``controller/``, ``nve/``, ``transit/``), which check them
strictly; a test feeds these documents to the programs' own schemas.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geneve.control.channel import receiving_port
from geneve.control.state import Mapping
from geneve.control.tls import TlsFiles
from geneve.export import DEVICE_KEY_SIZE
from geneve.offloads import NveOffloads, TransitOffloads
from topologies.plan import (
    COLLECTOR_PORT,
    MANAGEMENT_NVA,
    NVA_PORT,
    OPENFLOW_PORT,
    REST_PORT,
    Kind,
    Plan,
)
from topologies.profiles import NO_PROTECTION
from topologies.scenario import NVA_NAME, OPERATOR_NAME, Tenant, UnderlayGroup
from topologies.scenario_checks import kernel_ipsec_lacks

COLLECTOR_NAME = "collector"
CONTROLLER_NAME = "controller"
REST_URL = f"https://{MANAGEMENT_NVA}:{REST_PORT}"
"""Where operators reach the NVA."""


@dataclass(frozen=True)
class Layout:
    """Where files are. ``private`` is the sandbox's own, secret and gone with it; ``run_dir`` is kept."""

    private: Path
    run_dir: Path

    @property
    def pki(self) -> Path:
        """Folder of certificates and keys."""
        return self.private / "pki"

    @property
    def operator(self) -> TlsFiles:
        """What the testbed's operator shows to the NVA."""
        files = (str(self.pki / name) for name in ("ca.pem", f"{OPERATOR_NAME}.pem", f"{OPERATOR_NAME}.key"))
        return TlsFiles(*files)

    @property
    def export_keys(self) -> Path:
        """Folder of the keys with which transit devices seal their records for the collector."""
        return self.private / "export-keys"

    def export_key(self, device: str) -> Path:
        """The key of one transit device."""
        return self.export_keys / f"{device}.key"

    @property
    def inventory(self) -> Path:
        """The controller's inventory."""
        return self.private / "inventory.json"

    @property
    def nva_database(self) -> Path:
        """What the NVA remembers."""
        return self.private / "nva.sqlite"

    @property
    def nva_key(self) -> Path:
        """The key that seals the secrets in what the NVA remembers."""
        return self.private / "nva-key" / "store.key"

    @property
    def telemetry(self) -> Path:
        """The collector's output, JSON lines."""
        return self.run_dir / "telemetry.jsonl"

    def config(self, name: str) -> Path:
        """A daemon's configuration file."""
        return self.private / f"{name}.json"

    def stats(self, name: str) -> Path:
        """A daemon's statistics socket."""
        return self.private / f"{name}.sock"

    def key_log(self, name: str) -> Path:
        """An NVE's key log; only where the scenario asks for it."""
        return self.run_dir / f"{name}.keylog"

    def log(self, name: str) -> Path:
        """A daemon's log file."""
        return self.run_dir / "logs" / f"{name}.log"


def _nva(plan: Plan, layout: Layout, node: str) -> dict[str, Any]:
    return {
        "name": NVA_NAME,
        "address": plan.underlay_addresses[NVA_NAME],
        "port": NVA_PORT,
        "ca": str(layout.pki / "ca.pem"),
        "certificate": str(layout.pki / f"{node}.pem"),
        "key": str(layout.pki / f"{node}.key"),
    }


def nve_config(plan: Plan, layout: Layout, name: str, moved: MappingType[str, str] | None = None) -> dict[str, Any]:
    """Return the configuration of one NVE; ``moved`` are hosts that are behind another than the scenario says."""
    places = moved or {}
    vnis = []
    for tenant_name, tenant in plan.scenario.tenants.items():
        ports = [
            plan.interface(entry.nve, host)
            for host, entry in tenant.hosts.items()
            if places.get(host, entry.nve) == name
        ]
        if plan.scenario.serves(name, tenant_name):
            vnis.append({"vni": tenant.vni, "ports": ports})
    document = {
        "name": name,
        "underlay": {
            "address": plan.underlay_addresses[name],
            "interface": plan.interface(name, plan.scenario.nves[name].attach),
            "port": receiving_port(plan.scenario.channel),
            "mtu": plan.scenario.underlay.mtu,
        },
        "vnis": vnis,
        "offloads": plan.scenario.offloads.model_dump(include=set(NveOffloads.model_fields)),
        "nva": _nva(plan, layout, name),
        "stats": str(layout.stats(name)),
    }
    if plan.scenario.channel is not None:
        document["channel"] = plan.scenario.channel.model_dump(mode="json")
        unfit = plan.scenario.ipsec == "auto" and kernel_ipsec_lacks(plan.scenario) is not None
        document["ipsec"] = "user-space" if unfit else plan.scenario.ipsec
    if plan.scenario.key_log:
        document["key_log"] = str(layout.key_log(name))
    return document


def transit_config(plan: Plan, layout: Layout, name: str) -> dict[str, Any]:
    """Return the configuration of one transit device."""
    wires = [end.interface for end in plan.ends(name) if not end.addresses]
    document: dict[str, Any] = {
        "name": name,
        "interfaces": wires,
        "offloads": plan.scenario.offloads.model_dump(include=set(TransitOffloads.model_fields)),
        "nva": _nva(plan, layout, name),
        "collector": {
            "address": plan.underlay_addresses[NVA_NAME],
            "port": COLLECTOR_PORT,
            "key": str(layout.export_key(name)),
        },
        "stats": str(layout.stats(name)),
    }
    impair = plan.scenario.transit_devices[name].impair
    if impair is not None:
        document["impair"] = impair.model_dump(mode="json")
    return document


def inventory(plan: Plan, layout: Layout) -> dict[str, Any]:
    """Return the controller's inventory."""
    scenario = plan.scenario
    nodes: dict[str, Any] = {
        name: {
            "role": "nve",
            **_place(plan, name),
            "vnis": [tenant.vni for key, tenant in scenario.tenants.items() if scenario.serves(name, key)],
        }
        for name in scenario.nves
    }
    nodes |= {name: {"role": "transit", **_place(plan, name)} for name in scenario.transit_devices}
    used = {tenant.profile for tenant in scenario.tenants.values()} - {NO_PROTECTION}
    used |= {rule.profile for rule in scenario.policy if rule.profile is not None}
    profiles = [scenario.profile(name) for name in sorted(used)]
    return {
        "nva": {**_nva(plan, layout, NVA_NAME), **_place(plan, NVA_NAME)},
        "store": {"database": str(layout.nva_database), "key": str(layout.nva_key)},
        "keys": {"on_demand": scenario.keys == "on-demand"},
        "openflow": {"address": MANAGEMENT_NVA, "port": OPENFLOW_PORT},
        "rest": {"address": MANAGEMENT_NVA, "port": REST_PORT},
        "operators": [OPERATOR_NAME],
        "fabric": {"ecmp": scenario.underlay.ecmp, "anti_spoofing": scenario.underlay.anti_spoofing},
        "switches": plan.datapath_ids,
        "links": [
            {"between": list(link.between), "via": _devices(plan, link.via), "cost": link.cost}
            for link in scenario.underlay.links
        ],
        "nodes": nodes,
        "profiles": [profile.model_dump(mode="json") for profile in profiles if profile is not None],
        "vnis": [
            {
                "vni": tenant.vni,
                "tenant": name,
                "action": tenant.action.value,
                "profile": None if tenant.profile == NO_PROTECTION else tenant.profile,
                "telemetry": tenant.telemetry,
                "tags": tenant.tags,
                "options": [option.model_dump(mode="json") for option in tenant.options],
                "multicast": [_group(plan, name, group) for group in tenant.multicast],
                "learned": tenant.mappings == "learned",
                "group_policy": _tag_rules(tenant),
                "enforcers": list(tenant.enforcers),
                "mtu": plan.tenant_mtu[tenant.vni],
            }
            for name, tenant in scenario.tenants.items()
        ],
        "mappings": [
            Mapping(vni=tenant.vni, mac=host.mac, ips=host.ips, nve=host.nve, tag=host.tag).model_dump(mode="json")
            for tenant in scenario.tenants.values()
            if tenant.mappings == "static"
            for host in tenant.hosts.values()
        ],
        "policy": [rule.model_dump(mode="json") for rule in scenario.policy],
    }


def _group(plan: Plan, tenant_name: str, group: UnderlayGroup) -> dict[str, Any]:
    everyone = sorted(nve for nve in plan.scenario.nves if plan.scenario.serves(nve, tenant_name))
    return {**group.model_dump(mode="json"), "senders": list(group.senders) or everyone}


def _tag_rules(tenant: Tenant) -> list[dict[str, Any]] | None:
    return None if tenant.group_policy is None else [rule.model_dump(mode="json") for rule in tenant.group_policy]


def _place(plan: Plan, name: str) -> dict[str, Any]:
    mac, switch = plan.attachment(name)
    port = plan.attachment_port(name)
    return {"address": plan.underlay_addresses[name], "switch": switch, "switch_port": port, "mac": mac}


def _devices(plan: Plan, via: tuple[str, ...]) -> list[str]:
    # The NVA knows the transit devices on a link; an attacker there is nothing it could know of.
    return [name for name in via if plan.kinds[name] is Kind.TRANSIT]


def pki_argv(plan: Plan, layout: Layout) -> list[str]:
    """Return the command that makes the run's certificates."""
    argv = [sys.executable, "-m", "controller.pki", "--out", str(layout.pki), "--nva", NVA_NAME]
    argv += ["--address", plan.underlay_addresses[NVA_NAME], "--address", MANAGEMENT_NVA, "--operator", OPERATOR_NAME]
    for name in (*plan.nodes(Kind.NVE), *plan.nodes(Kind.TRANSIT)):
        argv += ["--node", name]
    return argv


def controller_argv(layout: Layout, framework: str) -> list[str]:
    """Return the command of the controller; ``framework`` is ryu, os-ken or auto (the program's choice)."""
    argv = [sys.executable, "-m", "controller", "--inventory", str(layout.inventory)]
    return argv if framework == "auto" else [*argv, "--framework", framework]


def operator_argv(layout: Layout) -> list[str]:
    """Return the start of an operator's command line; a command such as ``nodes`` follows."""
    files = layout.operator
    argv = [sys.executable, "-m", "controller.cli", "--url", REST_URL]
    return [*argv, "--ca", files.ca, "--cert", files.certificate, "--key", files.key]


def collector_argv(plan: Plan, layout: Layout) -> list[str]:
    """Return the command of the telemetry collector."""
    address = plan.underlay_addresses[NVA_NAME]
    listen = f"[{address}]:{COLLECTOR_PORT}" if ":" in address else f"{address}:{COLLECTOR_PORT}"
    argv = [sys.executable, "-m", "transit.collector", "--listen", listen, "--output", str(layout.telemetry)]
    return [*argv, "--keys", str(layout.export_keys), "--stats", str(layout.stats(COLLECTOR_NAME))]


def daemon_argv(plan: Plan, layout: Layout, name: str) -> list[str]:
    """Return the command of an NVE or a transit device."""
    module = {Kind.NVE: "nve", Kind.TRANSIT: "transit"}[plan.kinds[name]]
    return [sys.executable, "-m", module, "--config", str(layout.config(name))]


def config_files(plan: Plan, layout: Layout) -> dict[Path, dict[str, Any]]:
    """Return every configuration file with its document."""
    files = {layout.inventory: inventory(plan, layout)}
    files |= {layout.config(name): nve_config(plan, layout, name) for name in plan.nodes(Kind.NVE)}
    files |= {layout.config(name): transit_config(plan, layout, name) for name in plan.nodes(Kind.TRANSIT)}
    return files


def export_keys(plan: Plan, layout: Layout) -> dict[Path, str]:
    """Return a fresh key for every transit device, by the file it belongs in; for its owner's eyes only."""
    return {layout.export_key(name): secrets.token_hex(DEVICE_KEY_SIZE) for name in plan.nodes(Kind.TRANSIT)}

"""What the control-plane benchmark runs against: an inventory of any size, its certificates, and the NVA's process.

Every NVE serves two virtual networks. One is shared by all NVEs, each with one tenant in it: what grows with the
square of their number comes from there. The others belong to groups of NVEs, each NVE with its remaining tenants.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.pki import TestbedCa, write_credentials, write_file
from geneve.control.demand import Tenant
from geneve.control.rest_client import RestClient
from geneve.control.tls import TlsFiles

ADDRESS = "127.0.0.1"
"""Where the NVA listens; the nodes connect from addresses of their own in 127.1.0.0/16."""
NVA, OPERATOR = "nva", "operator"
CA_FILE, INVENTORY_FILE, DATABASE, LOG_FILE = "ca.pem", "inventory.json", "nva.db", "nva.log"
SHARED_VNI, FIRST_GROUP_VNI = 1, 1000
PROFILE = "full"
START_LIMIT = 120.0
"""Seconds in which the NVA must listen."""
REST_TIMEOUT = 60.0
"""Seconds in which the NVA must answer an operator; it is busy with thousands of keys meanwhile."""
MAX_NODES = 60_000
"""Nodes for which there are addresses."""

_ROOT = Path(__file__).resolve().parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Deployment:
    """How many NVEs there are, and which virtual networks and tenants they have."""

    nodes: int
    tenants_per_node: int = 10
    group_size: int = 10
    learned: bool = True
    """Whether the NVEs report the tenants; otherwise the inventory has them all."""
    on_demand: bool = True

    def name(self, index: int) -> str:
        """Return the name of the NVE with this number (from 0)."""
        return f"nve{index + 1}"

    def address(self, index: int) -> str:
        """Return the loopback address that an NVE connects from."""
        return f"127.1.{index // 250}.{index % 250 + 1}"

    def vnis(self, index: int) -> tuple[int, ...]:
        """Return the VNIs that an NVE serves."""
        group = (FIRST_GROUP_VNI + index // self.group_size,) if self.tenants_per_node > 1 else ()
        return (SHARED_VNI, *group)

    def members(self, vni: int) -> int:
        """Return how many NVEs serve a VNI."""
        if vni == SHARED_VNI:
            return self.nodes
        return min(self.group_size, self.nodes - (vni - FIRST_GROUP_VNI) * self.group_size)

    def tenants(self, index: int, change: int = 0) -> list[Tenant]:
        """Return an NVE's tenants; ``change`` is how often the IP address of the one in the shared VNI has changed."""
        listed = []
        for place in range(self.tenants_per_node):
            number = index * self.tenants_per_node + place
            vni = SHARED_VNI if place == 0 else self.vnis(index)[1]
            ip = f"fd00:{vni:x}:{change if place == 0 else 0:x}::{number + 1:x}"
            mac = "02:" + ":".join(f"{byte:02x}" for byte in number.to_bytes(5, "big"))
            listed.append(Tenant(vni=vni, mac=mac, ips=(ip,)))
        return listed

    def entries(self, index: int) -> dict[str, int]:
        """Return how many entries each shared scope has that an NVE knows when it has everything."""
        expected = {}
        for vni in self.vnis(index):
            members = self.members(vni)
            tenants = members * (1 if vni == SHARED_VNI else self.tenants_per_node - 1)
            expected[f"vni/{vni}"] = 1 + members + tenants
        return expected

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for run.json and for the processes of the simulated nodes."""
        return {"nodes": self.nodes, "tenants_per_node": self.tenants_per_node, "group_size": self.group_size,
                "learned": self.learned, "on_demand": self.on_demand}  # fmt: skip


def inventory(deployment: Deployment, ports: dict[str, int]) -> dict[str, Any]:
    """Return the inventory document; ``ports`` has those of nva, openflow and rest."""
    indices = range(deployment.nodes)
    numbers = sorted({vni for index in indices for vni in deployment.vnis(index)})
    mappings: list[dict[str, Any]] = []
    if not deployment.learned:
        for index in indices:
            tenants = [tenant.model_dump(mode="json") for tenant in deployment.tenants(index)]
            mappings += [{**tenant, "nve": deployment.name(index)} for tenant in tenants]
    return {
        "nva": {"name": NVA, "address": ADDRESS, "port": ports["nva"], "ca": CA_FILE,
                "certificate": f"{NVA}.pem", "key": f"{NVA}.key"},
        "store": {"database": DATABASE, "key": "nva-store.key"},
        "keys": {"on_demand": deployment.on_demand},
        "openflow": {"address": ADDRESS, "port": ports["openflow"]},
        "rest": {"address": ADDRESS, "port": ports["rest"]},
        "operators": [OPERATOR],
        "switches": {"s1": 1},
        "nodes": {
            deployment.name(index): {"role": "nve", "address": deployment.address(index), "switch": "s1",
                                     "vnis": list(deployment.vnis(index))}
            for index in indices
        },
        "profiles": [{"name": PROFILE}],
        "vnis": [
            {"vni": vni, "tenant": f"tenant{vni}", "action": "secure", "profile": PROFILE, "mtu": 1334,
             "learned": deployment.learned}
            for vni in numbers
        ],
        "mappings": mappings,
    }  # fmt: skip


def free_ports(names: tuple[str, ...]) -> dict[str, int]:
    """Return a free TCP port on ADDRESS for each name."""
    with contextlib.ExitStack() as stack:
        ports = {}
        for name in names:
            listener = stack.enter_context(socket.socket())
            listener.bind((ADDRESS, 0))
            ports[name] = listener.getsockname()[1]
        return ports


def operator_client(folder: Path, ports: dict[str, int]) -> RestClient:
    """Return a client of the interface for operators; the NVA's own certificate names ADDRESS."""
    files = TlsFiles(*(str(folder / name) for name in (CA_FILE, f"{OPERATOR}.pem", f"{OPERATOR}.key")))
    return RestClient(f"https://{ADDRESS}:{ports['rest']}", files, REST_TIMEOUT)


def prepare(deployment: Deployment, folder: Path) -> dict[str, int]:
    """Write inventory, CA and all certificates into ``folder`` and return the ports."""
    if not 2 <= deployment.nodes <= MAX_NODES:
        raise ValueError(f"{deployment.nodes} nodes: expected 2 to {MAX_NODES}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = TestbedCa(datetime.datetime.now(datetime.timezone.utc))
    write_file(folder / CA_FILE, authority.certificate, 0o644)
    write_credentials(folder, NVA, authority.issue_nva(NVA, [ADDRESS]))
    for name in (OPERATOR, *map(deployment.name, range(deployment.nodes))):
        write_credentials(folder, name, authority.issue_node(name))
    ports = free_ports(("nva", "openflow", "rest"))
    write_file(folder / INVENTORY_FILE, json.dumps(inventory(deployment, ports)).encode(), 0o644)
    return ports


@dataclass(frozen=True, slots=True)
class Usage:
    """What the NVA's process has used since its start."""

    cpu_seconds: float
    rss_bytes: int
    peak_rss_bytes: int
    database_bytes: int


class NvaError(RuntimeError):
    """The NVA's process did not start or has ended; the text is one sentence that names its log."""


class NvaProcess:
    """The real program, ``python -m controller``, on the inventory in ``folder``."""

    def __init__(self, folder: Path, port: int, framework: str = "auto") -> None:
        self._folder, self._port, self._framework = folder, port, framework
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder / LOG_FILE

    def start(self) -> float:
        """Start it and return the seconds until it listens; NvaError when it does not."""
        begin = time.monotonic()
        argv = [sys.executable, "-m", "controller", "--inventory", str(self._folder / INVENTORY_FILE)]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*argv, "--framework", self._framework], cwd=_ROOT, stdout=output, stderr=subprocess.STDOUT
            )
        while time.monotonic() < begin + START_LIMIT:
            self.check()
            with contextlib.suppress(OSError), socket.create_connection((ADDRESS, self._port), 1.0):
                return time.monotonic() - begin
            time.sleep(0.02)
        raise NvaError(f"the NVA does not listen after {START_LIMIT:g} s; see {self.log}.")

    def check(self) -> None:
        """Raise NvaError when it has ended."""
        if self._process is None or self._process.poll() is not None:
            raise NvaError(f"the NVA has ended; see {self.log}.")

    def usage(self) -> Usage:
        """Return what it has used so far; NvaError when it has ended."""
        self.check()
        assert self._process is not None
        process = Path("/proc") / str(self._process.pid)
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        memory = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        database = sum(path.stat().st_size for path in self._folder.glob(f"{DATABASE}*"))
        return Usage(
            cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
            rss_bytes=_kibibytes(memory["VmRSS"]),
            peak_rss_bytes=_kibibytes(memory["VmHWM"]),
            database_bytes=database,
        )

    @property
    def pid(self) -> int:
        """The process's number; NvaError when there is none."""
        self.check()
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


def _kibibytes(text: str) -> int:
    return int(text.split()[0]) * 1024

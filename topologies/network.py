"""The running testbed: a Mininet network over a private Open vSwitch, and the programs in it.

Runs inside the sandbox (``topologies/sandbox.py``) only, so nothing here can meet the host's network.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from mininet.net import Mininet
from mininet.node import Node, OVSSwitch

from geneve.control.rest_client import RestClient
from geneve.errors import ConfigError
from geneve.policy import shadowed
from topologies import sandbox
from topologies.configs import (
    COLLECTOR_NAME,
    CONTROLLER_NAME,
    REST_URL,
    Layout,
    collector_argv,
    config_files,
    controller_argv,
    daemon_argv,
    export_keys,
    nve_config,
    pki_argv,
)
from topologies.daemon import Daemon, TestbedError, stop_all, wait_for
from topologies.nodes import (
    NodeHandle,
    bridge_as_wire,
    close_management,
    configure_ends,
    forward_nothing,
    quiet_ipv6,
)
from topologies.ovs import KERNEL, USERSPACE, BridgeSpec, PrivateOvs
from topologies.plan import (
    MANAGEMENT_INTERFACES,
    MANAGEMENT_NETWORK,
    MANAGEMENT_NVA,
    MANAGEMENT_PREFIX,
    MANAGEMENT_SANDBOX,
    OPENFLOW_PORT,
    Kind,
    Plan,
    make_plan,
    tenant_bridge,
)
from topologies.scenario import NVA_NAME, Scenario, Tenant
from topologies.shaping import apply_shaping

PROJECT_ROOT = Path(__file__).resolve().parent.parent

_START_SECONDS = 60.0
_THREADS = 8


class PlannedSwitch(OVSSwitch):
    """A switch as Mininet's command line knows it; the bridge itself is made by :class:`PrivateOvs`."""

    def start(self, controllers: object) -> None:
        """Nothing: all bridges are made in one transaction."""

    @classmethod
    def batchShutdown(  # noqa: N802 - Mininet's name
        cls, switches: Sequence[OVSSwitch], run: object = None  # noqa: ARG003
    ) -> Sequence[OVSSwitch]:
        """End no switch in bulk; the testbed removes the bridges itself."""
        return ()

    def stop(self, deleteIntfs: bool = True) -> None:  # noqa: N803, ARG002 - Mininet's name
        """End the shell only; the testbed removes the bridges."""
        self.terminate()


class Testbed:
    """A running scenario. Use it as a context manager, or call :meth:`start` and :meth:`stop`."""

    __test__ = False  # the name starts with Test, but it is no test class

    def __init__(self, scenario: Scenario, run_dir: Path, framework: str = "auto") -> None:
        """Plan ``scenario``; logs and telemetry go to ``run_dir``; ``framework`` is auto, ryu or os-ken."""
        if not sandbox.inside():
            raise TestbedError("the testbed runs inside the sandbox only; see topologies/sandbox.py.")
        self.scenario = scenario
        self.plan: Plan = make_plan(scenario)
        self.warnings: list[str] = []
        self.facts: dict[str, Any] = {}
        self.net: Mininet | None = None
        private = Path(tempfile.mkdtemp(prefix="testbed-", dir="/run"))  # mode 0700
        self.layout = Layout(private, run_dir.resolve())
        self._framework = framework
        self._ovs = PrivateOvs(private / "ovs", self.layout.run_dir / "logs")
        self._handles: dict[str, NodeHandle] = {}
        self._daemons: dict[str, Daemon] = {}
        self._environment_before: dict[str, str | None] = {}
        self._moved: dict[str, str] = {}

    # Life ------------------------------------------------------------------------------------------

    def __enter__(self) -> Testbed:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, prepare: Callable[[], None] | None = None) -> None:
        """Build the network and start every program; returns when all of it is ready.

        ``prepare`` is called when the network stands and no program runs in it yet. TestbedError or ConfigError, with
        the tail of the log of what failed, otherwise; then all that had been started is stopped again.
        """
        try:
            self._start(prepare)
        except BaseException:
            self.stop()
            raise

    def _start(self, prepare: Callable[[], None] | None) -> None:
        begin = time.monotonic()
        self._warn_of_scenario()
        (self.layout.run_dir / "logs").mkdir(parents=True, exist_ok=True)
        pki = Daemon("pki", pki_argv(self.plan, self.layout), self.layout.log("pki"), cwd=PROJECT_ROOT)
        self._daemons["pki"] = pki
        self._ovs.start()
        self._note_datapath()
        self._build_network()
        self._make_switches()
        self._write_configs()
        wait_for("the certificates", lambda: pki.process.poll() is not None)
        if pki.process.returncode != 0:
            pki.check()
        del self._daemons["pki"]
        self.facts["network_seconds"] = round(time.monotonic() - begin, 3)
        if prepare is not None:
            prepare()
        self.facts["launched_ns"] = time.time_ns()
        self._start_programs()
        self._wait_until_ready()
        self.facts["start_seconds"] = round(time.monotonic() - begin, 3)

    def stop(self) -> None:
        """Stop every program and remove the network; may be called any number of times."""
        stop_all(list(self._daemons.values()))
        self._daemons.clear()
        if self.net is not None:
            with contextlib.suppress(TestbedError):
                self._ovs.remove_bridges(self.plan.nodes(Kind.SWITCH))
            self.net.stop()
            self.net = None
            _root(["ip", "link", "delete", MANAGEMENT_INTERFACES[0]], check=False)
        self._handles.clear()
        self._ovs.stop()
        shutil.rmtree(self.layout.private, ignore_errors=True)
        for key, value in self._environment_before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
        self._environment_before.clear()

    def _warn_of_scenario(self) -> None:
        self.warnings += shadowed(self.scenario.policy)
        if self.scenario.key_log:
            self.warnings.append(
                f"ALL KEYS of this network are written to {self.layout.run_dir}/*.keylog, because the scenario has "
                "key_log: true. Whoever reads these files reads everything. Demonstrations only."
            )

    # Building --------------------------------------------------------------------------------------

    def _note_datapath(self) -> None:
        self.facts["ovs_version"] = self._ovs.version()
        self.facts["ovs_datapath"] = "kernel" if self._ovs.datapath == KERNEL else "userspace"
        if self._ovs.datapath == USERSPACE:
            self.warnings.append(
                "This kernel has no openvswitch datapath: the underlay's switches run in user space, and "
                "checksum and segmentation offloads are off on the underlay."
            )
        # So that Mininet's switches, and whatever a user types, find the private Open vSwitch.
        for key in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"):
            self._environment_before.setdefault(key, os.environ.get(key))
            os.environ[key] = self._ovs.environment[key]

    def _build_network(self) -> None:
        # Mininet's own initialisation raises limits in the host's sysctls; the host is not ours to tune.
        Mininet.inited = True
        self.net = net = Mininet(topo=None, controller=None, build=False)
        for name in self.plan.nodes(Kind.SWITCH):
            net.addSwitch(name, cls=PlannedSwitch, dpid=f"{self.plan.datapath_ids[name]:016x}")
        hosts = [name for name, kind in self.plan.kinds.items() if kind is not Kind.SWITCH]
        for name in hosts:
            net.addHost(name, cls=Node, ip=None)
        self._handles = {
            name: NodeHandle(name, net[name].pid, own_namespace=self.plan.kinds[name] is not Kind.SWITCH)
            for name in self.plan.kinds
        }
        self._each(lambda name: quiet_ipv6(self._handles[name]), hosts)
        # Switches share the sandbox's own namespace, where each of their ports is an interface of the kernel's.
        self._each(lambda name: forward_nothing(self._handles[name]), [*hosts, *self.plan.nodes(Kind.SWITCH)[:1]])
        for wire in self.plan.wires:
            self._add_wire(net, wire.first.node, wire.second.node, wire.first, wire.second)
        self._each(self._configure_node, self.plan.kinds)
        self._each(lambda name: self._bridge(name), self.plan.bridges)
        self._management_link()

    @staticmethod
    def _add_wire(net: Mininet, near: str, far: str, first: Any, second: Any) -> None:
        link = net.addLink(
            near,
            far,
            port1=int(first.interface.rpartition("-eth")[2]),
            port2=int(second.interface.rpartition("-eth")[2]),
            intfName1=first.interface,
            intfName2=second.interface,
            addr1=first.mac,
            addr2=second.mac,
        )
        for interface, end in ((link.intf1, first), (link.intf2, second)):
            for address in end.addresses[:1]:  # what Mininet's command line puts in for a node's name
                interface.ip, _, interface.prefixLen = address.partition("/")

    def _configure_node(self, name: str) -> None:
        node = self._handles[name]
        ends = [
            (end, wire)
            for wire in self.plan.wires
            for end in (wire.first, wire.second)
            if end.node == name
        ]
        configure_ends(node, [(end, wire.mtu) for end, wire in ends])
        if self.plan.kinds[name] in {Kind.SWITCH, Kind.HOST}:
            return
        for end, wire in ends:
            if wire.underlay and self._ovs.datapath == USERSPACE:
                node.offloads_off(end.interface)
            if wire.underlay:
                self.facts.setdefault("offloads", {})[end.interface] = node.offloads(end.interface)

    def _bridge(self, name: str) -> None:
        bridge_as_wire(self._handles[name], self.plan.bridges[name])

    def _management_link(self) -> None:
        ours, theirs = MANAGEMENT_INTERFACES
        nva = self._handles[NVA_NAME]
        for end in self.plan.ends(NVA_NAME):
            close_management(nva, end.interface, MANAGEMENT_NETWORK)
        add = ["ip", "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", str(nva.pid)]
        _root(add)
        _root(["ip", "address", "add", f"{MANAGEMENT_SANDBOX}/{MANAGEMENT_PREFIX}", "dev", ours])
        _root(["ip", "link", "set", ours, "up"])
        nva.ip([f"address add {MANAGEMENT_NVA}/{MANAGEMENT_PREFIX} dev {theirs}", f"link set {theirs} up"])

    def _bridge_spec(self, switch: str) -> BridgeSpec:
        ports = {end.interface: int(end.interface.rpartition("-eth")[2]) for end in self.plan.ends(switch)}
        return BridgeSpec(switch, self.plan.datapath_ids[switch], ports)

    def _make_switches(self) -> None:
        self._ovs.add_bridges(self._bridge_spec(name) for name in self.plan.datapath_ids)
        wait_for("the switches' ports", self._ovs.ports_up, self._ovs.daemons)
        # After Open vSwitch has taken the ports: it clears queueing disciplines when it does.
        try:
            apply_shaping(self.plan.shaping, lambda argv: _root(argv, check=False))
        except ConfigError as error:
            raise ConfigError(f"scenario {self.scenario.name}: {error}") from None

    # Programs --------------------------------------------------------------------------------------

    def _write_configs(self) -> None:
        for path, document in config_files(self.plan, self.layout).items():
            self._write(path, document)
        self.layout.nva_key.parent.mkdir(mode=0o700)
        self.layout.export_keys.mkdir(mode=0o700)
        for path, key in export_keys(self.plan, self.layout).items():
            path.touch(mode=0o600)
            path.write_text(key, encoding="ascii")

    @staticmethod
    def _write(path: Path, document: dict[str, Any]) -> None:
        path.touch(mode=0o600)
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")

    def _start_programs(self) -> None:
        self._launch(CONTROLLER_NAME, NVA_NAME, controller_argv(self.layout, self._framework))
        for name in (*self.plan.nodes(Kind.TRANSIT), *self.plan.nodes(Kind.NVE)):
            self._launch(name, name, daemon_argv(self.plan, self.layout, name))
        self._launch(COLLECTOR_NAME, NVA_NAME, collector_argv(self.plan, self.layout))

    def _launch(self, name: str, node: str, argv: list[str]) -> None:
        wrapped = self._handles[node].wrap(argv)
        self._daemons[name] = Daemon(name, wrapped, self.layout.log(name), cwd=PROJECT_ROOT)

    def _wait_until_ready(self) -> None:
        daemons = list(self._daemons.values())
        wait_for("the controller to answer", lambda: self._view("topology"), daemons, _START_SECONDS)
        self._mark("controller answers")
        # Only now: a switch that finds nobody at the other end waits a second and more before it tries again.
        self._ovs.set_controller(self.plan.nodes(Kind.SWITCH), f"tcp:{MANAGEMENT_NVA}:{OPENFLOW_PORT}")
        wait_for(
            "the underlay's links to be discovered",
            lambda: self._view("topology").get("complete"),
            daemons,
            _START_SECONDS,
        )
        self._mark("links discovered")
        for name in (*self.plan.nodes(Kind.TRANSIT), *self.plan.nodes(Kind.NVE)):
            wait_for(f"{name} to be ready", lambda: self._ready(name), daemons, _START_SECONDS)  # noqa: B023
        self._mark("nodes ready")
        learned = [tenant for tenant in self.scenario.tenants.values() if tenant.mappings == "learned"]
        self._each(self.announce, [host for tenant in learned for host in tenant.hosts])
        for tenant in learned:
            wait_for(f"tenants of VNI {tenant.vni} to be known", lambda: self._known(tenant), daemons)  # noqa: B023
        self._wait_converged()
        self._mark("converged")

    def _mark(self, what: str) -> None:
        """Note when a start has got how far, UTC nanoseconds."""
        self.facts.setdefault("marks_ns", {})[what] = time.time_ns()

    def _known(self, tenant: Tenant) -> bool:
        """Whether the NVA knows where all hosts of a tenant are."""
        mappings = self._view("mappings").get("mappings", [])
        known = {mapping["mac"] for mapping in mappings if mapping["vni"] == tenant.vni}
        return {host.mac for host in tenant.hosts.values()} <= known

    def _wait_converged(self) -> None:
        """Wait until each node has all its peers' keys, not only a first state."""
        what = "the NVA's state to reach every node"
        wait_for(what, lambda: self._view("nodes").get("converged"), list(self._daemons.values()), _START_SECONDS)

    def _view(self, name: str) -> dict[str, Any]:
        try:
            return self.rest(f"/v1/{name}")
        except (OSError, ValueError):
            return {}

    def _ready(self, name: str) -> bool:
        try:
            return bool(self.stats(name).get("ready"))
        except (OSError, ValueError):
            return False

    # What users of a running testbed need ------------------------------------------------------------

    def node(self, name: str) -> NodeHandle:
        """Return a node; KeyError when the scenario has none of that name."""
        return self._handles[name]

    def stats(self, name: str) -> dict[str, Any]:
        """Return the statistics of an NVE, a transit device or the collector; OSError when it is away."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(5)
            client.connect(str(self.layout.stats(name)))
            chunks = iter(lambda: client.recv(65536), b"")
            document: dict[str, Any] = json.loads(b"".join(chunks))
        return document

    def interface(self, node: str, towards: str) -> str:
        """Return the name of ``node``'s interface on its wire to ``towards``."""
        return self.plan.interface(node, towards)

    def daemon_pid(self, name: str) -> int:
        """Return the process id of an NVE, a transit device, ``controller`` or ``collector``."""
        return self._daemons[name].pid

    def kill_daemon(self, name: str) -> None:
        """End one program at once (kill -9), as a crash would."""
        process = self._daemons[name].process
        process.kill()
        process.wait()

    def relaunch_daemon(self, name: str) -> None:
        """End one program, if it still runs, and start it again, without waiting until it is ready."""
        stop_all([self._daemons[name]])
        if name == CONTROLLER_NAME:
            self._launch(name, NVA_NAME, controller_argv(self.layout, self._framework))
        elif name == COLLECTOR_NAME:
            self._launch(name, NVA_NAME, collector_argv(self.plan, self.layout))
        else:
            if name in self.scenario.nves:
                self._write(self.layout.config(name), nve_config(self.plan, self.layout, name, self._moved))
            self._launch(name, name, daemon_argv(self.plan, self.layout, name))

    def restart_daemon(self, name: str) -> None:
        """End one program, if it still runs, start it again and wait until it is ready."""
        self.relaunch_daemon(name)
        if name == CONTROLLER_NAME:
            self._wait_until_ready()
        elif name != COLLECTOR_NAME:
            wait_for(f"{name} to be ready", lambda: self._ready(name), [self._daemons[name]], _START_SECONDS)
            self._wait_converged()

    def rest(self, path: str) -> dict[str, Any]:
        """Return the NVA's answer to its operator's GET ``path``; RestError, an OSError, when it is not a success."""
        return self._operator.request("GET", path)

    def operate(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Have the NVA's operator change something; returns the answer, RestError when that is not a success."""
        return self._operator.request(method, path, body)

    @functools.cached_property
    def _operator(self) -> RestClient:
        return RestClient(REST_URL, self.layout.operator)

    def nve_of(self, host: str) -> str:
        """Return the NVE behind which a tenant's host is now."""
        tenant = self.scenario.tenants[self.plan.tenant_of(host)]
        return self._moved.get(host, tenant.hosts[host].nve)

    def reconnect_switches(self) -> None:
        """Have the switches try the controller now, and not after growing pauses; wait until all links are found."""
        self._ovs.set_controller(self.plan.nodes(Kind.SWITCH), f"tcp:{MANAGEMENT_NVA}:{OPENFLOW_PORT}")
        what, daemons = "the underlay's links to be discovered", list(self._daemons.values())
        wait_for(what, lambda: self._view("topology").get("complete"), daemons, _START_SECONDS)

    def move_host(self, host: str, nve: str) -> int:
        """Move a tenant's host, its addresses and connections included, behind another NVE (live migration).

        Its port leaves the one NVE's machine and appears in the bridge of the VNI on the other's; then the host
        announces itself, as a hypervisor does for a machine that has arrived. ConfigError unless both NVEs serve it.
        Returns when its port was at its new place, before the announcement, UTC nanoseconds.
        """
        tenant_name, here = self.plan.tenant_of(host), self.nve_of(host)
        if not self.scenario.serves(nve, tenant_name):
            raise ConfigError(f"'{nve}' does not serve tenant '{tenant_name}'; set its 'mappings: learned'.")
        if nve == here:
            return time.time_ns()
        vni = self.scenario.tenants[tenant_name].vni
        port = self.plan.interface(self.scenario.tenants[tenant_name].hosts[host].nve, host)
        self._handles[here].ip([f"link set {port} netns {self._handles[nve].pid}"])
        self._handles[nve].ip([f"link set {port} master {tenant_bridge(vni)}", f"link set {port} up"])
        self._moved[host] = nve
        arrived = time.time_ns()
        self.announce(host)
        return arrived

    def announce(self, host: str) -> None:
        """Have a host tell its network which addresses it has."""
        end = self.plan.ends(host)[0]
        addresses = [address.partition("/")[0] for address in end.addresses]
        argv = [sys.executable, "-m", "topologies.announce", end.interface, end.mac, *addresses]
        self._handles[host].run(argv, timeout=20)

    def set_link(self, first: str, second: str, up: bool) -> None:
        """Take a link down or up, at both ends, so that both switches see it."""
        for node, interface in self.plan.link_ends(first, second):
            self._handles[node].ip([f"link set {interface} {'up' if up else 'down'}"])

    def fail_switch(self, name: str) -> None:
        """Take a switch away. Its neighbours' ports stay up, as with a switch that is stuck: only silence tells."""
        self._ovs.remove_bridges([name])

    def restore_switch(self, name: str) -> None:
        """Bring a failed switch back; it has no rules until the controller has given it some."""
        self._ovs.add_bridges([self._bridge_spec(name)])
        self._ovs.set_controller([name], f"tcp:{MANAGEMENT_NVA}:{OPENFLOW_PORT}")

    @staticmethod
    def _each(action: Callable[[str], None], names: Iterable[str]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(action, names))


def _root(argv: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in the sandbox's own network namespace."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    if check and done.returncode != 0:
        raise TestbedError(f"'{' '.join(argv)}' failed: {done.stderr.strip()}")
    return done

"""The mechanism experiment on the emulated network: starts each scenario, lets its probes act, keeps the evidence."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from experiments.bench import Hosts, address_of, neighbours_on_link, started
from experiments.context import Context, ExperimentError
from experiments.measure import Capture
from experiments.mechanism.crippled import twin_host, twin_name, with_twins
from experiments.mechanism.evidence import FACTS
from experiments.mechanism.probe import Probe
from experiments.mechanism.probes import PROBES
from experiments.mechanism.probes.common import INNER_HEADERS
from experiments.programs import Program, python_module, wait_for
from experiments.view import CAPTURE_FILTER
from geneve.control.profile import Profile
from geneve.errors import ConfigError
from geneve.header import HeaderField
from geneve.overhead import ETHERNET_HEADER_SIZE, inner_extra
from topologies.network import Testbed
from topologies.plan import Kind
from topologies.profiles import NO_PROTECTION
from topologies.scenario import Scenario
from topologies.scenario_file import load_scenario, scenario_path

EVE = "eve"
_CAPTURE_LIMIT = 50_000
_PATIENCE = 1.0
"""Seconds to wait for messages that do not come."""


@dataclass
class Bench:
    """What a probe may use while it acts for one tenant."""

    context: Context
    testbed: Testbed
    hosts: Hosts
    tenant: str
    """Name of the tenant or of its twin."""
    original: str
    """Name of the tenant of which this is the twin, or the same."""
    label: str
    folder: Path
    twin: int
    """0 for the tenant itself, the probe's number for its twin."""
    _eve: Program | None = None

    @property
    def scenario(self) -> Scenario:
        """The scenario, twins included."""
        return self.testbed.scenario

    @property
    def vni(self) -> int:
        """The tenant's VNI."""
        return self.scenario.tenants[self.tenant].vni

    @property
    def profile(self) -> Profile | None:
        """The tenant's own profile."""
        return self.scenario.profile(self.scenario.tenants[self.tenant].profile)

    @property
    def wire_vni(self) -> int:
        """The VNI that the tenant's packets show."""
        profile = self.profile
        return 0 if profile is not None and HeaderField.VNI in profile.hidden_header else self.vni

    @property
    def inner_extra(self) -> int:
        """Bytes that the payload has besides the frame."""
        return inner_extra(self.profile)

    def host(self, name: str) -> str:
        """Return the host that plays ``name`` of the scenario file here: the twin's own, for a twin."""
        return twin_host(name, self.twin) if self.twin else name

    @property
    def largest_payload(self) -> int:
        """Bytes of the largest payload that a packet of the tenant can have."""
        return self.testbed.plan.tenant_mtu[self.vni] + ETHERNET_HEADER_SIZE + self.inner_extra

    def target(self, source: str, destination: str, size: int) -> dict[str, Any]:
        """Return what eve is to pick: packets between two NVEs with messages of ``size`` bytes, or what may be them.

        Where she can read nothing, she takes whatever is at least as large as such a frame.
        """
        addresses = self.testbed.plan.underlay_addresses
        return {
            "source": addresses[source], "destination": addresses[destination], "vni": self.wire_vni,
            "size": size + INNER_HEADERS + self.inner_extra,
        }  # fmt: skip

    def burst(
        self,
        sender: str,
        receiver: str,
        sizes: Sequence[int],
        interval: float = 0.01,
        patience: float = _PATIENCE,
        **order: Any,
    ) -> int:
        """Send marked messages of ``sizes`` bytes of payload and wait for them; returns how many arrived."""
        here, there = self.host(sender), self.host(receiver)
        log = self.hosts.receiver(there)
        before = _lines(log)
        command = {
            "do": "send", "label": self.label, "trial": 0, "destination": address_of(self.scenario, there),
            "sizes": list(sizes), "interval": interval, **order,
        }  # fmt: skip
        self.hosts.sender(here).ask(command, 10 + 2 * interval * len(sizes))
        wait_for(lambda: _lines(log) - before >= len(sizes), patience)
        return _lines(log) - before

    def broadcast(self, sender: str, address: str, sizes: Sequence[int], interval: float = 0.005) -> None:
        """Send marked messages to a broadcast address of the tenant's subnet."""
        self.broadcast_of_other(self.host(sender), address, sizes, interval)

    def broadcast_of_other(self, host: str, address: str, sizes: Sequence[int], interval: float = 0.005) -> None:
        """Send marked messages of a tenant that is neither this one nor a twin; its host has its own name."""
        command = {
            "do": "send", "label": self.label, "trial": 0, "destination": address, "sizes": list(sizes),
            "interval": interval, "broadcast": True,
        }  # fmt: skip
        self.hosts.sender(host).ask(command, 10 + 2 * interval * len(sizes))

    def forge_as_member(self, victim: str, size: int, count: int) -> int:
        """Let nve3, a member of the tenant's group, forge broadcasts of ``victim``'s NVE; returns how many.

        The rogue takes the NVE's place: it registers with its certificate and is given the group's keys.
        """
        rogue, scenario = "nve3", self.scenario
        tenant = scenario.tenants[self.tenant]
        owner = tenant.hosts[self.host(victim)]
        group = tenant.multicast[0]
        node, switch = self.testbed.node(rogue), scenario.nves[rogue].attach
        argv = python_module("experiments.rogue", self.testbed.interface(rogue, switch))
        protected = self.profile is not None
        if protected:
            argv += ["--config", str(self.testbed.layout.config(rogue))]
        order = {
            "do": "forge", "label": self.label, "size": size, "count": count, "vni": self.vni,
            "sender": owner.nve, "group": group.name,
            "addresses": {
                "outer_destination_mac": _group_mac(group.address), "outer_destination": group.address,
                "outer_source": self.testbed.plan.underlay_addresses[owner.nve],
                "inner_source_mac": owner.mac, "inner_destination_mac": "ff:ff:ff:ff:ff:ff",
                "inner_source": owner.ips[0], "inner_destination": "10.0.0.255",
            },
        }  # fmt: skip
        pid = self.testbed.daemon_pid(rogue)
        # Stopped, not ended: two NVEs of one name would take turns in registering.
        os.kill(pid, signal.SIGSTOP)
        program = Program(node, argv, self.folder / "rogue.stderr")
        try:
            program.answer()
            return int(program.ask(order, 20)["forged"])
        finally:
            program.stop()
            os.kill(pid, signal.SIGCONT)
            if protected:
                wait_for(lambda: bool(self.testbed.rest("/v1/nodes").get("converged")), 20)

    def eve(self) -> Program:
        """Return the on-path attacker's program, in the place of her bridge until the scenario ends."""
        if self._eve is None:
            raise ExperimentError(f"scenario '{self.scenario.name}' has no attacker '{EVE}' on a link")
        return self._eve

    def place(self, nve: str) -> dict[str, str]:
        """Return where an NVE is on the underlay: the ``destination`` and the ``mac`` of what is sent to it."""
        interface = self.testbed.interface(nve, self.scenario.nves[nve].attach)
        end = next(end for end in self.testbed.plan.ends(nve) if end.interface == interface)
        return {"destination": self.testbed.plan.underlay_addresses[nve], "mac": end.mac}

    def stats(self) -> dict[str, Any]:
        """Return the statistics of every NVE and transit device."""
        names = [*self.testbed.plan.nodes(Kind.NVE), *self.testbed.plan.nodes(Kind.TRANSIT)]
        return {name: self.testbed.stats(name) for name in names}


def _group_mac(address: str) -> str:
    """Return the Ethernet address of an IPv4 multicast group (RFC 1112, section 6.4)."""
    packed = ipaddress.ip_address(address).packed
    return f"01:00:5e:{packed[1] & 0x7F:02x}:{packed[2]:02x}:{packed[3]:02x}"


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def run(context: Context) -> None:
    """Run every probe, scenario by scenario, for the tenant and for its twin."""
    for name, probes in groupby(sorted(PROBES, key=lambda probe: probe.scenario), lambda probe: probe.scenario):
        _run_scenario(context, name, list(probes))


def _load(context: Context, name: str, probes: Sequence[Probe]) -> Scenario:
    try:
        scenario = load_scenario(name)
        text = scenario_path(name).read_text(encoding="utf-8")
    except ConfigError as error:
        raise ExperimentError(str(error)) from None
    context.run.update(scenarios={**context.run.record.get("scenarios", {}), name: text})
    return with_twins(scenario, [(_number(probe), probe.tenant, probe.cripple, probe.keep_rules) for probe in probes])


def _number(probe: Probe) -> int:
    """Return the number of a probe's twin, unique in the run."""
    return PROBES.index(probe) + 1


def _run_scenario(context: Context, name: str, probes: Sequence[Probe]) -> None:
    scenario = _load(context, name, probes)
    with ExitStack() as stack:
        testbed = stack.enter_context(started(context, scenario, name))
        eve = start_eve(context, testbed, name, stack)
        for probe in probes:
            for twin in (0, _number(probe)):
                tenant = twin_name(probe.tenant, twin) if twin else probe.tenant
                kind = "crippled" if twin else "probe"
                context.progress.step(f"SEC-GEN-{probe.requirement} {probe.name} ({kind})", 3)
                folder = context.raw(f"{probe.requirement:02}-{probe.name}", kind, FACTS).parent
                with Hosts(testbed, folder) as hosts:
                    bench = Bench(context, testbed, hosts, tenant, probe.tenant, f"{probe.name}-{kind}",
                                  folder, twin, eve)  # fmt: skip
                    act(probe, bench, context.captures() / f"{probe.requirement:02}-{bench.label}.pcap")


def start_eve(context: Context, testbed: Testbed, name: str, stack: ExitStack) -> Program | None:
    """Put the on-path attacker's relay in the place of her bridge, as in the attacks experiment."""
    if EVE not in testbed.scenario.attackers or testbed.scenario.attackers[EVE].attach is not None:
        return None
    before, behind = neighbours_on_link(testbed.scenario, EVE)
    ports = (testbed.interface(EVE, before), testbed.interface(EVE, behind))
    node = testbed.node(EVE)
    errors = context.raw(name, "eve.stderr")
    program = Program(node, python_module("experiments.attacker", "on-path", *ports), errors)
    stack.callback(program.stop)
    program.answer()
    node.ip([f"link set {port} nomaster" for port in ports])
    stack.callback(node.ip, [f"link set {port} master {EVE}-br" for port in ports])
    return program


def _capture_place(testbed: Testbed) -> tuple[Any, str]:
    """Return node and interface where all packets between NVEs pass: before eve, or the first NVE's own."""
    if EVE in testbed.scenario.attackers and testbed.scenario.attackers[EVE].attach is None:
        before, _ = neighbours_on_link(testbed.scenario, EVE)
        return testbed.node(EVE), testbed.interface(EVE, before)
    first = testbed.plan.nodes(Kind.NVE)[0]
    return testbed.node(first), testbed.interface(first, testbed.scenario.nves[first].attach)


def act(probe: Probe, bench: Bench, path: Path) -> None:
    """Let a probe act while all that passes is captured in ``path``, and keep its evidence in the bench's folder."""
    node, interface = _capture_place(bench.testbed)
    before, known = bench.stats(), _associations(bench)
    with Capture(node, interface, path, CAPTURE_FILTER, _CAPTURE_LIMIT):
        facts = probe.act(bench)
    tenant = bench.scenario.tenants[bench.tenant]
    profile = None if tenant.profile == NO_PROTECTION else bench.scenario.profile(tenant.profile)
    document = {
        "requirement": probe.requirement, "probe": probe.name, "label": bench.label, "tenant": bench.tenant,
        "twin": bench.twin, "vni": bench.vni, "capture": bench.context.relative(path),
        "profile": None if profile is None else profile.model_dump(mode="json"),
        "hosts": {name: bench.host(name) for name in bench.scenario.tenants[bench.original].hosts},
        "addresses": bench.testbed.plan.underlay_addresses,
        # What senders use, and besides all that packets can carry: associations are replaced while a probe acts.
        "associations": [entry for entry in known if entry["stage"] == "current"],
        "replaced": [*known, *_associations(bench)],
        "stats": {"before": before, "after": bench.stats()},
        "facts": facts,
    }  # fmt: skip
    (bench.folder / FACTS).write_text(json.dumps(document, indent=1), encoding="utf-8")


def _associations(bench: Bench) -> list[dict[str, Any]]:
    view = bench.testbed.rest("/v1/associations")
    return [entry for entry in view["associations"] if entry["vni"] in (bench.vni, None)]

"""The overhead experiment: what an encapsulated, protected packet costs in bytes, time and work.

All (configuration, repeat) pairs run in one shuffled order, so that a slow drift of the machine falls
on every configuration alike. A figure that could not be had is written as missing, with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from experiments.bench import (
    Hosts,
    address_of,
    host_at,
    load,
    neighbours_on_link,
    records,
    started,
    transit_between,
)
from experiments.capture import geneve_frames
from experiments.capture_file import CaptureError
from experiments.context import Context, ExperimentError
from experiments.measure import (
    Capture,
    IperfServer,
    MeasureError,
    counters,
    cpu_nanoseconds,
    ping,
    tcp_goodput,
    udp_load,
)
from experiments.overhead_analysis import (
    HOPS,
    OVERLAY_CONFIGURATIONS,
    SAMPLES,
    UNDERLAY,
    UNDERLAY_CONFIGURATIONS,
    Configuration,
)
from experiments.profiles import FRAME_SIZES, UDP_PAYLOAD
from experiments.programs import ProgramError, wait_for
from experiments.samples import SampleWriter, sample
from experiments.telemetry_analysis import of_flow, path_counts, path_faults
from topologies.network import Testbed
from topologies.nodes import NodeHandle
from topologies.plan import Kind

INGRESS = "nve0"
EGRESS = {0: "nve1", 1: "nve2", 2: "nve3"}
"""Egress NVE by the number of transit devices on the way to it."""
_TENANTS = {
    ("none", False): "plain", ("full", False): "full", ("none", True): "plain_tel", ("full", True): "full_tel",
}  # fmt: skip
_HEADERS = 14 + 20 + 8
"""Bytes of Ethernet, IPv4 and UDP in front of a tenant's payload."""
_PROBES = 50
_PROBE_SIZE = 100
_ATTEMPTS = 3
_QUIET_PACKETS = 5
"""Packets between two looks that do not count as traffic: keep-alives, discovery."""


class Overhead:
    """One run of the experiment on a started testbed."""

    def __init__(self, context: Context, testbed: Testbed, hosts: Hosts, samples: SampleWriter) -> None:
        self.context = context
        self.testbed = testbed
        self.hosts = hosts
        self.samples = samples
        self.servers: dict[str, IperfServer] = {}

    def endpoints(self, configuration: Configuration) -> tuple[NodeHandle, str, str]:
        """Return the sending node, the address to send to, and the receiving node's name."""
        egress = EGRESS[configuration.hops]
        if configuration.mode == UNDERLAY:
            address = self.testbed.plan.underlay_addresses[egress]
            return self.testbed.node(INGRESS), address, egress
        scenario = self.testbed.scenario
        tenant = _TENANTS[configuration.mode, configuration.telemetry]
        receiver = host_at(scenario, tenant, egress)
        sender = self.testbed.node(host_at(scenario, tenant, INGRESS))
        return sender, address_of(scenario, receiver), receiver

    def underlay_interface(self, nve: str) -> str:
        """Return the interface by which an NVE is on the underlay."""
        return self.testbed.interface(nve, self.testbed.scenario.nves[nve].attach)

    # Before anything is trusted ------------------------------------------------------------------------

    def check_paths(self) -> None:
        """Send probes over the bare underlay and count them at every transit device.

        ExperimentError unless they cross exactly the devices that the figures will claim.
        """
        plan = self.testbed.plan
        for hops, egress in EGRESS.items():
            expected = transit_between(self.testbed.scenario, INGRESS, egress)
            if len(expected) != hops:
                raise ExperimentError(f"the way to {egress} has transit devices {expected}, not {hops} of them")
            before = {name: self._relayed(name) for name in plan.nodes(Kind.TRANSIT)}
            result = ping(self.testbed.node(INGRESS), plan.underlay_addresses[egress], _PROBES, 0.004)
            crossed = [
                name for name, count in before.items() if self._relayed(name) - count >= 2 * len(result.rtts)
            ]
            details = {"egress": egress, "expected": expected, "answered": len(result.rtts)}
            self.samples.write({"measure": "check", "value": crossed, "missing": None, **details})
            if sorted(crossed) != sorted(expected) or result.lost:
                raise ExperimentError(
                    f"the underlay from {INGRESS} to {egress} led through {crossed}, expected {expected}, and "
                    f"{result.lost} of {_PROBES} probes were lost"
                )

    def check_telemetry_paths(self) -> None:
        """Compare what the transit devices report of tenants' packets with the paths that the scenario claims.

        ExperimentError unless every packet was reported by exactly the devices on its path, in their order.
        """
        begin = time.time_ns()  # devices and this program read the same clock
        flows = [configuration for configuration in OVERLAY_CONFIGURATIONS if configuration.telemetry]
        # Those without devices come first: a record of them would come before the records of the others.
        flows.sort(key=lambda configuration: configuration.hops)
        for configuration in flows:
            self._probe(configuration)
        wanted = _PROBES * sum(configuration.hops for configuration in flows)

        def reports() -> dict[Configuration, list[dict[str, Any]]]:
            # By flow: answers (ICMP errors) of the receivers go the other way and are reported as well.
            found = records(self.testbed)
            return {configuration: self._reports(found, configuration, begin) for configuration in flows}

        wait_for(lambda: sum(map(len, reports().values())) >= wanted, 5, pause=0.1)
        faults = []
        for configuration, found in reports().items():
            egress = EGRESS[configuration.hops]
            expected = transit_between(self.testbed.scenario, INGRESS, egress)
            paths = [[list(path), count] for path, count in path_counts(found).items()]
            details = {"flow": str(configuration), "egress": egress, "expected": expected, "sent": _PROBES}
            self.samples.write({"measure": "check_telemetry", "value": paths, "missing": None, **details})
            wrong = path_faults(found, expected, _PROBES, authenticated=configuration.mode != "none")
            faults += [f"{configuration}: expected the path {expected}, but {fault}" for fault in wrong]
        if faults:
            raise ExperimentError("; ".join(faults))

    def _reports(
        self, found: list[dict[str, Any]], configuration: Configuration, since_ns: int
    ) -> list[dict[str, Any]]:
        """Return the records of a configuration's packets from the ingress NVE to the egress NVE."""
        addresses = self.testbed.plan.underlay_addresses
        tenant = self.testbed.scenario.tenants[_TENANTS[configuration.mode, configuration.telemetry]]
        return of_flow(found, tenant.vni, addresses[INGRESS], addresses[EGRESS[configuration.hops]], since_ns)

    def _probe(self, configuration: Configuration) -> None:
        sender, address, _ = self.endpoints(configuration)
        order = {
            "do": "send", "label": "path", "trial": configuration.hops, "destination": address,
            "sizes": [_PROBE_SIZE] * _PROBES, "interval": 0.004,
        }  # fmt: skip
        if self.hosts.sender(sender.name).ask(order)["sent"] != _PROBES:
            raise ExperimentError(f"{sender.name} could not send all probes for {configuration}")

    def _relayed(self, device: str, sent: bool = False) -> int:
        """Frames that came into a transit device on its two wires, or were sent on."""
        pid = self.testbed.node(device).pid
        near, far = neighbours_on_link(self.testbed.scenario, device)
        wires = [self.testbed.interface(device, towards) for towards in (near, far)]
        counted = [counters(pid, wire) for wire in wires]
        return sum(entry.sent if sent else entry.received for entry in counted)

    def warm_up(self) -> None:
        """Let every pair talk once; ExperimentError when one cannot."""
        for configuration in (*UNDERLAY_CONFIGURATIONS, *OVERLAY_CONFIGURATIONS):
            sender, address, receiver = self.endpoints(configuration)
            try:
                ping(sender, address, 2, 0.01)
            except MeasureError as error:
                raise ExperimentError(f"{configuration}: {address} cannot be reached: {error}") from None
            self.servers[receiver] = IperfServer(self.testbed.node(receiver))

    def idle(self, seconds: float = 2.0) -> None:
        """Measure what each daemon uses without tenant traffic, in percent of one processor."""
        plan = self.testbed.plan
        names = [*plan.nodes(Kind.NVE), *plan.nodes(Kind.TRANSIT)]
        pids = {name: self.testbed.daemon_pid(name) for name in names}
        start = time.monotonic()
        before = {name: cpu_nanoseconds(pid) for name, pid in pids.items()}
        time.sleep(seconds)  # the length of the measurement, not a wait for something
        used = {name: cpu_nanoseconds(pid) - before[name] for name, pid in pids.items()}
        span = time.monotonic() - start
        for name, spent in used.items():
            key = {"daemon": name}
            self.samples.write(sample("idle", key, spent / span / 1e7, "% of one CPU", seconds=round(span, 3)))

    # Measures ------------------------------------------------------------------------------------------

    def measure(self, configuration: Configuration, repeat: int, place: int) -> None:
        """Take one sample of every measure that applies to the configuration."""
        key = {**configuration.as_dict(), "repeat": repeat, "order": place}
        self.settle()
        self._take("rtt", "ms", key, lambda: self._rtt(configuration))
        if configuration.mode != UNDERLAY:
            self._cpu(configuration, key)
        self._take("tcp", "bit/s", key, lambda: self._tcp(configuration))

    def settle(self) -> None:
        """Wait until the queues that a bulk flow has filled are empty again.

        A relay holds up to megabytes, which would be measured as round-trip time for a good while.
        """
        plan = self.testbed.plan
        last = dict.fromkeys(plan.nodes(Kind.TRANSIT), 0)

        def quiet() -> bool:
            grown = []
            for name, before in last.items():
                last[name] = self._relayed(name, sent=True)
                grown.append(last[name] - before)
            return max(grown, default=0) <= _QUIET_PACKETS

        if not wait_for(quiet, 5, pause=0.03):
            self.context.run.warn("overhead: the network was not idle between measurements")

    def _take(self, measure: str, unit: str, key: dict[str, Any], take: Callable[[], dict[str, Any]]) -> None:
        try:
            found = take()
            entry = sample(measure, key, found.pop("value"), unit, **found)
        except MeasureError as error:
            entry = sample(measure, key, None, unit, missing=str(error))
        self.samples.write(entry)

    def _tcp(self, configuration: Configuration) -> dict[str, Any]:
        sender, address, receiver = self.endpoints(configuration)
        self.servers[receiver].await_ready()
        try:
            return tcp_goodput(sender, address, self.context.profile.tcp_seconds)
        except MeasureError:
            self.servers[receiver].restart()
            raise

    def _rtt(self, configuration: Configuration) -> dict[str, Any]:
        sender, address, _ = self.endpoints(configuration)
        result = ping(sender, address, self.context.profile.pings, self.context.profile.ping_interval)
        return {"value": result.rtts, "lost": result.lost}

    def _daemons(self, configuration: Configuration) -> list[tuple[str, str, list[str]]]:
        """Role, name and underlay interfaces of every daemon that the load passes."""
        egress = EGRESS[configuration.hops]
        found = [("ingress", INGRESS, [self.underlay_interface(INGRESS)])]
        found.append(("egress", egress, [self.underlay_interface(egress)]))
        scenario = self.testbed.scenario
        for device in transit_between(scenario, INGRESS, egress):
            wires = [self.testbed.interface(device, name) for name in neighbours_on_link(scenario, device)]
            found.append(("transit", device, wires))
        return found

    def _cpu(self, configuration: Configuration, key: dict[str, Any]) -> None:
        daemons = self._daemons(configuration)
        unit = "ns/packet"
        try:
            before = {name: self._work(role, name, wires) for role, name, wires in daemons}
            load_result = self._load(configuration)
            after = {name: self._work(role, name, wires) for role, name, wires in daemons}
        except MeasureError as error:
            for role, name, _ in daemons:
                entry = {**key, "role": role, "daemon": name}
                self.samples.write(sample("cpu", entry, None, unit, missing=str(error)))
            return
        for role, name, _ in daemons:
            spent, packets = (last - first for last, first in zip(after[name], before[name], strict=True))
            entry = {**key, "role": role, "daemon": name}
            if packets <= 0 or spent <= 0:
                what = "packet" if packets <= 0 else "CPU time"
                self.samples.write(sample("cpu", entry, None, unit, missing=f"no {what} was counted"))
                continue
            self.samples.write(sample(
                "cpu", entry, spent / packets, unit, cpu_ns=spent, packets=packets,
                datagrams=load_result["datagrams"],
                lost_share=load_result["lost"] / load_result["datagrams"],
            ))  # fmt: skip

    def _load(self, configuration: Configuration) -> dict[str, Any]:
        sender, address, receiver = self.endpoints(configuration)
        profile = self.context.profile
        try:
            self.servers[receiver].await_ready()
            return udp_load(sender, address, profile.udp_seconds, profile.udp_rate, UDP_PAYLOAD)
        except MeasureError:
            self.servers[receiver].restart()
            raise

    def _work(self, role: str, daemon: str, wires: list[str]) -> tuple[int, int]:
        """CPU nanoseconds of a daemon and packets on its wires: both directions, a transit's once."""
        pid = self.testbed.node(daemon).pid
        counted = [counters(pid, wire) for wire in wires]
        packets = sum(entry.received + (entry.sent if role != "transit" else 0) for entry in counted)
        return cpu_nanoseconds(self.testbed.daemon_pid(daemon)), packets

    # Bytes ---------------------------------------------------------------------------------------------

    def bytes_added(self, configuration: Configuration) -> None:
        """Capture a burst of frames of known sizes in shuffled order on the ingress NVE's underlay side."""
        key = configuration.as_dict()
        reason = "not tried"
        for attempt in range(_ATTEMPTS):
            try:
                burst = self._burst(configuration, attempt)
            except (MeasureError, ProgramError, CaptureError) as error:
                reason = str(error)
                continue
            found = self._captured(burst)
            self.samples.write(sample("bytes", key, burst, "bytes", attempt=attempt) if found == len(burst["sizes"])
                               else {**sample("bytes_retried", key, burst, "bytes"), "captured": found})
            if found == len(burst["sizes"]):
                return
            reason = f"{len(burst['sizes'])} frames sent, {found} packets captured, {_ATTEMPTS} times"
        self.samples.write(sample("bytes", key, None, "bytes", missing=reason))

    def _captured(self, burst: dict[str, Any]) -> int:
        path = self.context.run.path / burst["capture"]
        return len(geneve_frames(
            path, vni=burst["vni"], source=burst["source"], destination=burst["destination"]
        ))  # fmt: skip

    def _burst(self, configuration: Configuration, attempt: int) -> dict[str, Any]:
        tenant = _TENANTS[configuration.mode, configuration.telemetry]
        scenario, plan = self.testbed.scenario, self.testbed.plan
        egress = EGRESS[configuration.hops]
        vni = scenario.tenants[tenant].vni
        largest = plan.tenant_mtu[vni] + 14
        sizes = [size for size in (*FRAME_SIZES, largest) for _ in range(self.context.profile.frames_per_size)]
        self.context.random(f"sizes {configuration}").shuffle(sizes)
        path = self.context.captures() / f"bytes-{tenant}-{configuration.hops}-{attempt}.pcap"
        addresses = plan.underlay_addresses
        burst = {
            "capture": self.context.relative(path), "sizes": sizes, "vni": vni,
            "source": addresses[INGRESS], "destination": addresses[egress],
        }  # fmt: skip
        wanted = f"udp port 6081 and dst host {addresses[egress]}"
        sender = self.hosts.sender(host_at(scenario, tenant, INGRESS))
        destination = address_of(scenario, host_at(scenario, tenant, egress))
        node, interface = self.testbed.node(INGRESS), self.underlay_interface(INGRESS)
        with Capture(node, interface, path, wanted, 10 * len(sizes), "out"):
            order = {
                "do": "send", "label": "bytes", "trial": 0, "unmarked": True, "interval": 0.003,
                "destination": destination, "sizes": [size - _HEADERS for size in sizes],
            }  # fmt: skip
            answer = sender.ask(order, 10 + 0.01 * len(sizes))
            if answer["sent"] != len(sizes):
                raise MeasureError(f"only {answer['sent']} of {len(sizes)} frames could be sent")
            wait_for(lambda: self._captured(burst) >= len(sizes), 3)
        return burst

    def stop(self) -> None:
        """End the iperf3 servers."""
        for server in self.servers.values():
            server.stop()


def run(context: Context) -> None:
    """Run the experiment; every sample is on disk when this returns."""
    scenario = load(context)
    profile = context.profile
    for tenant in scenario.tenants:
        if scenario.tenant_mtu(tenant) < UDP_PAYLOAD + _HEADERS - 14:
            raise ExperimentError(f"the MTU of tenant '{tenant}' is too small for {UDP_PAYLOAD} B of payload")
    pairs = [
        (configuration, repeat)
        for configuration in (*UNDERLAY_CONFIGURATIONS, *OVERLAY_CONFIGURATIONS)
        for repeat in range(profile.repeats)
    ]
    context.random("order").shuffle(pairs)
    order = {**context.run.record.get("order", {}), context.name: [f"{pair[0]}, repeat {pair[1]}" for pair in pairs]}
    context.run.update(order=order)
    with (
        started(context, scenario, "overhead") as testbed,
        Hosts(testbed, context.raw("hosts")) as hosts,
        context.writer(SAMPLES) as samples,
    ):
        experiment = Overhead(context, testbed, hosts, samples)
        try:
            context.progress.step("check the network", 6)
            experiment.check_paths()
            experiment.warm_up()
            experiment.check_telemetry_paths()
            experiment.idle()
            for configuration in OVERLAY_CONFIGURATIONS:
                context.progress.step(f"bytes per packet: {configuration}", 0.8)
                experiment.bytes_added(configuration)
            for place, (configuration, repeat) in enumerate(pairs):
                label = f"{configuration} (measurement {place + 1} of {len(pairs)})"
                context.progress.step(label, pair_seconds(configuration, context))
                experiment.measure(configuration, repeat, place)
        finally:
            experiment.stop()


def pair_seconds(configuration: Configuration, context: Context) -> float:
    """Return the expected time of one repeat of one configuration."""
    profile = context.profile
    common = profile.tcp_seconds + 0.4 + profile.pings * profile.ping_interval + 0.2
    return common if configuration.mode == UNDERLAY else common + profile.udp_seconds + 0.4


assert set(EGRESS) == set(HOPS)

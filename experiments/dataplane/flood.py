"""The experiment flood: what a tenant notices while an attacker floods its NVE with forged packets.

One TCP flow lasts through the whole experiment. For each kind of packet and each rate, in shuffled order: goodput
is measured, the flood begins, goodput is measured again, the flow pauses, round-trip times and the loss of a paced
stream are measured, the flood ends. What is written down is what happened; it is judged in ``flood_analysis.py``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from experiments.bench import Hosts, address_of, difference, load, node_offloads, started
from experiments.context import Context, ExperimentError
from experiments.dataplane import reject
from experiments.dataplane.flood_analysis import CONTROL_SECONDS, PROBE, SAMPLES, Point, point_seconds, points
from experiments.dataplane.kinds import KINDS, REPLAYED, UNPROTECTED
from experiments.dataplane.wires import FastWire, join
from experiments.measure import MeasureError, counters, cpu_nanoseconds, ping
from experiments.programs import Program, python_module, wait_for
from experiments.samples import SampleWriter, sample
from topologies.network import Testbed

ATTACKER, SENDING_NVE, VICTIM = "mallory", "nve1", "nve2"
HOSTS = {"none": ("p1", "p2"), "full": ("f1", "f2")}
"""Sender and receiver of each tenant, by its protection."""
_SETTLE_SECONDS, _DRAIN_SECONDS = 0.15, 0.5
_PROBE_INTERVAL, _PING_INTERVAL, _PROBE_SIZE = 0.002, 0.004, 200
_CONTROL_PACKETS, _CONTROL_RATE = 100, 500
_INNER_HEADERS = 14 + 20 + 8


class Flood:
    """One run of the experiment on a started testbed."""

    def __init__(
        self, context: Context, testbed: Testbed, wire: FastWire, hosts: Hosts, samples: SampleWriter
    ) -> None:
        self.context, self.testbed, self.wire, self.hosts, self.samples = context, testbed, wire, hosts, samples
        self.sender, self.receiver = HOSTS["full"]
        self.flooder: Program
        self.source: Program
        self.sink: Program

    @contextmanager
    def programs(self) -> Iterator[None]:
        """Start the attacker and both ends of the flow."""
        scenario = self.testbed.scenario
        ends = [address_of(scenario, host) for host in (self.sender, self.receiver)]
        listen, send = self.wire.ports[SENDING_NVE], self.wire.ports[VICTIM]
        with ExitStack() as stack:
            for name, node, argv in (
                ("flooder", ATTACKER, ["flooder", listen, send, "--seed", str(self.context.seed)]),
                ("sink", self.receiver, ["bulk", "sink", ends[1]]),
                ("source", self.sender, ["bulk", "source", *ends]),
            ):
                module = python_module(f"experiments.dataplane.{argv[0]}", *argv[1:])
                program = Program(self.testbed.node(node), module, self.context.raw(f"{name}.stderr"))
                stack.callback(program.stop)
                program.answer()
                setattr(self, name, program)
            yield

    # What the attacker gets ----------------------------------------------------------------------------

    def take(self, mode: str) -> None:
        """Let the attacker take down one full-sized message of a tenant; ExperimentError when she sees none."""
        sender, receiver = HOSTS[mode]
        plan, scenario = self.testbed.plan, self.testbed.scenario
        (tenant,) = (entry for entry in scenario.tenants.values() if sender in entry.hosts)
        size = plan.tenant_mtu[tenant.vni] + 14
        addresses = plan.underlay_addresses
        target = {"source": addresses[SENDING_NVE], "destination": addresses[VICTIM], "vni": tenant.vni, "size": size}
        self.flooder.ask({"do": "listen"})
        self.hosts.sender(sender).ask({
            "do": "send", "label": "taken", "trial": 0, "interval": 0, "sizes": [size - _INNER_HEADERS],
            "destination": address_of(scenario, receiver),
        })  # fmt: skip
        answer = self.flooder.ask({"do": "take", "target": target, "seconds": 3})
        if not answer["taken"]:
            raise ExperimentError(f"{ATTACKER} sees no packet from {sender} to {receiver}: she is not on their path")
        if (answer["spi"] is not None) != (mode == "full"):
            raise ExperimentError(f"mode {mode} does not show on the wire: the SPI is {answer['spi']}")

    # Controls ------------------------------------------------------------------------------------------

    def controls(self) -> None:
        """Send a few forged packets of each kind, on an idle network, and see what comes to the tenant."""
        for mode in HOSTS:
            self.take(mode)
            kinds = (UNPROTECTED, REPLAYED) if mode == "none" else (UNPROTECTED, *KINDS)
            for kind in kinds:
                # A packet of an unprotected tenant is forged by repeating it: there is nothing in it to get wrong.
                self._control(mode, kind, REPLAYED if mode == "none" else kind)

    def _control(self, mode: str, kind: str, form: str) -> None:
        host = self.testbed.node(HOSTS[mode][1])
        interface = self.testbed.plan.ends(host.name)[0].interface
        drops = self._drops()
        before = counters(host.pid, interface).received
        self.flooder.ask({"do": "flood", "kind": form, "rate": _CONTROL_RATE, "count": _CONTROL_PACKETS}, 20)

        def refused() -> int:
            return sum(self._drops().values()) - sum(drops.values())

        def delivered() -> int:
            return counters(host.pid, interface).received - before

        wait_for(lambda: refused() + delivered() >= _CONTROL_PACKETS, 2, pause=0.02)
        sent = self.flooder.ask({"do": "stop"})["sent"]
        grown = difference(drops, self._drops())
        key = {"mode": mode, "kind": kind}
        self.samples.write(sample("control", key, delivered(), "frames", sent=sent, drops=grown))

    def _drops(self) -> dict[str, int]:
        return {reason: int(count) for reason, count in self.testbed.stats(VICTIM)["drops"].items()}

    # The flood -----------------------------------------------------------------------------------------

    def measure(self, point: Point, number: int) -> None:
        """Take one sample under a flood; ``number`` tells its probes from others'."""
        kind, rate, repeat = point
        key = {"kind": kind, "rate": rate, "repeat": repeat, "order": number}
        begin, kernel = self._look(), self._kernel()
        if rate:
            self.take("full")  # the numbers in use are others by now
        try:
            self.source.ask({"do": "go"})
            before, _ = self._goodput(self.context.profile.flood_before_seconds)
            if rate:
                self.flooder.ask({"do": "flood", "kind": kind, "rate": rate}, 20)
            goodput, busy = self._goodput(self.context.profile.flood_seconds)
            self.source.ask({"do": "pause"})
            wait_for(self._drained, _DRAIN_SECONDS)
            quiet = self._probe(number)
        except MeasureError as error:
            self.samples.write(sample("flood", key, None, "bit/s", missing=str(error)))
            return
        finally:
            self.source.ask({"do": "pause"})
            attack = self.flooder.ask({"do": "stop"})
            # What is on its way is not the next one's.
            wait_for(self._idle, _DRAIN_SECONDS)
        self.samples.write(sample(
            "flood", key, goodput, "bit/s", before=before, sent=attack["sent"], failed=attack["failed"],
            seconds=attack["seconds"], buffer_drops=self._kernel() - kernel, whole=_difference(begin, self._look()),
            under_load=busy, **quiet,
        ))  # fmt: skip

    def _look(self) -> dict[str, Any]:
        """Return what has been counted at the victim so far."""
        document = self.testbed.stats(VICTIM)
        wire = counters(self.testbed.node(VICTIM).pid, self.wire.interface)
        return {
            "at": time.monotonic(), "cpu_ns": cpu_nanoseconds(self.testbed.daemon_pid(VICTIM)),
            "on_wire": wire.received, "datagrams": int(document["counters"].get("datagrams_received", 0)),
            "drops": {reason: int(count) for reason, count in document["drops"].items()},
        }  # fmt: skip

    def _kernel(self) -> int:
        """Return how many datagrams the victim's kernel dropped because its socket was full."""
        text = Path(f"/proc/{self.testbed.node(VICTIM).pid}/net/snmp").read_text(encoding="ascii")
        names, values = (line.split() for line in text.splitlines() if line.startswith("Udp:"))
        return int(values[names.index("RcvbufErrors")])

    def _goodput(self, span: float) -> tuple[float, dict[str, Any]]:
        """Return bits a second that came to the tenant, and what was counted meanwhile."""
        time.sleep(_SETTLE_SECONDS)  # the flow gets going, or the flood takes hold
        before, first = self._look(), self.sink.ask({"do": "count"})
        time.sleep(span)  # the length of the measurement
        last = self.sink.ask({"do": "count"})
        busy = _difference(before, self._look())
        return 8 * (last["bytes"] - first["bytes"]) / (last["at"] - first["at"]), busy

    def _drained(self) -> bool:
        first = self.sink.ask({"do": "count"})["bytes"]
        time.sleep(0.02)
        return bool(self.sink.ask({"do": "count"})["bytes"] == first)

    def _idle(self) -> bool:
        first = self._look()
        time.sleep(0.02)
        return bool(self._look()["datagrams"] - first["datagrams"] < 5)

    def _probe(self, number: int) -> dict[str, Any]:
        """Measure round-trip times beside a paced stream, whose loss the receiver's log tells."""
        scenario, span = self.testbed.scenario, self.context.profile.flood_probe_seconds
        destination = address_of(scenario, self.receiver)
        sender = self.hosts.sender(self.sender)
        before = self._look()
        first = sender.ask({
            "do": "stream", "label": PROBE, "trial": number, "interval": _PROBE_INTERVAL, "size": _PROBE_SIZE,
            "destination": destination,
        })["first"]  # fmt: skip
        node = self.testbed.node(self.sender)
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(ping, node, destination, int(span / _PING_INTERVAL), _PING_INTERVAL).result()
        streamed = sender.ask({"do": "stop"})["streamed"] - first
        quiet = _difference(before, self._look())
        return {"rtts": found.rtts, "pings_lost": found.lost, "probes": streamed, "quiet": quiet}


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what was counted between two looks."""
    seconds = after["at"] - before["at"]
    rest = {name: after[name] - before[name] for name in ("cpu_ns", "on_wire", "datagrams")}
    return {"seconds": round(seconds, 6), "drops": difference(before["drops"], after["drops"]), **rest}


def run(context: Context) -> None:
    """Run the experiment; every sample is on disk when this returns."""
    scenario, profile = load(context), context.profile
    plan = points(profile.flood_rates, profile.flood_repeats, profile.repeats)
    context.random("order").shuffle(plan)
    order = {**context.run.record.get("order", {}), context.name: [f"{kind}, {rate}, {n}" for kind, rate, n in plan]}
    context.run.update(order=order)
    wires: list[FastWire] = []

    def prepare(testbed: Testbed) -> None:
        wires.append(join(testbed, ATTACKER, (SENDING_NVE, VICTIM), scenario.underlay.mtu))

    with (
        started(context, scenario, "flood", prepare) as testbed,
        Hosts(testbed, context.raw("hosts"), marks_only=True) as hosts,
        context.writer(SAMPLES) as samples,
    ):
        for _, receiver in HOSTS.values():
            hosts.receiver(receiver)
        samples.write(sample("offloads", {}, node_offloads(testbed), "state"))
        flood = Flood(context, testbed, wires[0], hosts, samples)
        context.progress.step("controls and cost of refusals", CONTROL_SECONDS)
        reject.measure(context.random("refusals"), samples)
        with flood.programs():
            flood.controls()
            for place, point in enumerate(plan):
                label = f"{point[0]} at {point[1]}/s (measurement {place + 1} of {len(plan)})"
                context.progress.step(label, point_seconds(profile))
                flood.measure(point, place)

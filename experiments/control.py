"""The control-plane experiment: how long convergence, failures, moves, revocation and rekeying take, and what is lost.

Each repeat has a network of its own, on which all events happen in shuffled order: those of our mechanism, and, for
what depends on it, networks under channels with fewer events. What is written down is what was done and when; what it
did to tenants' flows is read from their own logs afterwards (``control_analysis.py``).
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from experiments import control_scale
from experiments.bench import Hosts, load, started
from experiments.context import Context, ExperimentError
from experiments.control_analysis import (
    EVENT_SECONDS,
    EVENTS_FILE,
    GROWTH_FILE,
    MECHANISMS,
    NAME,
    OURS,
    growth_seconds,
    label_of,
)
from experiments.control_events import BOTH_WAYS, START_INTERVAL, Events
from experiments.control_flows import Flow, Flows
from experiments.samples import SampleWriter
from topologies.network import Testbed
from topologies.scenario import Scenario

SENDERS, RECEIVERS = ("red1", "red2", "red3", "red4", "blue1"), ("red1", "red3", "blue2", "blue3")
_START_FLOWS = (*BOTH_WAYS, ("blue1", "blue3"))


def run(context: Context) -> None:
    """Run all repeats; everything the verdicts need is on disk when this returns."""
    scenario = load(context)
    order = {**context.run.record.get("order", {})}
    with context.writer(EVENTS_FILE) as log:
        for mechanism in MECHANISMS:
            ours = mechanism == OURS
            for repeat in range(context.profile.repeats if ours else context.profile.channel_repeats):
                _repeat(context, scenario if ours else scenario.under(mechanism), mechanism, repeat, log, order)
    _growth(context)


def _growth(context: Context) -> None:
    """Measure how the NVA's work grows with the number of nodes, which are simulated; no network is needed."""
    sizes = context.profile.growth_sizes
    plan = control_scale.Plan(
        sizes=sizes, eager_sizes=(), changes=context.profile.growth_changes, needs=20, keys_per_node=(4,),
        idle_seconds=0.2,
    )  # fmt: skip
    nodes = sum(deployment.nodes for deployment in control_scale.deployments(plan))

    def tell(label: str) -> None:
        size = int(label.split(", ")[1].split()[0])
        context.progress.step(f"growth: {label}", growth_seconds(sizes) * size / nodes)

    folder = context.raw("growth", GROWTH_FILE).parent
    with context.writer("growth", GROWTH_FILE) as writer:
        faults = control_scale.run(plan, writer.write, seed=context.seed, log_folder=folder, tell=tell)
    if faults:
        raise ExperimentError("; ".join(faults))


class _Prepared:
    """Hosts and flows that exist before the network's programs do."""

    def __init__(self, context: Context, stack: ExitStack, label: str) -> None:
        self._context, self._stack, self._label = context, stack, label
        self.hosts: Hosts
        self.flows: Flows
        self.under_way: list[Flow] = []

    def __call__(self, testbed: Testbed) -> None:
        """Start tenants' programs, and the flows of which the first packet is waited for."""
        hosts = self.hosts = Hosts(testbed, self._context.raw(self._label), marks_only=True)
        self._stack.callback(hosts.stop)  # in case the network does not come up
        _know_each_other(testbed)
        for host in RECEIVERS:
            hosts.receiver(host)
        for host in SENDERS:
            hosts.sender(host)
        self.flows = Flows(testbed, hosts)
        self.under_way = self.flows.begin(_START_FLOWS, START_INTERVAL)


def _know_each_other(testbed: Testbed) -> None:
    """Give hosts their neighbours' MAC addresses: their timers for asking again must not be in what is measured."""
    for tenant in testbed.scenario.tenants.values():
        for name in tenant.hosts:
            interface = testbed.plan.ends(name)[0].interface
            testbed.node(name).ip([
                f"neigh replace {address} lladdr {other.mac} dev {interface} nud permanent"
                for host, other in tenant.hosts.items() if host != name for address in other.ips[:1]
            ])  # fmt: skip


def _repeat(
    context: Context, scenario: Scenario, mechanism: str, repeat: int, log: SampleWriter, order: dict[str, Any]
) -> None:
    label = label_of(mechanism, repeat)
    mark = {"mechanism": mechanism, "repeat": repeat}
    with ExitStack() as stack:
        prepared = _Prepared(context, stack, label)
        testbed = stack.enter_context(started(context, scenario, label, prepared))
        stack.callback(prepared.hosts.stop)  # before the network they are in
        flows = prepared.flows
        ready = flows.await_flowing(prepared.under_way, more=3)
        flows.end(prepared.under_way)
        log.write({
            **mark, "place": 0, "event": "start", "begin_ns": testbed.facts["launched_ns"],
            "marks_ns": dict(testbed.facts["marks_ns"]), "interval": START_INTERVAL,
            "flows": [flow.as_dict() for flow in prepared.under_way],
            "missing": None if ready else "tenants' flows did not come through after the start",
        })  # fmt: skip
        events = Events(context, testbed, flows)
        stack.callback(events.stop)
        table = events.table() if mechanism == OURS else events.channel_table()
        names = list(table)
        context.random(f"order {label}").shuffle(names)
        order[f"{NAME} {label}"] = names
        context.run.update(order=order)
        for place, name in enumerate(names, 1):
            context.progress.step(f"{label}: {name}", EVENT_SECONDS)
            common = {**mark, "place": place}
            try:
                for entry in table[name]():
                    log.write({**common, **entry})
                events.settle()
            except (RuntimeError, OSError) as error:
                # The rest of this network cannot be trusted; the others can.
                log.write({**common, "event": name, "missing": str(error)})
                context.run.warn(f"{NAME}: {label}: {name}: {error}; the rest of this repeat was left out")
                return

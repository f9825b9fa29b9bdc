"""The telemetry experiment: the path of one protected flow, as the transit devices on it report it."""

from __future__ import annotations

from experiments.bench import Hosts, address_of, load, records, started, transit_between
from experiments.context import Context, ExperimentError
from experiments.programs import wait_for

SENDER, RECEIVER = "red1", "red3"
_SIZE = 300
_INTERVAL = 0.005


def run(context: Context) -> None:
    """Send a flow through both transit devices and keep the records of it."""
    scenario = load(context)
    tenant = scenario.tenants["red"]
    first, last = tenant.hosts[SENDER].nve, tenant.hosts[RECEIVER].nve
    path = transit_between(scenario, first, last)
    count = context.profile.telemetry_packets
    with started(context, scenario, "full") as testbed, Hosts(testbed, context.raw("hosts")) as hosts:
        context.progress.step(f"follow {count} packets from {SENDER} to {RECEIVER}", 2 + _INTERVAL * count)
        log = hosts.receiver(RECEIVER)
        sender = hosts.sender(SENDER)
        setup = {
            "vni": tenant.vni, "expected_path": path, "sent": count,
            "source": testbed.plan.underlay_addresses[first],
            "destination": testbed.plan.underlay_addresses[last],
        }  # fmt: skip
        with context.writer("setup.jsonl") as writer:
            writer.write(setup)
        order = {
            "do": "send", "label": "telemetry", "trial": 0, "destination": address_of(scenario, RECEIVER),
            "sizes": [_SIZE] * count, "interval": _INTERVAL,
        }  # fmt: skip
        sender.ask(order, 10 + 2 * _INTERVAL * count)
        if not wait_for(lambda: log.exists() and len(log.read_text().splitlines()) >= count, 3):
            raise ExperimentError(f"not all of {count} messages from {SENDER} reached {RECEIVER}")
        wait_for(lambda: len(records(testbed)) >= count * len(path), 3)
        with context.writer("records.jsonl") as writer:
            for record in records(testbed):
                writer.write(record)

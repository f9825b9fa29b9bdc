"""The conformance experiment on the emulated network: every probe under every configuration of every mechanism."""

from __future__ import annotations

import json
from contextlib import ExitStack

from experiments.bench import Hosts, started
from experiments.conformance.analysis import REFUSED, folder_of
from experiments.conformance.networks import Network, networks
from experiments.context import Context
from experiments.mechanism.analysis import PROBE_SECONDS
from experiments.mechanism.evidence import FACTS
from experiments.mechanism.live import Bench, act, start_eve
from experiments.mechanism.probe import Probe
from topologies.scenario_checks import first_fault
from topologies.scenario_file import scenario_path


def run(context: Context) -> None:
    """Make each network once and let its probes act there."""
    for network in networks():
        text = scenario_path(network.file).read_text(encoding="utf-8")
        context.run.update(scenarios={**context.run.record.get("scenarios", {}), network.file: text})
        fault = first_fault(network.scenario)
        if fault is None:
            _run_network(context, network)
        else:
            for probe in network.probes:
                _refuse(context, network, probe, str(fault))


def _refuse(context: Context, network: Network, probe: Probe, fault: str) -> None:
    folder = folder_of(context.run.path, probe, network.configuration)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FACTS).write_text(json.dumps({REFUSED: fault}), encoding="utf-8")


def _run_network(context: Context, network: Network) -> None:
    configuration = network.configuration
    with ExitStack() as stack:
        testbed = stack.enter_context(started(context, network.scenario, network.label))
        eve = start_eve(context, testbed, network.label, stack)
        for probe in network.probes:
            context.progress.step(
                f"SEC-GEN-{probe.requirement} {probe.name} under {configuration.name}", PROBE_SECONDS
            )
            folder = folder_of(context.run.path, probe, configuration)
            folder.mkdir(parents=True, exist_ok=True)
            path = context.captures() / configuration.name / f"{probe.requirement:02}-{probe.name}.pcap"
            path.parent.mkdir(exist_ok=True)
            with Hosts(testbed, folder) as hosts:
                label = f"{probe.name}-{configuration.mechanism}"
                act(probe, Bench(context, testbed, hosts, probe.tenant, probe.tenant, label, folder, 0, eve), path)

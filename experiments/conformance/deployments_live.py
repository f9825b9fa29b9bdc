"""The good deployment on the emulated network, once under each mechanism and once with faults planted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from experiments.audit.deployment import judge
from experiments.audit.faults import FAULTS
from experiments.bench import Hosts, started
from experiments.conformance.analysis import DEPLOYMENTS, ON_THE_WIRE, deployment_line
from experiments.conformance.deployments import (
    ACTS,
    PLANTED,
    SCENARIO,
    Watched,
    deployment,
    faulty,
    in_file,
    seen_in,
    trials,
    with_eve,
)
from experiments.conformance.verdicts import Trial
from experiments.context import Context
from experiments.mechanism.evidence import Evidence
from experiments.mechanism.live import Bench, act, start_eve
from experiments.mechanism.probe import Weight
from topologies.profiles import NO_PROTECTION, OURS
from topologies.scenario import Scenario
from topologies.scenario_file import load_scenario, scenario_path

FAULTY = "planted"
_SECONDS = 4.0


def run(context: Context, mechanisms: Sequence[str]) -> None:
    """Make each deployment, let its tenants and eve act, and write what is to be said of it."""
    text = scenario_path(SCENARIO).read_text(encoding="utf-8")
    context.run.update(scenarios={**context.run.record.get("scenarios", {}), SCENARIO: text})
    with context.raw(DEPLOYMENTS).open("w", encoding="utf-8") as lines:
        for mechanism in mechanisms:
            scenario = deployment(mechanism)
            name = mechanism if scenario.mechanism == OURS else scenario.mechanism
            watched = watch(context, scenario, f"deployment-{name}")
            for requirement, trial in trials(scenario, watched, name).items():
                lines.write(json.dumps(deployment_line(requirement, mechanism, trial)) + "\n")
                if mechanism == NO_PROTECTION:
                    alone = seen_in(requirement, watched, name)
                    line = deployment_line(requirement, mechanism, alone, f"nothing, {ON_THE_WIRE}")
                    lines.write(json.dumps(line) + "\n")
        watched = watch(context, faulty(), f"deployment-{FAULTY}")
        for requirement, (fault, statement) in PLANTED.items():
            trial = seen_in(requirement, watched, FAULTY)
            line = deployment_line(requirement, OURS, trial, f"{fault}, {ON_THE_WIRE}", statement)
            lines.write(json.dumps(line) + "\n")
        for line in faults_in_files():
            lines.write(json.dumps(line) + "\n")


def faults_in_files() -> list[dict[str, object]]:
    """Return lines on the audit's planted faults: its judge of scenario files has to notice each."""
    good = load_scenario(SCENARIO)
    found = []
    for fault in FAULTS:
        for judgement in judge(fault.plant(good)):
            if judgement.requirement in fault.breaks:
                # Also where the file's verdict is only noted beside that of packets.
                findings = tuple(replace(finding, weight=Weight.DEMANDED) for finding in in_file(judgement))
                trial = Trial(SCENARIO, fault.name, findings)
                found.append(deployment_line(judgement.requirement, OURS, trial, f"{fault.name}, in the file"))
    return found


def watch(context: Context, scenario: Scenario, label: str) -> Watched:
    """Make a deployment with eve in it, and return what is left of what was done there."""
    left: dict[str, Evidence] = {}
    with ExitStack() as stack:
        testbed = stack.enter_context(started(context, with_eve(scenario), label))
        eve = start_eve(context, testbed, label, stack)
        for probe in ACTS:
            context.progress.step(f"{probe.name} in {label}", _SECONDS)
            folder = context.raw(label, probe.name, "facts.json").parent
            path = context.captures() / label / f"{probe.name}.pcap"
            path.parent.mkdir(exist_ok=True)
            with Hosts(testbed, folder) as hosts:
                bench = Bench(context, testbed, hosts, probe.tenant, probe.tenant, f"op-{probe.name}", folder, 0, eve)
                act(probe, bench, path)
            left[probe.name] = Evidence.read(context.run.path, folder)
    return Watched(left["red"], left["blue"], left["attacks"])

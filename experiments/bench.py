"""A started testbed for an experiment: facts of it go to run.json, its records and logs to the run."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.context import Context, ExperimentError
from experiments.profiles import START_SECONDS
from experiments.programs import Program, python_module
from experiments.samples import read_lines
from geneve.errors import ConfigError
from topologies.network import Testbed
from topologies.plan import Kind
from topologies.scenario import Scenario
from topologies.scenario_file import load_scenario, scenario_path
from transit.device import Outcome

_PASSING = frozenset({Outcome.NOT_GENEVE, Outcome.NOT_ADDRESSED})
"""Outcomes of frames that a transit device has nothing to do with."""


def load(context: Context) -> Scenario:
    """Load the experiment's scenario and keep its text in run.json; ExperimentError when it is not sound."""
    try:
        scenario = load_scenario(context.scenario)
        text = scenario_path(context.scenario).read_text(encoding="utf-8")
    except ConfigError as error:
        raise ExperimentError(str(error)) from None
    context.run.update(scenarios={**context.run.record.get("scenarios", {}), context.scenario: text})
    return scenario


def with_profile(scenario: Scenario, profile: str) -> Scenario:
    """Return the scenario with every tenant under the security profile named."""
    tenants = {
        name: tenant.model_copy(update={"profile": profile}) for name, tenant in scenario.tenants.items()
    }
    return scenario.model_copy(update={"tenants": tenants})


@contextmanager
def started(
    context: Context, scenario: Scenario, label: str, prepare: Callable[[Testbed], None] | None = None
) -> Iterator[Testbed]:
    """Start a testbed, note its facts, offloads and warnings, and stop it whatever happens.

    The facts are noted again at the end: of some offloads only use shows that the kernel does not have them.
    ``prepare`` gets the testbed when the network stands and no program of it runs yet.
    """
    context.progress.step(f"start the network ({label})", START_SECONDS)
    testbed = Testbed(scenario, context.raw(label, "testbed"), framework=context.framework)
    try:
        testbed.start(None if prepare is None else lambda: prepare(testbed))
        _note_facts(context, testbed, label)
        for text in testbed.warnings:
            context.run.warn(text)
        yield testbed
        _note_facts(context, testbed, label)
    finally:
        testbed.stop()


def _note_facts(context: Context, testbed: Testbed, label: str) -> None:
    facts = {**testbed.facts, "node_offloads": node_offloads(testbed)}
    context.run.update(testbeds={**context.run.record.get("testbeds", {}), f"{context.name} {label}": facts})


def node_offloads(testbed: Testbed) -> dict[str, dict[str, str] | None]:
    """Return what became of the offloads of each NVE and transit device; None for one that is away."""
    found: dict[str, dict[str, str] | None] = {}
    for kind in (Kind.NVE, Kind.TRANSIT):
        for name in testbed.plan.nodes(kind):
            try:
                found[name] = testbed.stats(name).get("offloads")
            except (OSError, ValueError):
                found[name] = None
    return found


def records(testbed: Testbed) -> list[dict[str, Any]]:
    """Return the telemetry records that the collector has written so far."""
    return read_lines(testbed.layout.telemetry)


def host_at(scenario: Scenario, tenant: str, nve: str) -> str:
    """Return the tenant's host behind ``nve``; ExperimentError when it has none."""
    for name, host in scenario.tenants[tenant].hosts.items():
        if host.nve == nve:
            return name
    raise ExperimentError(f"tenant '{tenant}' has no host behind '{nve}' in scenario '{scenario.name}'")


def address_of(scenario: Scenario, host: str) -> str:
    """Return the first address of a tenant's host."""
    for tenant in scenario.tenants.values():
        if host in tenant.hosts:
            return tenant.hosts[host].ips[0]
    raise ExperimentError(f"'{host}' is no tenant's host in scenario '{scenario.name}'")


def devices_between(scenario: Scenario, first: str, last: str) -> list[str]:
    """Return the devices on the cheapest way from one NVE to another, as the scenario file has them."""
    start, goal = scenario.nves[first].attach, scenario.nves[last].attach
    queue: list[tuple[int, str, list[str]]] = [(0, start, [])]
    done = set()
    while queue:
        cost, switch, devices = heapq.heappop(queue)
        if switch == goal:
            return devices
        if switch in done:
            continue
        done.add(switch)
        for link in scenario.underlay.links:
            for near, far, via in (
                (link.between[0], link.between[1], list(link.via)),
                (link.between[1], link.between[0], list(reversed(link.via))),
            ):
                if near == switch and far not in done:
                    heapq.heappush(queue, (cost + link.cost, far, devices + via))
    raise ExperimentError(f"no way from '{first}' to '{last}' in scenario '{scenario.name}'")


def transit_between(scenario: Scenario, first: str, last: str) -> list[str]:
    """Return the transit devices among :func:`devices_between`."""
    return [name for name in devices_between(scenario, first, last) if name in scenario.transit_devices]


def neighbours_on_link(scenario: Scenario, device: str) -> tuple[str, str]:
    """Return what is before and behind a device on its link, from the link's first switch to its second."""
    for link in scenario.underlay.links:
        chain = [link.between[0], *link.via, link.between[1]]
        if device in chain[1:-1]:
            place = chain.index(device)
            return chain[place - 1], chain[place + 1]
    raise ExperimentError(f"'{device}' is on no link of scenario '{scenario.name}'")


def drops(testbed: Testbed) -> dict[str, int]:
    """Return every daemon's drop counters as ``NODE REASON``."""
    counted = {}
    for kind in (Kind.NVE, Kind.TRANSIT):
        for name in testbed.plan.nodes(kind):
            for reason, count in testbed.stats(name).get("drops", {}).items():
                counted[f"{name} {reason}"] = int(count)
    return counted


def outcomes(testbed: Testbed, device: str) -> dict[str, int]:
    """Return what a transit device made of the frames that had to do with it, as ``DEVICE OUTCOME``."""
    counted = testbed.stats(device)["counters"]
    return {f"{device} {outcome.value}": int(counted[outcome.value]) for outcome in Outcome if outcome not in _PASSING}


def difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return which counters grew, and by how much."""
    return {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}


class Hosts:
    """Senders and receivers of marked messages in tenants' hosts, one of each a host at most.

    With ``marks_only`` their logs have each message's mark in place of its whole payload.
    """

    def __init__(self, testbed: Testbed, folder: Path, marks_only: bool = False) -> None:
        self._testbed = testbed
        self._folder = folder
        self._options = ["--marks-only"] if marks_only else []
        self._programs: dict[tuple[str, str], Program] = {}

    def sender(self, host: str) -> Program:
        """Return the host's sender, started on first use."""
        return self._program("send", host, self._folder / f"sent-{host}.jsonl")

    def receiver(self, host: str, everything: bool = False) -> Path:
        """Return the log of the host's receiver, started on first use; with broadcasts if asked for."""
        log = self._folder / f"received-{host}.jsonl"
        self._program("receive", host, log, *(["--everything"] if everything else []))
        return log

    def _program(self, role: str, host: str, log: Path, *options: str) -> Program:
        if (role, host) not in self._programs:
            address = address_of(self._testbed.scenario, host)
            always = ["--address", address, "--log", str(log), *self._options]
            argv = python_module("experiments.traffic", role, *always, *options)
            program = Program(self._testbed.node(host), argv, self._folder / f"{role}-{host}.stderr")
            self._programs[role, host] = program
            program.answer()
        return self._programs[role, host]

    def stop(self) -> None:
        """End all programs."""
        for program in self._programs.values():
            program.stop()
        self._programs = {}

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

"""Which emulated networks the conformance experiment needs, and which probes act in each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from experiments.conformance.configurations import Configuration, configurations, scenario_of, under
from experiments.conformance.draft import MECHANISMS
from experiments.mechanism.probe import Probe
from experiments.mechanism.probes import PROBES
from topologies.scenario import Scenario


@dataclass(slots=True)
class Network:
    """One network: a scenario file under one configuration, and the probes that act in it, one after the other."""

    file: str
    scenario: Scenario
    configuration: Configuration
    probes: list[Probe] = field(default_factory=list)

    @property
    def label(self) -> str:
        """A name for files and progress; that of a network with one tenant only has the tenant's."""
        alone = f"-{self.probes[0].tenant}" if self.configuration.alone else ""
        return f"{self.file}-{self.configuration.name}{alone}"


def networks(probes: Iterable[Probe] = PROBES, mechanisms: Sequence[str] = MECHANISMS) -> list[Network]:
    """Return the networks in which every probe is tried under every configuration, scenario by scenario."""
    found: dict[tuple[str, str, str], Network] = {}
    for probe in sorted(probes, key=lambda probe: probe.scenario):
        scenario = scenario_of(probe.scenario)
        for mechanism in mechanisms:
            for entry in configurations(probe, mechanism, scenario):
                key = (probe.scenario, entry.name, probe.tenant if entry.alone else "")
                if key not in found:
                    found[key] = Network(probe.scenario, under(scenario, entry, probe.tenant), entry)
                found[key].probes.append(probe)
    return list(found.values())

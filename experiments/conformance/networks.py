"""Which emulated networks the conformance experiment needs, and which probes act in each. Pure.

Our own mechanism is tried in each scenario as its file has it. For the others a tenant's profile makes no difference,
so one network with the tenants of all scenarios does; but where an observer could not tell a tenant's packets from
others', as with padding and dummies, the tenant has a network to itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from experiments.conformance.configurations import (
    COMBINED,
    Configuration,
    combined,
    configurations,
    scenario_of,
    under,
)
from experiments.conformance.draft import MECHANISMS
from experiments.mechanism.probe import Probe
from experiments.mechanism.probes import PROBES
from topologies.profiles import OURS
from topologies.scenario import Scenario


@dataclass(slots=True)
class Network:
    """One network: scenario files under one configuration, and the probes that act in it, one after the other."""

    configuration: Configuration
    name: str
    probes: list[Probe] = field(default_factory=list)

    @property
    def files(self) -> tuple[str, ...]:
        """The scenario files that it is made of."""
        return tuple(dict.fromkeys(probe.scenario for probe in self.probes))

    @property
    def label(self) -> str:
        """A name for files and progress."""
        return f"{self.name}-{self.configuration.name}"

    @property
    def scenario(self) -> Scenario:
        """What is made: for other mechanisms than ours with the tenants that act only."""
        if self.configuration.name == OURS:
            return scenario_of(self.name)
        parts: dict[str, list[str]] = {file: [] for file in self.files}
        for probe in self.probes:
            parts[probe.scenario] += (probe.tenant, *probe.beside)
        return under(combined(parts), self.configuration)


def networks(probes: Iterable[Probe] = PROBES, mechanisms: Sequence[str] = MECHANISMS) -> list[Network]:
    """Return the networks in which every probe is tried under every configuration, mechanism by mechanism."""
    found: dict[tuple[str, str], Network] = {}
    ordered = sorted(probes, key=lambda probe: probe.scenario)
    for mechanism in mechanisms:
        for probe in ordered:
            for entry in configurations(probe, mechanism, scenario_of(probe.scenario)):
                name = probe.scenario if mechanism == OURS else probe.tenant if entry.alone else COMBINED
                found.setdefault((name, entry.name), Network(entry, name)).probes.append(probe)
    return list(found.values())


def chosen(requirements: Iterable[int]) -> tuple[Probe, ...]:
    """Return the probes of some requirements; all for none."""
    numbers = set(requirements)
    return tuple(probe for probe in PROBES if not numbers or probe.requirement in numbers)

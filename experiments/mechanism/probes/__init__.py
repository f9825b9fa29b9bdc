"""The probes, by what they look at. Each module has a tuple PROBES."""

from __future__ import annotations

from experiments.mechanism.probe import Probe
from experiments.mechanism.probes import authentication, confidentiality, multicast, options, patterns, policy

_MODULES = (confidentiality, options, patterns, authentication, policy, multicast)

PROBES: tuple[Probe, ...] = tuple(
    sorted((probe for module in _MODULES for probe in module.PROBES), key=lambda probe: probe.requirement)
)
"""All probes, in the order of the requirements."""

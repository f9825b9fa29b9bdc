"""The probes, by what they look at. Each module has a tuple PROBES."""

from __future__ import annotations

from experiments.mechanism.probe import Probe

PROBES: tuple[Probe, ...] = ()
"""All probes, in the order of the requirements."""

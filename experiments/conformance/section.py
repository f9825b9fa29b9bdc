"""The conformance experiment's part of a run's page, and how long it takes."""

from __future__ import annotations

from pathlib import Path

from experiments.conformance import analysis, page, plots
from experiments.conformance.draft import MECHANISMS
from experiments.conformance.networks import chosen, networks
from experiments.mechanism.analysis import PROBE_SECONDS
from experiments.profiles import START_SECONDS, Profile
from experiments.report import Section

DEPLOYMENT_SECONDS = 10.0
"""About how long tenants and eve act in one deployment."""


def seconds(profile: Profile) -> float:
    """Return the plan for progress: the networks to start, and the probes that act in them."""
    planned = networks(chosen(profile.conformance))
    found = START_SECONDS * len(planned) + PROBE_SECONDS * sum(len(network.probes) for network in planned)
    if not profile.conformance:
        found += (len(MECHANISMS) + 1) * (START_SECONDS + DEPLOYMENT_SECONDS)
    return found


def section(root: Path) -> Section:
    """Make tables and plots of a run again from its raw files."""
    result = analysis.analyse(root, series=analysis.series_of(root))
    folders = {name: root / name for name in ("csv", "plots")}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    analysis.write_tables(result, folders["csv"])
    differing = analysis.differing(result)
    return Section(
        analysis.NAME, "The draft's tables", "Each requirement under each mechanism, by probes on the emulated "
        "network, beside what the draft's appendix says of DTLS and of IPsec (which it judges as one). The best "
        "configuration of a mechanism counts for SEC-GEN, deployments as they are for SEC-OP. Without protection "
        "(none) every probe has "
        f"to find the fault. {len(differing)} cells differ from the draft's, each with an explanation.",
        analysis.summary(result),
        (),
        plots.draw(result, folders["plots"]), result.failures, result.warnings,
        page.markup(result),
    )  # fmt: skip

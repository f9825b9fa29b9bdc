"""The conformance experiment's part of a run's page, and how long it takes."""

from __future__ import annotations

from pathlib import Path

from experiments.conformance import analysis, plots
from experiments.conformance.draft import GEN, OP
from experiments.conformance.networks import networks
from experiments.mechanism.analysis import PROBE_SECONDS
from experiments.profiles import START_SECONDS
from experiments.report import Section, Table


def seconds() -> float:
    """Return the plan for progress: the networks to start, and the probes that act in them."""
    planned = networks()
    return START_SECONDS * len(planned) + PROBE_SECONDS * sum(len(network.probes) for network in planned)


def section(root: Path) -> Section:
    """Make tables and plots of a run again from its raw files."""
    series = (GEN, OP) if (root / "raw" / analysis.NAME / analysis.DEPLOYMENTS).exists() else (GEN,)
    result = analysis.analyse(root, series=series)
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
        (
            Table("conformance.csv", "Verdicts", "draft verdict: Y, N or Y/N; empty: the draft says nothing. It is "
                  "compared strictly: Y with met, N with not met, Y/N with met in part."),
            Table("conformance-findings.csv", "Findings", "One row per statement; weight: whether the requirement "
                  "demands it, the trial is void without it, or it is only noted; parts: what of the requirement needs "
                  "it; counts: whether the verdict rests on this trial; packets: numbers in the capture."),
        ),
        plots.draw(result, folders["plots"]), result.failures, result.warnings,
    )  # fmt: skip

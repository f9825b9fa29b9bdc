"""The mechanism's table: SEC-GEN-1 to 17, each met or not, with the evidence. Pure: reads a run's files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.mechanism.evidence import Evidence
from experiments.mechanism.probe import Finding, Probe, Weight
from experiments.mechanism.probes import PROBES
from experiments.tables import write_csv

NAME = "mechanism"
PROBE_SECONDS = 3.0
"""About how long a probe takes for one tenant."""
MET, NOT_MET = "met", "not met"
KINDS = ("probe", "crippled")
FINDING_COLUMNS = ("requirement", "level", "probe", "tenant", "statement", "verdict", "reason", "packets", "capture")
REQUIREMENT_COLUMNS = ("requirement", "level", "verdict", "crippled", "statements", "capture", "reason")


@dataclass(slots=True)
class MechanismResult:
    """All findings, one row per requirement, and what went wrong."""

    findings: list[dict[str, Any]] = field(default_factory=list)
    requirements: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def folder_of(run: Path, probe: Probe, kind: str) -> Path:
    """Return where a probe's evidence for the tenant (``probe``) or its twin (``crippled``) lies."""
    return run / "raw" / NAME / f"{probe.requirement:02}-{probe.name}" / kind


def analyse(run: Path, probes: Iterable[Probe] = PROBES) -> MechanismResult:
    """Judge every probe's evidence."""
    result = MechanismResult()
    by_requirement: dict[int, list[Probe]] = {}
    for probe in probes:
        by_requirement.setdefault(probe.requirement, []).append(probe)
    for number, group in sorted(by_requirement.items()):
        _judge_requirement(run, number, group, result)
    return result


def _judge_requirement(run: Path, number: int, probes: list[Probe], result: MechanismResult) -> None:
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for probe in probes:
        for kind in KINDS:
            findings, capture = _judge(run, probe, kind, result)
            rows[kind] += [_row(probe, kind, finding, capture) for finding in findings]
            noticed = any(not finding.holds and finding.weight is not Weight.CONTROL for finding in findings)
            if kind == "crippled":
                result.failures += [
                    f"mechanism: {probe.name} (crippled) proves nothing: {finding.statement}: it does not "
                    f"({finding.reason})"
                    for finding in findings if finding.weight is Weight.CONTROL and not finding.holds
                ]  # fmt: skip
            if kind == "crippled" and not noticed:
                result.failures.append(
                    f"mechanism: the probe {probe.name} of SEC-GEN-{number} finds nothing wrong with a crippled profile"
                )
    for kind in KINDS:
        result.findings += rows[kind]
    met = bool(rows["probe"]) and all(row["verdict"] == "holds" for row in rows["probe"])
    first_fault = next((row["reason"] for row in rows["probe"] if row["verdict"] != "holds"), "")
    if not met:
        result.failures.append(f"mechanism: SEC-GEN-{number} is not met: {first_fault or 'no findings'}")
    crippled = all(
        any(row["verdict"] != "holds" and not row["control"] for row in rows["crippled"] if row["probe"] == probe.name)
        for probe in probes
    )
    result.requirements.append(
        {
            "requirement": f"SEC-GEN-{number}", "level": probes[0].level, "verdict": MET if met else NOT_MET,
            "crippled": NOT_MET if crippled else MET,
            "statements": "; ".join(dict.fromkeys(row["statement"] for row in rows["probe"])),
            "capture": ", ".join(dict.fromkeys(row["capture"] for row in rows["probe"])),
            "reason": first_fault or "; ".join(dict.fromkeys(row["reason"] for row in rows["probe"])),
        }
    )  # fmt: skip


def _judge(run: Path, probe: Probe, kind: str, result: MechanismResult) -> tuple[list[Finding], str]:
    try:
        evidence = Evidence.read(run, folder_of(run, probe, kind))
        return probe.judge(evidence), str(evidence.facts["capture"])
    except (ValueError, KeyError) as error:
        result.failures.append(f"mechanism: {probe.name} ({kind}) cannot be judged: {error}")
        return [], ""


def _row(probe: Probe, kind: str, finding: Finding, capture: str) -> dict[str, Any]:
    shown = ", ".join(str(number) for number in finding.packets[:8]) + (" ..." if len(finding.packets) > 8 else "")
    return {
        "requirement": f"SEC-GEN-{probe.requirement}", "level": probe.level, "probe": probe.name, "tenant": kind,
        "statement": finding.statement, "verdict": "holds" if finding.holds else "does not hold",
        "reason": finding.reason, "packets": shown, "capture": capture, "control": finding.weight is Weight.CONTROL,
    }  # fmt: skip


def write_tables(result: MechanismResult, folder: Path) -> None:
    """Write mechanism.csv (one row per requirement) and mechanism-findings.csv."""
    write_csv(folder / "mechanism.csv", result.requirements, REQUIREMENT_COLUMNS)
    write_csv(folder / "mechanism-findings.csv", result.findings, FINDING_COLUMNS)


def summary(result: MechanismResult) -> dict[str, Any]:
    """Return what summary.json has of the experiment."""
    return {
        "met": sum(row["verdict"] == MET for row in result.requirements),
        "requirements": len(result.requirements),
        "crippled_noticed": sum(row["crippled"] == NOT_MET for row in result.requirements),
        "verdicts": {row["requirement"]: row["verdict"] for row in result.requirements},
    }

"""The conformance experiment's table: each requirement under each mechanism, beside the draft's letter. Pure.

Reads a run's files. The probes are those of the mechanism experiment (SEC-GEN), the deployments those of the audit
(SEC-OP); whatever judged, its statements become trials here, and trials verdicts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.conformance.configurations import Configuration, configurations, scenario_of
from experiments.conformance.draft import BY_NAME, GEN, MECHANISMS, OP, REQUIREMENTS, Requirement, judgement
from experiments.conformance.explanations import explain
from experiments.conformance.verdicts import Agreement, Decision, Trial, Verdict, agreement, decide
from experiments.mechanism.evidence import Evidence
from experiments.mechanism.probe import Finding, Probe, Weight
from experiments.mechanism.probes import PROBES
from experiments.tables import write_csv
from topologies.profiles import NO_PROTECTION

NAME = "conformance"
REFUSED = "refused"
"""Key of the facts of a configuration that the testbed refuses to make, with the reason."""
DEPLOYMENTS = "deployments.jsonl"
"""Verdicts on deployments, one trial a line, as :func:`deployment_line` writes them."""
ON_THE_WIRE = "on the wire"
"""How the name of a fault ends that packets must show."""
PLAN = "plan.json"
"""Which SEC-GEN requirements a run has tried, by number, where not all."""
COLUMNS = ("requirement", "level", "mechanism", "verdict", "draft_verdict", "evidence", "reason")
FINDING_COLUMNS = (
    "requirement", "mechanism", "probe", "configuration", "statement", "weight", "parts", "holds", "reason", "packets",
    "capture", "missing", "counts", "agreement", "explanation",
)  # fmt: skip
Trials = dict[tuple[str, str], list[Trial]]
"""Trials by requirement and mechanism."""


@dataclass(slots=True)
class ConformanceResult:
    """The rows of the table, all statements, and what went wrong."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    decisions: dict[tuple[str, str], Decision] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def folder_of(run: Path, probe: Probe, configuration: Configuration) -> Path:
    """Return where a probe's evidence under a configuration lies."""
    return run / "raw" / NAME / configuration.name / f"{probe.requirement:02}-{probe.name}"


def analyse(
    run: Path, probes: Iterable[Probe] = PROBES, mechanisms: Sequence[str] = MECHANISMS, series: Sequence[str] = (GEN,)
) -> ConformanceResult:
    """Judge all evidence of a run. ``series`` are those that the run has tried."""
    trials: Trials = {}
    planted: list[Planted] = []
    if GEN in series:
        for probe in probes:
            for mechanism in mechanisms:
                found = [_try(run, probe, entry) for entry in _plan(probe, mechanism)]
                trials.setdefault((f"{GEN}-{probe.requirement}", mechanism), []).extend(found)
    faults: list[str] = []
    if OP in series:
        try:
            deployments, planted = read_deployments(run)
            trials.update(deployments)
        except (OSError, ValueError) as error:
            faults.append(f"conformance: the deployments cannot be judged: {error}")
    wanted = [requirement for requirement in REQUIREMENTS if requirement.series in series]
    if GEN in series and (run / "raw" / NAME / PLAN).exists():
        tried = json.loads((run / "raw" / NAME / PLAN).read_text(encoding="utf-8"))
        wanted = [requirement for requirement in wanted if requirement.series == OP or requirement.number in tried]
    result = conclude(trials, wanted, mechanisms)
    _check_planted(planted, wanted, result)
    result.failures += faults
    return result


def series_of(run: Path) -> tuple[str, ...]:
    """Return the series that a run was to try: the deployments' too, unless it was planned for some requirements."""
    plan = run / "raw" / NAME / PLAN
    if (run / "raw" / NAME / DEPLOYMENTS).exists() or not plan.exists():
        return (GEN, OP)
    tried = set(json.loads(plan.read_text(encoding="utf-8")))
    return (GEN, OP) if tried >= {entry.number for entry in REQUIREMENTS if entry.series == GEN} else (GEN,)


def _plan(probe: Probe, mechanism: str) -> tuple[Configuration, ...]:
    return configurations(probe, mechanism, scenario_of(probe.scenario))


def _try(run: Path, probe: Probe, configuration: Configuration) -> Trial:
    folder = folder_of(run, probe, configuration)
    name, missing = configuration.name, configuration.missing
    try:
        evidence = Evidence.read(run, folder)
        if REFUSED in evidence.facts:
            refusal = Finding("the mechanism can be set up for this", False, str(evidence.facts[REFUSED]))
            return Trial(probe.name, name, (refusal,), missing=missing)
        findings = probe.judge(evidence)
        return Trial(probe.name, name, tuple(findings), str(evidence.facts["capture"]), missing)
    except (OSError, ValueError, KeyError) as error:
        return Trial(probe.name, name, missing=missing, fault=f"cannot be judged: {error}")


# --- deployments -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Planted:
    """A deployment in which ``fault`` was planted, so that ``requirement`` must be found violated.

    ``statement`` is the one that must not hold; empty: any one.
    """

    requirement: str
    mechanism: str
    fault: str
    trial: Trial
    statement: str = ""

    @property
    def noticed(self) -> bool:
        """Whether the fault was found, by packets if it was planted for them: silence shows no fault."""
        found = [finding for finding in self.trial.failed if self.statement in ("", finding.statement)]
        return any(finding.packets or not self.fault.endswith(ON_THE_WIRE) for finding in found)


def deployment_line(
    requirement: str, mechanism: str, trial: Trial, planted: str = "", statement: str = ""
) -> dict[str, Any]:
    """Return one line of DEPLOYMENTS: a deployment judged for a requirement under a mechanism.

    ``trial.probe`` is the deployment's name, ``trial.configuration`` the profile it ran under. ``planted`` names the
    fault that was planted against the requirement: such a line is a negative control and part of no verdict.
    ``statement`` is the one that must fail then.
    """
    return {
        "requirement": requirement, "mechanism": mechanism, "planted": planted, "must fail": statement,
        "deployment": trial.probe,
        "configuration": trial.configuration, "capture": trial.capture, "inapplicable": trial.inapplicable,
        "fault": trial.fault,
        "findings": [
            {"statement": f.statement, "holds": f.holds, "reason": f.reason, "packets": list(f.packets),
             "weight": f.weight.value, "parts": list(f.parts)}
            for f in trial.findings
        ],
    }  # fmt: skip


def read_deployments(run: Path) -> tuple[Trials, list[Planted]]:
    """Return the trials of DEPLOYMENTS and its negative controls.

    ValueError on a damaged line, OSError without such a file.
    """
    path = run / "raw" / NAME / DEPLOYMENTS
    found: Trials = {}
    planted: list[Planted] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            if entry["requirement"] not in BY_NAME or entry["mechanism"] not in MECHANISMS:
                raise ValueError("unknown requirement or mechanism")
            fault = str(entry["planted"])
            trial = Trial(
                entry["deployment"], entry["configuration"], tuple(_finding(item) for item in entry["findings"]),
                entry["capture"], (), entry["inapplicable"], entry["fault"],
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if fault:
            planted.append(Planted(entry["requirement"], entry["mechanism"], fault, trial, str(entry["must fail"])))
        else:
            found.setdefault((entry["requirement"], entry["mechanism"]), []).append(trial)
    return found, planted


def _check_planted(planted: Sequence[Planted], wanted: Iterable[Requirement], result: ConformanceResult) -> None:
    """A judge that does not see a fault that was planted proves nothing by seeing none; one without a fault neither."""
    tested = {entry.requirement for entry in planted}
    for requirement in wanted:
        if requirement.series == OP and requirement.name not in tested:
            result.failures.append(f"conformance: no fault was planted against {requirement.name}")
    for entry in planted:
        where = f"conformance: the planted fault '{entry.fault}' against {entry.requirement} under {entry.mechanism}"
        if entry.trial.void:
            result.failures.append(f"{where} could not be judged: {entry.trial.void}")
        elif not entry.noticed:
            result.failures.append(f"{where} is not noticed")


def _finding(item: Mapping[str, Any]) -> Finding:
    return Finding(
        item["statement"], bool(item["holds"]), item["reason"], tuple(item["packets"]), Weight(item["weight"]),
        tuple(item["parts"]),
    )  # fmt: skip


# --- the table ---------------------------------------------------------------------------------------


def conclude(trials: Trials, requirements: Iterable[Requirement], mechanisms: Sequence[str]) -> ConformanceResult:
    """Decide every cell and compare it with the draft's."""
    result = ConformanceResult()
    for requirement in requirements:
        for mechanism in mechanisms:
            found = trials.get((requirement.name, mechanism), [])
            _cell(requirement, mechanism, decide(requirement, found), result)
        if requirement.series == GEN:
            _check_control(requirement, trials.get((requirement.name, NO_PROTECTION), []), result)
    return result


def _cell(requirement: Requirement, mechanism: str, decision: Decision, result: ConformanceResult) -> None:
    result.decisions[requirement.name, mechanism] = decision
    said = judgement(requirement.name, mechanism)
    compared = agreement(None if said is None else said.letter, decision.verdict)
    explanation = ""
    where = f"conformance: {requirement.name} under {mechanism}"
    if decision.verdict is Verdict.VOID:
        result.failures.append(f"{where} cannot be judged: {decision.reason}")
    elif compared is Agreement.DIFFERS and said is not None:
        explanation = explain(requirement.name, mechanism, decision) or ""
        if not explanation:
            result.failures.append(
                f"{where} is {decision.verdict.value}, the draft says {said.letter}, and nothing explains why"
            )
    if decision.verdict is not Verdict.VOID:
        result.warnings += [f"{where}: not counted: {fault}" for fault in decision.faults]
    result.rows.append(
        {
            "requirement": requirement.name, "level": requirement.level, "mechanism": mechanism,
            "verdict": decision.verdict.value, "draft_verdict": "" if said is None else said.letter,
            "evidence": _evidence(decision), "reason": decision.reason,
        }
    )  # fmt: skip
    counting = {id(trial) for trial in decision.grounds}
    for trial in decision.trials:
        shared = {
            "requirement": requirement.name, "mechanism": mechanism, "probe": trial.probe,
            "configuration": trial.configuration, "capture": trial.capture, "missing": "; ".join(trial.missing),
            "counts": id(trial) in counting, "agreement": compared.value, "explanation": explanation,
        }  # fmt: skip
        result.findings += [{**shared, **_finding_row(finding)} for finding in trial.findings]


def _check_control(requirement: Requirement, unprotected: Sequence[Trial], result: ConformanceResult) -> None:
    """Without any protection every probe must find the fault, or its statements prove nothing."""
    for trial in unprotected:
        if trial.void or not trial.parts():
            continue
        if any(trial.parts().values()) or not any(finding.packets for finding in trial.failed):
            result.failures.append(
                f"conformance: the probe {trial.probe} of {requirement.name} finds nothing wrong without protection"
            )


def _finding_row(finding: Finding) -> dict[str, Any]:
    return {
        "statement": finding.statement, "weight": finding.weight.value, "parts": "; ".join(finding.parts),
        "holds": finding.holds, "reason": finding.reason, "packets": shown(finding.packets),
    }  # fmt: skip


def shown(packets: Sequence[int], most: int = 8) -> str:
    """Return packets' numbers as text, the first of them if they are many."""
    return ", ".join(map(str, packets[:most])) + (" ..." if len(packets) > most else "")


def _evidence(decision: Decision) -> str:
    """Return where to look: for each trial that counts its capture and packets, and which configurations were tried."""
    texts = []
    for trial in decision.grounds:
        packets = sorted({number for finding in trial.findings for number in finding.packets})
        where = f"{trial.capture or 'no capture'}"
        texts.append(where + (f" packets {shown(packets)}" if packets else ""))
    counting = {id(trial) for trial in decision.grounds}
    probes = {trial.probe for trial in decision.grounds if trial.failed}
    for trial in decision.trials:
        if id(trial) not in counting and trial.probe in probes and trial.failed:
            packets = sorted({number for finding in trial.findings for number in finding.packets})
            texts.append(f"{trial.capture or 'no capture'} packets {shown(packets)}")
    missing = dict.fromkeys(text for trial in decision.trials for text in trial.missing)
    texts.append("tried: " + ", ".join(decision.configurations))
    if missing:
        texts.append("settings without a counterpart: " + ", ".join(missing))
    return "; ".join(dict.fromkeys(texts))


def write_tables(result: ConformanceResult, folder: Path) -> None:
    """Write conformance.csv (one row per requirement and mechanism) and conformance-findings.csv (all statements)."""
    write_csv(folder / "conformance.csv", result.rows, COLUMNS)
    write_csv(folder / "conformance-findings.csv", result.findings, FINDING_COLUMNS)


def summary(result: ConformanceResult) -> dict[str, Any]:
    """Return what summary.json has: verdicts by mechanism, and the cells that differ from the draft's."""
    verdicts: dict[str, dict[str, str]] = {}
    for row in result.rows:
        verdicts.setdefault(row["mechanism"], {})[row["requirement"]] = row["verdict"]
    counts = {
        mechanism: {verdict.value: list(cells.values()).count(verdict.value) for verdict in Verdict}
        for mechanism, cells in verdicts.items()
    }
    return {"counts": counts, "verdicts": verdicts, "differs": differing(result)}


def differing(result: ConformanceResult) -> list[str]:
    """Return the cells that differ from the draft's, as "requirement mechanism"."""
    cells = []
    for (requirement, mechanism), decision in result.decisions.items():
        said = judgement(requirement, mechanism)
        letter = None if said is None else said.letter
        if decision.verdict is not Verdict.VOID and agreement(letter, decision.verdict) is Agreement.DIFFERS:
            cells.append(f"{requirement} {mechanism}")
    return cells

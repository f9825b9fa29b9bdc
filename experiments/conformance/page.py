"""The table of verdicts as HTML, and behind each cell what it rests on: statements, captures and packets."""

from __future__ import annotations

from html import escape

from experiments.conformance.analysis import ConformanceResult, shown
from experiments.conformance.draft import BY_NAME, judgement
from experiments.conformance.explanations import explain
from experiments.conformance.verdicts import Agreement, Decision, Trial, Verdict, agreement
from experiments.mechanism.probe import Weight
from experiments.report import with_links

_COLOURS = {Verdict.MET: "#e6f2e6", Verdict.IN_PART: "#fdf3d7", Verdict.NOT_MET: "#fbe3e0"}
_MOST_PACKETS = 40


def markup(result: ConformanceResult) -> str:
    """Return the table with links to the evidence, and the evidence cell by cell; nothing without cells."""
    requirements = list(dict.fromkeys(requirement for requirement, _ in result.decisions))
    mechanisms = list(dict.fromkeys(mechanism for _, mechanism in result.decisions))
    if not requirements:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in ("requirement", "", *mechanisms))
    rows = []
    for requirement in requirements:
        cells = "".join(_cell(requirement, name, result.decisions[requirement, name]) for name in mechanisms)
        told = BY_NAME[requirement]
        rows.append(f"<tr><td>{requirement}<br><small>{told.level}</small></td><td>{escape(told.title)}</td>{cells}</tr>")
    parts = [
        '<h3>Verdicts, with links to their evidence</h3><p class="caption">In brackets what the draft says; a frame: '
        'the verdict differs from it. All as files: <a href="csv/conformance.csv">verdicts</a>, '
        '<a href="csv/conformance-findings.csv">statements</a>.</p>'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>',
        '<h3>Evidence</h3><p class="caption">Packets are numbered as Wireshark counts them in the capture.</p>'
        '<div class="wide">',
    ]
    for requirement in requirements:
        told = BY_NAME[requirement]
        parts.append(f"<h4>{requirement} ({told.level}, section {told.section}): {escape(told.title)}</h4>")
        parts += [_evidence(requirement, name, result.decisions[requirement, name]) for name in mechanisms]
    return "\n".join([*parts, "</div>"])


def anchor(requirement: str, mechanism: str) -> str:
    """Return the name of a cell's evidence on the page."""
    return f"{requirement}-{mechanism}".lower()


def _differs(requirement: str, mechanism: str, decision: Decision) -> bool:
    said = judgement(requirement, mechanism)
    return agreement(None if said is None else said.letter, decision.verdict) is Agreement.DIFFERS


def _cell(requirement: str, mechanism: str, decision: Decision) -> str:
    said = judgement(requirement, mechanism)
    letter = "" if said is None else f" <small>({said.letter})</small>"
    kind = ' class="differs"' if _differs(requirement, mechanism, decision) else ""
    colour = _COLOURS.get(decision.verdict, "#fff")
    return (
        f'<td{kind} style="background: {colour}"><a href="#{anchor(requirement, mechanism)}">'
        f"{escape(decision.verdict.value)}</a>{letter}</td>"
    )


def _evidence(requirement: str, mechanism: str, decision: Decision) -> str:
    said = judgement(requirement, mechanism)
    text = f"<strong>{escape(mechanism)}: {escape(decision.verdict.value)}</strong>"
    if said is not None:
        text += f". The draft (section {said.section}): {said.letter}. {escape(said.reasoning)}"
        text += f" {escape(said.remark)}" if said.remark else ""
    if _differs(requirement, mechanism, decision):
        why = explain(requirement, mechanism, decision)
        text += f"<p><em>Why it differs:</em> {with_links(why or 'Nothing explains it.')}</p>"
    counting = {id(trial) for trial in decision.grounds}
    trials = "".join(_trial(trial, id(trial) in counting) for trial in decision.trials)
    return f'<div class="cell" id="{anchor(requirement, mechanism)}">{text}{trials}</div>'


def _trial(trial: Trial, counts: bool) -> str:
    where = with_links(trial.capture) if trial.capture else "no capture"
    kind = "" if counts else ", which the verdict does not rest on"
    lines = [f"<p>{escape(trial.probe)} under {escape(trial.configuration)}{kind}: {where}</p>"]
    if trial.void:
        lines.append(f"<p>Nothing can be concluded: {escape(trial.void)}</p>")
    items = []
    for finding in trial.findings:
        note = {Weight.DEMANDED: "", Weight.CONTROL: " (control)", Weight.NOTE: " (note)"}[finding.weight]
        packets = f"; packets {shown(finding.packets, _MOST_PACKETS)}" if finding.packets else ""
        holds = "holds" if finding.holds else "does not hold"
        items.append(f"<li>{escape(finding.statement)}{note}: <b>{holds}</b>. {escape(finding.reason)}{packets}</li>")
    return "".join(lines) + f"<ul>{''.join(items)}</ul>"

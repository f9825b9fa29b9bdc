"""Attacks: from raw samples and captures to verdicts. Pure: reads a run's files, needs no root.

A verdict rests on what the victim tenant received, what the collector holds and what the attacker's
capture contains. The drop counters of the nodes and the outcomes that a transit device counts itself
stand beside it as an explanation and never decide.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.capture import CaptureReader
from experiments.samples import read_lines
from experiments.statistics import wilson
from experiments.tables import rounded, write_csv
from experiments.traffic import Message, parse_message

NAME = "attacks"
CONTROL = "none"
MODES = (CONTROL, "full", "dtls", "esp", "ah", "dtls-null", "esp-null")
"""Without protection, security options, and the channels below Geneve; each a network of its own."""
CHANNELS = MODES[2:]
UNENCRYPTED = {
    "ah": "AH does not encrypt", "dtls-null": "DTLS with NULL_SHA does not encrypt",
    "esp-null": "ESP with NULL encryption does not encrypt",
}  # fmt: skip
"""Modes that are not meant to keep anything secret, and what is to be said of them."""
FORGE_TELEMETRY, ADD_TELEMETRY = "forge_telemetry", "add_telemetry"
TELEMETRY_ATTACKS = (FORGE_TELEMETRY, ADD_TELEMETRY)
"""Against a transit device: a telemetry option changed, and one added to a packet stripped of its options."""
ATTACKS = ("sniff", "modify", "inject", "replay", "cross_vni", *TELEMETRY_ATTACKS)
_NULL_ATTACKS = ("sniff", "modify")
"""What a NULL cipher makes another thing of; all else is as with the cipher of the same protocol."""
SESSION_ATTACKS = ("alert", "hello_request", "client_hello")
"""Variants of ``inject`` that are to break a session of DTLS, not to bring a message."""
LEGITIMATE = "legitimate"
"""Label of the messages that must get through."""

CONTROL_RATE = 0.5
"""An attack counts as working in the control when at least this share of its packets succeeds."""
LEGITIMATE_RATE = 0.95
"""Share of the legitimate messages that must arrive, or a mode's outcome proves nothing."""

LOST_RATE = 0.2
"""Share of an attack's trials that may be lost (nothing passed after the attack), or its outcome proves nothing."""

SUCCEEDED, RESISTED, BROKEN, INVALID = "attack succeeded (control)", "resisted", "BROKEN", "INVALID"
BY_DESIGN, NOT_APPLICABLE = "succeeds by design", "not applicable"


def attacks_in(mode: str) -> tuple[str, ...]:
    """Return the attacks that are tried in a mode."""
    return _NULL_ATTACKS if mode.endswith("-null") else ATTACKS


def resists(attack: str, mode: str) -> bool:
    """Whether a mode claims to withstand an attack, so that a single success fails the run."""
    return mode != CONTROL and not (attack == "sniff" and mode in UNENCRYPTED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attack in one mode. ``sent`` and ``delivered`` count packets; ``drops`` are by node and reason.

    ``trials``, ``sent`` and ``drops`` are of the trials that were not lost. So is ``delivered`` where the attack must
    succeed; where it must not, it counts every success, those in lost trials too.

    ``outcomes`` are what the attacked transit device itself made of the frames during the trials, by
    device and outcome; empty for attacks that are not aimed at one.
    """

    attack: str
    mode: str
    trials: int
    sent: int
    delivered: int
    verdict: str
    reason: str
    drops: dict[str, int]
    evidence: str
    outcomes: dict[str, int] = field(default_factory=dict)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson 95% interval of the success rate; None when nothing was sent."""
        return wilson(min(self.delivered, self.sent), self.sent) if self.sent else None


@dataclass(frozen=True, slots=True)
class Legitimate:
    """Legitimate messages of one flow in one mode."""

    mode: str
    flow: str
    sent: int
    received: int


@dataclass(slots=True)
class AttacksResult:
    """Everything that tables and plots show. ``failures`` non-empty means that the run failed."""

    outcomes: list[Outcome] = field(default_factory=list)
    legitimate: list[Legitimate] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Evidence:
    """What one mode left behind: trials, logs by host, telemetry records, and the attacker's capture.

    ``legitimate`` is when each legitimate message was sent, in nanoseconds.
    """

    trials: list[dict[str, Any]]
    sent: dict[str, list[bytes]]
    received: dict[str, list[bytes]]
    records: list[dict[str, Any]]
    sniffed: list[bytes]
    flows: list[dict[str, str]]
    legitimate: dict[bytes, int]


def load_evidence(run: Path, mode: str) -> Evidence:
    """Read the files of one mode; what is missing is empty."""
    raw = run / "raw" / NAME / mode
    sniffed: list[bytes] = []
    capture = run / "captures" / NAME / f"{mode}-eve.pcap"
    if capture.exists():
        with CaptureReader(capture) as reader:
            sniffed = [frame.data for frame in reader]
    flows = [entry for entry in read_lines(raw / "setup.jsonl") if "flow" in entry]
    return Evidence(
        trials=read_lines(raw / "trials.jsonl"),
        sent=_payloads(raw, "sent", "sent"),
        received=_payloads(raw, "received", "received"),
        records=read_lines(raw / "records.jsonl"),
        sniffed=sniffed,
        flows=flows,
        legitimate=_legitimate_times(raw, flows),
    )


def _legitimate_times(raw: Path, flows: list[dict[str, str]]) -> dict[bytes, int]:
    times = {}
    for flow in flows:
        for entry in read_lines(raw / f"sent-{flow['sender']}.jsonl"):
            payload = bytes.fromhex(entry["payload"])
            if entry["event"] == "sent" and _is_of_flow(payload, flow):
                times[payload] = int(entry["time_ns"])
    return times


def _is_of_flow(payload: bytes, flow: dict[str, str]) -> bool:
    message = parse_message(payload)
    return message is not None and message.label == f"{LEGITIMATE}-{flow['flow']}"


def _payloads(raw: Path, prefix: str, event: str) -> dict[str, list[bytes]]:
    logs = {}
    for path in sorted(raw.glob(f"{prefix}-*.jsonl")):
        host = path.stem.removeprefix(f"{prefix}-")
        entries = read_lines(path)
        logs[host] = [bytes.fromhex(entry["payload"]) for entry in entries if entry["event"] == event]
    return logs


def analyse(run: Path) -> AttacksResult:
    """Read what all modes left and judge every attack."""
    result = AttacksResult()
    working: set[str] = set()
    for mode in MODES:
        evidence = load_evidence(run, mode)
        legitimate = _legitimate(mode, evidence)
        result.legitimate.extend(legitimate)
        for attack in attacks_in(mode):
            outcome = judge(attack, mode, evidence, legitimate)
            if outcome.verdict == SUCCEEDED:
                working.add(attack)
            elif outcome.verdict in (RESISTED, NOT_APPLICABLE) and attack not in working:
                reason = "the attack does not work without protection either, so this shows nothing"
                outcome = replace(outcome, verdict=INVALID, reason=reason)
            result.outcomes.append(outcome)
            if outcome.verdict in (BROKEN, INVALID):
                result.failures.append(f"{attack} in mode {mode}: {outcome.verdict}: {outcome.reason}")
            missing = [trial["missing"] for trial in _trials(evidence, attack) if trial.get("missing")]
            lost = f"attacks: {attack} in mode {mode}: trial lost"
            result.warnings.extend(f"{lost}: {text}" for text in missing)
    return result


def _trials(evidence: Evidence, attack: str) -> list[dict[str, Any]]:
    return [trial for trial in evidence.trials if trial["attack"] == attack]


def _legitimate(mode: str, evidence: Evidence) -> list[Legitimate]:
    """Count the legitimate messages of each flow that arrived, each once, at the host they were sent to."""
    rows = []
    for flow in evidence.flows:
        sender, receiver = flow["sender"], flow["receiver"]
        sent = {
            payload
            for payload in evidence.sent.get(sender, []) if _is_of_flow(payload, flow)
        }
        received = set(evidence.received.get(receiver, []))
        rows.append(Legitimate(mode, flow["flow"], len(sent), len(sent & received)))
    return rows


def _successes(attack: str, evidence: Evidence, trials: list[dict[str, Any]]) -> tuple[int, int, str]:
    """Return packets the attacker sent, how many of them succeeded, and where that was seen."""
    return _JUDGES[attack](evidence, trials)


def _messages(payloads: list[bytes], label: str, trials: list[dict[str, Any]]) -> Counter[bytes]:
    numbers = {trial["trial"] for trial in trials}
    return Counter(
        payload
        for payload in payloads
        if (message := parse_message(payload)) and message.label == label and message.trial in numbers
    )


def _sniff(evidence: Evidence, trials: list[dict[str, Any]]) -> tuple[int, int, str]:
    """Frames in her capture, and the messages of these trials that can be read in it."""
    sent: list[Message] = []
    for trial in trials:
        for payload in evidence.sent.get(trial["sender"], []):
            message = parse_message(payload)
            if message and (message.label, message.trial) == ("sniff", trial["trial"]):
                sent.append(message)
    haystack = b"\0".join(evidence.sniffed)
    read = sum(message.nonce.encode() in haystack for message in sent)
    captured = sum(len(trial["events"]) for trial in trials)
    return min(captured, len(evidence.sniffed)), read, "messages readable in the attacker's capture"


def _modify(evidence: Evidence, trials: list[dict[str, Any]]) -> tuple[int, int, str]:
    """Messages the victim got that nobody ever sent."""
    known = {payload for log in evidence.sent.values() for payload in log}
    known |= {bytes.fromhex(event["payload"]) for trial in evidence.trials for event in trial["events"]
              if "payload" in event}  # fmt: skip
    victims = {trial["victim"] for trial in trials}
    altered = sum(payload not in known for victim in victims for payload in evidence.received.get(victim, []))
    return sum(len(trial["events"]) for trial in trials), altered, "messages received that no tenant sent"


def _inject(evidence: Evidence, trials: list[dict[str, Any]]) -> tuple[int, int, str]:
    sent = delivered = 0
    for trial in trials:
        received = set(evidence.received.get(trial["victim"], []))
        forged = {bytes.fromhex(event["payload"]) for event in trial["events"] if "payload" in event}
        sent += len(trial["events"])
        delivered += len(forged & received)
    seen = "forged messages that the victim received"
    passed, lost = _disruption(evidence, trials)
    if passed:
        seen += f"; {lost} of {passed} legitimate messages lost while records came that break sessions"
    return sent, delivered, seen


def _disruption(evidence: Evidence, trials: list[dict[str, Any]]) -> tuple[int, int]:
    """Return the legitimate messages sent in trials that are to break a session, and how many of them were lost."""
    received = {payload for flow in evidence.flows for payload in evidence.received.get(flow["receiver"], [])}
    windows = [(trial["begin_ns"], trial["end_ns"]) for trial in trials if trial.get("variant") in SESSION_ATTACKS]
    during = [
        payload for payload, sent in evidence.legitimate.items()
        if any(begin <= sent <= end for begin, end in windows)
    ]  # fmt: skip
    return len(during), sum(payload not in received for payload in during)


def _replay(evidence: Evidence, trials: list[dict[str, Any]]) -> tuple[int, int, str]:
    victims = {trial["victim"] for trial in trials}
    counts = [_messages(evidence.received.get(victim, []), "replay", trials) for victim in victims]
    repeats = sum(count - 1 for counter in counts for count in counter.values())
    return sum(len(trial["events"]) for trial in trials), repeats, "second copies that the victim received"


def _cross_vni(evidence: Evidence, trials: list[dict[str, Any]]) -> tuple[int, int, str]:
    victims = {trial["victim"] for trial in trials}
    leaked = sum(len(_messages(evidence.received.get(victim, []), "cross_vni", trials)) for victim in victims)
    return sum(len(trial["events"]) for trial in trials), leaked, "red's messages that blue's host received"


def _false_records(evidence: Evidence, trials: list[dict[str, Any]]) -> tuple[int, int, str]:
    false = {(event["flow"], event["sequence"]) for trial in trials for event in trial["events"]}
    devices = {trial["device"] for trial in trials}
    exported = {
        (record["flow"], record["sequence"]) for record in evidence.records if record["device"] in devices
    }
    sent = sum(len(trial["events"]) for trial in trials)
    return sent, len(false & exported), "false records in the collector"


_JUDGES = {
    "sniff": _sniff, "modify": _modify, "inject": _inject, "replay": _replay, "cross_vni": _cross_vni,
    FORGE_TELEMETRY: _false_records, ADD_TELEMETRY: _false_records,
}  # fmt: skip


def judge(attack: str, mode: str, evidence: Evidence, legitimate: list[Legitimate]) -> Outcome:
    """Judge one attack in one mode.

    A trial is lost when nothing passed after it. What was sent in it may not have had its chance, so it leaves
    the denominator; what succeeded in it has succeeded, so where an attack must not, its successes count.
    """
    everything = _trials(evidence, attack)
    trials = [trial for trial in everything if not trial.get("missing")]
    sent, delivered, seen = _successes(attack, evidence, trials)
    protected = resists(attack, mode)
    if protected:
        _, delivered, seen = _successes(attack, evidence, everything)
    lost = len(everything) - len(trials)
    passed, disrupted = _disruption(evidence, everything) if attack == "inject" else (0, 0)
    if protected and delivered:
        # Before anything else: no shortcoming of the evidence makes a success undone.
        within = f"{sent} packets" + (f" and {lost} lost trials" if lost else "")
        verdict, reason = BROKEN, f"{delivered} successes in {within}, in spite of protection"
    elif disrupted > (1 - LEGITIMATE_RATE) * passed:
        verdict, reason = BROKEN, f"forged records broke sessions: {disrupted} of {passed} legitimate messages lost"
    elif lost > LOST_RATE * len(everything):
        verdict, reason = INVALID, f"{lost} of {len(everything)} trials were lost, more than {LOST_RATE:.0%}"
    else:
        verdict, reason = _verdict(attack, mode, sent, delivered, evidence, legitimate)
    drops: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for trial in trials:
        drops.update(trial["drops"])
        outcomes.update(trial.get("outcomes", {}))
    return Outcome(
        attack, mode, len(trials), sent, delivered, verdict, reason, dict(drops), f"{delivered} {seen}", dict(outcomes)
    )


def _verdict(
    attack: str, mode: str, sent: int, delivered: int, evidence: Evidence, legitimate: list[Legitimate]
) -> tuple[str, str]:
    if not sent:
        return INVALID, "the attacker sent nothing, so nothing is shown"
    if delivered > sent:
        return INVALID, f"{delivered} successes of {sent} packets: the count cannot be right"
    if not legitimate:
        return INVALID, "no legitimate traffic ran beside the attack"
    for row in legitimate:
        if not row.sent or row.received < LEGITIMATE_RATE * row.sent:
            arrived = f"{row.received} of {row.sent} messages"
            return INVALID, f"of the legitimate flow {row.flow} only {arrived} arrived"
    if attack in TELEMETRY_ATTACKS and mode in CHANNELS:
        return _not_applicable(sent, evidence)
    if attack in TELEMETRY_ATTACKS and not _true_records(evidence):
        return INVALID, "the transit device exported no true record either"
    if mode == CONTROL:
        if delivered < CONTROL_RATE * sent:
            return INVALID, f"without protection only {delivered} of {sent} succeeded: not a valid control"
        return SUCCEEDED, f"{delivered} of {sent} succeeded, as they should without protection"
    if not resists(attack, mode):
        if delivered < CONTROL_RATE * sent:
            return INVALID, f"nothing is encrypted, and yet only {delivered} of {sent} were read"
        return BY_DESIGN, f"succeeds: {UNENCRYPTED[mode]} ({delivered} of {sent})"
    return RESISTED, f"none of {sent} succeeded"


def _not_applicable(sent: int, evidence: Evidence) -> tuple[str, str]:
    """Under a channel a transit device has nothing to act on, as long as it reports nobody's packets at all."""
    if evidence.records:
        return INVALID, f"the collector has {len(evidence.records)} records, though no device can read the channel"
    return NOT_APPLICABLE, (
        f"the device acts on nothing: the collector has no record, neither a true one nor one of {sent} false ones"
    )


def _true_records(evidence: Evidence) -> int:
    """Records of the attacked devices that no attacker made up."""
    trials = [trial for attack in TELEMETRY_ATTACKS for trial in _trials(evidence, attack)]
    false = {(event["flow"], event["sequence"]) for trial in trials for event in trial["events"]}
    devices = {trial["device"] for trial in trials}
    return sum(
        record["device"] in devices and (record["flow"], record["sequence"]) not in false
        for record in evidence.records
    )


OUTCOME_COLUMNS = (
    "attack", "mode", "trials", "sent", "delivered", "rate", "ci_low", "ci_high", "verdict", "reason",
    "evidence", "drops", "device_outcomes",
)  # fmt: skip
LEGITIMATE_COLUMNS = ("mode", "flow", "sent", "received")


def outcome_rows(result: AttacksResult) -> list[dict[str, Any]]:
    """Return the outcomes as rows of the table."""
    rows = []
    for outcome in result.outcomes:
        low, high = outcome.interval or (None, None)
        rate = min(outcome.delivered, outcome.sent) / outcome.sent if outcome.sent else None
        rows.append({
            "attack": outcome.attack, "mode": outcome.mode, "trials": outcome.trials, "sent": outcome.sent,
            "delivered": outcome.delivered, "rate": rounded(rate), "ci_low": rounded(low),
            "ci_high": rounded(high), "verdict": outcome.verdict, "reason": outcome.reason,
            "evidence": outcome.evidence, "drops": outcome.drops,
            "device_outcomes": outcome.outcomes,
        })  # fmt: skip
    return rows


def legitimate_rows(result: AttacksResult) -> list[dict[str, Any]]:
    """Return the legitimate flows as rows of their table."""
    return [
        {"mode": row.mode, "flow": row.flow, "sent": row.sent, "received": row.received}
        for row in result.legitimate
    ]


def write_tables(result: AttacksResult, folder: Path) -> None:
    """Write the tables as CSV files to ``folder``."""
    write_csv(folder / f"{NAME}-outcomes.csv", outcome_rows(result), OUTCOME_COLUMNS)
    write_csv(folder / f"{NAME}-legitimate.csv", legitimate_rows(result), LEGITIMATE_COLUMNS)


def summary(result: AttacksResult) -> dict[str, Any]:
    """Return the experiment's part of summary.json."""
    verdicts: dict[str, dict[str, str]] = defaultdict(dict)
    for outcome in result.outcomes:
        verdicts[outcome.attack][outcome.mode] = outcome.verdict
    return {
        "interval": "Wilson, 95%",
        "verdicts": verdicts,
        "outcomes": outcome_rows(result),
        "legitimate": legitimate_rows(result),
        "failures": result.failures,
        "warnings": result.warnings,
    }

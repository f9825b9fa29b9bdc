"""Why a verdict differs from the draft's letter, for each cell where it does, with room for the run's own evidence.

``{configuration}``, ``{capture}`` and ``{packets}`` are those of the trial that the verdict rests on (the first that
failed, if one did), ``{failed}`` its statements with what was seen, ``{held}`` those that hold, each with its own
capture and packets. A cell that differs and has no explanation for its verdict here fails the run; one that agrees
shows none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from experiments.conformance.verdicts import Decision, Trial, Verdict
from experiments.mechanism.probe import Finding, Weight


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a cell's verdict is this one and not what the draft's letter would be."""

    verdict: Verdict
    text: str


_SHOULD = (
    "The draft marks Y because the requirement says SHOULD: whoever leaves out what is not mandatory still conforms. "
    "We ask whether it is done, and no configuration does it: {failed} (configuration {configuration}, {capture}, "
    "packets {packets})."
)
_HALF = (
    "The draft marks N since nothing can be chosen, and so far we agree. But its own text grants the first half of the "
    "requirement, and so do the packets: {held}. Only the reverse is missing: {failed} (configuration {configuration}, "
    "{capture}, packets {packets})."
)
_AH = (
    "The draft has one letter for IPsec, and its text here means ESP with a cipher that is not NULL. AH (RFC 4302) "
    "{what}: {{failed}} (configuration {{configuration}}, {{capture}}, packets {{packets}})."
)
_OF_ESP = "The draft has one letter for IPsec, and its text speaks of IPsec/ESP. "
_GROUP = (
    "The draft marks Y because IPsec handles multicast, and the first sentence of the requirement is met: {held}. The "
    'second says that an egress NVE must be able to verify "whether the packet is sent from a proper ingress NVE which '
    'is authorized to forward that packet". Read loosely, any member of the group is a proper one, and a key that only '
    "members have is enough. We read it strictly: an NVE is authorized to forward what its own tenants send, so to "
    "verify that means to know which NVE sent the packet. All members of a group share the key of its security "
    "association; what its ICV proves is that some member sent the packet (group authentication, RFC 5374), and a "
    "member can forge another's: {failed} (configuration {configuration}, {capture}, packets {packets}). RFC 4359 "
    "defines RSA signatures in place of the ICV, which would prove the sender; we have not tried them."
)
_FLOWS = (
    "The draft marks Y, as IPsec can have keys of its own for each session and for each multicast group. The "
    "requirement speaks of each flow. This NVE knows one association for each ordered pair of NVEs and no finer "
    "granularity, so that all between the two shares a key: {failed} ({capture}, packets {packets}). Selectors (RFC "
    "4301, section 4.4.1.1) see outer addresses and UDP ports, so IPsec could tell flows apart by outer source ports "
    "if an NVE chose these by flow; we have not tried that. The group has a key of its own: {held}."
)

EXPLANATIONS: dict[tuple[str, str], Explanation] = {
    ("SEC-GEN-2", "dtls"): Explanation(Verdict.NOT_MET, _SHOULD),
    ("SEC-GEN-2", "esp"): Explanation(Verdict.NOT_MET, _SHOULD),
    ("SEC-GEN-2", "ah"): Explanation(Verdict.NOT_MET, _SHOULD + " AH encrypts nothing at all (RFC 4302)."),
    ("SEC-GEN-9", "dtls"): Explanation(Verdict.NOT_MET, _SHOULD),
    ("SEC-GEN-9", "esp"): Explanation(Verdict.NOT_MET, _SHOULD),
    ("SEC-GEN-9", "ah"): Explanation(Verdict.NOT_MET, _SHOULD),
    ("SEC-GEN-4", "dtls"): Explanation(Verdict.IN_PART, _HALF),
    ("SEC-GEN-4", "esp"): Explanation(Verdict.IN_PART, _HALF),
    ("SEC-GEN-11", "dtls"): Explanation(Verdict.IN_PART, _HALF),
    ("SEC-GEN-11", "esp"): Explanation(Verdict.IN_PART, _HALF),
    ("SEC-GEN-11", "ah"): Explanation(Verdict.IN_PART, _HALF),
    ("SEC-GEN-1", "ah"): Explanation(Verdict.NOT_MET, _AH.format(what="encrypts nothing")),
    ("SEC-GEN-6", "ah"): Explanation(Verdict.NOT_MET, _AH.format(what="has no padding that a receiver takes off")),
    ("SEC-GEN-7", "ah"): Explanation(Verdict.NOT_MET, _AH.format(what="has no dummy packets")),
    ("SEC-GEN-17", "esp"): Explanation(Verdict.IN_PART, _GROUP),
    ("SEC-GEN-17", "ah"): Explanation(Verdict.IN_PART, _GROUP),
    ("SEC-OP-1", "ah"): Explanation(
        Verdict.NOT_MET,
        _OF_ESP + "AH encrypts nothing, and the requirement allows "
        "that only where the tenants encrypt: {failed} ({capture}, packets {packets}).",
    ),
    ("SEC-OP-2", "ah"): Explanation(
        Verdict.NOT_MET,
        _OF_ESP + "Under AH all Geneve information is in clear, that of the "
        "deployment's risk analysis too: {failed} ({capture}, packets {packets}).",
    ),
    ("SEC-OP-3", "ah"): Explanation(
        Verdict.NOT_MET,
        _OF_ESP + "AH neither pads nor sends dummies: {failed} ({capture}, packets "
        "{packets}).",
    ),
    ("SEC-OP-3", "dtls"): Explanation(
        Verdict.NOT_MET,
        "The draft marks Y/N, since Geneve itself may pad and the requirement would not be mandatory. It says MUST "
        "once a risk has been identified, which the deployment's file does, and no Geneve option that pads is part of "
        "DTLS: {failed} ({capture}, packets {packets}).",
    ),
    ("SEC-OP-10", "esp"): Explanation(Verdict.IN_PART, _FLOWS),
    ("SEC-OP-10", "ah"): Explanation(Verdict.IN_PART, _FLOWS),
}  # fmt: skip
"""Cells that we expect to differ. Those of SEC-OP depend on the deployment that is judged."""

_SHOWN = 8


def explain(requirement: str, mechanism: str, decision: Decision) -> str | None:
    """Return the explanation of a cell that differs, with the evidence filled in; None when there is none for it."""
    entry = EXPLANATIONS.get((requirement, mechanism))
    if entry is None or entry.verdict is not decision.verdict or not decision.grounds:
        return None
    failed = [(trial, finding) for trial in decision.grounds for finding in trial.failed]
    held = [
        (trial, finding)
        for trial in decision.grounds for finding in trial.of_weight(Weight.DEMANDED) if finding.holds
    ]  # fmt: skip
    ground = failed[0][0] if failed else decision.grounds[0]
    return entry.text.format(
        configuration=ground.configuration, capture=ground.capture or "no capture", packets=_packets(ground),
        failed=_statements([finding for _, finding in failed], "does not hold"), held=_held(held),
    )  # fmt: skip


def _statements(findings: list[Finding], verdict: str) -> str:
    return "; ".join(dict.fromkeys(f'"{f.statement}" {verdict} ({f.reason})' for f in findings)) or "nothing"


def _held(found: list[tuple[Trial, Finding]]) -> str:
    """Return statements that hold, each with the capture and the packets that show it."""
    texts = []
    for trial, finding in found:
        # What a scenario file or a receiver's log shows has no packets.
        where = f"; {trial.capture}, packets {_shown(finding.packets)}" if finding.packets else ""
        texts.append(f'"{finding.statement}" holds ({finding.reason}{where})')
    return "; ".join(dict.fromkeys(texts)) or "nothing"


def _packets(trial: Trial) -> str:
    telling = [finding for finding in trial.failed if finding.packets] or trial.findings
    return _shown(number for finding in telling for number in finding.packets)


def _shown(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return ", ".join(map(str, found[:_SHOWN])) + (" and more" if len(found) > _SHOWN else "") if found else "none"

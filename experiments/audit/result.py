"""What an audit says: a verdict for each requirement, findings ranked by risk, and an inventory. Plain data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

SCHEMA = 1
"""Version of the JSON that :meth:`AuditResult.as_dict` makes; raised when a key changes its meaning or goes."""


class Verdict(str, Enum):
    """What is known of one requirement."""

    MET = "met"
    NOT_MET = "not met"
    IN_PART = "in part"
    UNKNOWN = "cannot be known"
    NOT_APPLICABLE = "not applicable"


class Risk(str, Enum):
    """How much a finding matters, the worst first."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFORMATION = "information"


_WORST_FIRST = (Verdict.NOT_MET, Verdict.IN_PART, Verdict.UNKNOWN, Verdict.MET, Verdict.NOT_APPLICABLE)

LEVELS = {
    "SEC-OP-1": "SHOULD", "SEC-OP-2": "MUST", "SEC-OP-3": "MUST", "SEC-OP-4": "MUST", "SEC-OP-5": "MUST",
    "SEC-OP-6": "SHOULD", "SEC-OP-7": "SHOULD NOT", "SEC-OP-8": "MUST", "SEC-OP-9": "MUST", "SEC-OP-10": "SHOULD",
}  # fmt: skip
"""The draft's key word for each requirement."""

TITLES = {
    "SEC-OP-1": "The inner payload is encrypted",
    "SEC-OP-2": "Leaking of Geneve information is evaluated, and sensitive information not shown",
    "SEC-OP-3": "Traffic patterns are evaluated, and hidden by padding and dummy packets",
    "SEC-OP-4": "The inner payload is authenticated where it is not encrypted",
    "SEC-OP-5": "Changes of outer header, Geneve header and options are evaluated, and prevented",
    "SEC-OP-6": "Communication between NVEs is authenticated",
    "SEC-OP-7": "Nothing is processed before it is authenticated",
    "SEC-OP-8": "Replay is evaluated, and prevented",
    "SEC-OP-9": "A policy says how each flow is encrypted and authenticated",
    "SEC-OP-10": "Flows have distinct keys",
}
"""Each requirement in a line."""


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of several verdicts; NOT_APPLICABLE of none."""
    given = set(verdicts)
    return next((verdict for verdict in _WORST_FIRST if verdict in given), Verdict.NOT_APPLICABLE)


@dataclass(frozen=True, slots=True)
class Reason:
    """One sentence of why, its own verdict, and the key of the scenario file that shows it ("" for captures)."""

    verdict: Verdict
    text: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one requirement and its reasons, the worst first."""

    requirement: str
    verdict: Verdict
    reasons: tuple[Reason, ...]

    @property
    def level(self) -> str:
        """The draft's key word: MUST, SHOULD or SHOULD NOT."""
        return LEVELS[self.requirement]

    def as_dict(self) -> dict[str, Any]:
        """Return what the JSON has."""
        reasons = [{"verdict": item.verdict.value, "text": item.text, "key": item.key} for item in self.reasons]
        return {
            "requirement": self.requirement, "level": self.level, "title": TITLES[self.requirement],
            "verdict": self.verdict.value, "reasons": reasons,
        }  # fmt: skip


def make_judgement(requirement: str, reasons: Iterable[Reason]) -> Judgement:
    """Return the judgement that follows from ``reasons``: the worst of them decides."""
    ordered = sorted(dict.fromkeys(reasons), key=lambda reason: _WORST_FIRST.index(reason.verdict))
    return Judgement(requirement, worst(reason.verdict for reason in ordered), tuple(ordered))


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found: its name, risk, what it is, what to do, how often, and the first packets that show it.

    ``packets`` are frame numbers as Wireshark counts them, from 1; none where no single packet shows it.
    """

    name: str
    risk: Risk
    requirements: tuple[str, ...]
    text: str
    action: str
    count: int = 0
    packets: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return what the JSON has."""
        return {**asdict(self), "risk": self.risk.value, "requirements": list(self.requirements),
                "packets": list(self.packets)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class AuditResult:
    """All of an audit. ``kind`` is ``deployment`` or ``capture``; ``inventory`` is plain data for JSON."""

    kind: str
    source: str
    judgements: tuple[Judgement, ...]
    findings: tuple[Finding, ...] = ()
    inventory: dict[str, Any] = field(default_factory=dict)

    def judgement(self, requirement: str) -> Judgement:
        """Return the judgement on a requirement, such as SEC-OP-3; KeyError when there is none."""
        for judgement in self.judgements:
            if judgement.requirement == requirement:
                return judgement
        raise KeyError(requirement)

    def finding(self, name: str) -> Finding | None:
        """Return the finding of a name; None when it was not made."""
        return next((finding for finding in self.findings if finding.name == name), None)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, the form that docs/audit.md describes."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "source": self.source,
            "requirements": [judgement.as_dict() for judgement in self.judgements],
            "findings": [finding.as_dict() for finding in self.findings],
            "inventory": self.inventory,
        }


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings, the riskiest first; within a risk, the most frequent first."""
    order = tuple(Risk)
    return tuple(sorted(findings, key=lambda finding: (order.index(finding.risk), -finding.count, finding.name)))

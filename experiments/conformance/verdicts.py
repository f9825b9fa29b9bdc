"""How statements that probes checked become a verdict on a requirement, and how that compares with the draft's letter.

A *trial* is one probe under one configuration of a mechanism. Its statements belong to *parts*: things that the
requirement asks for, each of which is there when all its statements hold at once (a mechanism that encrypts everything
does not encrypt half of a choice). For a mechanism (SEC-GEN) a capability counts that some configuration has, so of
several configurations the best one counts for each probe. A deployment (SEC-OP) is judged as it is: all trials count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from experiments.conformance.draft import DEPENDS, GEN, NO, YES, Requirement
from experiments.mechanism.probe import Finding, Weight


class Verdict(str, Enum):
    """What is said of a requirement under a mechanism. VOID: it could not be judged, which fails the run."""

    MET = "met"
    IN_PART = "met in part"
    NOT_MET = "not met"
    NOT_APPLICABLE = "not applicable"
    VOID = "not judged"


class Agreement(str, Enum):
    """How a verdict stands to the draft's letter. NONE: the draft says nothing."""

    AGREES = "agrees"
    DIFFERS = "differs"
    NONE = ""


_MEANINGS = {YES: Verdict.MET, NO: Verdict.NOT_MET, DEPENDS: Verdict.IN_PART}
"""What each letter would be as a verdict of ours. A Y for a SHOULD that is not done at all is none of them."""


def agreement(letter: str | None, verdict: Verdict) -> Agreement:
    """Compare a letter with a verdict: strictly, so Y differs from "met in part", and so does N."""
    if letter is None:
        return Agreement.NONE
    return Agreement.AGREES if _MEANINGS[letter] is verdict else Agreement.DIFFERS


@dataclass(frozen=True, slots=True)
class Trial:
    """One probe, or one deployment, under one configuration, and what came of it.

    ``missing`` are the settings that the probe's profile has and the mechanism does not. ``inapplicable`` says why
    the requirement does not apply there, ``fault`` why the trial could not be judged.
    """

    probe: str
    configuration: str
    findings: tuple[Finding, ...] = ()
    capture: str = ""
    missing: tuple[str, ...] = ()
    inapplicable: str = ""
    fault: str = ""

    def of_weight(self, weight: Weight) -> list[Finding]:
        """Return the statements of one weight."""
        return [finding for finding in self.findings if finding.weight is weight]

    @property
    def failed(self) -> list[Finding]:
        """The demanded statements that do not hold."""
        return [finding for finding in self.of_weight(Weight.DEMANDED) if not finding.holds]

    @property
    def void(self) -> str:
        """Why nothing can be concluded from the trial; empty: something can."""
        if self.fault:
            return self.fault
        broken = next((finding for finding in self.of_weight(Weight.CONTROL) if not finding.holds), None)
        if broken is not None:
            return f"{broken.statement}: it does not ({broken.reason})"
        return "" if self.findings or self.inapplicable else "no statements"

    def parts(self) -> dict[str, bool]:
        """Return the parts of the requirement that the trial is about, and whether each is there."""
        found: dict[str, bool] = {}
        for finding in self.of_weight(Weight.DEMANDED):
            for part in finding.parts:
                found[part] = found.get(part, True) and finding.holds
        return found


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, the trials that it rests on (the best of each probe, or all), all that were made, and the reason."""

    verdict: Verdict
    reason: str
    grounds: tuple[Trial, ...] = ()
    trials: tuple[Trial, ...] = ()
    faults: tuple[str, ...] = field(default=())

    @property
    def configurations(self) -> tuple[str, ...]:
        """The configurations tried, in order."""
        return tuple(dict.fromkeys(trial.configuration for trial in self.trials))


def decide(requirement: Requirement, trials: Sequence[Trial]) -> Decision:
    """Return the verdict on a requirement under one mechanism from its trials there."""
    everything = tuple(trials)
    if not everything:
        return Decision(Verdict.VOID, "nothing was tried", faults=("nothing was tried",))
    faults = tuple(f"{trial.probe} ({trial.configuration}): {trial.void}" for trial in everything if trial.void)
    applicable = [trial for trial in everything if not trial.inapplicable]
    if not applicable:
        reasons = "; ".join(dict.fromkeys(trial.inapplicable for trial in everything))
        return Decision(Verdict.NOT_APPLICABLE, reasons, everything, everything)
    valid = [trial for trial in applicable if not trial.void]
    grounds = _best_of_each(valid) if requirement.series == GEN else valid
    # A configuration that fails to work is no reason to doubt what another has; a probe that worked in none is.
    lost = {trial.probe for trial in applicable} - {trial.probe for trial in grounds}
    if lost or (requirement.series != GEN and faults):
        return Decision(Verdict.VOID, "; ".join(faults), tuple(grounds), everything, faults)
    doubtful = {trial.probe for trial in applicable if trial.void}
    lacking = {trial.probe for trial in grounds if not all(trial.parts().values())}
    if doubtful & lacking:
        # What the best lacks is perhaps there in the configuration that failed to work.
        return Decision(Verdict.VOID, "; ".join(faults), tuple(grounds), everything, faults)
    parts = [there for trial in grounds for there in trial.parts().values()]
    if not parts:
        return Decision(Verdict.VOID, "no demanded statements", tuple(grounds), everything, ("no demanded statements",))
    verdict = Verdict.MET if all(parts) else Verdict.IN_PART if any(parts) else Verdict.NOT_MET
    reason = _reason(grounds, [trial for trial in valid if not any(trial is ground for ground in grounds)])
    return Decision(verdict, reason, tuple(grounds), everything, faults)


def _best_of_each(trials: Iterable[Trial]) -> list[Trial]:
    """Return of each probe the trial with most parts there, then most statements that hold; the first of equals."""
    best: dict[str, Trial] = {}
    for trial in trials:
        if trial.probe not in best or _rank(trial) > _rank(best[trial.probe]):
            best[trial.probe] = trial
    return list(best.values())


def _rank(trial: Trial) -> tuple[int, int]:
    demanded = trial.of_weight(Weight.DEMANDED)
    return sum(trial.parts().values()), sum(finding.holds for finding in demanded)


def _reason(grounds: Iterable[Trial], others: Iterable[Trial] = ()) -> str:
    """Return what failed and why, also under the other configurations of those probes; or what was seen."""
    grounds = list(grounds)
    failed = [trial for trial in grounds if trial.failed]
    if failed:
        probes = {trial.probe for trial in failed}
        shown = [*failed, *(trial for trial in others if trial.probe in probes and trial.failed)]
        several = len({trial.configuration for trial in shown}) > 1
        texts = [(f"under {trial.configuration}: " if several else "") + _failures(trial) for trial in shown]
        return "; ".join(dict.fromkeys(texts))
    demanded = [finding for trial in grounds for finding in trial.of_weight(Weight.DEMANDED)]
    return "; ".join(dict.fromkeys(f"{f.statement} ({f.reason})" for f in demanded))


def _failures(trial: Trial) -> str:
    return "; ".join(dict.fromkeys(f"does not hold: {f.statement} ({f.reason})" for f in trial.failed))

"""The plot of the attacks experiment, from its outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.attacks_analysis import (
    ADD_TELEMETRY,
    ATTACKS,
    BROKEN,
    BY_DESIGN,
    FORGE_TELEMETRY,
    INVALID,
    MODES,
    NOT_APPLICABLE,
    AttacksResult,
    Outcome,
)
from experiments.plotting import Plot, figure, save

_MODE_NAMES = {
    "none": "none\n(control)", "full": "full\n(ours)", "dtls": "DTLS", "esp": "ESP", "ah": "AH",
    "dtls-null": "DTLS\nNULL", "esp-null": "ESP\nNULL",
}  # fmt: skip
_NAMES = {
    "sniff": "sniff", "modify": "modify", "inject": "inject", "replay": "replay", "cross_vni": "cross-VNI",
    FORGE_TELEMETRY: "forge\ntelemetry", ADD_TELEMETRY: "add\ntelemetry",
}  # fmt: skip
_DARKEST = 0.3
"""Grey of a cell in which every packet succeeded; white is none."""

RATES = Plot(
    "attacks-success",
    "Success of each attack under each mechanism",
    "Each cell: the attacker's packets that reached their aim, of those she sent: a message read, an altered, forged, "
    "repeated or foreign message received by the victim tenant, a false record exported by the transit device. The "
    "darker, the larger the share. Small: one end of the Wilson 95% interval, how small the share could be where all "
    "succeeded, how large where none did; packets of one trial share its circumstances, so it is somewhat optimistic. "
    "Judged from the victim's log, the collector's records and the attacker's capture. The control without protection "
    "must succeed, or the run fails. By design: AH and NULL encryption hide nothing and do not claim to. "
    "Hatched, n/a: the transit device acts on nothing under a channel, and the collector has no record at all. Empty: "
    "not tried, as it would be the same with the cipher. A thick frame: an attack succeeded that must not. A question "
    "mark: nothing is shown.",
)
PLOTS = (RATES,)


def draw(result: AttacksResult, folder: Path) -> list[Plot]:
    """Draw the success rates, if any attack was tried, and return which plots were drawn."""
    if not any(outcome.sent for outcome in result.outcomes):
        return []
    save(_rates(result), folder, RATES.name)
    return [RATES]


def _rates(result: AttacksResult) -> Any:
    drawing, axes = figure(2.75)
    for outcome in result.outcomes:
        if outcome.sent:
            _cell(axes, MODES.index(outcome.mode), ATTACKS.index(outcome.attack), outcome)
    axes.set_xticks(range(len(MODES)), [_MODE_NAMES[mode] for mode in MODES], fontsize=6.5)
    axes.set_yticks(range(len(ATTACKS)), [_NAMES[attack] for attack in ATTACKS], fontsize=7)
    axes.set_xlim(-0.52, len(MODES) - 0.48)
    axes.set_ylim(len(ATTACKS) - 0.48, -0.52)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return drawing


def _cell(axes: Any, column: int, row: int, outcome: Outcome) -> None:
    rate = min(outcome.delivered / outcome.sent, 1.0)
    unfit = outcome.verdict == NOT_APPLICABLE
    broken = outcome.verdict == BROKEN
    left, top, side = column - 0.5, row - 0.5, 1.0
    axes.fill(
        [left, left + side, left + side, left], [top, top, top + side, top + side],
        facecolor=str(1 - rate * (1 - _DARKEST)), edgecolor="0" if broken else "0.6", hatch="////" if unfit else None,
        linewidth=2.0 if broken else 0.5, zorder=4 if broken else 2,
    )  # fmt: skip
    ink = "1" if rate > 0.5 else "0"
    plate = {"boxstyle": "round,pad=0.12", "facecolor": "1", "edgecolor": "none"} if unfit else None
    mark = "? " if outcome.verdict == INVALID else ""
    axes.text(
        column, row - 0.12 if not unfit else row, "n/a" if unfit else f"{mark}{outcome.delivered}/{outcome.sent}",
        ha="center", va="center", fontsize=6, color=ink, bbox=plate, zorder=5,
    )  # fmt: skip
    if not unfit:
        note = "by design" if outcome.verdict == BY_DESIGN else _bound(outcome)
        axes.text(column, row + 0.25, note, ha="center", va="center", fontsize=4.8, color=ink, zorder=5)


def _bound(outcome: Outcome) -> str:
    """Return the end of the interval that says something, in percent; both where some succeeded and some did not."""
    if outcome.interval is None:
        return ""
    low, high = (100 * end for end in outcome.interval)
    if outcome.delivered == 0:
        return f"≤ {high:.1f}%"
    if outcome.delivered >= outcome.sent:
        return f"≥ {low:.1f}%"
    return f"{low:.0f} to {high:.0f}%"

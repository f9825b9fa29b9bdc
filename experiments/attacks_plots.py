"""The plot of the attacks experiment, from its outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.attacks_analysis import ADD_TELEMETRY, ATTACKS, FORGE_TELEMETRY, MODES, AttacksResult
from experiments.plotting import Look, Plot, figure, save

_LOOKS = {
    "none": Look("none (control)", "0.85", "////", "s", "-"),
    "full": Look("full", "0.25", "", "o", "-"),
}
_NAMES = {
    "sniff": "sniff", "modify": "modify", "inject": "inject", "replay": "replay", "cross_vni": "cross-VNI",
    FORGE_TELEMETRY: "forge\ntelemetry", ADD_TELEMETRY: "add\ntelemetry",
}  # fmt: skip
_BAR = 0.38

RATES = Plot(
    "attacks-success",
    "Success rate of each attack",
    "Share of the attacker's packets that reached their aim: a message read, an altered, forged, repeated "
    "or foreign message received by the victim tenant, a false record exported by the transit device. "
    "Whiskers: Wilson 95% intervals; packets of one trial share its circumstances, so they are somewhat "
    "optimistic. Numbers: successes / packets. Judged from the victim's log, the collector's records and "
    "the attacker's capture. The control without protection must succeed, or the run fails.",
)
PLOTS = (RATES,)


def draw(result: AttacksResult, folder: Path) -> list[Plot]:
    """Draw the success rates, if any attack was tried, and return which plots were drawn."""
    if not any(outcome.sent for outcome in result.outcomes):
        return []
    save(_rates(result), folder, RATES.name)
    return [RATES]


def _rates(result: AttacksResult) -> Any:
    drawing, axes = figure(3.2)
    rows = {(outcome.attack, outcome.mode): outcome for outcome in result.outcomes if outcome.sent}
    for index, mode in enumerate(MODES):
        look = _LOOKS[mode]
        offset = (index - 0.5) * _BAR
        for place, attack in enumerate(ATTACKS):
            outcome = rows.get((attack, mode))
            if outcome is None or outcome.interval is None:
                continue
            low, high = outcome.interval
            rate = min(outcome.delivered / outcome.sent, 1.0)
            axes.barh(
                place + offset, 100 * rate, _BAR, color=look.colour, hatch=look.hatch, edgecolor="0",
                linewidth=0.5, label=look.label if place == 0 else None,
            )  # fmt: skip
            axes.errorbar(
                100 * rate, place + offset, xerr=[[100 * (rate - low)], [100 * (high - rate)]], fmt="none",
                ecolor="0", elinewidth=0.9, capsize=2, capthick=0.9, zorder=5,
            )  # fmt: skip
            if rate == 0:
                mark = {"marker": look.marker, "color": "0", "markersize": 3}
                axes.plot(0, place + offset, clip_on=False, zorder=6, **mark)
            axes.annotate(
                f"{outcome.delivered}/{outcome.sent}", (100 * high if rate < 1 else 100, place + offset),
                xytext=(5, 0), textcoords="offset points", va="center", fontsize=7, annotation_clip=False,
            )  # fmt: skip
    axes.set_yticks(range(len(ATTACKS)), [_NAMES[attack] for attack in ATTACKS])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 100)
    axes.set_xlabel("successful attack packets (%)")
    drawing.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return drawing

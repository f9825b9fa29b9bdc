"""Plots of dataplane-scale, from its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.dataplane.points import (
    ASSOCIATIONS,
    AUDIENCES,
    FLOW_KEYS,
    FLOWS,
    FRAME_BYTES,
    FULL,
    HEADERS_ONLY,
    NEW,
    NO_PROTECTION,
    ONE,
    OPEN,
    ROUND_ROBIN,
    RULES,
    SEAL,
    SERIES,
    SIDES,
    ZIPF,
)
from experiments.dataplane.scale_analysis import ScaleResult
from experiments.plotting import Plot, error_bars, figure, save

_READ = (
    "Medians of the rounds with order-statistics intervals; both axes logarithmic. Filled, solid: sealing, from the "
    "tenant's frame to the datagram; hollow, dashed: opening, from the datagram to the frame. 64 frames in a call, no "
    "system calls."
)
_HOW = f"{_READ} Frames of 128 bytes."
PLOTS = {
    ASSOCIATIONS: Plot(
        "dataplane-scale-associations", "Cost per packet and associations",
        f"{_HOW} One association for each of so many peers; packets of all peers in turn, the worst case for every "
        "cache, or all of one peer while the others are held. Packets of one peer that follow each other are sealed "
        "and opened together, which is why one association alone is cheaper than two.",
    ),
    RULES: Plot(
        "dataplane-scale-rules", "Cost per packet and policy rules",
        f"{_HOW} Round robin: 64 known flows in turn. New flows: every packet begins a flow, and the last of the rules "
        "is the one that matches, so all of them are compared with it: the first packet of a flow pays for the rules.",
    ),
    FLOWS: Plot(
        "dataplane-scale-flows", "Cost per packet and flows",
        f"{_HOW} Round robin: all flows in turn, so that beyond the bounds of the flow cache (grey) every packet finds "
        "its flow forgotten; Zipf: flow n comes n^-1.1 as often as the first. Keys per flow: each has its own key, "
        "of which so many are kept for an association (dotted line).",
    ),
    AUDIENCES: Plot(
        "dataplane-scale-audiences", "Cost per packet and audiences",
        "As the other plots, linear axes. 0: in clear; 1: the egress NVE; up to six transit devices before it, each "
        "with a tag of its own, and no more options fit into a packet. The egress NVE opens its own only.",
    ),
    FRAME_BYTES: Plot(
        "dataplane-scale-frame-bytes", "Cost per packet and bytes of a frame",
        f"{_READ} Frames of one flow that follow each other, so all of a call are sealed and opened together, as in a "
        "bulk transfer. None: in clear; full: the whole frame encrypted; headers only: its L2 to L4 headers.",
    ),
}  # fmt: skip
_X_LABELS = {RULES: "policy rules", AUDIENCES: "audiences of a packet", FRAME_BYTES: "bytes of a frame"}
_FRAME_TICKS = (64, 256, 512, 1400, 2800, 8900)
_MARKERS = {ROUND_ROBIN: "o", ONE: "s", NEW: "^", ZIPF: "D", FLOW_KEYS: "v", NO_PROTECTION: "s", FULL: "o",
            HEADERS_ONLY: "^"}  # fmt: skip
_GREYS = {ROUND_ROBIN: "0", ONE: "0.55", NEW: "0.55", ZIPF: "0.55", FLOW_KEYS: "0.3", NO_PROTECTION: "0.7", FULL: "0",
          HEADERS_ONLY: "0.45"}  # fmt: skip


def draw(result: ScaleResult, folder: Path) -> list[Plot]:
    """Draw every plot there are data for, and return which were drawn."""
    drawn = []
    for axis, plot in PLOTS.items():
        rows = [row for row in result.cost if row["axis"] == axis and row["median"] is not None]
        if rows:
            save(_one(axis, rows, result.bounds), folder, plot.name)
            drawn.append(plot)
    return drawn


def _one(axis: str, rows: list[dict[str, Any]], bounds: dict[str, int]) -> Any:
    drawing, axes = figure(2.7)
    for series in SERIES[axis]:
        for side in SIDES:
            chosen = [row for row in rows if (row["series"], row["side"]) == (series, side)]
            if not chosen:
                continue
            fill = _GREYS[series] if side == SEAL else "1"
            axes.errorbar(
                [row["size"] for row in chosen], [row["median"] for row in chosen], yerr=error_bars(chosen),
                color=_GREYS[series], marker=_MARKERS[series], markersize=3.5, markerfacecolor=fill,
                linestyle="-" if side == SEAL else "--", elinewidth=0.7, capsize=1.5, label=_label(axis, series, side),
            )  # fmt: skip
    if axis == FLOWS and bounds:
        axes.axvspan(bounds["flow cache, least"], bounds["flow cache, most"], color="0.88", zorder=0)
        axes.axvline(bounds["flow keys per association"], color="0.4", linewidth=0.7, linestyle=":")
    if axis == AUDIENCES:
        axes.set_ylim(0)
        axes.set_xticks([row["size"] for row in rows])
    else:
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_ticks(axes, rows)
    if axis == FRAME_BYTES:
        axes.set_xticks(_FRAME_TICKS, [str(tick) for tick in _FRAME_TICKS])
        axes.xaxis.minorticks_off()
    axes.set_ylabel("\N{GREEK SMALL LETTER MU}s per packet")
    axes.set_xlabel(_X_LABELS.get(axis, axis))
    drawing.legend(loc="outside upper center", ncols=2 if len(SERIES[axis]) > 1 else 1)
    return drawing


def _label(axis: str, series: str, side: str) -> str:
    what = {SEAL: "seal", OPEN: "open"}[side]
    return what if len(SERIES[axis]) == 1 else f"{what}, {series}"


def _plain_ticks(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, as plain numbers, and room above and below the curves."""
    low = 0.8 * min(row["ci_low"] for row in rows)
    high = 1.2 * max(row["ci_high"] for row in rows)
    steps = (1, 2, 5) if high / low < 200 else (1,)
    ticks = [step * 10.0**power for power in range(-2, 5) for step in steps]
    inside = [tick for tick in ticks if low <= tick <= high]
    axes.set_ylim(low, high)
    axes.set_yticks(inside, [f"{tick:g}" for tick in inside])
    axes.yaxis.minorticks_off()

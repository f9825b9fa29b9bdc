"""Plots of the flood, from its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.dataplane.flood_analysis import BASELINE, TARGET_RATE, TARGET_RATIO, TRUE, FloodResult
from experiments.dataplane.kinds import (
    BAD_TAG,
    BAD_TAG_FAR,
    BAD_TAG_FORM,
    ELSEWHERE,
    KINDS,
    MALFORMED,
    REPLAYED,
    UNKNOWN_SPI,
    UNPROTECTED,
)
from experiments.plotting import Plot, figure, save

GOODPUT = Plot(
    "flood-goodput", "Goodput under a flood",
    "TCP goodput of a tenant as a share of that without an attack in the same repeat, against the packets that the "
    "attacker sent to the tenant's NVE. Points: medians; whiskers: order-statistics intervals. Elsewhere: the same "
    "packets to a port of the same machine where nobody listens; what is lost there is the price of sending and "
    "receiving them on the same two processors, not of refusing them. Dotted: the target for bad tags at 20,000/s.",
)
LATENCY = Plot(
    "flood-latency", "Round-trip time under a flood",
    "Medians of the repeats' median ICMP round-trip times between the tenants' hosts, without other load than 500 "
    "messages a second; logarithmic axes. Dotted: without an attack.",
)
COST = Plot(
    "flood-cost", "What a forged packet costs",
    "Dots: CPU time of the NVE for each packet that it refused, system calls included, at the rate of 20,000/s, with "
    "what it uses without an attack subtracted. Crosses: the data plane alone, in a process without a network, "
    "1400-byte frames, 64 in a call.",
)
_LOOKS = {
    UNKNOWN_SPI: ("0.55", "o", "-"), BAD_TAG: ("0", "s", "-"), BAD_TAG_FAR: ("0", "D", "--"),
    BAD_TAG_FORM: ("0", "^", ":"), REPLAYED: ("0.55", "v", "--"), MALFORMED: ("0.55", "P", ":"),
    ELSEWHERE: ("0.75", "x", "-."),
}  # fmt: skip
_ASIDE = 0.03


def draw(result: FloodResult, folder: Path) -> list[Plot]:
    """Draw every plot there are data for, and return which were drawn."""
    drawn = []
    for plot, function, available in (
        (GOODPUT, _goodput, any(row["ratio"] is not None and row["rate"] for row in result.goodput)),
        (LATENCY, _latency, any(row["median"] is not None and row["rate"] for row in result.latency)),
        (COST, _cost, bool(result.alone)),
    ):
        if available:
            save(function(result), folder, plot.name)
            drawn.append(plot)
    return drawn


def _lines(axes: Any, rows: list[dict[str, Any]], value: str, low: str, high: str) -> None:
    for number, (kind, (colour, marker, line)) in enumerate(_LOOKS.items()):
        chosen = [row for row in rows if row["kind"] == kind and row["rate"] and row[value] is not None]
        if not chosen:
            continue
        # A little beside each other: whiskers of several kinds at one rate would hide one another.
        shift = 1 + _ASIDE * (number - len(_LOOKS) / 2)
        axes.errorbar(
            [row["rate"] * shift for row in chosen], [row[value] for row in chosen],
            yerr=[[row[value] - row[low] for row in chosen], [row[high] - row[value] for row in chosen]],
            color=colour, marker=marker, linestyle=line, markersize=3.5, elinewidth=0.6, capsize=1.2, label=kind,
        )  # fmt: skip
    axes.set_xscale("log")
    rates = sorted({row["rate"] for row in rows if row["rate"]})
    axes.set_xticks(rates, [f"{rate / 1000:g}" for rate in rates])
    axes.xaxis.minorticks_off()
    axes.set_xlabel("forged packets per second (thousands)")


def _goodput(result: FloodResult) -> Any:
    drawing, axes = figure(3.0)
    _lines(axes, result.goodput, "ratio", "ratio_low", "ratio_high")
    axes.plot([TARGET_RATE / 1.4, TARGET_RATE * 1.4], [TARGET_RATIO] * 2, color="0", linewidth=0.9, linestyle=":")
    axes.set_ylim(0)
    axes.set_ylabel("goodput / goodput without attack")
    drawing.legend(loc="outside upper center", ncols=2)
    return drawing


def _latency(result: FloodResult) -> Any:
    drawing, axes = figure(3.0)
    _lines(axes, result.latency, "median", "ci_low", "ci_high")
    for row in result.latency:
        if row["kind"] == BASELINE and row["median"] is not None:
            axes.axhline(row["median"], color="0", linewidth=0.7, linestyle=":")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks = [step * 10.0**power for power in range(-3, 4) for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.minorticks_off()
    axes.set_ylabel("round-trip time (ms)")
    drawing.legend(loc="outside upper center", ncols=2)
    return drawing


def _cost(result: FloodResult) -> Any:
    drawing, axes = figure(2.4)
    kinds = [kind for kind in (TRUE, UNPROTECTED, *KINDS) if kind in result.alone]
    places = list(range(len(kinds)))
    live = {row["kind"]: row for row in result.refusals if row["rate"] == TARGET_RATE and row["cpu_us"] is not None}
    axes.plot([result.alone[kind] for kind in kinds], places, "x", color="0", markersize=5, label="data plane alone")
    shown = [(place, live[kind]) for place, kind in enumerate(kinds) if kind in live]
    axes.errorbar(
        [row["cpu_us"] for _, row in shown], [place for place, _ in shown], fmt="o", color="0.4", markersize=3.5,
        elinewidth=0.7, capsize=1.5, label="whole NVE, live",
        xerr=[[row["cpu_us"] - row["cpu_low"] for _, row in shown],
              [row["cpu_high"] - row["cpu_us"] for _, row in shown]],
    )  # fmt: skip
    axes.set_yticks(places, [f"{kind} (accepted)" if kind == TRUE else kind for kind in kinds])
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_xlim(0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("\N{GREEK SMALL LETTER MU}s per packet")
    drawing.legend(loc="outside upper center", ncols=2)
    return drawing

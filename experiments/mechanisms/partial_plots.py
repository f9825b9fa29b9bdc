"""Plots of the experiment *partial*, from its tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.mechanisms.compared_plots import name_rows, whisker
from experiments.mechanisms.partial_analysis import CLEAR, TLS, PartialResult
from experiments.mechanisms.variants import SINGLE
from experiments.plotting import Plot, bar_positions, figure, save

GOODPUT = Plot(
    "partial-goodput", "Goodput of tenants' TLS by protection of the overlay",
    "One bulk flow of a tenant, in clear and within TLS 1.3 (AES-128-GCM), at the receiver; a panel per MTU of the "
    "underlay. Medians with 95% intervals. A dagger: one packet per system call; all others many.",
)
CPU = Plot(
    "partial-cpu", "CPU time of the NVEs per gigabyte",
    "CPU time of both NVEs' processes for 10^9 bytes that the tenant received; a panel per MTU of the underlay. "
    "Medians with 95% intervals. A dagger: one packet per system call; all others many.",
)
TWICE = Plot(
    "partial-twice", "Bytes encrypted twice",
    "Bytes of a full-size packet that tenants' TLS has encrypted and the overlay encrypts again, from captures; a "
    "point per MTU of the underlay.",
)
PLOTS = (GOODPUT, CPU, TWICE)
_LOOKS = ((CLEAR, "tenants in clear", "0.85", ""), (TLS, "tenants' TLS", "0.45", "////"))
_ROW_INCHES = 0.27


def draw(result: PartialResult, folder: Path) -> list[Plot]:
    """Draw every plot there are data for, and return which were drawn."""
    drawn = []
    both = [row for row in result.cpu if row["end"] == "both"]
    for plot, rows, axis in (
        (GOODPUT, result.goodput, "goodput (Mbit/s)"), (CPU, both, "CPU time of both NVEs (s per GB)"),
    ):  # fmt: skip
        if any(row["median"] is not None for row in rows):
            save(_bars(rows, axis), folder, plot.name)
            drawn.append(plot)
    if any(row["tenants"] == TLS and row.get("twice_bytes") is not None for row in result.twice):
        save(_twice(result), folder, TWICE.name)
        drawn.append(TWICE)
    return drawn


def _label(row: dict[str, Any]) -> str:
    return str(row["mechanism"]) + ("\N{DAGGER}" if row["path"] == SINGLE else "")


def _bars(rows: Sequence[dict[str, Any]], axis: str) -> Any:
    mtus = sorted({row["underlay_mtu"] for row in rows})
    labels = list(dict.fromkeys(_label(row) for row in rows))
    drawing, panels = figure(_ROW_INCHES * len(labels) * len(mtus) + 0.9, rows=len(mtus), squeeze=False)
    for axes, mtu in zip(panels[:, 0], mtus, strict=True):
        axes.set_title(f"underlay MTU {mtu}", loc="left", pad=3)
        name_rows(axes, labels)
        centres, width = bar_positions(len(labels), len(_LOOKS))
        for (tenants, label, colour, hatch), places in zip(_LOOKS, centres, strict=True):
            of_series = {_label(row): row for row in rows
                         if (row["underlay_mtu"], row["tenants"]) == (mtu, tenants)}  # fmt: skip
            for place, name in zip(places, labels, strict=True):
                row = of_series.get(name)
                if row is None or row["median"] is None:
                    axes.text(0, place, " missing", fontsize=5.5, va="center", style="italic", color="0.35")
                    continue
                axes.barh(place, row["median"], 0.9 * width, color=colour, hatch=hatch, edgecolor="0", linewidth=0.5,
                          label=label)  # fmt: skip
                whisker(axes, place, row)
        axes.set_xlim(0)
    panels[-1, 0].set_xlabel(axis)
    handles, names = panels[0, 0].get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    drawing.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=2)
    return drawing


def _twice(result: PartialResult) -> Any:
    rows = [row for row in result.twice if row["tenants"] == TLS and row.get("twice_bytes") is not None]
    labels = list(dict.fromkeys(row["mechanism"] for row in rows))
    mtus = sorted({row["underlay_mtu"] for row in rows})
    drawing, axes = figure(0.2 * len(labels) + 1.0)
    name_rows(axes, labels)
    looks = (("o", "1", 7), ("s", "0", 3.5), ("D", "0.5", 3), ("^", "0.8", 3))  # the first is seen around the others
    for mtu, (marker, fill, size) in zip(mtus, looks, strict=False):
        points = [(row["twice_bytes"], labels.index(row["mechanism"])) for row in rows if row["underlay_mtu"] == mtu]
        axes.plot([x for x, _ in points], [y for _, y in points], linestyle="", marker=marker, markersize=size,
                  markerfacecolor=fill, markeredgecolor="0", label=f"underlay MTU {mtu}", clip_on=False)  # fmt: skip
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(0)
    axes.set_xticks([0, 10, 100, 1000, 10_000], ["0", "10", "100", "1000", "10000"])
    axes.xaxis.minorticks_off()
    axes.set_xlabel("bytes of a packet encrypted twice")
    drawing.legend(loc="outside upper center", ncols=2)
    return drawing

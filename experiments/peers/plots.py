"""The plots of the benchmark: goodput, datagrams per second, round-trip times and CPU time of every contender.

A row is a contender, ours first. The kernel's limits are far to the right of everything in user space: what lies beyond
the edge says its value, so that the others can be told apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import ticker

from experiments.peers.analysis import KERNEL, OURS, Benchmark
from experiments.plotting import Look, Plot, bar_positions, figure, save

GOODPUT = Plot(
    "bench-goodput",
    "TCP goodput",
    "Receiver's figure, one and four flows; medians with 95% intervals. Bars that leave the plot say their value.",
)
DATAGRAMS = Plot(
    "bench-udp",
    "Highest rate of UDP datagrams",
    "Datagrams per second with under 0.1% loss; medians with 95% intervals. 1400 B is cut to what the tenants' MTU "
    "takes. UDP_SEGMENT: the application hands 32 datagrams at a time to its kernel.",
)
LATENCY = Plot(
    "bench-rtt", "Round-trip time", "Median of pings, idle and beside one TCP flow; medians with 95% intervals."
)
COST = Plot(
    "bench-cpu",
    "CPU time per packet",
    "Time of the contender's processes per datagram of 1400 B at its highest rate, and of the whole machine.",
)
PLOTS = (GOODPUT, DATAGRAMS, LATENCY, COST)
_ROW_INCHES = 0.115
_FAR = 2.0
"""What is so many times as much as everything in user space is not drawn to scale."""


@dataclass(frozen=True, slots=True)
class Series:
    """One measure in a plot; ``scale`` turns its unit into the axis'."""

    measure: str
    scale: float
    look: Look


_GOODPUT = (
    Series("tcp_1", 1e-9, Look("1 flow", "0.25", "", "o", "-")),
    Series("tcp_4", 1e-9, Look("4 flows", "0.8", "////", "s", "--")),
)
_DATAGRAMS = (
    Series("udp_64", 1e-3, Look("64 B", "0.2", "", "o", "-")),
    Series("udp_512", 1e-3, Look("512 B", "0.6", "////", "s", "--")),
    Series("udp_1400", 1e-3, Look("1400 B", "0.95", "", "^", ":")),
    Series("udp_64_segmented", 1e-3, Look("64 B, UDP_SEGMENT", "0.8", "....", "v", "-.")),
)
_LATENCY = (
    Series("rtt_idle", 1.0, Look("idle", "0.2", "", "o", "")),
    Series("rtt_load", 1.0, Look("beside TCP", "0.5", "", "^", "")),
)
_COST = (
    Series("cpu_udp_left", 1.0, Look("sending end", "0.25", "", "o", "-")),
    Series("cpu_udp_right", 1.0, Look("receiving end", "0.65", "////", "s", "-")),
    Series("cpu_udp_transit", 1.0, Look("transit devices", "0.95", "....", "^", "-")),
)
_MACHINE = Series("cpu_udp_machine", 1.0, Look("whole machine", "black", "", "|", ""))


def draw(found: Benchmark, folder: Path) -> None:
    """Draw all plots, of whatever there are data for."""
    names = [item["name"] for item in found.contenders]
    if not any(found.values(name, "tcp_1") and found.values(name, "udp_64") for name in names):
        return
    save(_goodput(found), folder, GOODPUT.name)
    save(_datagrams(found), folder, DATAGRAMS.name)
    save(_latency(found), folder, LATENCY.name)
    save(_cost(found), folder, COST.name)


def _rows(found: Benchmark, axes: Any, per_row: int) -> None:
    """Name the rows, ours in bold face, with a line between ours, other user space, and the kernel."""
    names = [item["title"] + ("" if item["encrypts"] else "*") for item in found.contenders]
    axes.set_yticks(range(len(names)), names, fontsize=6.5)
    for text, item in zip(axes.get_yticklabels(), found.contenders, strict=True):
        text.set_fontweight("bold" if item["kind"] == OURS else "normal")
    kinds = [item["kind"] for item in found.contenders]
    for place in range(1, len(kinds)):
        if kinds[place] != kinds[place - 1]:
            axes.axhline(place - 0.5, color="0.4", linewidth=0.6, linestyle=(0, (4, 2)))
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    for place, item in enumerate(found.contenders):
        if found.absent(item["name"]) is not None:
            axes.text(0.01, place, "missing here", transform=axes.get_yaxis_transform(), fontsize=5.5, va="center",
                      style="italic", color="0.35")  # fmt: skip
    axes.figure.set_figheight(_ROW_INCHES * max(per_row, 1.6) * len(names) + 0.9)


def edge(found: Benchmark, series: Sequence[Series]) -> float:
    """Return where the axis ends: behind all that runs in user space, and what of the kernel's is not far from it."""
    tops = [
        (item["kind"], summary.high * one.scale)
        for item in found.contenders
        for one in series
        if (summary := found.summary(item["name"], one.measure)).high is not None
    ]
    farthest = _FAR * max((top for kind, top in tops if kind != KERNEL), default=math.inf)
    return 1.12 * max(top for _, top in tops if top <= farthest)


def _goodput(found: Benchmark) -> Any:
    drawing, axes = figure(4.0)
    limit = edge(found, _GOODPUT)
    centres, width = bar_positions(len(found.contenders), len(_GOODPUT))
    for one, places in zip(_GOODPUT, centres, strict=True):
        label: str | None = one.look.label
        for place, item in zip(places, found.contenders, strict=True):
            summary = found.summary(item["name"], one.measure)
            if summary.median is None or summary.low is None or summary.high is None:
                continue
            value = summary.median * one.scale
            axes.barh(place, min(value, limit), width * 0.92, color=one.look.colour, hatch=one.look.hatch,
                      edgecolor="black", linewidth=0.4, label=label)  # fmt: skip
            label = None
            if value > limit:
                axes.plot([0.972 * limit, 0.982 * limit], [place + 0.2, place - 0.2], color="white", linewidth=1.6)
                _beyond(axes, place, 0.955 * limit, f"{value:.3g} Gb/s")
                continue
            axes.errorbar(value, place, xerr=[[value - summary.low * one.scale], [summary.high * one.scale - value]],
                          color="black", elinewidth=0.6, capsize=1.2, capthick=0.6)  # fmt: skip
    axes.set_xlim(0, limit)
    axes.set_xlabel("TCP goodput (Gb/s)")
    _rows(found, axes, 2)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, handlelength=2.2)
    return drawing


def _beyond(axes: Any, place: float, where: float, text: str) -> None:
    """Write the value of something that lies beyond the edge."""
    axes.text(where, place, f"{text} \N{RIGHTWARDS ARROW}", fontsize=5, ha="right", va="center",
              bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4})  # fmt: skip


def _datagrams(found: Benchmark) -> Any:
    drawing, axes = figure(4.0)
    limit = edge(found, _DATAGRAMS)
    for one, offset in zip(_DATAGRAMS, (-0.3, -0.1, 0.1, 0.3), strict=True):
        _points(found, axes, one, offset, limit)
    axes.set_xlim(0, limit)
    axes.set_xlabel("datagrams per second (thousands)", loc="right")
    _rows(found, axes, 2)
    axes.legend(loc="lower center", bbox_to_anchor=(0.3, 1.0), ncols=2, handlelength=1.5)
    return drawing


def _points(found: Benchmark, axes: Any, one: Series, offset: float, limit: float = math.inf) -> None:
    label: str | None = one.look.label
    for place, item in enumerate(found.contenders):
        summary = found.summary(item["name"], one.measure)
        if summary.median is None or summary.low is None or summary.high is None:
            continue
        value = summary.median * one.scale
        if value > limit:
            axes.plot(0.85 * limit, place + offset, one.look.marker, color=one.look.colour, markersize=3.2,
                      markeredgecolor="black", markeredgewidth=0.5)  # fmt: skip
            _beyond(axes, place + offset, 0.985 * limit, f"{value:.0f}")
            continue
        axes.errorbar(value, place + offset, fmt=one.look.marker, color=one.look.colour, markersize=3.2,
                      markeredgecolor="black", markeredgewidth=0.5, ecolor="black", elinewidth=0.7, capsize=1.3,
                      xerr=[[value - summary.low * one.scale], [summary.high * one.scale - value]],
                      label=label)  # fmt: skip
        label = None


def _latency(found: Benchmark) -> Any:
    drawing, axes = figure(3.2)
    for one, offset in zip(_LATENCY, (-0.15, 0.15), strict=True):
        _points(found, axes, one, offset)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.set_xlabel("round-trip time (ms, log)")
    _rows(found, axes, 1)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    return drawing


def _cost(found: Benchmark) -> Any:
    drawing, axes = figure(3.2)
    ends = [0.0] * len(found.contenders)
    for one in _COST:
        label: str | None = one.look.label
        for place, item in enumerate(found.contenders):
            value = found.summary(item["name"], one.measure).median
            if value is None:
                continue
            axes.barh(place, value, 0.7, left=ends[place], color=one.look.colour, hatch=one.look.hatch,
                      edgecolor="black", linewidth=0.4, label=label)  # fmt: skip
            label = None
            ends[place] += value
    _points(found, axes, _MACHINE, 0.0)
    axes.set_xlim(0)
    axes.set_xlabel("CPU time per 1400 B datagram (µs)", loc="right")
    _rows(found, axes, 1)
    axes.legend(loc="lower center", bbox_to_anchor=(0.3, 1.0), ncols=2, handlelength=2.2)
    return drawing

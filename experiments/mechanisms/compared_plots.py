"""Plots of the experiment *mechanisms*, from its tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.mechanisms.compared_analysis import FIRST, ComparedResult
from experiments.mechanisms.variants import BATCHED, COMPARED, KERNEL, SINGLE
from experiments.plotting import Plot, bar_positions, figure, save

GOODPUT = Plot(
    "mechanisms-goodput", "TCP goodput by mechanism",
    "One TCP flow between two tenants through two NVEs, at the receiver; medians with 95% intervals. Compare within a "
    "panel only: above, many packets leave and enter the NVE in one system call (UDP_SEGMENT, UDP_GRO); below, one, "
    "which is all that IP protocols of their own can have. A star: nothing is encrypted.",
)
BYTES = Plot(
    "mechanisms-bytes", "Bytes added per packet by mechanism",
    "Outer IP packet minus inner frame, from captures on the underlay, against the inner frame's length (both without "
    "FCS); the axis does not begin at 0. ESP fills up to a multiple of 4. Every point agrees with the formulas, or the "
    "run fails.",
)
CPU = Plot(
    "mechanisms-cpu", "CPU time per packet by mechanism",
    "CPU time of both NVEs together for a packet: of a paced load of datagrams of 1200 B (5000 a second), and of a "
    "bulk TCP flow, whose packets come many at a time. Medians with 95% intervals.",
)
SETUP = Plot(
    "mechanisms-setup", "Key set-up time by mechanism",
    "From a tenant's first frame to its delivery, without what a later frame takes, between two NVEs that never "
    "talked, on the emulated network. Dots: each pair; bars: median and 95% interval. Keys of security options, ESP "
    "and AH come from the NVA; DTLS agrees on its own.",
)
PLOTS = (GOODPUT, BYTES, CPU, SETUP)
_LINES = {
    "none": ("0.6", "o", "-"), "full": ("0", "s", "-"), "headers-only": ("0", "D", "--"), "dtls": ("0.3", "^", "-"),
    "dtls-null": ("0.3", "^", ":"), "esp-udp": ("0.45", "v", "-"), "esp-null-udp": ("0.45", "v", ":"),
    "esp": ("0.6", "P", "-"), "esp-null": ("0.6", "P", ":"), "ah": ("0.75", "x", "--"),
}  # fmt: skip
_PATHS = {
    BATCHED: "many packets per system call", SINGLE: "one packet per system call", KERNEL: "the kernel's own IPsec",
}  # fmt: skip
_ROW_INCHES = 0.19


def draw(result: ComparedResult, folder: Path) -> list[Plot]:
    """Draw every plot there are data for, and return which were drawn."""
    drawn = []
    for plot, function, available in (
        (GOODPUT, _goodput, any(row["median"] is not None for row in result.goodput)),
        (BYTES, _bytes, any(row.get("added_bytes") is not None for row in result.bytes)),
        (CPU, _cpu, any(row["median"] is not None for row in result.cpu)),
        (SETUP, _setup, any(result.setup_samples.values())),
    ):
        if available:
            save(function(result), folder, plot.name)
            drawn.append(plot)
    return drawn


def _label(row: dict[str, Any]) -> str:
    variant = next(item for item in COMPARED if item.mechanism == row["mechanism"])
    return str(row["mechanism"]) + ("" if variant.encrypts else "*")


def name_rows(axes: Any, labels: Sequence[str]) -> None:
    """Name the rows of a plot of horizontal bars, the first on top."""
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def whisker(axes: Any, place: float, row: dict[str, Any], scale: float = 1.0) -> None:
    """Draw the interval of a row's median, black on white to be seen on a dark bar; none for a single sample."""
    if row["ci_low"] == row["ci_high"]:
        return
    value = row["median"] * scale
    ends = [[value - row["ci_low"] * scale], [row["ci_high"] * scale - value]]
    for colour, extra in (("1", 1.2), ("0", 0.0)):
        axes.errorbar(value, place, xerr=ends, fmt="none", ecolor=colour, elinewidth=0.8 + extra,
                      capsize=1.5 + extra / 2, capthick=0.8 + extra, zorder=5)  # fmt: skip


def _panels(rows: list[dict[str, Any]], height: float) -> tuple[Any, list[tuple[Any, list[dict[str, Any]]]]]:
    by_path = {path: [row for row in rows if row["path"] == path] for path in _PATHS}
    there = {path: group for path, group in by_path.items() if group}
    counts = [len(group) for group in there.values()]
    drawing, axes = figure(
        height * sum(counts) + 1.1, rows=len(there), sharex=True, height_ratios=counts, squeeze=False
    )  # fmt: skip
    for panel, path in zip(axes[:, 0], there, strict=True):
        panel.set_title(_PATHS[path], loc="left", pad=3)
    return drawing, list(zip(axes[:, 0], there.values(), strict=True))


def _goodput(result: ComparedResult) -> Any:
    drawing, panels = _panels(result.goodput, _ROW_INCHES)
    for axes, rows in panels:
        name_rows(axes, [_label(row) for row in rows])
        for place, row in enumerate(rows):
            if row["median"] is None:
                axes.text(0, place, " missing", fontsize=6, va="center", style="italic", color="0.35")
                continue
            axes.barh(place, row["median"], 0.7, color="0.75", edgecolor="0", linewidth=0.5)
            whisker(axes, place, row)
        axes.set_xlim(0)
    panels[-1][0].set_xlabel("TCP goodput (Mbit/s)")
    return drawing


def _bytes(result: ComparedResult) -> Any:
    drawing, axes = figure(3.4)
    ends = []
    for mechanism, (colour, marker, line) in _LINES.items():
        points = sorted({
            (row["inner_bytes"], row["added_bytes"]) for row in result.bytes
            if row["mechanism"] == mechanism and row.get("added_bytes") is not None
        })  # fmt: skip
        if points:
            sizes, added = [point[0] for point in points], [point[1] for point in points]
            axes.plot(sizes, added, color=colour, marker=marker, linestyle=line, markersize=3.2)
            ends.append((added[-1], sizes[-1], mechanism))
    _label_ends(axes, ends)
    axes.set_xscale("log", base=2)
    axes.set_xticks([64, 128, 256, 512, 1024], ["64", "128", "256", "512", "1024"])
    axes.xaxis.minorticks_off()
    axes.set_xlabel("inner frame (bytes)")
    axes.set_ylabel("added bytes per packet")
    return drawing


def _label_ends(axes: Any, ends: list[tuple[float, float, str]]) -> None:
    """Name each line at its end, lines that lie upon each other together, and none upon another's name."""
    together: dict[float, list[str]] = {}
    for added, _, mechanism in sorted(ends):
        together.setdefault(added, []).append(mechanism)
    bottom, top = min(together) - 4, max(together) + 4
    axes.set_ylim(bottom, top)
    right, lowest, apart = max(size for _, size, _ in ends), bottom, (top - bottom) / 36
    for added, names in sorted(together.items()):
        place = max(added, lowest)
        lowest = place + apart
        axes.annotate(", ".join(names), (right * 1.07, place), fontsize=6, va="center", annotation_clip=False)


def _cpu(result: ComparedResult) -> Any:
    rows = [row for row in result.cpu if row["end"] == "both"]
    drawing, panels = _panels([row for row in rows if row["load"] == "udp"], 1.5 * _ROW_INCHES)
    looks = (("udp", "paced datagrams", "0.8", ""), ("tcp", "bulk TCP", "0.45", "////"))
    for axes, of_path in panels:
        name_rows(axes, [_label(row) for row in of_path])
        centres, width = bar_positions(len(of_path), len(looks))
        for (load, label, colour, hatch), places in zip(looks, centres, strict=True):
            for place, entry in zip(places, of_path, strict=True):
                row = next(item for item in rows if (item["mechanism"], item["path"], item["load"])
                           == (entry["mechanism"], entry["path"], load))  # fmt: skip
                if row["median"] is not None:
                    axes.barh(place, row["median"], 0.9 * width, color=colour, hatch=hatch, edgecolor="0",
                              linewidth=0.5, label=label)  # fmt: skip
                    whisker(axes, place, row)
        axes.set_xlim(0)
    panels[-1][0].set_xlabel("CPU time of both NVEs (\N{GREEK SMALL LETTER MU}s per packet)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    drawing.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=2)
    return drawing


def _setup(result: ComparedResult) -> Any:
    rows = [row for row in result.setup if row["direction"] == FIRST]
    drawing, axes = figure(1.3 * _ROW_INCHES * len(rows) + 0.7)
    name_rows(axes, [row["mechanism"] for row in rows])
    for place, row in enumerate(rows):
        values = result.setup_samples.get(row["mechanism"], [])
        if row["median"] is None:
            axes.text(0, place, " missing", fontsize=6, va="center", style="italic", color="0.35")
            continue
        axes.plot(values, [place + 0.22] * len(values), linestyle="", marker="o", markersize=2.4,
                  markerfacecolor="1", markeredgecolor="0", markeredgewidth=0.4)  # fmt: skip
        axes.plot(row["median"], place - 0.12, marker="|", markersize=9, color="0", markeredgewidth=1.4)
        whisker(axes, place - 0.12, row)
    axes.axvline(0, color="0.5", linewidth=0.5)
    axes.set_xlabel("first frame's delay beyond a later one's (ms)")
    return drawing

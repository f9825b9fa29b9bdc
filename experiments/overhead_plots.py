"""Plots of the overhead experiment, from its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.overhead_analysis import HOPS, UNDERLAY, Configuration, OverheadResult
from experiments.plotting import Look, Plot, bar_positions, error_bars, figure, save
from experiments.statistics import ecdf, quantile

_LOOKS = {
    ("none", False): Look("none", "0.95", "", "o", "-"),
    ("none", True): Look("none + telemetry", "0.75", "....", "s", "--"),
    ("full", False): Look("full", "0.55", "////", "^", "-"),
    ("full", True): Look("full + telemetry", "0.3", "xxxx", "D", "--"),
    (UNDERLAY, False): Look("underlay, no overlay", "0", "", "_", ":"),
}
_LINES = {
    ("none", False): "0.6", ("none", True): "0.6", ("full", False): "0", ("full", True): "0",
    (UNDERLAY, False): "0.35",
}  # fmt: skip
_DOTS_ASIDE, _WHISKER_ASIDE = 0.25, 0.2
"""How far, in widths of a bar, the repeats' dots stand left and their whisker right of its middle."""
_OVERLAY = (("none", False), ("none", True), ("full", False), ("full", True))

BYTES = Plot(
    "overhead-bytes",
    "Bytes added per packet",
    "Outer frame length on the wire minus inner frame length (both without FCS), against the inner frame's "
    "length; every point is the median of several captured packets, and packets of one size that differ "
    "are reported as a warning. Top: bytes; the number of transit devices matters only where each of them "
    "gets a security option of its own (full + telemetry). Bottom: the same in percent of the inner frame. "
    "Measured with AF_PACKET captures on the ingress NVE's underlay interface.",
)
THROUGHPUT = Plot(
    "overhead-throughput",
    "TCP goodput",
    "One TCP flow between two tenant hosts (iperf3, receiver's figure). Bars: medians of the repeats; "
    "whiskers: order-statistics confidence interval of the median (its true confidence is in the table); "
    "none for a single repeat; dots beside them: the repeats. Order of all configurations and repeats "
    "shuffled. Short lines: the same tool between the NVEs' own namespaces over the same underlay path, "
    "without any overlay.",
)
RTT = Plot(
    "overhead-rtt",
    "Round-trip time",
    "Distribution of ICMP echo round-trip times between two tenant hosts, idle network, all repeats pooled; "
    "one panel per number of transit devices. Dotted: the bare underlay between the same NVEs' namespaces. "
    "The axis ends at the largest 99th percentile; what lies beyond is in the raw samples.",
)
CPU = Plot(
    "overhead-cpu",
    "CPU time per packet",
    "CPU time (user and kernel, from the scheduler's own accounting) of each daemon during a fixed-rate UDP "
    "load, divided by the packets that its underlay interface counted. Bars and whiskers as above; for two "
    "transit devices the mean of both devices' medians and of their intervals' ends. At this low rate each "
    "packet pays for its own wake-up; nothing is subtracted. Work that the kernel does for a packet outside "
    "the daemon's context is not in it.",
)
PLOTS = (BYTES, THROUGHPUT, RTT, CPU)


def draw(result: OverheadResult, folder: Path) -> list[Plot]:
    """Draw every plot there are data for, and return which were drawn."""
    drawn = []
    for plot, function, available in (
        (BYTES, _bytes, any(row["added_bytes"] is not None for row in result.bytes)),
        (THROUGHPUT, _throughput, any(result.throughput_samples.values())),
        (RTT, _rtt, any(result.rtt_samples.values())),
        (CPU, _cpu, any(row["median"] is not None for row in result.cpu)),
    ):
        if available:
            save(function(result), folder, plot.name)
            drawn.append(plot)
    return drawn


def _bytes(result: OverheadResult) -> Any:
    drawing, (top, bottom) = figure(3.9, rows=2, sharex=True, height_ratios=(3, 2))
    rows = [row for row in result.bytes if row["added_bytes"] is not None]
    for label, key, hops in _byte_series(rows):
        look = _LOOKS[key]
        points = sorted(
            (row["inner_bytes"], row["added_bytes"])
            for row in rows
            if (row["mode"], row["telemetry"], row["hops"]) == (*key, hops)
        )
        sizes, added = [point[0] for point in points], [point[1] for point in points]
        style = {"color": _LINES[key], "linestyle": look.line, "marker": look.marker, "markersize": 3.5}
        top.plot(sizes, added, **style)
        top.annotate(
            label, (sizes[-1], added[-1]), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7,
            annotation_clip=False,
        )  # fmt: skip
        bottom.plot(sizes, [100 * value / size for size, value in points], **style)
    for axes in (top, bottom):
        axes.set_xscale("log", base=2)
        axes.set_xticks([64, 128, 256, 512, 1024])
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.minorticks_off()
    top.set_ylim(0, 1.12 * max(row["added_bytes"] for row in rows))
    bottom.set_ylim(0)
    top.set_ylabel("added bytes per packet")
    bottom.set_ylabel("added / inner (%)")
    bottom.set_xlabel("inner frame (bytes)")
    return drawing


def _byte_series(rows: list[dict[str, Any]]) -> list[tuple[str, tuple[str, bool], int]]:
    """One series where the number of transit devices does not matter, else one for each."""
    series = []
    for key in _OVERLAY:
        by_hops: dict[int, set[float]] = {}
        for row in rows:
            if (row["mode"], row["telemetry"]) == key:
                by_hops.setdefault(row["hops"], set()).update((row["added_min"], row["added_max"]))
        label = _LOOKS[key].label.replace(" + telemetry", "+tel.")
        if len({frozenset(values) for values in by_hops.values()}) == 1:
            series.append((label, key, min(by_hops)))
        else:
            series.extend((f"{label}, {hops} dev.", key, hops) for hops in sorted(by_hops))
    return series


def _throughput(result: OverheadResult) -> Any:
    drawing, axes = figure(2.5)
    rows = {Configuration.of(row): row for row in result.throughput if row["median"] is not None}
    _grouped_bars(axes, rows, result.throughput_samples)
    for group, hops in enumerate(HOPS):
        reference = rows.get(Configuration(UNDERLAY, False, hops))
        if reference:
            label = "underlay, no overlay" if group == 0 else None
            line = {"color": "0", "linewidth": 1.2, "linestyle": ":"}
            axes.hlines(reference["median"], group - 0.45, group + 0.45, label=label, **line)
    _hop_axis(axes)
    axes.set_ylabel("TCP goodput (Mbit/s)")
    axes.set_xlabel("transit devices on the path")
    drawing.legend(*_legend_order(axes), loc="outside upper center", ncols=2)
    return drawing


def _grouped_bars(
    axes: Any, rows: dict[Configuration, dict[str, Any]], samples: dict[Configuration, list[float]]
) -> None:
    """Bars of medians with their whiskers, and the repeats as dots beside them where ``samples`` has any."""
    positions, width = bar_positions(len(HOPS), len(_OVERLAY))
    for key, centres in zip(_OVERLAY, positions, strict=True):
        look = _LOOKS[key]
        present = [
            (centre, rows[configuration])
            for centre, hops in zip(centres, HOPS, strict=True)
            if (configuration := Configuration(key[0], key[1], hops)) in rows
        ]
        if not present:
            continue
        axes.bar(
            [centre for centre, _ in present], [row["median"] for _, row in present], width, label=look.label,
            color=look.colour, hatch=look.hatch, edgecolor="0", linewidth=0.5,
        )  # fmt: skip
        for centre, row in present:
            dots = samples.get(Configuration.of(row), [])
            axes.plot(
                [centre - _DOTS_ASIDE * width] * len(dots), dots, linestyle="", marker="o", markersize=2.4,
                zorder=4, markerfacecolor="1", markeredgecolor="0", markeredgewidth=0.4,
            )  # fmt: skip
            _whisker(axes, centre + (_WHISKER_ASIDE * width if dots else 0), row)


def _whisker(axes: Any, place: float, row: dict[str, Any]) -> None:
    """Black on white, to be seen on a dark bar; none for a single repeat, which knows no error."""
    if row["ci_low"] == row["ci_high"]:
        return
    for colour, extra in (("1", 1.2), ("0", 0.0)):
        axes.errorbar(
            place, row["median"], yerr=error_bars([row]), fmt="none", ecolor=colour, elinewidth=0.9 + extra,
            capsize=1.5 + extra / 2, capthick=0.9 + extra, zorder=5,
        )  # fmt: skip


def _legend_order(axes: Any) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return handles, labels


def _hop_axis(axes: Any) -> None:
    axes.set_xticks(range(len(HOPS)), [str(hops) for hops in HOPS])
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0)


def _rtt(result: OverheadResult) -> Any:
    drawing, panels = figure(4.6, rows=len(HOPS), sharex=True)
    samples = {key: values for key, values in result.rtt_samples.items() if values}
    limit = max(quantile(values, 0.99) for values in samples.values())
    start = min(min(values) for values in samples.values())
    for axes, hops in zip(panels, HOPS, strict=True):
        for key in (*_OVERLAY, (UNDERLAY, False)):
            values = samples.get(Configuration(key[0], key[1], hops))
            if not values:
                continue
            look = _LOOKS[key]
            x, y = ecdf(values)
            marker = {"marker": look.marker, "markersize": 3, "markevery": max(1, len(x) // 5)}
            if key[0] == UNDERLAY:
                marker = {}
            line = {"color": _LINES[key], "linestyle": look.line, "label": look.label}
            axes.step(x, y, where="post", **line, **marker)
        axes.set_ylim(0, 1.02)
        axes.set_yticks([0, 0.5, 1])
        axes.set_ylabel("CDF")
        # Above the panel: wherever it stood inside, some run's curves would pass.
        axes.set_title(f"{hops} transit device{'' if hops == 1 else 's'}", loc="left", pad=3)
    panels[-1].set_xscale("log")
    panels[-1].set_xlim(start * 0.9, limit)
    _plain_log_ticks(panels[-1], start * 0.9, limit)
    panels[-1].set_xlabel("round-trip time (ms, logarithmic)")
    drawing.legend(*_legend_order(panels[0]), loc="outside upper center", ncols=2)
    return drawing


def _plain_log_ticks(axes: Any, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, as plain numbers."""
    ticks = [factor * 10.0**power for power in range(-3, 5) for factor in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(inside, [f"{tick:g}" for tick in inside])
    axes.xaxis.minorticks_off()


def _cpu(result: OverheadResult) -> Any:
    roles = [
        ("ingress", "ingress NVE"), ("egress", "egress NVE"), ("transit", "transit device (mean)"),
    ]  # fmt: skip
    drawing, panels = figure(4.6, rows=len(roles), sharex=True)
    for axes, (role, title) in zip(panels, roles, strict=True):
        of_role = [row for row in result.cpu if row["role"] == role and row["median"] is not None]
        rows = {Configuration.of(row): row for row in _mean_over_devices(of_role)}
        _grouped_bars(axes, rows, {})
        _hop_axis(axes)
        axes.set_ylabel("\N{GREEK SMALL LETTER MU}s per packet")
        axes.set_title(title, loc="left", pad=3)
    panels[-1].set_xlabel("transit devices on the path")
    drawing.legend(*_legend_order(panels[0]), loc="outside upper center", ncols=2)
    return drawing


def _mean_over_devices(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per configuration: medians and interval ends averaged over the transit devices on the path."""
    groups: dict[Configuration, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(Configuration.of(row), []).append(row)
    names = ("median", "ci_low", "ci_high")
    return [
        {
            **configuration.as_dict(),
            **{name: sum(row[name] for row in group) / len(group) for name in names},
        }
        for configuration, group in groups.items()
    ]

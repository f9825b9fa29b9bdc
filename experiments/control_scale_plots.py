"""The plots of the control-plane benchmark: growth with the number of nodes, and the latency of a mapping change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.control_scale_analysis import ScaleResult, exponent
from experiments.plotting import Look, Plot, figure, save
from experiments.statistics import quantile

GROWTH = Plot(
    "control-scale",
    "Growth of the control plane",
    "Time until done, bytes on all connections (TLS, both ways) and the NVA's peak memory by the number of NVEs, each "
    "with ten tenants. All NVEs share one virtual network, so what everybody must know in all grows with the square. "
    "In brackets: measured exponent. Rekey: all keys replaced, with four and sixteen talking partners for each NVE.",
)
CHANGE = Plot(
    "control-scale-change",
    "A mapping change reaches everyone",
    "Seconds from an NVE's report of a changed tenant until the other NVEs had applied the change, over all NVEs and "
    "repeats. The NVA gathers changes for up to 50 ms.",
)
PLOTS = (GROWTH, CHANGE)

_SERIES = (
    ("static", "synchronisation", None, Look("register and synchronise", "0", "", "o", "-")),
    ("learned", "tenants", None, Look("report tenants", "0.25", "", "s", "--")),
    ("learned", "change", None, Look("one mapping change", "0.4", "", "^", ":")),
    ("learned", "rekey", 4, Look("rekey, 4 partners", "0.55", "", "v", "-.")),
    ("learned", "rekey", 16, Look("rekey, 16 partners", "0.65", "", "D", (0, (5, 1)))),
    ("eager", "rekey", None, Look("rekey, all pairs", "0.75", "", "x", (0, (1, 1)))),
    ("learned", "restart", None, Look("after a crash", "0.5", "", "+", (0, (3, 1, 1, 1)))),
)
_PANELS = (("seconds", "time (s)"), ("bytes", "traffic (bytes)"), ("nva_peak_mib", "peak memory (MiB)"))


def draw(result: ScaleResult, folder: Path) -> list[Plot]:
    """Draw what there are data for, and return which plots were drawn."""
    drawn = []
    if len({row["nodes"] for row in result.phases}) > 1:
        save(_growth(result), folder, GROWTH.name)
        drawn.append(GROWTH)
    if any((mode, phase) == ("learned", "change") for mode, phase, _ in result.latencies):
        save(_change(result), folder, CHANGE.name)
        drawn.append(CHANGE)
    return drawn


def _growth(result: ScaleResult) -> Any:
    drawing, panels = figure(8.2, rows=3, sharex=True)
    for (name, label), axes in zip(_PANELS, panels, strict=True):
        for mode, phase, per_node, look in _SERIES:
            points = [
                (row["nodes"], row[name])
                for row in result.phases
                if (row["mode"], row["phase"], row["per_node"]) == (mode, phase, per_node) and row.get(name)
            ]
            if not points:
                continue
            slope = exponent(points)
            text = look.label if slope is None else f"{look.label} ({slope:.2f})"
            axes.plot(*zip(*points, strict=True), color=look.colour, marker=look.marker, linestyle=look.line,
                      markersize=3.5, label=text)  # fmt: skip
        axes.set_xscale("log")
        if name == "nva_peak_mib":
            axes.set_ylim(0)
        else:
            axes.set_yscale("log")
        axes.set_ylabel(label)
        axes.legend(fontsize=5.5, handlelength=3, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    sizes = sorted({row["nodes"] for row in result.phases})
    panels[-1].set_xticks(sizes, [str(size) for size in sizes])
    panels[-1].xaxis.minorticks_off()
    panels[-1].set_xlabel("NVEs")
    return drawing


def _change(result: ScaleResult) -> Any:
    drawing, axes = figure(2.2)
    styles = ("-", "--", ":", "-.")
    chosen = sorted(nodes for mode, phase, nodes in result.latencies if (mode, phase) == ("learned", "change"))
    for place, nodes in enumerate(chosen):
        values = sorted(value for repeat in result.latencies["learned", "change", nodes] for value in repeat)
        fractions = [number / 200 for number in range(201)]
        axes.plot([quantile(values, fraction) for fraction in fractions], fractions, color="0.2",
                  linestyle=styles[place % len(styles)], label=f"{nodes} NVEs")  # fmt: skip
    axes.set_xlabel("time since the report (s)")
    axes.set_ylabel("share of NVEs")
    axes.set_xlim(0)
    axes.legend()
    return drawing

"""The plot of the telemetry experiment: where a flow's packets spend their time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.plotting import Plot, figure, save
from experiments.telemetry_analysis import TelemetryResult

PATH = Plot(
    "telemetry-path",
    "Time along the path of a flow",
    "Time that the packets of one tenant flow spent in each transit device and between them, from the "
    "records that the devices exported after authenticating the telemetry option. Box: quartiles and median; "
    "whiskers: 5th to 95th percentile. All devices of the emulation share one clock.",
)
PLOTS = (PATH,)


def draw(result: TelemetryResult, folder: Path) -> list[Plot]:
    """Draw the times along the path, if any packet was followed, and return which plots were drawn."""
    if not any(result.times.values()):
        return []
    save(_path(result), folder, PATH.name)
    return [PATH]


def _path(result: TelemetryResult) -> Any:
    names = list(result.times)
    drawing, axes = figure(0.7 + 0.35 * len(names))
    boxes = axes.boxplot(
        [result.times[name] for name in names], orientation="horizontal", whis=(5, 95), showfliers=False,
        widths=0.55, patch_artist=True, medianprops={"color": "0", "linewidth": 1.2},
    )  # fmt: skip
    for name, box in zip(names, boxes["boxes"], strict=True):
        inside = name.startswith("in ")
        box.set(facecolor="0.8" if inside else "1", hatch="" if inside else "////", linewidth=0.6)
    axes.set_yticks(range(1, len(names) + 1), names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0)
    axes.set_xlabel("time per packet (\N{GREEK SMALL LETTER MU}s)")
    return drawing

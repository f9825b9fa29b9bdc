"""The look of all plots: one column of a paper wide, legible, and readable in greyscale.

Series differ by hatch, marker and line style, never by colour alone. Every figure is written as PNG for
the page and as PDF with embedded TrueType fonts for a paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

COLUMN_INCHES = 3.3
"""Width of one column of a two-column paper."""

_STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5,
    "legend.fontsize": 7, "font.family": "sans-serif", "axes.linewidth": 0.6, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "lines.linewidth": 1.0, "hatch.linewidth": 0.5, "grid.linewidth": 0.4,
    "grid.color": "0.85", "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "pdf.fonttype": 42, "ps.fonttype": 42,
    "savefig.dpi": 300, "figure.constrained_layout.use": True,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot of the page: file name without ending, heading, and how to read it."""

    name: str
    heading: str
    caption: str


@dataclass(frozen=True, slots=True)
class Look:
    """How one series is drawn."""

    label: str
    colour: str
    hatch: str
    marker: str
    line: Any


def figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """Return a figure one column wide and ``height`` inches high, and its axes."""
    pyplot.rcParams.update(_STYLE)
    return pyplot.subplots(rows, columns, figsize=(COLUMN_INCHES, height), **options)


def save(drawing: Any, folder: Path, name: str) -> None:
    """Write ``name``.png and ``name``.pdf and close the figure; the same data give the same bytes."""
    drawing.savefig(folder / f"{name}.png", metadata={"Software": None})
    drawing.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
    pyplot.close(drawing)


def bar_positions(groups: int, bars: int, width: float = 0.8) -> tuple[list[list[float]], float]:
    """Return the centres of ``bars`` bars in each of ``groups`` groups, and one bar's width."""
    single = width / bars
    first = -width / 2 + single / 2
    return [[group + first + bar * single for group in range(groups)] for bar in range(bars)], single


def error_bars(rows: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Return the distances from median down and up to the interval's ends, as matplotlib wants them."""
    return [
        [row["median"] - row["ci_low"] for row in rows],
        [row["ci_high"] - row["median"] for row in rows],
    ]

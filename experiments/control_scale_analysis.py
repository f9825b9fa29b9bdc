"""What the control-plane benchmark found: medians over repeats, latencies, and how each figure grows with the nodes.

Growth is a measured exponent: the slope of a straight line through the logarithms of number of nodes and figure, over
all sizes measured. 1 is linear, 2 is with the square.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.samples import read_lines
from experiments.statistics import quantile, summarise
from experiments.tables import rounded, write_csv

TARGET_NODES = 1000
SYNCHRONISED_LIMIT = 60.0
"""Target: seconds in which that many nodes are registered and know everything."""
CHANGE_LIMIT = 2.0
"""Target: seconds after which a mapping change is at all of them."""
MEMORY_LIMIT = 1 << 30
"""Target: bytes of the NVA's process at most."""

COLUMNS = (
    "mode", "phase", "nodes", "pairs", "seconds", "ci_low", "ci_high", "ci_coverage", "p50_ms", "p95_ms", "max_ms",
    "kilobytes_down", "kilobytes_up", "json_kilobytes", "messages", "bytes_per_node", "nva_cpu_s", "nva_rss_mib",
    "nva_peak_mib", "database_mib", "simulator_cpu_s", "disconnections", "count", "missing",
)  # fmt: skip
GROWTH_COLUMNS = ("mode", "phase", "per_node", "figure", "exponent", "sizes")
FIGURES = ("seconds", "bytes", "messages", "nva_cpu_s", "nva_peak_mib")
"""Figures for which the growth is measured."""


@dataclass(slots=True)
class ScaleResult:
    """Rows of the two tables, and the latencies of every repeat by mode, phase and number of nodes, in seconds."""

    phases: list[dict[str, Any]] = field(default_factory=list)
    growth: list[dict[str, Any]] = field(default_factory=list)
    latencies: dict[tuple[str, str, int], list[list[float]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def analyse(path: Path) -> ScaleResult:
    """Analyse the samples in a file; ValueError when they are damaged."""
    result = ScaleResult()
    groups: dict[tuple[str, str, int, int], list[dict[str, Any]]] = {}
    for entry in read_lines(path):
        key = (entry["mode"], entry["phase"], entry.get("per_node") or 0, entry["nodes"])
        groups.setdefault(key, []).append(entry)
        if entry["missing"] is not None:
            result.missing.append(f"{entry['mode']}, {entry['nodes']} nodes, {entry['phase']}: {entry['missing']}")
        elif "latencies" in entry:
            result.latencies.setdefault((entry["mode"], entry["phase"], entry["nodes"]), []).append(entry["latencies"])
    for key, group in sorted(groups.items()):
        result.phases.append(_row(key, group))
    result.growth = _growth(result.phases)
    return result


def _row(key: tuple[str, str, int, int], group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    mode, phase, per_node, nodes = key
    spent = summarise([entry["value"] for entry in group])
    good = [entry for entry in group if entry["value"] is not None and "counts" in entry]
    row: dict[str, Any] = {
        "mode": mode, "phase": phase, "per_node": per_node or None, "nodes": nodes,
        "pairs": _median([entry.get("pairs") for entry in good]),
        "seconds": rounded(spent.median), "ci_low": rounded(spent.low), "ci_high": rounded(spent.high),
        "ci_coverage": round(spent.coverage, 4), "count": spent.count, "missing": spent.missing,
        "nva_cpu_s": _median([entry.get("nva_cpu_s") for entry in group]),
        "nva_rss_mib": _mebibytes([entry.get("nva_rss_bytes") for entry in good]),
        "nva_peak_mib": _mebibytes([entry.get("nva_peak_rss_bytes") for entry in group]),
        "database_mib": _mebibytes([entry.get("database_bytes") for entry in good]),
        "simulator_cpu_s": _median([entry.get("simulator_cpu_s") for entry in good]),
    }  # fmt: skip
    if good:
        down, up = _count(good, "received_tls"), _count(good, "sent_tls")
        row |= {
            "bytes": down + up, "kilobytes_down": rounded(down / 1000), "kilobytes_up": rounded(up / 1000),
            "json_kilobytes": rounded((_count(good, "received_json") + _count(good, "sent_json")) / 1000),
            "messages": _count(good, "received_messages") + _count(good, "sent_messages"),
            "bytes_per_node": rounded((down + up) / nodes), "disconnections": _count(good, "disconnections"),
        }  # fmt: skip
    latencies = [entry["latencies"] for entry in good if entry.get("latencies")]
    for name, fraction in (("p50_ms", 0.5), ("p95_ms", 0.95), ("max_ms", 1.0)):
        row[name] = rounded(_median([1000 * quantile(values, fraction) for values in latencies]))
    return row


def _median(values: Sequence[float | None]) -> float | None:
    return summarise(values).median


def _mebibytes(values: Sequence[float | None]) -> float | None:
    middle = _median(values)
    return None if middle is None else rounded(middle / (1 << 20))


def _count(group: Sequence[dict[str, Any]], name: str) -> float:
    return _median([entry["counts"][name] for entry in group]) or 0.0


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the slope of the least-squares line through the logarithms of ``points``; None below two sizes."""
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len({x for x, _ in logs}) < 2:
        return None
    mean_x = sum(x for x, _ in logs) / len(logs)
    mean_y = sum(y for _, y in logs) / len(logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def _growth(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    series: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        series.setdefault((row["mode"], row["phase"], row["per_node"] or 0), []).append(row)
    found = []
    for (mode, phase, per_node), members in sorted(series.items()):
        for figure in FIGURES:
            points = [(row["nodes"], row[figure]) for row in members if row.get(figure) and _comparable(row)]
            slope = exponent(points)
            if slope is not None:
                found.append({
                    "mode": mode, "phase": phase, "per_node": per_node or None, "figure": figure,
                    "exponent": round(slope, 2) + 0.0, "sizes": [nodes for nodes, _ in points],
                })  # fmt: skip
    return found


def _comparable(row: dict[str, Any]) -> bool:
    """Whether a row has the pairs for each node that it is about: so few nodes may be that there are not as many."""
    per_node, pairs = row.get("per_node"), row.get("pairs")
    return per_node is None or pairs is None or pairs >= 0.95 * per_node * row["nodes"]


def targets(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
    """Yield each target of the project in words, and whether it is met; none where that many nodes were not tried."""
    mine = [row for row in rows if row["nodes"] == TARGET_NODES and row["mode"] in ("static", "learned")]
    if not mine:
        return
    found = {(row["mode"], row["phase"]): row for row in mine if row["count"]}

    def seconds(mode: str, phase: str) -> float:
        row = found.get((mode, phase))
        return math.inf if row is None else float(row["seconds"])

    static = seconds("static", "synchronisation")
    yield (f"{TARGET_NODES} nodes registered and synchronised, tenants static: {static:.1f} s "
           f"(at most {SYNCHRONISED_LIMIT:g})", static <= SYNCHRONISED_LIMIT)  # fmt: skip
    learned = seconds("learned", "registration") + seconds("learned", "tenants")
    yield (f"{TARGET_NODES} nodes registered and synchronised, tenants learned: {learned:.1f} s "
           f"(at most {SYNCHRONISED_LIMIT:g})", learned <= SYNCHRONISED_LIMIT)  # fmt: skip
    for mode, who in (("learned", "reported by an NVE"), ("static", "made by an operator")):
        change = seconds(mode, "change")
        text = f"a mapping change {who} at all of {TARGET_NODES} nodes: {change:.2f} s in the median"
        yield f"{text} (at most {CHANGE_LIMIT:g})", change <= CHANGE_LIMIT
    peaks = [row["nva_peak_mib"] for row in mine if row["nva_peak_mib"] is not None]
    peak = max(peaks, default=math.inf)
    yield f"memory of the NVA at most: {peak:.0f} MiB (under {MEMORY_LIMIT >> 20})", peak < MEMORY_LIMIT >> 20


def write_tables(result: ScaleResult, folder: Path) -> None:
    """Write the tables as CSV files."""
    write_csv(folder / "control-scale.csv", result.phases, COLUMNS)
    write_csv(folder / "control-scale-growth.csv", result.growth, GROWTH_COLUMNS)


def show(rows: Sequence[dict[str, Any]]) -> str:
    """Return the most important columns as text."""
    lines = [f"{'mode':8} {'phase':15} {'nodes':>6} {'pairs':>6} {'seconds':>8} {'p95 ms':>8} {'kB down':>9} "
             f"{'kB up':>8} {'messages':>8} {'CPU s':>7} {'peak MiB':>8} {'lost':>5}"]  # fmt: skip
    for row in rows:
        cells = [row.get(name) for name in ("pairs", "seconds", "p95_ms", "kilobytes_down", "kilobytes_up", "messages",
                                            "nva_cpu_s", "nva_peak_mib", "disconnections")]  # fmt: skip
        texts = ["" if cell is None else f"{cell:g}" for cell in cells]
        widths = (6, 8, 8, 9, 8, 8, 7, 8, 5)
        numbers = " ".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))
        lines.append(f"{row['mode']:8} {row['phase']:15} {row['nodes']:>6} {numbers}")
    return "\n".join(lines)

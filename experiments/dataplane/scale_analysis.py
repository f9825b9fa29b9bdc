"""From raw samples of dataplane-scale to tables and verdicts. Pure: reads a run's folder, nothing else."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.dataplane.points import (
    ASSOCIATIONS,
    AUDIENCES,
    AXES,
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
    Point,
)
from experiments.samples import read_lines
from experiments.statistics import summarise
from experiments.tables import rounded, write_all

NAME = "dataplane-scale"
SAMPLES = "samples.jsonl"
FLAT, GROWS, CACHE = "flat", "grows", "flat within the cache"
FLAT_RATIO = 1.5
"""What is to be flat costs at most so many times as much at the largest number as at the reference."""

EXPECTED: dict[tuple[str, str, str], str] = {
    (ASSOCIATIONS, ROUND_ROBIN, SEAL): FLAT, (ASSOCIATIONS, ROUND_ROBIN, OPEN): FLAT,
    (ASSOCIATIONS, ONE, SEAL): FLAT, (ASSOCIATIONS, ONE, OPEN): FLAT,
    (RULES, ROUND_ROBIN, SEAL): FLAT, (RULES, ROUND_ROBIN, OPEN): FLAT,
    (RULES, NEW, SEAL): GROWS, (RULES, NEW, OPEN): GROWS,
    (FLOWS, ROUND_ROBIN, SEAL): CACHE, (FLOWS, ROUND_ROBIN, OPEN): CACHE,
    (FLOWS, ZIPF, SEAL): CACHE, (FLOWS, ZIPF, OPEN): CACHE,
    (FLOWS, FLOW_KEYS, SEAL): CACHE, (FLOWS, FLOW_KEYS, OPEN): CACHE,
    (AUDIENCES, ROUND_ROBIN, SEAL): GROWS, (AUDIENCES, ROUND_ROBIN, OPEN): FLAT,
    **{(FRAME_BYTES, series, side): GROWS for series in (NO_PROTECTION, FULL, HEADERS_ONLY) for side in SIDES},
}  # fmt: skip
"""What each series is to look like. A tag for each audience is work that nothing can save; a flow's first packet has to
be compared with the rules. A cipher has to read what it protects, and a program to copy what it sends."""

_STATISTICS = ("median", "ci_low", "ci_high", "ci_coverage", "count", "missing")
TABLES: dict[str, tuple[str, ...]] = {
    "cost": ("axis", "series", "side", "size", "unit", *_STATISTICS),
    "growth": (
        "axis", "series", "side", "expected", "verdict", "smallest", "largest", "ratio", "ratio_low", "ratio_high",
        "reference", "reference_size", "ratio_to_reference", "exponent",
    ),
    "coverage": ("side", "size", "full_us", "ratio", "ratio_low", "ratio_high", "protection_ratio"),
    "memory": ("axis", "side", "size", "bytes_each", "bytes_low", "bytes_high", "mib", "count", "missing"),
}  # fmt: skip


@dataclass(slots=True)
class ScaleResult:
    """Tables, and what is wrong."""

    cost: list[dict[str, Any]] = field(default_factory=list)
    growth: list[dict[str, Any]] = field(default_factory=list)
    coverage: list[dict[str, Any]] = field(default_factory=list)
    """What headers only costs of what full does, and of that alone which protection adds."""
    memory: list[dict[str, Any]] = field(default_factory=list)
    bounds: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def analyse(root: Path) -> ScaleResult:
    """Read the samples of a run; ValueError on damaged ones."""
    samples = read_lines(root / "raw" / NAME / SAMPLES)
    result = ScaleResult()
    for entry in samples:
        if entry["measure"] == "bounds":
            result.bounds = entry["value"]
    rounds: dict[Point, dict[int, float]] = defaultdict(dict)
    for entry in samples:
        if entry["measure"] == "cost" and entry["value"] is not None:
            point = Point(entry["axis"], entry["series"], entry["size"], entry["side"])
            rounds[point][entry["round"]] = entry["value"]
    for point, by_round in sorted(rounds.items(), key=lambda item: _order(item[0])):
        result.cost.append({**point.as_dict(), "unit": "us/packet", **_figures(list(by_round.values()))})
    for axis in AXES:
        for series in SERIES[axis]:
            for side in SIDES:
                chosen = {p.size: found for p, found in rounds.items() if (p.axis, p.series, p.side) ==
                          (axis, series, side)}  # fmt: skip
                if chosen:
                    result.growth.append(_growth(axis, series, side, chosen, result.bounds))
    result.coverage = _coverage(rounds)
    result.memory = _memory(samples)
    _judge(result)
    return result


def _order(point: Point) -> tuple[int, int, int, int]:
    series = SERIES[point.axis].index(point.series)
    return AXES.index(point.axis), series, SIDES.index(point.side), point.size


def _figures(values: Sequence[float | None]) -> dict[str, Any]:
    figures = summarise(values).as_dict()
    return {name: rounded(value) if name in ("median", "ci_low", "ci_high") else value
            for name, value in figures.items()}  # fmt: skip


def reference_size(axis: str, series: str, sizes: Sequence[int]) -> int:
    """Return the size that others are compared with.

    Where several take turns it is not 1: packets of one flow that follow each other are sealed and opened
    together, which is another way through the program.
    """
    several = axis in (ASSOCIATIONS, FLOWS) and series != ONE
    first = 1 if axis == AUDIENCES else 100 if series == ZIPF else 10 if several else min(sizes)
    return min((size for size in sizes if size >= first), default=min(sizes))


def _growth(
    axis: str, series: str, side: str, found: dict[int, dict[int, float]], bounds: dict[str, int]
) -> dict[str, Any]:
    expected = EXPECTED[axis, series, side]
    sizes = sorted(found)
    smallest, largest, reference = sizes[0], sizes[-1], reference_size(axis, series, sizes)
    kept = bounds.get("flow keys per association" if series == FLOW_KEYS else "flow cache, least", 0)
    judged = max((size for size in sizes if expected != CACHE or size <= kept), default=reference)
    ratio = summarise(_ratios(found, smallest, largest))
    to_reference = summarise(_ratios(found, reference, judged)).median
    row = {
        "axis": axis, "series": series, "side": side, "expected": expected, "smallest": smallest, "largest": largest,
        "ratio": rounded(ratio.median, 3), "ratio_low": rounded(ratio.low, 3), "ratio_high": rounded(ratio.high, 3),
        "reference": reference, "reference_size": judged, "ratio_to_reference": rounded(to_reference, 3),
        "exponent": rounded(_exponent(found, reference, judged), 2),
    }  # fmt: skip
    if expected == GROWS:
        row["verdict"] = "grows"
    else:
        row["verdict"] = "not flat" if to_reference is None or to_reference > FLAT_RATIO else "flat"
    return row


def _ratios(found: dict[int, dict[int, float]], first: int, last: int) -> list[float | None]:
    """Return ratios of one round each: a drift of the machine falls on both."""
    return [found[last][number] / found[first][number] for number in found[first] if number in found[last]]


def _coverage(rounds: dict[Point, dict[int, float]]) -> list[dict[str, Any]]:
    rows = []
    for side in SIDES:
        for size in sorted({point.size for point in rounds if (point.axis, point.side) == (FRAME_BYTES, side)}):
            none, full, headers = (
                rounds.get(Point(FRAME_BYTES, series, size, side), {}) for series in (NO_PROTECTION, FULL, HEADERS_ONLY)
            )
            both = [number for number in full if number in headers]
            ratio = summarise([headers[number] / full[number] for number in both])
            added = [(headers[number] - none[number]) / (full[number] - none[number]) for number in both
                     if full[number] > none.get(number, math.inf)]  # fmt: skip
            rows.append({
                "side": side, "size": size, "full_us": rounded(summarise(list(full.values())).median),
                "ratio": rounded(ratio.median, 3), "ratio_low": rounded(ratio.low, 3),
                "ratio_high": rounded(ratio.high, 3), "protection_ratio": rounded(summarise(added).median, 3),
            })  # fmt: skip
    return rows


def _exponent(found: dict[int, dict[int, float]], first: int, last: int) -> float | None:
    """Return the slope of the logarithms from one size to another; None where there are not two sizes above zero."""
    places = [
        (math.log(size), math.log(summarise(list(values.values())).median or 1.0))
        for size, values in found.items()
        if max(first, 1) <= size <= last
    ]
    if len(places) < 2:
        return None
    middle = sum(x for x, _ in places) / len(places)
    spread = sum((x - middle) ** 2 for x, _ in places)
    return sum((x - middle) * y for x, y in places) / spread


def _memory(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str, int], list[float | None]] = defaultdict(list)
    for entry in samples:
        if entry["measure"] == "memory":
            groups[entry["axis"], entry["side"], entry["size"]].append(entry["value"])
    rows = []
    for (axis, side, size), values in sorted(groups.items()):
        total = summarise(values)
        each = [None if value is None else value / size for value in (total.median, total.low, total.high)]
        rows.append({
            "axis": axis, "side": side, "size": size, "bytes_each": rounded(each[0]), "bytes_low": rounded(each[1]),
            "bytes_high": rounded(each[2]), "mib": rounded(None if total.median is None else total.median / 2**20),
            "count": total.count, "missing": total.missing,
        })  # fmt: skip
    return rows


def _judge(result: ScaleResult) -> None:
    seen = {(row["axis"], row["series"], row["side"]) for row in result.growth}
    for key in EXPECTED:
        if key not in seen:
            result.failures.append(f"{NAME}: not one sample of {', '.join(key)}")
    for row in result.growth:
        if row["verdict"] == "not flat":
            result.warnings.append(
                f"{NAME}: {row['side']}, {row['axis']} ({row['series']}): {row['ratio_to_reference']} times the cost "
                f"at {row['reference_size']} of that at {row['reference']}, expected at most {FLAT_RATIO:g}"
            )
    for row in result.memory:
        if row["count"] == 0:
            result.failures.append(f"{NAME}: no memory figure of {row['size']} {row['axis']}, {row['side']}")


def write_tables(result: ScaleResult, folder: Path) -> None:
    """Write one CSV file per table to ``folder``."""
    write_all(folder, NAME, TABLES, result)


def summary(result: ScaleResult) -> dict[str, Any]:
    """Return the experiment's part of summary.json."""
    return {
        "interval": "order statistics of the rounds; ratios are of one round",
        "bounds": result.bounds, "cost": result.cost, "growth": result.growth,
        "coverage": result.coverage, "memory": result.memory,
        "failures": result.failures, "warnings": result.warnings,
    }  # fmt: skip

"""Path telemetry: from collector records to the path of a flow and the time spent on each part of it.

Pure: reads a run's files, needs no root. All devices of the emulation share one clock, so the time
between two devices means something; in a real network it would need synchronised clocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.samples import read_lines
from experiments.statistics import quantile, summarise
from experiments.tables import rounded, write_csv

NAME = "telemetry"
_RECORD_FIELDS = frozenset(
    {"device", "ingress_ns", "egress_ns", "vni", "flow", "sequence", "authenticated", "source", "destination"}
)


@dataclass(slots=True)
class TelemetryResult:
    """The path found, the parts of it with their times in microseconds, and what does not fit."""

    path: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    sent: int = 0
    complete: int = 0
    parts: list[dict[str, Any]] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def analyse(run: Path) -> TelemetryResult:
    """Follow the demonstrated flow through the records of ``run``."""
    result = TelemetryResult()
    setup = read_lines(run / "raw" / NAME / "setup.jsonl")
    if not setup:
        result.failures.append("telemetry: the experiment left no description of its flow")
        return result
    flow = setup[-1]
    result.expected, result.sent = list(flow["expected_path"]), int(flow["sent"])
    everything = read_lines(run / "raw" / NAME / "records.jsonl")
    records = of_flow(everything, flow["vni"], flow["source"], flow["destination"])
    _follow(records, result)
    return result


def _follow(records: list[dict[str, Any]], result: TelemetryResult) -> None:
    """Take the flow with most packets: the demonstration is the only traffic but for a few neighbours."""
    counts: dict[int, int] = {}
    for record in records:
        counts[record["flow"]] = counts.get(record["flow"], 0) + 1
    if not counts:
        result.failures.append("telemetry: no record of the flow reached the collector")
        return
    chosen = max(counts, key=lambda label: counts[label])
    packets: dict[int, dict[str, dict[str, Any]]] = {}
    unauthenticated = 0
    for record in records:
        if record["flow"] == chosen:
            packets.setdefault(record["sequence"], {})[record["device"]] = record
            unauthenticated += not record["authenticated"]
    if unauthenticated:
        result.failures.append(f"telemetry: {unauthenticated} records of a protected flow are unproven")
    orders = [_order(seen) for seen in packets.values()]
    result.path = list(max(Counter(orders).items(), key=lambda item: (item[1], len(item[0]), item[0]))[0])
    if result.path != result.expected:
        result.failures.append(
            f"telemetry: the flow went through {result.path}, the scenario says {result.expected}"
        )
    whole = [
        seen for seen, order in zip(packets.values(), orders, strict=True) if list(order) == result.path
    ]
    result.complete = len(whole)
    if result.complete < result.sent:
        result.warnings.append(
            f"telemetry: {result.complete} of {result.sent} packets were reported by every device on the path"
        )
    _times(whole, result)


def of_flow(
    records: Iterable[dict[str, Any]], vni: int, source: str, destination: str, since_ns: int = 0
) -> list[dict[str, Any]]:
    """Return the sound records of a VNI between two NVEs that were made at ``since_ns`` or later."""
    return [
        record
        for record in records
        if record.keys() >= _RECORD_FIELDS
        and (record["vni"], record["source"], record["destination"]) == (vni, source, destination)
        and record["ingress_ns"] >= since_ns
    ]


def path_counts(records: Iterable[dict[str, Any]]) -> Counter[tuple[str, ...]]:
    """Return how many packets took which path; a device that reported a packet twice is in it twice."""
    packets: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for record in records:
        reports = packets.setdefault((record["flow"], record["sequence"]), [])
        reports.append((int(record["ingress_ns"]), str(record["device"])))
    return Counter(tuple(device for _, device in sorted(reports)) for reports in packets.values())


def path_faults(
    records: Sequence[dict[str, Any]], expected: Sequence[str], packets: int, authenticated: bool
) -> list[str]:
    """Return in what the records of one flow differ from ``packets`` packets on the path ``expected``.

    Each packet must have been reported by exactly these devices in this order, and each record be
    authenticated, or not, as the tenant's protection says. Without devices there must be no record.
    """
    counts = path_counts(records)
    faults = [
        f"{count} packets were reported by {list(path)}"
        for path, count in sorted(counts.items())
        if path != tuple(expected)
    ]
    reported = sum(counts.values())
    if expected and reported != packets:
        faults.append(f"{reported} of {packets} packets were reported")
    if any(record["authenticated"] is not authenticated for record in records):
        faults.append(f"some records are {'un' if authenticated else ''}authenticated")
    return faults


def _order(seen: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """The devices that reported one packet, in the order of their times."""
    return tuple(sorted(seen, key=lambda device: int(seen[device]["ingress_ns"])))


def _times(packets: list[dict[str, dict[str, Any]]], result: TelemetryResult) -> None:
    before: str | None = None
    for device in result.path:
        if before is not None:
            name = f"{before} to {device}"
            result.times[name] = [
                (seen[device]["ingress_ns"] - seen[before]["egress_ns"]) / 1e3 for seen in packets
            ]
        result.times[f"in {device}"] = [
            (seen[device]["egress_ns"] - seen[device]["ingress_ns"]) / 1e3 for seen in packets
        ]
        before = device
    for name, values in result.times.items():
        result.parts.append({
            "part": name, "unit": "us", **summarise(values).as_dict(),
            "p10": rounded(quantile(values, 0.1)), "p90": rounded(quantile(values, 0.9)),
        })  # fmt: skip


COLUMNS = ("part", "unit", "median", "ci_low", "ci_high", "ci_coverage", "p10", "p90", "count", "missing")


def write_tables(result: TelemetryResult, folder: Path) -> None:
    """Write the table as a CSV file to ``folder``."""
    write_csv(folder / f"{NAME}-path.csv", result.parts, COLUMNS)


def summary(result: TelemetryResult) -> dict[str, Any]:
    """Return the experiment's part of summary.json."""
    return {
        "path": result.path, "expected_path": result.expected, "packets_sent": result.sent,
        "packets_reported_by_every_device": result.complete, "parts": result.parts,
        "failures": result.failures, "warnings": result.warnings,
    }  # fmt: skip

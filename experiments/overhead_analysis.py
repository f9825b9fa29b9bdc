"""Overhead: from raw samples and captures to tables. Pure: reads a run's files, needs no root.

A sample says which configuration it belongs to with three keys: ``mode`` (none, full, or underlay for
the bare network without overlay), ``telemetry`` (bool) and ``hops`` (transit devices on the path).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.capture import GeneveFrame, geneve_frames
from experiments.capture_file import CaptureError
from experiments.samples import read_lines
from experiments.statistics import Summary, quantile, summarise
from experiments.tables import rounded, write_all
from geneve.overhead import ETHERNET_HEADER_SIZE, encapsulation_size, max_options_size
from geneve.security.carriage import OptionSize
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_OPTION_SIZE, TELEMETRY_TYPE
from topologies.profiles import BUILT_IN_PROFILES

NAME = "overhead"
MODES = ("none", "full")
UNDERLAY = "underlay"
HOPS = (0, 1, 2)
SAMPLES = "samples.jsonl"

LOSS_LIMIT = 0.01
"""Share of lost datagrams above which a CPU sample is doubtful: the load was not what it claims."""
COUNT_TOLERANCE = 0.05
"""How far interface counters and the traffic tool may differ before a CPU sample is doubtful."""

_PROFILES = {profile.name: profile for profile in BUILT_IN_PROFILES}

CONFIGURATION_COLUMNS = ("mode", "telemetry", "hops")
_STATISTICS = ("median", "ci_low", "ci_high", "ci_coverage", "count", "missing", "reasons")


@dataclass(frozen=True, order=True, slots=True)
class Configuration:
    """One thing that is measured."""

    mode: str
    telemetry: bool
    hops: int

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Configuration:
        """Return the configuration that a sample belongs to."""
        return cls(str(entry["mode"]), bool(entry["telemetry"]), int(entry["hops"]))

    def as_dict(self) -> dict[str, Any]:
        """Return the keys that name this configuration in samples and tables."""
        return {"mode": self.mode, "telemetry": self.telemetry, "hops": self.hops}

    def __str__(self) -> str:
        devices = f"{self.hops} transit device{'' if self.hops == 1 else 's'}"
        return f"{self.mode}{' with telemetry' if self.telemetry else ''}, {devices}"


OVERLAY_CONFIGURATIONS = tuple(
    Configuration(mode, telemetry, hops) for mode in MODES for telemetry in (False, True) for hops in HOPS
)
UNDERLAY_CONFIGURATIONS = tuple(Configuration(UNDERLAY, False, hops) for hops in HOPS)


@dataclass(slots=True)
class OverheadResult:
    """Everything that tables and plots show."""

    bytes: list[dict[str, Any]] = field(default_factory=list)
    throughput: list[dict[str, Any]] = field(default_factory=list)
    rtt: list[dict[str, Any]] = field(default_factory=list)
    cpu: list[dict[str, Any]] = field(default_factory=list)
    idle: list[dict[str, Any]] = field(default_factory=list)
    paths: list[dict[str, Any]] = field(default_factory=list)
    rtt_samples: dict[Configuration, list[float]] = field(default_factory=dict)
    throughput_samples: dict[Configuration, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def theory(configuration: Configuration, family: int) -> int:
    """Return the bytes that a packet should grow by, outer Ethernet header included."""
    profile = _PROFILES.get(configuration.mode)
    carried = [OptionSize(TELEMETRY_CLASS, TELEMETRY_TYPE, TELEMETRY_OPTION_SIZE)] if configuration.telemetry else []
    devices = [f"device{number}" for number in range(configuration.hops)]
    options = max_options_size(profile, carried, devices)
    return ETHERNET_HEADER_SIZE + encapsulation_size(family, options)


def analyse(run: Path) -> OverheadResult:
    """Read the raw samples and captures of ``run`` and return all tables."""
    entries = read_lines(run / "raw" / NAME / SAMPLES)
    by_measure: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        by_measure[entry["measure"]].append(entry)
    result = OverheadResult()
    for entry in by_measure["bytes"]:
        result.bytes.extend(_added_bytes(run, entry, result.warnings))
    _throughput(by_measure["tcp"], result)
    _round_trips(by_measure["rtt"], result)
    _cpu(by_measure["cpu"], result)
    result.idle = [
        {"daemon": entry["daemon"], "cpu_percent": rounded(entry["value"]), "seconds": entry.get("seconds")}
        for entry in by_measure["idle"]
        if entry["value"] is not None
    ]
    result.paths = [
        {"flow": entry["flow"], "expected": entry["expected"], "sent": entry["sent"],
         "reported": [{"path": path, "packets": count} for path, count in entry["value"]]}
        for entry in by_measure["check_telemetry"]
    ]  # fmt: skip
    _warn_of_missing(entries, result.warnings)
    for name, found in (
        ("bytes per packet", any(row["added_bytes"] is not None for row in result.bytes)),
        ("TCP goodput", any(result.throughput_samples.values())),
        ("round-trip time", any(result.rtt_samples.values())),
        ("CPU time", any(row["median"] is not None for row in result.cpu)),
    ):
        if not found:
            result.failures.append(f"overhead: there is not one sample of {name}")
    return result


def _warn_of_missing(entries: Iterable[dict[str, Any]], warnings: list[str]) -> None:
    missing: dict[tuple[str, str, str], int] = defaultdict(int)
    for entry in entries:
        if entry["missing"] is not None and "mode" in entry:
            missing[entry["measure"], str(Configuration.of(entry)), entry["missing"]] += 1
    for (measure, configuration, reason), count in missing.items():
        warnings.append(f"overhead: {count} sample(s) of {measure} missing for {configuration}: {reason}")


def _statistics(entries: Iterable[dict[str, Any]], values: list[float | None]) -> dict[str, Any]:
    summary: Summary = summarise(values)
    reasons = sorted({entry["missing"] for entry in entries if entry["missing"] is not None})
    return {**summary.as_dict(), "reasons": "; ".join(reasons)}


def _grouped(entries: Iterable[dict[str, Any]]) -> list[tuple[Configuration, list[dict[str, Any]]]]:
    groups: dict[Configuration, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        groups[Configuration.of(entry)].append(entry)
    known = [*UNDERLAY_CONFIGURATIONS, *OVERLAY_CONFIGURATIONS]
    return [(configuration, groups[configuration]) for configuration in known if groups.get(configuration)]


def pair_frames(sizes: list[int], captured: list[GeneveFrame]) -> list[tuple[int, GeneveFrame]]:
    """Pair inner frames as sent with the packets captured, by order.

    The sizes are sent in shuffled order, so a pairing that is off by one shows as differing overheads.
    ValueError when the numbers differ: then no pairing can be trusted.
    """
    if len(sizes) != len(captured):
        raise ValueError(f"{len(sizes)} frames sent, {len(captured)} packets captured")
    return list(zip(sizes, captured, strict=True))


def _added_bytes(run: Path, entry: dict[str, Any], warnings: list[str]) -> list[dict[str, Any]]:
    """One row per inner size: bytes added, the same for all its packets or a warning says so."""
    configuration = Configuration.of(entry)
    row = {**configuration.as_dict(), "inner_bytes": None, "added_bytes": None, "missing": entry["missing"]}
    if entry["missing"] is not None:
        return [row]
    burst = entry["value"]
    try:
        captured = geneve_frames(
            run / burst["capture"], vni=burst["vni"], source=burst["source"], destination=burst["destination"]
        )
        pairs = pair_frames(burst["sizes"], captured)
    except (OSError, CaptureError, ValueError) as error:
        warnings.append(f"overhead: no bytes per packet for {configuration}: {error}")
        return [{**row, "missing": str(error)}]
    family = 6 if ":" in burst["source"] else 4
    expected = theory(configuration, family)
    by_size: dict[int, list[GeneveFrame]] = defaultdict(list)
    for size, frame in pairs:
        by_size[size].append(frame)
    rows = []
    for size, frames in sorted(by_size.items()):
        added = [frame.wire_length - size for frame in frames]
        if len(set(added)) > 1:
            warnings.append(
                f"overhead: {configuration}: frames of {size} bytes grew by differing amounts "
                f"{sorted(set(added))}"
            )
        if any(value != expected for value in added):
            warnings.append(
                f"overhead: {configuration}: frames of {size} bytes grew by {sorted(set(added))} bytes, "
                f"expected {expected}"
            )
        options = sorted({sum(option.size for option in frame.packet.options) for frame in frames})
        rows.append({
            **configuration.as_dict(), "inner_bytes": size, "added_bytes": quantile(added, 0.5),
            "added_min": min(added), "added_max": max(added), "packets": len(added),
            "option_bytes": options[0] if len(options) == 1 else options, "expected_bytes": expected,
            "added_percent": rounded(100 * quantile(added, 0.5) / size), "missing": None,
        })  # fmt: skip
    return rows


def _throughput(entries: list[dict[str, Any]], result: OverheadResult) -> None:
    for configuration, group in _grouped(entries):
        values = [None if entry["value"] is None else entry["value"] / 1e6 for entry in group]
        result.throughput_samples[configuration] = [value for value in values if value is not None]
        result.throughput.append(
            {**configuration.as_dict(), "unit": "Mbit/s", **_statistics(group, values)}
        )


def _round_trips(entries: list[dict[str, Any]], result: OverheadResult) -> None:
    """The interval is that of the repeats' medians: pings within one repeat are not independent."""
    for configuration, group in _grouped(entries):
        medians = [None if entry["value"] is None else quantile(entry["value"], 0.5) for entry in group]
        pooled = [value for entry in group if entry["value"] is not None for value in entry["value"]]
        result.rtt_samples[configuration] = pooled
        tails = {name: quantile(pooled, q) if pooled else None for name, q in (("p90", 0.9), ("p99", 0.99))}
        result.rtt.append({
            **configuration.as_dict(), "unit": "ms", **_statistics(group, medians),
            **{name: rounded(value) for name, value in tails.items()}, "pings": len(pooled),
            "lost": sum(entry.get("lost", 0) for entry in group),
        })  # fmt: skip


def _cpu(entries: list[dict[str, Any]], result: OverheadResult) -> None:
    """Microseconds of CPU time per packet, per role; a transit device is its own row."""
    roles: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        roles[entry["role"], entry["daemon"] if entry["role"] == "transit" else ""].append(entry)
        for doubt in doubts(entry):
            result.warnings.append(
                f"overhead: cpu of {entry['daemon']} for {Configuration.of(entry)}, "
                f"repeat {entry['repeat']}: {doubt}"
            )
    for (role, device), of_role in roles.items():
        for configuration, group in _grouped(of_role):
            values = [None if entry["value"] is None else entry["value"] / 1e3 for entry in group]
            result.cpu.append({
                **configuration.as_dict(), "role": role, "device": device, "unit": "us/packet",
                **_statistics(group, values),
            })  # fmt: skip


def doubts(entry: dict[str, Any]) -> list[str]:
    """Return what speaks against a CPU sample: lost datagrams, or counters that disagree."""
    found: list[str] = []
    if entry["value"] is None:
        return found
    if entry["lost_share"] > LOSS_LIMIT:
        found.append(f"{100 * entry['lost_share']:.1f}% of the load was lost")
    if abs(entry["packets"] - entry["datagrams"]) > COUNT_TOLERANCE * entry["datagrams"]:
        found.append(f"the interface counted {entry['packets']} packets, iperf3 sent {entry['datagrams']}")
    return found


TABLES: dict[str, tuple[str, ...]] = {
    "bytes": (
        *CONFIGURATION_COLUMNS, "inner_bytes", "added_bytes", "added_min", "added_max", "added_percent",
        "option_bytes", "expected_bytes", "packets", "missing",
    ),
    "throughput": (*CONFIGURATION_COLUMNS, "unit", *_STATISTICS),
    "rtt": (*CONFIGURATION_COLUMNS, "unit", *_STATISTICS, "p90", "p99", "pings", "lost"),
    "cpu": (*CONFIGURATION_COLUMNS, "role", "device", "unit", *_STATISTICS),
    "idle": ("daemon", "cpu_percent", "seconds"),
    "paths": ("flow", "expected", "sent", "reported"),
}  # fmt: skip


def write_tables(result: OverheadResult, folder: Path) -> None:
    """Write one CSV file per table to ``folder``."""
    write_all(folder, NAME, TABLES, result)


def summary(result: OverheadResult) -> dict[str, Any]:
    """Return the experiment's part of summary.json: figures in their tables, and the ratios that matter."""
    return {
        "interval": "order statistics of the repeats, exact; see ci_coverage for its true confidence",
        "added_bytes": _bytes_by_configuration(result.bytes),
        "throughput": result.throughput,
        "rtt": result.rtt,
        "cpu": result.cpu,
        "idle": result.idle,
        "paths": result.paths,
        "goodput_full_over_none": _ratios(result.throughput),
        "failures": result.failures,
        "warnings": result.warnings,
    }


def _bytes_by_configuration(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[Configuration, set[float]] = defaultdict(set)
    for row in rows:
        if row["added_bytes"] is not None:
            groups[Configuration.of(row)].update((row["added_min"], row["added_max"]))
    return [{**key.as_dict(), "added_bytes": sorted(values)} for key, values in sorted(groups.items())]


def _ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    medians = {Configuration.of(row): row["median"] for row in rows}
    ratios = []
    for telemetry in (False, True):
        for hops in HOPS:
            plain = medians.get(Configuration("none", telemetry, hops))
            full = medians.get(Configuration("full", telemetry, hops))
            if plain and full:
                ratios.append({"telemetry": telemetry, "hops": hops, "ratio": rounded(full / plain, 3)})
    return ratios

"""From raw samples of the experiment *mechanisms* to its tables. Pure: reads a run's folder, nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.capture_file import CaptureError
from experiments.control_logs import FlowLog
from experiments.measure import MeasureError
from experiments.mechanisms.variants import (
    BATCHED,
    COMPARED,
    IN_KERNEL,
    KERNEL,
    PROFILES,
    SETUP,
    Variant,
    implementation,
    inner_frame,
    observed_path,
    outer_size,
)
from experiments.mechanisms.wire import outer_packets
from experiments.profiles import Profile
from experiments.samples import read_lines
from experiments.statistics import quantile, summarise
from experiments.tables import rounded, write_all
from geneve.control import profile as control_profile
from geneve.control.channel import receiving_port

NAME = "mechanisms"
SAMPLES = "samples.jsonl"
FIRST, BACK = "first", "back"
"""Directions of a first frame: between two NVEs that never talked, and then the other way."""
UDP_RATE, UDP_SIZE = 5000, 1200
"""Datagrams a second and bytes of payload of the load under which CPU time is taken."""
PING_INTERVAL = 0.004
SETUP_LIMIT = 5.0
"""Seconds after which a first frame counts as lost."""
PAIR_SECONDS = 0.2
SECONDS_PER_MEASUREMENT = 1.7
"""How long a measurement of one variant is expected to take, in the profile quick."""
LOSS_LIMIT = 0.01
"""Share of a paced load that may be lost before its CPU time is doubtful."""
_SETUP_START_SECONDS = 3.5

_VARIANT = ("mechanism", "path")
_STATISTICS = ("median", "ci_low", "ci_high", "ci_coverage", "count", "missing", "reasons")
TABLES: dict[str, tuple[str, ...]] = {
    "nves": (*_VARIANT, "implementation", "observed_path", "tenant_mtu", "encrypts", "drops", "reasons"),
    "bytes": (*_VARIANT, "inner_bytes", "added_bytes", "expected_bytes", "packets", "agrees", "reasons"),
    "goodput": (*_VARIANT, "unit", *_STATISTICS, "ratio", "ratio_low", "ratio_high"),
    "rtt": (*_VARIANT, "load", "unit", *_STATISTICS, "p99", "pings", "lost"),
    "cpu": (*_VARIANT, "load", "end", "unit", *_STATISTICS, "ratio", "ratio_low", "ratio_high"),
    "setup": ("mechanism", "direction", "implementation", "unit", *_STATISTICS, "p90", "warm_ms", "nva_cpu_ms"),
}

Entry = dict[str, Any]
Row = dict[str, Any]


@dataclass(slots=True)
class ComparedResult:
    """Tables, and what is wrong."""

    nves: list[Row] = field(default_factory=list)
    bytes: list[Row] = field(default_factory=list)
    goodput: list[Row] = field(default_factory=list)
    rtt: list[Row] = field(default_factory=list)
    cpu: list[Row] = field(default_factory=list)
    setup: list[Row] = field(default_factory=list)
    setup_samples: dict[str, list[float]] = field(default_factory=dict)
    """Set-up times in ms of first frames by mechanism."""
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def capture_filter(profile: control_profile.Profile | None, destination: str) -> str:
    """Return what tcpdump is to keep of what an NVE sends to ``destination`` under a protection."""
    channel = None if profile is None else profile.channel
    number = None if channel is None else channel.ip_protocol
    wanted = f"udp dst port {receiving_port(channel)}" if number is None else f"ip proto {number}"
    return f"{wanted} and dst host {destination}"


def seconds(profile: Profile) -> float:
    """Return how long the experiment is expected to take."""
    each = profile.mechanisms_tcp_seconds + profile.mechanisms_udp_seconds + profile.mechanisms_pings * PING_INTERVAL
    starts = len(COMPARED) * 2.0
    mechanisms = profile.mechanisms_setup or SETUP
    setups = profile.mechanisms_setup_starts * len(mechanisms) * (_SETUP_START_SECONDS + 10 * PAIR_SECONDS)
    return starts + profile.repeats * len(COMPARED) * (each + 0.5) + setups


def set_up_time(cold: FlowLog | None, warm: FlowLog | None) -> dict[str, Any]:
    """Return ms from a first frame to its delivery beyond what a later one takes (``value``), and both (times in ms).

    MeasureError when the first frame, or all later ones, did not arrive.
    """
    first = _delays(cold)
    if not first:
        raise MeasureError("the first frame did not arrive")
    later = _delays(warm)
    if not later:
        raise MeasureError("no later frame arrived, so nothing can be subtracted")
    return {"value": first[0] - quantile(later, 0.5), "cold_ms": first[0], "warm_ms": later}


def _delays(flow: FlowLog | None) -> list[float]:
    if flow is None:
        return []
    return [(at - flow.sent[index]) / 1e6 for at, index in flow.received if index in flow.sent]


def analyse(root: Path) -> ComparedResult:
    """Read the samples and captures of a run; ValueError on damaged ones."""
    entries = read_lines(root / "raw" / NAME / SAMPLES)
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry["measure"]].append(entry)
    result = ComparedResult()
    variants = [*COMPARED, *(variant for variant in IN_KERNEL if _of(found["tcp"], variant))]
    for variant in variants:
        result.nves.append(_nve(variant, _of(found["nve"], variant), result.warnings))
        result.bytes.extend(_bytes(root, variant, _of(found["bytes"], variant), result))
    for entry in found["kernel"]:
        if entry["missing"] is not None:
            result.nves.append({"mechanism": entry["mechanism"], "path": entry["path"], "reasons": entry["missing"]})
    _figures(found, variants, result)
    _setup(found, result)
    _judge(entries, result)
    return result


def _of(entries: Iterable[Entry], variant: Variant) -> list[Entry]:
    return [entry for entry in entries if (entry["mechanism"], entry["path"]) == (variant.mechanism, variant.path)]


def _row(variant: Variant) -> Row:
    return {"mechanism": variant.mechanism, "path": variant.path}


def reasons(entries: Iterable[Entry]) -> str:
    """Return why samples are missing, each reason once."""
    return "; ".join(sorted({entry["missing"] for entry in entries if entry["missing"] is not None}))


def statistics(entries: list[Entry], values: list[float | None]) -> Row:
    """Return the columns of a median, rounded, with the reasons of what is missing."""
    summary = summarise(values).as_dict()
    shown = {key: rounded(value) if isinstance(value, float) else value for key, value in summary.items()}
    return {**shown, "reasons": reasons(entries)}


def by_repeat(entries: Iterable[Entry]) -> dict[int, float]:
    """Return the values that there are by repeat; of a list its median."""
    return {
        entry["repeat"]: quantile(entry["value"], 0.5) if isinstance(entry["value"], list) else entry["value"]
        for entry in entries
        if entry["value"] is not None
    }  # fmt: skip


def ratio(above: dict[int, float], below: dict[int, float]) -> Row:
    """Return the ratio of two series, taken within each repeat that has both."""
    summary = summarise([above[repeat] / below[repeat] for repeat in above if below.get(repeat)])
    names = {"ratio": summary.median, "ratio_low": summary.low, "ratio_high": summary.high}
    return {name: rounded(value, 3) for name, value in names.items()}


def _nve(variant: Variant, entries: list[Entry], warnings: list[str]) -> Row:
    row = {
        **_row(variant), "tenant_mtu": variant.tenant_mtu, "encrypts": variant.encrypts, "reasons": reasons(entries),
    }  # fmt: skip
    told = next((entry["value"] for entry in entries if entry["value"] is not None), None)
    if told is None:
        return row
    if observed_path(told["offloads"], told.get("mechanism")) != variant.path:
        warnings.append(f"{NAME}: the NVEs of {variant.name} say that their path is {told['observed_path']}")
    counted = {
        reason: sum(drops.get(reason, 0) for drops in told["drops"].values())
        for reason in sorted({reason for drops in told["drops"].values() for reason in drops})
    }  # fmt: skip
    return {
        **row, "implementation": told["implementation"], "observed_path": told["observed_path"],
        "drops": {reason: count for reason, count in counted.items() if count},
    }  # fmt: skip


def _bytes(root: Path, variant: Variant, entries: list[Entry], result: ComparedResult) -> list[Row]:
    """One row per frame size: the outer IP packet without the inner frame, captured and by the formulas."""
    row = {**_row(variant), "reasons": reasons(entries)}
    burst = next((entry["value"] for entry in entries if entry["value"] is not None), None)
    if burst is None:
        return [row]
    try:
        packets = outer_packets(root / burst["capture"])
    except (OSError, CaptureError) as error:
        result.warnings.append(f"{NAME}: no bytes per packet for {variant.name}: {error}")
        return [{**row, "reasons": str(error)}]
    if len(packets) != len(burst["sizes"]):
        text = f"{len(burst['sizes'])} frames sent, {len(packets)} packets captured"
        result.warnings.append(f"{NAME}: no bytes per packet for {variant.name}: {text}")
        return [{**row, "reasons": text}]
    by_size: dict[int, set[int]] = defaultdict(set)
    for size, packet in zip(burst["sizes"], packets, strict=True):
        by_size[size].add(len(packet) - size)
    rows = []
    for size, added in sorted(by_size.items()):
        expected = outer_size(variant.profile, size) - size
        if added != {expected}:
            result.failures.append(
                f"{NAME}: frames of {size} bytes grew by {sorted(added)} bytes under {variant.name}, "
                f"expected {expected}"
            )
        rows.append({
            **row, "inner_bytes": size, "added_bytes": max(added), "expected_bytes": expected,
            "packets": burst["sizes"].count(size), "agrees": added == {expected},
        })  # fmt: skip
    assert inner_frame(variant.tenant_mtu) == max(burst["sizes"])
    return rows


def _figures(found: dict[str, list[Entry]], variants: list[Variant], result: ComparedResult) -> None:
    """Medians; the ratio is to plain Geneve on the same path, within the same repeats."""
    control = {variant.path: variant for variant in COMPARED if variant.mechanism == "none"}
    control[KERNEL] = control[BATCHED]
    for variant in variants:
        plain = control[variant.path]
        entries = _of(found["tcp"], variant)
        values = [None if entry["value"] is None else entry["value"] / 1e6 for entry in entries]
        compared = ratio(by_repeat(entries), by_repeat(_of(found["tcp"], plain)))
        result.goodput.append({**_row(variant), "unit": "Mbit/s", **statistics(entries, values), **compared})
        for load, measure in (("idle", "rtt_idle"), ("tcp", "rtt_load")):
            result.rtt.append({**_row(variant), "load": load, **_round_trips(_of(found[measure], variant))})
        for load in ("udp", "tcp"):
            result.cpu.extend(_cpu(found, variant, plain, load, result.warnings))


def _round_trips(entries: list[Entry]) -> Row:
    medians = [None if entry["value"] is None else quantile(entry["value"], 0.5) for entry in entries]
    pooled = [value for entry in entries if entry["value"] is not None for value in entry["value"]]
    return {
        "unit": "ms", **statistics(entries, medians), "p99": rounded(quantile(pooled, 0.99)) if pooled else None,
        "pings": len(pooled), "lost": sum(entry.get("lost", 0) for entry in entries),
    }  # fmt: skip


def _cpu(
    found: dict[str, list[Entry]], variant: Variant, plain: Variant, load: str, warnings: list[str]
) -> list[Row]:
    """Both ends, and their sum within each repeat."""
    rows, totals = [], []
    for side in ("left", "right"):
        entries = _of(found[f"cpu_{load}_{side}"], variant)
        rows.append({
            **_row(variant), "load": load, "end": "sending" if side == "left" else "receiving", "unit": "us/packet",
            **statistics(entries, [entry["value"] for entry in entries]),
            **ratio(by_repeat(entries), by_repeat(_of(found[f"cpu_{load}_{side}"], plain))),
        })  # fmt: skip
        for entry in entries:
            lost = 1 - entry["packets"] / entry["sent"] if entry["value"] is not None and "sent" in entry else 0.0
            if lost > LOSS_LIMIT and side == "left":
                warnings.append(f"{NAME}: {100 * lost:.1f}% of the paced load was lost under {variant.name}, repeat "
                                f"{entry['repeat']}")  # fmt: skip
    for one in (variant, plain):
        left, right = (by_repeat(_of(found[f"cpu_{load}_{side}"], one)) for side in ("left", "right"))
        totals.append({repeat: left[repeat] + right[repeat] for repeat in left if repeat in right})
    entries = _of(found[f"cpu_{load}_left"], variant)
    values = [totals[0].get(entry["repeat"]) for entry in entries]
    both = {**_row(variant), "load": load, "end": "both", "unit": "us/packet", **statistics(entries, values)}
    return [*rows, {**both, **ratio(totals[0], totals[1])}]


def _setup(found: dict[str, list[Entry]], result: ComparedResult) -> None:
    told = {entry["mechanism"]: entry["value"] for entry in found["setup_nve"]}
    tried = {entry["mechanism"] for entry in found["setup"]}
    for mechanism in [mechanism for mechanism in SETUP if mechanism in tried]:
        for direction in (FIRST, BACK):
            entries = [entry for entry in found["setup"]
                       if (entry["mechanism"], entry["direction"]) == (mechanism, direction)]  # fmt: skip
            there = [entry for entry in entries if entry["value"] is not None]
            values = [entry["value"] for entry in there]
            if direction == FIRST:
                result.setup_samples[mechanism] = values
            later = [value for entry in there for value in entry["warm_ms"]]
            result.setup.append({
                "mechanism": mechanism, "direction": direction, "unit": "ms",
                "implementation": implementation(told.get(mechanism)),
                **statistics(entries, [entry["value"] for entry in entries]),
                "p90": rounded(quantile(values, 0.9)) if values else None,
                "warm_ms": rounded(quantile(later, 0.5)) if later else None,
                "nva_cpu_ms": rounded(quantile([entry["nva_cpu_ms"] for entry in there], 0.5)) if there else None,
            })  # fmt: skip


def _judge(entries: list[Entry], result: ComparedResult) -> None:
    """Nothing measured at all is a failure; what is missing is a warning."""
    missing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in entries:
        if entry["missing"] is not None and entry["measure"] != "kernel":
            name = f"{entry['mechanism']} {entry.get('path', '')}".strip()
            missing[name, entry["missing"]].append(entry["measure"])
    for (name, reason), measures in missing.items():
        what = ", ".join(dict.fromkeys(measures))
        result.warnings.append(f"{NAME}: {len(measures)} sample(s) of {what} missing for {name}: {reason}")
    for what, rows in (
        ("TCP goodput", result.goodput), ("round-trip time", result.rtt), ("CPU time", result.cpu),
        ("key set-up time", result.setup),
    ):  # fmt: skip
        if all(row.get("median") is None for row in rows):
            result.failures.append(f"{NAME}: there is not one sample of {what}")
    if all(row.get("added_bytes") is None for row in result.bytes):
        result.failures.append(f"{NAME}: there is not one sample of bytes per packet")


def write_tables(result: ComparedResult, folder: Path) -> None:
    """Write one CSV file per table to ``folder``."""
    write_all(folder, NAME, TABLES, result)


def summary(result: ComparedResult) -> dict[str, Any]:
    """Return the experiment's part of summary.json."""
    tables = {name: getattr(result, name) for name in TABLES}
    return {**tables, "failures": result.failures, "warnings": result.warnings}


assert set(SETUP) <= set(PROFILES)

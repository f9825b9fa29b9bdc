"""From raw samples of the flood to tables and verdicts. Pure: reads a run's folder, nothing else."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from experiments.dataplane.kinds import BAD_TAG, BAD_TAG_FAR, ELSEWHERE, KINDS, REASONS, REPLAYED, UNPROTECTED
from experiments.profiles import Profile
from experiments.samples import read_lines
from experiments.statistics import quantile, summarise, wilson
from experiments.tables import rounded, write_all

NAME = "flood"
SAMPLES = "samples.jsonl"
PROBE = "probe"
"""Label of the paced stream's messages."""
BASELINE = "no attack"
TRUE = "true"
ALL_KINDS = (BASELINE, *KINDS, ELSEWHERE)
TARGET_KIND, TARGET_RATE, TARGET_RATIO = BAD_TAG, 20_000, 0.7
"""Under so many packets of this kind a second, goodput is to stay above that share of what it is without an attack."""
LIMITED = "authentication_limited"
STRAY_SHARE = 0.05
"""Frames that come to a tenant beside a control, as a share of the forged packets: neighbours ask for each other."""
RATE_SHARE = 0.9
"""An attacker that sends less than this share of its rate is named in a warning."""

CONTROL_SECONDS = 8.0
"""How long the controls are expected to take."""
_POINT_OVERHEAD = 0.65
_ELSEWHERE_RATES = (20_000, 50_000)

Point = tuple[str, int, int]
"""Kind, packets a second, and repeat."""

SUCCEEDED, RESISTED, BROKEN, INVALID = "attack succeeded (control)", "resisted", "BROKEN", "INVALID"
_STATISTICS = ("median", "ci_low", "ci_high", "ci_coverage", "count", "missing")
TABLES: dict[str, tuple[str, ...]] = {
    "goodput": (
        "kind", "rate", "sent_per_s", "unit", *_STATISTICS, "before", "ratio", "ratio_low", "ratio_high", "cpu_percent",
    ),
    "latency": (
        "kind", "rate", "unit", *_STATISTICS, "p99", "pings_lost", "probes", "lost", "lost_share", "lost_high",
    ),
    "refusals": (
        "kind", "rate", "reasons", "sent", "refused", "buffer_drops", "others", "cpu_us", "cpu_low", "cpu_high",
        "alone_us",
    ),
    "controls": ("mode", "kind", "sent", "delivered", "verdict", "drops"),
}  # fmt: skip


@dataclass(slots=True)
class FloodResult:
    """Tables, and what is wrong."""

    goodput: list[dict[str, Any]] = field(default_factory=list)
    latency: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[dict[str, Any]] = field(default_factory=list)
    controls: list[dict[str, Any]] = field(default_factory=list)
    alone: dict[str, float] = field(default_factory=dict)
    """Microseconds that the data plane alone spends on a packet, by kind."""
    offloads: dict[str, Any] = field(default_factory=dict)
    target: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def points(rates: Sequence[int], repeats: int, target_repeats: int) -> list[Point]:
    """Return everything that is measured, in no particular order; more often what the target is about."""
    plan = [(kind, rate) for kind in KINDS for rate in rates]
    plan += [(ELSEWHERE, rate) for rate in _ELSEWHERE_RATES if rate in rates]
    found = [(kind, rate, repeat) for repeat in range(repeats) for kind, rate in [*plan, (BASELINE, 0)]]
    more = range(repeats, max(repeats, target_repeats))
    return found + [(kind, rate, repeat) for repeat in more for kind, rate in target_pair()]


def point_seconds(profile: Profile) -> float:
    """Return how long one of them is expected to take."""
    measured = profile.flood_before_seconds + profile.flood_seconds + profile.flood_probe_seconds
    return measured + _POINT_OVERHEAD


def target_pair() -> tuple[tuple[str, int], tuple[str, int]]:
    """Return what the target compares: kind and rate."""
    return (BASELINE, 0), (TARGET_KIND, TARGET_RATE)


def analyse(root: Path) -> FloodResult:
    """Read the samples and logs of a run; ValueError on damaged ones."""
    folder = root / "raw" / NAME
    samples = read_lines(folder / SAMPLES)
    received = _received(folder / "hosts")
    result = FloodResult()
    for entry in samples:
        if entry["measure"] == "offloads":
            result.offloads = entry["value"]
    result.alone = _alone(samples)
    floods = [entry for entry in samples if entry["measure"] == "flood"]
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for entry in floods:
        groups[entry["kind"], entry["rate"]].append(entry)
    idle = [entry["quiet"]["cpu_ns"] / entry["quiet"]["seconds"] for entry in _present(groups[BASELINE, 0])]
    for kind, rate in sorted(groups, key=lambda key: (ALL_KINDS.index(key[0]), key[1])):
        group = groups[kind, rate]
        result.goodput.append(_goodput(kind, rate, group))
        result.latency.append(_latency(kind, rate, group, received))
        if rate:
            result.refusals.append(_refusals(kind, rate, group, median(idle) if idle else 0.0, result.alone))
    result.controls = [_control(entry) for entry in samples if entry["measure"] == "control"]
    _judge(result, floods)
    return result


def _alone(samples: Iterable[dict[str, Any]]) -> dict[str, float]:
    rounds: dict[str, list[float]] = defaultdict(list)
    for entry in samples:
        if entry["measure"] == "refusal" and entry["value"] is not None:
            rounds[entry["kind"]].append(entry["value"])
    return {kind: rounded(median(values)) or 0.0 for kind, values in rounds.items()}


def _received(folder: Path) -> dict[int, int]:
    """Return how many different probes of each measurement came to the receivers."""
    seen: dict[int, set[int]] = defaultdict(set)
    for log in sorted(folder.glob("received-*.jsonl")):
        for entry in read_lines(log):
            if entry.get("label") == PROBE:
                seen[entry["trial"]].add(entry["index"])
    return {trial: len(indices) for trial, indices in seen.items()}


def _present(group: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in group if entry["value"] is not None]


def _statistics(values: Sequence[float | None]) -> dict[str, Any]:
    figures = summarise(values).as_dict()
    return {name: rounded(value) if name in ("median", "ci_low", "ci_high") else value
            for name, value in figures.items()}  # fmt: skip


def _goodput(kind: str, rate: int, group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    values = [None if entry["value"] is None else entry["value"] / 1e6 for entry in group]
    there = _present(group)
    # Each sample is compared with the same flow just before: the machine may be another one a minute later.
    ratio = summarise([entry["value"] / entry["before"] for entry in there if entry["before"] > 0])
    sent = [entry["sent"] / entry["seconds"] for entry in there] if rate else [0.0]
    busy = [100 * entry["under_load"]["cpu_ns"] / 1e9 / entry["under_load"]["seconds"] for entry in there]
    return {
        "kind": kind, "rate": rate, "unit": "Mbit/s", **_statistics(values),
        "before": rounded(median([entry["before"] for entry in there]) / 1e6) if there else None,
        "sent_per_s": rounded(median(sent)) if sent else None,
        "ratio": rounded(ratio.median, 3), "ratio_low": rounded(ratio.low, 3), "ratio_high": rounded(ratio.high, 3),
        "cpu_percent": rounded(median(busy), 3) if busy else None,
    }  # fmt: skip


def _latency(
    kind: str, rate: int, group: Sequence[dict[str, Any]], received: dict[int, int]
) -> dict[str, Any]:
    there = _present(group)
    pings = [value for entry in there for value in entry["rtts"]]
    probes = sum(entry["probes"] for entry in there)
    lost = sum(entry["probes"] - min(entry["probes"], received.get(entry["order"], 0)) for entry in there)
    return {
        "kind": kind, "rate": rate, "unit": "ms",
        **_statistics([None if entry["value"] is None else median(entry["rtts"]) for entry in group]),
        "p99": rounded(quantile(pings, 0.99)) if pings else None,
        "pings_lost": sum(entry["pings_lost"] for entry in there), "probes": probes, "lost": lost,
        "lost_share": rounded(lost / probes) if probes else None,
        "lost_high": rounded(wilson(lost, probes)[1]) if probes else None,
    }  # fmt: skip


def _refusals(
    kind: str, rate: int, group: Sequence[dict[str, Any]], idle: float, alone: dict[str, float]
) -> dict[str, Any]:
    there, reasons = _present(group), REASONS[kind]
    counted: dict[str, int] = defaultdict(int)
    for entry in there:
        for reason, count in entry["whole"]["drops"].items():
            counted[reason] += count
    costs = []
    for entry in there:
        quiet = entry["quiet"]
        refused = sum(quiet["drops"].get(reason, 0) for reason in reasons)
        if refused:
            costs.append((quiet["cpu_ns"] - idle * quiet["seconds"]) / refused / 1000)
    cost = summarise(costs)
    return {
        "kind": kind, "rate": rate, "reasons": {reason: counted[reason] for reason in reasons if counted[reason]},
        "sent": sum(entry["sent"] for entry in there), "refused": sum(counted[reason] for reason in reasons),
        "buffer_drops": sum(entry["buffer_drops"] for entry in there),
        "others": {reason: count for reason, count in counted.items() if reason not in reasons},
        "cpu_us": rounded(cost.median, 3), "cpu_low": rounded(cost.low, 3), "cpu_high": rounded(cost.high, 3),
        "alone_us": alone.get(kind),
    }  # fmt: skip


def _control(entry: dict[str, Any]) -> dict[str, Any]:
    mode, kind, sent = entry["mode"], entry["kind"], entry["sent"]
    delivered = int(entry["value"] or 0)
    if not sent:
        verdict = INVALID
    elif mode == "none":
        verdict = SUCCEEDED if 2 * delivered >= sent else INVALID
    else:
        verdict = RESISTED if delivered <= STRAY_SHARE * sent else BROKEN
        refused = sum(entry["drops"].get(reason, 0) for reason in REASONS[kind])
        if verdict == RESISTED and refused < (1 - STRAY_SHARE) * sent:
            verdict = INVALID
    return {
        "mode": mode, "kind": kind, "sent": sent, "delivered": delivered, "verdict": verdict,
        "drops": entry["drops"],
    }  # fmt: skip


def _judge(result: FloodResult, floods: Sequence[dict[str, Any]]) -> None:
    found = {(row["kind"], row["rate"]): row for row in result.goodput}
    if (BASELINE, 0) not in found or found[BASELINE, 0]["median"] is None:
        result.failures.append(f"{NAME}: nothing was measured without an attack")
    for row in result.goodput:
        if row["missing"]:
            here = [entry for entry in floods if (entry["kind"], entry["rate"]) == (row["kind"], row["rate"])]
            reasons = "; ".join(sorted({entry["missing"] for entry in here if entry["missing"]}))
            text = f"{NAME}: {row['kind']} at {row['rate']}/s: {row['missing']} samples missing: {reasons}"
            (result.warnings if row["count"] else result.failures).append(text)
        if row["sent_per_s"] is not None and row["sent_per_s"] < RATE_SHARE * row["rate"]:
            result.warnings.append(
                f"{NAME}: {row['kind']}: the attacker reached {row['sent_per_s']:.0f} of {row['rate']} packets a second"
            )
    _judge_controls(result)
    _judge_refusals(result)
    _judge_limiter(result, floods)
    ratio = found.get((TARGET_KIND, TARGET_RATE), {}).get("ratio")
    met = ratio is not None and ratio > TARGET_RATIO
    result.target = {"kind": TARGET_KIND, "rate": TARGET_RATE, "ratio": ratio, "target": TARGET_RATIO, "met": met}
    if ratio is not None and not met:
        result.warnings.append(
            f"{NAME}: goodput under {TARGET_RATE} packets a second ({TARGET_KIND}) is {ratio} of that without an "
            f"attack; the target is more than {TARGET_RATIO}"
        )


def _judge_refusals(result: FloodResult) -> None:
    """What was refused for another reason than its kind's is no measurement of that kind."""
    for row in result.refusals:
        others = sum(row["others"].values())
        if others > STRAY_SHARE * row["sent"]:
            result.failures.append(
                f"{NAME}: {row['kind']} at {row['rate']}/s: {others} of {row['sent']} packets were refused for other "
                f"reasons than {', '.join(REASONS[row['kind']]) or 'none'}: {json.dumps(row['others'])}"
            )


def _judge_controls(result: FloodResult) -> None:
    wanted = {("none", UNPROTECTED), ("none", REPLAYED), ("full", UNPROTECTED), *(("full", kind) for kind in KINDS)}
    for mode, kind in sorted(wanted - {(row["mode"], row["kind"]) for row in result.controls}):
        result.failures.append(f"{NAME}: no control of {kind} ({mode})")
    for row in result.controls:
        if row["verdict"] in (BROKEN, INVALID):
            result.failures.append(
                f"{NAME}: {row['verdict']}: {row['kind']} ({row['mode']}): {row['delivered']} of {row['sent']} forged "
                f"packets came to the tenant, refused: {json.dumps(row['drops'])}"
            )


def _judge_limiter(result: FloodResult, floods: Sequence[dict[str, Any]]) -> None:
    """Where the attacker sends no implausible numbers, whatever the limiter refused was a true packet."""
    wrong = sum(
        entry["whole"]["drops"].get(LIMITED, 0) for entry in _present(floods) if entry["kind"] != BAD_TAG_FAR
    )
    if wrong:
        result.failures.append(f"{NAME}: the limiter refused {wrong} packets that nobody forged")
    for entry in _present(floods):
        refused = sum(entry["whole"]["drops"].get(reason, 0) for reason in REASONS.get(entry["kind"], ()))
        if refused > entry["sent"] and entry["kind"] == BAD_TAG_FAR:
            result.failures.append(f"{NAME}: more packets were refused than the attacker sent ({entry['kind']})")


def write_tables(result: FloodResult, folder: Path) -> None:
    """Write one CSV file per table to ``folder``."""
    write_all(folder, NAME, TABLES, result)


def summary(result: FloodResult) -> dict[str, Any]:
    """Return the experiment's part of summary.json."""
    return {
        "interval": "order statistics of the repeats; ratios are of one repeat",
        "target": result.target, "goodput": result.goodput, "latency": result.latency, "refusals": result.refusals,
        "controls": result.controls, "alone_us": result.alone, "offloads": result.offloads,
        "failures": result.failures, "warnings": result.warnings,
    }  # fmt: skip

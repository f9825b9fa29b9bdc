"""From raw samples and captures of the experiment *partial* to its tables. Pure: reads a run's folder, nothing else."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.capture_file import CaptureError
from experiments.mechanisms.compared_analysis import by_repeat, ratio, reasons, statistics
from experiments.mechanisms.variants import (
    OVERLAYS,
    TLS_CIPHERTEXT_SHARE,
    Variant,
    hidden_payload,
    inner_frame,
    outer_size,
    partial_variants,
    segment_payload,
)
from experiments.mechanisms.wire import Seen, Sent, outer_packets, seen, tcp_payloads, tls_records
from experiments.peers.network import LEFT, MACS, RIGHT
from experiments.profiles import Profile
from experiments.samples import read_lines
from experiments.statistics import CONFIDENCE, Summary, quantile, summarise
from experiments.tables import rounded, write_all
from geneve.control.channel import Cipher
from geneve.control.profile import InnerCoverage

NAME = "partial"
SAMPLES = "samples.jsonl"
CLEAR, TLS = "clear", "tls"
TENANTS = (CLEAR, TLS)
"""What tenants do themselves: nothing (the control), or TLS 1.3."""
CAPTURED, TENANTS_CAPTURED = 16, 24
"""Packets of the underlay, and frames of the tenant, that a capture has at most. The latter are at least as many bytes,
and two TLS records in a row."""
POINT_OVERHEAD = 0.35
SAVES, COSTS, NO_DIFFERENCE = "saves", "costs more", "no difference shown"
TOO_FEW, NOT_MEASURED = "too few samples", "not measured"
COMPARISONS = (
    ("headers-only", "full"), ("headers-only", "dtls"), ("headers-only", "esp-udp"), ("authenticated-only", "full"),
    ("headers-only", "authenticated-only"), ("esp-null-udp", "esp-udp"),
)  # fmt: skip
"""Which protection is set against which; all of them send many packets in a system call."""

_STATISTICS = ("median", "ci_low", "ci_high", "ci_coverage", "count", "missing", "reasons")
_POINT = ("mechanism", "path", "underlay_mtu", "tenants")
_RATIO = ("ratio", "ratio_low", "ratio_high")
TABLES: dict[str, tuple[str, ...]] = {
    "goodput": (*_POINT, "tenant_mtu", "unit", *_STATISTICS, *_RATIO),
    "cpu": (*_POINT, "end", "unit", *_STATISTICS, *_RATIO),
    "savings": (
        "mechanism", "against", "underlay_mtu", "tenants", "goodput_ratio", "goodput_low", "goodput_high", "cpu_ratio",
        "cpu_low", "cpu_high", "cpu_saved", "saved_low", "saved_high", "count", "verdict",
    ),
    "twice": (
        *_POINT, "packet_bytes", "payload_bytes", "readable_bytes", "hidden_bytes", "expected_hidden", "twice_bytes",
        "addresses", "tls_records", "packets", "verdict", "capture",
    ),
    "nves": ("mechanism", "path", "underlay_mtu", "implementation", "observed_path", "cipher", "reasons"),
}  # fmt: skip
AS_EXPECTED, WRONG = "as expected", "NOT AS EXPECTED"

Entry = dict[str, Any]
Row = dict[str, Any]


@dataclass(slots=True)
class PartialResult:
    """Tables, and what is wrong."""

    goodput: list[Row] = field(default_factory=list)
    cpu: list[Row] = field(default_factory=list)
    savings: list[Row] = field(default_factory=list)
    twice: list[Row] = field(default_factory=list)
    nves: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def seconds(profile: Profile) -> float:
    """Return how long the experiment is expected to take."""
    pairs = len(partial_variants(profile.partial_mtus))
    points = profile.repeats * pairs * len(TENANTS)
    return points * (profile.partial_seconds + POINT_OVERHEAD) + pairs * 2.5


def analyse(root: Path) -> PartialResult:
    """Read the samples and captures of a run; ValueError on damaged ones."""
    entries = read_lines(root / "raw" / NAME / SAMPLES)
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry["measure"]].append(entry)
    mtus = sorted({entry["underlay_mtu"] for entry in entries})
    result = PartialResult()
    for variant in partial_variants(mtus):
        result.nves.append(_nve(variant, found))
        for tenants in TENANTS:
            _figures(variant, tenants, found["flow"], result)
            for entry in _of(found["capture"], variant, tenants):
                result.twice.append(_evidence(root, variant, tenants, entry, result))
    for mtu in mtus:
        for tenants in TENANTS:
            result.savings.extend(_saving(pair, mtu, tenants, found["flow"]) for pair in COMPARISONS)
    _judge(entries, result)
    return result


def _of(entries: list[Entry], variant: Variant, tenants: str | None = None) -> list[Entry]:
    wanted = (variant.mechanism, variant.underlay_mtu)
    return [
        entry for entry in entries
        if (entry["mechanism"], entry["underlay_mtu"]) == wanted and entry.get("tenants") == tenants
    ]  # fmt: skip


def _nve(variant: Variant, found: dict[str, list[Entry]]) -> Row:
    entries = _of(found["nve"], variant)
    told: Row = next((entry["value"] for entry in entries if entry["value"] is not None), {})
    suite = next((entry["value"] for entry in _of(found["tls"], variant)), None)
    return {
        **variant.key(), "implementation": told.get("implementation"), "observed_path": told.get("observed_path"),
        "cipher": suite, "reasons": reasons(entries),
    }  # fmt: skip


def cpu_per_gigabyte(entry: Entry, end: str) -> float | None:
    """Return seconds of CPU time for 10^9 bytes of tenants' data; ``end`` can be ``both``."""
    if entry["value"] is None:
        return None
    ends = (LEFT, RIGHT) if end == "both" else (end,)
    return float(sum(entry["cpu_ns"][side] for side in ends)) / float(entry["bytes"])


def _figures(variant: Variant, tenants: str, flows: list[Entry], result: PartialResult) -> None:
    """Goodput and CPU time; the ratio is to no protection on the same path, with the same tenants, in the same repeats.
    """
    entries = _of(flows, variant, tenants)
    plain = [entry for entry in _of(flows, Variant("none", "", variant.underlay_mtu), tenants)
             if entry["path"] == variant.path]  # fmt: skip
    row = {**variant.key(), "tenants": tenants}
    values = [None if entry["value"] is None else entry["value"] / 1e6 for entry in entries]
    result.goodput.append({
        **row, "tenant_mtu": variant.tenant_mtu, "unit": "Mbit/s", **statistics(entries, values),
        **ratio(by_repeat(entries), by_repeat(plain)),
    })  # fmt: skip
    for name, end in (("sending", LEFT), ("receiving", RIGHT), ("both", "both")):
        result.cpu.append({
            **row, "end": name, "unit": "s/GB",
            **statistics(entries, [cpu_per_gigabyte(entry, end) for entry in entries]),
            **ratio(_cpu_by_repeat(entries, end), _cpu_by_repeat(plain, end)),
        })  # fmt: skip


def _cpu_by_repeat(entries: list[Entry], end: str = "both") -> dict[int, float]:
    values = {entry["repeat"]: cpu_per_gigabyte(entry, end) for entry in entries}
    return {repeat: value for repeat, value in values.items() if value is not None}


def verdict(summary: Summary) -> str:
    """Return in words what a ratio of CPU times says: a difference only where the interval leaves out 1."""
    if summary.low is None or summary.high is None:
        return NOT_MEASURED
    if summary.coverage < CONFIDENCE:
        return TOO_FEW
    if summary.high < 1:
        return SAVES
    return COSTS if summary.low > 1 else NO_DIFFERENCE


def _saving(pair: tuple[str, str], mtu: int, tenants: str, flows: list[Entry]) -> Row:
    """Set one protection against another within the repeats that have both; CPU time of both NVEs together."""
    one, other = (_of(flows, Variant(name, "", mtu), tenants) for name in pair)
    goodput, cpu = _paired(by_repeat(one), by_repeat(other)), _paired(_cpu_by_repeat(one), _cpu_by_repeat(other))
    goodput_ratio, cpu_ratio = (summarise([above / below for above, below in both]) for both in (goodput, cpu))
    saved = summarise([below - above for above, below in cpu])
    named = {
        "goodput_ratio": goodput_ratio.median, "goodput_low": goodput_ratio.low, "goodput_high": goodput_ratio.high,
        "cpu_ratio": cpu_ratio.median, "cpu_low": cpu_ratio.low, "cpu_high": cpu_ratio.high,
        "cpu_saved": saved.median, "saved_low": saved.low, "saved_high": saved.high,
    }  # fmt: skip
    return {
        "mechanism": pair[0], "against": pair[1], "underlay_mtu": mtu, "tenants": tenants,
        **{name: rounded(value, 3) for name, value in named.items()}, "count": cpu_ratio.count,
        "verdict": verdict(cpu_ratio),
    }  # fmt: skip


def _paired(one: dict[int, float], other: dict[int, float]) -> list[tuple[float, float]]:
    return [(one[repeat], other[repeat]) for repeat in sorted(one) if repeat in other]


# What can be read ----------------------------------------------------------------------------------------


def addresses_hidden(variant: Variant) -> bool:
    """Return whether inner addresses must not be seen on the underlay."""
    profile = variant.profile
    if profile is None:
        return False
    if profile.channel is not None:
        return profile.channel.cipher is not Cipher.NULL
    return profile.egress.encrypt_inner is not InnerCoverage.NONE


def _evidence(root: Path, variant: Variant, tenants: str, entry: Entry, result: PartialResult) -> Row:
    row = {**variant.key(), "tenants": tenants, "verdict": NOT_MEASURED}
    if entry["value"] is None:
        return row
    taken = entry["value"]
    try:
        sent = tcp_payloads(root / taken["tenant"])
        packets = outer_packets(root / taken["underlay"])
    except (OSError, CaptureError) as error:
        result.warnings.append(f"{NAME}: no evidence for {variant.name}, {tenants}: {error}")
        return row
    marks = [bytes.fromhex((MACS[RIGHT] + MACS[LEFT]).replace(":", "")),
             b"".join(ipaddress.ip_address(taken[side]).packed for side in (LEFT, RIGHT))]  # fmt: skip
    index = Sent(sent)
    found = judged(variant, tenants, [seen(packet, index, marks) for packet in packets], tls_records(b"".join(sent))[0])
    if found["verdict"] == WRONG:
        result.failures.append(f"{NAME}: what can be read under {variant.name}, {tenants}, is not as expected: {found}")
    return {**row, **found, "capture": taken["underlay"]}


def judged(variant: Variant, tenants: str, packets: list[Seen], records: int) -> Row:
    """Return what full-size packets show, and whether that is what the protection is to show.

    ``records`` is the number of TLS records in what left the tenant: what is called TLS must be TLS.
    """
    payload = segment_payload(variant.tenant_mtu)
    full = [packet for packet in packets if packet.size == outer_size(variant.profile, inner_frame(variant.tenant_mtu))]
    if not full:
        return {"packets": 0, "tls_records": records, "verdict": NOT_MEASURED}
    readable = min(payload, round(quantile([packet.readable for packet in full], 0.5)))
    hidden, expected = payload - readable, hidden_payload(variant.profile, payload)
    addresses = sum(packet.addresses for packet in packets)
    right = addresses == (0 if addresses_hidden(variant) else len(packets))
    if tenants == TLS:
        right = right and hidden == expected and records > 0
    else:  # plain bytes are all alike: whether they can be read is clear, where they begin is not
        right = right and (readable == 0) == (expected == payload) and records == 0
    return {
        "packet_bytes": full[0].size, "payload_bytes": payload, "readable_bytes": readable, "hidden_bytes": hidden,
        "expected_hidden": expected,
        "twice_bytes": rounded(hidden * TLS_CIPHERTEXT_SHARE, 5) if tenants == TLS else 0,
        "addresses": round(addresses / len(packets), 3), "tls_records": records, "packets": len(full),
        "verdict": AS_EXPECTED if right else WRONG,
    }  # fmt: skip


def _judge(entries: list[Entry], result: PartialResult) -> None:
    missing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in entries:
        if entry["missing"] is not None:
            name = f"{entry['mechanism']}, underlay {entry['underlay_mtu']}"
            missing[name, entry["missing"]].append(entry["measure"])
    for (name, reason), measures in missing.items():
        what = ", ".join(dict.fromkeys(measures))
        result.warnings.append(f"{NAME}: {len(measures)} sample(s) of {what} missing for {name}: {reason}")
    for row in result.twice:
        if row["verdict"] == NOT_MEASURED:
            result.warnings.append(f"{NAME}: no evidence for {row['mechanism']}, underlay {row['underlay_mtu']}, "
                                   f"{row['tenants']}")  # fmt: skip
    if all(row["median"] is None for row in result.goodput):
        result.failures.append(f"{NAME}: there is not one sample of goodput")
    if not any(row["verdict"] == AS_EXPECTED for row in result.twice):
        result.failures.append(f"{NAME}: there is no evidence of what can be read on the underlay")


def write_tables(result: PartialResult, folder: Path) -> None:
    """Write one CSV file per table to ``folder``."""
    write_all(folder, NAME, TABLES, result)


def conclusions(result: PartialResult) -> list[str]:
    """Return in sentences what the figures say of headers only, for tenants with TLS."""
    said = []
    for row in result.savings:
        if row["tenants"] != TLS or row["mechanism"] != "headers-only" or row["cpu_ratio"] is None:
            continue
        said.append(
            f"underlay {row['underlay_mtu']}: CPU time of headers-only over {row['against']} {row['cpu_ratio']} "
            f"[{row['cpu_low']}, {row['cpu_high']}], goodput {row['goodput_ratio']} [{row['goodput_low']}, "
            f"{row['goodput_high']}]: {row['verdict']}"
        )
    return said


def summary(result: PartialResult) -> dict[str, Any]:
    """Return the experiment's part of summary.json."""
    tables = {name: getattr(result, name) for name in TABLES}
    return {**tables, "conclusions": conclusions(result), "failures": result.failures, "warnings": result.warnings}


assert {name for pair in COMPARISONS for name in pair} <= set(OVERLAYS)

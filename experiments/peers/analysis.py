"""What the benchmark found: medians with confidence intervals, ratios within the same repeats, and the targets. Pure.

A ratio is taken of two samples of one repeat and then summarised over the repeats: what slows the machine for a while
falls on both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.samples import read_lines
from experiments.statistics import Summary, summarise
from experiments.tables import rounded

COLUMNS = (
    "contender", "title", "kind", "layer", "protection", "tenant_mtu", "measure", "unit", "median", "ci_low", "ci_high",
    "ci_coverage", "count", "missing", "payload", "sender_limited", "reason",
)  # fmt: skip
RATIO_COLUMNS = ("contender", "peer", "measure", "ratio", "ci_low", "ci_high", "ci_coverage", "count")
TARGET_COLUMNS = ("target", "verdict", "value", "ci_low", "ci_high", "limit", "aim", "against")
RATIO_MEASURES = ("tcp_1", "tcp_4", "udp_64", "udp_512", "udp_1400", "udp_64_segmented", "rtt_idle", "rtt_load")
OURS, USER_SPACE, KERNEL = "ours", "user space", "kernel"
MET, NOT_MET, NOT_MEASURED = "met", "NOT MET", "not measured"

Sample = dict[str, Any]


@dataclass(slots=True)
class Benchmark:
    """A run's samples by contender and measure, and what the contenders are, in the order of tables."""

    contenders: list[dict[str, Any]]
    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, contenders: Sequence[dict[str, Any]]) -> Benchmark:
        """Read the samples in a file; ValueError when they are damaged."""
        found = cls(list(contenders))
        for entry in read_lines(path):
            found.samples.setdefault((entry["contender"], entry["measure"]), []).append(entry)
        return found

    def values(self, contender: str, measure: str) -> dict[int, float]:
        """Return the values that there are by repeat."""
        entries = self.samples.get((contender, measure), ())
        return {entry["repeat"]: entry["value"] for entry in entries if entry["value"] is not None}

    def summary(self, contender: str, measure: str) -> Summary:
        """Return median and interval of a measure; missing samples are counted as such."""
        return summarise([entry["value"] for entry in self.samples.get((contender, measure), ())])

    def total(self, contender: str, measures: Sequence[str]) -> dict[int, float]:
        """Return the sum of several measures, for each repeat that has them all."""
        each = [self.values(contender, measure) for measure in measures]
        return {repeat: sum(values[repeat] for values in each) for repeat in each[0] if all(repeat in v for v in each)}

    def reason(self, contender: str) -> str | None:
        """Return why a contender has no sample at all of some measure; None if it has of each."""
        for (name, measure), entries in self.samples.items():
            if name == contender and not self.values(contender, measure):
                return str(entries[-1]["missing"])
        return None

    def absent(self, contender: str) -> str | None:
        """Return why a contender could not be measured at all; None if it could."""
        names = [measure for name, measure in self.samples if name == contender]
        if not names:
            return "it was not reached"
        return None if any(self.values(contender, name) for name in names) else self.reason(contender)

    def measures(self, contender: str) -> list[str]:
        """Return which measures a contender has samples of."""
        return [measure for name, measure in self.samples if name == contender]


def ratio(above: dict[int, float], below: dict[int, float]) -> Summary:
    """Return the ratio of two series, taken within each repeat that has both."""
    return summarise([above[repeat] / below[repeat] for repeat in above if below.get(repeat)])


def rows(found: Benchmark) -> list[dict[str, Any]]:
    """Return a row for each contender and measure."""
    table = []
    for contender in found.contenders:
        for measure in found.measures(contender["name"]):
            entries = found.samples[contender["name"], measure]
            summary = found.summary(contender["name"], measure)
            reasons = [entry["missing"] for entry in entries if entry["missing"]]
            table.append({
                **{key: contender[key] for key in ("title", "kind", "layer", "protection", "tenant_mtu")},
                "contender": contender["name"], "measure": measure, "unit": entries[0]["unit"], **_rounded(summary),
                "payload": next((entry["payload"] for entry in entries if "payload" in entry), None),
                "sender_limited": any(entry.get("sender_limited") for entry in entries),
                "reason": reasons[-1] if reasons else None,
            })  # fmt: skip
    return table


def _rounded(summary: Summary) -> dict[str, Any]:
    return {key: rounded(value) if isinstance(value, float) else value for key, value in summary.as_dict().items()}


def ratios(found: Benchmark) -> list[dict[str, Any]]:
    """Return the ratio of each of ours to every other contender, for the measures that all have."""
    table = []
    for own in (contender["name"] for contender in found.contenders if contender["kind"] == OURS):
        for peer in (contender["name"] for contender in found.contenders if contender["name"] != own):
            for measure in RATIO_MEASURES:
                summary = ratio(found.values(own, measure), found.values(peer, measure))
                if summary.count:
                    shown = _rounded(summary)
                    row = {"contender": own, "peer": peer, "measure": measure, "ratio": shown["median"]}
                    table.append({**row, **shown})
    return table


def best_peer(found: Benchmark, measure: str, *, smallest: bool = False) -> str | None:
    """Return the encrypting user-space peer with the best median of a measure; None when there is none."""
    medians = {
        contender["name"]: found.summary(contender["name"], measure).median
        for contender in found.contenders
        if contender["kind"] == USER_SPACE and contender["encrypts"]
    }
    there = {name: value for name, value in medians.items() if value is not None}
    return (min if smallest else max)(there, key=there.__getitem__) if there else None


def targets(found: Benchmark) -> list[dict[str, Any]]:
    """Return each target of the project with what was measured and whether it is met, by the median."""
    return list(_targets(found))


def _targets(found: Benchmark) -> Iterator[dict[str, Any]]:
    for measure, text, limit, aim in (
        ("tcp_1", "TCP goodput of 'full' over that of the fastest encrypting user-space peer", 1.5, 2.0),
        ("udp_64", "64 B datagrams per second of 'full' over the best encrypting user-space peer", 1.0, 1.5),
    ):
        peer = best_peer(found, measure)
        against = {} if peer is None else found.values(peer, measure)
        yield _verdict(text, ratio(found.values("nve-full", measure), against), limit, aim=aim, against=peer)
    peer = best_peer(found, "rtt_idle", smallest=True)
    against = {} if peer is None else found.values(peer, "rtt_idle")
    text = "idle round-trip time of 'full' over that of the best encrypting user-space peer"
    yield _verdict(text, ratio(found.values("nve-full", "rtt_idle"), against), 1.0, at_most=True, against=peer)
    passed = ratio(found.values("nve-full-2t", "tcp_1"), found.values("nve-full", "tcp_1"))
    text = "TCP goodput that is left with two verifying transit devices"
    yield _verdict(text, passed, 0.65, against="nve-full")
    ends = ("cpu_udp_left", "cpu_udp_right")
    spent = ratio(found.total("nve-headers", ends), found.total("nve-full", ends))
    text = "CPU time per largest datagram, both ends, of 'headers-only' over 'full': the whole interval below"
    yield _verdict(text, spent, 1.0, at_most=True, certain=True, against="nve-full")


def _verdict(
    text: str, summary: Summary, limit: float, *, aim: float | None = None, at_most: bool = False,
    certain: bool = False, against: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """``certain``: the interval's end counts and not the median."""
    judged = (summary.high if at_most else summary.low) if certain else summary.median
    verdict = NOT_MEASURED
    if judged is not None:
        verdict = MET if (judged <= limit if at_most else judged >= limit) else NOT_MET
    return {
        "target": text, "verdict": verdict, "value": rounded(summary.median, 3), "ci_low": rounded(summary.low, 3),
        "ci_high": rounded(summary.high, 3), "limit": f"{'at most' if at_most else 'at least'} {limit:g}", "aim": aim,
        "against": against,
    }  # fmt: skip

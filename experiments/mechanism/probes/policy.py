"""SEC-GEN-15 and 16: which profile and which keys protect which flow, seen from the packets' SPIs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.mechanism.evidence import Evidence
from experiments.mechanism.probe import MUST, Finding, Probe, Weight
from experiments.mechanism.probes.common import INNER_HEADERS, enough, find_option, numbers, own, spi_of
from geneve.control.profile import KeyGranularity, Profile
from geneve.security.option import EGRESS_TYPE, SECURITY_CLASS

if TYPE_CHECKING:
    from experiments.mechanism.live import Bench

SCENARIO = "mechanism-policy"
_COUNT = 5
_FLOWS = {
    "UDP to port 7000": (201, {}, "full"),
    "UDP to port 7150": (202, {"port": 7150}, "headers-only"),
    "UDP to port 7666": (203, {"port": 7666}, None),
    "UDP to port 7000 with DSCP 46": (204, {"tos": 46 << 2}, "authenticated"),
}
"""Flow -> size of its messages, what its packets have besides, and the profile that the policy has for it."""


def _act_flows(bench: Bench) -> dict[str, object]:
    for size, order, _ in _FLOWS.values():
        bench.burst("flow1", "flow2", [size] * _COUNT, patience=0.5, **order)
    return {}


def _plain(name: str) -> str:
    """Return the name of a profile without what marks a twin's."""
    return name.rpartition("-x")[0] if name.rpartition("-x")[2].isdigit() else name


def judge_flows(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-15: by VNI, inner IP and transport headers, and DSCP."""
    findings = []
    for flow, (size, _, profile) in _FLOWS.items():
        packets = own(evidence, "nve1", size + INNER_HEADERS)
        spis = {spi for seen in packets if (spi := spi_of(seen)) is not None}
        found = {_plain(evidence.spis[spi]["profile"]) if spi in evidence.spis else "an unknown SPI" for spi in spis}
        if profile is None:
            statement, holds = f"{flow}: discarded by policy", not packets
        else:
            statement = f"{flow}: protected under '{profile}'"
            holds = enough(packets, _COUNT) and found == {profile}
        reason = f"{len(packets)} packets, under {sorted(found) or 'nothing'}"
        findings.append(Finding(statement, holds, reason, numbers(packets)))
    return findings


def _act_rules(bench: Bench) -> dict[str, object]:
    bench.burst("rule1", "rule2", [201] * _COUNT, port=7010, patience=0.5)
    bench.burst("rule1", "rule2", [202] * _COUNT, port=7060, patience=0.5)
    bench.burst("rule2", "rule1", [203] * _COUNT, port=7010, patience=0.5)
    return {}


def judge_rules(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-16, finer than it asks for: keys for each rule, and for each direction."""
    groups = {size: own(evidence, size=size + INNER_HEADERS) for size in (201, 202, 203)}
    spis = {size: {spi_of(seen) for seen in packets} for size, packets in groups.items()}
    single = all(enough(groups[size], _COUNT) and len(spis[size]) == 1 for size in groups)
    return [
        Finding("two rules have different keys", single and spis[201] != spis[202],
                f"SPIs {_shown(spis[201])} and {_shown(spis[202])}", numbers(groups[201] + groups[202]),
                Weight.NOTE),
        Finding("the two directions have different keys", single and spis[201] != spis[203],
                f"SPIs {_shown(spis[201])} and {_shown(spis[203])}", numbers(groups[203]), Weight.NOTE),
    ]  # fmt: skip


def _shown(spis: set[int | None]) -> str:
    return ", ".join("none" if spi is None else f"{spi:#010x}" for spi in spis) or "none"


def _act_pairs(bench: Bench) -> dict[str, object]:
    bench.burst("paira1", "paira2", [201] * _COUNT)
    bench.burst("paira2", "paira1", [202] * _COUNT)
    return {}


def judge_pairs(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-16: keys for each pair of NVEs, whatever the VNI."""
    keys = [entry for entry in evidence.facts["associations"] if entry["role"] == "egress" and entry["vni"] is None]
    ends = {(entry["sender"], entry["audience"]) for entry in keys}
    packets = own(evidence, size=201 + INNER_HEADERS) + own(evidence, size=202 + INNER_HEADERS)
    spis = {seen.view.source: spi_of(seen) for seen in packets}
    used = {spi for spi in spis.values() if spi in evidence.spis and evidence.spis[spi]["vni"] is None}
    return [
        Finding("each ordered pair of NVEs has a key of its own for all VNIs", len(keys) == len(ends) == 2,
                f"{len(keys)} associations for {sorted(ends)}"),
        Finding("and uses it", enough(packets, 2 * _COUNT) and len(used) == 2, f"SPIs {_shown(set(spis.values()))}",
                numbers(packets)),
    ]  # fmt: skip


def _act_each(bench: Bench) -> dict[str, object]:
    bench.burst("each1", "each2", [201] * _COUNT)
    bench.burst("each1", "each2", [202] * _COUNT, port=7001, patience=0.5)
    return {}


def judge_each(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-16, finer than it asks for: keys for each inner flow."""
    groups = {size: own(evidence, "nve1", size + INNER_HEADERS) for size in (201, 202)}
    ids = {}
    for size, packets in groups.items():
        options = [find_option(seen, SECURITY_CLASS, EGRESS_TYPE) for seen in packets]
        ids[size] = {option.data[12:16].hex() for option in options if option is not None and option.size == 36}
    single = all(enough(groups[size], _COUNT) and len(ids[size]) == 1 for size in groups)
    return [
        Finding("two inner flows have different keys, named by their flow ids", single and ids[201] != ids[202],
                f"flow ids {sorted(ids[201])} and {sorted(ids[202])}", numbers(groups[201] + groups[202]),
                Weight.NOTE),
    ]  # fmt: skip


def per_vni(profile: Profile) -> Profile:
    """One key for everything in the VNI."""
    return profile.model_copy(update={"key_granularity": KeyGranularity.VNI})


def unchanged(profile: Profile) -> Profile:
    """The profile as it is: the twin lacks the rules instead."""
    return profile


PROBES = (
    Probe(15, MUST, "flows", SCENARIO, "flows", _act_flows, judge_flows, unchanged, keep_rules=False),
    Probe(16, MUST, "rules", SCENARIO, "rules", _act_rules, judge_rules, per_vni),
    Probe(16, MUST, "pairs", SCENARIO, "paira", _act_pairs, judge_pairs, per_vni),
    Probe(16, MUST, "flow-keys", SCENARIO, "each", _act_each, judge_each, per_vni),
)

"""SEC-GEN-15 and 16: which profile and which keys protect which flow, seen from the packets' SPIs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from experiments.mechanism.evidence import Evidence
from experiments.mechanism.probe import MUST, Finding, Probe, Weight
from experiments.mechanism.probes.common import (
    INNER_HEADERS,
    enough,
    find_option,
    happened,
    numbers,
    own,
    received,
    refusals,
    sent,
    spi_of,
)
from experiments.programs import wait_for
from experiments.view import Carrier
from geneve.control.profile import KeyGranularity, Profile
from geneve.security.option import EGRESS_TYPE, SECURITY_CLASS

if TYPE_CHECKING:
    from experiments.mechanism.live import Bench

SCENARIO = "mechanism-policy"
_COUNT = 5
_TALKS = {("paira1", "paira2"): 201, ("paira2", "paira1"): 202, ("paira1", "paira3"): 203}
_TUNNELS = {("nve1", "nve2"), ("nve2", "nve1"), ("nve1", "nve3")}
_BROADCAST = 240
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
        found |= {seen.view.carrier.value for seen in packets if seen.view.carrier is Carrier.DTLS}
        if profile is None:
            statement, holds = f"{flow}: discarded by policy", not packets
        else:
            statement = f"{flow}: protected as the policy says, under '{profile}'"
            holds = enough(packets, _COUNT) and found == {profile}
        reason = f"{len(packets)} packets, under {', '.join(sorted(found)) or 'nothing'}"
        findings.append(Finding(statement, holds, reason, numbers(packets)))
    counts = {}
    for flow, (size, _, profile) in _FLOWS.items():
        counts[f"{flow} sent"] = sum(len(payload) == 2 * size for payload in sent(evidence, "flow1"))
        if profile is not None:
            counts[f"{flow} captured"] = len(own(evidence, "nve1", size + INNER_HEADERS))
    statement = "messages of each flow are sent, and pass where none is to be discarded"
    return [*findings, happened(statement, counts, _COUNT)]


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
    bench.hosts.receiver(bench.host("paira3"), everything=True)
    for (first, second), size in _TALKS.items():
        bench.burst(first, second, [size] * _COUNT)
    # Broadcasts, so that whoever is brought one would deliver it.
    target = bench.target("nve1", "nve2", _BROADCAST)
    bench.eve().ask({"do": "begin", "attack": "redirect", "limit": _COUNT, "target": target, **bench.place("nve3")})
    bench.broadcast("paira1", "10.0.0.255", [_BROADCAST] * _COUNT)
    wait_for(lambda: bench.eve().ask({"do": "status"})["seen"] >= _COUNT, 1.0)
    time.sleep(0.2)
    return {"redirected": bench.eve().ask({"do": "end"})["seen"]}


def judge_pairs(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-16: keys for each tunnel between NVEs, whatever the VNI."""
    back = [payload for payload in received(evidence, "paira3") if len(payload) == 2 * _BROADCAST]
    out = [payload for payload in sent(evidence, "paira1") if len(payload) == 2 * _BROADCAST]
    brought, refused = evidence.facts["facts"]["redirected"], refusals(evidence, "nve3")
    packets = own(evidence, "nve1", _BROADCAST + INNER_HEADERS)
    to_nve2 = [seen for seen in packets if seen.view.destination == evidence.facts["addresses"]["nve2"]]
    own_copies = len(set(out) & set(back))
    return [
        _pair_keys(evidence),
        Finding("packets of one tunnel that are brought into another are refused",
                brought == _COUNT == len(out) and sorted(back) == sorted(out) and refused >= _COUNT,
                f"eve sent {brought} packets from nve1 to nve2 on to nve3 too: {len(back) - own_copies} delivered "
                f"there besides nve3's own {own_copies}, {refused} refused by nve3", numbers(to_nve2)),
        happened("messages of each tunnel pass, and nve3 gets its own",
              {**_of_tunnels(evidence), "broadcasts": len(out), "brought to nve3": brought, "its own": own_copies},
              _COUNT),
    ]  # fmt: skip


def _of_tunnels(evidence: Evidence) -> dict[str, int]:
    """Return how many packets of each tunnel were captured."""
    counts = {}
    for (first, second), size in _TALKS.items():
        counts[f"{first} to {second}"] = len(own(evidence, size=size + INNER_HEADERS))
    return counts


def _pair_keys(evidence: Evidence) -> Finding:
    """Judge that tunnels have keys of their own: sessions of DTLS, or associations and their SPIs in packets."""
    names = {address: node for node, address in evidence.facts["addresses"].items()}
    packets = [seen for size in _TALKS.values() for seen in own(evidence, size=size + INNER_HEADERS)]
    tunnels = {(names.get(s.view.source, "?"), names.get(s.view.destination, "?")): spi_of(s) for s in packets}
    seen_all = enough(packets, len(_TALKS) * _COUNT) and tunnels.keys() >= _TUNNELS
    if any(seen.view.carrier is Carrier.DTLS for seen in packets):
        live = sessions(evidence)
        ends = {frozenset(pair) for pair in tunnels}
        return Finding("each pair of NVEs has a session of its own, with keys of its own", seen_all and ends <= live,
                       f"packets of {len(ends)} pairs; sessions: {_pairs(live)}", numbers(packets))  # fmt: skip
    keys = [entry for entry in evidence.facts["associations"] if entry["role"] == "egress" and entry["vni"] is None]
    named = {(entry["sender"], entry["audience"]): int(entry["spi"]) for entry in keys}
    uses = all(tunnels.get(tunnel) == named.get(tunnel, -1) for tunnel in _TUNNELS)
    shown = ", ".join(f"{a} to {b} {_shown({spi})}" for (a, b), spi in sorted(tunnels.items()))
    return Finding("each ordered pair of NVEs has a key of its own for all VNIs, and uses it",
                   seen_all and uses and len(keys) == len(named) == len(set(named.values())),
                   f"{len(keys)} associations; SPIs in packets: {shown or 'none'}", numbers(packets))  # fmt: skip


def sessions(evidence: Evidence) -> set[frozenset[str]]:
    """Return the pairs of NVEs of which both have an established DTLS session with the other."""
    held = set()
    for node in evidence.facts["addresses"]:
        found = evidence.facts["stats"]["after"].get(node, {}).get("mechanism", {}).get("sessions", {})
        held |= {(node, peer) for peer, entry in found.items() if entry["established"]}
    return {frozenset(pair) for pair in held if pair[::-1] in held}


def _pairs(pairs: set[frozenset[str]]) -> str:
    return ", ".join(sorted("-".join(sorted(pair)) for pair in pairs)) or "none"


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
    Probe(16, MUST, "rules", SCENARIO, "rules", _act_rules, judge_rules, per_vni, compared=False),
    Probe(16, MUST, "pairs", SCENARIO, "paira", _act_pairs, judge_pairs, per_vni),
    Probe(16, MUST, "flow-keys", SCENARIO, "each", _act_each, judge_each, per_vni, compared=False),
)

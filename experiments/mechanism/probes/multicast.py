"""SEC-GEN-17: underlay multicast, keys for each group and sender, and proof of the sending NVE."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from experiments.mechanism.evidence import Evidence
from experiments.mechanism.probe import MUST, Finding, Judge, Probe, Weight
from experiments.mechanism.probes.common import INNER_HEADERS, enough, find_option, numbers, own, received, sent, spi_of
from geneve.control.profile import Profile
from geneve.security.option import SECURITY_CLASS, SIGNATURE_TYPE

if TYPE_CHECKING:
    from experiments.mechanism.live import Bench

SCENARIO = "mechanism-multicast"
_SIZE, _COUNT = 300, 10
BROADCAST = "10.0.0.255"


def _act(prefix: str) -> Callable[[Bench], dict[str, object]]:
    def act(bench: Bench) -> dict[str, object]:
        logs = [bench.hosts.receiver(bench.host(f"{prefix}{number}"), everything=True) for number in (2, 3)]
        for number in (1, 2):
            bench.broadcast(f"{prefix}{number}", BROADCAST, [_SIZE + number] * _COUNT)
        time.sleep(0.5)
        # Without a group of the underlay there is no group key that a member could abuse.
        group = bench.scenario.tenants[bench.tenant].multicast
        forged = bench.forge_as_member(f"{prefix}1", _SIZE + 5, _COUNT) if group else 0
        time.sleep(0.5)
        return {"forged": forged, "logs": [str(log.name) for log in logs]}

    return act


def _judge(prefix: str) -> Judge:
    def judge(evidence: Evidence) -> list[Finding]:
        groups = [entry for entry in evidence.facts["associations"] if entry["role"] == "multicast"]
        out = [payload for payload in sent(evidence, f"{prefix}1") if len(payload) == 2 * (_SIZE + 1)]
        packets = own(evidence, "nve1", _SIZE + 1 + INNER_HEADERS)
        to_group = [seen for seen in packets if seen.view.destination.startswith("239.")]
        signed = [seen for seen in to_group if find_option(seen, SECURITY_CLASS, SIGNATURE_TYPE) is not None]
        spis = {(spi_of(seen), seen.view.source) for seen in packets}
        back = {n: [p for p in received(evidence, f"{prefix}{n}") if len(p) == 2 * (_SIZE + 1)] for n in (2, 3)}
        forged = evidence.facts["facts"]["forged"]
        believed = [p for n in (2, 3) for p in received(evidence, f"{prefix}{n}") if len(p) == 2 * (_SIZE + 5)]
        channel = any(seen.view.channel for seen in packets)
        refused = refusals(evidence) if channel else evidence.counted("nve2", "drops", "source_unproven")
        keys, proof = ("group keys",), ("proof of the sender",)
        return [
            Finding("one packet for each frame, to a multicast group of the underlay",
                    len(out) == _COUNT and len(to_group) == len(packets) == _COUNT,
                    f"{len(out)} frames, {len(to_group)} packets to the group, {len(packets) - len(to_group)} others",
                    numbers(packets), parts=keys + proof),
            Finding("every other member's tenants get it, once", all(sorted(b) == sorted(out) for b in back.values()),
                    f"{len(out)} sent, received {[len(b) for b in back.values()]}", parts=keys + proof),
            Finding("each sender has a key of its own for the group",
                    len(groups) == len({entry["sender"] for entry in groups}) == 3 and len(spis) == 1,
                    f"{len(groups)} associations: {[(e['sender'], hex(e['spi'])) for e in groups]}", parts=keys),
            Finding("packets carry proof of their sender", enough(signed, _COUNT) and signed == to_group,
                    f"{len(signed)} of {len(to_group)} packets to the group are signed", numbers(signed),
                    Weight.NOTE),
            Finding("a member that forges another member's packets, with the group's key, is not believed",
                    forged > 0 and not believed and refused >= forged,
                    f"{forged} forged by nve3 in nve1's name, {len(believed)} delivered, {refused} refused by nve2",
                    parts=proof),
        ]  # fmt: skip

    return judge


def refusals(evidence: Evidence) -> int:
    """Return how many packets nve2 refused for any reason."""
    reasons = {*evidence.stats("nve2", "before").get("drops", {}), *evidence.stats("nve2").get("drops", {})}
    return sum(evidence.counted("nve2", "drops", reason) for reason in reasons)


def unprotected(_: Profile) -> None:
    """No protection at all: then anybody is believed."""


PROBES = (
    Probe(17, MUST, "ed25519", SCENARIO, "signed", _act("sign"), _judge("sign"), unprotected),
    Probe(17, MUST, "merkle", SCENARIO, "batched", _act("batch"), _judge("batch"), unprotected),
)

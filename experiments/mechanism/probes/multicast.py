"""SEC-GEN-17: underlay multicast, keys for each group and sender, and proof of the sending NVE."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from experiments.mechanism.evidence import Evidence, Seen
from experiments.mechanism.probe import MUST, Finding, Judge, Probe, Weight
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
from geneve.control.profile import Profile
from geneve.security.option import SECURITY_CLASS, SIGNATURE_TYPE

if TYPE_CHECKING:
    from experiments.mechanism.live import Bench

SCENARIO = "mechanism-multicast"
_SIZE, _COUNT = 300, 10
BROADCAST = "10.0.0.255"


def _act(prefix: str, other: str) -> Callable[[Bench], dict[str, object]]:
    def act(bench: Bench) -> dict[str, object]:
        logs = [bench.hosts.receiver(bench.host(f"{prefix}{number}"), everything=True) for number in (2, 3)]
        for number in (1, 2):
            bench.broadcast(f"{prefix}{number}", BROADCAST, [_SIZE + number] * _COUNT)
        time.sleep(0.5)
        bench.broadcast_of_other(other, BROADCAST, [_SIZE + 9] * _COUNT)
        time.sleep(0.3)
        # Without a group of the underlay there is no group key that a member could abuse.
        group = bench.scenario.tenants[bench.tenant].multicast
        begin = time.time()
        forged = bench.forge_as_member(f"{prefix}1", _SIZE + 5, _COUNT) if group else 0
        time.sleep(0.5)
        return {"group": group[0].name if group else "", "forged": forged, "forged from": begin,
                "logs": [str(log.name) for log in logs]}  # fmt: skip

    return act


def _judge(prefix: str) -> Judge:
    def judge(evidence: Evidence) -> list[Finding]:
        name = evidence.facts["facts"]["group"]
        groups = [e for e in evidence.facts["associations"] if (e["role"], e["audience"]) == ("multicast", name)]
        out = [payload for payload in sent(evidence, f"{prefix}1") if len(payload) == 2 * (_SIZE + 1)]
        packets = own(evidence, "nve1", _SIZE + 1 + INNER_HEADERS)
        to_group = [seen for seen in packets if seen.view.destination.startswith("239.")]
        signed = [seen for seen in to_group if find_option(seen, SECURITY_CLASS, SIGNATURE_TYPE) is not None]
        spis = {(spi_of(seen), seen.view.source) for seen in packets}
        back = {n: [p for p in received(evidence, f"{prefix}{n}") if len(p) == 2 * (_SIZE + 1)] for n in (2, 3)}
        forged = evidence.facts["facts"]["forged"]
        believed = [p for n in (2, 3) for p in received(evidence, f"{prefix}{n}") if len(p) == 2 * (_SIZE + 5)]
        channel = any(seen.view.channel for seen in packets)
        refused = refusals(evidence, "nve2") if channel else evidence.counted("nve2", "drops", "source_unproven")
        shown = ", ".join(f"{entry['sender']} SPI {entry['spi']:#010x}" for entry in groups)
        keys, proof = ("group keys",), ("proof of the sender",)
        counts = {"sent": len(out), "packets": len(packets)}
        counts |= {f"{prefix}{n} got": len(set(out) & set(payloads)) for n, payloads in back.items()}
        if not name:
            passes = happened("messages are sent, pass and reach every member", counts, _COUNT)
            return [*_without_groups(len(out), packets, keys + proof), passes]
        return [
            happened("messages are sent, pass and reach every member, and a member forges",
                     {**counts, "forged": forged}, _COUNT),
            Finding("one packet for each frame, to a multicast group of the underlay",
                    len(out) == _COUNT and len(to_group) == len(packets) == _COUNT,
                    f"{len(out)} frames, {len(to_group)} packets to the group, {len(packets) - len(to_group)} others",
                    numbers(packets), parts=keys + proof),
            Finding("every other member's tenants get it, once", all(sorted(b) == sorted(out) for b in back.values()),
                    f"{len(out)} sent, {' and '.join(str(len(b)) for b in back.values())} received",
                    parts=keys + proof),
            Finding("each sender has a key of its own for the group",
                    len(groups) == len({entry["sender"] for entry in groups}) == 3 and len(spis) == 1,
                    f"{len(groups)} associations: {shown or 'none'}", parts=keys),
            _other_group(evidence, to_group, keys),
            Finding("packets carry proof of their sender", enough(signed, _COUNT) and signed == to_group,
                    f"{len(signed)} of {len(to_group)} packets to the group are signed", numbers(signed),
                    Weight.NOTE),
            Finding("a member that forges another member's packets, with the group's key, is not believed",
                    forged > 0 and not believed and refused >= forged,
                    f"{forged} forged by nve3 in nve1's name, {len(believed)} delivered, {refused} refused by nve2",
                    numbers(_forgeries(evidence)), parts=proof),
        ]  # fmt: skip

    return judge


def _other_group(evidence: Evidence, to_group: list[Seen], parts: tuple[str, ...]) -> Finding:
    """Judge that nve1 sends to another group under another key."""
    own_address, begin = {seen.view.destination for seen in to_group}, evidence.facts["facts"]["forged from"]
    others = [
        seen for seen in evidence.packets
        if seen.view.source == evidence.facts["addresses"]["nve1"] and seen.view.destination.startswith("239.")
        and seen.view.destination not in own_address and seen.timestamp < begin
    ]  # fmt: skip
    spis, theirs = {spi_of(seen) for seen in to_group}, {spi_of(seen) for seen in others}
    shown = [", ".join("none" if s is None else f"{s:#010x}" for s in found) or "none" for found in (spis, theirs)]
    return Finding("another group has another key",
                   enough(to_group) and enough(others, _COUNT) and None not in spis | theirs and not spis & theirs,
                   f"SPI of packets to the group: {shown[0]}; of {len(others)} to another: {shown[1]}",
                   numbers(others), parts=parts)  # fmt: skip


def _forgeries(evidence: Evidence) -> list[Seen]:
    """Return the packets to groups in nve1's name that passed when nve1 sent none."""
    begin, name = evidence.facts["facts"]["forged from"], evidence.facts["addresses"]["nve1"]
    return [
        seen for seen in evidence.packets
        if seen.timestamp >= begin and seen.view.source == name and seen.view.destination.startswith("239.")
    ]  # fmt: skip


def _without_groups(frames: int, packets: list[Seen], parts: tuple[str, ...]) -> list[Finding]:
    """Judge a mechanism that has no groups of the underlay: who sends makes a copy for each receiver instead."""
    ends = sorted({seen.view.destination for seen in packets})
    to_group = [seen for seen in packets if seen.view.destination.startswith("239.")]
    reason = (
        f"{frames} frames, {len(to_group)} packets to a group; the ingress NVE sent {len(packets)} unicast copies to "
        f"{' and '.join(ends) or 'nobody'}, so no multicast packet is there to be protected"
    )
    one_each = enough(packets, _COUNT) and len(to_group) == len(packets)
    return [Finding("one packet for each frame, to a multicast group of the underlay", one_each, reason,
                    numbers(packets), parts=parts)]  # fmt: skip


def unprotected(_: Profile) -> None:
    """No protection at all: then anybody is believed."""


PROBES = (
    Probe(17, MUST, "group", SCENARIO, "signed", _act("sign", "batch1"), _judge("sign"), unprotected,
          beside=("batched",)),
    Probe(17, MUST, "merkle", SCENARIO, "batched", _act("batch", "sign1"), _judge("batch"), unprotected,
          beside=("signed",), compared=False),
)

"""SEC-GEN-8, 9, 11, 12, 13 and 14: what eve changes, forges or repeats on the path, and who notices."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.mechanism.evidence import Evidence, Seen
from experiments.mechanism.probe import MUST, SHOULD, Finding, Judge, Probe, Weight
from experiments.mechanism.probes.common import (
    INNER_HEADERS,
    enough,
    happened,
    marked,
    numbers,
    own,
    received,
    sent,
    unchanged,
    way_of_change,
)
from experiments.mechanism.probes.options import REFUSAL_SECONDS, flip_controls, flip_result, flips
from geneve.control.profile import BINDING_FIELDS, Coverage, InnerCoverage, Profile

if TYPE_CHECKING:
    from experiments.mechanism.live import Bench

SCENARIO = "mechanism-authentication"
_SIZE, _COUNT = 300, 8
_NOTHING = Coverage(
    header=frozenset(), options=(), authenticate_inner=InnerCoverage.NONE, encrypt_inner=InnerCoverage.NONE
)


def unauthenticated(profile: Profile) -> Profile:
    """The tag covers nothing but itself."""
    return profile.model_copy(update={"egress": _NOTHING, "transit": None})


def only_binding(profile: Profile) -> Profile:
    """Of the header only what must be bound to the payload."""
    return profile.model_copy(update={"egress": profile.egress.model_copy(update={"header": BINDING_FIELDS})})


def unprotected(_: Profile) -> None:
    """No protection at all."""


def _attack(bench: Bench, sender: str, receiver: str, size: int, attack: str, **order: object) -> dict[str, object]:
    """Have eve attack each packet of one burst; returns what she says of it."""
    hosts = bench.scenario.tenants[bench.tenant].hosts
    target = bench.target(hosts[bench.host(sender)].nve, hosts[bench.host(receiver)].nve, size)
    bench.eve().ask({"do": "begin", "attack": attack, "limit": _COUNT, "target": target, **order})
    # Where eve cannot make a tenant's checksum right, it must not be what refuses her packets.
    bench.burst(sender, receiver, [size] * _COUNT, patience=REFUSAL_SECONDS, no_checksum=attack == "flip")
    return bench.eve().ask({"do": "end"})


# --- 8, 9, 11 ----------------------------------------------------------------------------------------


def _act_modify(bench: Bench) -> dict[str, object]:
    seen = _attack(bench, "pay1", "pay2", _SIZE, "modify")["seen"]
    bench.burst("pay1", "pay2", [_SIZE + 10] * _COUNT)
    return {"seen": seen}


def judge_payload(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-8: authenticated without being encrypted."""
    packets, seen = own(evidence, "nve1"), evidence.facts["facts"]["seen"]
    out, back = set(sent(evidence, "pay1")), received(evidence, "pay2")
    changed = [payload for payload in back if payload not in out or len(payload) == 2 * _SIZE]
    good = [payload for payload in back if len(payload) == 2 * (_SIZE + 10)]
    readable, attacked = marked(packets), own(evidence, "nve1", _SIZE + INNER_HEADERS)
    return [
        Finding("a changed payload is refused", seen == _COUNT and not changed,
                f"{seen} packets {_with_checksums(attacked)}, {len(changed)} delivered; captured in front of her",
                numbers(attacked)),
        happened("eve changes all that she is to change", {"changed": seen, "packets": len(attacked)}, _COUNT),
        Finding("unchanged ones are delivered", len(good) == _COUNT, f"{len(good)} of {_COUNT}",
                weight=Weight.CONTROL),
        Finding("without being encrypted", enough(packets, _COUNT) and len(readable) >= _COUNT,
                f"the message can be read in {len(readable)} of {len(packets)} packets", numbers(readable)),
    ]  # fmt: skip


def _with_checksums(packets: list[Seen]) -> str:
    readable = any(seen.packet is not None for seen in packets)
    return way_of_change(packets) + (", with right inner checksums" if readable else "")


def _act_headers(bench: Bench) -> dict[str, object]:
    facts = flips(bench, "head1", "head2", {"payload": ("payload", INNER_HEADERS + 200, 1)})
    facts["ports"] = _attack(bench, "head1", "head2", _SIZE + 40, "other_port")["seen"]
    bench.burst("head1", "head2", [_SIZE + 45] * _COUNT)
    facts["unchanged"] = [_SIZE + 5, _SIZE + 45]
    return facts


def judge_headers(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-9: the inner headers and no more."""
    size = _SIZE + 40
    out = [payload for payload in sent(evidence, "head1") if len(payload) == 2 * size]
    back = [payload for payload in received(evidence, "head2") if len(payload) == 2 * size]
    seen, packets = evidence.facts["facts"]["ports"], own(evidence, "nve1", size + INNER_HEADERS)
    return [
        Finding("a changed inner header is refused", seen == _COUNT == len(out) and not back,
                f"the inner source port of {seen} packets {_with_checksums(packets)}, {len(back)} delivered; captured "
                "in front of her", numbers(packets)),
        flip_result(evidence, "payload", "head1", "head2", True,
                    "a change of what follows the headers passes: it is not authenticated"),
        happened("eve changes all inner headers that she is to change", {"changed": seen, "packets": len(packets)},
              _COUNT),
        *flip_controls(evidence, "head1", "head2"),
    ]  # fmt: skip


def _act_fields(bench: Bench) -> dict[str, object]:
    changes = {"reserved": ("header", 7, 0x04), "critical": ("header", 1, 0x40), "vni": ("header", 6, 0x01)}
    return flips(bench, "field1", "field2", changes)


def judge_fields(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-11: some header fields authenticated, others not."""
    refused = [
        flip_result(
            evidence, "critical", "field1", "field2", False, "a change of an authenticated field (C) is refused"
        ),
        flip_result(evidence, "vni", "field1", "field2", False, "a change of the VNI is refused"),
    ]
    passes = flip_result(evidence, "reserved", "field1", "field2", True, "a field left out (reserved) may change")
    # What is left out is only worth something while the other is authenticated.
    return [
        *(replace(finding, parts=("fields authenticated", "fields chosen")) for finding in refused),
        replace(passes, parts=("fields chosen",)),
        *flip_controls(evidence, "field1", "field2"),
    ]


# --- 12, 13 ------------------------------------------------------------------------------------------


def _act_nve(bench: Bench) -> dict[str, object]:
    # First some that eve leaves alone: where forged ones move the window, nothing arrives afterwards.
    facts: dict[str, object] = {"unchanged": [_SIZE + 5]}
    bench.burst("full1", "full2", [_SIZE + 5] * _COUNT)
    # A forged copy goes in front of each packet; its sequence number lies far ahead of the true one.
    # Without protection there is no such number: then both copies differ from the true one in what they say.
    number = ("sequence", 0) if bench.profile is not None else ("payload", INNER_HEADERS + 100)
    for name, (part, offset), size in (
        ("number", number, _SIZE),
        ("data", ("payload", INNER_HEADERS + 150), _SIZE + 10),
    ):
        done = _attack(bench, "full1", "full2", size, "flip", part=part, offset=offset, mask=1, keep=True)
        facts[name] = done["seen"]
    return facts


def judge_nve(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-12: what is forged changes nothing at the NVE."""
    facts, out = evidence.facts["facts"], sent(evidence, "full1")
    back = received(evidence, "full2")
    refused = evidence.counted("nve2", "drops", "authentication_failed")
    moved = evidence.counted("nve2", "drops", "behind_window") + evidence.counted("nve2", "drops", "replayed")
    return [
        Finding("no forged packet is delivered", facts["number"] == facts["data"] == _COUNT and set(back) <= set(out),
                f"{2 * _COUNT} forged copies sent ahead, {len(set(back) - set(out))} delivered; "
                f"{refused} counted as refused; captured in front of her",
                numbers(own(evidence, "nve1"))),
        Finding("no forged packet moves the replay window: every true packet behind one is delivered",
                len(out) > 2 * _COUNT and sorted(back) == sorted(out),
                f"{len(out)} sent, {len(back)} delivered, {moved} counted as old", numbers(own(evidence, "nve1"))),
        happened("eve forges a copy of each packet",
                 {"with another number": facts["number"], "with other data": facts["data"],
                  "packets of each burst": len(own(evidence, "nve1")) // 3}, _COUNT),
        unchanged(evidence, "full1", "full2"),
    ]  # fmt: skip


def _act_transit(bench: Bench) -> dict[str, object]:
    # Towards nve1 eve comes before t2 and t1.
    changes = {"part": "option:ff60:2", "offset": 3, "mask": 1}
    forged = _attack(bench, "full2", "full1", _SIZE, "flip", **changes)["seen"]
    time.sleep(0.3)
    middle = bench.stats()
    bench.burst("full2", "full1", [_SIZE + 10] * _COUNT)
    counters = {name: middle[name]["counters"] for name in ("t1", "t2")}
    return {"forged": forged, "unchanged": [_SIZE + 10], "middle": counters}


def judge_transit(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-13: a transit device authenticates before it acts."""
    findings, facts = [], evidence.facts["facts"]
    # Under a channel no device finds telemetry that it could refuse; not to act on it is all that can be asked.
    channel = any(seen.view.channel for seen in evidence.packets)
    for device in ("t2", "t1"):
        before, after = (evidence.stats(device, when)["counters"] for when in ("before", "after"))
        middle = facts["middle"][device]
        refused = middle["authentication_failed"] - before["authentication_failed"]
        acted, genuine = middle["exported"] - before["exported"], after["exported"] - middle["exported"]
        findings += [
            Finding(f"{device} does not act on forged telemetry",
                    facts["forged"] == _COUNT and (channel or refused >= _COUNT) and acted == 0,
                    f"{facts['forged']} packets with changed telemetry: {refused} refused, {acted} acted upon",
                    numbers(own(evidence, "nve2", _SIZE + INNER_HEADERS))),
            Finding(f"{device} acts on genuine telemetry", genuine >= _COUNT, f"{genuine} of {_COUNT} acted upon",
                    numbers(own(evidence, "nve2", _SIZE + 10 + INNER_HEADERS))),
        ]  # fmt: skip
    counts = {"changed": facts["forged"], "packets": len(own(evidence, "nve2", _SIZE + INNER_HEADERS))}
    return [*findings, happened("eve changes all that she is to change", counts, _COUNT),
            unchanged(evidence, "full2", "full1")]  # fmt: skip


def uncovered_telemetry(profile: Profile) -> Profile:
    """The transit devices' tags cover no option."""
    assert profile.transit is not None
    header = profile.transit.model_copy(update={"header": frozenset(), "options": ()})
    return profile.model_copy(update={"transit": header})


# --- 14 ----------------------------------------------------------------------------------------------


def _act_replay(bench: Bench) -> dict[str, object]:
    target = bench.target("nve2", "nve1", _SIZE)
    bench.eve().ask({"do": "begin", "attack": "replay", "limit": _COUNT, "target": target})
    bench.burst("full2", "full1", [_SIZE] * _COUNT)
    released = bench.eve().ask({"do": "release"})
    time.sleep(0.5)
    bench.eve().ask({"do": "end"})
    return {"repeated": len(released["events"])}


def judge_replay(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-14: at NVE and transit devices."""
    repeated, back = evidence.facts["facts"]["repeated"], received(evidence, "full1")
    out = sent(evidence, "full2")
    channel = any(seen.view.channel for seen in evidence.packets)
    copies = repeats(evidence, "nve2")
    # Copies passed the capture, and tenants got each message once: no counter of the NVE is needed for that.
    holds = repeated == _COUNT == len(out) and sorted(back) == sorted(out) and len(copies) >= _COUNT
    findings = [
        Finding("the NVE refuses repeated packets", holds,
                f"{repeated} packets repeated by eve, {len(copies)} copies in the capture, "
                f"{len(back) - len(set(back))} delivered twice",
                numbers(copies) or numbers(own(evidence, "nve2", _SIZE + INNER_HEADERS)))
    ]  # fmt: skip
    # No device can open a channel's packets: there it must have acted on none, once or twice.
    for device in ("t2", "t1"):
        counted = evidence.counted(device, "counters", "replayed")
        acted = evidence.counted(device, "counters", "exported")
        holds, reason = counted >= _COUNT, f"{counted} refused; {acted} packets acted upon, {len(out)} sent"
        if channel:
            holds, reason = acted == 0, f"{acted} packets acted upon; the device can open none"
        findings.append(Finding(f"{device} does not act on repeated packets", holds, reason))
    counts = {"sent": len(out), "copies": len(copies), "delivered": len(set(out) & set(back))}
    return [*findings, happened("packets and their copies pass, and messages arrive", counts, _COUNT)]


def repeats(evidence: Evidence, sender: str) -> list[Seen]:
    """Return the packets from one NVE that the capture has a second time, byte for byte."""
    known: set[bytes] = set()
    found = []
    for seen in evidence.packets:
        if seen.view.source == evidence.facts["addresses"][sender]:
            if seen.raw in known:
                found.append(seen)
            known.add(seen.raw)
    return found


def _act_late(first: str, second: str) -> Callable[[Bench], dict[str, object]]:
    def act(bench: Bench) -> dict[str, object]:
        target = bench.target("nve1", "nve2", _SIZE)
        bench.eve().ask({"do": "begin", "attack": "hold", "limit": 1, "target": target})
        bench.burst(first, second, [_SIZE, *([_SIZE + 10] * 100)], interval=0.002)
        bench.eve().ask({"do": "release"})
        time.sleep(0.5)
        bench.eve().ask({"do": "end"})
        return {}

    return act


def _judge_late(first: str, second: str, passes: bool) -> Judge:
    def judge(evidence: Evidence) -> list[Finding]:
        back = received(evidence, second)
        late = [payload for payload in back if len(payload) == 2 * _SIZE]
        refused = evidence.counted("nve2", "drops", "behind_window")
        if passes:
            statement, holds = "within the window (1024) a packet 100 numbers late is delivered", len(late) == 1
        else:
            statement, holds = "behind the window (64) it is refused", not late and refused >= 1
        reason = f"held back by eve behind {len(back) - len(late)} others: {len(late)} delivered, {refused} too late"
        # Refusing what is late protects; taking what is a little late is a convenience of large windows.
        weight = Weight.NOTE if passes else Weight.DEMANDED
        packets = numbers(own(evidence, "nve1", _SIZE + INNER_HEADERS))
        counts = {"sent": len(sent(evidence, first)), "delivered": len(back) - len(late)}
        return [
            Finding(statement, holds and all(count >= 100 for count in counts.values()), reason, packets, weight),
            happened("the others are delivered", counts, 100),
        ]

    return judge


def other_window(size: int) -> Callable[[Profile], Profile]:
    """Give the profile a window of another size, so that the judge must find the other outcome."""
    return lambda profile: profile.model_copy(update={"replay_window": size})


PROBES = (
    Probe(8, MUST, "payload", SCENARIO, "payload", _act_modify, judge_payload, unauthenticated),
    Probe(9, SHOULD, "headers", SCENARIO, "headers", _act_headers, judge_headers, unauthenticated),
    Probe(11, MUST, "fields", SCENARIO, "fields", _act_fields, judge_fields, only_binding),
    Probe(12, MUST, "nve", SCENARIO, "full", _act_nve, judge_nve, unauthenticated),
    Probe(13, MUST, "transit", SCENARIO, "full", _act_transit, judge_transit, uncovered_telemetry),
    Probe(14, MUST, "replay", SCENARIO, "full", _act_replay, judge_replay, unprotected),
    Probe(14, MUST, "window-1024", SCENARIO, "full", _act_late("full1", "full2"),
          _judge_late("full1", "full2", True), other_window(64), compared=False),
    Probe(14, MUST, "window-64", SCENARIO, "window", _act_late("win1", "win2"),
          _judge_late("win1", "win2", False), other_window(1024), compared=False),
)  # fmt: skip

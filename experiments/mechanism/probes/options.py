"""SEC-GEN-3, 5 and 10: which options can be read by whom, and which can be changed unnoticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from experiments.mechanism.evidence import Evidence
from experiments.mechanism.probe import MUST, Finding, Judge, Probe, Weight
from experiments.mechanism.probes.common import (
    INNER_HEADERS,
    arrives,
    enough,
    find_option,
    happened,
    numbers,
    own,
    read_by,
    received,
    sent,
    unchanged,
    way_of_change,
    with_bytes,
)
from geneve.control.profile import Profile
from geneve.security.option import GROUP_TYPE, SECURITY_CLASS

if TYPE_CHECKING:
    from experiments.mechanism.live import Bench

SCENARIO = "mechanism-options"
ONE, TWO = (0x0102, 0x11), (0x0102, 0x12)
VALUES = {ONE: b"SECRET-ONE!!", TWO: b"PUBLIC-TWO!!"}
_SIZE, _COUNT = 300, 8
REFUSAL_SECONDS = 0.5
"""How long changed packets are waited for, which are not to come: those of a network that works take milliseconds."""


def _burst(first: str, second: str) -> Callable[[Bench], dict[str, object]]:
    def act(bench: Bench) -> dict[str, object]:
        return {"arrived": bench.burst(first, second, [_SIZE] * _COUNT)}

    return act


def _hidden(evidence: Evidence, kind: tuple[int, int], wanted: bool) -> Finding:
    packets = own(evidence, "nve1", _SIZE + INNER_HEADERS) or own(evidence, "nve1")
    shown = [seen for seen in packets if find_option(seen, *kind) is not None or VALUES[kind] in seen.raw]
    name = f"option {kind[0]:#06x}:{kind[1]:#04x}"
    statement = f"{name} is encrypted" if wanted else f"{name} is left in clear"
    holds = not shown if wanted else shown == packets and with_bytes(packets, VALUES[kind]) == packets
    reason = f"{name} readable in {len(shown)} of {len(packets)} packets"
    return Finding(statement, enough(packets, _COUNT) and holds, reason, numbers(shown or packets))


def _readers(evidence: Evidence, kind: tuple[int, int], readers: set[str]) -> Finding:
    counts = {node: read_by(evidence, node, *kind) for node in ("t1", "t2", "nve2")}
    name = f"option {kind[0]:#06x}:{kind[1]:#04x}"
    holds = all((count >= _COUNT) if node in readers else count == 0 for node, count in counts.items())
    who = ", ".join(sorted(readers)) or "nobody"
    shown = ", ".join(f"{node} in {count}" for node, count in counts.items())
    return Finding(f"{name} is read by {who} and no other", holds, f"packets in which nodes read it: {shown}")


def _judge_one_of_two(first: str, second: str, hidden: tuple[int, int], shown: tuple[int, int]) -> Judge:
    def judge(evidence: Evidence) -> list[Finding]:
        return [
            _hidden(evidence, hidden, True),
            _hidden(evidence, shown, False),
            _readers(evidence, hidden, {"nve2"}),
            arrives(evidence, first, second),
        ]

    return judge


def judge_each(evidence: Evidence) -> list[Finding]:
    """One option for t1, the other for t2; both have valid keys of their own."""
    return [
        _hidden(evidence, ONE, True),
        _hidden(evidence, TWO, True),
        _readers(evidence, ONE, {"t1"}),
        _readers(evidence, TWO, {"t2"}),
        arrives(evidence, "each1", "each2"),
    ]


def judge_shared(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-5: one option for both transit devices and the NVE."""
    packets = own(evidence, "nve1", _SIZE + INNER_HEADERS)
    once = [seen for seen in packets if find_option(seen, SECURITY_CLASS, GROUP_TYPE) is not None]
    return [
        _hidden(evidence, ONE, True),
        _hidden(evidence, TWO, False),
        _readers(evidence, ONE, {"t1", "t2", "nve2"}),
        Finding(
            "the option is encrypted once for all of them",
            enough(packets, _COUNT) and once == packets,
            f"{len(once)} of {len(packets)} packets have the group's security option",
            numbers(once),
            Weight.NOTE,
        ),
        arrives(evidence, "share1", "share2"),
    ]


def flips(
    bench: Bench, first: str, second: str, changes: dict[str, tuple[str, int, int]], **order: object
) -> dict[str, object]:
    """Let eve flip one bit in each packet, one kind of place after the other; messages of another size each.

    As many that she leaves alone follow each time.
    """
    sizes: dict[str, object] = {}
    alone: list[int] = []
    for number, (name, (part, offset, mask)) in enumerate(changes.items()):
        size = _SIZE + 10 * number
        sizes[name] = size
        attack = {
            "do": "begin", "attack": "flip", "limit": _COUNT, "part": part, "offset": offset, "mask": mask, **order,
            "target": bench.target("nve1", "nve2", size),
        }  # fmt: skip
        bench.eve().ask(attack)
        bench.burst(first, second, [size] * _COUNT, patience=REFUSAL_SECONDS, no_checksum=True)
        sizes[f"{name} seen"] = bench.eve().ask({"do": "end"})["seen"]
        alone.append(size + 5)
        bench.burst(first, second, [size + 5] * _COUNT)
    return {"sizes": sizes, "unchanged": alone}


def flip_result(evidence: Evidence, name: str, first: str, second: str, accepted: bool, statement: str) -> Finding:
    """Judge what became of the packets in which eve flipped a bit."""
    size, seen = evidence.facts["facts"]["sizes"][name], evidence.facts["facts"]["sizes"][f"{name} seen"]
    out = [payload for payload in sent(evidence, first) if len(payload) == 2 * size]
    back = [payload for payload in received(evidence, second) if len(payload) == 2 * size]
    packets = own(evidence, "nve1", size + INNER_HEADERS)
    holds = seen == _COUNT and (len(back) == len(out) if accepted else not back)
    reason = f"{seen} of {len(out)} packets {way_of_change(packets)}, {len(back)} delivered; captured in front of her"
    return Finding(statement, bool(out) and holds, reason, numbers(packets))


def flip_controls(evidence: Evidence, first: str, second: str) -> list[Finding]:
    """Judge that eve changed all that she was to change, and that what she left alone arrived."""
    entries = evidence.facts["facts"]["sizes"]
    seen = {name: count for name, count in entries.items() if name.endswith(" seen")}
    sizes = {2 * size for name, size in entries.items() if name not in seen}
    out = [payload for payload in sent(evidence, first) if len(payload) in sizes]
    bursts = len(sizes) + len(evidence.facts["facts"]["unchanged"])
    passed = len(own(evidence, "nve1")) // bursts
    everything = {**seen, "sent for each": len(out) // len(sizes), "packets of each burst": passed}
    return [happened("eve changes all that she is to change", everything, _COUNT), unchanged(evidence, first, second)]


def _act_subset(bench: Bench) -> dict[str, object]:
    return flips(bench, "subs1", "subs2", {"one": ("option:0102:11", 3, 1), "two": ("option:0102:12", 3, 1)})


def judge_subset(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-10: one option authenticated, another not."""
    return [
        flip_result(evidence, "one", "subs1", "subs2", False, "a change of one option is refused: it is authenticated"),
        flip_result(evidence, "two", "subs1", "subs2", True, "a change of the other passes: it is not authenticated"),
        _hidden_none(evidence),
        *flip_controls(evidence, "subs1", "subs2"),
    ]


def _hidden_none(evidence: Evidence) -> Finding:
    packets = own(evidence, "nve1")
    both = [seen for seen in packets if find_option(seen, *ONE) and find_option(seen, *TWO)]
    return Finding("neither option is encrypted", enough(packets) and both == packets,
                   f"both options in clear in {len(both)} of {len(packets)} packets", numbers(both))  # fmt: skip


def _act_encrypted(bench: Bench) -> dict[str, object]:
    return flips(bench, "enc1", "enc2", {"two": ("option:0102:12", 3, 1)})


def judge_encrypted(evidence: Evidence) -> list[Finding]:
    """SEC-GEN-10, the reverse in the draft's words."""
    packets = own(evidence, "nve1")
    shown = [seen for seen in packets if find_option(seen, *ONE) or VALUES[ONE] in seen.raw]
    return [
        Finding("one option is encrypted", enough(packets) and not shown,
                f"readable in {len(shown)} of {len(packets)} packets", numbers(shown or packets)),
        flip_result(evidence, "two", "enc1", "enc2", True,
                    "a change of the other passes: it is not authenticated"),
        *flip_controls(evidence, "enc1", "enc2"),
    ]  # fmt: skip


def show_all(profile: Profile) -> Profile:
    """Hide no option from anybody."""
    update: dict[str, object] = {"egress": profile.egress.model_copy(update={"hidden_options": ()}), "devices": {}}
    if profile.group is not None:
        update["group"] = profile.group.model_copy(update={"hidden_options": ()})
    return profile.model_copy(update=update)


def uncover(profile: Profile) -> Profile:
    """Authenticate no option."""
    return profile.model_copy(update={"egress": profile.egress.model_copy(update={"options": ()})})


PROBES = (
    Probe(3, MUST, "one-hidden", SCENARIO, "one", _burst("one1", "one2"),
          _judge_one_of_two("one1", "one2", ONE, TWO), show_all),
    Probe(3, MUST, "the-other-hidden", SCENARIO, "two", _burst("two1", "two2"),
          _judge_one_of_two("two1", "two2", TWO, ONE), show_all, compared=False),
    Probe(3, MUST, "each-its-own", SCENARIO, "each", _burst("each1", "each2"), judge_each, show_all, compared=False),
    Probe(5, MUST, "shared", SCENARIO, "shared", _burst("share1", "share2"), judge_shared, show_all),
    Probe(10, MUST, "subset", SCENARIO, "subset", _act_subset, judge_subset, uncover),
    Probe(10, MUST, "encrypted", SCENARIO, "encrypted", _act_encrypted, judge_encrypted, show_all),
)  # fmt: skip

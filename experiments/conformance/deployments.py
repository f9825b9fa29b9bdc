"""SEC-OP-1 to 10: one good deployment under each mechanism, judged by its scenario file and by its packets.

The file is that of ``deployment-good`` with its risk analysis; ``experiments/audit`` judges it. What passes on the
underlay, and what the tenants' hosts get while eve attacks from the path, is judged here. A requirement is met if both
say so. Two are judged by packets alone, the file's verdict being noted: 7, since a file does not tell whether a device
can read a channel at all, and 10, in parts, for unicast and for groups.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from experiments.audit.capture_audit import audit_capture
from experiments.audit.deployment import judge
from experiments.audit.faults import BY_RULE, device_without_key, no_dummies, vni_shown
from experiments.audit.result import Judgement
from experiments.audit.result import Verdict as Audited
from experiments.bench import records
from experiments.conformance.draft import OP
from experiments.conformance.verdicts import Trial
from experiments.mechanism.evidence import RECEIVED, Evidence, Seen
from experiments.mechanism.probe import MUST, WHOLE, Finding, Probe, Weight
from experiments.mechanism.probes.common import (
    INNER_HEADERS,
    arrives,
    enough,
    happened,
    marked,
    numbers,
    own,
    received,
    sent,
    spi_of,
)
from experiments.programs import wait_for
from geneve.control.profile import (
    Coverage,
    Dummies,
    DummyMode,
    InnerCoverage,
    KeyGranularity,
    Padding,
    PaddingMode,
    Profile,
)
from topologies.profiles import CHANNEL_PROFILES, OURS
from topologies.scenario import Attacker, Scenario
from topologies.scenario_file import load_scenario

if TYPE_CHECKING:
    from experiments.mechanism.live import Bench

SCENARIO = "deployment-good"
RED, BLUE = "red", "blue"
_COUNT = 8
_SHOWN = 2
"""Sentences of the audit that are shown of those that decide."""
_UNLIMITED = 10_000
_RECORD_SECONDS = 0.5
"""How long the collector is given for what a device reports."""
_QUIET = 3.0
_RATE = 10
_SIZES = (60, 100, 300, 500, 700, 1000)
_BUCKETS = (256, 768)
_FRAMES = (200, 700, 1000)
"""Sizes in bytes of dummy frames: one for each bucket, and one for the largest size, as the messages have them."""
_FIRST, _SECOND, _GROUP = 410, 430, 450
_ATTACKS = {"payload": 610, "telemetry": 620, "header": 630, "other tenant": 640}
_REPLAYED, _GENUINE = 650, 660
_TELEMETRY = "option:ff60:2"
DATABASE_PORT = 5432
_UNICAST, _GROUPS = "keys for unicast flows", "keys for multicast groups"
_NOTHING_EARLY, _DEVICES = "nothing processed unauthenticated", "transit devices authenticate what they act on"
_POLICY, _EACH_FLOW = "a policy for all that passes", "one for each flow"


# --- the deployments ---------------------------------------------------------------------------------


def deployment(mechanism: str) -> Scenario:
    """Return the good deployment under a mechanism, with all that this can do of what the file asks for.

    ESP pads and sends dummies, which the file's risk analysis wants for one tenant and a channel does for all.
    """
    good = load_scenario(SCENARIO)
    if mechanism == OURS:
        return good
    if mechanism == "esp":
        channel = next(profile.channel for profile in CHANNEL_PROFILES if profile.name == "esp")
        shielded = Profile(
            name="esp-shielded", channel=channel, key_granularity=KeyGranularity.PAIR,
            padding=Padding(mode=PaddingMode.BUCKETS, buckets=_BUCKETS),
            dummies=Dummies(mode=DummyMode.FILL, rate=_RATE, sizes=_FRAMES),
        )  # fmt: skip
        return good.model_copy(update={"profiles": (*good.profiles, shielded)}).under(shielded.name)
    return good.under(mechanism)


def faulty() -> Scenario:
    """Return the good deployment under our options with faults planted that its packets must show."""
    bare = Coverage(options=(), authenticate_inner=InnerCoverage.NONE, encrypt_inner=InnerCoverage.NONE)
    found = device_without_key(vni_shown(no_dummies(load_scenario(SCENARIO))))
    profiles = [item.model_copy(update={"egress": bare}) if item.name == BY_RULE else item for item in found.profiles]
    return found.model_copy(update={"profiles": tuple(profiles)})


PLANTED = {
    f"{OP}-1": ("blue's frames in clear", "no tenant's data can be read on the underlay"),
    f"{OP}-2": ("red's VNI in clear", "what the risk analysis calls sensitive is not in clear"),
    f"{OP}-3": ("no dummy packets", "sizes do not tell packets with data from those without"),
    f"{OP}-4": ("blue's frames not authenticated", "a changed payload is refused"),
    f"{OP}-5": ("blue's options not authenticated", "a changed option is refused"),
    f"{OP}-7": ("no key for the transit device", "the transit device acts on genuine telemetry"),
}
"""What is wrong with :func:`faulty`, by the requirement against which it was planted, and which statement must fail."""


def with_eve(scenario: Scenario) -> Scenario:
    """Return a scenario with eve on its first link, behind the devices there."""
    first, *others = scenario.underlay.links
    links = (first.model_copy(update={"via": (*first.via, "eve")}), *others)
    update = {"underlay": scenario.underlay.model_copy(update={"links": links}), "attackers": {"eve": Attacker()}}
    return scenario.model_copy(update=update)


# --- what happens in them ----------------------------------------------------------------------------


def _act_red(bench: Bench) -> dict[str, object]:
    bench.hosts.receiver("red2")
    begin = time.time()
    time.sleep(_QUIET)
    middle = time.time()
    arrived = bench.burst("red1", "red2", [*_SIZES] * 3)
    return {"begin": begin, "middle": middle, "end": time.time(), "arrived": arrived}


def _act_blue(bench: Bench) -> dict[str, object]:
    bench.hosts.receiver("blue3", everything=True)
    bench.burst("blue1", "blue2", [_FIRST] * _COUNT)
    bench.broadcast("blue1", "10.0.0.255", [_GROUP] * _COUNT)
    # A connection to a port where nobody listens: a SYN there and a RST back, as often as bash is told to.
    time.sleep(0.2)
    connect = f"for n in 1 2 3; do (: > /dev/tcp/10.0.0.2/{DATABASE_PORT}) 2> /dev/null; done"
    before = time.time()
    bench.testbed.node("blue1").run(["bash", "-c", connect], timeout=10, check=False)
    return {"begin": before, "end": time.time() + 0.1}


def _act_attacks(bench: Bench) -> dict[str, object]:
    changes: dict[str, dict[str, object]] = {
        "payload": {"attack": "modify"},
        "telemetry": {"attack": "flip", "part": _TELEMETRY, "offset": 3, "mask": 1},
        "header": {"attack": "flip", "part": "header", "offset": 1, "mask": 0x40},
        "other tenant": {"attack": "cross_vni", "vni": bench.scenario.tenants[RED].vni},
    }
    # Red has the same addresses, so its host takes what is moved to its network.
    bench.hosts.receiver("red1")
    done: dict[str, object] = {}
    for name, order in changes.items():
        before = _reported(bench)
        # Towards nve1 eve comes before the transit device. Dummies may be among what she changes: no limit.
        target = bench.target("nve2", "nve1", _ATTACKS[name])
        bench.eve().ask({"do": "begin", "limit": _UNLIMITED, "target": target, **order})
        bench.burst("blue2", "blue1", [_ATTACKS[name]] * _COUNT, patience=0.3, no_checksum=order["attack"] == "flip")
        done[name] = bench.eve().ask({"do": "end"})["seen"]
        done[f"{name} reported"] = _reported_since(bench, before)
    target = bench.target("nve2", "nve1", _REPLAYED)
    bench.eve().ask({"do": "begin", "attack": "replay", "limit": _UNLIMITED, "target": target})
    bench.burst("blue2", "blue1", [_REPLAYED] * _COUNT)
    done["replayed"] = len(bench.eve().ask({"do": "release"})["events"])
    time.sleep(0.3)
    bench.eve().ask({"do": "end"})
    before = _reported(bench)
    bench.burst("blue2", "blue1", [_GENUINE] * _COUNT)
    done["genuine reported"] = _reported_since(bench, before)
    return done


def _reported(bench: Bench) -> int:
    """Return how many packets of the tenant from nve2 the collector has telemetry of."""
    source = bench.testbed.plan.underlay_addresses["nve2"]
    return sum(record["vni"] == bench.vni and record["source"] == source for record in records(bench.testbed))


def _reported_since(bench: Bench, before: int) -> int:
    """Return by how much the collector's number has grown, once it has by all that was sent or no more comes."""
    wait_for(lambda: _reported(bench) >= before + _COUNT, _RECORD_SECONDS, 0.05)
    return _reported(bench) - before


def _nothing(_: Evidence) -> list[Finding]:
    return []


ACTS = tuple(
    Probe(0, MUST, name, SCENARIO, tenant, act, _nothing, lambda profile: profile)
    for name, tenant, act in (("red", RED, _act_red), ("blue", BLUE, _act_blue), ("attacks", BLUE, _act_attacks))
)
"""What is done in each deployment, one after the other. They have no judges of their own: several requirements share
what they leave."""


# --- what their packets say --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Watched:
    """What the acts left in one deployment."""

    red: Evidence
    blue: Evidence
    attacks: Evidence


def _of_size(evidence: Evidence, size: int, sender: str = "nve1") -> list[Seen]:
    return own(evidence, sender, size + INNER_HEADERS)


def payload_encrypted(watched: Watched) -> tuple[Evidence, list[Finding]]:
    """SEC-OP-1."""
    packets = own(watched.blue, "nve1")
    readable = marked(packets)
    arrived = [p for p in received(watched.blue, "blue2") if len(p) == 2 * _FIRST]
    return watched.blue, [
        Finding("no tenant's data can be read on the underlay", enough(packets, 2 * _COUNT) and not readable,
                f"blue's messages can be read in {len(readable)} of {len(packets)} packets",
                numbers(readable or packets)),
        Finding("they arrive", len(arrived) == _COUNT, f"{len(arrived)} of {_COUNT}", weight=Weight.CONTROL),
    ]  # fmt: skip


def nothing_sensitive(watched: Watched) -> tuple[Evidence, list[Finding]]:
    """SEC-OP-2: what the risk analysis wants hidden is red's VNI and its option 0x0102:0x11."""
    nodes = watched.red.facts["addresses"].values()
    packets = [seen for seen in watched.red.packets if seen.view.source in nodes]
    option = bytes.fromhex("0102110100010002")
    shown = [s for s in packets if s.packet is not None and (s.packet.header.vni == watched.red.vni or option in s.raw)]
    reason = f"red's VNI or its option 0x0102:0x11 can be read in {len(shown)} of {len(packets)} packets"
    return watched.red, [
        Finding("what the risk analysis calls sensitive is not in clear",
                enough(packets, _COUNT) and not shown, reason, numbers(shown or packets)),
        arrives(watched.red, "red1", "red2"),
    ]  # fmt: skip


def patterns_hidden(watched: Watched) -> tuple[Evidence, list[Finding]]:
    """SEC-OP-3: whether sizes of packets, and that there are any, tell when red sends and what."""
    facts, packets = watched.red.facts["facts"], own(watched.red, "nve1")
    quiet = [seen for seen in packets if facts["begin"] <= seen.timestamp < facts["middle"]]
    busy = [seen for seen in packets if facts["middle"] <= seen.timestamp <= facts["end"]]
    sizes, idle = (sorted({seen.size for seen in found}) for found in (busy, quiet))
    return watched.red, [
        Finding("packets pass although the tenant is silent", len(quiet) >= 0.6 * _RATE * _QUIET,
                f"{len(quiet)} packets from nve1 in {_QUIET:g} s without data", numbers(quiet)),
        Finding("sizes do not tell messages apart", enough(busy, _COUNT) and len(sizes) <= len(_BUCKETS) + 1,
                f"messages of {len(_SIZES)} sizes in packets of {len(sizes)} "
                f"({', '.join(map(str, sizes))} bytes)", numbers(busy)),
        Finding("sizes do not tell packets with data from those without", enough(busy, _COUNT) and sizes == idle,
                f"sizes while the tenant sends: {', '.join(map(str, sizes))} bytes; while it is silent: "
                f"{', '.join(map(str, idle)) or 'none'}", numbers(busy)),
        arrives(watched.red, "red1", "red2"),
    ]  # fmt: skip


def _changed(evidence: Evidence, size: int) -> list[Seen]:
    """Return the packets from nve2 with messages of ``size`` bytes, as eve left them: perhaps in another VNI."""
    source = evidence.facts["addresses"]["nve2"]
    windows = evidence.when_sent(size)
    return [
        seen for seen in evidence.packets
        if seen.view.source == source and any(a <= seen.timestamp <= b + 0.1 for a, b in windows)
    ]  # fmt: skip


def _refused(watched: Watched, name: str, statement: str) -> Finding:
    evidence, size = watched.attacks, _ATTACKS[name]
    seen = evidence.facts["facts"][name]
    got = [line["payload"] for host in ("blue1", "red1") for _, line in evidence.messages(RECEIVED, host)]
    back = [payload for payload in got if len(payload) == 2 * size]
    where = " to a host of red" if name == "other tenant" else ""
    reason = f"{seen} packets changed by eve, {len(back)} delivered{where}"
    return Finding(statement, seen >= _COUNT and not back, reason, numbers(_changed(evidence, size)))


def _genuine(watched: Watched) -> Finding:
    back = [payload for payload in received(watched.attacks, "blue1") if len(payload) == 2 * _GENUINE]
    return Finding("unchanged packets are delivered", len(back) == _COUNT, f"{len(back)} of {_COUNT}",
                   weight=Weight.CONTROL)  # fmt: skip


def _eve_acts(watched: Watched, *names: str) -> Finding:
    """Judge that eve changed, or repeated, what she was to: else that nothing was refused says nothing."""
    facts = watched.attacks.facts["facts"]
    return happened("eve acts on all that she is to act on", {name: int(facts[name]) for name in names}, _COUNT)


def payload_authenticated(watched: Watched) -> tuple[Evidence, list[Finding]]:
    """SEC-OP-4."""
    refused = _refused(watched, "payload", "a changed payload is refused")
    return watched.attacks, [refused, _eve_acts(watched, "payload"), _genuine(watched)]


def header_authenticated(watched: Watched) -> tuple[Evidence, list[Finding]]:
    """SEC-OP-5: header and telemetry option, of which the risk analysis says that changes matter."""
    return watched.attacks, [
        _refused(watched, "header", "a changed Geneve header is refused"),
        _refused(watched, "telemetry", "a changed option is refused"),
        _eve_acts(watched, "header", "telemetry"),
        _genuine(watched),
    ]


def nves_authenticated(watched: Watched) -> tuple[Evidence, list[Finding]]:
    """SEC-OP-6: what another NVE's packets say of their VNI is believed only if it is theirs."""
    refused = _refused(watched, "other tenant", "a packet moved to another tenant's VNI is refused")
    return watched.attacks, [refused, _eve_acts(watched, "other tenant"), _genuine(watched)]


def nothing_early(watched: Watched) -> tuple[Evidence, list[Finding]]:
    """SEC-OP-7: at the NVE and at the device that is asked to report telemetry."""
    facts = watched.attacks.facts["facts"]
    forged, acted, genuine = facts["telemetry"], facts["telemetry reported"], facts["genuine reported"]
    at_nve = _refused(watched, "telemetry", "no NVE forwards what was forged")
    packets = numbers(_changed(watched.attacks, _ATTACKS["telemetry"]))
    true = numbers(_changed(watched.attacks, _GENUINE))
    return watched.attacks, [
        replace(at_nve, parts=(_NOTHING_EARLY, _DEVICES)),
        Finding("the transit device does not act on forged telemetry", forged >= _COUNT and acted == 0,
                f"{forged} packets with changed telemetry, {acted} reported by t1", packets,
                parts=(_NOTHING_EARLY, _DEVICES)),
        Finding("the transit device acts on genuine telemetry", genuine >= _COUNT,
                f"{genuine} of {_COUNT} packets reported by t1", true, parts=(_DEVICES,)),
        _eve_acts(watched, "telemetry"),
        _genuine(watched),
    ]  # fmt: skip


def replay_refused(watched: Watched) -> tuple[Evidence, list[Finding]]:
    """SEC-OP-8."""
    evidence, repeated = watched.attacks, watched.attacks.facts["facts"]["replayed"]
    out = [payload for payload in sent(evidence, "blue2") if len(payload) == 2 * _REPLAYED]
    back = [payload for payload in received(evidence, "blue1") if len(payload) == 2 * _REPLAYED]
    return evidence, [
        Finding("a repeated packet is refused", repeated >= _COUNT == len(out) and sorted(out) == sorted(back),
                f"{repeated} packets repeated by eve, {len(back) - len(set(back))} delivered twice",
                numbers(_changed(evidence, _REPLAYED))),
        _eve_acts(watched, "replayed"),
        _genuine(watched),
    ]  # fmt: skip


def flows_told_apart(watched: Watched) -> tuple[Evidence, list[Finding]]:
    """SEC-OP-9: the policy wants the database's flows under a profile of their own."""
    database, others = _database(watched.blue), _to_nve2(watched.blue, _of_size(watched.blue, _FIRST))
    used = [_profiles(watched.blue, packets) for packets in (database, others)]
    holds = enough(database) and enough(others) and all(used) and not used[0] & used[1]
    return watched.blue, [
        Finding("flows that the policy tells apart are protected differently", holds,
                f"{len(database)} packets to the database's port under {', '.join(sorted(used[0])) or 'nothing'}, "
                f"{len(others)} others under {', '.join(sorted(used[1])) or 'nothing'}", numbers(database + others),
                parts=(_EACH_FLOW,)),
        happened("packets of both flows pass", {"the database's": len(database), "others": len(others)}, 3),
    ]  # fmt: skip


def keys_told_apart(watched: Watched) -> tuple[Evidence, list[Finding]]:
    """SEC-OP-10: of red, blue, blue's database, and blue's group."""
    red, blue = _to_nve2(watched.red, own(watched.red, "nve1")), _to_nve2(watched.blue, _of_size(watched.blue, _FIRST))
    database, group = _database(watched.blue), _to_group(watched.blue)
    named = {"red": red, "blue": blue, "blue's database": database}
    keys = {name: {_key(seen) for seen in packets} for name, packets in named.items()}
    distinct = all(keys.values()) and len(set().union(*keys.values())) == sum(map(len, keys.values()))
    group_keys = {_key(seen) for seen in group}
    apart = enough(group, _COUNT) and None not in group_keys and not group_keys & set().union(*keys.values())
    shown = "; ".join(f"{name} {_names(found)}" for name, found in keys.items())
    # Red's packets are in a capture of their own: the numbers are those in blue's.
    return watched.blue, [
        Finding("flows that the policy tells apart have keys of their own",
                distinct and None not in set().union(*keys.values()), f"keys of packets from nve1 to nve2: {shown}",
                numbers(blue + database), parts=(_UNICAST,)),
        Finding("the multicast group has keys of its own", apart,
                f"{len(group)} packets to the group, keys {_names(group_keys)}", numbers(group), parts=(_GROUPS,)),
        happened("packets of all flows pass, and the group's messages arrive",
                 {**{name: len(packets) for name, packets in named.items()}, "at blue3": len(_group_messages(watched))},
                 3),
    ]  # fmt: skip


def _group_messages(watched: Watched) -> list[str]:
    return [payload for payload in received(watched.blue, "blue3") if len(payload) == 2 * _GROUP]


def _database(evidence: Evidence) -> list[Seen]:
    facts = evidence.facts["facts"]
    return [seen for seen in own(evidence, "nve1") if facts["begin"] <= seen.timestamp <= facts["end"]
            and seen.view.destination == evidence.facts["addresses"]["nve2"]]  # fmt: skip


def _to_nve2(evidence: Evidence, packets: list[Seen]) -> list[Seen]:
    return [seen for seen in packets if seen.view.destination == evidence.facts["addresses"]["nve2"]]


def _to_group(evidence: Evidence) -> list[Seen]:
    return [seen for seen in own(evidence, "nve1") if seen.view.destination.startswith("239.")]


def _key(seen: Seen) -> str | None:
    """Name the keys of a packet: its SPI, or the session between two ends; None without any."""
    spi = spi_of(seen)
    if spi is not None:
        return f"SPI {spi:#010x}"
    if not seen.view.channel:
        return None
    return f"session {'-'.join(sorted((seen.view.source, seen.view.destination)))}"


def _names(keys: set[str | None]) -> str:
    return ", ".join(sorted(key or "none" for key in keys)) or "none"


def _profiles(evidence: Evidence, packets: list[Seen]) -> set[str]:
    """Return the profiles that packets are protected under: those of their SPIs, or that of all."""
    found = set()
    for seen in packets:
        spi = spi_of(seen)
        if spi in evidence.spis:
            found.add(str(evidence.spis[spi]["profile"]))
        elif seen.view.channel:
            found.add(seen.view.carrier.value)
    return found


_LIVE: dict[str, Callable[[Watched], tuple[Evidence, list[Finding]]]] = {
    f"{OP}-1": payload_encrypted, f"{OP}-2": nothing_sensitive, f"{OP}-3": patterns_hidden,
    f"{OP}-4": payload_authenticated, f"{OP}-5": header_authenticated, f"{OP}-6": nves_authenticated,
    f"{OP}-7": nothing_early, f"{OP}-8": replay_refused, f"{OP}-9": flows_told_apart, f"{OP}-10": keys_told_apart,
}  # fmt: skip


# --- file and packets together -----------------------------------------------------------------------


def seen_in(requirement: str, watched: Watched, configuration: str) -> Trial:
    """Return what a deployment's packets alone say of a requirement."""
    evidence, findings = _LIVE[requirement](watched)
    return Trial(SCENARIO, configuration, tuple(findings), str(evidence.facts["capture"]))


def trials(scenario: Scenario, watched: Watched, configuration: str) -> dict[str, Trial]:
    """Return a trial for each requirement: what the scenario file says, and what the packets do."""
    captures = {part.capture: audit_capture(part.capture) for part in (watched.red, watched.blue, watched.attacks)}
    found = {}
    for judgement in judge(scenario):
        evidence, findings = _LIVE[judgement.requirement](watched)
        audited = in_capture(captures[evidence.capture].judgement(judgement.requirement))
        findings = [*in_file(judgement), *findings, audited]
        capture = str(evidence.facts["capture"])
        found[judgement.requirement] = Trial(SCENARIO, configuration, tuple(findings), capture)
    return found


def in_capture(judgement: Judgement) -> Finding:
    """Return what the audit of a capture says, which knows neither scenario nor hosts; it decides nothing here."""
    reason = judgement.reasons[0].text if judgement.reasons else "no reason"
    return Finding("the audit of the capture alone sees no violation", judgement.verdict is not Audited.NOT_MET,
                   f"{judgement.verdict.value}: {reason}", (), Weight.NOTE)  # fmt: skip


def in_file(judgement: Judgement) -> tuple[Finding, ...]:
    """Return what the audit of the scenario file says as findings, which name keys of the file, not packets."""
    number = judgement.requirement.rpartition("-")[2]
    worst = [reason for reason in judgement.reasons if reason.verdict is judgement.verdict]
    texts = list(dict.fromkeys(reason.text for reason in worst))
    reason = " ".join(texts[:_SHOWN]) + (f" And {len(texts) - _SHOWN} more." if len(texts) > _SHOWN else "")
    good = judgement.verdict in (Audited.MET, Audited.NOT_APPLICABLE)
    statement = "the scenario file with its risk analysis meets the requirement"
    if number in ("7", "10"):
        return (Finding(statement, good, reason, (), Weight.NOTE),)
    if number == "9" and judgement.verdict is Audited.IN_PART:
        return (
            Finding("the policy of the scenario file protects what passes", True, reason, (), parts=(_POLICY,)),
            Finding("the policy says for each flow how it is protected", False, reason, (), parts=(_EACH_FLOW,)),
        )
    if number == "9":
        return (Finding(statement, good, reason, (), parts=(_POLICY, _EACH_FLOW)),)
    return (Finding(statement, good, reason, (), parts=(WHOLE,)),)

"""The mechanism experiment without a network: twins, judges that can be convinced and disappointed, the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import wrpcap

from experiments.mechanism import analysis
from experiments.mechanism.crippled import twin_host, twin_name, with_twins
from experiments.mechanism.evidence import FACTS, Evidence
from experiments.mechanism.probe import MUST, Finding, Probe, Weight
from experiments.mechanism.probes import PROBES, confidentiality, options, patterns
from experiments.report import _cell
from experiments.traffic import build_message
from geneve.control.profile import Coverage, Padding, PaddingMode, Profile
from geneve.option import Option
from geneve.outer import build_datagram, build_frame
from geneve.security.association import OutboundAssociation
from geneve.security.seal import Item, PacketSealer
from tests.geneve.make_vectors import select
from tests.support import association, udp_frame
from topologies.plan import make_plan
from topologies.scenario import Scenario, Tenant
from topologies.scenario_checks import first_fault
from topologies.scenario_file import load_scenario

ADDRESSES = {"nve1": "192.168.1.1", "nve2": "192.168.1.2"}
ONE, TWO = (Option(*kind, value).build() for kind, value in options.VALUES.items())


def test_every_requirement_has_a_probe_and_every_probe_a_scenario():
    assert {probe.requirement for probe in PROBES} == set(range(1, 18))
    for probe in PROBES:
        tenant = load_scenario(probe.scenario).tenants[probe.tenant]
        assert len(tenant.hosts) >= 2


@pytest.mark.parametrize("name", sorted({probe.scenario for probe in PROBES}))
def test_scenarios_with_all_their_twins_are_sound(name):
    mine = [(n, p) for n, p in enumerate(PROBES, 1) if p.scenario == name]
    made = with_twins(load_scenario(name), [(n, p.tenant, p.cripple, p.keep_rules) for n, p in mine])
    assert first_fault(made) is None
    make_plan(made)
    for number, probe in mine:
        tenant, twin = made.tenants[probe.tenant], made.tenants[twin_name(probe.tenant, number)]
        assert twin.vni != tenant.vni
        assert list(twin.hosts) == [twin_host(host, number) for host in tenant.hosts]
        assert protections(made, twin) != protections(made, tenant), "a twin lacks something"


def protections(scenario: Scenario, tenant: Tenant) -> list[object]:
    """Return what protects a tenant, names left out: its own profile and its rules with theirs."""

    def unnamed(name: str | None) -> Profile | None:
        profile = None if name is None else scenario.profile(name)
        return None if profile is None else profile.model_copy(update={"name": "p"})

    rules = [rule for rule in scenario.policy if rule.vni == tenant.vni]
    return [unnamed(tenant.profile), *((rule.action, unnamed(rule.profile)) for rule in rules)]


def evidence(
    folder: Path, profile: Profile, packets: list[bytes], sent: list[bytes], got: list[bytes], prefix: str, **facts: Any
) -> Evidence:
    """Write what a probe of VNI 100 would have left, and read it back."""
    frames = [build_frame(bytes(6), bytes(6), build_datagram(*ADDRESSES.values(), 50000, p)) for p in packets]
    wrpcap(str(folder / "probe.pcap"), frames, linktype=1)
    for name, messages in ((f"sent-{prefix}1", sent), (f"received-{prefix}2", got)):
        lines = [json.dumps({"payload": message.hex()}) for message in messages]
        (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
    spis = [{"spi": 1000, "role": "egress", "vni": 100, "sender": "nve1", "profile": "p"}]
    stats = {node: {"counters": {}, "drops": {}, **facts.pop(node, {})} for node in ("nve1", "nve2", "t1", "t2")}
    document = {
        "capture": "probe.pcap", "vni": 100, "profile": profile.model_dump(mode="json"), "label": "x",
        "associations": spis, "replaced": [], "addresses": ADDRESSES, "facts": facts,
        "hosts": {f"{prefix}{n}": f"{prefix}{n}" for n in (1, 2)},
        "stats": {"before": {node: {} for node in stats}, "after": stats},
    }  # fmt: skip
    (folder / FACTS).write_text(json.dumps(document))
    return Evidence.read(folder, folder)


def messages(sizes: list[int]) -> list[bytes]:
    return [build_message("x", 0, number, size) for number, size in enumerate(sizes)]


def seal(profile: Profile, payloads: list[bytes], carried: tuple[bytes, ...] = ()) -> list[bytes]:
    sealer = PacketSealer(100, OutboundAssociation(association(1000, profile="p"), profile), largest=1416)
    return sealer.seal([Item(udp_frame(data=payload), carried) for payload in payloads])


def holding(findings: list[Finding]) -> list[bool]:
    return [finding.holds for finding in findings]


def test_the_judge_of_encryption_can_be_convinced_and_disappointed(tmp_path):
    full = Profile(name="p")
    sent = messages([300] * 8)
    good = evidence(tmp_path, full, seal(full, sent), sent, sent, "pay")
    assert holding(confidentiality.judge_payload(good)) == [True, True]
    clear = confidentiality.clear(full)
    bad = evidence(tmp_path, clear, seal(clear, sent), sent, sent, "pay")
    assert holding(confidentiality.judge_payload(bad)) == [False, True]
    assert confidentiality.judge_payload(bad)[0].packets == tuple(range(1, 9))
    lost = evidence(tmp_path, full, seal(full, sent), sent, sent[1:], "pay")
    assert holding(confidentiality.judge_payload(lost)) == [True, False]


def test_the_judge_of_encryption_is_not_satisfied_with_silence(tmp_path):
    full = Profile(name="p")
    silent = evidence(tmp_path, full, [], [], [], "pay")
    assert holding(confidentiality.judge_payload(silent)) == [False, False]


def test_the_judge_of_options_wants_one_hidden_and_the_other_not(tmp_path):
    hidden = Profile(name="p", egress=Coverage(hidden_options=select(ONE)))
    sent = messages([300] * 8)
    read = {"nve2": {"options": {"0x0102:0x11": {"count": 8}}}}
    judge = next(probe.judge for probe in options.PROBES if probe.name == "one-hidden")
    good = evidence(tmp_path, hidden, seal(hidden, sent, (ONE, TWO)), sent, sent, "one", **read)
    assert holding(judge(good)) == [True, True, True, True]
    leak = {**read, "t2": {"options_read": {"0x0102:0x11": {"count": 1}}}}
    leaking = evidence(tmp_path, hidden, seal(hidden, sent, (ONE, TWO)), sent, sent, "one", **leak)
    assert holding(judge(leaking)) == [True, True, False, True]
    shown = options.show_all(hidden)
    bad = evidence(tmp_path, shown, seal(shown, sent, (ONE, TWO)), sent, sent, "one", **read)
    assert holding(judge(bad)) == [False, True, True, True]
    both = Profile(name="p", egress=Coverage(hidden_options=select(ONE, TWO)))
    too_much = evidence(tmp_path, both, seal(both, sent, (ONE, TWO)), sent, sent, "one", **read)
    assert holding(judge(too_much)) == [True, False, True, True]


def test_the_judge_of_padding_looks_at_sizes(tmp_path):
    padded = Profile(name="p", padding=Padding(mode=PaddingMode.MULTIPLE, multiple=128))
    sent = messages([60, 100, 300, 700])
    judge = next(probe.judge for probe in patterns.PROBES if probe.name == "multiple")
    good = evidence(tmp_path, padded, seal(padded, sent), sent, sent, "mul", largest=1416)
    assert holding(judge(good)) == [True, True]
    plain = patterns.unpadded(padded)
    bad = evidence(tmp_path, plain, seal(plain, sent), sent, sent, "mul", largest=1416)
    assert holding(judge(bad)) == [False, True]


# --- the table -------------------------------------------------------------------------------


def stub(requirement: int, good: bool, noticed: bool) -> Probe:
    def judge(found: Evidence) -> list[Finding]:
        right = good if found.facts["kind"] == "probe" else not noticed
        return [Finding("it is so", right, "because" if right else "for want of it", (3, 4))]

    return Probe(requirement, MUST, f"probe{requirement}", "s", "t", lambda _: {}, judge, lambda p: p)


def analysed(run: Path, *probes: Probe, without: str = ""):
    for probe in probes:
        for kind in analysis.KINDS:
            if kind == without:
                continue
            folder = analysis.folder_of(run, probe, kind)
            folder.mkdir(parents=True)
            (folder / FACTS).write_text(json.dumps({"kind": kind, "capture": f"captures/mechanism/{kind}.pcap"}))
    return analysis.analyse(run, probes)


def test_a_requirement_is_met_if_its_probes_hold_and_their_twins_do_not(tmp_path):
    result = analysed(tmp_path, stub(1, True, True), stub(2, True, True))
    assert [row["verdict"] for row in result.requirements] == ["met", "met"]
    assert [row["crippled"] for row in result.requirements] == ["not met", "not met"]
    assert result.failures == []
    assert analysis.summary(result)["met"] == 2
    (tmp_path / "csv").mkdir()
    analysis.write_tables(result, tmp_path / "csv")
    assert "SEC-GEN-1,MUST,met,not met" in (tmp_path / "csv" / "mechanism.csv").read_text()
    assert "3, 4" in (tmp_path / "csv" / "mechanism-findings.csv").read_text()


@pytest.mark.parametrize(
    ("probe", "without", "words"),
    [
        (stub(3, False, True), "", "SEC-GEN-3 is not met: for want of it"),
        (stub(4, True, False), "", "finds nothing wrong with a crippled profile"),
        (stub(5, True, True), "probe", "cannot be judged"),
        (stub(6, True, True), "crippled", "finds nothing wrong"),
    ],
)
def test_what_is_not_shown_fails_the_run(tmp_path, probe, without, words):
    result = analysed(tmp_path, probe, without=without)
    assert any(words in failure for failure in result.failures), result.failures


def test_a_twin_in_which_a_control_fails_proves_nothing(tmp_path):
    def judge(found: Evidence) -> list[Finding]:
        dead = found.facts["kind"] == "crippled"
        return [Finding("it is so", True, "because"), Finding("it arrives", not dead, "0 of 8", (), Weight.CONTROL)]

    result = analysed(tmp_path, Probe(7, MUST, "p", "s", "t", lambda _: {}, judge, lambda p: p))
    assert any("finds nothing wrong" in failure for failure in result.failures)
    assert any("proves nothing: it arrives" in failure for failure in result.failures)
    assert [row["crippled"] for row in result.requirements] == ["met"]


def test_captures_are_links_on_the_page():
    cell = _cell("captures/mechanism/01-a.pcap, captures/mechanism/01-b.pcap")
    assert cell.count("<a href=") == 2
    assert "<a" not in _cell("captures, all of them")

"""Deployments of SEC-OP: what their files and packets say, with and without protection, and with faults planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.audit.deployment import judge
from experiments.audit.result import Judgement, Reason
from experiments.audit.result import Verdict as Audited
from experiments.conformance import analysis
from experiments.conformance.analysis import DEPLOYMENTS, NAME, deployment_line
from experiments.conformance.deployments import (
    PLANTED,
    Watched,
    deployment,
    faulty,
    in_file,
    keys_told_apart,
    nothing_early,
    nothing_sensitive,
    patterns_hidden,
    payload_encrypted,
    seen_in,
    trials,
    with_eve,
)
from experiments.conformance.deployments_live import faults_in_files
from experiments.conformance.draft import MECHANISMS, OP
from experiments.conformance.verdicts import Trial
from experiments.mechanism.probe import WHOLE, Finding, Weight
from geneve.option import Option
from tests.experiments.test_conformance_judges import START, carried, evidence, messages, timed
from topologies.scenario_checks import first_fault

PORTS = Option(0x0102, 0x11, bytes.fromhex("00010002"))


def parts(found: tuple[Any, list[Finding]]) -> dict[str, bool]:
    trial = Trial("deployment", "some", tuple(found[1]))
    assert trial.void == ""
    return trial.parts()


# --- the scenarios -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_good_deployment_can_be_made_under_every_mechanism(mechanism):
    made = with_eve(deployment(mechanism))
    assert first_fault(made) is None
    assert "eve" in made.underlay.links[0].via
    assert {"red", "blue"} == made.tenants.keys()


def test_ours_meets_all_in_its_file_and_plain_geneve_nothing():
    assert {judgement.verdict for judgement in judge(deployment("ours"))} == {Audited.MET}
    assert {judgement.verdict for judgement in judge(deployment("none"))} == {Audited.NOT_MET}


def test_esp_is_given_the_padding_and_dummies_that_it_has():
    verdicts = {judgement.requirement: judgement.verdict for judgement in judge(deployment("esp"))}
    assert verdicts[f"{OP}-3"] is Audited.MET


def test_what_is_planted_for_the_wire_is_in_the_file_too():
    verdicts = {judgement.requirement: judgement.verdict for judgement in judge(faulty())}
    assert first_fault(with_eve(faulty())) is None
    assert all(verdicts[requirement] is not Audited.MET for requirement in PLANTED)


def test_every_fault_planted_in_a_file_is_noticed_or_the_run_fails(tmp_path):
    folder = tmp_path / "raw" / NAME
    folder.mkdir(parents=True)
    lines = faults_in_files()
    assert {line["requirement"] for line in lines} == {f"{OP}-{number}" for number in range(1, 11)}

    def unnoticed() -> list[str]:
        (folder / DEPLOYMENTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
        failures = analysis.analyse(tmp_path, (), series=(OP,)).failures
        return [text for text in failures if "planted" in text]

    assert unnoticed() == []
    lines[0]["findings"][0]["holds"] = True
    assert unnoticed() == [
        f"conformance: the planted fault '{lines[0]['planted']}' against {lines[0]['requirement']} under ours is not "
        "noticed"
    ]


def test_a_policy_for_all_alike_is_half_of_what_is_asked_for():
    half = Judgement(f"{OP}-9", Audited.IN_PART, (Reason(Audited.IN_PART, "It knows no flows."),))
    found = {part: finding.holds for finding in in_file(half) for part in finding.parts}
    assert found == {"a policy for all that passes": True, "one for each flow": False}


@pytest.mark.parametrize("number", [7, 10])
def test_where_packets_decide_the_file_is_noted(number):
    bad = Judgement(f"{OP}-{number}", Audited.NOT_MET, (Reason(Audited.NOT_MET, "Bad."),))
    assert [finding.weight for finding in in_file(bad)] == [Weight.NOTE]


# --- their packets -----------------------------------------------------------------------------------


def watched(folder: Path, kind: str, cover: bool = False, reported: tuple[int, int] = (0, 8)) -> Watched:
    """What would be left of a deployment with one key or none for everything from nve1 to nve2."""
    for name in ("red", "blue", "attacks"):
        (folder / name).mkdir()
    sent = timed(messages([60, 100, 300, 500, 700, 1000] * 3), START + 2)
    quiet = [(START - 2 + 0.1 * number, b"dummy") for number in range(40)] if cover else []
    frames = carried(kind, quiet + sent, (PORTS,), pad=(lambda _: 1400) if cover else int)
    facts = {"begin": START - 2, "middle": START + 1.99, "end": START + 3}
    red = evidence(folder / "red", frames, {"sent-red1": sent, "received-red2": sent}, facts)
    first, group = timed(messages([410] * 8)), timed(messages([450] * 8), START + 1)
    database = timed(messages([80] * 3), START + 2)
    frames = carried(kind, first + database) + carried(kind, group, destination="239.60.81.1")
    logs = {"sent-blue1": first + group, "received-blue2": first, "received-blue3": group}
    blue = evidence(folder / "blue", sorted(frames), logs, {"begin": START + 2, "end": START + 3})
    changed, genuine = timed(messages([620] * 8)), timed(messages([660] * 8), START + 1)
    done = {"telemetry": 8, "telemetry reported": reported[0], "genuine reported": reported[1]}
    logs = {"sent-blue2": changed + genuine, "received-blue1": genuine, "received-red1": []}
    frames = carried(kind, changed + genuine, source="192.168.1.2", destination="192.168.1.1")
    return Watched(red, blue, evidence(folder / "attacks", frames, logs, done))


@pytest.mark.parametrize(("kind", "hidden"), [("none", False), ("ah", False), ("esp", True), ("dtls", True)])
def test_what_can_be_read_decides_what_leaks(tmp_path, kind, hidden):
    seen = watched(tmp_path, kind)
    assert parts(payload_encrypted(seen)) == {WHOLE: hidden}
    assert parts(nothing_sensitive(seen)) == {WHOLE: hidden}
    assert payload_encrypted(seen)[1][0].packets


def test_patterns_are_hidden_by_padding_and_dummies_together(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert parts(patterns_hidden(watched(tmp_path / "a", "esp", cover=True))) == {WHOLE: True}
    assert parts(patterns_hidden(watched(tmp_path / "b", "esp"))) == {WHOLE: False}


@pytest.mark.parametrize(
    ("reported", "early", "devices"), [((0, 8), True, True), ((0, 0), True, False), ((8, 8), False, False)]
)
def test_a_device_that_does_nothing_processes_nothing_early_and_is_of_no_use(tmp_path, reported, early, devices):
    found = parts(nothing_early(watched(tmp_path, "esp", reported=reported)))
    assert list(found.values()) == [early, devices]


@pytest.mark.parametrize("kind", ["none", "esp", "dtls"])
def test_one_key_for_all_flows_is_not_one_for_each(tmp_path, kind):
    found = parts(keys_told_apart(watched(tmp_path, kind)))
    assert found["keys for unicast flows"] is False
    assert kind == "dtls" or found["keys for multicast groups"] is False


@pytest.mark.parametrize("requirement", [f"{OP}-{number}" for number in range(1, 11)])
def test_no_judge_is_satisfied_with_silence(tmp_path, requirement):
    facts = dict.fromkeys(("begin", "middle", "end", "telemetry", "header", "payload", "other tenant", "replayed",
                           "telemetry reported", "genuine reported"), 0)  # fmt: skip
    hosts = ("red1", "red2", "blue1", "blue2", "blue3")
    nothing = evidence(tmp_path, [], {}, facts, hosts=hosts)
    trial = seen_in(requirement, Watched(nothing, nothing, nothing), "none")
    assert not any(trial.parts().values())
    assert "it does not" in trial.void, "nor with the fault that silence looks like"


def test_a_line_of_a_deployment_names_its_capture(tmp_path):
    trial = seen_in(f"{OP}-1", watched(tmp_path, "esp"), "esp")
    line = deployment_line(f"{OP}-1", "esp", trial)
    assert line["capture"] == "probe.pcap"
    assert line["findings"][0]["packets"] == list(range(1, 20))


def test_file_packets_and_the_audit_of_the_capture_speak_of_each_requirement(tmp_path):
    seen = watched(tmp_path, "esp", cover=True)
    seen.attacks.facts["facts"] |= {"payload": 8, "header": 8, "other tenant": 8, "replayed": 8}
    found = trials(deployment("esp"), seen, "esp-shielded")
    assert list(found) == [f"{OP}-{number}" for number in range(1, 11)]
    for requirement, trial in found.items():
        assert trial.findings[0].packets == ()
        sent = requirement not in {f"{OP}-{number}" for number in (4, 6, 8)}
        assert any(finding.packets for finding in trial.findings) == sent
        assert trial.findings[-1].statement == "the audit of the capture alone sees no violation"
        assert trial.findings[-1].weight is Weight.NOTE

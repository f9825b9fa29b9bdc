"""A scenario that meets every requirement is clean, each planted fault is found, and nothing else is."""

from __future__ import annotations

import pytest

from experiments.audit.deployment import audit_deployment, judge
from experiments.audit.faults import FAULTS, Fault
from experiments.audit.result import LEVELS, Judgement, Verdict
from experiments.audit.ways import ways_of
from geneve.errors import ConfigError
from topologies.risks import Evaluated, RiskEvaluation
from topologies.scenario import Scenario
from topologies.scenario_checks import first_fault
from topologies.scenario_file import load_scenario, parse_scenario, scenario_names, scenario_path

GOOD = load_scenario("deployment-good")


def verdicts(scenario: Scenario) -> dict[str, Verdict]:
    return {judgement.requirement: judgement.verdict for judgement in judge(scenario)}


def of(scenario: Scenario, requirement: str) -> Judgement:
    return next(judgement for judgement in judge(scenario) if judgement.requirement == requirement)


def test_the_good_deployment_meets_every_requirement() -> None:
    assert verdicts(GOOD) == dict.fromkeys(LEVELS, Verdict.MET)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_planted_fault_is_found_and_nothing_else(fault: Fault) -> None:
    faulty = fault.plant(GOOD)
    assert faulty != GOOD
    found = {name: verdict for name, verdict in verdicts(faulty).items() if verdict is not Verdict.MET}
    assert found == fault.breaks
    first = of(faulty, next(iter(fault.breaks)))
    assert any(reason.key.startswith(fault.key) for reason in first.reasons if reason.verdict is first.verdict)


def test_each_requirement_has_a_fault_and_one_that_breaks_several_says_why() -> None:
    assert {next(iter(fault.breaks)) for fault in FAULTS} == set(LEVELS)
    assert all(fault.why for fault in FAULTS if len(fault.breaks) > 1)


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_faulty_scenarios_are_sound_files(fault: Fault) -> None:
    assert first_fault(fault.plant(GOOD)) is None


@pytest.mark.parametrize("name", scenario_names())
def test_every_scenario_can_be_judged(name: str) -> None:
    judgements = judge(load_scenario(name))
    assert [judgement.requirement for judgement in judgements] == list(LEVELS)
    assert all(judgement.reasons for judgement in judgements)


@pytest.mark.parametrize("requirement", ["SEC-OP-2", "SEC-OP-3", "SEC-OP-5", "SEC-OP-8"])
def test_without_an_analysis_nobody_has_evaluated_anything(requirement: str) -> None:
    judgement = of(load_scenario("default"), requirement)
    assert judgement.verdict is Verdict.NOT_MET
    assert judgement.reasons[0].text.startswith("Nobody has evaluated")
    assert judgement.reasons[0].key == "risks"


def test_a_tenant_that_protects_itself_may_go_in_clear() -> None:
    text = scenario_path("small").read_text() + (
        "risks:\n  tenants:\n    blue:\n      delegated:\n"
        "        encryption: Blue uses IPsec.\n        authentication: Blue uses IPsec.\n"
    )
    scenario = parse_scenario(text, "x.yaml")
    found = verdicts(scenario)
    assert found["SEC-OP-1"] is Verdict.MET
    assert found["SEC-OP-4"] is Verdict.MET
    # Not recommended all the same: nothing tells the NVE whose packet it is.
    assert found["SEC-OP-6"] is Verdict.NOT_MET
    reason = of(scenario, "SEC-OP-1").reasons[0]
    assert "Blue uses IPsec." in "".join(item.text for item in of(scenario, "SEC-OP-1").reasons)
    assert reason.verdict is Verdict.MET


def test_group_policy_on_what_nobody_authenticated_is_named_with_the_device() -> None:
    judgement = of(load_scenario("group-policy"), "SEC-OP-7")
    assert judgement.verdict is Verdict.NOT_MET
    bad = [reason for reason in judgement.reasons if reason.verdict is Verdict.NOT_MET]
    assert {reason.key for reason in bad} == {"tenants.unprotected.group_policy", "tenants.unprotected.profile"}
    assert any("t1" in reason.text for reason in bad)


def test_a_risk_of_one_tenant_does_not_bind_another() -> None:
    judgement = of(GOOD, "SEC-OP-3")
    assert any("blue" in reason.text and "low" in reason.text for reason in judgement.reasons)


def test_a_low_risk_says_where_its_reason_stands() -> None:
    keys = {reason.key for judgement in judge(GOOD) for reason in judgement.reasons}
    assert "risks.all.modification.outer_header" in keys
    assert not any(key.startswith("risks.tenants.red.modification") for key in keys)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("risks: {tenants: {green: {}}}", "there is no tenant of this name"),
        ("risks: {all: {replay: {risk: medium, reason: x}}}", "risks.all.replay.risk"),
        ("risks: {all: {replay: {risk: low}}}", "reason"),
        ('risks: {all: {replay: {risk: low, reason: ""}}}', "reason"),
        ("risks: {all: {leaking: {options: {vni: {risk: low, reason: x}}}}}", "0x0102:0x80"),
        ("risks: {all: {unknown: 1}}", "unknown"),
    ],
)
def test_faulty_analyses_are_refused_in_one_sentence(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_scenario(scenario_path("small").read_text() + text + "\n", "x.yaml")


def test_the_audit_of_a_file_has_an_inventory_and_plain_data() -> None:
    result = audit_deployment("deployment-good")
    assert result.kind == "deployment"
    assert result.as_dict()["inventory"]["tenants"][0]["vni"] == 100
    with pytest.raises(KeyError):
        result.judgement("SEC-OP-11")


def test_a_rule_for_all_packets_of_a_tenant_leaves_its_own_entry_without_effect() -> None:
    text = scenario_path("small").read_text() + "policy: [{name: all-blue, vni: 200, action: secure, profile: full}]\n"
    scenario = parse_scenario(text, "x.yaml")
    # Blue's entry says 'none', but nothing of blue's is unprotected.
    assert verdicts(scenario)["SEC-OP-1"] is Verdict.MET
    policies = of(scenario, "SEC-OP-9")
    assert policies.verdict is Verdict.NOT_MET
    assert policies.reasons[0].key == "tenants.blue.profile"


def test_groups_of_the_underlay_get_no_dummies() -> None:
    high = Evaluated(risk="high", reason="x")
    blue = RiskEvaluation(traffic_patterns=high)
    profile = GOOD.profile("shielded")
    assert profile is not None
    assert GOOD.risks is not None
    tenant = GOOD.tenants["blue"].model_copy(update={"profile": "shielded"})
    risks = GOOD.risks.model_copy(update={"tenants": {**GOOD.risks.tenants, "blue": blue}})
    changed = GOOD.model_copy(update={"policy": (), "tenants": {**GOOD.tenants, "blue": tenant}, "risks": risks})
    assert of(changed, "SEC-OP-3").verdict is Verdict.IN_PART


def test_a_device_authenticates_what_is_hidden_for_it_and_not_what_is_hidden_from_it() -> None:
    scenario = load_scenario("group-policy")
    tag = (0xFF60, 6)
    hidden, shown, bare = (ways_of(scenario, name)[0] for name in ("hidden", "shown", "unprotected"))
    assert hidden.device_authenticates("t1", tag)
    assert not hidden.device_authenticates("t2", tag)
    assert shown.device_authenticates("t1", tag)
    assert not bare.device_authenticates("t1", tag)


@pytest.mark.parametrize(
    ("mechanism", "words"),
    [
        ("ah", "could read, but does not act on"), ("esp-null", "could read, but does not act on"),
        ("dtls-null", "could read, but does not act on"), ("esp", "can read nothing"), ("dtls", "can read nothing"),
    ],
)  # fmt: skip
def test_no_device_acts_on_what_passes_in_a_channel(mechanism: str, words: str) -> None:
    judgement = of(GOOD.under(mechanism), "SEC-OP-7")
    assert judgement.verdict is Verdict.IN_PART
    assert judgement.reasons[0].key == "tenants.red.telemetry"
    assert words in judgement.reasons[0].text

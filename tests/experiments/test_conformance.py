"""Verdicts, configurations and the table of the conformance experiment, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.conformance import analysis, configurations, page, plots
from experiments.conformance.configurations import OURS, WORTH_READING, Configuration, combined, scenario_of, under
from experiments.conformance.draft import APPENDIX, BY_NAME, GEN, MECHANISMS, OP, REQUIREMENTS, judgement
from experiments.conformance.explanations import EXPLANATIONS, explain
from experiments.conformance.networks import chosen, networks
from experiments.conformance.verdicts import Agreement, Decision, Trial, Verdict, agreement, decide
from experiments.mechanism.evidence import FACTS
from experiments.mechanism.probe import MUST, Finding, Probe, Weight
from experiments.mechanism.probes import PROBES
from experiments.profiles import PROFILES
from experiments.tables import read_csv
from geneve.control.channel import ChannelProtocol, Cipher
from geneve.control.profile import PaddingMode
from topologies.scenario_checks import first_fault

GEN_4, OP_8 = BY_NAME["SEC-GEN-4"], BY_NAME["SEC-OP-8"]
CONTROL, NOTE = Weight.CONTROL, Weight.NOTE


def finding(holds: bool, parts: tuple[str, ...] = ("whole",), weight: Weight = Weight.DEMANDED) -> Finding:
    return Finding("it is so", holds, "because" if holds else "for want of it", (3, 4), weight, parts)


def trial(*holds: bool, probe: str = "p", configuration: str = "c") -> Trial:
    """A trial whose statements are parts of their own."""
    found = tuple(finding(value, (f"part {number}",)) for number, value in enumerate(holds))
    return Trial(probe, configuration, found, "captures/conformance/x.pcap")


# --- verdicts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trials", "verdict"),
    [
        ([trial(True, True)], Verdict.MET),
        ([trial(True, False)], Verdict.IN_PART),
        ([trial(False, False)], Verdict.NOT_MET),
        ([trial(False, configuration="a"), trial(True, configuration="b")], Verdict.MET),
        ([trial(True, False, configuration="a"), trial(False, True, configuration="b")], Verdict.IN_PART),
        ([trial(True, probe="a"), trial(False, probe="b")], Verdict.IN_PART),
        ([trial(True, probe="a", configuration="x"), trial(True, probe="b", configuration="y")], Verdict.MET),
        ([], Verdict.VOID),
    ],
)
def test_for_a_mechanism_the_best_configuration_of_each_probe_counts(trials, verdict):
    assert decide(GEN_4, trials).verdict is verdict


def test_a_deployment_is_judged_as_it_is():
    good, bad = trial(True, probe="with"), trial(False, probe="without")
    assert decide(OP_8, [good, good]).verdict is Verdict.MET
    assert decide(OP_8, [good, bad]).verdict is Verdict.IN_PART
    assert decide(OP_8, [bad]).verdict is Verdict.NOT_MET
    # The same deployment twice: no configuration is chosen for it.
    assert decide(OP_8, [trial(True), trial(False)]).verdict is Verdict.IN_PART
    broken = Trial("p", "c", fault="did not start")
    assert decide(OP_8, [good, broken]).verdict is Verdict.VOID


def test_a_part_is_there_if_all_its_statements_hold():
    both = Trial("p", "c", (finding(True, ("a", "b")), finding(False, ("b",))))
    assert both.parts() == {"a": True, "b": False}
    assert decide(GEN_4, [both]).verdict is Verdict.IN_PART


def test_a_failed_control_voids_the_trial_and_not_the_mechanism():
    broken = Trial("p", "a", (finding(True), finding(False, weight=CONTROL)))
    assert decide(GEN_4, [broken]).verdict is Verdict.VOID
    saved = decide(GEN_4, [broken, Trial("p", "b", (finding(True), finding(True, weight=CONTROL)))])
    assert saved.verdict is Verdict.MET
    assert "p (a)" in saved.faults[0]
    assert saved.configurations == ("a", "b")


def test_what_the_best_lacks_is_perhaps_there_in_a_configuration_that_failed():
    broken = Trial("p", "a", (finding(True), finding(False, weight=CONTROL)))
    assert decide(GEN_4, [broken, trial(True, False, configuration="b")]).verdict is Verdict.VOID
    # Another probe's trouble is not this one's.
    saved = [broken, trial(True, configuration="b"), trial(False, probe="q")]
    assert decide(GEN_4, saved).verdict is Verdict.IN_PART


def test_notes_decide_nothing():
    assert decide(GEN_4, [Trial("p", "c", (finding(True), finding(False, weight=NOTE)))]).verdict is Verdict.MET
    assert decide(GEN_4, [Trial("p", "c", (finding(True, weight=NOTE),))]).verdict is Verdict.VOID


def test_a_probe_of_notes_beside_another_is_no_obstacle():
    notes = Trial("q", "c", (finding(False, weight=NOTE),))
    assert decide(GEN_4, [trial(True), notes]).verdict is Verdict.MET


def test_what_does_not_apply_has_a_reason():
    decision = decide(OP_8, [Trial("p", "c", inapplicable="no transit device")])
    assert (decision.verdict, decision.reason) == (Verdict.NOT_APPLICABLE, "no transit device")


def test_letters_are_compared_strictly():
    expected = {"Y": Verdict.MET, "N": Verdict.NOT_MET, "Y/N": Verdict.IN_PART}
    for letter, meaning in expected.items():
        for verdict in Verdict:
            wanted = Agreement.AGREES if verdict is meaning else Agreement.DIFFERS
            assert agreement(letter, verdict) is wanted
    assert agreement(None, Verdict.MET) is Agreement.NONE


# --- configurations ----------------------------------------------------------------------------------


def tried(mechanism: str, name: str) -> tuple[Configuration, ...]:
    probe = next(entry for entry in PROBES if entry.name == name)
    return configurations.configurations(probe, mechanism, scenario_of(probe.scenario))


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: f"{probe.requirement}-{probe.name}")
def test_every_probe_is_tried_under_every_mechanism(mechanism, probe):
    scenario = scenario_of(probe.scenario)
    found = configurations.configurations(probe, mechanism, scenario)
    assert bool(found) == (mechanism == OURS or probe.compared)
    if mechanism == OURS:
        return
    for entry in found:
        made = under(combined({probe.scenario: [probe.tenant]}), entry)
        assert list(made.tenants) == [probe.tenant]
        assert list(made.tenants[probe.tenant].hosts) == list(scenario.tenants[probe.tenant].hosts)
        assert not any(rule.profile for rule in made.policy)
        assert made.tenants[probe.tenant].profile == made.mechanism == entry.name
        assert first_fault(made) is None


def test_every_requirement_is_tried_under_every_mechanism():
    assert {probe.requirement for probe in PROBES if probe.compared} == set(range(1, 18))


def test_scenarios_whose_tenants_differ_are_not_combined():
    with pytest.raises(ValueError, match="tenant 'each' that differs"):
        combined({"mechanism-options": ["each"], "mechanism-policy": ["each"]})


def test_esp_pads_and_the_others_say_that_they_cannot():
    [esp] = tried("esp", "buckets")
    assert esp.profile is not None
    assert esp.profile.channel is not None
    assert (esp.profile.channel.protocol, esp.profile.channel.cipher) == (ChannelProtocol.ESP, Cipher.AES_128_GCM)
    assert esp.profile.padding.mode is PaddingMode.BUCKETS
    assert esp.alone
    assert esp.missing == ()
    for mechanism in ("dtls", "ah"):
        [other] = tried(mechanism, "buckets")
        assert (other.profile, other.missing) == (None, ("padding",))
    assert [entry.missing for entry in tried("dtls", "fill")] == [("padding", "dummy packets")]


def test_null_ciphers_are_tried_where_they_could_do_more():
    assert [entry.name for entry in tried("esp", "subset")] == ["esp", "esp-null"]
    assert [entry.name for entry in tried("dtls", "fields")] == ["dtls", "dtls-null"]
    assert {probe.requirement for probe in PROBES if len(tried("esp", probe.name)) > 1} <= WORTH_READING | {1}


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("one-hidden", "a choice of options"), ("each-its-own", "transit devices as an audience"),
        ("some-fields", "a choice of header fields"), ("flows", "profiles by policy rule"),
        ("flow-keys", "keys for each flow"), ("group", "proof of a multicast packet's sender"),
        ("fields", "a choice of header fields"),
    ],
)  # fmt: skip
def test_settings_without_a_counterpart_are_named(name, missing):
    assert all(missing in entry.missing for entry in tried("esp", name))


def test_networks_hold_every_trial_once_and_padding_has_its_own():
    found = networks()
    labels = [network.label for network in found]
    assert len(labels) == len(set(labels))
    trials = [(network.configuration.name, probe.name) for network in found for probe in network.probes]
    wanted = [
        (entry.name, probe.name)
        for probe in PROBES
        for mechanism in MECHANISMS
        for entry in configurations.configurations(probe, mechanism, scenario_of(probe.scenario))
    ]
    assert sorted(trials) == sorted(wanted)
    for network in found:
        assert len(network.probes) == len({(probe.requirement, probe.name) for probe in network.probes})
        assert first_fault(network.scenario) is None
        acting = {name for probe in network.probes for name in (probe.tenant, *probe.beside)}
        assert acting <= network.scenario.tenants.keys()
        if network.configuration.alone:
            assert list(network.scenario.tenants) == [network.probes[0].tenant]


# --- the table ---------------------------------------------------------------------------------------


def stub(requirement: int, holds: dict[str, bool], weight: Weight = Weight.DEMANDED) -> Probe:
    """A probe of the padding scenario; what it finds depends on the configuration."""

    def judge(evidence: Any) -> list[Finding]:
        return [finding(holds[evidence.facts["kind"]], weight=weight)]

    return Probe(requirement, MUST, f"probe{requirement}", "mechanism-options", "one", lambda _: {}, judge, lambda p: p)


def analysed(run: Path, *probes: Probe, refused: str = "", without: str = "") -> analysis.ConformanceResult:
    for probe in probes:
        for mechanism in MECHANISMS:
            for entry in configurations.configurations(probe, mechanism, scenario_of(probe.scenario)):
                if entry.name == without:
                    continue
                folder = analysis.folder_of(run, probe, entry)
                folder.mkdir(parents=True)
                facts = {"kind": mechanism, "capture": f"captures/conformance/{entry.name}.pcap"}
                if entry.name == refused:
                    facts = {analysis.REFUSED: "no groups under DTLS"}
                (folder / FACTS).write_text(json.dumps(facts))
    result = analysis.analyse(run, probes)
    # Of the other requirements nothing was tried here.
    result.failures = [text for text in result.failures if "nothing was tried" not in text]
    return result


NORMAL = {"none": False, "dtls": True, "esp": True, "ah": True, "ours": True}


def cell(result: analysis.ConformanceResult, requirement: str, mechanism: str) -> dict[str, Any]:
    rows = {(row["requirement"], row["mechanism"]): row for row in result.rows}
    return rows[requirement, mechanism]


def test_the_table_has_the_columns_asked_for_and_a_row_for_each_cell(tmp_path):
    result = analysed(tmp_path, stub(8, NORMAL))
    assert result.failures == []
    analysis.write_tables(result, tmp_path)
    columns, rows = read_csv(tmp_path / "conformance.csv")
    assert columns == ["requirement", "level", "mechanism", "verdict", "draft_verdict", "evidence", "reason"]
    assert len(rows) == 17 * 5
    row = cell(result, "SEC-GEN-8", "esp")
    assert (row["level"], row["verdict"], row["draft_verdict"]) == ("MUST", "met", "Y")
    assert "captures/conformance/esp.pcap packets 3, 4" in row["evidence"]
    assert "tried: esp, esp-null" in row["evidence"]
    assert "settings without a counterpart: a choice of options" in row["evidence"]
    assert cell(result, "SEC-GEN-8", "none")["draft_verdict"] == ""
    assert cell(result, "SEC-GEN-8", "none")["verdict"] == "not met"
    _, findings = read_csv(tmp_path / "conformance-findings.csv")
    assert {row["counts"] for row in findings if row["mechanism"] == "esp"} == {"yes", "no"}


def test_a_cell_that_differs_without_an_explanation_fails(tmp_path):
    result = analysed(tmp_path, stub(8, {**NORMAL, "ah": False}))
    assert [text for text in result.failures if "SEC-GEN-8 under ah" in text and "nothing explains" in text]
    assert analysis.differing(result) == ["SEC-GEN-8 ah"]


def test_a_cell_that_differs_shows_its_explanation_with_the_evidence(tmp_path):
    result = analysed(tmp_path, stub(1, {**NORMAL, "ah": False}))
    assert result.failures == []
    told = {row["mechanism"]: row["explanation"] for row in result.findings}
    assert told["esp"] == ""
    assert "AH (RFC 4302) encrypts nothing" in told["ah"]
    assert "captures/conformance/ah.pcap, packets 3, 4" in told["ah"]
    assert '"it is so" does not hold (for want of it)' in told["ah"]


def test_an_explanation_of_another_verdict_does_not_count(tmp_path):
    result = analysed(tmp_path, stub(4, {**NORMAL, "dtls": False}))
    assert [text for text in result.failures if "SEC-GEN-4 under esp is met" in text]


def test_a_probe_that_finds_nothing_wrong_without_protection_fails(tmp_path):
    result = analysed(tmp_path, stub(8, dict.fromkeys(NORMAL, True)))
    assert [text for text in result.failures if "nothing wrong without protection" in text]


def test_what_was_not_tried_fails_and_what_is_refused_is_not_met(tmp_path):
    result = analysed(tmp_path, stub(17, NORMAL), refused="dtls", without="ours")
    assert [text for text in result.failures if "SEC-GEN-17 under ours cannot be judged" in text]
    row = cell(result, "SEC-GEN-17", "dtls")
    assert row["verdict"] == "not met"
    assert "no groups under DTLS" in row["reason"]


def test_deployments_become_rows_too(tmp_path):
    folder = tmp_path / "raw" / "conformance"
    folder.mkdir(parents=True)
    judged = {name: trial(name != "none", probe="good", configuration=name) for name in MECHANISMS}
    lines = [analysis.deployment_line("SEC-OP-8", name, entry) for name, entry in judged.items()]
    lines.append(analysis.deployment_line("SEC-OP-7", "esp", Trial("good", "esp", inapplicable="no transit device")))
    (folder / analysis.DEPLOYMENTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = analysis.analyse(tmp_path, (), series=(OP,))
    assert len(result.rows) == 10 * 5
    assert cell(result, "SEC-OP-8", "ah")["verdict"] == "met"
    assert cell(result, "SEC-OP-8", "none")["verdict"] == "not met"
    assert cell(result, "SEC-OP-7", "esp")["verdict"] == "not applicable"
    (folder / analysis.DEPLOYMENTS).write_text('{"requirement": "SEC-OP-99"}\n')
    damaged = analysis.analyse(tmp_path, (), series=(OP,)).failures
    assert [text for text in damaged if "deployments.jsonl, line 1" in text]
    (folder / analysis.DEPLOYMENTS).unlink()
    missing = analysis.analyse(tmp_path, (), series=(OP,)).failures
    assert [text for text in missing if "the deployments cannot be judged" in text]


def test_a_whole_run_has_deployments_to_judge(tmp_path):
    folder = tmp_path / "raw" / "conformance"
    folder.mkdir(parents=True)
    assert analysis.series_of(tmp_path) == (GEN, OP)
    (folder / analysis.PLAN).write_text(json.dumps(list(range(1, 18))))
    assert analysis.series_of(tmp_path) == (GEN, OP)
    (folder / analysis.PLAN).write_text("[8]")
    assert analysis.series_of(tmp_path) == (GEN,)


def test_a_planted_fault_is_found_by_the_statement_about_it_and_by_packets():
    def planted(statement: str, shown: tuple[int, ...], where: str = analysis.ON_THE_WIRE) -> bool:
        found = Finding("this", False, "because", shown), Finding("that", True, "because", (3,))
        return analysis.Planted("SEC-OP-8", "ours", f"fault, {where}", Trial("p", "c", found), statement).noticed

    assert planted("this", (3,))
    assert planted("", (3,))
    assert not planted("that", (3,)), "another statement failed"
    assert not planted("this", ()), "silence is no fault"
    assert planted("this", (), "in the file")


def test_without_protection_the_fault_must_be_shown_by_packets():
    silent = Trial("p", "none", (Finding("it is so", False, "nothing came"),))
    told = analysis.conclude({("SEC-GEN-8", "none"): [silent]}, [BY_NAME["SEC-GEN-8"]], ("none",)).failures
    assert [text for text in told if "finds nothing wrong without protection" in text]


def test_what_holds_is_explained_with_its_own_packets():
    held = Trial("q", "c", (Finding("that", True, "seen", (7, 8)),), "captures/conformance/held.pcap")
    decision = decide(GEN_4, [trial(False), held])
    told = explain("SEC-GEN-4", "esp", decision)
    assert told is not None
    assert '"that" holds (seen; captures/conformance/held.pcap, packets 7, 8)' in told


def test_a_planted_fault_that_nobody_notices_fails(tmp_path):
    folder = tmp_path / "raw" / "conformance"
    folder.mkdir(parents=True)
    lines = [
        analysis.deployment_line("SEC-OP-8", "ours", trial(True, probe="good")),
        analysis.deployment_line("SEC-OP-8", "ours", trial(False, probe="bad"), "window of nothing"),
        analysis.deployment_line("SEC-OP-8", "ours", trial(True, probe="bad"), "unseen fault"),
        analysis.deployment_line("SEC-OP-8", "ours", Trial("bad", "c", fault="did not start"), "dead fault"),
    ]
    (folder / analysis.DEPLOYMENTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = analysis.analyse(tmp_path, (), mechanisms=("ours",), series=(OP,))
    assert cell(result, "SEC-OP-8", "ours")["verdict"] == "met"
    told = [text for text in result.failures if "the planted fault" in text]
    assert len(told) == 2
    assert "'unseen fault' against SEC-OP-8 under ours is not noticed" in told[0]
    assert "'dead fault'" in told[1]
    untested = [text for text in result.failures if "no fault was planted" in text]
    assert len(untested) == 9
    assert not any("SEC-OP-8" in text for text in untested)


def test_explanations_are_of_cells_that_would_differ():
    for (requirement, mechanism), entry in EXPLANATIONS.items():
        said = judgement(requirement, mechanism)
        assert said is not None
        assert agreement(said.letter, entry.verdict) is Agreement.DIFFERS
        decision = Decision(entry.verdict, "r", (trial(True, False),), (trial(True, False),))
        told = explain(requirement, mechanism, decision)
        assert told is not None
        assert "{" not in told
        assert "captures/conformance/x.pcap" in told
    assert explain("SEC-GEN-8", "esp", Decision(Verdict.NOT_MET, "r", (trial(False),))) is None
    assert len(APPENDIX) == 2


def full_result() -> analysis.ConformanceResult:
    """Every cell as the draft has it, or as we expect it to differ."""
    trials: analysis.Trials = {}
    made = {"Y": (True,), "N": (False,), "Y/N": (True, False)}
    for requirement in REQUIREMENTS:
        for mechanism in MECHANISMS:
            said = judgement(requirement.name, mechanism)
            held = (mechanism == "ours",) if said is None else made[said.letter]
            entry = EXPLANATIONS.get((requirement.name, mechanism))
            if entry is not None:
                held = (True, False) if entry.verdict is Verdict.IN_PART else (False,)
            trials[requirement.name, mechanism] = [trial(*held)]
    return analysis.conclude(trials, REQUIREMENTS, MECHANISMS)


def test_the_grid_is_drawn_in_one_column_and_in_two(tmp_path):
    result = full_result()
    assert result.failures == []
    assert [plot.name for plot in plots.draw(result, tmp_path)] == ["conformance", "conformance-wide"]
    for name in ("conformance", "conformance-wide"):
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (tmp_path / f"{name}.png").stat().st_size > 0
    assert plots.draw(analysis.ConformanceResult(), tmp_path) == []


def test_the_summary_counts_verdicts_and_names_what_differs():
    told = analysis.summary(full_result())
    assert told["counts"]["ours"]["met"] == 27
    assert told["differs"] == [f"{name} {mechanism}" for name, mechanism in sorted_cells(EXPLANATIONS)]
    assert GEN in {requirement.series for requirement in REQUIREMENTS}


def sorted_cells(cells: Any) -> list[tuple[str, str]]:
    order = [requirement.name for requirement in REQUIREMENTS]
    return sorted(cells, key=lambda key: (order.index(key[0]), MECHANISMS.index(key[1])))


# --- the page ----------------------------------------------------------------------------------------


def test_each_cell_of_the_page_leads_to_its_statements_and_capture(tmp_path):
    result = analysed(tmp_path, stub(8, {**NORMAL, "esp": False}))
    text = page.markup(result)
    assert '<a href="#sec-gen-8-esp">not met</a> <small>(Y)</small>' in text
    assert text.count('id="sec-gen-8-esp"') == 1
    cell_of_esp = text[text.index('id="sec-gen-8-esp"') :].split("</div>")[0]
    assert '<a href="captures/conformance/esp.pcap">conformance/esp.pcap</a>' in cell_of_esp
    assert "packets 3, 4" in cell_of_esp
    assert "Nothing explains it." in cell_of_esp
    assert 'class="differs"' in text
    assert "<a href=\"#sec-gen-8-none\">not met</a></td>" in text


def test_a_page_without_cells_is_empty():
    assert page.markup(analysis.ConformanceResult()) == ""


def test_what_failed_under_other_configurations_is_told_too():
    worse = Trial("p", "b", (finding(False), finding(False)), "captures/conformance/b.pcap")
    decision = decide(GEN_4, [Trial("p", "a", (finding(True), finding(False)), "a.pcap"), worse])
    assert decision.verdict is Verdict.NOT_MET
    assert "under b: does not hold" in decision.reason


def test_a_run_of_some_requirements_has_no_cells_of_the_others(tmp_path):
    (tmp_path / "raw" / "conformance").mkdir(parents=True)
    (tmp_path / "raw" / "conformance" / analysis.PLAN).write_text("[8]")
    result = analysed(tmp_path, stub(8, NORMAL))
    assert {requirement for requirement, _ in result.decisions} == {"SEC-GEN-8"}
    assert result.failures == []


def test_a_smaller_run_still_touches_every_mechanism():
    found = networks(chosen(PROFILES["smoke"].conformance))
    assert {network.configuration.mechanism for network in found} == set(MECHANISMS)
    assert len(found) == len(MECHANISMS)

"""The verdicts: each can fail, and a test that shows nothing says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.attacks_analysis import (
    ATTACKS,
    BROKEN,
    BY_DESIGN,
    CHANNELS,
    INVALID,
    MODES,
    NOT_APPLICABLE,
    RESISTED,
    SESSION_ATTACKS,
    SUCCEEDED,
    TELEMETRY_ATTACKS,
    UNENCRYPTED,
    AttacksResult,
    Outcome,
    analyse,
    attacks_in,
    outcome_rows,
)
from experiments.samples import read_lines
from tests.experiments import synthetic


def _run(path: Path, control: dict[str, float], full: dict[str, float]) -> AttacksResult:
    synthetic.all_attacks(path, control, full)
    return analyse(path)


def _outcome(result: AttacksResult, attack: str, mode: str) -> Outcome:
    [outcome] = [entry for entry in result.outcomes if (entry.attack, entry.mode) == (attack, mode)]
    return outcome


def _change_trials(path: Path, mode: str, change: Any) -> None:
    log = path / "raw" / "attacks" / mode / "trials.jsonl"
    synthetic.write_lines(log, [change(entry) for entry in read_lines(log)])


def test_a_good_run(tmp_path: Path) -> None:
    result = _run(tmp_path, synthetic.ALL_SUCCEED, {})
    assert result.failures == []
    assert {outcome.verdict for outcome in result.outcomes if outcome.mode == "none"} == {SUCCEEDED}
    assert {outcome.verdict for outcome in result.outcomes if outcome.mode == "full"} == {RESISTED}
    assert {(outcome.sent, outcome.delivered) for outcome in result.outcomes} == {(30, 30), (30, 0)}
    assert [outcome.mode for outcome in result.outcomes if outcome.attack == "sniff"] == list(MODES)
    assert outcome_rows(result)[1]["ci_high"] == 1.0


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_single_success_against_protection_fails_the_run(tmp_path: Path, attack: str) -> None:
    result = _run(tmp_path, synthetic.ALL_SUCCEED, {attack: 0.1})
    outcome = _outcome(result, attack, "full")
    assert (outcome.verdict, outcome.delivered) == (BROKEN, 3)
    assert [text.split()[0] for text in result.failures] == [attack]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_that_fails_without_protection_is_no_control(tmp_path: Path, attack: str) -> None:
    result = _run(tmp_path, {**synthetic.ALL_SUCCEED, attack: 0.0}, {})
    assert _outcome(result, attack, "none").verdict == INVALID
    assert _outcome(result, attack, "full").verdict == INVALID
    secret = [mode for mode in MODES if attack in attacks_in(mode) and not (attack == "sniff" and mode in UNENCRYPTED)]
    assert len(result.failures) == len(secret)
    assert {_outcome(result, attack, mode).verdict for mode in secret} == {INVALID}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attacker_who_sent_nothing_shows_nothing(tmp_path: Path, attack: str) -> None:
    _run(tmp_path, synthetic.ALL_SUCCEED, {})
    _change_trials(tmp_path, "full", lambda trial: {**trial, "events": []} if trial["attack"] == attack else trial)
    outcome = _outcome(analyse(tmp_path), attack, "full")
    assert (outcome.verdict, outcome.reason) == (INVALID, "the attacker sent nothing, so nothing is shown")


def test_lost_legitimate_traffic_invalidates_a_mode(tmp_path: Path) -> None:
    _run(tmp_path, synthetic.ALL_SUCCEED, {})
    log = tmp_path / "raw" / "attacks" / "full" / "received-red3.jsonl"
    log.write_text("\n".join(log.read_text().splitlines()[3:]) + "\n")
    result = analyse(tmp_path)
    assert {outcome.verdict for outcome in result.outcomes if outcome.mode == "full"} == {INVALID}
    assert "only 47 of 50 messages" in result.failures[0]


def test_no_legitimate_traffic_at_all(tmp_path: Path) -> None:
    _run(tmp_path, synthetic.ALL_SUCCEED, {})
    (tmp_path / "raw" / "attacks" / "none" / "setup.jsonl").unlink()
    assert _outcome(analyse(tmp_path), "sniff", "none").verdict == INVALID


def test_more_successes_than_packets_cannot_be(tmp_path: Path) -> None:
    _run(tmp_path, synthetic.ALL_SUCCEED, {})
    log = tmp_path / "raw" / "attacks" / "none" / "received-red3.jsonl"
    log.write_text(log.read_text() * 3)
    assert _outcome(analyse(tmp_path), "replay", "none").verdict == INVALID


@pytest.mark.parametrize("attack", TELEMETRY_ATTACKS)
def test_forged_records_need_true_ones_beside_them(tmp_path: Path, attack: str) -> None:
    _run(tmp_path, synthetic.ALL_SUCCEED, {})
    # The other telemetry attack's false records are no true ones.
    log = tmp_path / "raw" / "attacks" / "full" / "records.jsonl"
    other = 99 if attack == "add_telemetry" else 98
    synthetic.write_lines(log, [synthetic.record(other, sequence) for sequence in range(5)])
    outcome = _outcome(analyse(tmp_path), attack, "full")
    assert (outcome.verdict, outcome.reason) == (INVALID, "the transit device exported no true record either")


def _lose(path: Path, mode: str, attack: str, numbers: set[int]) -> None:
    def change(trial: dict[str, Any]) -> dict[str, Any]:
        lost = trial["attack"] == attack and trial["trial"] in numbers
        return {**trial, "missing": "nothing passed"} if lost else trial

    _change_trials(path, mode, change)


@pytest.mark.parametrize("mode", ["none", "full"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_few_lost_trials_leave_the_denominator_and_are_named(tmp_path: Path, attack: str, mode: str) -> None:
    synthetic.all_attacks(tmp_path, synthetic.ALL_SUCCEED, {}, trials=5)
    _lose(tmp_path, mode, attack, {1})
    result = analyse(tmp_path)
    outcome = _outcome(result, attack, mode)
    assert (outcome.trials, outcome.sent) == (4, 40)
    assert any(f"{attack} in mode {mode}: trial lost: nothing passed" in text for text in result.warnings)
    if attack != "modify" or mode == "full":  # an altered message does not tell its trial, so more than 40 arrived
        assert result.failures == []


@pytest.mark.parametrize("mode", ["none", "full"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_more_lost_trials_invalidate_the_verdict(tmp_path: Path, attack: str, mode: str) -> None:
    synthetic.all_attacks(tmp_path, synthetic.ALL_SUCCEED, {}, trials=5)
    _lose(tmp_path, mode, attack, {1, 3})
    result = analyse(tmp_path)
    assert (_outcome(result, attack, mode).verdict, _outcome(result, attack, mode).reason) == (
        INVALID, "2 of 5 trials were lost, more than 20%",
    )  # fmt: skip
    assert result.failures


@pytest.mark.parametrize("lost", [{1}, {0, 1, 2}])
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_that_succeeds_and_breaks_forwarding_is_broken(tmp_path: Path, attack: str, lost: set[int]) -> None:
    _run(tmp_path, synthetic.ALL_SUCCEED, {})
    synthetic.attacks(tmp_path, "full", {attack: 0.1})
    _lose(tmp_path, "full", attack, lost)
    result = analyse(tmp_path)
    outcome = _outcome(result, attack, "full")
    assert (outcome.verdict, outcome.delivered, outcome.trials) == (BROKEN, 3, 3 - len(lost))
    assert f"{len(lost)} lost trials" in outcome.reason
    assert [text.split()[0] for text in result.failures] == [attack]
    assert outcome_rows(result)


def test_a_success_counts_whatever_else_went_wrong(tmp_path: Path) -> None:
    _run(tmp_path, synthetic.ALL_SUCCEED, {"inject": 0.1})
    (tmp_path / "raw" / "attacks" / "full" / "setup.jsonl").unlink()
    result = analyse(tmp_path)
    assert _outcome(result, "inject", "full").verdict == BROKEN
    assert _outcome(result, "sniff", "full").verdict == INVALID


def test_an_empty_run_fails_everywhere(tmp_path: Path) -> None:
    result = analyse(tmp_path)
    assert len(result.failures) == sum(len(attacks_in(mode)) for mode in MODES)


def test_the_device_s_own_outcomes_stand_beside_attacks_on_it_only(tmp_path: Path) -> None:
    rows = {(row["attack"], row["mode"]): row for row in outcome_rows(_run(tmp_path, synthetic.ALL_SUCCEED, {}))}
    for attack in TELEMETRY_ATTACKS:
        assert rows[attack, "full"]["device_outcomes"] == {"t2 exported": 9, "t2 authentication_failed": 30}
        assert rows[attack, "full"]["drops"] == {"nve3 authentication_failed": 30}
    assert rows["inject", "full"]["device_outcomes"] == {}


CHANNEL_ATTACKS = [(mode, attack) for mode in CHANNELS for attack in attacks_in(mode)]


def test_channels_withstand_what_they_claim_to_and_nothing_else(tmp_path: Path) -> None:
    result = _run(tmp_path, synthetic.ALL_SUCCEED, {})
    for mode, attack in CHANNEL_ATTACKS:
        verdict = _outcome(result, attack, mode).verdict
        if attack == "sniff" and mode in UNENCRYPTED:
            assert verdict == BY_DESIGN
        else:
            assert verdict == (NOT_APPLICABLE if attack in TELEMETRY_ATTACKS else RESISTED)
    assert result.failures == []
    assert _outcome(result, "sniff", "ah").reason == "succeeds: AH does not encrypt (30 of 30)"


@pytest.mark.parametrize(("mode", "attack"), CHANNEL_ATTACKS)
def test_a_success_that_a_channel_must_not_allow_fails_the_run(tmp_path: Path, mode: str, attack: str) -> None:
    _run(tmp_path, synthetic.ALL_SUCCEED, {})
    synthetic.attacks(tmp_path, mode, {**({"sniff": 1.0} if mode in UNENCRYPTED else {}), attack: 0.6})
    result = analyse(tmp_path)
    if attack == "sniff" and mode in UNENCRYPTED:
        assert (_outcome(result, attack, mode).verdict, result.failures) == (BY_DESIGN, [])
    else:
        assert _outcome(result, attack, mode).verdict == BROKEN
        delivered = 6 if (mode, attack) == ("dtls", "inject") else 18  # there mallory's other trials bring no messages
        start = f"{attack} in mode {mode}: BROKEN: {delivered} successes"
        assert any(text.startswith(start) for text in result.failures)


def test_clear_text_that_cannot_be_read_shows_that_the_attack_was_none(tmp_path: Path) -> None:
    _run(tmp_path, synthetic.ALL_SUCCEED, {})
    synthetic.attacks(tmp_path, "ah", {"sniff": 0.1})
    outcome = _outcome(analyse(tmp_path), "sniff", "ah")
    assert (outcome.verdict, outcome.reason) == (INVALID, "nothing is encrypted, and yet only 3 of 30 were read")


@pytest.mark.parametrize("attack", TELEMETRY_ATTACKS)
def test_a_device_that_reports_under_a_channel_acts_on_something(tmp_path: Path, attack: str) -> None:
    _run(tmp_path, synthetic.ALL_SUCCEED, {})
    synthetic.write_lines(tmp_path / "raw" / "attacks" / "esp" / "records.jsonl", [synthetic.record(7, 1)])
    outcome = _outcome(analyse(tmp_path), attack, "esp")
    assert outcome.verdict == INVALID
    assert "the collector has 1 records" in outcome.reason


@pytest.mark.parametrize("lost", [0, 1, 4])
def test_forged_records_that_break_a_session_are_a_success_though_no_message_came(tmp_path: Path, lost: int) -> None:
    _run(tmp_path, synthetic.ALL_SUCCEED, {})
    trials = read_lines(tmp_path / "raw" / "attacks" / "dtls" / "trials.jsonl")
    windows = [(trial["begin_ns"], trial["end_ns"]) for trial in trials if trial["variant"] in SESSION_ATTACKS]
    sent = read_lines(tmp_path / "raw" / "attacks" / "dtls" / "sent-red1.jsonl")
    during = [entry["payload"] for entry in sent[:50] if any(a <= entry["time_ns"] <= b for a, b in windows)]
    log = tmp_path / "raw" / "attacks" / "dtls" / "received-red3.jsonl"
    synthetic.write_lines(log, [entry for entry in read_lines(log) if entry["payload"] not in during[:lost]])
    outcome = _outcome(analyse(tmp_path), "inject", "dtls")
    assert f"{lost} of {len(during)} legitimate messages lost" in outcome.evidence + outcome.reason
    assert outcome.verdict == (BROKEN if lost else RESISTED)

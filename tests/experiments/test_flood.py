"""The flood: each forged packet is of its kind, the pace holds, and the analysis says what may fail."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from experiments.dataplane import flood_analysis as analysis
from experiments.dataplane import flood_plots, reject
from experiments.dataplane.flooder import Pace
from experiments.dataplane.kinds import (
    BAD_TAG,
    BAD_TAG_FAR,
    KINDS,
    REASONS,
    REPLAYED,
    UNKNOWN_SPI,
    UNPROTECTED,
    forge,
    security_of,
)
from experiments.dataplane.plane import Peers, Plane, Shape, packets_like
from experiments.profiles import PROFILES
from geneve.drops import DropReason
from geneve.security.limiter import PLAUSIBLE_AHEAD
from tests.experiments.synthetic import write_lines


@pytest.mark.parametrize("kind", [UNPROTECTED, *KINDS])
def test_a_forged_packet_is_refused_for_the_reason_of_its_kind_alone(kind):
    plane = Plane(Shape(rules=2))
    plane.opens()
    true = Peers(plane).packet(0, 0)
    assert plane.receive([true]) == 1
    packets = [forge(kind, true.payload, index, random.Random(index)) for index in range(50)]
    assert plane.receive(packets_like(true, packets)) == 0
    counted = {reason.value: count for reason, count in plane.drops().items()}
    assert counted.keys() <= set(REASONS[kind])
    assert sum(counted.values()) == 50
    assert {len(packet) for packet in packets} == {len(true.payload) - (32 if kind == UNPROTECTED else 0)}


def test_numbers_are_plausible_or_not_as_the_kind_says():
    plane = Plane(Shape())
    plane.opens()
    true = Peers(plane).packet(0, 0).payload
    spi, number = security_of(true)
    for index in range(50):
        chance = random.Random(index)
        near, far = (security_of(forge(kind, true, index, chance)) for kind in (BAD_TAG, BAD_TAG_FAR))
        assert near[0] == far[0] == spi
        assert number < near[1] < number + PLAUSIBLE_AHEAD < far[1] < 2**64
        assert security_of(forge(UNKNOWN_SPI, true, index, chance))[0] != spi


def test_every_reason_is_one_there_is():
    assert {reason for reasons in REASONS.values() for reason in reasons} <= {reason.value for reason in DropReason}


def test_a_packet_of_another_form_cannot_be_forged():
    with pytest.raises(ValueError, match="single security option"):
        forge(BAD_TAG, bytes([4]) + bytes(100), 0, random.Random(1))


def test_the_pace_is_kept_and_no_burst_makes_up_for_a_long_pause():
    pace = Pace(1000.0, 0.0, 10_000)
    assert sum(pace.take(step / 1500) for step in range(1501)) in (999, 1000)
    assert pace.take(100.0) in (19, 20)
    assert Pace(1000.0, 0.0, 3).take(0.01) == 3
    ending = Pace(1000.0, 0.0, 3)
    assert [ending.take(0.002), ending.take(0.02), ending.take(0.04)] == [2, 1, 0]
    assert ending.left == 0


def test_the_cost_of_refusals_is_measured_for_every_kind(monkeypatch):
    monkeypatch.setattr(reject, "_ROUNDS", 1)
    monkeypatch.setattr(reject, "_PACKETS", 64)
    written: list[dict[str, Any]] = []

    class Writer:
        write = staticmethod(written.append)

    reject.measure(random.Random(1), Writer())
    assert {entry["kind"] for entry in written} == {analysis.TRUE, UNPROTECTED, *KINDS}


def test_the_plan_has_every_kind_and_rate_and_more_of_the_target():
    profile = PROFILES["quick"]
    plan = analysis.points(profile.flood_rates, profile.flood_repeats, profile.repeats)
    assert {(kind, rate) for kind, rate, _ in plan} >= {(kind, rate) for kind in KINDS for rate in profile.flood_rates}
    for kind, rate in analysis.target_pair():
        repeats = [repeat for this, at, repeat in plan if (this, at) == (kind, rate)]
        assert sorted(repeats) == list(range(profile.repeats))
    assert len(set(plan)) == len(plan)
    assert len(plan) * analysis.point_seconds(profile) < 170


# Analysis ---------------------------------------------------------------------------------------------------


def flood(kind: str, rate: int, repeat: int, order: int, goodput: float = 1e8, **changed: Any) -> dict[str, Any]:
    reason = REASONS[kind][0] if rate and REASONS[kind] else None
    sent = rate
    quiet = {"seconds": 1.0, "drops": {reason: sent} if reason else {}, "cpu_ns": 10_000_000 + 5000 * sent}
    entry = {
        "measure": "flood", "kind": kind, "rate": rate, "repeat": repeat, "order": order, "value": goodput,
        "unit": "bit/s", "missing": None, "before": 1e8, "sent": sent, "failed": 0, "seconds": 1.0, "buffer_drops": 0,
        "whole": {"drops": dict(quiet["drops"])}, "under_load": {"cpu_ns": 5e8, "seconds": 1.0}, "quiet": quiet,
        "rtts": [0.2, 0.3, 0.4], "pings_lost": 0, "probes": 10,
    }  # fmt: skip
    return {**entry, **changed}


def control(mode: str, kind: str, delivered: int, refused: int = 100) -> dict[str, Any]:
    return {"measure": "control", "mode": mode, "kind": kind, "value": delivered, "sent": 100, "missing": None,
            "drops": {REASONS[kind][0]: refused} if refused else {}}  # fmt: skip


def controls() -> list[dict[str, Any]]:
    return [
        control("none", UNPROTECTED, 100, 0), control("none", REPLAYED, 100, 0),
        *(control("full", kind, 0) for kind in (UNPROTECTED, *KINDS)),
    ]  # fmt: skip


def samples(goodput: float = 9e7) -> list[dict[str, Any]]:
    found = [{"measure": "offloads", "value": {"nve2": {"merge": "on"}}}, *controls()]
    found += [{"measure": "refusal", "kind": kind, "round": 0, "value": 2.0, "missing": None}
              for kind in (analysis.TRUE, UNPROTECTED, *KINDS)]  # fmt: skip
    plan = analysis.points((1000, 20_000), 2, 6)
    return found + [
        flood(kind, rate, repeat, order, goodput if rate else 1e8) for order, (kind, rate, repeat) in enumerate(plan)
    ]


def analyse(tmp_path, entries, lost: int = 0):
    folder = tmp_path / "raw" / analysis.NAME
    write_lines(folder / analysis.SAMPLES, entries)
    log = [
        {"label": analysis.PROBE, "trial": entry["order"], "index": index, "event": "received"}
        for entry in entries
        if entry["measure"] == "flood"
        for index in [*range(lost, 10), 9]  # one comes twice, and counts once
    ]
    write_lines(folder / "hosts" / "received-f2.jsonl", log)
    return analysis.analyse(tmp_path)


def test_a_run_as_it_should_be(tmp_path):
    result = analyse(tmp_path, samples())
    assert result.failures == []
    assert result.warnings == []
    assert result.target == {"kind": BAD_TAG, "rate": 20_000, "ratio": 0.9, "target": 0.7, "met": True}
    assert {row["lost"] for row in result.latency} == {0}
    (row,) = [row for row in result.refusals if (row["kind"], row["rate"]) == (BAD_TAG, 20_000)]
    assert (row["sent"], row["refused"], row["others"], row["cpu_us"], row["alone_us"]) == (120_000, 120_000, {}, 5, 2)
    assert {row["verdict"] for row in result.controls} == {analysis.SUCCEEDED, analysis.RESISTED}
    analysis.write_tables(result, tmp_path)
    assert len(flood_plots.draw(result, tmp_path)) == 3
    json.dumps(analysis.summary(result))


def test_a_missed_target_and_lost_probes_show(tmp_path):
    result = analyse(tmp_path, samples(goodput=6e7), lost=3)
    assert not result.target["met"]
    assert any("0.6" in text for text in result.warnings)
    row = next(row for row in result.latency if row["kind"] == BAD_TAG)
    assert (row["lost"], row["probes"]) == (6, 20)


@pytest.mark.parametrize(
    ("index", "changed", "verdict"),
    [
        (0, control("none", UNPROTECTED, 10, 0), analysis.INVALID),
        (2, control("full", UNPROTECTED, 50, 50), analysis.BROKEN),
        (3, control("full", UNKNOWN_SPI, 0, 20), analysis.INVALID),
        (3, {**control("full", UNKNOWN_SPI, 0), "sent": 0}, analysis.INVALID),
    ],
)
def test_a_control_that_does_not_hold_fails_the_run(tmp_path, index, changed, verdict):
    entries = samples()
    entries[1 + index] = changed
    result = analyse(tmp_path, entries)
    assert [row["verdict"] for row in result.controls][index] == verdict
    assert any(verdict in text for text in result.failures)


def test_a_control_that_is_not_there_fails_the_run(tmp_path):
    entries = samples()
    del entries[1]
    assert any("no control of unprotected (none)" in text for text in analyse(tmp_path, entries).failures)


def test_a_true_packet_refused_by_the_limiter_fails_the_run(tmp_path):
    entries = samples()
    wrong = next(entry for entry in entries if entry.get("kind") == BAD_TAG and entry["measure"] == "flood")
    wrong["whole"]["drops"][analysis.LIMITED] = 1
    assert any("limiter refused 1" in text for text in analyse(tmp_path, entries).failures)


def test_packets_refused_for_another_reason_are_no_measurement_of_their_kind(tmp_path):
    entries = samples()
    for entry in entries:
        if entry.get("kind") == BAD_TAG and entry["measure"] == "flood":
            entry["whole"]["drops"] = {"behind_window": entry["sent"]}
    assert any("behind_window" in text for text in analyse(tmp_path, entries).failures)


def test_what_is_missing_and_an_attacker_that_is_too_slow_are_named(tmp_path):
    entries = samples()
    gone = [entry for entry in entries if entry["measure"] == "flood"]
    slow = next(entry for entry in gone if entry["kind"] == REPLAYED and entry["rate"] == 20_000)
    slow.update(seconds=2.0)
    next(entry for entry in gone if entry["kind"] == UNKNOWN_SPI).update(value=None, missing="ping gave no summary")
    result = analyse(tmp_path, entries)
    assert result.failures == []
    assert sorted("ping gave" in text or "the attacker reached" in text for text in result.warnings) == [True, True]
    for entry in gone:
        entry.update(value=None, missing="all is lost")
    assert len(analyse(tmp_path, entries).failures) > 10

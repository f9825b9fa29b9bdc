"""The scale of the data plane: every point can be timed, and the analysis says of growth what is so."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from experiments.dataplane import scale_analysis as analysis
from experiments.dataplane import scale_plots
from experiments.dataplane.plane import FRAME_SIZE, Peers, Plane, Shape
from experiments.dataplane.points import (
    ASSOCIATIONS,
    AUDIENCES,
    FLOW_KEYS,
    FLOWS,
    FRAME_BYTES,
    FULL,
    HEADERS_ONLY,
    NEW,
    NO_PROTECTION,
    ONE,
    OPEN,
    ROUND_ROBIN,
    RULES,
    SEAL,
    SERIES,
    SIDES,
    SIZES,
    ZIPF,
    Point,
    all_points,
)
from experiments.dataplane.worker import Station, places, shape_of, weigh
from geneve.header import MAX_OPTIONS_SIZE
from geneve.security.option import SECURITY_OPTION_SIZE
from tests.experiments.synthetic import write_lines

SMALL = {ASSOCIATIONS: 3, RULES: 5, FLOWS: 70, AUDIENCES: 7, FRAME_BYTES: 8900}


@pytest.mark.parametrize(
    "point",
    [Point(axis, series, SMALL[axis], side) for axis in SERIES for series in SERIES[axis] for side in SIDES],
    ids=str,
)
def test_every_packet_of_a_point_gets_through(point):
    assert Station(point, 1).round(100) > 0


def test_a_packet_that_does_not_get_through_is_an_error_and_no_figure():
    station = Station(Point(FLOWS, ROUND_ROBIN, 2, SEAL), 1)
    station._plane.opens()  # no outbound association any more
    with pytest.raises(RuntimeError, match="0 of 10"):
        station.round(10)


@pytest.mark.parametrize("audiences", SIZES[AUDIENCES])
def test_each_audience_has_an_option_of_its_own(audiences):
    plane = Plane(Shape(audiences=audiences, option=True))
    size = len(Peers(plane).packet(0, 0).payload) - FRAME_SIZE - 8
    assert size == 8 + audiences * SECURITY_OPTION_SIZE
    assert size <= MAX_OPTIONS_SIZE
    assert (size + SECURITY_OPTION_SIZE > MAX_OPTIONS_SIZE) == (audiences == max(SIZES[AUDIENCES]))


def test_whose_packets_come():
    def first(axis: str, series: str, size: int, count: int, seed: int = 1) -> list[tuple[int, int]]:
        return list(itertools.islice(places(Point(axis, series, size, SEAL), seed), count))

    assert first(ASSOCIATIONS, ROUND_ROBIN, 3, 6) == [(0, 0), (1, 0), (2, 0)] * 2
    assert set(first(ASSOCIATIONS, "one", 3, 6)) == {(0, 0)}
    assert len(set(first(RULES, NEW, 3, 1000))) == 1000
    assert [flow for _, flow in first(FLOWS, ROUND_ROBIN, 2, 4)] == [0, 1, 0, 1]
    zipf = [flow for _, flow in first(FLOWS, ZIPF, 50, 3000)]
    assert zipf == [flow for _, flow in first(FLOWS, ZIPF, 50, 3000)]
    assert max(zipf) < 50
    assert zipf.count(0) > 2 * zipf.count(4) > 0


def test_points_stay_within_what_is_asked_for():
    assert {point.size for point in all_points() if point.axis == FLOWS} == set(SIZES[FLOWS])
    assert max(point.size for point in all_points() if point.series == FLOW_KEYS) < max(SIZES[FLOWS])
    assert {point.size for point in all_points({FLOWS: 10}) if point.axis == FLOWS} == {1, 10}


def test_memory_is_weighed():
    assert weigh(ASSOCIATIONS, OPEN, 50)["bytes"] >= 0
    assert weigh(FLOWS, SEAL, 50)["bytes"] >= 0


def entry(point: Point, number: int, value: float) -> dict[str, Any]:
    return {"measure": "cost", **point.as_dict(), "round": number, "order": 0, "value": value, "unit": "us/packet",
            "missing": None}  # fmt: skip


def made_up(cost: Any, rounds: int = 6) -> list[dict[str, Any]]:
    found = [{"measure": "bounds", "value": {"flow cache, least": 16384, "flow cache, most": 32768,
              "flow keys per association": 4096}}]  # fmt: skip
    # A drift of the machine, which is to cancel out of the ratios.
    found += [entry(point, n, cost(point) * (1 + n)) for n in range(rounds) for point in all_points()]
    for size, side in itertools.product((1000, 10_000), SIDES):
        found.append({"measure": "memory", "axis": FLOWS, "side": side, "size": size, "repeat": 0, "value": 500 * size,
                      "missing": None})  # fmt: skip
    return found


def analyse(tmp_path, samples):
    write_lines(tmp_path / "raw" / analysis.NAME / analysis.SAMPLES, samples)
    return analysis.analyse(tmp_path)


def rows_of(result, **wanted):
    return [row for row in result.growth if all(row[name] == value for name, value in wanted.items())]


def test_what_is_flat_is_called_flat_and_beyond_the_cache_it_need_not_be(tmp_path):
    def cost(point: Point) -> float:
        if point.axis == FLOWS and point.size > 20_000:
            return 50.0
        if point.axis == AUDIENCES and point.side == SEAL:
            return 2.0 + point.size
        if point.series == NEW:
            return 5.0 + point.size / 2
        together = point.size == 1 and point.axis in (ASSOCIATIONS, FLOWS)
        return 1.0 if together and point.series != ONE else 3.0

    result = analyse(tmp_path, made_up(cost))
    assert result.failures == []
    assert result.warnings == []
    (row,) = rows_of(result, axis=FLOWS, series=ROUND_ROBIN, side=SEAL)
    assert (row["ratio"], row["ratio_to_reference"], row["reference_size"], row["verdict"]) == (50, 1, 10_000, "flat")
    (row,) = rows_of(result, axis=AUDIENCES, side=SEAL)
    assert row["verdict"] == "grows"
    assert row["ratio_to_reference"] == 3
    assert {row["bytes_each"] for row in result.memory} == {500}
    analysis.write_tables(result, tmp_path)
    assert len(scale_plots.draw(result, tmp_path)) == 5
    json.dumps(analysis.summary(result))


def test_frames_are_as_long_as_the_point_says_and_protected_as_far():
    for series, overhead in ((NO_PROTECTION, 8), (FULL, 40), (HEADERS_ONLY, 44)):
        peers = Peers(Plane(shape_of(Point(FRAME_BYTES, series, 1400, OPEN))))
        packet = peers.packet(0, 0).payload
        assert len(packet) == 1400 + overhead
        assert (bytes(1300) in packet) == (series != FULL)


def test_what_headers_only_saves_is_told_of_the_whole_and_of_what_protection_adds(tmp_path):
    costs = {NO_PROTECTION: 1.0, FULL: 5.0, HEADERS_ONLY: 3.0}
    result = analyse(tmp_path, made_up(lambda point: costs.get(point.series, 1.0)))
    assert len(result.coverage) == 2 * len(SIZES[FRAME_BYTES])
    for row in result.coverage:
        assert (row["ratio"], row["ratio_low"], row["ratio_high"], row["protection_ratio"]) == (0.6, 0.6, 0.6, 0.5)


def test_what_should_be_flat_and_is_not_is_named(tmp_path):
    grows = Point(ASSOCIATIONS, ROUND_ROBIN, 0, OPEN)

    def cost(point: Point) -> float:
        return 1.0 * point.size if replace(point, size=0) == grows else 1.0

    result = analyse(tmp_path, made_up(cost))
    assert [row["verdict"] for row in rows_of(result, axis=ASSOCIATIONS, series=ROUND_ROBIN)] == ["flat", "not flat"]
    assert rows_of(result, axis=ASSOCIATIONS, side=OPEN)[0]["exponent"] == 1
    assert len(result.warnings) == 1
    assert "1000" in result.warnings[0]


def test_a_series_without_a_sample_is_a_failure(tmp_path):
    samples = [entry for entry in made_up(lambda _: 1.0) if entry.get("series") != ZIPF]
    assert len(analyse(tmp_path, samples).failures) == 2
    assert analyse(tmp_path / "none", []).failures

"""Paths: what the scenario claims, and what the devices' records say of it."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.bench import address_of, devices_between, host_at, neighbours_on_link, transit_between
from experiments.context import ExperimentError
from experiments.telemetry_analysis import of_flow, path_counts, path_faults
from tests.experiments.synthetic import DESTINATION, SOURCE, VNI
from tests.experiments.synthetic import record as synthetic_record
from topologies.scenario import Scenario
from topologies.scenario_file import load_scenario

EXPECTED = ["t2", "t3"]


@pytest.fixture(scope="module")
def default() -> Scenario:
    return load_scenario("default")


def cut(scenario: Scenario, first: str, second: str) -> Scenario:
    """The scenario without the link between two switches."""
    links = tuple(link for link in scenario.underlay.links if {*link.between} != {first, second})
    return scenario.model_copy(update={"underlay": scenario.underlay.model_copy(update={"links": links})})


def record(device: str, sequence: int, at: int, **fields: Any) -> dict[str, Any]:
    return {**synthetic_record(7, sequence, device, at), **fields}


def sound(packets: int = 3) -> list[dict[str, Any]]:
    return [record(name, n, 1000 * n + place) for n in range(packets) for place, name in enumerate(EXPECTED)]


def test_devices_come_in_the_order_of_the_way(default: Scenario) -> None:
    assert devices_between(default, "nve1", "nve3") == ["t1", "t2", "eve"]
    assert devices_between(default, "nve3", "nve1") == ["eve", "t2", "t1"]
    assert transit_between(default, "nve1", "nve3") == ["t1", "t2"]
    assert devices_between(default, "nve1", "nve1") == []


def test_the_cheapest_way_counts_and_not_the_shortest(default: Scenario) -> None:
    detour = cut(default, "s2", "s3")
    assert devices_between(detour, "nve1", "nve3") == []
    assert devices_between(detour, "nve2", "nve3") == ["t1"]


def test_no_way_is_an_error(default: Scenario) -> None:
    with pytest.raises(ExperimentError, match="no way from 'nve1' to 'nve3'"):
        devices_between(cut(cut(default, "s2", "s3"), "s4", "s3"), "nve1", "nve3")


def test_the_overhead_scenario_has_the_hops_that_its_figures_claim() -> None:
    scenario = load_scenario("overhead")
    assert [transit_between(scenario, "nve0", nve) for nve in ("nve1", "nve2", "nve3")] == [[], ["t1"], EXPECTED]


def test_neighbours_on_a_link(default: Scenario) -> None:
    assert neighbours_on_link(default, "t2") == ("s2", "eve")
    assert neighbours_on_link(default, "eve") == ("t2", "s3")
    with pytest.raises(ExperimentError, match="'mallory' is on no link"):
        neighbours_on_link(default, "mallory")


def test_hosts_and_addresses(default: Scenario) -> None:
    assert host_at(default, "blue", "nve2") == "blue2"
    assert address_of(default, "blue2") == "10.0.0.2"
    with pytest.raises(ExperimentError, match="no host behind 'nve9'"):
        host_at(default, "blue", "nve9")
    with pytest.raises(ExperimentError, match="'eve' is no tenant's host"):
        address_of(default, "eve")


def test_records_of_a_flow_only() -> None:
    wanted = record("t1", 1, 500)
    others = [
        record("t1", 2, 500, vni=VNI + 1),
        record("t1", 3, 500, source=DESTINATION, destination=SOURCE),
        record("t1", 4, 499),
        {"device": "t1"},
    ]
    assert of_flow([*others, wanted], VNI, SOURCE, DESTINATION, since_ns=500) == [wanted]


def test_a_path_is_the_order_in_time() -> None:
    entries = [record("t3", 1, 20), record("t2", 1, 10), record("t2", 2, 30), record("t2", 3, 40), record("t2", 3, 41)]
    assert path_counts(entries) == {("t2", "t3"): 1, ("t2",): 1, ("t2", "t2"): 1}


def test_nothing_is_wrong_with_a_sound_flow() -> None:
    assert path_faults(sound(), EXPECTED, 3, authenticated=True) == []
    assert path_faults([], [], 3, authenticated=True) == []


@pytest.mark.parametrize(
    ("entries", "expected", "fault"),
    [
        ([], EXPECTED, "0 of 3 packets were reported"),
        (sound(2), EXPECTED, "2 of 3 packets were reported"),
        (sound(4), EXPECTED, "4 of 3 packets were reported"),
        (sound(), ["t3", "t2"], "3 packets were reported by ['t2', 't3']"),
        (sound(), ["t2"], "3 packets were reported by ['t2', 't3']"),
        (sound()[:-1], EXPECTED, "1 packets were reported by ['t2']"),
        ([*sound(), record("t1", 0, 5000)], EXPECTED, "1 packets were reported by ['t2', 't3', 't1']"),
        ([record("t1", 0, 5)], [], "1 packets were reported by ['t1']"),
        ([*sound()[1:], record("t2", 0, 0, authenticated=False)], EXPECTED, "some records are unauthenticated"),
    ],
)
def test_every_deviation_is_a_fault(entries: list[dict[str, Any]], expected: list[str], fault: str) -> None:
    assert path_faults(entries, expected, 3, authenticated=True) == [fault]


def test_authentication_where_there_should_be_none_is_a_fault() -> None:
    assert path_faults(sound(), EXPECTED, 3, authenticated=False) == ["some records are authenticated"]

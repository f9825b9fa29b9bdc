"""Counters of switches: when they are asked, what is kept of their answers, and how much at most."""

from __future__ import annotations

import json

import pytest

from controller.fabric import counters
from controller.fabric.counters import Counters, FlowCount, PortCount
from controller.fabric.flows import LEARN_TABLE
from controller.fabric.underlay import AskStats, FlowStats, PortStats, SwitchDown, SwitchUp
from tests.controller.inventories import build, document
from tests.controller.test_underlay import Network

GUARD = 253
NAMES = {1: "s1", 2: "s2"}


def flow(packets: int, priority: int = 300, match: str = "a") -> FlowCount:
    return FlowCount(LEARN_TABLE, priority, {"eth_dst": match}, packets, packets * 100)


def port(number: int, packets: int = 0) -> PortCount:
    return PortCount(number, packets, packets, 0, 0, 0, 0)


def asked(interval: float = 5) -> Counters:
    table = Counters(interval)
    table.switch_up(1, 0)
    assert table.due(interval) == [1]
    return table


def test_a_switch_is_asked_at_intervals_and_not_again_before_it_answers() -> None:
    table = Counters(5)
    table.switch_up(1, 0)
    assert table.due(4.9) == []
    assert table.due(5) == [1]
    assert table.due(10) == [], "it has not answered"
    table.flows(1, (flow(1),), False, 11)
    assert table.due(15) == [1]
    due = [table.due(15 + 5 * number) for number in range(1, counters.PATIENCE + 1)]
    assert due == [[]] * (counters.PATIENCE - 1) + [[1]], "but not for ever"


def test_no_interval_no_questions() -> None:
    table = Counters(0)
    table.switch_up(1, 0)
    assert table.due(1e6) == []
    assert table.view(NAMES, 0)["switches"][0]["age_s"] is None


def test_an_answer_shows_when_all_its_parts_are_there() -> None:
    table = asked()
    table.flows(1, (flow(1, match="a"),), True, 5.1)
    assert table.view(NAMES, 6)["switches"][0]["flows"] == []
    table.flows(1, (flow(2, match="b"),), False, 5.5)
    (switch,) = table.view(NAMES, 6)["switches"]
    assert [entry["packets"] for entry in switch["flows"]] == [1, 2]
    assert switch["flows"][0] == {
        "table": 0, "priority": 300, "match": {"eth_dst": "a"}, "packets": 1, "bytes": 100, "spoofed": False
    }  # fmt: skip
    assert (switch["name"], switch["age_s"]) == ("s1", 0.5)
    assert json.dumps(switch)


def test_ports_are_replaced_one_by_one() -> None:
    table = asked()
    table.ports(1, (port(2, 5), port(1, 7)))
    table.ports(1, (port(2, 6),))
    (switch,) = table.view(NAMES, 6)["switches"]
    assert [(entry["port"], entry["tx_packets"]) for entry in switch["ports"]] == [(1, 7), (2, 6)]


def test_memory_is_bounded_whatever_a_switch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "MAX_FLOWS", 10)
    monkeypatch.setattr(counters, "MAX_PORTS", 5)
    table = asked()
    for part in range(20):
        table.flows(1, tuple(flow(1, match=f"{part}-{number}") for number in range(7)), part < 19, 6)
        assert len(table._switches[1].coming) <= 11, "not while it comes in, either"
    table.flows(1, (flow(1),), False, 7)  # for nothing that was asked
    table.ports(1, tuple(port(number) for number in range(1, 50)))
    table.flows(99, (flow(1),), False, 6)
    table.ports(99, (port(1),))
    (switch,) = table.view(NAMES, 6)["switches"]
    assert (len(switch["flows"]), switch["truncated"], len(switch["ports"])) == (10, True, 5)


def spoofed(table: Counters) -> int:
    return int(table.view(NAMES, 0)["spoofed_packets"])


def test_the_total_of_spoofed_packets_never_goes_back() -> None:
    table, now = Counters(1), 0.0
    table.switch_up(1, now)

    def answer(*flows: FlowCount) -> int:
        nonlocal now
        now += 1
        assert table.due(now) == [1]
        table.flows(1, flows, False, now)
        return spoofed(table)

    assert answer(flow(3, GUARD, "a"), flow(1, GUARD, "b"), flow(1000)) == 4
    assert answer(flow(5, GUARD, "a"), flow(1, GUARD, "b")) == 6
    assert answer(flow(5, GUARD, "a")) == 6, "a rule went"
    assert answer(flow(5, GUARD, "a"), flow(2, GUARD, "b")) == 8, "and came back, counting from zero"
    assert answer(flow(1, GUARD, "a"), flow(2, GUARD, "b")) == 9
    table.switch_down(1)
    assert spoofed(table) == 9
    assert table.view(NAMES, 0)["switches"] == []
    table.switch_up(1, now)
    assert answer(flow(1, GUARD, "a")) == 10


def test_the_underlay_asks_and_shows() -> None:
    data = document()
    data["fabric"] = {"counters_seconds": 2}
    network = Network(build(data))
    network.start()
    asks: list[int] = []
    for _ in range(25):
        network.now += 0.1
        asks += [command.dpid for command in network.tick() if isinstance(command, AskStats)]
    assert sorted(asks) == [1, 2, 3, 4]
    assert network.handle(FlowStats(2, (flow(3),))) == []
    assert network.handle(PortStats(2, (port(1, 4),))) == []
    document_of = network.underlay.flows_view(network.now)
    assert [switch["name"] for switch in document_of["switches"]] == ["s1", "s2", "s3", "s4"]
    assert document_of["switches"][1]["flows"][0]["packets"] == 3
    network.handle(SwitchDown(2))
    assert len(network.underlay.flows_view(network.now)["switches"]) == 3
    network.handle(SwitchUp(99, {1: True}))
    network.handle(FlowStats(99, (flow(3),)))
    assert len(network.underlay.flows_view(network.now)["switches"]) == 3, "a stranger is not asked"

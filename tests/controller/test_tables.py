"""Documents as tables: aligned, complete, and harmless to a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from controller.operators.tables import VIEWS, cell, event_line, moment, table
from tests.controller.operator_backend import ASSOCIATION, MAPPING, NODE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        ([], "-"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (1.25, "1.2"),
        (["a", None, 3], "a,-,3"),
        ({"vni": 5, "cast": "unicast"}, "vni=5 cast=unicast"),
        ("\x1b[2Jx\n\u202e", "?[2Jx??"),
        ("größer", "größer"),
    ],
)
def test_a_cell(value: object, text: str) -> None:
    assert cell(value) == text


def test_texts_go_to_the_left_and_numbers_to_the_right() -> None:
    assert table(("NAME", "COUNT"), [["a", 5], ["longer", 1000], ["", None]]).splitlines() == [
        "NAME    COUNT",
        "a           5",
        "longer   1000",
        "-           -",
    ]
    assert table(("NAME", "COUNT"), []) == "NAME  COUNT"
    assert table(("A", "B"), [[True, "x"]]).splitlines() == ["A    B", "yes  x"]


def test_nodes() -> None:
    text = VIEWS["nodes"]({"epoch": "e1", "converged": False, "nodes": [NODE]})
    assert text.splitlines() == [
        "NAME  ROLE  ADDRESS      CONNECTED  IN-STEP  REVOKED  SINCE-S  SEQUENCE  REFUSAL",
        "nve1  nve   192.168.1.1  yes        yes      no           1.5         3        -",
        "",
        "epoch e1: changes are on their way",
    ]


def test_mappings_and_associations() -> None:
    assert "100  02:00:00:00:00:01  10.0.0.1  nve1    0  yes" in VIEWS["mappings"]({"mappings": [MAPPING]})
    lines = VIEWS["associations"]({"associations": [ASSOCIATION]}).splitlines()
    assert lines[1].split() == ["4711", "current", "egress", "nve1", "nve2", "-", "-", "full", "-", "1.2", "-"]


def test_tenants() -> None:
    vni: dict[str, Any] = {
        "vni": 100, "action": "secure", "profile": "full", "learned": True, "tags": False, "mtu": 1400,
        "members": ["nve1", "nve2"],
    }  # fmt: skip
    document = {"tenants": [{"name": "red", "vnis": [vni, {**vni, "vni": 101, "profile": None}]}]}
    lines = VIEWS["tenants"](document).splitlines()
    assert lines[1].split() == ["red", "100", "secure", "full", "yes", "no", "1400", "nve1,nve2"]
    assert lines[2].split()[:4] == ["red", "101", "secure", "-"]


def test_policy() -> None:
    rule = {
        "name": "web", "direction": "both", "vni": 100, "source": {"mac": None, "ip": None, "port": None},
        "destination": {"mac": None, "ip": "10.0.0.0/24", "port": 80}, "protocol": "tcp", "action": "bypass",
        "profile": None,
    }  # fmt: skip
    document = {
        "version": 4,
        "document": {"profiles": [], "policy": [rule], "vnis": {"100": {"action": "secure", "profile": "full"}}},
        "candidate": {"version": 5, "waiting": ["nve1"]},
        "rejected": {"version": 3, "reason": "nve2 cannot apply it"},
    }
    text = VIEWS["policy"](document)
    for part in (
        "version 4 is in force",
        "version 5 is being checked by nve1",
        "version 3 was given up: nve2 cannot apply it",
        "vni=100 to-ip=10.0.0.0/24 to-port=80 protocol=tcp  bypass",
        "VNI 100    secure  full",
    ):
        assert part in text


def test_topology_and_flows() -> None:
    link = {"between": ["s1", "s2"], "ports": [1, None], "via": ["t1"], "cost": 10, "up": True, "tree": False}
    topology = {
        "switches": [{"name": "s1", "dpid": 1, "connected": True}],
        "links": [link],
        "hosts": [{"mac": "02:00:00:00:00:01", "switch": "s1", "port": 3}],
        "paths": [{"from": "nve1", "to": "nve2", "transit": []}],
        "complete": False,
    }
    text = VIEWS["topology"](topology)
    assert "s1,s2  1,-    t1     10  yes  no" in text
    assert text.endswith("links are missing")
    flow = {"table": 0, "priority": 5, "match": {"in_port": 1}, "packets": 7, "bytes": 700, "spoofed": False}
    flows = {"spoofed_packets": 3, "switches": [{"name": "s1", "flows": [flow, {**flow, "match": {}}]}]}
    text = VIEWS["flows"](flows)
    assert "in_port=1" in text
    assert "everything" in text
    assert text.endswith("3 packets with another's source address were dropped")


def test_events() -> None:
    event = {"number": 12, "time": 1795573661.545, "kind": "refused", "node": "", "text": "a \x1b[31mred\n text"}
    assert moment(event["time"]) == "2026-11-25T02:27:41.545Z"
    assert event_line(event) == "12  2026-11-25T02:27:41.545Z  refused  -  a ?[31mred? text"
    assert VIEWS["events"]({"events": [event]}).splitlines()[1].endswith("refused  -     a ?[31mred? text")

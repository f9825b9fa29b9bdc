"""Tenants that NVEs report: who may report what, who is told, questions, conflicts and the audit log."""

from __future__ import annotations

from typing import Any

import pytest

from controller.authority.tenants import ASK_LIMIT, ASK_REPEAT
from controller.operators.operations import Fault, OperationError, RemoveMapping, SetMapping
from geneve.control import jsonrpc
from geneve.control.demand import MAX_TENANT_IPS, MAX_TENANTS, Tenant
from geneve.control.state import Mapping
from tests.controller.inventories import build, document
from tests.controller.world import Node, World, check_only_own_keys

MAC, OTHER = "02:00:00:00:00:77", "02:00:00:00:00:78"


def learning() -> tuple[World, dict[str, Node]]:
    data = document()
    data["vnis"][0]["learned"] = True
    world = World(build(data))
    return world, world.register_all()


def tenant(mac: str = MAC, *ips: str, vni: int = 100) -> Tenant:
    return Tenant(vni=vni, mac=mac, ips=ips)


def where(node: Node, mac: str = MAC, vni: int = 100) -> list[str]:
    return [item.nve for item in node.state.mappings if (item.mac, item.vni) == (mac, vni)]


def test_a_tenant_that_appears_is_known_to_every_nve_of_its_vni_and_to_nobody_else() -> None:
    world, nodes = learning()
    world.tenants(nodes["nve1"], 1, tenant(MAC, "10.0.0.77", "fd00::77"))
    for name in ("nve1", "nve2", "nve3"):
        (mapping,) = [item for item in nodes[name].state.mappings if item.mac == MAC]
        assert (mapping.nve, mapping.ips) == ("nve1", ("10.0.0.77", "fd00::77"))
    assert nodes["t1"].state.mappings == ()
    world.tenants(nodes["nve1"], 2)
    assert where(nodes["nve3"]) == []
    assert world.events("tenant", "nve1")
    assert world.events("tenant-left", "nve1")
    assert world.converged
    check_only_own_keys(world)


def test_many_changes_make_one_push_to_each() -> None:
    world, nodes = learning()
    count = len(nodes["nve3"].pushes)
    for number in range(1, 50):
        present = [tenant(f"02:00:00:00:01:{item:02x}") for item in range(number)]
        nodes["nve1"].protocol.tell_tenants(number, present, world.now)
        world.flush(nodes["nve1"])
    world.tick()
    assert len(nodes["nve3"].pushes) == count + 1
    assert len(nodes["nve3"].state.mappings) == 49 + 5


def test_a_move_is_asked_for_and_reported() -> None:
    world, nodes = learning()
    world.tenants(nodes["nve1"], 1, tenant())
    nodes["nve1"].present = set()  # it has left, and nve1 has not reported it yet
    world.tenants(nodes["nve2"], 1, tenant())
    assert where(nodes["nve3"]) == ["nve2"]
    (text,) = world.events("tenant-moved", "nve2")
    assert "from nve1" in text


def test_a_move_whose_news_come_one_after_the_other_is_a_move() -> None:
    world, nodes = learning()
    world.tenants(nodes["nve1"], 1, tenant())
    world.tenants(nodes["nve1"], 2)
    world.wait(1)
    world.tenants(nodes["nve2"], 1, tenant())
    assert world.events("tenant-moved", "nve2")


def test_who_is_alive_keeps_its_address_and_the_conflict_is_reported() -> None:
    world, nodes = learning()
    world.tenants(nodes["nve1"], 1, tenant())
    world.tenants(nodes["nve2"], 1, tenant())
    assert where(nodes["nve3"]) == ["nve1"]
    (text,) = world.events("conflict", "nve2")
    assert "'nve1', which keeps it" in text


def test_a_question_is_asked_once_until_it_is_answered_or_moot() -> None:
    world, nodes = learning()
    world.tenants(nodes["nve1"], 1, tenant())
    world.silent = {"nve1"}
    world.tenants(nodes["nve2"], 1, tenant())
    world.tenants(nodes["nve3"], 1, tenant())

    def questions() -> int:
        found = [m for m in nodes["nve1"].received if isinstance(m, jsonrpc.Request) and m.method == "confirm"]
        assert len({m.id for m in found}) <= 1
        return len(found)

    assert questions() == 1
    world.wait(ASK_REPEAT)
    assert questions() == 2
    assert where(nodes["nve2"]) == ["nve1"]
    world.lose(nodes["nve1"])
    world.tick()
    assert where(nodes["nve2"]) in (["nve2"], ["nve3"]), "nobody is there to say that it stays"


def test_another_nve_cannot_answer_for_the_one_that_was_asked() -> None:
    world, nodes = learning()
    world.tenants(nodes["nve1"], 1, tenant())
    world.silent = {"nve1"}
    world.tenants(nodes["nve2"], 1, tenant())
    (question,) = [m for m in nodes["nve1"].inbox if isinstance(m, jsonrpc.Request) and m.method == "confirm"]
    world.send(nodes["nve2"], jsonrpc.Response(question.id, {"present": False}))
    world.send(nodes["nve3"], jsonrpc.ErrorResponse(question.id, -1, "no"))
    world.tick()
    assert where(nodes["nve3"]) == ["nve1"]


@pytest.mark.parametrize("answer", [{}, {"present": False}, {"present": "yes"}, {"present": 1}, {"present": None}])
def test_only_a_clear_yes_keeps_an_address(answer: dict[str, Any]) -> None:
    world, nodes = learning()
    world.tenants(nodes["nve1"], 1, tenant())
    world.silent = {"nve1"}
    world.tenants(nodes["nve2"], 1, tenant())
    (question,) = [m for m in nodes["nve1"].inbox if isinstance(m, jsonrpc.Request) and m.method == "confirm"]
    world.send(nodes["nve1"], jsonrpc.Response(question.id, answer))
    world.tick()
    assert where(nodes["nve3"]) == ["nve2"]


def test_what_an_nve_may_not_report_is_left_out_and_logged_and_the_rest_counts() -> None:
    world, nodes = learning()
    wrong = [
        tenant(OTHER, vni=200),  # a VNI that is not learned
        tenant(OTHER, vni=4242),
        tenant("03:00:00:00:00:01"),  # a group's address
        tenant("ff:ff:ff:ff:ff:ff"),
        tenant("00:00:00:00:00:00"),
    ]
    world.tenants(nodes["nve1"], 1, *wrong, tenant())
    assert [item.mac for item in world.nva.directory.all() if item.mac not in _static()] == [MAC]
    assert len(world.events("refused", "nve1")) == len(wrong)


def test_an_nve_cannot_report_tenants_of_vnis_that_it_does_not_serve() -> None:
    data = document()
    data["vnis"][1]["learned"] = True
    world = World(build(data))
    nodes = world.register_all()
    world.tenants(nodes["nve3"], 1, tenant(vni=200))
    assert world.nva.directory.get(200, MAC) is None
    world.tenants(nodes["nve2"], 1, tenant(vni=200))
    assert where(nodes["nve1"], vni=200) == ["nve2"]
    assert where(nodes["nve3"], vni=200) == []


def _static() -> set[str]:
    return {mapping["mac"] for mapping in document()["mappings"]}


def test_static_mappings_cannot_be_taken_over() -> None:
    world, nodes = learning()
    world.tenants(nodes["nve3"], 1, tenant("02:00:00:00:00:01", "10.0.0.2"))
    assert where(nodes["nve2"], "02:00:00:00:00:01") == ["nve1"]
    assert world.events("conflict", "nve3")
    world.tenants(nodes["nve3"], 2, tenant(MAC, "10.0.0.2"))
    (mapping,) = [item for item in nodes["nve1"].state.mappings if item.mac == MAC]
    assert mapping.ips == (), "the address is another tenant's"


MALFORMED: list[dict[str, Any]] = [
    {},
    {"number": 1},
    {"number": -1, "present": []},
    {"number": True, "present": []},
    {"number": 1.5, "present": []},
    {"number": 1, "present": {}},
    {"number": 1, "present": [5]},
    {"number": 1, "present": [{"vni": 100}]},
    {"number": 1, "present": [{"vni": 100, "mac": "x"}]},
    {"number": 1, "present": [{"vni": 100, "mac": MAC, "nve": "nve2"}]},
    {"number": 1, "present": [{"vni": 100, "mac": MAC, "ips": ["nowhere"]}]},
    {"number": 1, "present": [{"vni": 100, "mac": MAC}, {"vni": 100, "mac": MAC.upper()}]},
    {"number": 1, "present": [{"vni": 100, "mac": MAC, "ips": [f"10.0.0.{n}" for n in range(MAX_TENANT_IPS + 1)]}]},
    {"number": 1, "present": [{"vni": 100, "mac": MAC}] * (MAX_TENANTS + 1)},
    {"number": 1, "present": [], "nve": "nve2"},
]


@pytest.mark.parametrize("params", MALFORMED, ids=lambda params: str(params)[:50])
def test_a_malformed_report_ends_the_connection_and_changes_nothing(params: dict[str, Any]) -> None:
    world, nodes = learning()
    before = world.nva.directory.all()
    answer = world.ask(nodes["nve1"], "tenants", params)
    assert isinstance(answer, jsonrpc.ErrorResponse)
    assert nodes["nve1"].closed is not None
    assert world.nva.directory.all() == before


def test_a_report_that_comes_again_after_a_reconnection_is_heard() -> None:
    world, nodes = learning()
    world.tenants(nodes["nve1"], 3, tenant())
    world.lose(nodes["nve1"])
    world.tenants(nodes["nve2"], 1, tenant())
    assert where(nodes["nve3"]) == ["nve2"]
    again = world.reconnect(nodes["nve1"])
    nodes["nve2"].present = set()
    world.tenants(again, 3, tenant())
    assert where(nodes["nve3"]) == ["nve1"]


# Operators' mappings --------------------------------------------------------------------------------------


def test_an_operator_s_mapping_wins_and_reaches_everybody() -> None:
    world, nodes = learning()
    world.tenants(nodes["nve1"], 1, tenant())
    mine = Mapping(vni=100, mac=MAC, ips=("10.0.0.99",), nve="nve2", tag=0)
    for _ in range(2):
        assert world.operate(SetMapping(mine)) == {"mapping": mine.model_dump(mode="json")}
    assert where(nodes["nve3"]) == ["nve2"]
    assert world.operate(RemoveMapping(100, MAC)) == {"removed": True}
    world.tick()
    assert where(nodes["nve3"]) == ["nve1"], "what it still reports"


@pytest.mark.parametrize(
    ("mapping", "fault"),
    [
        (Mapping(vni=200, mac=MAC, nve="nve3"), Fault.INVALID),
        (Mapping(vni=100, mac=MAC, nve="t1"), Fault.INVALID),
        (Mapping(vni=100, mac=MAC, nve="nve9"), Fault.INVALID),
        (Mapping(vni=4242, mac=MAC, nve="nve1"), Fault.INVALID),
        (Mapping(vni=100, mac=MAC, nve="nve1", ips=("10.0.0.2",)), Fault.CONFLICT),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(mapping: Mapping, fault: Fault) -> None:
    world, _ = learning()
    before = world.nva.directory.all()
    with pytest.raises(OperationError) as caught:
        world.operate(SetMapping(mapping))
    assert caught.value.fault is fault
    assert world.nva.directory.all() == before
    with pytest.raises(OperationError):
        world.operate(RemoveMapping(mapping.vni, mapping.mac))


def test_an_nve_that_does_not_answer_keeps_its_tenant_and_the_conflict_is_reported() -> None:
    world, nodes = learning()
    world.tenants(nodes["nve1"], 1, tenant())
    world.silent = {"nve1"}
    world.tenants(nodes["nve2"], 1, tenant())
    for _ in range(round(ASK_LIMIT)):
        world.wait(1.0)
        world.send(nodes["nve1"], jsonrpc.Request(900, "ping"))  # it is connected, and says nothing to the point
    assert where(nodes["nve3"]) == ["nve1"]
    assert world.events("conflict", "nve2")

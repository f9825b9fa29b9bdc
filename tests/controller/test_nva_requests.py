"""What an NVE asks of the NVA: to prove itself to multicast groups, keys, and a fresh association."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from controller.authority.associations import ASKED_AGAIN, GRACE
from geneve.control import jsonrpc
from geneve.control.demand import MAX_DEMANDS
from geneve.control.protocol import DemandsRefused
from geneve.control.state import Association, AssociationRole
from tests.controller.inventories import document
from tests.controller.world import (
    SIGNING,
    Node,
    World,
    between,
    check_only_own_keys,
    check_receivers_first,
    eager,
    spis,
)


def multicast_world() -> World:
    data = document()
    group = {"name": "group-red", "address": "239.1.1.1", "senders": ["nve1", "nve3"]}
    data["vnis"][0]["multicast"] = [group]
    return World(eager(data))


def held(node: Node, role: AssociationRole) -> list[Association]:
    return [item for item in (*node.state.outbound, *node.state.inbound) if item.role is role]


def test_a_registered_signing_key_reaches_the_receivers_and_nobody_else() -> None:
    world = multicast_world()
    nodes = world.register_all(signing=True)
    assert {item.signer for item in held(nodes["nve2"], AssociationRole.MULTICAST)} == {
        SIGNING["nve1"],
        SIGNING["nve3"],
    }
    assert {item.sender for item in held(nodes["nve1"], AssociationRole.MULTICAST)} == {"nve1", "nve3"}
    assert all(not held(nodes[name], AssociationRole.MULTICAST) for name in ("t1", "t2"))
    (mine,) = [item for item in nodes["nve1"].state.outbound if item.role is AssociationRole.MULTICAST]
    assert set(mine.members) == {"nve2", "nve3"}
    assert world.converged
    check_only_own_keys(world)


def test_who_registers_with_another_signing_key_gets_another_association() -> None:
    world = multicast_world()
    nodes = world.register_all(signing=True)
    before = spis(item for item in held(nodes["nve2"], AssociationRole.MULTICAST) if item.sender == "nve1")
    world.register("nve1", "bb", key=SIGNING["nve2"])
    after = {item.spi: item for item in held(nodes["nve2"], AssociationRole.MULTICAST) if item.sender == "nve1"}
    assert not before & after.keys()
    assert {item.signer for item in after.values()} == {SIGNING["nve2"]}
    world.register("nve1", "cc", key=None)
    assert {item.sender for item in held(nodes["nve2"], AssociationRole.MULTICAST)} == {"nve3"}, "no key, no proof"


@pytest.mark.parametrize("key", ["", "x", base64.b64encode(bytes(31)).decode(), 7, ["a"]])
def test_what_is_no_signing_key_is_refused(key: Any) -> None:
    world = multicast_world()
    node = world.open("nve1")
    answer = world.ask(node, "register", {"instance": "aa", "protocol": 2, "signing_key": key})
    assert isinstance(answer, jsonrpc.ErrorResponse)
    assert node.closed is not None


def test_a_transit_device_has_no_signing_key() -> None:
    world = multicast_world()
    node = world.open("t1")
    answer = world.ask(node, "register", {"instance": "aa", "protocol": 2, "signing_key": SIGNING["nve1"]})
    assert isinstance(answer, jsonrpc.ErrorResponse)
    assert node.closed is not None


# Keys on demand -------------------------------------------------------------------------------------------


def test_nobody_has_keys_before_somebody_wants_to_talk() -> None:
    world = World()
    nodes = world.register_all()
    assert all(node.state.inbound == node.state.outbound == () for node in nodes.values())
    assert world.converged
    world.talk(nodes["nve1"], "nve2")
    assert {item.audience for item in nodes["nve1"].state.outbound} == {"nve2", "t1"}
    assert nodes["nve1"].state.inbound == (), "one direction does not bring the other"
    assert nodes["nve3"].state.inbound == nodes["t2"].state.inbound == ()
    assert len(world.view("associations")["associations"]) == 2
    check_receivers_first(world)


def test_keys_come_within_one_round_trip_after_the_audience_has_them() -> None:
    world = World()
    nodes = world.register_all()
    count = len(world.sent)
    world.talk(nodes["nve1"], "nve2", 200)
    after = [(name, message) for name, message in world.sent[count:] if isinstance(message, jsonrpc.Request)]
    assert [name for name, _ in after] == ["nve2", "nve1"]


def test_a_demand_repeated_at_once_changes_nothing() -> None:
    world = World()
    nodes = world.register_all()
    for _ in range(5):
        world.talk(nodes["nve1"], "nve2")
    (item,) = between(nodes["nve1"].state.outbound, "nve1", "nve2")
    world.talk(nodes["nve1"], "nve2")
    assert between(nodes["nve1"].state.outbound, "nve1", "nve2") == [item]


def test_who_asks_again_later_has_lost_its_key_and_gets_another_make_before_break() -> None:
    world = World()
    nodes = world.register_all()
    world.talk(nodes["nve1"], "nve2", 200)
    (old,) = nodes["nve1"].state.outbound
    world.wait(ASKED_AGAIN)
    world.talk(nodes["nve1"], "nve2", 200)
    (fresh,) = nodes["nve1"].state.outbound
    assert fresh.spi != old.spi
    assert spis(nodes["nve2"].state.inbound) == {old.spi, fresh.spi}


def test_a_demand_waits_for_an_audience_that_is_not_there_yet() -> None:
    world = World()
    sender = world.register("nve1")
    world.talk(sender, "nve2")
    assert sender.state.outbound == ()
    world.register("nve2")
    assert between(sender.state.outbound, "nve1", "nve2") != []


WRONG = [
    {"audience": "nve2", "vni": 300, "profile": "full"},  # a VNI that nve1 does not serve
    {"audience": "nve3", "vni": 200, "profile": "full"},  # an NVE that does not serve the VNI
    {"audience": "nve1", "vni": 100, "profile": "full"},  # itself
    {"audience": "t1", "vni": 100, "profile": "full"},  # a device
    {"audience": "nve9", "vni": 100, "profile": "full"},
    {"audience": "nve2", "vni": 100, "profile": "unused"},  # not in the VNI's policy
    {"audience": "nve2", "vni": 100, "profile": "gone"},
    {"audience": "group-red", "multicast": True, "vni": 100, "profile": "full"},
    {"audience": "nve2", "vni": 4242, "profile": "full"},
]


@pytest.mark.parametrize("demand", WRONG, ids=str)
def test_keys_that_policy_and_membership_do_not_give_are_refused_and_nothing_is_made(demand: dict[str, Any]) -> None:
    world = World()
    nodes = world.register_all()
    good = {"audience": "nve2", "vni": 100, "profile": "full"}
    answer = world.ask(nodes["nve1"], "need", {"demands": [good, demand, good]})
    assert isinstance(answer, jsonrpc.Response)
    assert answer.result == {"refused": [1]}
    assert {item.audience for item in nodes["nve1"].state.outbound} == {"nve2", "t1"}
    assert len(world.view("associations")["associations"]) == 2
    assert len(world.events("refused", "nve1")) == 1


def test_a_refused_demand_reaches_who_wanted_it() -> None:
    world = World()
    nodes = world.register_all()
    world.talk(nodes["nve1"], "nve3", 200)
    (event,) = [event for event in nodes["nve1"].events if isinstance(event, DemandsRefused)]
    assert [(demand.audience, demand.vni) for demand in event.demands] == [("nve3", 200)]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"demands": {}},
        {"demands": [5]},
        {"demands": [{}]},
        {"demands": [{"audience": "nve2", "vni": "100", "profile": "full"}]},
        {"demands": [{"audience": "nve2", "vni": 100, "profile": "full", "sender": "nve2"}]},
        {"demands": [{"audience": "nve2", "vni": 100, "profile": "full"}] * (MAX_DEMANDS + 1)},
        {"demands": [], "as": "nve2"},
    ],
    ids=lambda params: str(params)[:60],
)
def test_malformed_demands_end_the_connection(params: dict[str, Any]) -> None:
    world = World()
    nodes = world.register_all()
    assert isinstance(world.ask(nodes["nve1"], "need", params), jsonrpc.ErrorResponse)
    assert nodes["nve1"].closed is not None
    assert world.view("associations")["associations"] == []


def test_a_device_gets_no_keys_and_has_no_tenants() -> None:
    world = World()
    nodes = world.register_all()
    for audience in ("nve1", "nve2", "t2"):
        answer = world.ask(nodes["t1"], "need", {"demands": [{"audience": audience, "vni": 100, "profile": "full"}]})
        assert isinstance(answer, jsonrpc.Response)
        assert answer.result == {"refused": [0]}
    answer = world.ask(nodes["t1"], "tenants", {"number": 1, "present": []})
    assert isinstance(answer, jsonrpc.ErrorResponse)
    assert nodes["t1"].closed is None
    assert world.view("associations")["associations"] == []
    assert len(world.events("refused", "t1")) == 4


# Fresh associations ---------------------------------------------------------------------------------------


def talking() -> tuple[World, dict[str, Node], Association]:
    world = World()
    nodes = world.register_all()
    world.talk(nodes["nve1"], "nve2", 200)
    (item,) = nodes["nve1"].state.outbound
    world.now += 5
    return world, nodes, item


def test_a_sender_gets_a_fresh_association_after_its_audience() -> None:
    world, nodes, old = talking()
    world.silent = {"nve2"}
    assert isinstance(world.ask(nodes["nve1"], "rekey", {"spi": old.spi}), jsonrpc.Response)
    assert nodes["nve1"].state.outbound == (old,), "until the audience has the new one"
    world.silent = {"nve1"}
    world.answer(nodes["nve2"])
    assert old in nodes["nve2"].state.inbound
    (fresh,) = [item for item in nodes["nve2"].state.inbound if item != old]
    assert fresh.spi != old.spi
    assert fresh.secret != old.secret
    world.wait(GRACE + 1, step=1)
    assert old in nodes["nve2"].state.inbound, "as long as the sender has not said that it has switched"
    world.silent = set()
    world.answer(nodes["nve1"])
    assert nodes["nve1"].state.outbound == (fresh,)
    world.wait(GRACE - 0.1)
    assert old in nodes["nve2"].state.inbound, "what is on its way can still be opened"
    world.wait(0.2)
    assert nodes["nve2"].state.inbound == (fresh,)
    check_receivers_first(world)


def test_asking_again_and_again_makes_one_replacement() -> None:
    world, nodes, old = talking()
    for _ in range(20):
        answer = world.ask(nodes["nve1"], "rekey", {"spi": old.spi})
        assert isinstance(answer, jsonrpc.Response), "it may not know yet that it was heard"
    (fresh,) = nodes["nve1"].state.outbound
    for _ in range(20):
        assert isinstance(world.ask(nodes["nve1"], "rekey", {"spi": fresh.spi}), jsonrpc.Response)
    assert nodes["nve1"].state.outbound == (fresh,), "a moment old"
    assert len(nodes["nve2"].state.inbound) == 2
    assert len(world.events("rekey", "nve1")) == 1


def test_what_is_not_known_any_more_is_no_offence() -> None:
    world, nodes, old = talking()
    world.ask(nodes["nve1"], "rekey", {"spi": old.spi})
    world.wait(2 * GRACE)
    assert nodes["nve2"].state.inbound == nodes["nve1"].state.outbound
    count = len(world.view("associations")["associations"])
    assert isinstance(world.ask(nodes["nve1"], "rekey", {"spi": old.spi}), jsonrpc.Response), "crossed with the news"
    assert len(world.view("associations")["associations"]) == count


def test_nobody_replaces_an_association_of_another() -> None:
    world, nodes, foreign = talking()
    count = len(world.applied)
    for name in ("nve2", "nve3", "t1"):
        assert isinstance(world.ask(nodes[name], "rekey", {"spi": foreign.spi}), jsonrpc.ErrorResponse)
        assert world.events("refused", name)
    stranger = world.open("nve1")  # of the right name, not registered
    assert isinstance(world.ask(stranger, "rekey", {"spi": foreign.spi}), jsonrpc.ErrorResponse)
    assert len(world.applied) == count


@pytest.mark.parametrize("params", [{}, {"spi": "300"}, {"spi": True}, {"spi": None}, {"spi": 300, "now": 1}])
def test_a_malformed_wish_is_refused(params: dict[str, Any]) -> None:
    world, nodes, old = talking()
    assert isinstance(world.ask(nodes["nve1"], "rekey", params), jsonrpc.ErrorResponse)
    assert [entry["spi"] for entry in world.view("associations")["associations"]] == [old.spi]


def test_the_view_shows_groups_members_and_stages_and_no_secret() -> None:
    world = multicast_world()
    nodes = world.register_all(signing=True)
    (old,) = between(nodes["nve1"].state.outbound, "nve1", "nve2", 200)
    world.wait(5)
    world.silent = {"nve2"}
    world.ask(nodes["nve1"], "rekey", {"spi": old.spi})
    shown = world.view("associations")["associations"]
    offered = [entry for entry in shown if entry["stage"] == "offered"]
    assert [(entry["sender"], entry["waiting"]) for entry in offered] == [("nve1", ["nve2"])]
    world.silent = set()
    world.answer(nodes["nve2"])
    shown = world.view("associations")["associations"]
    assert [entry["spi"] for entry in shown if entry["stage"] == "retiring"] == [old.spi]
    groups = {entry["sender"]: entry for entry in shown if entry["role"] == "multicast"}
    assert set(groups) == {"nve1", "nve3"}
    assert (groups["nve1"]["audience"], groups["nve1"]["vni"]) == ("group-red", 100)
    assert groups["nve1"]["members"] == ["nve2", "nve3"]
    text = json.dumps([world.view(name) for name in ("nodes", "associations", "events", "tenants", "policy")])
    for node in nodes.values():
        for item in (*node.state.inbound, *node.state.outbound):
            assert item.secret.get_secret_value() not in text

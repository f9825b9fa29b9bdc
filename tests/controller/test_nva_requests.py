"""What an NVE asks of the NVA besides states: to prove itself to multicast groups, and for a fresh association."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from controller.associations import GRACE
from controller.nva import ACKNOWLEDGE_WAIT
from geneve.control import jsonrpc
from geneve.control.state import Association, AssociationRole
from tests.controller.inventories import build, document
from tests.controller.test_nva import NODES, Node, World, check_receivers_first

KEYS = {name: base64.b64encode(bytes([number]) * 32).decode() for number, name in enumerate(NODES, 1)}


def multicast_world() -> World:
    data = document()
    group = {"name": "group-red", "address": "239.1.1.1", "senders": ["nve1", "nve3"]}
    data["vnis"][0]["multicast"] = [group]
    return World(build(data))


def register(world: World, name: str, key: str | None, instance: str = "aa") -> Node:
    node = world.open(name)
    params = {"instance": instance, "protocol": 1} | ({} if key is None else {"signing_key": key})
    world.send(node, jsonrpc.Request(1, "register", params))
    return node


def held(node: Node, role: AssociationRole) -> list[Association]:
    return [item for item in (*node.state.outbound, *node.state.inbound) if item.role is role]


def test_a_registered_signing_key_reaches_the_receivers_and_nobody_else() -> None:
    world = multicast_world()
    nodes = {name: register(world, name, KEYS[name] if name[0] == "n" else None) for name in NODES}
    assert {item.signer for item in held(nodes["nve2"], AssociationRole.MULTICAST)} == {KEYS["nve1"], KEYS["nve3"]}
    assert {item.sender for item in held(nodes["nve1"], AssociationRole.MULTICAST)} == {"nve1", "nve3"}
    assert all(not held(nodes[name], AssociationRole.MULTICAST) for name in ("t1", "t2"))
    (mine,) = [item for item in nodes["nve1"].state.outbound if item.role is AssociationRole.MULTICAST]
    assert set(mine.members) == {"nve2", "nve3"}
    assert world.view("nodes")["converged"]


def test_who_registers_with_another_signing_key_gets_another_association() -> None:
    world = multicast_world()
    nodes = {name: register(world, name, KEYS[name] if name[0] == "n" else None) for name in NODES}
    before = {item.spi for item in held(nodes["nve2"], AssociationRole.MULTICAST) if item.sender == "nve1"}
    register(world, "nve1", KEYS["t1"], "bb")
    after = {item.spi: item for item in held(nodes["nve2"], AssociationRole.MULTICAST) if item.sender == "nve1"}
    assert not before & after.keys()
    assert {item.signer for item in after.values()} == {KEYS["t1"]}
    register(world, "nve1", None, "cc")
    assert {item.sender for item in held(nodes["nve2"], AssociationRole.MULTICAST)} == {"nve3"}, "no key, no proof"


@pytest.mark.parametrize("key", ["", "x", base64.b64encode(bytes(31)).decode(), 7, ["a"]])
def test_what_is_no_signing_key_is_refused(key: Any) -> None:
    world = multicast_world()
    node = register(world, "nve1", key)
    assert isinstance(node.received[-1], jsonrpc.ErrorResponse)
    assert node.closed is not None


def test_a_transit_device_has_no_signing_key() -> None:
    world = multicast_world()
    node = register(world, "t1", KEYS["t1"])
    assert isinstance(node.received[-1], jsonrpc.ErrorResponse)
    assert node.closed is not None


def rekey(world: World, node: Node, **params: Any) -> jsonrpc.Message:
    count = len(node.received)
    world.send(node, jsonrpc.Request(7, "rekey", params))
    return next(message for message in node.received[count:] if not isinstance(message, jsonrpc.Request))


def between(state_items: tuple[Association, ...], audience: str) -> list[Association]:
    return [item for item in state_items if (item.sender, item.audience, item.vni) == ("nve1", audience, 200)]


def test_a_sender_gets_a_fresh_association_after_its_audience() -> None:
    world = World()
    nodes = world.register_all()
    (old,) = between(nodes["nve1"].state.outbound, "nve2")
    world.now += 5
    world.silent = {"nve2"}
    assert rekey(world, nodes["nve1"], spi=old.spi) == jsonrpc.Response(7)
    assert between(nodes["nve1"].state.outbound, "nve2") == [old], "until the audience has the new one"
    offered = between(nodes["nve2"].state.inbound, "nve2")
    assert old in offered
    (fresh,) = [item for item in offered if item != old]
    assert fresh.spi != old.spi
    assert fresh.secret != old.secret
    world.silent = set()
    world.answer(nodes["nve2"])
    assert between(nodes["nve1"].state.outbound, "nve2") == [fresh]
    world.wait(0.1)
    world.wait(GRACE - 0.2)
    assert old in between(nodes["nve2"].state.inbound, "nve2"), "what is on its way can still be opened"
    world.wait(0.3)
    assert between(nodes["nve2"].state.inbound, "nve2") == [fresh]
    check_receivers_first(world)


def test_an_acknowledgement_that_never_comes_delays_fresh_keys_and_no_more() -> None:
    world = World()
    nodes = world.register_all()
    (old,) = between(nodes["nve1"].state.outbound, "nve2")
    world.now += 5
    world.silent = {"nve2"}
    rekey(world, nodes["nve1"], spi=old.spi)
    world.wait(ACKNOWLEDGE_WAIT + 0.1)
    (fresh,) = between(nodes["nve1"].state.outbound, "nve2")
    assert fresh.spi != old.spi


def test_asking_again_and_again_makes_one_replacement() -> None:
    world = World()
    nodes = world.register_all()
    (old,) = between(nodes["nve1"].state.outbound, "nve2")
    world.now += 5
    for _ in range(20):
        assert rekey(world, nodes["nve1"], spi=old.spi) == jsonrpc.Response(7), "it may not know yet that it was heard"
    (fresh,) = between(nodes["nve1"].state.outbound, "nve2")
    for _ in range(20):
        assert rekey(world, nodes["nve1"], spi=fresh.spi) == jsonrpc.Response(7)
    assert between(nodes["nve1"].state.outbound, "nve2") == [fresh]
    assert len(between(nodes["nve2"].state.inbound, "nve2")) == 2


def test_nobody_replaces_an_association_of_another() -> None:
    world = World()
    nodes = world.register_all()
    (foreign,) = between(nodes["nve2"].state.inbound, "nve2")
    count = len(world.log)
    world.now += 5
    for name in ("nve2", "nve3", "t1"):
        assert isinstance(rekey(world, nodes[name], spi=foreign.spi), jsonrpc.ErrorResponse)
    assert isinstance(rekey(world, nodes["nve1"], spi=1), jsonrpc.ErrorResponse)
    stranger = world.open("nve1")  # of the right name, not registered
    assert isinstance(rekey(world, stranger, spi=foreign.spi), jsonrpc.ErrorResponse)
    assert len(world.log) == count


@pytest.mark.parametrize("params", [{}, {"spi": "300"}, {"spi": True}, {"spi": None}, {"spi": 300, "now": 1}])
def test_a_malformed_wish_is_refused(params: dict[str, Any]) -> None:
    world = World()
    nodes = world.register_all()
    assert isinstance(rekey(world, nodes["nve1"], **params), jsonrpc.ErrorResponse)


def test_the_view_shows_groups_members_and_replacements_and_no_secret() -> None:
    world = multicast_world()
    nodes = {name: register(world, name, KEYS[name] if name[0] == "n" else None) for name in NODES}
    (old,) = between(nodes["nve1"].state.outbound, "nve2")
    world.now += 5
    rekey(world, nodes["nve1"], spi=old.spi)
    shown = world.view("associations")["associations"]
    assert [entry["replaces"] for entry in shown if entry["replaces"] is not None] == [old.spi]
    groups = {entry["sender"]: entry for entry in shown if entry["role"] == "multicast"}
    assert set(groups) == {"nve1", "nve3"}
    assert (groups["nve1"]["audience"], groups["nve1"]["vni"]) == ("group-red", 100)
    assert groups["nve1"]["members"] == ["nve2", "nve3"]
    text = json.dumps([world.view(name) for name in ("nodes", "associations", "events", "tenants")])
    for node in nodes.values():
        for item in (*node.state.inbound, *node.state.outbound):
            assert item.secret.get_secret_value() not in text

"""The NVA is killed and started again, nodes die, come back or are cut off: who keeps which keys."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.authority.associations import GRACE
from controller.authority.nva import PathsAre
from controller.authority.records import SECRET_FIELD
from controller.authority.tenants import RETURN_TIME
from controller.operators.operations import OperationError, RemoveMapping, Restore, Revoke, SetMapping
from geneve.control import jsonrpc
from geneve.control.demand import Tenant
from geneve.control.state import Mapping, NodeState
from tests.controller.inventories import build, document
from tests.controller.world import (
    NODES,
    NVES,
    PAIRS,
    RING,
    SIGNING,
    Node,
    World,
    between,
    check_no_key_twice,
    check_only_own_keys,
    check_receivers_first,
    eager,
    secrets_in,
    secrets_of,
    spis,
)

MAC = "02:00:00:00:00:77"


def learned() -> dict[str, Any]:
    """The inventory with a multicast group, and VNI 100 learned."""
    data = document()
    data["vnis"][0] |= {
        "learned": True,
        "multicast": [{"name": "group-red", "address": "239.1.1.1", "senders": ["nve1", "nve2", "nve3"]}],
    }
    return data


def talking(data: dict[str, Any] | None = None) -> tuple[World, dict[str, Node]]:
    world = World(build(data or learned()))
    nodes = world.register_all(signing=True)
    world.talk_all(nodes)
    for name in NVES:
        world.talk(nodes[name], "group-red", multicast=True)
    world.wait(GRACE + 1)
    return world, nodes


def reconnect(world: World, nodes: dict[str, Node]) -> dict[str, Node]:
    return {name: world.reconnect(node) for name, node in nodes.items()}


def held(state: NodeState) -> tuple[set[Any], set[Any], Any, Any, Any, Any]:
    """What a state has, whatever the order."""
    return (
        set(state.inbound), set(state.outbound), state.nves, set(state.mappings), state.policy, set(state.transit_vnis),
    )  # fmt: skip


def test_after_a_restart_everybody_has_what_it_had() -> None:
    world, nodes = talking()
    world.tenants(nodes["nve1"], 1, Tenant(vni=100, mac=MAC, ips=("10.0.0.77",)))
    before = {name: held(node.state) for name, node in nodes.items()}
    epoch = world.nva.epoch
    world.restart()
    assert world.nva.epoch != epoch
    assert not world.converged
    after = reconnect(world, nodes)
    assert {name: held(node.state) for name, node in after.items()} == before
    for node in after.values():
        assert "base" not in node.pushes[0], "another epoch: the first push is a snapshot"
        assert len(node.pushes) == 1
        assert node.progress.epoch == world.nva.epoch
    assert world.converged
    check_no_key_twice(world, {})


def test_after_a_restart_without_a_store_nobody_keeps_a_key() -> None:
    world, nodes = talking()
    old = set().union(*(secrets_of(node.state) for node in nodes.values()))
    world.saved.clear()
    world.restart()
    world.handle(PathsAre(RING))
    after = reconnect(world, nodes)
    world.talk_all(after)
    assert not old & set().union(*(secrets_of(node.state) for node in after.values()))
    assert between(after["nve1"].state.outbound, "nve1", "nve2") != []


@pytest.mark.parametrize("silent", ["nve2", "nve1", "t1"])
def test_a_rekey_that_the_nva_does_not_survive_is_completed_by_the_next_life(silent: str) -> None:
    world, nodes = talking()
    (old,) = between(nodes["nve1"].state.outbound, "nve1", "nve2")
    world.silent = {silent}
    world.ask(nodes["nve1"], "rekey", {"spi": old.spi})
    for node in nodes.values():
        node.inbox.clear()  # what was on its way is lost with the connection
    stages = {content["stage"] for content in world.saved["association"].values()}
    assert stages == ({"current", "offered"} if silent == "nve2" else {"current", "retiring"})
    world.restart()
    world.silent = set()
    after = reconnect(world, nodes)
    (fresh,) = between(after["nve1"].state.outbound, "nve1", "nve2")
    assert fresh.spi != old.spi
    assert old in after["nve2"].state.inbound
    world.wait(GRACE + 0.5)
    assert between(after["nve2"].state.inbound, "nve1", "nve2") == [fresh]
    assert world.converged
    check_receivers_first(world)


def test_an_nve_that_was_restarted_while_the_nva_was_away_starts_anew() -> None:
    world, nodes = talking()
    old = secrets_of(nodes["nve2"].state)
    world.restart()
    after = {name: world.reconnect(node) for name, node in nodes.items() if name != "nve2"}
    for node in after.values():
        assert secrets_of(node.state) & old, "nobody knows yet"
    again = world.register("nve2", "bb", key=SIGNING["nve2"])
    for node in (*after.values(), again):
        assert not secrets_of(node.state) & old
    assert not secrets_in(again.pushes) & old
    assert between(after["nve1"].state.outbound, "nve1", "nve2") != [], "who wants to talk to it still does"


def test_a_tenant_that_has_moved_while_the_nva_was_away_is_found() -> None:
    world, nodes = talking()
    world.tenants(nodes["nve1"], 4, Tenant(vni=100, mac=MAC))
    world.restart()
    after = reconnect(world, nodes)
    assert {item.nve for item in after["nve3"].state.mappings if item.mac == MAC} == {"nve1"}
    world.tenants(after["nve1"], 5)
    world.tenants(after["nve2"], 1, Tenant(vni=100, mac=MAC))
    assert {item.nve for item in after["nve3"].state.mappings if item.mac == MAC} == {"nve2"}


def test_who_comes_back_first_does_not_take_what_another_has() -> None:
    world, nodes = talking()
    own = Tenant(vni=100, mac=MAC, ips=("10.0.0.77",))
    world.tenants(nodes["nve1"], 1, own)
    world.tenants(nodes["nve2"], 1, own)
    assert where(world) == "nve1"
    world.restart()
    world.tenants(world.reconnect(nodes["nve2"]), 1, own)
    assert where(world) == "nve1", "its NVE is not back yet, and cannot be asked"
    world.tenants(world.reconnect(nodes["nve1"]), 1, own)
    world.wait(RETURN_TIME + 1, 1.0)
    assert where(world) == "nve1"
    assert len(world.events("conflict", "nve2")) == 2, "the next life reports it too"
    assert world.events("conflict", "nve1") == []


def test_who_does_not_come_back_loses_it_after_a_while() -> None:
    world, nodes = talking()
    own = Tenant(vni=100, mac=MAC, ips=("10.0.0.77",))
    world.tenants(nodes["nve1"], 1, own)
    world.restart()
    world.tenants(world.reconnect(nodes["nve2"]), 1, own)
    world.wait(RETURN_TIME - 1, 1.0)
    assert where(world) == "nve1"
    world.wait(2, 1.0)
    assert where(world) == "nve2"


def where(world: World) -> str | None:
    mapping = world.nva.directory.get(100, MAC)
    return None if mapping is None else mapping.nve


def test_an_operator_s_mapping_survives_and_one_that_was_removed_does_not_come_back() -> None:
    world, _ = talking()
    mine = Mapping(vni=100, mac=MAC, ips=("10.0.0.77",), nve="nve3")
    world.operate(SetMapping(mine))
    world.restart()
    assert world.nva.directory.get(100, MAC) == mine
    assert world.nva.directory.is_static(100, MAC)
    world.operate(RemoveMapping(100, MAC))
    world.restart()
    assert world.nva.directory.get(100, MAC) is None


def test_paths_of_before_hold_until_there_are_others() -> None:
    world, nodes = talking()
    world.restart()
    after = reconnect(world, nodes)
    assert after["nve1"].state.nves[1].transit == ("t1", "t2")
    world.handle(PathsAre({}))
    assert after["nve1"].state.nves[1].transit == ()
    assert after["t1"].state.inbound == ()


def test_everything_in_the_store_that_is_a_key_is_in_the_field_that_is_sealed() -> None:
    world, nodes = talking()
    keys = set().union(*(secrets_of(node.state) for node in nodes.values()))
    assert len(keys) > 10
    sealed = set()
    bare = copy.deepcopy(world.saved)
    for entries in bare.values():
        for content in entries.values():
            sealed.add(content.pop(SECRET_FIELD, None))
    assert keys <= sealed
    assert not [key for key in keys if key in str(bare)]
    assert "secret" not in str(bare)


# Revocation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nve2", "t1"])
def test_a_revoked_node_is_cut_off_everywhere_at_once_and_cannot_come_back(name: str) -> None:
    world, nodes = talking()
    old = secrets_of(nodes[name].state)
    assert old
    world.operate(Revoke(name))
    assert nodes[name].closed == "revoked"
    count = len(nodes[name].received)
    for other, node in nodes.items():
        if other != name:
            assert not secrets_of(node.state) & old, other
            assert not [item for item in (*node.state.inbound, *node.state.outbound) if item.opens(name)]
            assert name not in [item.name for item in node.state.nves]
            assert name not in [item.nve for item in node.state.mappings]
    for instance in ("aa", "bb"):
        again = world.register(name, instance)
        assert again.closed == "revoked"
        assert again.received == []
    world.restart()
    assert world.register(name, "cc").closed == "revoked", "after a restart too"
    assert len(nodes[name].received) == count
    assert world.events("revoked", name)
    assert len(world.events("refused", name)) >= 2


def test_a_connection_of_a_revoked_node_that_has_not_registered_is_closed_too() -> None:
    world, _ = talking()
    waiting = world.open("nve2")
    world.operate(Revoke("nve2"))
    assert waiting.closed == "revoked"
    world.send(waiting, jsonrpc.Request(1, "register", {"instance": "aa", "protocol": 2}))
    assert waiting.received == []


def test_the_others_go_on_and_groups_get_keys_that_the_revoked_never_had() -> None:
    world, nodes = talking()
    (kept,) = between(nodes["nve1"].state.outbound, "nve1", "nve3")
    (group,) = between(nodes["nve1"].state.outbound, "nve1", "group-red")
    had = secrets_in(nodes["nve2"].pushes)
    world.operate(Revoke("nve2"))
    assert between(nodes["nve1"].state.outbound, "nve1", "nve3") == [kept]
    (fresh,) = between(nodes["nve1"].state.outbound, "nve1", "group-red")
    assert fresh.spi != group.spi
    assert fresh.members == ("nve3",)
    world.talk(nodes["nve1"], "nve2")
    assert between(nodes["nve1"].state.outbound, "nve1", "nve2") == [], "nobody gets keys towards it"
    assert not had & secrets_of(nodes["nve3"].state)


def test_revoking_and_restoring_twice_is_once_and_restored_it_starts_anew() -> None:
    world, nodes = talking()
    old = secrets_in(nodes["nve2"].pushes)
    world.operate(Revoke("nve2"))
    lines = len(world.audit)
    assert world.operate(Revoke("nve2")) == {"node": "nve2", "revoked": True}
    assert len(world.audit) == lines
    for _ in range(2):
        assert world.operate(Restore("nve2")) == {"node": "nve2", "revoked": False}
    again = world.reconnect(nodes["nve2"])  # the same process: all the same it is a stranger
    assert again.closed is None
    assert "nve2" in [item.name for item in nodes["nve1"].state.nves]
    assert "nve2" in [item.nve for item in nodes["nve1"].state.mappings]
    world.talk(nodes["nve1"], "nve2")
    assert between(nodes["nve1"].state.outbound, "nve1", "nve2") != []
    assert not old & secrets_of(again.state)
    with pytest.raises(OperationError):
        world.operate(Revoke("nve9"))


# Whatever happens -----------------------------------------------------------------------------------------

ACTIONS = (
    "fresh", "back", "lost", "talk", "rekey", "quiet", "speak", "read", "wait", "crash", "revoke", "restore", "paths",
)  # fmt: skip
STEPS = st.tuples(
    st.sampled_from(ACTIONS),
    st.integers(0, 4),
    st.integers(0, 3),
)


def step(world: World, live: dict[str, Node], count: int, what: str, number: int, more: int) -> None:
    name = NODES[number]
    node = live.get(name)
    connected = node is not None and node.closed is None
    if what == "fresh":
        live[name] = world.register(name, f"i{count}", key=SIGNING.get(name))
    elif what == "back" and node is not None:
        live[name] = world.reconnect(node)
    elif what == "lost" and connected and node is not None:
        world.lose(node)
    elif what == "talk" and connected and node is not None and name in NVES:
        first, second, vni = PAIRS[more]
        world.talk(node, second if first == name else first, vni)
        world.talk(node, "group-red", multicast=True)
    elif what == "rekey":
        world.nva.rekey(None, name, world.now)
        world.carry_out(world.nva.flush(world.now))
    elif what in {"quiet", "speak"}:
        (world.silent.add if what == "quiet" else world.silent.discard)(name)
        world.tick()
    elif what == "read" and connected and node is not None:
        world.answer(node, more)
    elif what == "wait":
        world.wait(1.0 + more)
    elif what == "crash":
        world.restart()
    elif what == "revoke":
        world.operate(Revoke(name))
    elif what == "restore":
        world.operate(Restore(name))
    elif what == "paths":
        world.handle(PathsAre({pair: via[:more] for pair, via in RING.items()}))


@settings(max_examples=80, deadline=None)
@given(st.lists(STEPS, max_size=40), st.integers(0, 1 << 20))
def test_whatever_happens_keys_are_where_they_belong_and_in_the_end_all_agree(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    data = learned()
    data["profiles"][0] |= {"rekey_seconds": 7.0, "lifetime_seconds": 100.0}
    world, live, seen = World(build(data), seed=seed), dict[str, Node](), dict[int, str]()
    for count, (what, number, more) in enumerate(steps):
        world.now += 0.3
        step(world, live, count, what, number, more)
        for name, entry in world.nva.nodes.items():
            assert not (entry.revoked and entry.connection is not None), name
    check_no_key_twice(world, seen)
    check_only_own_keys(world)
    world.silent = set()
    for name in NODES:
        world.operate(Restore(name))
        node = live.get(name)
        if node is None:
            live[name] = world.register(name, "last", key=SIGNING.get(name))
        elif node.closed is not None:
            live[name] = world.reconnect(node)
    world.handle(PathsAre(RING))
    world.wait(30, step=0.5)
    assert world.converged
    _check_agreement(world, live)


def _check_agreement(world: World, live: dict[str, Node]) -> None:
    """Whatever one can send with, all of its audience can open, and the NVA knows of it."""
    known = {entry["spi"] for entry in world.view("associations")["associations"]}
    opened = {name: spis(node.state.inbound) for name, node in live.items()}
    for name, node in live.items():
        assert node.closed is None, name
        assert spis((*node.state.inbound, *node.state.outbound)) <= known
        for item in node.state.outbound:
            audience = item.members if item.role.value == "multicast" else (item.audience, *item.members)
            assert all(item.spi in opened[other] for other in audience), item
    assert {int(spi) for spi in world.saved.get("association", {})} == known
    check_no_key_twice(world, {})
    check_only_own_keys(world)


def test_eager_keys_survive_too() -> None:
    world = World(eager())
    nodes = world.register_all()
    before = {name: held(node.state) for name, node in nodes.items()}
    world.restart()
    assert {name: held(node.state) for name, node in reconnect(world, nodes).items()} == before

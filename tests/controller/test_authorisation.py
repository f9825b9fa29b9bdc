"""A node that does what it likes: it gets its own and no more, harms nobody, and shows in the audit log."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.authority.nva import Received
from geneve.control import jsonrpc
from geneve.control.demand import Tenant
from tests.controller.inventories import build, document
from tests.controller.world import (
    NODES,
    SIGNING,
    Node,
    World,
    check_only_own_keys,
    secrets_in,
    spis,
)

MACS = ["02:00:00:00:00:01", "02:00:00:00:00:77", "ff:ff:ff:ff:ff:ff", "x"]


def talking() -> tuple[World, dict[str, Node]]:
    data = document()
    data["vnis"][0] |= {
        "learned": True,
        "multicast": [{"name": "group-red", "address": "239.1.1.1", "senders": ["nve1", "nve2"]}],
    }
    world = World(build(data))
    nodes = world.register_all(signing=True)
    world.talk_all(nodes)
    world.talk(nodes["nve1"], "group-red", multicast=True)
    return world, nodes


def test_all_that_was_ever_pushed_is_the_receivers_own() -> None:
    world, nodes = talking()
    check_only_own_keys(world)
    for name, node in nodes.items():
        of_others = secrets_in([other.pushes for other in nodes.values() if other is not node])
        mine = secrets_in(node.pushes)
        shared = mine & of_others
        for item in (*node.state.inbound, *node.state.outbound):
            if item.secret.get_secret_value() in shared:
                assert name == item.sender or item.opens(name)


@pytest.mark.parametrize("thief", ["nve3", "t1", "t2"])
def test_nobody_gets_keys_that_are_anothers_whatever_it_asks(thief: str) -> None:
    world, nodes = talking()
    foreign = spis(
        item for n in ("nve1", "nve2") for item in nodes[n].state.outbound if not item.opens(thief)
    )  # fmt: skip
    had = secrets_in(nodes[thief].pushes)
    before = {name: node.state for name, node in nodes.items() if name != thief}
    for spi in foreign:
        assert isinstance(world.ask(nodes[thief], "rekey", {"spi": spi}), jsonrpc.ErrorResponse)
    for audience in (*NODES, "group-red"):
        for multicast in (False, True):
            for vni in (200, 300, 7):
                demand = {"audience": audience, "vni": vni, "profile": "full", "multicast": multicast}
                answer = world.ask(nodes[thief], "need", {"demands": [demand]})
                assert isinstance(answer, jsonrpc.Response)
                assert answer.result == {"refused": [0]}
    assert isinstance(world.ask(nodes[thief], "resync"), jsonrpc.Response)
    assert secrets_in(nodes[thief].pushes) == had
    assert {name: node.state for name, node in nodes.items() if name != thief} == before
    assert len(world.events("refused", thief)) > len(foreign)
    check_only_own_keys(world)


def test_a_device_cannot_report_tenants_nor_pass_for_an_nve() -> None:
    world, nodes = talking()
    before = world.nva.directory.all()
    report = {"number": 1, "present": [Tenant(vni=100, mac=MACS[1]).model_dump(mode="json")]}
    assert isinstance(world.ask(nodes["t1"], "tenants", report), jsonrpc.ErrorResponse)
    assert world.nva.directory.all() == before
    imposter = world.open("t1")
    params = {"instance": "zz", "protocol": 2, "signing_key": SIGNING["nve1"]}
    assert isinstance(world.ask(imposter, "register", params), jsonrpc.ErrorResponse)
    params = {"instance": "zz", "protocol": 2, "role": "nve", "name": "nve1"}
    imposter = world.open("t1")
    assert isinstance(world.ask(imposter, "register", params), jsonrpc.ErrorResponse)
    assert world.nva.nodes["t1"].connection == nodes["t1"].number


def test_a_resume_that_is_not_true_harms_only_who_says_so() -> None:
    world, nodes = talking()
    for resume in (
        {"epoch": world.nva.epoch, "sequence": 10**30},
        {"epoch": world.nva.epoch, "sequence": 0},
        {"epoch": "x", "sequence": 1},
    ):
        liar = world.open("nve3")
        answer = world.ask(liar, "register", {"instance": "aa", "protocol": 2, "resume": resume})
        assert isinstance(answer, jsonrpc.Response)
        assert "base" not in liar.pushes[0]
    assert all(nodes[name].closed is None for name in NODES if name != "nve3")


def test_an_acknowledgement_of_what_was_not_applied_gets_no_more_keys() -> None:
    world, nodes = talking()
    world.silent = {"nve3"}
    world.nva.rekey(None, None, world.now + 5)
    world.carry_out(world.nva.flush(world.now + 5))
    for number in range(1, 200):
        world.send(nodes["nve3"], jsonrpc.Response(number, {"sequence": 10**9}))
    check_only_own_keys(world)


# Anything at all ------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [*NODES, *MACS, "group-red", "full", "unused", "nve9", "", "a" * 70, "register", "ä\n\0", "2", "fd00::1"]
)
NUMBERS = st.one_of(st.sampled_from([-1, 0, 1, 2, 3, 100, 200, 300, 1 << 24, 1 << 32, 10**31]), st.integers(0, 400))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.floats(allow_nan=False, allow_infinity=False), WORDS)
KEYS = st.sampled_from(
    ["instance", "protocol", "signing_key", "resume", "epoch", "sequence", "spi", "demands", "audience", "multicast",
     "vni", "profile", "rule", "number", "present", "mac", "ips", "refused", "a\nb"]
)  # fmt: skip
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=12
)
DEMANDS = st.fixed_dictionaries(
    {"audience": WORDS, "vni": NUMBERS, "profile": WORDS}, optional={"multicast": st.booleans(), "rule": WORDS}
)
TENANTS = st.fixed_dictionaries(
    {"vni": NUMBERS, "mac": st.sampled_from(MACS[:3])},
    optional={"ips": st.lists(st.sampled_from(["10.0.0.1", "10.0.0.9", "fd00::9"]), max_size=4)},
)
PARAMS = st.one_of(
    st.dictionaries(KEYS, VALUES, max_size=5),
    st.fixed_dictionaries({"demands": st.lists(DEMANDS, max_size=4)}),
    st.fixed_dictionaries({"number": NUMBERS, "present": st.lists(TENANTS, max_size=4)}),
    st.fixed_dictionaries({"spi": NUMBERS}),
    st.fixed_dictionaries(
        {"instance": WORDS, "protocol": st.just(2)},
        optional={"resume": st.fixed_dictionaries({"epoch": WORDS, "sequence": NUMBERS})},
    ),
)
METHODS = st.sampled_from(["register", "ping", "rekey", "need", "tenants", "resync", "push", "", "state"])
IDS = st.one_of(st.integers(-3, 60), st.sampled_from(["1", "x", ""]))
MESSAGES: st.SearchStrategy[jsonrpc.Message] = st.one_of(
    st.builds(jsonrpc.Request, IDS, METHODS, PARAMS),
    st.builds(jsonrpc.Request, IDS, METHODS, PARAMS),
    st.builds(jsonrpc.Notification, METHODS, PARAMS),
    st.builds(jsonrpc.Response, IDS, st.dictionaries(st.sampled_from(["present", "sequence"]), VALUES, max_size=2)),
    st.builds(jsonrpc.ErrorResponse, IDS | st.none(), st.sampled_from([-32010, -32602, 0, 10**30]), WORDS),
)
STEPS = st.one_of(
    st.tuples(st.just("say"), st.sampled_from(NODES), MESSAGES),
    st.tuples(st.just("say"), st.sampled_from(NODES), MESSAGES),
    st.tuples(st.sampled_from(["open", "register", "lose", "wait", "read"]), st.sampled_from(NODES), st.none()),
)


def check_others_are_unharmed(world: World, nodes: dict[str, Node], liars: set[str]) -> None:
    for name in set(NODES) - liars:
        assert nodes[name].closed is None, name
        assert world.nva.in_step(world.nva.nodes[name]), name


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=25), st.sets(st.sampled_from(NODES), min_size=1, max_size=2))
def test_whatever_a_registered_node_says_nothing_escapes_and_nobody_else_is_harmed(
    steps: list[tuple[str, str, Any]], liars: set[str]
) -> None:
    world, nodes = talking()
    world.silent = set(liars)
    for what, name, message in steps:
        node = nodes[name]
        if name not in liars:
            continue
        if what == "say":
            world.handle(Received(node.number, message))
        elif what == "open":
            nodes[name] = world.open(name, "zz")
        elif what == "register":
            nodes[name] = world.register(name, "zz", key=SIGNING.get(name))
        elif what == "lose" and node.closed is None:
            world.lose(node)
        elif what == "read":
            world.answer(node)
        else:
            world.wait(2.5)
    world.tick()
    check_others_are_unharmed(world, nodes, liars)
    check_only_own_keys(world)
    for line in world.audit:
        assert line.text.isprintable()
    world.restart()  # and what was stored of it is sound

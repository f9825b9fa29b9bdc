"""The NVA: who gets in, what each node is told and in which order, and where no secret may appear."""

from __future__ import annotations

import itertools
import json
import logging
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller import nva
from controller.core import Core
from controller.inventory import Inventory
from controller.nva import Close, Closed, Opened, PathsAre, Received, Send, Tick
from geneve.control import jsonrpc
from geneve.control.state import NodeState
from tests.controller.inventories import build, document

RING = {
    ("nve1", "nve2"): ("t1",),
    ("nve2", "nve1"): ("t1",),
    ("nve1", "nve3"): ("t1", "t2"),
    ("nve3", "nve1"): ("t2", "t1"),
    ("nve2", "nve3"): ("t2",),
    ("nve3", "nve2"): ("t2",),
}
NODES = ("nve1", "nve2", "nve3", "t1", "t2")


class Node:
    """One connection: what came on it, and whether state pushes are answered."""

    def __init__(self, number: int, name: str) -> None:
        self.number, self.name = number, name
        self.received: list[jsonrpc.Message] = []
        self.unanswered: list[jsonrpc.Request] = []
        self.closed: str | None = None

    @property
    def states(self) -> list[dict[str, Any]]:
        requests = [message for message in self.received if isinstance(message, jsonrpc.Request)]
        return [request.params["state"] for request in requests]

    @property
    def state(self) -> NodeState:
        return NodeState.model_validate_json(json.dumps(self.states[-1]))


class World:
    """An NVA and its nodes. ``answers`` decides who acknowledges a push at once."""

    def __init__(self, inventory: Inventory | None = None, seed: int = 1) -> None:
        self.core = Core(inventory or build(), token=random.Random(seed).randbytes)
        self.nva = self.core.nva
        self.nodes: dict[int, Node] = {}
        self.now = 100.0
        self.silent: set[str] = set()
        self.log: list[tuple[str, NodeState]] = []
        self._numbers = itertools.count(1)
        self.handle(PathsAre(RING))

    def handle(self, message: nva.Input) -> None:
        for effect in self.nva.handle(message, self.now):
            node = self.nodes[effect.connection]
            if isinstance(effect, Close):
                node.closed = effect.reason
            elif node.closed is None:
                node.received.append(effect.message)
                if isinstance(effect.message, jsonrpc.Request):
                    self.log.append((node.name, node.state))
                    node.unanswered.append(effect.message)
        for node in list(self.nodes.values()):
            if node.name not in self.silent:
                self.answer(node)

    def answer(self, node: Node) -> None:
        while node.unanswered:
            request = node.unanswered.pop(0)
            self.send(node, jsonrpc.Response(request.id, {"version": request.params["version"]}))

    def send(self, node: Node, message: jsonrpc.Message) -> None:
        self.handle(Received(node.number, message))

    def open(self, name: str) -> Node:
        node = Node(next(self._numbers), name)
        self.nodes[node.number] = node
        self.handle(Opened(node.number, name))
        return node

    def register(self, name: str, instance: str = "aa") -> Node:
        node = self.open(name)
        self.send(node, jsonrpc.Request(1, "register", {"instance": instance, "protocol": 1}))
        return node

    def register_all(self) -> dict[str, Node]:
        return {name: self.register(name) for name in NODES}

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.handle(Tick())

    def view(self, name: str) -> dict[str, Any]:
        view = self.core.view(name, self.now)
        assert view is not None
        return view


def secrets_of(state: NodeState) -> set[str]:
    return {end.secret.get_secret_value() for end in (*state.inbound, *state.outbound)}


def spis(ends: Any) -> set[int]:
    return {end.spi for end in ends}


def test_all_nodes_converge() -> None:
    world = World()
    nodes = world.register_all()
    assert world.view("nodes")["converged"]
    for node in nodes.values():
        assert node.closed is None
        assert isinstance(node.received[0], jsonrpc.Response)  # the registration is answered before states
    # VNI 100: 6 pairs of NVEs, and 3 senders with 2 devices each; VNI 200: 2 pairs; VNI 300 is not secured.
    keys = {(end.sender, end.audience, end.vni) for node in nodes.values() for end in node.state.inbound}
    assert len(keys) == 6 + 6 + 2
    assert {key for key in keys if key[2] == 200} == {("nve1", "nve2", 200), ("nve2", "nve1", 200)}
    sent = {(end.sender, end.audience, end.vni) for node in nodes.values() for end in node.state.outbound}
    assert sent == keys


def test_both_ends_of_an_association_hold_the_same_and_nobody_else_holds_it() -> None:
    world = World()
    nodes = world.register_all()
    for name, node in nodes.items():
        for end in node.state.inbound:
            assert end.audience == name
            assert end in nodes[end.sender].state.outbound
        for end in node.state.outbound:
            assert end.sender == name
            holders = {
                other
                for other, holder in nodes.items()
                if any(end.secret.get_secret_value() in json.dumps(state) for state in holder.states)
            }
            assert holders == {end.sender, end.audience}


def test_spis_and_secrets_are_unique_and_spis_not_reserved() -> None:
    nodes = World().register_all()
    ends = [end for node in nodes.values() for end in node.state.inbound]
    assert len(spis(ends)) == len({end.secret.get_secret_value() for end in ends}) == len(ends)
    assert all(256 <= end.spi < 1 << 32 for end in ends)
    assert all(len(end.secret_bytes()) == 32 for end in ends)


def test_spis_that_the_random_source_repeats_are_drawn_again() -> None:
    draws = iter([b"\0\0\0\5", b"\0\0\1\0", b"\0\0\1\0", b"\0\0\2\0"])
    from controller.associations import SpiSpace

    space = SpiSpace(lambda _: next(draws))
    assert [space.take(), space.take()] == [256, 512]


def test_an_nve_gets_what_concerns_its_vnis_and_no_more() -> None:
    nodes = World().register_all()
    state = nodes["nve3"].state  # in VNIs 100 and 300, not in 200
    assert [vni.vni for vni in state.vnis] == [100, 300]
    assert [rule.vni for rule in state.policy] == [100, 300]
    assert {mapping.vni for mapping in state.mappings} == {100, 300}
    assert [profile.name for profile in state.profiles] == ["full"]
    assert state.transit_vnis == ()
    others = {other.name: (other.vnis, other.transit) for other in state.nves}
    assert others == {"nve1": ((100,), ("t2", "t1")), "nve2": ((100, 300), ("t2",))}
    assert '"vni": 200' not in json.dumps(nodes["nve3"].states)
    assert '"vni": 300' not in json.dumps(nodes["nve1"].states)


def test_a_transit_device_gets_its_associations_and_vnis_and_no_more() -> None:
    nodes = World().register_all()
    state = nodes["t1"].state
    assert (state.vnis, state.nves, state.mappings, state.policy, state.outbound) == ((), (), (), (), ())
    assert {(end.sender, end.vni, end.role.value) for end in state.inbound} == {
        ("nve1", 100, "transit"),
        ("nve2", 100, "transit"),
        ("nve3", 100, "transit"),
    }
    through = {vni.vni: (vni.telemetry, vni.authenticated) for vni in state.transit_vnis}
    # VNI 300 runs between nve2 and nve3, not through t1.
    assert through == {100: (True, True), 200: (False, True)}
    assert {vni.vni: vni.authenticated for vni in nodes["t2"].state.transit_vnis} == {100: True, 300: False}


def test_only_current_paths_make_transit_associations() -> None:
    world = World()
    nodes = world.register_all()
    detour = {pair: () if "nve1" in pair else via for pair, via in RING.items()}
    world.handle(PathsAre(detour))
    assert nodes["t1"].state.inbound == ()
    assert nodes["t1"].state.transit_vnis == ()
    assert {end.sender for end in nodes["t2"].state.inbound} == {"nve2", "nve3"}
    assert all(other.transit == () for other in nodes["nve1"].state.nves)
    assert {end.role.value for end in nodes["nve1"].state.outbound} == {"egress"}
    assert world.view("nodes")["converged"]


def test_a_path_change_leaves_other_associations_alone() -> None:
    world = World()
    nodes = world.register_all()
    before = {end.spi: end.secret for end in nodes["nve2"].state.inbound}
    count = len(nodes["t2"].states)
    world.handle(PathsAre({**RING, ("nve1", "nve2"): (), ("nve2", "nve1"): ()}))
    assert {end.spi: end.secret for end in nodes["nve2"].state.inbound} == before
    assert len(nodes["t2"].states) == count  # nothing of its own has changed


def test_the_same_paths_again_push_nothing() -> None:
    world = World()
    world.register_all()
    count = len(world.log)
    world.handle(PathsAre(dict(RING)))
    world.wait(5)
    assert len(world.log) == count


def test_without_transit_coverage_or_telemetry_there_are_no_transit_associations() -> None:
    changed = document()
    changed["profiles"][0].pop("transit")
    nodes = World(build(changed)).register_all()
    assert nodes["t1"].state.inbound == ()
    assert nodes["nve1"].state.nves[1].transit == ("t1", "t2")  # still on the path: it sees telemetry


def test_registering_again_gives_fresh_keys_and_the_old_ones_vanish() -> None:
    world = World()
    nodes = world.register_all()
    old = {name: node.state for name, node in nodes.items()}
    again = world.register("nve2", "bb")
    assert nodes["nve2"].closed is not None
    new = {name: node.state for name, node in {**nodes, "nve2": again}.items()}
    assert not secrets_of(new["nve2"]) & secrets_of(old["nve2"])
    assert not spis(new["nve2"].inbound + new["nve2"].outbound) & spis(old["nve2"].inbound + old["nve2"].outbound)
    for name, state in new.items():
        assert not secrets_of(state) & secrets_of(old["nve2"]), name
    kept = secrets_of(old["nve1"]) - secrets_of(old["nve2"])
    assert kept
    assert kept <= secrets_of(new["nve1"])  # associations with others go on
    for state in again.states:  # not even for a moment does the new instance get an old key
        assert not secrets_of(old["nve2"]) & {end["secret"] for end in state["inbound"] + state["outbound"]}
    assert world.view("nodes")["converged"]


def test_a_repeated_registration_request_changes_nothing() -> None:
    world = World()
    nodes = world.register_all()
    count = len(world.log)
    world.send(nodes["nve1"], jsonrpc.Request(2, "register", {"instance": "aa", "protocol": 1}))
    assert nodes["nve1"].received[-1] == jsonrpc.Response(2)
    assert len(world.log) == count
    world.send(nodes["nve1"], jsonrpc.Request(3, "register", {"instance": "zz", "protocol": 1}))
    assert isinstance(nodes["nve1"].received[-1], jsonrpc.ErrorResponse)
    assert len(world.log) == count


def test_a_lost_connection_costs_no_keys() -> None:
    world = World()
    nodes = world.register_all()
    count = len(world.log)
    world.handle(Closed(nodes["nve2"].number, "gone"))
    world.wait(60)
    assert len(world.log) == count
    assert not world.view("nodes")["converged"]
    late = jsonrpc.Request(9, "register", {"instance": "aa", "protocol": 1})
    world.send(nodes["nve2"], late)  # was still on its way when the connection closed
    assert len(world.log) == count


def check_receivers_first(world: World) -> None:
    held: dict[str, set[int]] = {}
    for name, state in world.log:
        for end in state.outbound:
            assert end.spi in held.get(end.audience, set()), (name, end.audience)
        held[name] = spis(state.inbound)


def test_receivers_get_an_association_before_its_sender() -> None:
    world = World()
    world.register_all()
    world.register("nve1", "bb")
    world.register("t2", "bb")
    check_receivers_first(world)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(NODES), min_size=3, max_size=12), st.integers(0, 1 << 30), st.data())
def test_any_order_of_events_keeps_the_order_of_pushes_and_converges(
    order: list[str], seed: int, data: st.DataObject
) -> None:
    world = World(seed=seed)
    world.silent = set(NODES)
    for number, name in enumerate([*order, *NODES]):
        if name in order[:number] and data.draw(st.booleans()):
            waiting = [node for node in world.nodes.values() if node.unanswered]
            if waiting:
                world.answer(data.draw(st.sampled_from(waiting)))
        world.register(name, f"i{number}")
    world.silent = set()
    world.handle(Tick())
    check_receivers_first(world)
    assert world.view("nodes")["converged"]


def test_a_sender_waits_for_the_acknowledgement() -> None:
    world = World()
    world.silent = {"nve2"}
    receiver = world.register("nve2")
    sender = world.register("nve1")
    assert sender.state.outbound == ()
    world.silent = set()
    world.answer(receiver)
    assert {end.audience for end in sender.state.outbound} == {"nve2"}


def test_the_wait_is_bounded() -> None:
    world = World()
    world.silent = {"nve2"}
    receiver, sender = world.register("nve2"), world.register("nve1")
    world.wait(nva.ACKNOWLEDGE_WAIT - 0.1)
    assert sender.state.outbound == ()
    world.wait(0.2)
    assert {end.audience for end in sender.state.outbound} == {"nve2"}
    assert receiver.closed is None
    world.wait(nva.PUSH_LIMIT)
    assert receiver.closed is not None
    assert sender.closed is None


def test_a_device_is_named_on_the_path_only_when_the_sender_can_use_it() -> None:
    world = World()
    world.register("nve1")
    sender = world.register("nve2")
    assert [other.transit for other in sender.state.nves] == [(), ()]
    world.silent = {"t1"}
    device = world.register("t1")
    assert [other.transit for other in sender.state.nves] == [(), ()]
    world.silent = set()
    world.answer(device)
    assert [other.transit for other in sender.state.nves] == [("t1",), ()]


def test_one_push_at_a_time_and_the_newest_state_next() -> None:
    world = World()
    world.silent = {"nve1"}
    slow = world.register("nve1")
    for name in ("nve2", "nve3", "t1", "t2"):
        world.register(name)
    assert len(slow.states) == 1
    world.answer(slow)
    assert len(slow.states) == 2
    assert {end.sender for end in slow.state.inbound} == {"nve2", "nve3"}


def test_an_acknowledgement_counts_for_what_that_state_held_only() -> None:
    world = World()
    world.silent = {"nve2"}
    receiver = world.register("nve2")
    sender = world.register("nve1")
    for expected in (set(), {"nve2"}):  # the first state was made before the association
        request = receiver.unanswered.pop(0)
        world.send(receiver, jsonrpc.Response(request.id, {"version": request.params["version"]}))
        assert {end.audience for end in sender.state.outbound} == expected


def test_late_and_wrong_answers_are_ignored() -> None:
    world = World()
    world.silent = {"nve2"}
    sender, receiver = world.register("nve1"), world.register("nve2")
    (push,) = receiver.unanswered
    for message in (
        jsonrpc.Response(12345, {"version": 99}),
        jsonrpc.Response(str(push.id), {}),
        jsonrpc.ErrorResponse(None, -1, "x"),
        jsonrpc.Notification("state", {}),
    ):
        world.send(receiver, message)
    world.send(sender, jsonrpc.Response(push.id, {"version": 1}))  # another node's acknowledgement
    assert sender.state.outbound == ()
    other = world.open("nve2")  # of the right name, but it is not this connection that was asked
    world.send(other, jsonrpc.Response(push.id, {"version": 1}))
    assert sender.state.outbound == ()
    world.answer(receiver)
    assert sender.state.outbound != ()


def test_a_refused_state_is_reported_and_not_taken_for_applied() -> None:
    world = World()
    world.silent = {"nve2"}
    receiver, sender = world.register("nve2"), world.register("nve1")
    world.send(receiver, jsonrpc.ErrorResponse(receiver.unanswered.pop().id, -32602, "cannot"))
    receiver_view = next(node for node in world.view("nodes")["nodes"] if node["name"] == "nve2")
    assert receiver_view["refusal"] == "cannot"
    assert not receiver_view["in_step"]
    assert sender.state.outbound == ()
    assert any(event["kind"] == "refused-state" for event in world.view("events")["events"])


def test_a_name_that_is_not_in_the_inventory_is_turned_away() -> None:
    world = World()
    for name in ("nve9", "nva", "s1", "red1"):
        node = world.register(name)
        assert node.closed == "not in the inventory"
        assert node.received == []


BAD_REGISTRATIONS: list[dict[str, Any]] = [
    {},
    {"instance": "aa"},
    {"instance": "aa", "protocol": 2},
    {"instance": "aa", "protocol": True},
    {"instance": "", "protocol": 1},
    {"instance": "a" * 65, "protocol": 1},
    {"instance": 7, "protocol": 1},
    {"instance": "aa", "protocol": 1, "role": "transit"},
]


@pytest.mark.parametrize("params", BAD_REGISTRATIONS)
def test_bad_registrations_are_refused_and_change_nothing(params: dict[str, Any]) -> None:
    world = World()
    node = world.open("nve1")
    world.send(node, jsonrpc.Request(1, "register", params))
    (answer,) = node.received
    assert isinstance(answer, jsonrpc.ErrorResponse)
    assert not world.view("nodes")["nodes"][0]["connected"]


def test_only_register_and_ping_exist_and_ping_needs_registration() -> None:
    world = World()
    for method in ("ping", "state", "get_keys"):
        node = world.open("nve1")
        world.send(node, jsonrpc.Request(1, method))
        assert isinstance(node.received[-1], jsonrpc.ErrorResponse)
        assert (node.closed is None) == (method == "ping")
    node = world.register("nve1")
    count = len(world.nva.events)
    world.send(node, jsonrpc.Request(2, "get_keys"))
    for number in range(50):
        world.send(node, jsonrpc.Request(number, "get_keys"))
    assert len(world.nva.events) == count + 1  # nobody can fill the log on one connection
    assert node.closed is not None
    node = world.register("nve1")
    world.send(node, jsonrpc.Request(2, "ping"))
    assert node.received[-1] == jsonrpc.Response(2)


def test_versions_rise_and_the_epoch_stays() -> None:
    world = World()
    world.register_all()
    world.register("nve1", "bb")
    for node in world.nodes.values():
        requests = [message for message in node.received if isinstance(message, jsonrpc.Request)]
        versions = [request.params["version"] for request in requests]
        assert versions == sorted(set(versions))
        assert {request.params["epoch"] for request in requests} == {world.nva.epoch}
    assert World(seed=2).nva.epoch != world.nva.epoch


def test_a_bad_answer_of_one_node_does_not_touch_the_others() -> None:
    world = World()
    nodes = world.register_all()
    world.silent = {"nve1"}
    world.handle(PathsAre(dict.fromkeys(RING, ())))
    world.silent = set()
    assert {end.sender for end in nodes["nve3"].state.inbound} == {"nve1", "nve2"}


def test_no_secret_appears_in_views_events_logs_or_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    effects: list[object] = []
    world = World()
    handle = world.nva.handle

    def record(message: nva.Input, now: float) -> list[nva.Effect]:
        result = handle(message, now)
        effects.extend([message, *result])
        return result

    world.nva.handle = record  # type: ignore[method-assign]
    nodes = world.register_all()
    world.register("nve1", "bb")
    secrets = {secret for node in world.nodes.values() for state in node.states for secret in _secrets(state)}
    assert len(secrets) > 20
    names = ("nodes", "tenants", "mappings", "associations", "topology", "events")
    shown = [json.dumps(world.view(name)) for name in names]
    shown += [repr(effects), repr(world.nva.events), repr(world.nva._nodes), caplog.text]
    shown += [repr(world.nva.associations.all()), repr(nodes["nve2"].state), str(nodes["nve2"].state)]
    for text in shown:
        assert not [secret for secret in secrets if secret in text or secret[:16] in text]


def _secrets(state: dict[str, Any]) -> set[str]:
    return {end["secret"] for end in state["inbound"] + state["outbound"]}


def test_the_views_tell_what_exists() -> None:
    world = World()
    world.register_all()
    assert world.core.view("secrets", world.now) is None
    tenants = world.view("tenants")["tenants"]
    assert [(tenant["name"], tenant["vnis"][0]["members"]) for tenant in tenants][1] == ("blue", ["nve1", "nve2"])
    assert len(world.view("mappings")["mappings"]) == 7
    world.now += 3
    associations = world.view("associations")["associations"]
    assert len(associations) == 14
    assert all(entry["active"] and entry["age_s"] == 3 for entry in associations)
    keys = {"spi", "role", "sender", "audience", "members", "vni", "rule", "profile", "active", "age_s", "replaces"}
    assert all(set(entry) == keys for entry in associations)


def test_events_are_bounded() -> None:
    world = World()
    for _ in range(nva.MAX_EVENTS + 10):
        world.nva.report(world.now, "x", "y", "z")
    assert len(world.view("events")["events"]) == nva.MAX_EVENTS


def test_sends_on_closed_connections_are_never_asked_for() -> None:
    world = World()
    nodes = world.register_all()
    world.handle(Closed(nodes["t1"].number, "gone"))
    for effect in world.nva.handle(PathsAre({}), world.now):
        assert isinstance(effect, Send)
        assert effect.connection != nodes["t1"].number

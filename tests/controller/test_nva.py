"""The NVA: who gets in, what each node is told and in which order, and where no secret may appear."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.authority import nva
from controller.authority.events import MAX_EVENTS
from controller.authority.nodes import PUSH_LIMIT, REPEAT
from controller.authority.nva import Closed, PathsAre, Send, Tick
from controller.operators.operations import Rekey
from geneve.control import jsonrpc
from geneve.control.protocol import GAP, PROTOCOL_VERSION
from tests.controller.inventories import document
from tests.controller.world import (
    NODES,
    RING,
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


def test_all_nodes_converge() -> None:
    world = World(eager())
    nodes = world.register_all()
    assert world.converged
    for node in nodes.values():
        assert node.closed is None
        assert isinstance(node.received[0], jsonrpc.Response)  # the registration is answered before states
    # VNI 100: 6 pairs of NVEs, and 3 senders with 2 devices each; VNI 200: 2 pairs, and 2 senders whose packets
    # carry nothing for a device; VNI 300 is not secured.
    keys = {(end.sender, end.audience, end.vni) for node in nodes.values() for end in node.state.inbound}
    assert len(keys) == 6 + 6 + 2
    assert {key for key in keys if key[2] == 200} == {("nve1", "nve2", 200), ("nve2", "nve1", 200)}
    sent = {(end.sender, end.audience, end.vni) for node in nodes.values() for end in node.state.outbound}
    assert sent == keys


def test_both_ends_of_an_association_hold_the_same_and_nobody_else_holds_it() -> None:
    world = World(eager())
    nodes = world.register_all()
    for name, node in nodes.items():
        for end in node.state.inbound:
            assert end.audience == name
            assert end in nodes[end.sender].state.outbound
        for end in node.state.outbound:
            assert end.sender == name
            holders = {
                other for other, holder in nodes.items() if end.secret.get_secret_value() in json.dumps(holder.pushes)
            }
            assert holders == {end.sender, end.audience}
    check_only_own_keys(world)


def test_spis_and_secrets_are_unique_and_spis_not_reserved() -> None:
    world = World(eager())
    nodes = world.register_all()
    ends = [end for node in nodes.values() for end in node.state.inbound]
    assert len(spis(ends)) == len({end.secret.get_secret_value() for end in ends}) == len(ends)
    assert all(256 <= end.spi < 1 << 32 for end in ends)
    assert all(len(end.secret_bytes()) == 32 for end in ends)
    check_no_key_twice(world, {})


def test_an_nve_gets_what_concerns_its_vnis_and_no_more() -> None:
    nodes = World(eager()).register_all()
    state = nodes["nve3"].state  # in VNIs 100 and 300, not in 200
    assert [vni.vni for vni in state.vnis] == [100, 300]
    assert [rule.vni for rule in state.policy] == [100, 300]
    assert {mapping.vni for mapping in state.mappings} == {100, 300}
    assert [profile.name for profile in state.profiles] == ["full"]
    assert state.transit_vnis == ()
    others = {other.name: (other.vnis, other.transit) for other in state.nves}
    assert others == {"nve1": ((100,), ("t2", "t1")), "nve2": ((100, 300), ("t2",))}
    assert '"vni": 200' not in json.dumps(nodes["nve3"].pushes)
    assert '"vni": 300' not in json.dumps(nodes["nve1"].pushes)


def test_a_transit_device_gets_its_associations_and_vnis_and_no_more() -> None:
    nodes = World(eager()).register_all()
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
    world = World(eager())
    nodes = world.register_all()
    detour = {pair: () if "nve1" in pair else via for pair, via in RING.items()}
    world.handle(PathsAre(detour))
    assert nodes["t1"].state.inbound == ()
    assert nodes["t1"].state.transit_vnis == ()
    assert {end.sender for end in nodes["t2"].state.inbound} == {"nve2", "nve3"}
    assert all(other.transit == () for other in nodes["nve1"].state.nves)
    assert {end.role.value for end in nodes["nve1"].state.outbound} == {"egress"}
    assert world.converged


def test_a_path_change_leaves_other_associations_alone() -> None:
    world = World(eager())
    nodes = world.register_all()
    before = {end.spi: end.secret for end in nodes["nve2"].state.inbound}
    count = len(nodes["t2"].pushes)
    world.handle(PathsAre({**RING, ("nve1", "nve2"): (), ("nve2", "nve1"): ()}))
    assert {end.spi: end.secret for end in nodes["nve2"].state.inbound} == before
    assert len(nodes["t2"].pushes) == count  # nothing of its own has changed


def test_the_same_paths_again_push_nothing() -> None:
    world = World(eager())
    world.register_all()
    count = len(world.applied)
    world.handle(PathsAre(dict(RING)))
    world.wait(4)
    assert len(world.applied) == count


def test_without_transit_coverage_or_telemetry_there_are_no_transit_associations() -> None:
    changed = document()
    changed["profiles"][0].pop("transit")
    nodes = World(eager(changed)).register_all()
    assert nodes["t1"].state.inbound == ()
    assert nodes["nve1"].state.nves[1].transit == ("t1", "t2")  # still on the path: it sees telemetry


def test_a_new_process_gets_fresh_keys_and_the_old_ones_vanish() -> None:
    world = World(eager())
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
    # Not even for a moment does the new instance get an old key.
    assert not secrets_of(old["nve2"]) & secrets_in(again.pushes)
    assert world.converged


def test_the_same_process_keeps_its_keys_on_another_connection() -> None:
    world = World(eager())
    nodes = world.register_all()
    before = nodes["nve2"].state
    again = world.reconnect(nodes["nve2"])
    assert nodes["nve2"].closed is not None
    assert again.state == before
    assert again.pushes == [], "nothing that it lacks"
    assert world.converged
    assert world.events("registered", "nve2")[-1].endswith("the same process")


def test_a_repeated_registration_request_changes_nothing() -> None:
    world = World(eager())
    nodes = world.register_all()
    count = len(world.applied)
    params = {"instance": "aa", "protocol": PROTOCOL_VERSION}
    answer = world.ask(nodes["nve1"], "register", params)
    assert isinstance(answer, jsonrpc.Response)
    assert answer.result == {"epoch": world.nva.epoch}
    assert len(world.applied) == count
    assert isinstance(world.ask(nodes["nve1"], "register", {**params, "instance": "zz"}), jsonrpc.ErrorResponse)
    assert len(world.applied) == count


def test_a_lost_connection_costs_no_keys() -> None:
    world = World(eager())
    nodes = world.register_all()
    count = len(world.applied)
    world.lose(nodes["nve2"])
    world.wait(60, step=4)
    assert len(world.applied) == count
    assert not world.converged
    late = jsonrpc.Request(9, "register", {"instance": "aa", "protocol": PROTOCOL_VERSION})
    world.send(nodes["nve2"], late)  # was still on its way when the connection closed
    assert len(world.applied) == count
    assert not world.view("nodes")["nodes"][1]["connected"]


def test_receivers_get_an_association_before_its_sender() -> None:
    world = World(eager())
    world.register_all()
    world.register("nve1", "bb")
    world.register("t2", "bb")
    check_receivers_first(world)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(NODES), min_size=3, max_size=12), st.integers(0, 1 << 30), st.data())
def test_any_order_of_events_keeps_the_order_of_pushes_and_converges(
    order: list[str], seed: int, data: st.DataObject
) -> None:
    world = World(eager(), seed=seed)
    world.silent = set(NODES)
    for number, name in enumerate([*order, *NODES]):
        if name in order[:number] and data.draw(st.booleans()):
            waiting = [node for node in world.nodes.values() if node.inbox and node.closed is None]
            if waiting:
                world.answer(data.draw(st.sampled_from(waiting)), data.draw(st.integers(1, 3)))
        world.register(name, f"i{number}")
    world.silent = set()
    world.handle(Tick())
    check_receivers_first(world)
    check_only_own_keys(world)
    check_no_key_twice(world, {})
    assert world.converged


def test_a_sender_waits_for_the_acknowledgement_however_long_it_takes() -> None:
    world = World(eager())
    receiver, sender = world.register("nve2"), world.register("nve1")
    world.silent = {"nve2"}
    receiver = world.register("nve2", "bb")
    assert between(sender.state.outbound, "nve1", "nve2") == []
    world.wait(PUSH_LIMIT - 0.1)
    assert between(sender.state.outbound, "nve1", "nve2") == []
    world.silent = set()
    world.answer(receiver)
    assert between(sender.state.outbound, "nve1", "nve2") != []


def test_who_does_not_answer_a_push_is_cut_off_and_nobody_else() -> None:
    world = World(eager())
    sender = world.register("nve1")
    world.silent = {"nve2"}
    receiver = world.register("nve2")
    for _ in range(5):
        world.wait(PUSH_LIMIT / 4)
    assert receiver.closed == "did not answer a push"
    assert sender.closed is None
    assert sender.state.outbound == (), "the sender never gets what its audience has not acknowledged"


def test_a_push_without_an_answer_is_repeated_as_it_was() -> None:
    world = World(eager())
    world.silent = {"nve2"}
    receiver = world.register("nve2")
    world.wait(REPEAT)
    world.wait(REPEAT)  # the next time it takes twice as long
    world.wait(REPEAT)
    pushes = [m for m in receiver.received if isinstance(m, jsonrpc.Request)]
    assert len(pushes) == 3
    assert len({push.id for push in pushes}) == 1
    assert pushes[0].params == pushes[1].params == pushes[2].params
    world.silent = set()
    world.answer(receiver)
    assert len(receiver.states) == 1, "three times delivered, applied once"
    assert world.nva.in_step(world.nva.nodes["nve2"])


def test_a_sender_can_use_an_nve_only_when_the_devices_on_the_way_can_open_what_is_theirs() -> None:
    world = World(eager())
    world.register("t1")
    world.silent = {"t1"}
    device = world.register("t1", "bb")
    sender, _ = world.register("nve1"), world.register("nve2")
    assert between(sender.state.outbound, "nve1", "nve2") == []
    world.silent = set()
    world.answer(device)
    assert between(sender.state.outbound, "nve1", "nve2") != []
    assert between(sender.state.outbound, "nve1", "t1") != []


def test_a_device_that_comes_later_does_not_stop_the_traffic() -> None:
    world = World(eager())
    sender, _ = world.register("nve1"), world.register("nve2")
    (before,) = between(sender.state.outbound, "nve1", "nve2")
    world.silent = {"t1"}
    device = world.register("t1")
    assert between(sender.state.outbound, "nve1", "nve2") == [before]
    assert between(sender.state.outbound, "nve1", "t1") == []
    world.silent = set()
    world.answer(device)
    assert between(sender.state.outbound, "nve1", "nve2") == [before]
    assert between(sender.state.outbound, "nve1", "t1") != []


def test_one_push_at_a_time_and_all_that_changed_with_the_next() -> None:
    world = World(eager())
    world.silent = {"nve1"}
    slow = world.register("nve1")
    for name in ("nve2", "nve3", "t1", "t2"):
        world.register(name)
    assert len(slow.pushes) == 1
    world.silent = set()
    world.answer(slow, 2)
    assert len(slow.pushes) == 2
    world.answer(slow)
    assert {end.sender for end in slow.state.inbound} == {"nve2", "nve3"}


def test_late_and_wrong_answers_are_ignored() -> None:
    world = World(eager())
    sender = world.register("nve1")
    world.silent = {"nve2"}
    receiver = world.register("nve2")
    (push,) = [m for m in receiver.inbox if isinstance(m, jsonrpc.Request)]
    for message in (
        jsonrpc.Response(12345, {"sequence": 99}),
        jsonrpc.Response(str(push.id), {}),
        jsonrpc.ErrorResponse(None, -1, "x"),
        jsonrpc.Notification("push", {}),
    ):
        world.send(receiver, message)
    world.send(sender, jsonrpc.Response(push.id, {"sequence": 1}))  # another node's acknowledgement
    assert sender.state.outbound == ()
    other = world.open("nve2")  # of the right name, but it is not this connection that was asked
    world.send(other, jsonrpc.Response(push.id, {"sequence": 1}))
    assert sender.state.outbound == ()
    world.silent = set()
    world.answer(receiver)
    assert sender.state.outbound != ()


def test_a_refused_state_is_reported_and_not_taken_for_applied() -> None:
    world = World(eager())
    sender = world.register("nve1")
    world.silent = {"nve2"}
    receiver = world.register("nve2")
    receiver.refusal = lambda _: "cannot"
    world.answer(receiver)
    shown = next(node for node in world.view("nodes")["nodes"] if node["name"] == "nve2")
    assert shown["refusal"] == "cannot"
    assert not shown["in_step"]
    assert sender.state.outbound == ()
    assert world.events("refused-state", "nve2")
    receiver.refusal = lambda _: None
    world.silent = set()
    world.wait(nva.REFUSED_PAUSE + 0.1)
    assert world.nva.in_step(world.nva.nodes["nve2"]), "what was refused is tried again"
    assert sender.state.outbound != ()


def test_a_gap_leads_to_a_snapshot() -> None:
    world = World(eager())
    nodes = world.register_all()
    node = nodes["nve1"]
    node.progress.sequence -= 1  # it has lost a push
    world.handle(PathsAre({}))
    refused, snapshot = node.pushes[-2:]
    assert refused["base"] is not None
    assert "base" not in snapshot
    assert snapshot["scopes"]["node"]["replace"]
    assert node.state.nves[0].transit == ()
    assert world.converged


def test_a_node_can_ask_for_everything_again() -> None:
    world = World(eager())
    node = world.register_all()["nve1"]
    before = node.state
    assert isinstance(world.ask(node, "resync"), jsonrpc.Response)
    assert "base" not in node.pushes[-1]
    assert (node.state.nves, node.state.mappings) == (before.nves, before.mappings)
    assert (set(node.state.inbound), set(node.state.outbound)) == (set(before.inbound), set(before.outbound))
    assert world.converged


def test_who_claims_a_gap_for_ever_gets_snapshots_and_harms_nobody() -> None:
    world = World(eager())
    nodes = world.register_all()
    world.silent = {"nve1"}
    world.handle(PathsAre({}))
    for _ in range(20):
        requests = [m for m in nodes["nve1"].inbox if isinstance(m, jsonrpc.Request)]
        world.send(nodes["nve1"], jsonrpc.ErrorResponse(requests[-1].id, GAP, "gap"))
    assert nodes["nve2"].closed is None
    assert world.nva.in_step(world.nva.nodes["nve2"])


def test_a_name_that_is_not_in_the_inventory_is_turned_away() -> None:
    world = World()
    for name in ("nve9", "nva", "s1", "red1"):
        node = world.register(name)
        assert node.closed == "not in the inventory"
        assert node.received == []
        assert world.events("refused", name)


BAD_REGISTRATIONS: list[dict[str, Any]] = [
    {},
    {"instance": "aa"},
    {"instance": "aa", "protocol": 1},
    {"instance": "aa", "protocol": 3},
    {"instance": "aa", "protocol": True},
    {"instance": "", "protocol": 2},
    {"instance": "a" * 65, "protocol": 2},
    {"instance": 7, "protocol": 2},
    {"instance": "aa", "protocol": 2, "role": "transit"},
    {"instance": "aa", "protocol": 2, "resume": 5},
    {"instance": "aa", "protocol": 2, "resume": {"epoch": "x"}},
    {"instance": "aa", "protocol": 2, "resume": {"epoch": "", "sequence": 1}},
    {"instance": "aa", "protocol": 2, "resume": {"epoch": "x", "sequence": -1}},
    {"instance": "aa", "protocol": 2, "resume": {"epoch": "x", "sequence": True}},
    {"instance": "aa", "protocol": 2, "resume": {"epoch": "x" * 65, "sequence": 1}},
]


@pytest.mark.parametrize("params", BAD_REGISTRATIONS)
def test_bad_registrations_are_refused_and_change_nothing(params: dict[str, Any]) -> None:
    world = World()
    node = world.open("nve1")
    world.send(node, jsonrpc.Request(1, "register", params))
    (answer,) = node.received
    assert isinstance(answer, jsonrpc.ErrorResponse)
    assert not world.view("nodes")["nodes"][0]["connected"]


def test_unknown_methods_end_the_connection_and_nothing_works_before_registration() -> None:
    world = World()
    for method in ("ping", "rekey", "need", "tenants", "resync", "push", "get_keys"):
        node = world.open("nve1")
        world.send(node, jsonrpc.Request(1, method))
        assert isinstance(node.received[-1], jsonrpc.ErrorResponse)
        assert (node.closed is None) == (method not in {"push", "get_keys"})
    node = world.register("nve1")
    count = len(world.audit)
    for number in range(50):
        world.send(node, jsonrpc.Request(number, "get_keys"))
    assert len(world.audit) == count + 1  # nobody can fill the log on one connection
    assert node.closed is not None
    node = world.register("nve1")
    assert isinstance(world.ask(node, "ping"), jsonrpc.Response)


def test_sequences_rise_and_the_epoch_stays() -> None:
    world = World(eager())
    world.register_all()
    world.register("nve1", "bb")
    for node in world.nodes.values():
        sequences = [push["sequence"] for push in node.pushes]
        assert sequences == sorted(set(sequences))
        assert {push["epoch"] for push in node.pushes} == {world.nva.epoch}
    assert World(seed=2).nva.epoch != world.nva.epoch


def test_a_silent_node_does_not_hold_up_what_is_not_its_own() -> None:
    world = World(eager())
    nodes = world.register_all()
    world.silent = {"nve1"}
    world.handle(PathsAre(dict.fromkeys(RING, ())))
    assert {end.sender for end in nodes["nve3"].state.inbound} == {"nve1", "nve2"}
    assert nodes["t1"].state.inbound == ()


def test_no_secret_appears_in_views_events_logs_or_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    effects: list[object] = []
    world = World(eager())
    handle, take = world.nva.handle, world.nva.take_changes

    def record(message: nva.Input, now: float) -> list[nva.Effect]:
        result = handle(message, now)
        effects.extend([message, *result])
        return result

    def take_changes() -> list[Any]:
        changes = take()
        effects.extend(changes)
        return changes

    world.nva.handle = record  # type: ignore[method-assign]
    world.nva.take_changes = take_changes  # type: ignore[method-assign]
    nodes = world.register_all()
    world.register("nve1", "bb")
    secrets = secrets_in([node.pushes for node in world.nodes.values()])
    assert len(secrets) > 20
    names = ("nodes", "tenants", "mappings", "policy", "associations", "topology", "events")
    shown = [json.dumps(world.view(name)) for name in names]
    shown += [repr(effects), repr(world.audit), repr(world.nva.nodes), caplog.text]
    shown += [repr(world.nva.associations.all()), repr(nodes["nve2"].state), str(nodes["nve2"].state)]
    shown += [repr(node.events) + repr(node.progress) + repr(node.received) for node in world.nodes.values()]
    shown += [repr(list(node.private.entries.values())) for node in world.nva.nodes.values()]
    for text in shown:
        assert not [secret for secret in secrets if secret in text or secret[:16] in text]


def test_the_views_tell_what_exists() -> None:
    world = World(eager())
    world.register_all()
    assert world.core.view("secrets", world.now) is None
    tenants = world.view("tenants")["tenants"]
    assert [(tenant["name"], tenant["vnis"][0]["members"]) for tenant in tenants][1] == ("blue", ["nve1", "nve2"])
    assert len(world.view("mappings")["mappings"]) == 7
    world.now += 3
    associations = world.view("associations")["associations"]
    assert len(associations) == 14
    assert all(entry["stage"] == "current" and entry["age_s"] == 3 and not entry["waiting"] for entry in associations)
    keys = {"spi", "stage", "role", "sender", "audience", "members", "vni", "rule", "profile", "waiting", "age_s"}
    assert all(set(entry) == keys for entry in associations)


def test_events_in_memory_are_bounded() -> None:
    world = World()
    for _ in range(MAX_EVENTS + 10):
        world.nva.report(world.now, "x", "y", "z")
    assert len(world.view("events")["events"]) == MAX_EVENTS


def test_sends_on_closed_connections_are_never_asked_for() -> None:
    world = World(eager())
    nodes = world.register_all()
    world.handle(Closed(nodes["t1"].number, "gone"))
    for effect in world.nva.handle(PathsAre({}), world.now):
        assert isinstance(effect, Send)
        assert effect.connection != nodes["t1"].number


def test_two_connections_of_one_name_do_not_mix() -> None:
    world = World(eager())
    first = world.register("nve1")
    second: Node = world.open("nve1", "bb")
    world.send(second, jsonrpc.Request(5, "need", {"demands": []}))
    assert isinstance(second.received[-1], jsonrpc.ErrorResponse), "only the registered one may ask"
    assert first.closed is None
    world.lose(second)
    assert first.closed is None
    assert world.view("nodes")["nodes"][0]["connected"]


def test_one_certificate_does_not_take_the_room_of_all_others() -> None:
    world = World()
    registered = world.register("nve1")
    idle = [world.open("nve1") for _ in range(50)]
    assert registered.closed is None
    assert [node.closed is None for node in idle] == [False] * 47 + [True] * 3
    assert world.events("refused", "nve1")
    again = world.reconnect(registered)
    assert world.view("nodes")["nodes"][0]["connected"]
    assert again.closed is None


def test_a_snapshot_that_is_on_its_way_is_not_made_again() -> None:
    world = World()
    node = world.register("nve1")
    world.silent = {"nve1"}
    before = len(node.pushes)
    for number in range(100):
        world.send(node, jsonrpc.Request(1000 + number, "resync", {}))
    assert len(node.pushes) == before + 1
    world.silent = set()
    world.tick()
    assert world.nva.in_step(world.nva.nodes["nve1"])


def test_an_operator_s_replacement_takes_what_has_just_been_made_too() -> None:
    world = World()
    nodes = world.register_all()
    world.talk(nodes["nve1"], "nve2")
    (before,) = between(nodes["nve1"].state.outbound, "nve1", "nve2")
    world.operate(Rekey())
    (after,) = between(nodes["nve1"].state.outbound, "nve1", "nve2")
    assert after.spi != before.spi

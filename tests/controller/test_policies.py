"""Policies in versions: checked by every node, then in force everywhere; else the last good one stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from controller.authority.policies import CHECK_TIME, PolicyBook, document_of, with_policy
from controller.operators.operations import Fault, OperationError, SetPolicy
from geneve.control.protocol import StateReceived
from geneve.control.rules import Action
from geneve.errors import ConfigError
from tests.controller.inventories import build, document
from tests.controller.world import Node, World, between, check_no_key_twice, check_only_own_keys, eager, spis


def policy(**changed: Any) -> dict[str, Any]:
    """The inventory's policy as a document, with some keys changed."""
    found = document_of(build()).model_dump(mode="json")
    return {**copy.deepcopy(found), **changed}


def with_rule(action: str = "discard") -> dict[str, Any]:
    return policy(policy=[{"name": "web", "vni": 100, "protocol": "tcp", "action": action}])


def rules(node: Node) -> list[str | None]:
    return [rule.name for rule in node.state.policy]


def started() -> tuple[World, dict[str, Node]]:
    world = World(eager())
    return world, world.register_all()


def refused(world: World, operation: SetPolicy, fault: Fault, *words: str) -> None:
    with pytest.raises(OperationError) as caught:
        world.operate(operation)
    assert caught.value.fault is fault
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_policy_is_in_force_everywhere_once_all_have_checked_it() -> None:
    world, nodes = started()
    world.silent = {"nve3"}
    assert world.operate(SetPolicy(with_rule())) == {"version": 2}
    for name in ("nve1", "nve2"):
        assert "web" not in rules(nodes[name]), "checked, and not acted by"
        (event,) = [e for e in nodes[name].events if isinstance(e, StateReceived) and e.candidate is not None]
        assert event.candidate is not None
        assert "web" in [rule.name for rule in event.candidate.policy]
    view = world.view("policy")
    assert (view["version"], view["candidate"]) == (1, {"version": 2, "waiting": ["nve3"]})
    world.silent = set()
    world.answer(nodes["nve3"])
    assert all("web" in rules(nodes[name]) for name in ("nve1", "nve2", "nve3"))
    view = world.view("policy")
    assert (view["version"], view["candidate"], view["rejected"]) == (2, None, None)
    assert view["document"]["policy"][0]["name"] == "web"
    assert world.converged
    assert world.events("policy")[-1] == "version 2 is in force"


def test_one_node_that_cannot_apply_it_keeps_the_old_one_everywhere() -> None:
    world, nodes = started()
    nodes["nve3"].refusal = lambda event: "no such thing" if event.candidate else None
    world.operate(SetPolicy(with_rule()))
    assert all("web" not in rules(nodes[name]) for name in ("nve1", "nve2", "nve3"))
    view = world.view("policy")
    assert (view["version"], view["candidate"]) == (1, None)
    assert view["rejected"]["version"] == 2
    assert "nve3 cannot apply it: no such thing" in view["rejected"]["reason"]
    assert world.events("policy-refused")
    assert world.converged, "nobody has a candidate any more"
    for node in nodes.values():
        assert not node.progress.document.candidate(node.name, node.identity.role)
    nodes["nve3"].refusal = lambda _: None
    assert world.operate(SetPolicy(with_rule())) == {"version": 3}, "the number is not used again"
    assert all("web" in rules(nodes[name]) for name in ("nve1", "nve2", "nve3"))


def test_a_node_that_does_not_answer_keeps_the_old_one_after_a_while() -> None:
    world, nodes = started()
    world.silent = {"t2"}
    world.operate(SetPolicy(with_rule()))
    world.wait(CHECK_TIME - 1, step=1)
    assert world.view("policy")["candidate"] is not None
    world.wait(1.5, step=0.5)
    view = world.view("policy")
    assert (view["version"], view["candidate"]) == (1, None)
    assert "t2" in view["rejected"]["reason"] or nodes["t2"].closed
    assert "web" not in rules(nodes["nve1"])


def test_a_node_that_leaves_is_not_waited_for_and_gets_what_is_in_force_when_it_is_back() -> None:
    world, nodes = started()
    world.silent = {"nve3"}
    world.operate(SetPolicy(with_rule()))
    world.lose(nodes["nve3"])
    world.tick()
    assert "web" in rules(nodes["nve1"])
    world.silent = set()
    assert "web" in rules(world.reconnect(nodes["nve3"]))


def test_a_node_that_joins_in_the_middle_must_check_it_too() -> None:
    world, nodes = started()
    world.lose(nodes["nve2"])
    world.silent = {"nve2", "nve3"}
    world.operate(SetPolicy(with_rule()))
    again = world.reconnect(nodes["nve2"])
    world.answer(nodes["nve3"])
    world.silent = {"nve2"}
    world.answer(nodes["nve3"])
    assert world.view("policy")["candidate"]["waiting"] == ["nve2"]
    world.silent = set()
    world.answer(again)
    world.tick()
    assert all("web" in rules(node) for node in (again, nodes["nve1"], nodes["nve3"]))


def test_a_node_that_has_checked_it_and_only_lost_its_connection_holds_nothing_up() -> None:
    world, nodes = started()
    world.silent = {"nve3"}
    world.operate(SetPolicy(with_rule()))
    again = world.reconnect(nodes["nve1"])
    assert "web" not in rules(again)
    world.silent = set()
    world.answer(nodes["nve3"])
    world.tick()
    assert "web" in rules(again)
    assert world.view("policy")["version"] == 2


def test_without_nodes_a_policy_is_in_force_at_once() -> None:
    world = World()
    assert world.operate(SetPolicy(with_rule())) == {"version": 2}
    assert world.view("policy")["version"] == 2
    assert "web" in rules(world.register("nve1"))


UNSOUND: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({}, ("policy", "vnis")),
    (policy(more=1), ("more",)),
    (policy(profiles=[]), ("'full'",)),
    (policy(policy=[{"vni": 4242, "action": "bypass"}]), ("policy.0.vni", "4242")),
    (policy(policy=[{"action": "secure", "profile": "gone"}]), ("'gone'",)),
    (policy(policy=[{"action": "secure"}]), ("profile",)),
    (policy(vnis={"100": {"action": "bypass"}}), ("vnis", "200")),
    (policy(vnis={**policy()["vnis"], "7": {"action": "bypass"}}), ("vnis", "'7'")),
    (policy(vnis={**policy()["vnis"], "100": {"action": "secure"}}), ("profile",)),
    (policy(profiles=[{"name": "full", "soft_limit": 5, "hard_limit": 4}]), ("soft_limit",)),
]


@pytest.mark.parametrize(("proposal", "words"), UNSOUND, ids=range(len(UNSOUND)))
def test_an_unsound_policy_is_refused_whole_and_nobody_hears_of_it(
    proposal: dict[str, Any], words: tuple[str, ...]
) -> None:
    world, _ = started()
    count = len(world.sent)
    with pytest.raises(OperationError) as caught:
        world.operate(SetPolicy(proposal))
    text = str(caught.value)
    assert caught.value.fault is Fault.INVALID
    assert text.startswith("policy")
    assert "\n" not in text
    assert all(word in text for word in words), text
    assert len(world.sent) == count
    view = world.view("policy")
    assert (view["version"], view["candidate"]) == (1, None)


def test_one_proposal_at_a_time_and_none_from_an_older_version() -> None:
    world, nodes = started()
    refused(world, SetPolicy(with_rule(), expected_version=7), Fault.CONFLICT, "version 1")
    world.silent = {"nve1"}
    world.operate(SetPolicy(with_rule(), expected_version=1))
    refused(world, SetPolicy(policy()), Fault.CONFLICT, "version 2 is being checked")
    world.silent = set()
    world.answer(nodes["nve1"])
    refused(world, SetPolicy(policy(), expected_version=1), Fault.CONFLICT, "version 2")
    world.operate(SetPolicy(policy(), expected_version=2))
    assert "web" not in rules(nodes["nve1"])


# What happens to keys -------------------------------------------------------------------------------------


def test_associations_that_the_change_does_not_concern_keep_their_numbers() -> None:
    world, nodes = started()
    before = {name: (node.state.inbound, node.state.outbound) for name, node in nodes.items()}
    world.operate(SetPolicy(with_rule()))
    after = {name: (node.state.inbound, node.state.outbound) for name, node in nodes.items()}
    assert after == before
    assert world.converged


def test_a_profile_whose_contents_change_takes_only_its_own_associations() -> None:
    data = document()
    data["profiles"].append({"name": "other"})
    data["vnis"][1]["profile"] = "other"
    world = World(eager(data))
    nodes = world.register_all()
    red, blue = (spis(i for i in nodes["nve1"].state.outbound if i.vni == vni) for vni in (100, 200))
    profiles = [{**data["profiles"][0], "replay_window": 2048}, *data["profiles"][1:]]
    proposal = {**document_of(world.inventory).model_dump(mode="json"), "profiles": profiles}
    world.operate(SetPolicy(proposal))
    assert not red & spis(nodes["nve1"].state.outbound)
    assert spis(i for i in nodes["nve1"].state.outbound if i.vni == 200) == blue
    assert len(between(nodes["nve1"].state.outbound, "nve1", "nve2")) == 1
    for name, state in world.applied:
        contents = {profile.name: profile.replay_window for profile in state.profiles}
        for item in (*state.inbound, *state.outbound):
            if item.spi in red:
                assert contents["full"] == 1024, f"{name} had an old key under the new contents"
    assert world.converged
    check_no_key_twice(world, {})
    check_only_own_keys(world)


def test_a_vni_that_is_secured_no_more_loses_its_keys_and_one_that_is_gets_some() -> None:
    world, nodes = started()
    vnis = {**policy()["vnis"], "100": {"action": "bypass"}, "300": {"action": "secure", "profile": "full"}}
    world.operate(SetPolicy(policy(vnis=vnis)))
    assert {item.vni for item in nodes["nve2"].state.outbound} == {200, 300}
    assert {item.vni for item in nodes["nve3"].state.outbound} == {300}
    assert {item.vni: item.authenticated for item in nodes["t2"].state.transit_vnis} == {100: False, 300: True}
    assert [rule.action for rule in nodes["nve1"].state.policy] == [Action.BYPASS, Action.SECURE]
    assert world.converged


# From one life to the next --------------------------------------------------------------------------------


def test_the_next_life_goes_on_with_the_policy_in_force() -> None:
    world, _ = started()
    world.operate(SetPolicy(with_rule()))
    world.restart()
    assert world.view("policy")["version"] == 2
    assert "web" in rules(world.register("nve1", "bb"))
    world.operate(SetPolicy(policy()))
    assert world.view("policy")["version"] == 3 or world.view("policy")["candidate"]["version"] == 3


def test_the_order_in_which_sets_are_written_says_nothing() -> None:
    world, _ = started()
    world.operate(SetPolicy(with_rule()))
    kept = world.saved["policy"]["current"]

    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: value[key][::-1] if key == "header" else turned(value[key]) for key in value}
        return [turned(item) for item in value] if isinstance(value, list) else value

    world.saved["policy"]["current"] = turned(kept)
    world.restart()
    assert world.view("policy")["version"] == 2, "the inventory was not edited"


def test_a_candidate_does_not_survive_and_its_number_is_no_version() -> None:
    world, nodes = started()
    world.silent = {"nve1"}
    world.operate(SetPolicy(with_rule()))
    world.restart()
    world.silent = set()
    for node in list(nodes.values()):
        world.reconnect(node)
    assert world.view("policy")["version"] == 1
    assert world.converged
    assert all("web" not in rules(node) for node in nodes.values())


def test_an_inventory_that_was_edited_since_wins() -> None:
    world, _ = started()
    world.operate(SetPolicy(with_rule()))
    data = document()
    data["policy"] = [{"name": "dns", "vni": 100, "protocol": "udp", "action": "discard"}]
    world.restart(eager(data))
    assert world.view("policy")["version"] == 3
    assert [rule for rule in rules(world.register("nve1", "bb")) if rule in {"web", "dns"}] == ["dns"]
    world.restart()
    assert world.view("policy")["version"] == 3, "once"


def test_an_inventory_whose_profile_was_edited_brings_new_keys_where_it_counts() -> None:
    data = document()
    data["profiles"].append({"name": "other"})
    data["vnis"][1]["profile"] = "other"
    world = World(eager(data))
    nodes = world.register_all()
    red, blue = (spis(i for i in nodes["nve1"].state.outbound if i.vni == vni) for vni in (100, 200))
    data["profiles"][0]["replay_window"] = 2048
    world.restart(eager(data))
    nodes = {node.name: world.reconnect(node) for node in list(nodes.values())}
    for node in nodes.values():
        assert not red & spis((*node.state.inbound, *node.state.outbound)), "no key under two profiles"
    assert spis(i for i in nodes["nve1"].state.outbound if i.vni == 200) == blue
    assert len(between(nodes["nve1"].state.outbound, "nve1", "nve2")) == 1
    assert world.converged
    assert {int(spi) for spi in world.saved["association"]} == {
        entry["spi"] for entry in world.view("associations")["associations"]
    }


def test_an_nve_whose_address_was_edited_gets_new_keys() -> None:
    world, nodes = started()
    old = spis(nodes["nve1"].state.outbound)
    data = document()
    data["nodes"]["nve1"]["address"] = "192.168.1.11"
    world.restart(eager(data))
    nodes = {node.name: world.reconnect(node) for node in list(nodes.values())}
    fresh = nodes["nve1"].state.outbound
    assert not old & spis(fresh)
    assert {item.sender_address for item in fresh} == {"192.168.1.11"}


# The book -------------------------------------------------------------------------------------------------


def test_a_book_with_a_policy_that_no_longer_fits_says_so() -> None:
    gone = document_of(build()).model_copy(update={"vnis": {}})
    with pytest.raises(ConfigError, match="vnis"):
        PolicyBook(build(), 2, gone)
    with pytest.raises(ConfigError, match="vnis"):
        with_policy(build(), gone)


def test_late_verdicts_about_another_version_count_for_nothing() -> None:
    book = PolicyBook(build())
    candidate = book.propose(with_rule(), ["nve1"], 0.0)
    book.checked("nve1", candidate.version + 1)
    assert book.refused("nve1", candidate.version + 1, "x") is None
    assert book.step(0.0) is None
    book.checked("nve1", candidate.version)
    assert book.step(0.0) is not None
    assert book.refused("nve1", candidate.version, "too late") is None
    assert book.version == candidate.version

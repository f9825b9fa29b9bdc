"""Which associations there are under each key granularity, and who gets them."""

from __future__ import annotations

from typing import Any

import pytest

from controller.authority.policies import PolicyBook
from controller.authority.states import NodeEntries
from geneve.control.demand import Demand
from geneve.control.document import Document, Push, ScopeChange, to_wire
from geneve.control.state import AssociationRole, NodeState
from tests.controller.inventories import build, document
from tests.controller.tables import GROUP, NODES, OPTION, PATHS, SIGNING, Table, inventory, table


def test_per_vni_there_is_one_for_each_ordered_pair_and_network():
    made = table(inventory())
    assert len(made.of_role()) == 6
    assert len(made.of_role(vni=200)) == 2
    assert len({item.spi for item in made.held()}) == len(made.held())


def test_per_pair_one_key_serves_all_networks():
    data = document()
    data["profiles"].append({"name": "mine", "key_granularity": "pair"})
    for number in (0, 1):
        data["vnis"][number]["profile"] = "mine"
    made = table(build(data))
    assert made.of_role() == made.of_role(vni=200) == []
    assert len(made.of_role(vni=None)) == 6


def test_per_rule_each_rule_has_keys_of_its_own():
    rules = [
        {"name": "web", "vni": 100, "protocol": "tcp", "action": "secure", "profile": "each"},
        {"name": "dns", "vni": 100, "protocol": "udp", "action": "secure", "profile": "each"},
    ]
    data = document()
    data["profiles"].append({"name": "each", "key_granularity": "rule"})
    data["policy"] = rules
    made = table(build(data))
    per_rule = [item for item in made.of_role() if item.profile == "each"]
    assert {item.rule for item in per_rule} == {"web", "dns"}
    assert len(per_rule) == 12
    assert len([item for item in made.of_role() if item.profile == "full"]) == 6, "for what no rule matches"
    for rule in (None, "vni-100", "gone"):
        assert not made.want("nve1", Demand(audience="nve2", vni=100, profile="each", rule=rule))


def test_per_flow_there_is_one_below_which_the_flows_are_told_apart():
    made = table(inventory({"key_granularity": "flow"}))
    assert len([item for item in made.of_role() if item.profile == "mine"]) == 6


BLIND = {"options": [], "authenticate_inner": "none", "encrypt_inner": "none"}
READS = {"egress": {"encrypt_inner": "none"}, "transit": {**BLIND, "authenticate_inner": "headers"}}


@pytest.mark.parametrize(
    ("profile", "vni", "devices"),
    [
        ({"transit": BLIND}, {"telemetry": False}, set()),
        ({"transit": BLIND}, {"telemetry": True}, {"t1", "t2"}),
        ({"transit": BLIND}, {"telemetry": False, "tags": True}, {"t1", "t2"}),
        ({"transit": BLIND}, {"telemetry": False, "options": [OPTION]}, {"t1", "t2"}),
        (READS, {"telemetry": False}, {"t1", "t2"}),
        ({"devices": {"t2": BLIND}}, {"telemetry": True}, {"t2"}),
        ({}, {"telemetry": True}, set()),
    ],
    ids=str,
)
def test_devices_have_associations_where_packets_carry_something_for_them(
    profile: dict[str, Any], vni: dict[str, Any], devices: set[str]
) -> None:
    made = table(inventory(profile, **vni))
    found = [item for item in made.of_role(AssociationRole.TRANSIT) if item.profile == "mine"]
    assert {item.audience for item in found} == devices
    crossing = {(sender, device) for (sender, _), via in PATHS.items() for device in via if device in devices}
    assert sorted((item.sender, item.audience) for item in found) == sorted(crossing), "one for each sender"


def test_a_group_without_devices_is_the_egress_nve_alone():
    made = table(inventory({"group": BLIND}), paths={})
    found = [item for item in made.of_role(AssociationRole.GROUP) if item.profile == "mine"]
    assert len(found) == 6
    assert all(item.members == () for item in found)
    assert all(item.opens(item.audience) for item in found)


def test_a_confidential_group_has_the_devices_on_the_path_and_new_keys_when_one_leaves():
    made = table(inventory({"group": BLIND}), settled=True)
    shared = {(i.sender, i.audience): i for i in made.of_role(AssociationRole.GROUP)}
    assert set(shared["nve1", "nve3"].members) == {"t1", "t2"}
    assert shared["nve1", "nve2"].members == ("t1",)
    for node in NODES:
        mine = [item for item in made.inbound(node) if item.role is AssociationRole.GROUP]
        assert all(item.opens(node) for item in mine)
        assert {item.spi for item in mine} == {i.spi for i in shared.values() if i.opens(node)}
    made.set_paths({**PATHS, ("nve1", "nve3"): ("t2",)}, 1.0)
    after = {(i.sender, i.audience): i for i in made.of_role(AssociationRole.GROUP)}
    assert after["nve1", "nve3"].members == ("t2",)
    assert after["nve1", "nve3"].spi != shared["nve1", "nve3"].spi
    assert after["nve1", "nve3"].secret != shared["nve1", "nve3"].secret
    assert after["nve1", "nve2"] == shared["nve1", "nve2"], "whose members stayed keeps its key"


def test_a_multicast_group_has_one_key_for_each_sender_that_has_a_signing_key():
    of = inventory(multicast=[GROUP])
    assert table(of, signers=False).of_role(AssociationRole.MULTICAST) == []
    made = Table(of)
    for name in NODES:
        made.register(name, SIGNING.get(name), 0.0, fresh=True)
    made.want_all()
    found = {item.sender: item for item in made.of_role(AssociationRole.MULTICAST)}
    assert set(found) == {"nve1", "nve2", "nve3"}
    assert len({item.spi for item in found.values()}) == 3
    assert found["nve1"].members == ("nve2", "nve3")
    assert found["nve1"].signer == SIGNING["nve1"]
    assert found["nve1"] not in made.inbound("nve1")
    made.acknowledge("nve2")
    assert found["nve1"] not in made.outbound("nve1"), "one receiver is not ready yet"
    made.acknowledge("nve3")
    assert found["nve1"] in made.outbound("nve1")


def test_only_a_sender_of_a_group_gets_keys_for_it():
    made = table(inventory(multicast=[{**GROUP, "senders": ["nve1"]}]))
    assert {item.sender for item in made.of_role(AssociationRole.MULTICAST)} == {"nve1"}
    for sender in ("nve2", "t1", "group-red"):
        assert not made.want(sender, Demand(audience="group-red", multicast=True, vni=100, profile="full"))


def test_only_its_sender_has_an_associations_number():
    made = table(inventory())
    item = made.held()[0]
    line = made.line_of(item.spi)
    assert line is not None
    assert line.key.sender == item.sender
    assert made.line_of(1) is None


# What nodes are told --------------------------------------------------------------------------------------


def told(made: Table, node: str) -> NodeState:
    """The state that follows from a node's own entries, and the shared ones left out."""
    entries = NodeEntries(PolicyBook(made.inventory), made._membership, made, PATHS).of(node)
    change = ScopeChange(set={key: to_wire(entry) for key, entry in entries.items()})
    push = Push(epoch="e", sequence=1, scopes={"node": change})
    return Document().apply(push).state(node, made.inventory.nodes[node].role)


def test_states_carry_what_belongs_to_the_node_and_no_more():
    of = inventory(
        tags=True,
        options=[OPTION],
        multicast=[],
        group_policy=[{"source": 1, "destination": 2, "verdict": "permit"}],
        enforcers=["t1"],
    )
    made = table(of, settled=True)
    nve = told(made, "nve1")
    assert {rule.vni for rule in nve.policy} == {100, 200}, "not VNI 300, where nve1 has no tenant"
    assert [profile.name for profile in nve.profiles] == ["full"]
    policies = {n: {v.vni: v.group_policy for v in told(made, n).transit_vnis} for n in ("t1", "t2")}
    assert policies["t1"][100]
    assert policies["t2"][100] is None
    roles = {item.role for n in ("t1", "t2") for item in told(made, n).inbound}
    assert roles == {AssociationRole.TRANSIT}
    assert told(made, "t1").outbound == ()


@pytest.mark.parametrize("own", ["discard", "bypass"])
@pytest.mark.parametrize("vni", [100, None])
def test_where_a_rule_secures_devices_believe_authenticated_options_only(own: str, vni: int | None) -> None:
    data = document()
    data["vnis"][0] |= {"action": own, "tags": True, "group_policy": [{"verdict": "permit"}]}
    data["vnis"][0].pop("profile")
    data["vnis"][2]["telemetry"] = True
    data["policy"] = [{"vni": vni, "protocol": "tcp", "action": "secure", "profile": "full"}]
    shown = {item.vni: item.authenticated for item in told(table(build(data)), "t2").transit_vnis}
    assert shown[100], "else a stranger's tags would permit what they like"
    assert shown[300] is (vni is None)


def test_rules_come_before_what_holds_otherwise_and_old_inventories_mean_what_they_meant():
    assert [(rule.vni, rule.action.value) for rule in build().rules()] == [
        (100, "secure"), (200, "secure"), (300, "bypass"),
    ]  # fmt: skip
    of = inventory(policy=[{"name": "no", "vni": 100, "action": "discard"}])
    assert [rule.name for rule in of.rules()] == ["no", "vni-100", "vni-200", "vni-300"]

"""Which associations there are under each key granularity, who gets them, and how they are replaced."""

from __future__ import annotations

import base64
import hashlib
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.associations import GRACE, AssociationTable
from controller.states import build_state
from geneve.control.state import AssociationRole
from geneve.errors import ConfigError
from tests.controller.inventories import build, document

PATHS = {
    ("nve1", "nve2"): ("t1",), ("nve2", "nve1"): ("t1",), ("nve1", "nve3"): ("t1", "t2"),
    ("nve3", "nve1"): ("t2", "t1"), ("nve2", "nve3"): ("t2",), ("nve3", "nve2"): ("t2",),
}  # fmt: skip
NODES = ["nve1", "nve2", "nve3", "t1", "t2"]
SIGNING = {name: base64.b64encode(hashlib.sha256(name.encode()).digest()).decode() for name in NODES[:3]}
GROUP = {"name": "group-red", "address": "239.1.1.1", "senders": ["nve1", "nve2", "nve3"]}


class Tokens:
    """Different bytes each time, the same in each run."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def __call__(self, size: int) -> bytes:
        return hashlib.shake_256(str(next(self._numbers)).encode()).digest(size)


def inventory(profile: dict[str, Any] | None = None, policy: list[dict[str, Any]] | None = None, **vni: Any):
    data = document()
    if profile is not None:
        data["profiles"].append({"name": "mine", **profile})
        data["vnis"][0]["profile"] = "mine"
    data["vnis"][0] |= vni
    if policy is not None:
        data["policy"] = policy
    return build(data)


def table(of, registered=NODES, signers: bool = True) -> AssociationTable:
    made = AssociationTable(of, Tokens(), 2.0)
    for name, key in SIGNING.items() if signers else ():
        made.set_signer(name, key)
    made.settle(PATHS, registered, 0.0)
    return made


def acknowledge(made: AssociationTable, *nodes: str) -> None:
    for node in nodes or NODES:
        made.activate(node, frozenset(item.spi for item in made.inbound(node)))


def keys(made: AssociationTable, role: AssociationRole = AssociationRole.EGRESS, vni: int | None = 100):
    found = [held.association for held in made.all()]
    return [item for item in found if item.role is role and item.vni == vni]


def test_per_vni_there_is_one_for_each_ordered_pair_and_network():
    made = table(inventory())
    assert len(keys(made)) == 6
    assert len(keys(made, vni=200)) == 2
    assert len({item.association.spi for item in made.all()}) == len(made.all())


def test_per_pair_one_key_serves_all_networks():
    data = document()
    data["profiles"].append({"name": "mine", "key_granularity": "pair"})
    for number in (0, 1):
        data["vnis"][number]["profile"] = "mine"
    made = table(build(data))
    assert keys(made) == keys(made, vni=200) == []
    assert len(keys(made, vni=None)) == 6


def test_per_rule_each_rule_has_keys_of_its_own():
    rules = [
        {"name": "web", "vni": 100, "protocol": "tcp", "action": "secure", "profile": "each"},
        {"name": "dns", "vni": 100, "protocol": "udp", "action": "secure", "profile": "each"},
    ]
    data = document()
    data["profiles"].append({"name": "each", "key_granularity": "rule"})
    data["policy"] = rules
    made = table(build(data))
    per_rule = [item for item in keys(made) if item.profile == "each"]
    assert {item.rule for item in per_rule} == {"web", "dns"}
    assert len(per_rule) == 12
    assert len([item for item in keys(made) if item.profile == "full"]) == 6, "for what no rule matches"


def test_per_flow_there_is_one_below_which_the_flows_are_told_apart():
    made = table(inventory({"key_granularity": "flow"}))
    assert len([item for item in keys(made) if item.profile == "mine"]) == 6


BLIND = {"options": [], "authenticate_inner": "none", "encrypt_inner": "none"}
READS = {"egress": {"encrypt_inner": "none"}, "transit": {**BLIND, "authenticate_inner": "headers"}}
OPTION = {"option_class": 258, "type": 17, "data": "00000000"}


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
def test_devices_have_associations_where_packets_carry_something_for_them(profile, vni, devices):
    made = table(inventory(profile, **vni))
    found = [item for item in keys(made, AssociationRole.TRANSIT) if item.profile == "mine"]
    assert {item.audience for item in found} == devices
    crossing = {(sender, device) for (sender, _), via in PATHS.items() for device in via if device in devices}
    assert sorted((item.sender, item.audience) for item in found) == sorted(crossing), "one for each sender"


def test_a_group_without_devices_is_the_egress_nve_alone():
    made = AssociationTable(inventory({"group": BLIND}), Tokens(), 2.0)
    made.settle({}, NODES, 0.0)
    found = [item for item in keys(made, AssociationRole.GROUP) if item.profile == "mine"]
    assert len(found) == 6
    assert all(item.members == () for item in found)
    assert all(item.opens(item.audience) for item in found)


def test_a_confidential_group_has_the_devices_on_the_path_and_new_keys_when_they_change():
    group = {"options": [], "authenticate_inner": "none", "encrypt_inner": "none"}
    of = inventory({"group": group})
    made = table(of)
    shared = {(i.sender, i.audience): i for i in keys(made, AssociationRole.GROUP)}
    assert set(shared["nve1", "nve3"].members) == {"t1", "t2"}
    assert shared["nve1", "nve2"].members == ("t1",)
    for node in NODES:
        mine = [item for item in made.inbound(node) if item.role is AssociationRole.GROUP]
        assert all(item.opens(node) for item in mine)
        assert {item.spi for item in mine} == {i.spi for i in shared.values() if i.opens(node)}
    made.settle({**PATHS, ("nve1", "nve3"): ("t2",)}, NODES, 1.0)
    after = {(i.sender, i.audience): i for i in keys(made, AssociationRole.GROUP)}
    assert after["nve1", "nve3"].members == ("t2",)
    assert after["nve1", "nve3"].spi != shared["nve1", "nve3"].spi
    assert after["nve1", "nve3"].secret != shared["nve1", "nve3"].secret
    assert after["nve1", "nve2"] == shared["nve1", "nve2"], "whose members stayed keeps its key"


def test_a_multicast_group_has_one_key_for_each_sender_that_has_a_signing_key():
    of = inventory(multicast=[GROUP])
    assert keys(table(of, signers=False), AssociationRole.MULTICAST) == []
    made = table(of)
    found = {item.sender: item for item in keys(made, AssociationRole.MULTICAST)}
    assert set(found) == {"nve1", "nve2", "nve3"}
    assert len({item.spi for item in found.values()}) == 3
    assert found["nve1"].members == ("nve2", "nve3")
    assert found["nve1"].signer == SIGNING["nve1"]
    assert found["nve1"] not in made.inbound("nve1")
    acknowledge(made, "nve2")
    assert found["nve1"] not in made.outbound("nve1"), "one receiver is not ready yet"
    acknowledge(made, "nve3")
    assert found["nve1"] in made.outbound("nve1")
    made.set_signer("nve1", SIGNING["nve2"])
    made.settle(PATHS, NODES, 1.0)
    again = {item.sender: item for item in keys(made, AssociationRole.MULTICAST)}
    assert again["nve1"].spi != found["nve1"].spi
    assert again["nve3"] == found["nve3"]


def test_who_leaves_a_group_shares_no_key_of_it_any_more():
    made = table(inventory(multicast=[GROUP]))
    before = {item.spi for item in made.inbound("nve3")}
    made.settle(PATHS, [name for name in NODES if name != "nve3"], 1.0)
    assert not before & {held.association.spi for held in made.all()}
    assert all("nve3" not in held.association.members for held in made.all())


def test_a_replaced_association_goes_on_until_the_new_one_is_known():
    made = table(inventory())
    acknowledge(made)
    (old,) = [item for item in made.outbound("nve1") if item.audience == "nve2" and item.vni == 200]
    assert made.renew(old.spi, 0.5) == set(), "not so soon"
    assert made.renew(old.spi, 5.0) == {"nve1", "nve2"}
    assert made.renew(old.spi, 5.1) == set(), "nothing is known under the old number now"
    assert old in made.outbound("nve1")
    offered = [item for item in made.inbound("nve2") if item.sender == "nve1" and item.vni == 200]
    assert len(offered) == 2
    fresh = next(item for item in offered if item != old)
    assert made.renew(fresh.spi, 7.0) == set(), "one at a time"
    assert fresh not in made.outbound("nve1")
    acknowledge(made, "nve2")
    assert fresh in made.outbound("nve1")
    assert old not in made.outbound("nve1")
    made.tick(5.2)
    assert old in made.inbound("nve2"), "what is on its way can still be opened"
    made.tick(5.3 + GRACE)
    assert old not in made.inbound("nve2")
    assert fresh in made.inbound("nve2")


def test_a_busy_sender_need_not_wait_for_the_grace_period_and_two_can_be_opened_at_most():
    made = table(inventory())
    acknowledge(made)
    used = []
    for now in (5.0, 6.5, 8.0, 9.5):
        (current,) = [item for item in made.outbound("nve1") if item.audience == "nve2" and item.vni == 200]
        used.append(current.spi)
        assert made.renew(current.spi, now) == {"nve1", "nve2"}
        offered = [item.spi for item in made.inbound("nve2") if item.sender == "nve1" and item.vni == 200]
        assert len(offered) == 2
        assert current.spi in offered
        acknowledge(made, "nve2")
        made.tick(now + 0.1)
    assert len(set(used)) == 4
    assert all(held.previous is None or held.previous.previous is None for held in made.all()), "no chain grows"


def test_a_lost_acknowledgement_does_not_stop_a_replacement():
    made = table(inventory())
    acknowledge(made)
    (old,) = [item for item in made.outbound("nve1") if item.audience == "nve2" and item.vni == 200]
    made.renew(old.spi, 5.0)
    assert made.tick(6.9) == set()
    assert "nve1" in made.tick(7.1)
    assert old not in made.outbound("nve1")


def test_a_shared_association_is_replaced_when_all_that_open_it_are_ready():
    made = table(inventory({"group": BLIND}))
    acknowledge(made)
    (old,) = [item for item in made.outbound("nve1") if item.role is AssociationRole.GROUP and item.audience == "nve3"]
    assert made.renew(old.spi, 5.0) == {"nve1", "nve3", "t1", "t2"}
    for node in ("nve3", "t1"):
        acknowledge(made, node)
        assert old in made.outbound("nve1")
    acknowledge(made, "t2")
    assert old not in made.outbound("nve1")
    assert all(old in made.inbound(node) for node in ("nve3", "t1", "t2"))


def test_what_is_not_in_use_yet_is_not_replaced():
    made = table(inventory())
    assert made.renew(made.all()[0].association.spi, 1.9) == set()


def test_a_device_that_leaves_the_path_ends_a_replacement_too():
    made = table(inventory({"group": BLIND}))
    acknowledge(made)
    (old,) = [item for item in made.outbound("nve1") if item.role is AssociationRole.GROUP and item.audience == "nve3"]
    made.renew(old.spi, 5.0)
    made.settle({**PATHS, ("nve1", "nve3"): ("t2",)}, NODES, 5.5)
    assert all(item.role is not AssociationRole.GROUP or item.audience != "nve3" for item in made.inbound("t1"))
    assert old not in made.inbound("t2"), "who shares a key with one that left stops using it"


def test_only_its_sender_has_an_associations_number():
    made = table(inventory())
    held = made.all()[0].association
    assert made.sender_of(held.spi) == held.sender
    assert made.sender_of(1) is None


STEPS = st.sampled_from(["forget", "settle", "renew", "ack", "tick"])


@given(st.lists(st.tuples(STEPS, st.integers(0, 9)), max_size=25))
@settings(max_examples=60, deadline=None)
def test_whatever_happens_no_number_or_secret_comes_twice_and_none_goes_astray(steps):
    of = inventory({"group": {"options": [], "authenticate_inner": "none", "encrypt_inner": "none"}}, multicast=[GROUP])
    made = table(of)
    now, ever = 1.0, {}
    for step, number in steps:
        now += 1.3
        node = NODES[number % len(NODES)]
        if step == "forget":
            made.forget(node)
            made.settle(PATHS, NODES, now)
        elif step == "settle":
            made.settle(PATHS, NODES[: 2 + number % 4], now)
        elif step == "renew" and made.all():
            made.renew(made.all()[number % len(made.all())].association.spi, now)
        elif step == "ack":
            acknowledge(made, node)
        else:
            made.tick(now)
        for name in NODES:
            for item in made.inbound(name):
                assert item.opens(name)
                assert item.sender != name
                assert ever.setdefault(item.spi, item.secret) == item.secret
            outbound = made.outbound(name)
            assert all(item.sender == name for item in outbound)
            kinds = [(i.role, i.audience, i.vni, i.profile, i.rule) for i in outbound]
            assert len(set(kinds)) == len(kinds), "one of each kind"
    assert len(set(ever.values())) == len(ever)


def test_states_carry_what_belongs_to_the_node_and_no_more():
    of = inventory(
        tags=True,
        options=[{"option_class": 258, "type": 17, "data": "00000000"}],
        multicast=[],
        group_policy=[{"source": 1, "destination": 2, "verdict": "permit"}],
        enforcers=["t1"],
    )
    made = table(of)
    nve = build_state(of, made, PATHS, "nve1")
    red = next(vni for vni in nve.vnis if vni.vni == 100)
    assert red.tags
    assert red.options[0].type == 17
    assert {rule.vni for rule in nve.policy} == {100, 200}, "not VNI 300, where nve1 has no tenant"
    policies = {n: {v.vni: v.group_policy for v in build_state(of, made, PATHS, n).transit_vnis} for n in ("t1", "t2")}
    assert policies["t1"][100]
    assert policies["t2"][100] is None
    roles = {item.role for n in ("t1", "t2") for item in build_state(of, made, PATHS, n).inbound}
    assert roles == {AssociationRole.TRANSIT}


@pytest.mark.parametrize("own", ["discard", "bypass"])
@pytest.mark.parametrize("vni", [100, None])
def test_where_a_rule_secures_devices_believe_authenticated_options_only(own, vni):
    data = document()
    data["vnis"][0] |= {"action": own, "tags": True, "group_policy": [{"verdict": "permit"}]}
    data["vnis"][0].pop("profile")
    data["vnis"][2]["telemetry"] = True
    data["policy"] = [{"vni": vni, "protocol": "tcp", "action": "secure", "profile": "full"}]
    of = build(data)
    told = {item.vni: item.authenticated for item in build_state(of, table(of), PATHS, "t2").transit_vnis}
    assert told[100], "else a stranger's tags would permit what they like"
    assert told[300] is (vni is None)


def test_rules_come_before_what_holds_otherwise_and_old_inventories_mean_what_they_meant():
    assert [(rule.vni, rule.action.value) for rule in build().rules()] == [
        (100, "secure"), (200, "secure"), (300, "bypass"),
    ]  # fmt: skip
    of = inventory(policy=[{"name": "no", "vni": 100, "action": "discard"}])
    assert [rule.name for rule in of.rules()] == ["no", "vni-100", "vni-200", "vni-300"]


NOTHING = {"authenticate_inner": "none", "encrypt_inner": "none"}
FAULTS = [
    ({"policy": [{"action": "secure", "profile": "gone"}]}, ("policy", "'gone'")),
    ({"policy": [{"vni": 9, "action": "bypass"}]}, ("policy.0.vni", "9")),
    ({"policy": [{"name": "a", "action": "bypass"}] * 2}, ("policy", "'a'")),
    ({"vni": {"multicast": [{**GROUP, "senders": ["t1"]}]}}, ("senders", "'t1'")),
    ({"vni": {"multicast": [GROUP, {**GROUP, "name": "b", "inner": ["239.9.9.9"]}]}}, ("address", "239.1.1.1")),
    ({"vni": {"multicast": [{**GROUP, "address": "ff05::1"}]}}, ("address", "IPv4")),
    ({"vni": {"multicast": [{**GROUP, "name": "nve1"}]}}, ("name", "'nve1'")),
    ({"vni": {"multicast": [{**GROUP, "address": "10.0.0.1"}]}}, ("multicast",)),
    ({"vni": {"group_policy": []}}, ("group_policy", "tags")),
    ({"vni": {"tags": True, "group_policy": [], "multicast": [GROUP]}}, ("multicast", "tags")),
    ({"vni": {"enforcers": ["t1"]}}, ("enforcers", "group_policy")),
    ({"vni": {"tags": True, "group_policy": [], "enforcers": ["nve1"]}}, ("enforcers", "'nve1'")),
    ({"profile": {"devices": {"nve1": NOTHING}}}, ("devices", "'nve1'")),
    ({"policy": [{"name": "vni-200", "action": "bypass"}]}, ("policy.0.name", "'vni-200'")),
    (
        {"profile": {"key_granularity": "rule"}, "policy": [{"action": "secure", "profile": "mine"}]},
        ("policy", "name", "'mine'"),
    ),
    ({"vni": {"multicast": [GROUP, {**GROUP, "name": "b", "address": "239.1.1.2"}]}}, ("multicast", "'inner'")),
    ({"vni": {"options": [OPTION, OPTION]}}, ("options.1", "class")),
    ({"vni": {"options": [{**OPTION, "option_class": 0xFF60, "type": 0x81}]}}, ("options.0", "class")),
    ({"vni": {"options": [{**OPTION, "option_class": 0xFF60, "type": 6}]}}, ("options.0", "class")),
]


@pytest.mark.parametrize(("change", "words"), FAULTS, ids=str)
def test_faulty_inventories_are_refused_in_one_sentence(change, words):
    with pytest.raises(ConfigError) as caught:
        inventory(change.get("profile"), change.get("policy"), **change.get("vni", {}))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert str(caught.value).startswith("inventory.json: key '")
    assert "\n" not in str(caught.value)


def test_a_tag_where_packets_carry_none_is_refused():
    data = document()
    data["mappings"][1]["tag"] = 7
    with pytest.raises(ConfigError, match=r"mappings\.1\.tag.*tags: true"):
        build(data)
    data["vnis"][0]["tags"] = True
    assert build(data).mappings[1].tag == 7


def test_a_member_that_the_underlay_could_not_find_is_refused():
    data = document()
    data["nodes"]["nve2"].pop("mac")
    build(data)
    data["vnis"][0]["multicast"] = [GROUP]
    with pytest.raises(ConfigError, match=r"vnis\.0\.multicast\.0.*'nve2'"):
        build(data)

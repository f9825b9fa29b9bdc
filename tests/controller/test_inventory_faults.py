"""Inventories that contradict themselves are refused in one sentence that names the key."""

from __future__ import annotations

import pytest

from geneve.errors import ConfigError
from tests.controller.inventories import build, document
from tests.controller.tables import GROUP, OPTION, inventory

NOTHING = {"authenticate_inner": "none", "encrypt_inner": "none"}
ESP = {"channel": {"protocol": "esp"}, "key_granularity": "pair"}
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
    ({"profile": ESP}, ("policy", "clear")),
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


def test_other_profiles_beside_a_channel_are_refused():
    data = document()
    data["profiles"].append({"name": "esp", **ESP})
    data["vnis"] = data["vnis"][:2]  # the third is in clear
    data["mappings"] = [mapping for mapping in data["mappings"] if mapping["vni"] != 300]
    data["vnis"][0]["profile"] = "esp"
    with pytest.raises(ConfigError, match="no other profiles beside one"):
        build(data)
    data["vnis"][1]["profile"] = "esp"
    build(data)

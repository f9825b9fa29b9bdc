"""The inventory file: what is right is read, and each fault is one sentence with file and key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller.inventory import load_inventory
from geneve.errors import ConfigError
from tests.controller.inventories import build, document

Change = Callable[[dict[str, Any]], object]


def test_a_right_inventory_is_read() -> None:
    inventory = build()
    assert inventory.members(100) == ("nve1", "nve2", "nve3")
    assert inventory.members(200) == ("nve1", "nve2")
    assert inventory.link_costs() == {(1, 2): 10, (2, 3): 10, (1, 4): 30, (3, 4): 30}


def test_a_link_travelled_backwards_reverses_its_devices() -> None:
    assert build().via(2, 3) == ("t2", "eve")
    assert build().via(3, 2) == ("eve", "t2")
    assert build().via(1, 3) == ()


def test_addresses_with_a_known_place_are_told() -> None:
    assert build().fixed_places() == {
        "02:60:81:00:01:00": 2,
        "02:60:81:01:01:00": 1,
        "02:60:81:01:02:00": 2,
        "02:60:81:01:03:00": 3,
        "02:60:81:02:01:02": 1,
    }


FAULTS: dict[str, tuple[Change, str]] = {
    "unknown key": (lambda d: d.update(colour=1), "colour"),
    "missing key": (lambda d: d.pop("rest"), "rest"),
    "dpid twice": (lambda d: d["switches"].update(s2=1), "switches"),
    "dpid zero": (lambda d: d["switches"].update(s2=0), "switches.s2"),
    "dangling link": (lambda d: d["links"][0].update(between=["s1", "s9"]), "links.0.between"),
    "link to itself": (lambda d: d["links"][0].update(between=["s1", "s1"]), "links.0.between"),
    "link twice": (lambda d: d["links"][1].update(between=["s2", "s1"]), "links.1.between"),
    "device in two places": (lambda d: d["links"][2].update(via=["t1"]), "links.2.via"),
    "an NVE on a link": (lambda d: d["links"][2].update(via=["nve1"]), "links.2.via"),
    "cost zero": (lambda d: d["links"][0].update(cost=0), "links.0.cost"),
    "address twice": (lambda d: d["nodes"]["t1"].update(address="192.168.1.1"), "nodes.t1.address"),
    "the NVA's address": (lambda d: d["nodes"]["t1"].update(address="192.168.0.100"), "nodes.t1.address"),
    "a switch's name": (lambda d: d["nodes"].update(s1=d["nodes"].pop("nve1")), "nodes.s1"),
    "the NVA's name": (lambda d: d["nodes"].update(nva=d["nodes"].pop("t1")), "nodes.nva"),
    "operator with a node's name": (lambda d: d.update(operators=["alice", "nve1"]), "operators.1"),
    "operator with a switch's name": (lambda d: d.update(operators=["s1"]), "operators.0"),
    "operator with the NVA's name": (lambda d: d.update(operators=["nva"]), "operators.0"),
    "operator twice": (lambda d: d.update(operators=["alice", "alice"]), "operators.1"),
    "no operator's name": (lambda d: d.update(operators=["../x"]), "operators.0"),
    "dangling switch": (lambda d: d["nodes"]["nve1"].update(switch="s9"), "nodes.nve1.switch"),
    "NVE without switch": (lambda d: d["nodes"]["nve1"].pop("switch"), "nodes.nve1.switch"),
    "dangling switch of the NVA": (lambda d: d["nva"].update(switch="s9"), "nva.switch"),
    "no MAC": (lambda d: d["nodes"]["nve1"].update(mac="02:60"), "nodes.nve1.mac"),
    "MAC without switch": (lambda d: d["nodes"]["t1"].pop("switch"), "nodes.t1.mac"),
    "MAC of the NVA without switch": (lambda d: d["nva"].pop("switch"), "nva.mac"),
    "switch port without MAC": (lambda d: d["nodes"]["t2"].update(switch="s2", switch_port=3), "nodes.t2.switch_port"),
    "no switch port": (lambda d: d["nodes"]["nve1"].update(switch_port=0), "nodes.nve1.switch_port"),
    "counters too rare": (lambda d: d.update(fabric={"counters_seconds": -1}), "fabric.counters_seconds"),
    "unknown key of the fabric": (lambda d: d.update(fabric={"ecpm": True}), "fabric.ecpm"),
    "MAC of two nodes": (lambda d: d["nodes"]["nve2"].update(mac="02:60:81:00:01:00"), "nodes.nve2.mac"),
    "unknown role": (lambda d: d["nodes"]["nve1"].update(role="king"), "nodes.nve1.role"),
    "VNI twice": (lambda d: d["vnis"][1].update(vni=100), "vnis.1.vni"),
    "VNI beyond 24 bits": (lambda d: d["vnis"][1].update(vni=1 << 24), "vnis.1.vni"),
    "dangling profile": (lambda d: d["vnis"][0].update(profile="none"), "vnis.0.profile"),
    "profile with bypass": (lambda d: d["vnis"][0].update(action="bypass"), "vnis.0.profile"),
    "secure without profile": (lambda d: d["vnis"][0].pop("profile"), "vnis.0.profile"),
    "profile twice": (lambda d: d["profiles"].append({"name": "full"}), "profiles"),
    "mapping of no VNI": (lambda d: d["mappings"][0].update(vni=9), "mappings.0.vni"),
    "mapping to no node": (lambda d: d["mappings"][0].update(nve="nve9"), "mappings.0.nve"),
    "mapping to a transit device": (lambda d: d["mappings"][0].update(nve="t1"), "mappings.0.nve"),
    "MAC twice in a VNI": (lambda d: d["mappings"][1].update(mac="02:00:00:00:00:01"), "mappings.1.mac"),
    "IP twice in a VNI": (lambda d: d["mappings"][1].update(ips=["10.0.0.1"]), "mappings.1.ips"),
}


@pytest.mark.parametrize(("change", "key"), FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_is_one_sentence_with_file_and_key(change: Change, key: str) -> None:
    changed = document()
    change(changed)
    with pytest.raises(ConfigError) as caught:
        build(changed)
    text = str(caught.value)
    assert text.startswith("inventory.json: key '")
    assert key in text
    assert "\n" not in text


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read"):
        load_inventory(tmp_path / "none.json")

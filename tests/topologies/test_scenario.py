"""Scenario files: those that come with the testbed are sound, and faulty ones are refused in one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from geneve.errors import ConfigError
from topologies.scenario_file import load_scenario, parse_scenario, scenario_names, scenario_path

SMALL = scenario_path("small").read_text()


def change(**paths: Any) -> str:
    """Return the small scenario with values changed; a__b means key b in key a, ... deletes."""
    document = yaml.safe_load(SMALL)
    for path, value in paths.items():
        *parents, last = path.split("__")
        place = document
        for key in parents:
            place = place[int(key) if isinstance(place, list) else key]
        if value is ...:
            del place[last]
        elif isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value
    return yaml.safe_dump(document, sort_keys=False)


HOST = {"nve": "nve1", "mac": "02:00:00:00:00:09", "ipv4": "10.0.0.9/24"}

REFUSALS = [
    ("unknown key", change(colour="green"), "'colour' is unknown"),
    ("unknown key deep down", change(nves__nve1__atach="s1"), "nves.nve1.atach"),
    ("missing key", change(nva=...), "key 'nva' is missing"),
    ("number in quotes", change(underlay__mtu="1500"), "underlay.mtu"),
    ("MTU too small for IPv6", change(underlay__mtu=1300), "underlay.mtu"),
    ("VNI beyond 24 bits", change(tenants__red__vni=1 << 24), "tenants.red.vni"),
    ("negative VNI", change(tenants__red__vni=-1), "tenants.red.vni"),
    ("two tenants, one VNI", change(tenants__blue__vni=100), "tenants.blue.vni"),
    ("unknown profile", change(tenants__red__profile="best"), "tenants.red.profile"),
    ("link to no switch", change(underlay__links__0__between=["s1", "s9"]), "underlay.links.0.between"),
    ("link to itself", change(underlay__links__0__between=["s1", "s1"]), "underlay.links.0.between"),
    ("via nobody", change(underlay__links__0__via=["t1", "eve", "t9"]), "underlay.links.0.via"),
    ("device twice", change(underlay__links__0__via=["t1", "eve", "t1"]), "underlay.links.0.via"),
    ("transit device on no link", change(underlay__links__0__via=["eve"]), "transit_devices.t1"),
    ("attacker nowhere", change(underlay__links__0__via=["t1"]), "attackers.eve"),
    ("attacker in two places", change(attackers__eve={"attach": "s1"}), "attackers.eve.attach"),
    ("switches apart", change(underlay__switches=["s1", "s2", "s3"]), "underlay.links"),
    ("NVE at no switch", change(nves__nve1__attach="s7"), "nves.nve1.attach"),
    ("NVA at no switch", change(nva__attach="s7"), "nva.attach"),
    ("management nowhere", change(transit_devices__t1__management="s7"), "transit_devices.t1.management"),
    ("NVE without hosts", change(nves__nve3={"attach": "s1"}), "nves.nve3"),
    ("host behind no NVE", change(tenants__red__hosts__red1__nve="nve9"), "tenants.red.hosts.red1.nve"),
    ("one name, two nodes", change(tenants__red__hosts__t1=HOST), "tenants.red.hosts.t1"),
    ("one name, two tenants", change(tenants__blue__hosts__red1=HOST), "tenants.blue.hosts.red1"),
    ("name of the NVA", change(tenants__red__hosts__nva=HOST), "tenants.red.hosts.nva"),
    ("name too long", change(nves__networkedge={"attach": "s1"}), "nves.networkedge"),
    (
        "MAC twice in a tenant",
        change(tenants__red__hosts__red2__mac="02:00:00:00:00:01"),
        "tenants.red.hosts.red2.mac",
    ),
    ("group MAC", change(tenants__red__hosts__red2__mac="03:00:00:00:00:01"), "tenants.red.hosts.red2.mac"),
    (
        "IPv4 twice in a tenant",
        change(tenants__red__hosts__red2__ipv4="10.0.0.1/24"),
        "tenants.red.hosts.red2.ipv4",
    ),
    (
        "IPv6 twice, written otherwise",
        change(tenants__red__hosts__red2__ipv6="fd00:10:0::1/64"),
        "tenants.red.hosts.red2.ipv6",
    ),
    (
        "outside the subnet",
        change(tenants__red__hosts__red2__ipv4="10.0.1.2/24"),
        "tenants.red.hosts.red2.ipv4",
    ),
    (
        "other prefix length",
        change(tenants__red__hosts__red2__ipv4="10.0.0.2/16"),
        "tenants.red.hosts.red2.ipv4",
    ),
    (
        "broadcast address",
        change(tenants__red__hosts__red2__ipv4="10.0.0.255/24"),
        "tenants.red.hosts.red2.ipv4",
    ),
    ("no prefix length", change(tenants__red__hosts__red2__ipv4="10.0.0.2"), "tenants.red.hosts.red2.ipv4"),
    ("families mixed", change(tenants__red__hosts__red2__ipv4="fd00:10::2/64"), "tenants.red.hosts.red2.ipv4"),
    (
        "host without address",
        change(tenants__red__hosts__red3={"nve": "nve1", "mac": "02:00:00:00:00:09"}),
        "tenants.red.hosts.red3",
    ),
    ("impossible loss", change(transit_devices__t1__impair={"loss": 1.5}), "transit_devices.t1.impair.loss"),
    (
        "more jitter than delay",
        change(transit_devices__t1__impair={"jitter_ms": 2.0}),
        "transit_devices.t1.impair.jitter_ms",
    ),
    ("profile named as a built-in one", change(profiles=[{"name": "full"}]), "profiles.0.name"),
    ("key given twice", SMALL + "\nname: again\n", "given twice"),
    ("not YAML", "a: [", "line"),
    ("not a mapping", "- 1", "expected a mapping"),
]


@pytest.mark.parametrize(("text", "key"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_faulty_scenario_is_refused_in_one_sentence_with_file_and_key(text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_scenario(text, "some/file.yaml")
    sentence = str(caught.value)
    assert sentence.startswith("some/file.yaml:")
    assert key in sentence
    assert "\n" not in sentence
    assert sentence.endswith((".", ")"))


@pytest.mark.parametrize("name", scenario_names())
def test_scenarios_that_come_along_are_sound_and_named_after_their_file(name: str) -> None:
    assert load_scenario(name).name == name


def test_default_scenario_is_what_the_documentation_says() -> None:
    scenario = load_scenario("default")
    assert len(scenario.underlay.switches) == 4
    assert len(scenario.underlay.links) >= 4  # as many as switches: a ring at least
    assert len(scenario.nves) == 3
    assert len(scenario.transit_devices) == 2
    assert [attacker.attach is None for attacker in scenario.attackers.values()] == [False, True]
    red, blue = scenario.tenants["red"], scenario.tenants["blue"]
    assert red.vni != blue.vni
    addresses = [{(host.mac, *host.ips) for host in tenant.hosts.values()} for tenant in (red, blue)]
    assert addresses[0] == addresses[1]
    for tenant in (red, blue):
        assert {host.nve for host in tenant.hosts.values()} == set(scenario.nves)


def test_overlapping_addresses_of_two_tenants_are_no_fault() -> None:
    scenario = parse_scenario(SMALL, "small.yaml")
    assert scenario.tenants["red"].hosts["red1"].mac == scenario.tenants["blue"].hosts["blue1"].mac


def test_own_profile_can_be_defined_and_used() -> None:
    text = change(
        profiles=[{"name": "clear", "egress": {"encrypt_inner": "none"}}], tenants__red__profile="clear"
    )
    profile = parse_scenario(text, "x.yaml").profile("clear")
    assert profile is not None
    assert profile.egress.encrypt_inner.value == "none"


def test_unknown_scenario_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=re.escape("default")):
        load_scenario("nonesuch")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read"):
        load_scenario(tmp_path / "gone.yaml")

"""Scenario files: those that come with the testbed are sound, and faulty ones are refused in one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from geneve.errors import ConfigError
from geneve.policy import shadowed
from topologies.cli import main
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


def option(option_class: int, kind: int, size: int = 4) -> dict[str, Any]:
    return {"option_class": option_class, "type": kind, "data": "00" * size}


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
    ("rule with unknown profile", change(policy=[{"action": "secure", "profile": "best"}]), "policy.0.profile"),
    ("rule with unknown VNI", change(policy=[{"vni": 7, "action": "discard"}]), "policy.0.vni"),
    (
        "two rules, one name",
        change(policy=[{"name": "r", "action": "discard"}, {"name": "r", "action": "bypass"}]),
        "key 'policy'",
    ),
    (
        "rule named as a tenant's own",
        change(policy=[{"name": "vni-100", "vni": 100, "action": "discard"}]),
        "policy.0.name",
    ),
    (
        "rule without a name for keys per rule",
        change(
            profiles=[{"name": "p", "key_granularity": "rule"}],
            policy=[{"vni": 100, "action": "secure", "profile": "p"}],
        ),
        "needs a name",
    ),
    ("rule without profile", change(policy=[{"action": "secure"}]), "policy.0"),
    (
        "profile for no device",
        change(profiles=[{"name": "p", "devices": {"t9": {"encrypt_inner": "none", "authenticate_inner": "none"}}}]),
        "profiles.0.devices.t9",
    ),
    ("group of the wrong family", change(tenants__red__multicast=[{"name": "g", "address": "ff05::1"}]), "address"),
    ("group address no group's", change(tenants__red__multicast=[{"name": "g", "address": "10.1.1.1"}]), "address"),
    (
        "group address twice",
        change(
            tenants__red__multicast=[{"name": "g", "address": "239.1.1.1"}],
            tenants__blue__multicast=[{"name": "h", "address": "239.1.1.1"}],
        ),
        "tenants.blue.multicast.0.address",
    ),
    (
        "group name twice",
        change(
            tenants__red__multicast=[{"name": "g", "address": "239.1.1.1"}],
            tenants__blue__multicast=[{"name": "g", "address": "239.1.1.2"}],
        ),
        "tenants.blue.multicast.0.name",
    ),
    (
        "group named as a node",
        change(tenants__red__multicast=[{"name": "nve1", "address": "239.1.1.1"}]),
        "tenants.red.multicast.0.name",
    ),
    (
        "two groups for all addresses",
        change(tenants__red__multicast=[{"name": n, "address": f"239.1.1.{k}"} for k, n in enumerate("gh")]),
        "tenants.red.multicast",
    ),
    (
        "inner address no group's",
        change(tenants__red__multicast=[{"name": "g", "address": "239.1.1.1", "inner": ["10.0.0.1"]}]),
        "tenants.red.multicast.0.inner",
    ),
    (
        "unknown sender",
        change(tenants__red__multicast=[{"name": "g", "address": "239.1.1.1", "senders": ["nve9"]}]),
        "tenants.red.multicast.0.senders",
    ),
    ("tag beyond 16 bits", change(tenants__red__hosts__red1__tag=65536), "tenants.red.hosts.red1.tag"),
    ("negative tag", change(tenants__red__hosts__red1__tag=-1), "tenants.red.hosts.red1.tag"),
    ("group policy without tags", change(tenants__red__group_policy=[]), "tenants.red.group_policy"),
    (
        "group policy and multicast",
        change(
            tenants__red__tags=True,
            tenants__red__group_policy=[],
            tenants__red__multicast=[{"name": "g", "address": "239.1.1.1"}],
        ),
        "tenants.red.multicast",
    ),
    ("enforcers of nothing", change(tenants__red__enforcers=["t1"]), "tenants.red.enforcers"),
    (
        "unknown enforcer",
        change(tenants__red__tags=True, tenants__red__group_policy=[], tenants__red__enforcers=["t9"]),
        "tenants.red.enforcers",
    ),
    ("option of the mechanism", change(tenants__red__options=[option(0xFF60, 0x81)]), "tenants.red.options.0"),
    ("padding option", change(tenants__red__options=[option(0xFF60, 3)]), "tenants.red.options.0"),
    ("telemetry by hand too", change(tenants__red__options=[option(0xFF60, 2)]), "tenants.red.options.0"),
    ("option twice", change(tenants__red__options=[option(258, 1), option(258, 1)]), "tenants.red.options.0"),
    ("critical option nobody knows", change(tenants__red__options=[option(258, 0x91)]), "tenants.red.options.0"),
    ("too many options", change(tenants__red__options=[option(258, n, 124) for n in (1, 2)]), "key 'tenants.red'"),
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


def test_every_requirement_is_shown_by_a_scenario() -> None:
    shown: set[int] = set()
    for name in scenario_names():
        if name.startswith("mechanism-"):
            text = load_scenario(name).description
            assert "SEC-GEN-" in text
            # "(SEC-GEN-8)", and further ones of the same list shortened to "(9)".
            shown |= {int(number) for number in re.findall(r"(?:SEC-GEN-|\()(\d+)", text)}
    assert shown == set(range(1, 18))


@pytest.mark.parametrize("name", [name for name in scenario_names() if name.startswith("mechanism-")])
def test_all_that_passes_between_nves_of_a_mechanism_scenario_passes_the_attacker_behind_the_devices(name: str) -> None:
    scenario = load_scenario(name)
    (link,) = scenario.underlay.links
    assert link.via[-1] == "eve"
    first = [nve for nve, place in scenario.nves.items() if place.attach == link.between[0]]
    assert first == ["nve1"]
    for tenant in scenario.tenants.values():
        assert {host.nve for host in tenant.hosts.values()} >= {"nve1", "nve2"}


def test_no_rule_of_the_scenarios_that_come_along_is_unreachable() -> None:
    assert [line for name in scenario_names() for line in shadowed(load_scenario(name).policy)] == []


def test_rules_can_name_protocol_ports_and_options() -> None:
    rules = [{"vni": 100, "protocol": "tcp", "destination": {"port": [80, 443]}, "action": "bypass"}]
    scenario = parse_scenario(change(policy=rules), "x.yaml")
    assert scenario.policy[0].destination.port == (80, 443)
    assert None in scenario.profiles_of("red")
    assert [profile and profile.name for profile in scenario.profiles_of("blue")] == [None]


def test_keys_are_logged_only_where_the_scenario_is_named_for_it() -> None:
    assert [name for name in scenario_names() if load_scenario(name).key_log] == ["key-log"]


def test_check_prints_what_is_doubtful(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = [{"name": "wide", "vni": 100, "action": "discard"}, {"name": "narrow", "vni": 100, "action": "bypass"}]
    path = tmp_path / "mine.yaml"
    path.write_text(change(policy=rules, key_log=True))
    assert main(["--check", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "MTU" in printed
    assert "narrow" in printed
    assert "wide" in printed
    assert "ALL ITS KEYS" in printed


def test_check_is_quiet_about_a_plain_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "default"]) == 0
    assert "warning" not in capsys.readouterr().out

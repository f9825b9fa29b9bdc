"""The scenario key 'mechanism': one protection for the whole network, and what it leaves no room for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from controller.inventory import parse_inventory
from geneve.config import validate
from geneve.control.channel import DTLS_PORT, ESP_UDP_PORT
from geneve.errors import ConfigError
from geneve.header import GENEVE_PORT
from geneve.overhead import IP_HEADER_SIZE, channel_size, largest_datagram
from nve.config import NveConfig
from topologies.configs import Layout, inventory, nve_config
from topologies.plan import make_plan
from topologies.profiles import CHANNEL_PROFILES
from topologies.scenario import Scenario
from topologies.scenario_checks import first_fault
from topologies.scenario_file import load_scenario, parse_scenario, scenario_names, scenario_path

LAYOUT = Layout(Path("/private"), Path("/kept"))
CHANNELS = [profile.name for profile in CHANNEL_PROFILES]
PORTS = {"dtls": DTLS_PORT, "dtls-null": DTLS_PORT, "esp-udp": ESP_UDP_PORT, "esp-null-udp": ESP_UDP_PORT}
DISCARD = {"protocol": "udp", "destination": {"port": 9}, "action": "discard"}


def written(mechanism: str | None, **changes: object) -> str:
    """Return the small scenario without profiles, under a mechanism, with other keys on top."""
    document = yaml.safe_load(scenario_path("small").read_text())
    for tenant in document["tenants"].values():
        del tenant["profile"]
    if mechanism is not None:
        document["mechanism"] = mechanism
    return yaml.safe_dump(document | changes, sort_keys=False)


@pytest.mark.parametrize("mechanism", ["none", *CHANNELS])
def test_a_mechanism_for_all_needs_no_profiles_of_tenants(mechanism: str) -> None:
    scenario = parse_scenario(written(mechanism), "x.yaml")
    assert {tenant.profile for tenant in scenario.tenants.values()} == {mechanism}


def test_without_the_key_tenants_have_our_profiles() -> None:
    scenario = parse_scenario(written(None), "x.yaml")
    assert {tenant.profile for tenant in scenario.tenants.values()} == {"full"}
    assert scenario.channel is None


@pytest.mark.parametrize("mechanism", CHANNELS)
def test_nodes_are_told_of_the_channel(mechanism: str) -> None:
    scenario = parse_scenario(written(mechanism), "x.yaml")
    plan = make_plan(scenario)
    config = validate(nve_config(plan, LAYOUT, "nve1"), "nve1", NveConfig)
    assert config.channel == scenario.channel is not None
    assert config.underlay.port == PORTS.get(mechanism, GENEVE_PORT)
    parsed = parse_inventory(json.dumps(inventory(plan, LAYOUT)), "inventory.json")
    assert [profile.channel for profile in parsed.profiles] == [scenario.channel]


REFUSALS = [
    ("unknown", written("tls"), "key 'mechanism': 'tls' is none"),
    ("our profile is no mechanism", written("full"), "key 'mechanism': 'full' is none"),
    ("a channel for one tenant", scenario_path("small").read_text().replace("profile: full", "profile: esp"),
     "tenants.red.profile"),
    ("another profile under a channel", scenario_path("small").read_text() + "\nmechanism: esp\n",
     "tenants.red.profile"),
    ("rules that protect", written("esp", policy=[{"action": "secure", "profile": "full"}]), "policy.0.action"),
    ("rules that let pass", written("dtls", policy=[{"action": "bypass"}]), "policy.0.action"),
    ("a channel in a rule", written(None, policy=[{"action": "secure", "profile": "esp"}]), "policy.0.profile"),
    ("an option's matter in a channel", written("x", profiles=[
        {"name": "x", "channel": {"protocol": "esp"}, "key_granularity": "pair", "hidden_header": ["vni"]}]),
     "'hidden_header' is a matter of security options"),
    ("keys finer than a pair", written("x", profiles=[{"name": "x", "channel": {"protocol": "esp"}}]),
     "key_granularity"),
    ("padding of DTLS", written("x", profiles=[
        {"name": "x", "channel": {"protocol": "dtls", "encapsulation": "udp"}, "key_granularity": "pair",
         "padding": {"mode": "mtu"}}]), "only ESP pads"),
    ("AH that encrypts", written("x", profiles=[{"name": "x", "channel": {"protocol": "ah"}}]), "AH encrypts nothing"),
    ("AH in UDP", written("x", profiles=[
        {"name": "x", "channel": {"protocol": "ah", "cipher": "null", "encapsulation": "udp"}}]), "by IP only"),
    ("DTLS in IP", written("x", profiles=[{"name": "x", "channel": {"protocol": "dtls"}}]), "carried by UDP"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
def test_a_mixture_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_scenario(text, "x.yaml")
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("x.yaml: key '")


def test_dtls_has_no_underlay_groups() -> None:
    document = yaml.safe_load(written("dtls"))
    document["tenants"]["red"]["multicast"] = [{"name": "g", "address": "239.1.1.1"}]
    with pytest.raises(ConfigError, match="DTLS has no multicast"):
        parse_scenario(yaml.safe_dump(document), "x.yaml")


OWN = {"name": "own", "channel": {"protocol": "esp"}, "key_granularity": "pair"}
UNFIT = [
    ("padding", {"padding": {"mode": "mtu"}}, "key 'ipsec': profile 'own' has padding or dummies"),
    ("dummies", {"dummies": {"mode": "fill", "rate": 10.0}}, "key 'ipsec': profile 'own' has padding or dummies"),
    ("window", {"replay_window": 8192}, "key 'ipsec': profile 'own' has a replay window of 8192"),
    ("groups", {}, "key 'tenants.red.multicast': the kernel's IPsec is used between two NVEs only"),
]


@pytest.mark.parametrize(("changes", "sentence"), [case[1:] for case in UNFIT], ids=[case[0] for case in UNFIT])
def test_what_the_kernel_cannot_do_is_left_to_our_own_code_or_refused(
    changes: dict[str, object], sentence: str
) -> None:
    document = yaml.safe_load(written("own", profiles=[OWN | changes]))
    if not changes:
        document["tenants"]["red"]["multicast"] = [{"name": "g", "address": "239.1.1.1"}]
    with pytest.raises(ConfigError) as caught:
        parse_scenario(yaml.safe_dump({**document, "ipsec": "kernel"}), "x.yaml")
    assert sentence in str(caught.value)
    scenario = parse_scenario(yaml.safe_dump({**document, "ipsec": "auto"}), "x.yaml")
    assert nve_config(make_plan(scenario), LAYOUT, "nve1")["ipsec"] == "user-space"


@pytest.mark.parametrize("whose", ["auto", "kernel"])
def test_what_the_kernel_can_do_it_may(whose: str) -> None:
    scenario = parse_scenario(written("own", profiles=[OWN], ipsec=whose), "x.yaml")
    assert nve_config(make_plan(scenario), LAYOUT, "nve1")["ipsec"] == whose
    assert parse_scenario(written("dtls", ipsec=whose), "x.yaml").ipsec == whose


def test_rules_can_discard_under_any_mechanism() -> None:
    assert parse_scenario(written("esp", policy=[DISCARD]), "x.yaml").policy


def test_a_channel_of_ones_own() -> None:
    own = {
        "name": "padded", "channel": {"protocol": "esp", "extended_sequence_numbers": False},
        "key_granularity": "pair", "padding": {"mode": "mtu"}, "dummies": {"mode": "fill", "rate": 10.0},
    }  # fmt: skip
    scenario = parse_scenario(written("padded", profiles=[own]), "x.yaml")
    assert scenario.channel is not None
    assert not scenario.channel.extended_sequence_numbers


@pytest.mark.parametrize("name", scenario_names())
@pytest.mark.parametrize("mechanism", ["none", *CHANNELS])
def test_every_scenario_can_be_put_under_every_mechanism(name: str, mechanism: str) -> None:
    scenario: Scenario = load_scenario(name).under(mechanism)
    assert first_fault(scenario) is None
    assert {tenant.profile for tenant in scenario.tenants.values()} == {mechanism}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("profile", CHANNEL_PROFILES, ids=CHANNELS)
@pytest.mark.parametrize("mtu", range(1500, 1508))
def test_the_largest_datagram_fits_and_no_larger_one(profile: object, family: int, mtu: int) -> None:
    channel = getattr(profile, "channel", None)
    largest = largest_datagram(mtu, family, channel)
    assert IP_HEADER_SIZE[family] + channel_size(largest, family, channel) <= mtu
    assert IP_HEADER_SIZE[family] + channel_size(largest + 1, family, channel) > mtu

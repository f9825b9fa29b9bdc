"""The modes of the attacks: each is a network of its own mechanism, and channels are all of it."""

from __future__ import annotations

import pytest

from experiments.attacks import in_mode
from experiments.attacks_analysis import ATTACKS, CHANNELS, MODES, UNENCRYPTED, attacks_in, resists
from geneve.control.channel import Cipher
from topologies.scenario import Scenario
from topologies.scenario_file import load_scenario


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_scenario("default")


@pytest.mark.parametrize("mode", MODES)
def test_every_tenant_is_in_the_mode(scenario: Scenario, mode: str) -> None:
    made = in_mode(scenario, mode)
    assert {tenant.profile for tenant in made.tenants.values()} == {mode}
    assert (made.channel is not None) == (mode in CHANNELS)


@pytest.mark.parametrize("mode", CHANNELS)
def test_what_is_said_not_to_encrypt_does_not(scenario: Scenario, mode: str) -> None:
    channel = in_mode(scenario, mode).channel
    assert channel is not None
    assert (channel.cipher is Cipher.NULL) == (mode in UNENCRYPTED)


def test_only_the_control_and_reading_clear_text_may_succeed() -> None:
    allowed = {(attack, mode) for mode in MODES for attack in attacks_in(mode) if not resists(attack, mode)}
    assert allowed == {(attack, "none") for attack in ATTACKS} | {("sniff", mode) for mode in UNENCRYPTED}

"""Strict configuration: one sentence that names file and key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve.config import load
from geneve.control.rules import Direction
from geneve.control.state import NodeState
from geneve.errors import ConfigError
from geneve.inner import parse_inner
from geneve.policy import Policy
from tests.support import FULL, association, node_state, udp_frame

BASE = "node: nve1\nrole: nve\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("role: nve", ["'node' is missing"]),
        (BASE + "colour: red", ["'colour' is unknown"]),
        (BASE + "node: nve2", ["'node'", "twice", "line 3"]),
        (BASE + "vnis: [{vni: 16777216, mtu: 1400}]", ["vnis.0.vni", "16777215", "16777216"]),
        (BASE + "vnis: [{vni: '100', mtu: 1400}]", ["vnis.0.vni", "integer"]),
        (BASE + "policy: [{vni: 1, action: secure}]", ["policy.0.profile"]),
        (BASE + "policy: [{vni: 1, action: bypass, profile: full}]", ["policy.0.profile"]),
        (BASE + "mappings: [{vni: 1, mac: '02:0', nve: a}]", ["mappings.0.mac", "02:00:00:00:00:01"]),
        (BASE + "profiles: [{name: p, replay_window: 100}]", ["profiles.0.replay_window", "64"]),
        (BASE + "profiles: [{name: p, egress: {header: [oam]}}]", ["profiles.0.egress", "vni"]),
        (BASE + "profiles: [{name: p, transit: {}}]", ["profiles.0", "transit"]),
        (
            BASE + "profiles: [{name: p, egress: {authenticate_inner: none}}]",
            ["profiles.0.egress", "authenticate_inner"],
        ),
        ("[1, 2]", ["mapping", "list"]),
        ("a: [", ["line 1", "YAML"]),
        ("{[1]: 2}", ["line 1"]),
        ("", ["mapping", "nothing"]),
        ("a: &a [*a]", ["contains itself"]),
        ("2020-01-01: x", ["keys"]),
    ],
)
def test_bad_input_gives_one_sentence_with_file_and_key(text, words):
    with pytest.raises(ConfigError) as caught:
        load(text, "some/file.yaml", NodeState)
    sentence = str(caught.value)
    assert sentence.startswith("some/file.yaml:")
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


@given(st.text(max_size=60))
def test_any_text_loads_or_raises_the_one_error(text):
    with pytest.raises(ConfigError):
        load(text, "f", NodeState)


def test_a_state_survives_the_wire_with_its_secrets_and_hides_them_elsewhere():
    state = node_state("nve1", telemetry=True, transit=("t1",))
    wire = state.to_wire()
    assert NodeState.model_validate_json(__import__("json").dumps(wire)) == state
    secrets = [item["secret"] for item in wire["outbound"]]
    assert secrets
    for text in (repr(state), str(state), state.model_dump_json(), repr(state.outbound[0])):
        assert not any(secret in text for secret in secrets)


@pytest.mark.parametrize("text", ["AAAA", "not base64!", ""])
def test_a_secret_of_the_wrong_size_is_refused(text):
    broken = association().model_dump(mode="json") | {"secret": text}
    with pytest.raises(ValueError, match="base64"):
        type(association()).model_validate(broken, strict=False)


def test_a_rule_with_an_unknown_profile_is_refused():
    state = node_state("nve1")
    with pytest.raises(ConfigError, match="'full'"):
        Policy(state.policy, ())
    decision = Policy(state.policy, (FULL,)).decide(Direction.OUT, 100, parse_inner(udp_frame()), frozenset())
    assert decision.profile == FULL

"""A policy whose packets would not fit the underlay is refused before it is in force."""

from __future__ import annotations

import pytest

from geneve.control.profile import Padding, PaddingMode, Profile
from geneve.control.rules import Action, Rule
from geneve.control.state import NodeState
from geneve.errors import ConfigError
from geneve.telemetry import TELEMETRY_OPTION_SIZE
from nve.sizes import refuse_sizes
from tests.support import FULL, node_state

ROOM = 1500 - 20 - 8 - 8 - 14
"""Bytes of an inner IP packet in an underlay of 1500 bytes over IPv4, before any option."""


def with_mtu(state: NodeState, mtu: int) -> NodeState:
    return state.model_copy(update={"vnis": tuple(vni.model_copy(update={"mtu": mtu}) for vni in state.vnis)})


def test_what_just_fits_passes_and_a_byte_more_does_not() -> None:
    state = node_state("nve1", profile=FULL)
    refuse_sizes(with_mtu(state, ROOM - 32), 1500, 4)
    with pytest.raises(ConfigError, match=f"MTU of {ROOM - 32}, and they have {ROOM - 31}"):
        refuse_sizes(with_mtu(state, ROOM - 31), 1500, 4)


def test_ipv6_and_devices_on_the_path_take_their_bytes() -> None:
    state = node_state("nve1", profile=FULL, telemetry=True, transit=("t1", "t2"))
    options = 3 * 32
    with pytest.raises(ConfigError):
        refuse_sizes(with_mtu(state, ROOM - options), 1500, 4)
    refuse_sizes(with_mtu(state, ROOM - options - TELEMETRY_OPTION_SIZE), 1500, 4)
    with pytest.raises(ConfigError):
        refuse_sizes(with_mtu(state, ROOM - options - TELEMETRY_OPTION_SIZE), 1500, 6)


def test_padding_needs_room_for_its_length() -> None:
    padded = Profile(name="padded", padding=Padding(mode=PaddingMode.MTU))
    state = node_state("nve1", profile=padded)
    with pytest.raises(ConfigError, match="'padded'"):
        refuse_sizes(with_mtu(state, ROOM - 32), 1500, 4)


def test_what_no_rule_can_give_is_not_counted() -> None:
    state = node_state("nve1", action=Action.BYPASS, policy=(Rule(vni=100, action=Action.BYPASS),))
    refuse_sizes(with_mtu(state, ROOM), 1500, 4)


def test_options_that_no_packet_can_carry_are_refused() -> None:
    state = node_state("nve1", profile=FULL, telemetry=True, transit=tuple(f"t{number}" for number in range(9)))
    with pytest.raises(ConfigError, match="VNI 100"):
        refuse_sizes(with_mtu(state, 1000), 9000, 4)

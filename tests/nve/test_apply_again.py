"""A state that changes little costs little, and what is taken over from before behaves as if made anew."""

from __future__ import annotations

import pytest

from geneve.control.profile import Profile
from geneve.control.rules import Action, Rule
from geneve.control.state import NodeState
from geneve.drops import DropReason
from geneve.errors import ConfigError
from geneve.packet import parse_packet
from nve.datagrams import Received
from nve.dataplane import Dataplane
from tests.support import ADDRESSES, FULL, MACS, association, node_state, source, udp_frame


def nve(name: str = "nve1", vnis: tuple[int, ...] = (100, 200)) -> Dataplane:
    made = Dataplane(name, bytes(32))
    made.apply(node_state(name, vnis=vnis))
    return made


def rekeyed(state: NodeState, receiver: str, vni: int, spi: int) -> NodeState:
    """``state`` with another association to ``receiver`` in ``vni``."""
    fresh = association(spi, "egress", state.node, receiver, vni)
    kept = tuple(a for a in state.outbound if (a.audience, a.vni) != (receiver, vni))
    return state.model_copy(update={"outbound": (*kept, fresh)})


def test_an_equal_state_keeps_everything():
    one = nve()
    before = one._applied
    one.apply(node_state("nve1", vnis=(100, 200)))
    after = one._applied
    assert after.policy is before.policy
    assert after.opener is before.opener
    assert all(after.networks[vni] is before.networks[vni] for vni in (100, 200))
    assert all(after.targets[key] is before.targets[key] for key in before.targets)


def test_a_rekey_makes_one_sealer_anew():
    one = nve()
    before = one._applied
    one.apply(rekeyed(node_state("nve1", vnis=(100, 200)), "nve2", 100, 7777))
    after = one._applied
    changed = [key for key in after.targets if after.targets[key] is not before.targets[key]]
    assert changed == [(100, "nve2", False, "full", None)]
    assert after.networks[100] is before.networks[100]
    spi = parse_packet(one.from_tenants(100, [udp_frame()]).datagrams[0].payload).options[0].data[:4]
    assert spi == (7777).to_bytes(4, "big")


def test_a_mapping_that_moves_rebuilds_its_network_only_and_sealers_stay():
    one = nve()
    before = one._applied
    state = node_state("nve1", vnis=(100, 200))
    moved = tuple(
        m.model_copy(update={"nve": "nve3"}) if (m.vni, m.mac) == (100, MACS["nve2"]) else m for m in state.mappings
    )
    one.apply(state.model_copy(update={"mappings": moved}))
    after = one._applied
    assert after.networks[200] is before.networks[200]
    assert after.networks[100] is not before.networks[100]
    assert all(target.sealer is before.targets[key].sealer for key, target in after.targets.items())
    assert all(target.network is after.networks[key[0]] for key, target in after.targets.items())
    (datagram,) = one.from_tenants(100, [udp_frame()]).datagrams
    assert datagram.destination == ADDRESSES["nve3"]


def test_a_peer_with_another_address_is_sent_to_there():
    one = nve()
    state = node_state("nve1", vnis=(100, 200))
    nves = tuple(n.model_copy(update={"address": "192.168.9.9"}) if n.name == "nve2" else n for n in state.nves)
    one.apply(state.model_copy(update={"nves": nves}))
    (datagram,) = one.from_tenants(100, [udp_frame()]).datagrams
    assert datagram.destination == "192.168.9.9"


def test_a_smaller_mtu_is_the_limit_of_padding_from_then_on():
    one = nve()
    sealer = one._applied.targets[100, "nve2", False, "full", None].sealer
    state = node_state("nve1", vnis=(100, 200))
    smaller = tuple(vni.model_copy(update={"mtu": 1000}) for vni in state.vnis)
    one.apply(state.model_copy(update={"vnis": smaller}))
    assert one._applied.targets[100, "nve2", False, "full", None].sealer is not sealer
    one.from_tenants(100, [udp_frame(data=bytes(1100))])
    assert one.drops == {DropReason.FRAME_TOO_BIG: 1}


def test_another_policy_counts_at_once_whatever_was_remembered():
    one = nve()
    assert len(one.from_tenants(100, [udp_frame()]).datagrams) == 1
    state = node_state("nve1", vnis=(100, 200))
    one.apply(state.model_copy(update={"policy": (Rule(action=Action.DISCARD),)}))
    assert one.from_tenants(100, [udp_frame()]).datagrams == []
    assert one.drops == {DropReason.POLICY_DISCARD: 1}
    one.apply(state)
    assert len(one.from_tenants(100, [udp_frame()]).datagrams) == 1


def test_a_withdrawn_inbound_association_opens_nothing_any_more():
    one, two = nve(), nve("nve2")
    packets = [Received(one.from_tenants(100, [udp_frame()]).datagrams[0].payload, source("nve1")) for _ in range(2)]
    assert len(two.from_underlay(packets[:1])) == 1
    state = node_state("nve2", vnis=(100, 200))
    two.apply(state.model_copy(update={"inbound": tuple(a for a in state.inbound if a.sender != "nve1")}))
    assert two.from_underlay(packets[1:]) == []
    assert two.drops == {DropReason.UNKNOWN_SPI: 1}


def test_a_state_that_is_refused_half_way_leaves_all_as_it_was():
    one = nve()
    before = one._applied
    broken = rekeyed(node_state("nve1", vnis=(100, 200)), "nve2", 100, 7777)
    broken = broken.model_copy(update={"nves": tuple(n.model_copy(update={"transit": ()}) for n in broken.nves)})
    doubled = broken.model_copy(update={"outbound": broken.outbound * 2})
    with pytest.raises(ConfigError):
        one.apply(doubled)
    assert one._applied is before
    assert len(one.from_tenants(100, [udp_frame()]).datagrams) == 1


def test_a_state_can_be_checked_without_taking_it_over():
    one = nve()
    before = one._applied
    state = node_state("nve1", vnis=(100, 200))
    one.check(state.model_copy(update={"policy": (), "outbound": (), "inbound": ()}))
    for bad in (
        {"policy": (Rule(action=Action.SECURE, profile="unknown"),)},
        {"profiles": (FULL, Profile(name="full", replay_window=64))},
        {"mappings": state.mappings * 2},
    ):
        with pytest.raises(ConfigError):
            one.check(state.model_copy(update=bad))
    assert one._applied is before
    assert len(one.from_tenants(100, [udp_frame()]).datagrams) == 1

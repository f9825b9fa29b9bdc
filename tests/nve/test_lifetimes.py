"""Associations end in time by the node's own clock, and what they protected fails closed."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from geneve.control.profile import Profile
from geneve.drops import DropReason
from geneve.packet import parse_packet
from geneve.security.association import InboundAssociation, OutboundAssociation
from geneve.security.store import AssociationStore
from nve.datagrams import Received
from nve.dataplane import Dataplane
from nve.waiting import WAIT_SECONDS
from tests.support import TRANSIT_COVERAGE, association, node_state, source, udp_frame

LIFETIME = 100.0
SHORT = Profile(name="full", transit=TRANSIT_COVERAGE, rekey_seconds=50, lifetime_seconds=LIFETIME)


def nve(name: str, now: float = 0.0, on_demand: bool = False, **state: object) -> Dataplane:
    made = Dataplane(name, bytes(32), on_demand=on_demand)
    made.apply(node_state(name, profile=SHORT, **state), now)
    return made


def received(sender: Dataplane, now: float) -> list[Received]:
    datagrams = sender.from_tenants(100, [udp_frame()], now).datagrams
    return [Received(item.payload, source(sender.name), item.traffic_class) for item in datagrams]


def test_a_partition_from_the_nva_leaves_service_until_the_hard_limit_and_never_plaintext():
    one, two = nve("nve1", on_demand=True), nve("nve2", now=5.0)
    for now in (1.0, 50.0, LIFETIME - 0.1):
        one.run_due(now)
        two.run_due(now)
        assert two.from_underlay(received(one, now)) == [(100, udp_frame())]
    packets = received(one, LIFETIME - 0.05)
    one.run_due(LIFETIME)
    for now in (LIFETIME, LIFETIME + 1.0, LIFETIME + 1000.0):
        one.run_due(now)
        assert received(one, now) == [], "not sealed under the old key, and not in clear"
        assert [item.audience for item in one.take_demands(now)] == ["nve2"]
    one.run_due(LIFETIME + 1000.0 + WAIT_SECONDS)
    assert one.drops == {DropReason.KEY_WAIT_TIMEOUT: 3}
    assert two.from_underlay(packets) != [], "each end goes by its own clock"
    two.run_due(LIFETIME + 5.0)
    assert two.from_underlay(packets) == []
    assert two.drops == {DropReason.ASSOCIATION_EXPIRED: 1}


def test_without_keys_on_demand_too_it_fails_closed():
    one = nve("nve1")
    one.run_due(LIFETIME)
    assert received(one, LIFETIME) == []
    assert one.drops == {DropReason.NO_ASSOCIATION: 1}
    assert one.counters["associations_expired"] == 4


def test_what_the_same_push_brings_again_stays_expired():
    one, two = nve("nve1"), nve("nve2")
    packets = received(one, 1.0)
    for node in (one, two):
        node.run_due(LIFETIME)
        for now in (LIFETIME, LIFETIME + 1, 0.0):
            node.apply(node_state(node.name, profile=SHORT), now)
            node.run_due(now)
    assert received(one, LIFETIME + 2) == []
    assert two.from_underlay(packets) == []
    assert two.drops == {DropReason.ASSOCIATION_EXPIRED: 1}


def test_a_push_in_between_does_not_prolong_a_life():
    one = nve("nve1")
    one.apply(node_state("nve1", profile=SHORT), 60.0)
    assert one.next_deadline() == LIFETIME
    one.run_due(LIFETIME)
    assert received(one, LIFETIME) == []


def test_a_push_after_the_end_comes_too_late_even_before_the_timer():
    one, two = nve("nve1"), nve("nve2")
    packets = received(one, 1.0)
    for node in (one, two):
        node.apply(node_state(node.name, profile=SHORT), LIFETIME + 1)
    assert received(one, LIFETIME + 1) == []
    assert two.from_underlay(packets) == []


def test_new_keys_bring_the_service_back():
    one, two = nve("nve1", on_demand=True), nve("nve2")
    for node in (one, two):
        node.run_due(LIFETIME)
    assert received(one, LIFETIME) == []
    two.apply(node_state("nve2", profile=SHORT, epoch=1), LIFETIME + 0.1)
    (datagram,) = one.apply(node_state("nve1", profile=SHORT, epoch=1), LIFETIME + 0.2)
    assert two.from_underlay([Received(datagram.payload, source("nve1"))]) == [(100, udp_frame())]


def test_a_path_on_which_one_devices_association_has_expired_is_closed():
    """Without the device's option the packet would be less protected than it was."""
    whole = node_state("nve1", profile=SHORT, telemetry=True, transit=("t1",))
    transit = tuple(item for item in whole.outbound if item.audience == "t1")
    later = tuple(item for item in whole.outbound if item.audience != "t1")
    one = Dataplane("nve1", bytes(32))
    one.apply(whole.model_copy(update={"outbound": transit}), 0.0)
    one.apply(whole.model_copy(update={"outbound": (*transit, *later)}), 50.0)
    (packet,) = received(one, 60.0)
    assert len(parse_packet(packet.payload).options) == 3
    one.run_due(LIFETIME)
    assert received(one, LIFETIME) == []
    assert one.drops == {DropReason.NO_ASSOCIATION: 1}


def test_no_lifetime_is_no_limit():
    forever = Profile(name="full", rekey_seconds=None, lifetime_seconds=None)
    one = Dataplane("nve1", bytes(32))
    one.apply(node_state("nve1", profile=forever), 0.0)
    one.run_due(1e12)
    assert len(received(one, 1e12)) == 1


@pytest.mark.parametrize("kind", [OutboundAssociation, InboundAssociation])
def test_the_store_counts_from_when_it_first_held_an_association(kind):
    store: AssociationStore = AssociationStore(kind)
    item, profiles = association(), {"full": SHORT}
    store.commit(store.prepare([item], profiles, 10.0))
    store.commit(store.prepare([item], profiles, 90.0))
    assert store.next_expiry() == 10.0 + LIFETIME
    assert store.expire(10.0 + LIFETIME - 1) == []
    assert store.expire(10.0 + LIFETIME) == [item.spi]
    assert store.expire(10.0 + LIFETIME) == [], "told once"
    assert store.ends() == []
    store.commit(store.prepare([item], profiles, 0.0))
    assert store.ends() == []


def test_a_prepared_push_that_is_not_taken_over_starts_no_life():
    store: AssociationStore = AssociationStore(OutboundAssociation)
    store.prepare([association()], {"full": SHORT}, 0.0)
    store.commit(store.prepare([association()], {"full": SHORT}, 50.0))
    assert store.next_expiry() == 50.0 + LIFETIME


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"rekey_seconds": 10.0, "lifetime_seconds": 10.0}, "less than lifetime_seconds"),
        ({"lifetime_seconds": 60.0}, "less than lifetime_seconds"),
        ({"rekey_seconds": 0.0}, "greater than 0"),
        ({"lifetime_seconds": float("inf")}, "finite"),
    ],
)
def test_limits_in_time_that_make_no_sense_are_refused(fields, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Profile(name="full", **fields)


def test_limits_in_time_are_no_part_of_the_keys():
    one, two = nve("nve1"), Dataplane("nve2", bytes(32))
    two.apply(node_state("nve2", profile=Profile(name="full", transit=TRANSIT_COVERAGE)))
    assert two.from_underlay(received(one, 1.0)) == [(100, udp_frame())]

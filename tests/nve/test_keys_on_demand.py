"""Frames that wait for keys: asked for once, kept within bounds, released in order, under the policy of the day."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve.control.demand import MAX_DEMANDS, Demand
from geneve.control.profile import Dummies, DummyMode, Padding, PaddingMode, Profile
from geneve.control.rules import Action, Rule
from geneve.control.state import NodeState
from geneve.drops import DropReason
from geneve.packet import parse_packet
from nve import waiting
from nve.datagrams import Datagram, Received
from nve.dataplane import Dataplane
from nve.waiting import (
    DEMAND_RETRY,
    MAX_FRAMES,
    MAX_FRAMES_PER_KEY,
    MAX_FRAMES_PER_VNI,
    REFUSED_PAUSE,
    WAIT_SECONDS,
    WaitingFrames,
)
from tests.nve.test_multicast_and_cover import ED25519, GROUP, SIGNERS
from tests.nve.test_multicast_and_cover import state as group_state
from tests.support import ADDRESSES, FULL, MACS, mac, node_state, source, udp_frame

TO_NVE2 = Demand(audience="nve2", vni=100, profile="full")
TO_NVE3 = Demand(audience="nve3", vni=100, profile="full")


def keyless(state: NodeState, *audiences: str) -> NodeState:
    """``state`` without keys, but for those towards ``audiences``."""
    return state.model_copy(update={"outbound": tuple(a for a in state.outbound if a.audience in audiences)})


def nve(state: NodeState | None = None) -> Dataplane:
    made = Dataplane("nve1", bytes(32), signer=SIGNERS["nve1"], on_demand=True)
    made.apply(keyless(node_state("nve1")) if state is None else state, 0.0)
    return made


def opened(datagrams: list[Datagram], node: str = "nve2", state: NodeState | None = None) -> list[bytes]:
    receiver = Dataplane(node, bytes(32))
    receiver.apply(state or node_state(node))
    packets = [Received(item.payload, source("nve1"), item.traffic_class) for item in datagrams]
    return [frame for _, frame in receiver.from_underlay(packets)]


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [udp_frame(data=b"frame %d" % n) for n in range(first, first + count)]


def test_a_frame_without_keys_waits_and_its_keys_are_asked_for_at_once():
    one = nve()
    assert one.from_tenants(100, [udp_frame()], 1.0).datagrams == []
    assert one.drops == {}
    assert one.next_deadline() == 1.0
    assert one.take_demands(1.0) == [TO_NVE2]
    assert one.take_demands(1.0) == [], "once"


def test_frames_leave_sealed_and_in_order_in_front_of_later_ones():
    one = nve()
    frames = numbered(5)
    for frame in frames[:3]:
        one.from_tenants(100, [frame], 1.0)
    released = one.apply(node_state("nve1"), 1.1)
    later = one.from_tenants(100, frames[3:], 1.2).datagrams
    assert opened([*released, *later]) == frames
    assert [parse_packet(item.payload).options[0].data[4:12] for item in released] == [
        n.to_bytes(8, "big") for n in (1, 2, 3)
    ]
    assert one.counters["frames_from_tenants"] == 5
    assert one.counters["datagrams_sent"] == 5
    assert one.drops == {}
    assert one.take_demands(9.0) == []
    assert one.apply(node_state("nve1"), 1.3) == [], "nothing leaves twice"


def test_a_demand_is_repeated_as_long_as_frames_wait():
    one = nve(keyless(node_state("nve1")).model_copy(update={"inbound": ()}))
    asked = []
    for tenth in range(40):
        now = tenth / 10
        one.run_due(now)
        if now < 1.5:
            one.from_tenants(100, [udp_frame()], now)
        asked += [now] * len(one.take_demands(now))
    assert asked == pytest.approx([0.0, DEMAND_RETRY, 2 * DEMAND_RETRY, 3 * DEMAND_RETRY])
    assert one.take_demands(4.0) == []
    assert one.next_deadline() is None


def test_a_frame_waits_so_long_and_no_longer():
    one = nve()
    one.from_tenants(100, [udp_frame()], 1.0)
    one.run_due(1.0 + WAIT_SECONDS - 0.01)
    assert one.drops == {}
    one.run_due(1.0 + WAIT_SECONDS)
    assert one.drops == {DropReason.KEY_WAIT_TIMEOUT: 1}
    assert one.apply(node_state("nve1"), 4.0) == []


def test_a_frame_is_too_old_even_if_its_keys_come_before_the_timer():
    one = nve()
    one.from_tenants(100, [udp_frame()], 1.0)
    assert one.apply(node_state("nve1"), 1.0 + WAIT_SECONDS) == []
    assert one.drops == {DropReason.KEY_WAIT_TIMEOUT: 1}


def test_one_destination_has_its_share_of_the_room():
    one = nve()
    one.from_tenants(100, numbered(MAX_FRAMES_PER_KEY + 3), 0.0)
    assert one.drops == {DropReason.KEY_WAIT_OVERFLOW: 3}
    one.from_tenants(100, [udp_frame(receiver="nve3")], 0.0)
    assert one.drops[DropReason.KEY_WAIT_OVERFLOW] == 3
    assert len(one.apply(node_state("nve1"), 0.1)) == MAX_FRAMES_PER_KEY + 1


def test_one_virtual_network_takes_no_more_than_its_share_and_gets_it_back():
    frames = WaitingFrames()
    keys = [(100, f"nve{n}", False, "full", None) for n in range(MAX_FRAMES_PER_VNI // MAX_FRAMES_PER_KEY + 1)]
    reasons = [frames.add(key, 100, bytes(64), 0.0) for key in keys for _ in range(MAX_FRAMES_PER_KEY)]
    assert reasons.count(None) == MAX_FRAMES_PER_VNI
    other = (200, "nve1", False, "full", None)
    assert frames.add(other, 200, bytes(64), 0.0) is None
    frames.take(lambda key: key == keys[0])
    assert frames.add(keys[0], 100, bytes(64), 1.0) is None
    frames.expire(WAIT_SECONDS)
    assert [frames.add(key, 100, bytes(64), 3.0) for key in keys[1:]] == [None] * len(keys[1:])


def test_the_room_in_all_is_bounded_in_frames_and_bytes(monkeypatch):
    frames = WaitingFrames()
    keys = [(100 + n, f"nve{n}", False, "full", None) for n in range(MAX_FRAMES // MAX_FRAMES_PER_KEY + 1)]
    reasons = [frames.add(key, key[0], bytes(64), 0.0) for key in keys for _ in range(MAX_FRAMES_PER_KEY)]
    assert reasons.count(None) == len(frames) == MAX_FRAMES
    assert set(reasons) == {None, DropReason.KEY_WAIT_OVERFLOW}
    monkeypatch.setattr(waiting, "MAX_BYTES", 1000)
    few = WaitingFrames()
    assert [few.add(keys[0], 100, bytes(400), 0.0) for _ in range(3)] == [None, None, DropReason.KEY_WAIT_OVERFLOW]
    assert few.expire(WAIT_SECONDS) == {DropReason.KEY_WAIT_TIMEOUT: 2}
    assert few.add(keys[0], 100, bytes(400), 3.0) is None, "what is gone takes no room"


def test_demands_come_in_portions():
    frames = WaitingFrames()
    for n in range(MAX_DEMANDS + 5):
        assert frames.add((100, f"nve{n}", False, "full", None), 100, bytes(64), 0.0) is None
    assert len(frames.take_demands(0.0)) == MAX_DEMANDS
    assert frames.next_deadline() == 0.0
    assert len(frames.take_demands(0.0)) == 5
    assert frames.take_demands(0.0) == []


def test_what_the_nva_refuses_is_dropped_and_not_asked_again_for_a_while():
    one = nve()
    one.from_tenants(100, numbered(2), 1.0)
    assert one.take_demands(1.0) == [TO_NVE2]
    one.refuse_demand(TO_NVE2, 1.1)
    assert one.drops == {DropReason.NO_ASSOCIATION: 2}
    one.from_tenants(100, numbered(1), 1.2)
    assert one.drops == {DropReason.NO_ASSOCIATION: 3}
    assert one.take_demands(3.0) == []
    one.from_tenants(100, numbered(1), 1.1 + REFUSED_PAUSE)
    assert one.take_demands(1.1 + REFUSED_PAUSE) == [TO_NVE2]


def test_keys_that_come_after_all_end_the_refusal():
    one = nve()
    one.refuse_demand(TO_NVE2, 1.0)
    one.apply(node_state("nve1"), 1.1)
    assert len(one.from_tenants(100, numbered(1), 1.2).datagrams) == 1


def test_without_an_nva_to_ask_nothing_waits():
    one = Dataplane("nve1", bytes(32))
    one.apply(keyless(node_state("nve1")))
    one.from_tenants(100, [udp_frame()], 1.0)
    assert one.drops == {DropReason.NO_ASSOCIATION: 1}
    assert one.take_demands(1.0) == []


# --- the world may have changed meanwhile ----------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "reason"),
    [((Rule(action=Action.DISCARD),), DropReason.POLICY_DISCARD), ((), DropReason.POLICY_DISCARD)],
)
def test_a_frame_is_decided_anew_under_the_new_policy(policy, reason):
    one = nve()
    one.from_tenants(100, [udp_frame()], 1.0)
    assert one.apply(node_state("nve1", policy=policy), 1.1) == []
    assert one.drops == {reason: 1}


def test_a_frame_never_leaves_under_the_profile_of_an_old_policy():
    """Keys for the old profile arrive together with a policy that demands another: the frame goes on waiting."""
    one = nve()
    one.from_tenants(100, [udp_frame()], 1.0)
    other = Profile(name="other")
    state = node_state("nve1", policy=(Rule(action=Action.SECURE, profile="other"),))
    assert one.apply(state.model_copy(update={"profiles": (FULL, other)}), 1.1) == []
    assert one.drops == {}
    assert one.take_demands(1.1) == [Demand(audience="nve2", vni=100, profile="other")]
    one.run_due(1.0 + WAIT_SECONDS)
    assert one.drops == {DropReason.KEY_WAIT_TIMEOUT: 1}, "and it keeps the time since when it waits"


def test_keys_alone_do_not_release_what_waits_for_others():
    one = nve()
    one.from_tenants(100, [udp_frame(receiver="nve3")], 1.0)
    assert one.apply(keyless(node_state("nve1"), "nve2"), 1.1) == []
    ((datagram),) = one.apply(node_state("nve1"), 1.2)
    assert datagram.destination == ADDRESSES["nve3"]


def test_a_frame_follows_a_tenant_that_has_moved():
    one = nve()
    one.from_tenants(100, [udp_frame()], 1.0)
    state = keyless(node_state("nve1"), "nve3")
    moved = tuple(m.model_copy(update={"nve": "nve3"}) if m.mac == MACS["nve2"] else m for m in state.mappings)
    (datagram,) = one.apply(state.model_copy(update={"mappings": moved}), 1.1)
    assert datagram.destination == ADDRESSES["nve3"]
    there = node_state("nve3")
    assert opened([datagram], "nve3", there.model_copy(update={"mappings": moved})) == [udp_frame()]


def test_a_frame_whose_receiver_moved_here_is_left_to_the_bridge():
    one = nve()
    one.from_tenants(100, [udp_frame()], 1.0)
    state = node_state("nve1")
    moved = tuple(m.model_copy(update={"nve": "nve1"}) if m.mac == MACS["nve2"] else m for m in state.mappings)
    assert one.apply(state.model_copy(update={"mappings": moved}), 1.1) == []
    assert one.counters["frames_for_local_tenants"] == 1


def test_a_frame_of_a_network_that_is_gone_is_dropped():
    one = nve()
    one.from_tenants(100, [udp_frame()], 1.0)
    assert one.apply(node_state("nve1", vnis=(200,)), 1.1) == []
    assert one.drops == {DropReason.UNKNOWN_VNI: 1}


def test_a_state_that_is_refused_releases_nothing_and_loses_nothing():
    one = nve()
    one.from_tenants(100, [udp_frame()], 1.0)
    with pytest.raises(ValueError, match="nve2"):
        one.apply(node_state("nve2"), 1.1)
    assert len(one.apply(node_state("nve1"), 1.2)) == 1


# --- frames to many --------------------------------------------------------------------------


def broadcast(data: bytes = b"to all") -> bytes:
    return b"\xff" * 6 + udp_frame(data=data)[6:]


def test_a_flooded_frame_waits_for_those_peers_only_whose_keys_are_missing():
    one = nve(keyless(node_state("nve1"), "nve3"))
    (sent,) = one.from_tenants(100, [broadcast()], 1.0).datagrams
    assert sent.destination == ADDRESSES["nve3"]
    assert one.take_demands(1.0) == [TO_NVE2]
    (released,) = one.apply(node_state("nve1"), 1.1)
    assert released.destination == ADDRESSES["nve2"]
    assert opened([released]) == [broadcast()]


def test_copies_for_several_peers_are_released_once_each():
    one = nve()
    one.from_tenants(100, [broadcast(b"a"), broadcast(b"b")], 1.0)
    assert one.take_demands(1.0) == [TO_NVE2, TO_NVE3]
    first = one.apply(keyless(node_state("nve1"), "nve3"), 1.1)
    second = one.apply(node_state("nve1"), 1.2)
    assert [item.destination for item in first] == [ADDRESSES["nve3"]] * 2
    assert [item.destination for item in second] == [ADDRESSES["nve2"]] * 2
    assert opened(second) == [broadcast(b"a"), broadcast(b"b")]


def test_once_the_receiver_is_known_the_copies_for_others_are_dropped():
    unknown = mac("02:00:00:00:00:77") + udp_frame()[6:]
    one = nve()
    one.from_tenants(100, [unknown], 1.0)
    state = node_state("nve1")
    known = state.mappings[1].model_copy(update={"mac": "02:00:00:00:00:77", "ips": ()})
    (datagram,) = one.apply(state.model_copy(update={"mappings": (*state.mappings, known)}), 1.1)
    assert datagram.destination == ADDRESSES["nve2"]
    assert one.counters["copies_not_needed"] == 1
    assert one.drops == {}


def test_a_unicast_frame_whose_receiver_is_not_known_any_more_is_flooded_once():
    one = nve()
    one.from_tenants(100, [udp_frame()], 1.0)
    state = node_state("nve1")
    forgotten = state.model_copy(update={"mappings": state.mappings[:1]})
    assert one.apply(keyless(forgotten), 1.1) == []
    assert sorted(item.destination for item in one.apply(forgotten, 1.2)) == [ADDRESSES["nve2"], ADDRESSES["nve3"]]
    assert one.apply(forgotten, 1.3) == []


def test_a_frame_to_an_underlay_group_waits_for_the_groups_keys():
    whole = group_state("nve1", ED25519)
    one = nve(keyless(whole, "nve2", "nve3"))
    assert one.from_tenants(100, [broadcast()], 1.0).datagrams == []
    assert one.take_demands(1.0) == [Demand(audience="everyone", multicast=True, vni=100, profile="full")]
    (datagram,) = one.apply(whole, 1.1)
    assert datagram.destination == GROUP
    assert opened([datagram], "nve2", group_state("nve2", ED25519)) == [broadcast()]


# --- cover traffic ---------------------------------------------------------------------------

COVER = Profile(name="full", padding=Padding(mode=PaddingMode.MTU), dummies=Dummies(mode=DummyMode.FILL, rate=100))


def test_cover_traffic_asks_for_keys_without_any_data():
    one = nve(keyless(node_state("nve1", profile=COVER)))
    assert one.take_demands(0.0) == [TO_NVE2, TO_NVE3]
    assert one.take_demands(1.0) == []
    assert one.take_demands(REFUSED_PAUSE) == [TO_NVE2, TO_NVE3], "again, should the demand be lost"
    one.apply(node_state("nve1", profile=COVER), 6.0)
    assert one.take_demands(20.0) == []


def test_cover_traffic_that_is_not_wanted_any_more_asks_for_nothing():
    one = nve(keyless(node_state("nve1", profile=COVER)))
    one.apply(keyless(node_state("nve1", epoch=1)), 0.1)
    assert one.take_demands(REFUSED_PAUSE) == []


# --- any order of events ---------------------------------------------------------------------

_STEPS = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(["nve2", "nve3", "all"])),
    st.tuples(st.just("keys"), st.sets(st.sampled_from(["nve2", "nve3"]))),
    st.tuples(st.just("policy"), st.sampled_from([Action.SECURE, Action.DISCARD])),
    st.tuples(st.just("refuse"), st.sampled_from(["nve2", "nve3"])),
    st.tuples(st.just("time"), st.floats(0.1, 1.5)),
)


@given(st.lists(_STEPS, max_size=40))
def test_whatever_comes_frames_leave_sealed_in_order_and_once_or_are_counted(steps):
    one = nve()
    receivers = {ADDRESSES[name]: Dataplane(name, bytes(32)) for name in ("nve2", "nve3")}
    for receiver in receivers.values():
        receiver.apply(node_state(receiver.name))
    now, number, have, action = 0.0, 0, set(), Action.SECURE
    arrived: dict[str, list[int]] = {address: [] for address in receivers}

    def deliver(datagrams: list[Datagram]) -> None:
        for item in datagrams:
            frames = receivers[item.destination].from_underlay([Received(item.payload, source("nve1"))])
            assert len(frames) == 1, "sealed, under a key of the policy's, and no replay"
            arrived[item.destination].append(int(frames[0][1][42:]))

    for kind, value in steps:
        if kind == "send":
            number += 1
            frame = udp_frame(receiver="nve2" if value == "all" else value, data=b"%d" % number)
            deliver(one.from_tenants(100, [broadcast(b"%d" % number) if value == "all" else frame], now).datagrams)
        elif kind in ("keys", "policy"):
            have = have | value if kind == "keys" else have  # an SPI that was withdrawn does not come back
            action = value if kind == "policy" else action
            whole = keyless(node_state("nve1"), *have)
            rules = whole.policy if action is Action.SECURE else ()
            deliver(one.apply(whole.model_copy(update={"policy": rules}), now))
        elif kind == "refuse":
            one.refuse_demand(TO_NVE2 if value == "nve2" else TO_NVE3, now)
        else:
            now += value
            deliver(one.run_due(now))
        one.take_demands(now)
    now += WAIT_SECONDS
    one.run_due(now)
    for numbers in arrived.values():
        assert numbers == sorted(set(numbers)), "in order, and none twice"
    assert len(one._waiting) == 0
    sent = sum(len(numbers) for numbers in arrived.values())
    assert sent == one.counters["datagrams_sent"]
    assert number <= sent + sum(one.drops.values())
    assert set(one.drops) <= {
        DropReason.KEY_WAIT_TIMEOUT,
        DropReason.KEY_WAIT_OVERFLOW,
        DropReason.NO_ASSOCIATION,
        DropReason.POLICY_DISCARD,
    }

"""Underlay multicast, group authorisation, dummies, soft limits, key granularity: an NVE's decisions, in memory."""

from __future__ import annotations

import base64
from collections import Counter

import pytest

from geneve.control.profile import (
    Coverage,
    Dummies,
    DummyMode,
    InnerCoverage,
    KeyGranularity,
    Padding,
    PaddingMode,
    Profile,
    SourceProof,
)
from geneve.control.rules import Action, Rule
from geneve.control.state import MulticastGroup, NodeState, VniState
from geneve.drops import DropReason
from geneve.errors import ConfigError
from geneve.option import Option
from geneve.security.association import OutboundAssociation
from geneve.security.seal import Item, PacketSealer
from geneve.security.signature import SourceSigner
from geneve.telemetry import build_telemetry
from nve.datagrams import Received
from nve.dataplane import Dataplane
from tests.support import MACS, association, mac, node_state, source, udp_frame

SIGNERS = {name: SourceSigner.from_seed(name.encode().ljust(32)) for name in ("nve1", "nve2", "nve3")}
GROUP = "239.60.81.1"


def broadcast(sender: str = "nve1", data: bytes = b"to all") -> bytes:
    return b"\xff" * 6 + udp_frame(sender, "nve2", data)[6:]


def group_association(sender: str, profile: str, signer: str | None = None):
    key = base64.b64encode(SIGNERS[signer or sender].public_key()).decode()
    others = tuple(name for name in SIGNERS if name != sender)
    base = association(5000 + int(sender[-1]), "multicast", sender, "everyone", profile=profile)
    return base.model_copy(update={"members": others, "signer": key})


def state(name: str, profile: Profile, senders: tuple[str, ...] = ("nve1", "nve2", "nve3")) -> NodeState:
    plain = node_state(name, profile=profile)
    vni = VniState(vni=100, mtu=1400, multicast=(MulticastGroup(name="everyone", address=GROUP, senders=senders),))
    groups = [group_association(sender, profile.name) for sender in senders]
    return plain.model_copy(
        update={
            "vnis": (vni,),
            "outbound": (*plain.outbound, *(item for item in groups if item.sender == name)),
            "inbound": (*plain.inbound, *(item for item in groups if item.opens(name))),
        }
    )


def node(name: str, profile: Profile, **options) -> Dataplane:
    made = Dataplane(name, bytes(32), signer=SIGNERS[name])
    made.apply(state(name, profile, **options))
    return made


ED25519 = Profile(name="full")
MERKLE = Profile(name="full", source_proof=SourceProof.MERKLE)


def carry(frames: list[bytes], sender: Dataplane, *receivers: Dataplane) -> list[list[tuple[int, bytes]]]:
    sent = sender.from_tenants(100, frames).datagrams
    packets = [Received(datagram.payload, source(sender.name)) for datagram in sent]
    return [receiver.from_underlay(packets) for receiver in receivers]


@pytest.mark.parametrize("profile", [ED25519, MERKLE], ids=["ed25519", "merkle"])
def test_one_packet_to_the_group_reaches_every_member_once(profile):
    one, two, three = (node(name, profile) for name in SIGNERS)
    frames = [broadcast(data=b"frame %d" % n) for n in range(19)]
    sent = one.from_tenants(100, frames).datagrams
    assert [datagram.destination for datagram in sent] == [GROUP] * 19
    packets = [Received(datagram.payload, source("nve1")) for datagram in sent]
    for receiver in (two, three):
        assert receiver.from_underlay(packets) == [(100, frame) for frame in frames]
        assert receiver.from_underlay(packets[:1]) == []
        assert receiver.drops == {DropReason.REPLAYED: 1}


def test_a_member_cannot_send_in_another_members_name():  # invariant 8
    two, three = node("nve2", ED25519), node("nve3", ED25519)
    stolen = group_association("nve1", "full")  # nve2 holds this key, as every member does
    forger = PacketSealer(100, OutboundAssociation(stolen, ED25519), signer=SIGNERS["nve2"])
    (packet,) = forger.seal([Item(broadcast("nve1"))])
    assert three.from_underlay([Received(packet, source("nve1"))]) == []
    assert three.drops == {DropReason.SOURCE_UNPROVEN: 1}
    ((_, frame),) = carry([broadcast("nve1")], node("nve1", ED25519), three)[0]
    assert frame == broadcast("nve1"), "the forgery did not use up the number"
    assert two.name == "nve2"


def test_only_authorised_senders_send_to_a_group():
    two = node("nve2", ED25519, senders=("nve1",))
    assert two.from_tenants(100, [broadcast("nve2")]).datagrams == []
    assert two.drops == {DropReason.UNAUTHORISED_GROUP: 1}


def test_a_key_for_a_group_alone_does_not_make_a_sender():
    """nve2 has a key for the group, as after a change of the senders; nve3's state says that only nve1 may send."""
    narrow = state("nve3", ED25519, senders=("nve1",))
    wide = narrow.model_copy(update={"inbound": (*narrow.inbound, group_association("nve2", "full"))})
    three = Dataplane("nve3", bytes(32))
    three.apply(wide)
    assert carry([broadcast("nve2")], node("nve2", ED25519), three) == [[]]
    assert three.drops == {DropReason.UNAUTHORISED_GROUP: 1}


def test_a_group_frame_under_a_unicast_association_is_refused_where_there_is_a_group():
    """What nve2 may not send to the group, it cannot send to each member one by one either."""
    three = node("nve3", ED25519, senders=("nve1",))
    rogue = Dataplane("nve2", bytes(32))
    rogue.apply(node_state("nve2"))
    assert carry([broadcast("nve2")], rogue, three) == [[]]
    copies = len(rogue.networks[100].peers)
    assert three.drops == {DropReason.UNAUTHORISED_GROUP: 1, DropReason.UNKNOWN_SPI: copies - 1}


def test_a_unicast_frame_does_not_belong_into_a_group():
    three = node("nve3", ED25519)
    sealer = PacketSealer(100, OutboundAssociation(group_association("nve1", "full"), ED25519), signer=SIGNERS["nve1"])
    (packet,) = sealer.seal([Item(udp_frame("nve1", "nve3"))])
    assert three.from_underlay([Received(packet, source("nve1"))]) == []
    assert three.drops == {DropReason.UNAUTHORISED_GROUP: 1}


def test_an_insiders_false_inner_source_is_refused_in_groups_too():
    three = node("nve3", ED25519)
    assert carry([broadcast("nve2")], node("nve1", ED25519), three) == [[]]
    assert three.drops == {DropReason.UNAUTHORISED_SOURCE: 1}


def test_two_groups_and_senders_have_keys_of_their_own():
    spis = {item.spi for item in (group_association("nve1", "full"), group_association("nve2", "full"))}
    assert len(spis) == 2
    with pytest.raises(ValueError, match="signer"):
        OutboundAssociation(group_association("nve1", "full").model_copy(update={"signer": None}), ED25519)
    twice = state("nve1", ED25519)
    doubled = twice.vnis[0].model_copy(update={"multicast": twice.vnis[0].multicast * 2})
    with pytest.raises(ConfigError, match="groups"):
        Dataplane("nve1", bytes(32)).apply(twice.model_copy(update={"vnis": (doubled,)}))


# --- dummies ---------------------------------------------------------------------------------

COVER = Profile(name="full", padding=Padding(mode=PaddingMode.MTU), dummies=Dummies(mode=DummyMode.FILL, rate=100))


def test_dummies_look_like_data_and_end_at_the_nve():
    one, two = Dataplane("nve1", bytes(32)), Dataplane("nve2", bytes(32))
    one.apply(node_state("nve1", profile=COVER, telemetry=True), 0.0)
    two.apply(node_state("nve2", profile=COVER, telemetry=True), 0.0)
    (data,) = one.from_tenants(100, [udp_frame(data=b"short")], 0.001).datagrams
    dummies = [item for item in one.run_due(0.05) if item.destination == data.destination]
    assert dummies
    for dummy in dummies:
        assert len(dummy.payload) == len(data.payload)
        assert dummy.payload[:16] == data.payload[:16], "base header, telemetry's header and flow label"
        assert dummy.payload[24:32] == data.payload[24:32], "header and SPI of the security option"
        assert (dummy.entropy, dummy.traffic_class) == (data.entropy, data.traffic_class)
    received = [Received(item.payload, source("nve1")) for item in (data, *dummies)]
    assert two.from_underlay(received) == [(100, udp_frame(data=b"short"))]
    assert two.counters["dummies_received"] == len(dummies)
    assert two.drops == {}
    assert one.next_deadline() is not None


def test_dummies_before_any_data_look_like_the_data_that_follows():
    one = Dataplane("nve1", bytes(32))
    one.apply(node_state("nve1", profile=COVER, telemetry=True), 0.0)
    (data, other) = one.from_tenants(100, [udp_frame(), udp_frame(version=6)], 0.5).datagrams
    silent = Dataplane("nve1", bytes(32))
    silent.apply(node_state("nve1", profile=COVER, telemetry=True), 0.0)
    dummies = [item for item in silent.run_due(0.05) if item.destination == data.destination]
    assert dummies
    sent = (data, other, *dummies)
    looks = {(item.entropy, item.traffic_class, item.payload[:16], len(item.payload)) for item in sent}
    assert len(looks) == 1, "source port, class, telemetry's flow label and size say nothing"


def test_flows_have_ports_of_their_own_where_there_are_no_dummies():
    one = Dataplane("nve1", bytes(32))
    one.apply(node_state("nve1"), 0.0)
    assert len({item.entropy for item in one.from_tenants(100, [udp_frame(), udp_frame(version=6)]).datagrams}) == 2


def test_a_state_that_comes_again_does_not_restart_the_schedule():
    one = Dataplane("nve1", bytes(32))
    one.apply(node_state("nve1", profile=COVER), 0.0)
    before = one.next_deadline()
    one.apply(node_state("nve1", profile=COVER), 0.005)
    assert one.next_deadline() == before


def test_without_dummies_there_is_no_deadline():
    one = Dataplane("nve1", bytes(32))
    one.apply(node_state("nve1", profile=Profile(name="full", lifetime_seconds=None)), 0.0)
    assert one.next_deadline() is None
    assert one.run_due(10.0) == []


# --- too big, limits, keys -------------------------------------------------------------------


def test_a_frame_that_does_not_fit_is_dropped_and_its_sender_told():
    one = Dataplane("nve1", bytes(32))
    one.apply(node_state("nve1"))
    result = one.from_tenants(100, [udp_frame(data=bytes(1400))] * 60)
    assert result.datagrams == []
    assert one.drops == {DropReason.FRAME_TOO_BIG: 60}
    assert 0 < len(result.replies) <= 50, "and not told without limit"
    assert result.replies[0][:6] == mac(MACS["nve1"])


def test_beyond_the_soft_limit_the_sender_asks_again_and_at_the_hard_limit_it_stops():
    limited = Profile(name="full", soft_limit=3, hard_limit=5)
    one = Dataplane("nve1", bytes(32))
    one.apply(node_state("nve1", profile=limited))
    asked = []
    for _ in range(7):
        one.from_tenants(100, [udp_frame()])
        asked.append(one.take_rekey_requests())
    (spi,) = asked[2]
    assert asked == [[], [], [spi], [spi], [spi], [spi], []], "where nothing goes any more, once a second"
    assert one.drops == {DropReason.SEQUENCE_EXHAUSTED: 2}
    assert one.counters["datagrams_sent"] == 5
    one.apply(node_state("nve1", profile=limited, epoch=1))
    assert len(one.from_tenants(100, [udp_frame()]).datagrams) == 1


def test_flows_have_keys_of_their_own_and_any_order_opens():
    per_flow = Profile(name="full", key_granularity=KeyGranularity.FLOW)
    one, two = Dataplane("nve1", bytes(32)), Dataplane("nve2", bytes(32))
    one.apply(node_state("nve1", profile=per_flow))
    two.apply(node_state("nve2", profile=per_flow))
    frames = [udp_frame(), udp_frame(version=6), udp_frame(data=b"again")]
    sent = one.from_tenants(100, frames).datagrams
    ids = [datagram.payload[24:28] for datagram in sent]
    assert ids[0] == ids[2] != ids[1]
    received = [Received(datagram.payload, source("nve1")) for datagram in reversed(sent)]
    assert two.from_underlay(received) == [(100, frame) for frame in reversed(frames)]
    swapped = bytearray(one.from_tenants(100, frames[:1]).datagrams[0].payload)
    swapped[24:28] = ids[1]
    assert two.from_underlay([Received(bytes(swapped), source("nve1"))]) == []
    assert two.drops == {DropReason.AUTHENTICATION_FAILED: 1}


def test_one_pair_key_serves_two_vnis_and_the_policy_still_separates_them():
    pair = Profile(name="full", key_granularity=KeyGranularity.PAIR)

    def shared(name: str) -> NodeState:
        made = node_state(name, profile=pair, vnis=(100, 200))
        keep = {"outbound": made.outbound, "inbound": made.inbound}
        for side, items in keep.items():
            chosen = {(item.sender, item.audience): item.model_copy(update={"vni": None}) for item in items}
            made = made.model_copy(update={side: tuple(chosen.values())})
        return made

    one, two = Dataplane("nve1", bytes(32)), Dataplane("nve2", bytes(32))
    one.apply(shared("nve1"))
    two.apply(shared("nve2"))
    sent = [datagram for vni in (100, 200) for datagram in one.from_tenants(vni, [udp_frame()]).datagrams]
    assert len({datagram.payload[12:16] for datagram in sent}) == 1, "one SPI"
    received = [Received(datagram.payload, source("nve1")) for datagram in sent]
    assert two.from_underlay(received) == [(100, udp_frame()), (200, udp_frame())]
    moved = bytearray(one.from_tenants(100, [udp_frame()]).datagrams[0].payload)
    moved[4:7] = (200).to_bytes(3, "big")
    assert two.from_underlay([Received(bytes(moved), source("nve1"))]) == []


def test_what_a_rule_demands_is_checked_again_after_opening():  # invariant 6
    """nve1 applies a weaker profile than the policy has for the flow; nve2 sees what was inside and refuses."""
    weak = Profile(name="weak", egress=Coverage(encrypt_inner=InnerCoverage.NONE))
    strong = Profile(name="full")
    rules = (
        Rule(name="special", vni=100, protocol=17, action=Action.SECURE, profile="full"),
        Rule(name="rest", vni=100, action=Action.SECURE, profile="weak"),
    )

    def with_rules(name: str, policy: tuple[Rule, ...]) -> Dataplane:
        made = node_state(name, profile=strong, policy=policy)
        both = node_state(name, profile=weak, policy=policy, epoch=5)
        update = {
            "profiles": (strong, weak),
            "outbound": (*made.outbound, *both.outbound),
            "inbound": (*made.inbound, *both.inbound),
        }
        plane = Dataplane(name, bytes(32))
        plane.apply(made.model_copy(update=update))
        return plane

    honest, lax = with_rules("nve1", rules), with_rules("nve1", rules[1:])
    two = with_rules("nve2", rules)
    assert carry([udp_frame()], honest, two) == [[(100, udp_frame())]]
    two = with_rules("nve2", rules)
    assert carry([udp_frame()], lax, two) == [[]]
    assert two.drops == {DropReason.POLICY_MISMATCH: 1}


def test_a_rules_key_is_good_for_that_rules_flows_only():  # invariant 6
    per_rule = Profile(name="full", key_granularity=KeyGranularity.RULE)
    dns = Rule(name="dns", vni=100, protocol=17, action=Action.SECURE, profile="full")
    rest = Rule(name="rest", vni=100, action=Action.SECURE, profile="full")

    def keyed(name: str, policy: tuple[Rule, ...]) -> Dataplane:
        plain = node_state(name, profile=per_rule, policy=policy)
        update = {
            side: tuple(
                item.model_copy(update={"rule": rule, "spi": item.spi + offset})
                for item in getattr(plain, side)
                for rule, offset in (("dns", 0), ("rest", 0x100000))
            )
            for side in ("outbound", "inbound")
        }
        plane = Dataplane(name, bytes(32))
        plane.apply(plain.model_copy(update=update))
        return plane

    honest, lax, two = keyed("nve1", (dns, rest)), keyed("nve1", (rest,)), keyed("nve2", (dns, rest))
    assert carry([udp_frame()], honest, two) == [[(100, udp_frame())]]
    two = keyed("nve2", (dns, rest))
    assert carry([udp_frame()], lax, two) == [[]]
    assert two.drops == {DropReason.POLICY_MISMATCH: 1}


def test_the_nve_tells_which_options_reached_it():
    one, two = Dataplane("nve1", bytes(32)), Dataplane("nve2", bytes(32))
    for made in (one, two):
        made.apply(node_state(made.name, telemetry=True))
    carry([udp_frame()] * 3, one, two)
    assert two.seen.document() == {"0xff60:0x02": {"count": 3, "last": None}}


def test_keys_are_logged_only_when_asked_for_and_once():
    lines: list[str] = []
    logging = Dataplane("nve1", bytes(32), key_log=lines.append)
    logging.apply(node_state("nve1"))
    logging.apply(node_state("nve1"))
    assert Counter(line.split()[1] for line in lines).most_common(1)[0][1] == 1
    assert len(lines) == 4, "two peers, both directions"
    assert all(line.startswith("GSA spi=0x") and " key=" in line for line in lines)


def test_a_key_per_flow_is_logged_when_the_flow_comes_up():
    lines: list[str] = []
    per_flow = Profile(name="full", key_granularity=KeyGranularity.FLOW)
    logging = Dataplane("nve1", bytes(32), key_log=lines.append)
    logging.apply(node_state("nve1", profile=per_flow))
    assert lines == []
    logging.from_tenants(100, [udp_frame(), udp_frame(), udp_frame(version=6)])
    assert [line.split("flow=")[1].split()[0] for line in lines] == ["00000001", "00000002"]


def test_options_hidden_for_nobody_on_the_path_do_not_travel_at_all():
    """An option for t1 only, and t1 is not on the path: it must not go out in clear instead."""
    secret = Option(0x0102, 0x11, b"SECRET!!").build()
    for_t1 = Coverage(
        options=(),
        hidden_options=({"option_class": 0x0102, "type": 0x11},),
        authenticate_inner=InnerCoverage.NONE,
        encrypt_inner=InnerCoverage.NONE,
    )
    profile = Profile(name="full", devices={"t1": for_t1})
    sealer = PacketSealer(100, OutboundAssociation(association(1000), profile))
    (packet,) = sealer.seal([Item(udp_frame(), (build_telemetry(1, 2), secret))])
    assert b"SECRET" not in packet
    assert len(packet) == len(udp_frame()) + 8 + 16 + 32

"""Two NVEs over IPsec in memory: the data path asks the same of any mechanism."""

from __future__ import annotations

import pytest

from geneve.control.profile import Dummies, DummyMode, KeyGranularity, Profile
from geneve.control.rules import Action, Rule
from geneve.control.state import Association, NodeState, StaticOption
from geneve.drops import DropReason
from geneve.errors import ConfigError
from geneve.header import BaseHeader
from geneve.packet import make_packet
from nve.datagrams import Received
from nve.dataplane import Dataplane
from nve.ipsec.mechanism import Ipsec
from nve.protection import Chosen, Use
from tests.support import ADDRESSES, node_state, source, udp_frame
from topologies.profiles import CHANNEL_PROFILES

IPSEC = {profile.name: profile for profile in CHANNEL_PROFILES if "dtls" not in profile.name}
BOTH = ("nve1", "nve2")


def state(node: str, profile: Profile, epoch: int = 0) -> NodeState:
    """The state of one of two NVEs, with one association each way for all virtual networks."""
    made = node_state(node, profile=profile, nves=BOTH, epoch=epoch)

    def wide(associations: tuple[Association, ...]) -> tuple[Association, ...]:
        return tuple(item.model_copy(update={"vni": None}) for item in associations)

    return made.model_copy(update={"outbound": wide(made.outbound), "inbound": wide(made.inbound)})


def nve(name: str, profile: Profile, **keys: bool) -> Dataplane:
    assert profile.channel is not None
    made = Dataplane(name, bytes(32), mechanism=Ipsec(profile.channel, ADDRESSES[name]), **keys)
    made.apply(state(name, profile))
    return made


def carry(one: Dataplane, two: Dataplane, frames: list[bytes], now: float = 0.0) -> list[tuple[int, bytes]]:
    sent = one.from_tenants(100, frames, now).datagrams
    packets = [Received(datagram.payload, source(one.name), 0, datagram.segment) for datagram in sent]
    return two.from_underlay(packets, now)


@pytest.mark.parametrize("name", IPSEC)
@pytest.mark.parametrize("batching", [False, True])
def test_frames_arrive_as_they_were_sent(name: str, batching: bool) -> None:
    one, two = nve("nve1", IPSEC[name], batching=batching), nve("nve2", IPSEC[name])
    frames = [udp_frame(data=bytes([number]) * size) for number, size in enumerate([900] * 20 + [1, 300, 301, 1300])]
    assert carry(one, two, frames) == [(100, frame) for frame in frames]
    assert not two.drops


@pytest.mark.parametrize("name", IPSEC)
def test_nothing_that_is_not_the_channels_is_let_in(name: str) -> None:
    two = nve("nve2", IPSEC[name])
    plain = make_packet(BaseHeader(vni=100), (), udp_frame()).build()
    assert not two.from_underlay([Received(plain, source("nve1"))])
    assert sum(two.drops.values()) == 1


@pytest.mark.parametrize("name", IPSEC)
def test_a_packet_is_taken_once(name: str) -> None:
    one, two = nve("nve1", IPSEC[name]), nve("nve2", IPSEC[name])
    (datagram,) = one.from_tenants(100, [udp_frame()]).datagrams
    packet = Received(datagram.payload, source("nve1"))
    assert len(two.from_underlay([packet])) == 1
    assert not two.from_underlay([packet])
    assert two.drops == {DropReason.REPLAYED: 1}


def test_an_nve_may_not_send_what_is_not_behind_it() -> None:
    one, two = nve("nve1", IPSEC["esp"]), nve("nve2", IPSEC["esp"])
    sent = one.from_tenants(100, [udp_frame("nve3", "nve2")])
    assert not two.from_underlay([Received(item.payload, source("nve1")) for item in sent.datagrams])
    assert two.drops == {DropReason.UNAUTHORISED_SOURCE: 1}


def test_without_keys_nothing_leaves() -> None:
    one = nve("nve1", IPSEC["esp"])
    one.apply(state("nve1", IPSEC["esp"]).model_copy(update={"outbound": ()}))
    assert not one.from_tenants(100, [udp_frame()]).datagrams
    assert one.drops == {DropReason.NO_ASSOCIATION: 1}


def test_old_and_new_keys_open_while_they_are_replaced() -> None:
    one, two = nve("nve1", IPSEC["esp"]), nve("nve2", IPSEC["esp"])
    old = one.from_tenants(100, [udp_frame()]).datagrams
    offered = state("nve2", IPSEC["esp"], epoch=1)
    two.apply(offered.model_copy(update={"inbound": (*state("nve2", IPSEC["esp"]).inbound, *offered.inbound)}))
    one.apply(state("nve1", IPSEC["esp"], epoch=1))
    new = one.from_tenants(100, [udp_frame()]).datagrams
    assert len(two.from_underlay([Received(item.payload, source("nve1")) for item in (*new, *old)])) == 2


def test_dummies_keep_the_rate_and_end_at_the_nve() -> None:
    profile = Profile(
        name="esp", channel=IPSEC["esp"].channel, key_granularity=KeyGranularity.PAIR,
        dummies=Dummies(mode=DummyMode.CONSTANT, rate=10.0),
    )  # fmt: skip
    one, two = nve("nve1", profile), nve("nve2", profile)
    sent = [datagram for tick in range(21) for datagram in one.run_due(tick / 10)]
    assert 19 <= len(sent) <= 21
    assert not two.from_underlay([Received(item.payload, source("nve1")) for item in sent])
    assert two.counters["dummies_received"] == len(sent)
    assert not two.drops


def test_states_of_another_mechanism_are_refused() -> None:
    one = nve("nve1", IPSEC["esp"])
    with pytest.raises(ConfigError, match=r"for ah .*, and this NVE is configured for esp"):
        one.apply(state("nve1", IPSEC["ah"], epoch=1))
    with pytest.raises(ConfigError, match="for security options"):
        one.apply(node_state("nve1", nves=BOTH, epoch=2))
    with pytest.raises(ConfigError, match="configured for security options"):
        Dataplane("nve1", bytes(32)).apply(state("nve1", IPSEC["esp"]))


@pytest.mark.parametrize("name", IPSEC)
def test_with_a_channel_nothing_may_go_in_clear(name: str) -> None:
    one = nve("nve1", IPSEC[name])
    clear = state("nve1", IPSEC[name], epoch=1).model_copy(update={"policy": (Rule(action=Action.BYPASS),)})
    with pytest.raises(ConfigError, match="in clear"):
        one.apply(clear)
    assert one.from_tenants(100, [udp_frame()]).datagrams, "the state before stays in force"


class Handshakes(Ipsec):
    """Agrees on keys itself, and has not yet."""

    keyed = False

    def sealer(self, use: Use, chosen: Chosen) -> None:  # noqa: ARG002
        return None


def test_options_that_do_not_fit_are_refused_before_there_are_keys() -> None:
    profile = IPSEC["esp"]
    assert profile.channel is not None
    made = state("nve1", profile).model_copy(update={"outbound": (), "inbound": ()})
    many = tuple(StaticOption(option_class=0x0102, type=number, data="00" * 124) for number in range(3))
    full = made.model_copy(update={"vnis": (made.vnis[0].model_copy(update={"options": many}),)})
    one = Dataplane("nve1", bytes(32), mechanism=Handshakes(profile.channel, ADDRESSES["nve1"]))
    one.apply(made)
    with pytest.raises(ConfigError, match="option length 384"):
        one.apply(full)


def test_a_mechanism_with_keys_of_its_own_is_told_whom_frames_wait_for() -> None:
    wanted: list[str] = []

    class Asked(Handshakes):
        def want(self, peer: str, now: float) -> None:  # noqa: ARG002
            wanted.append(peer)

    profile = IPSEC["esp"]
    assert profile.channel is not None
    one = Dataplane("nve1", bytes(32), mechanism=Asked(profile.channel, ADDRESSES["nve1"]))
    one.apply(state("nve1", profile).model_copy(update={"outbound": (), "inbound": ()}))
    assert not one.from_tenants(100, [udp_frame()], 1.0).datagrams
    assert one.take_demands(1.0) == [], "the NVA has nothing to do with it"
    assert wanted == ["nve2"]

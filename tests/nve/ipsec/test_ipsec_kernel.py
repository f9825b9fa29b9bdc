"""The kernel's IPsec as a mechanism: what the kernel is told when, and that nothing passes without an association."""

from __future__ import annotations

import itertools
import json

import pytest

from geneve.config import load
from geneve.control.profile import Dummies, DummyMode, Padding, PaddingMode
from geneve.control.rules import Action, Rule
from geneve.control.state import Association, AssociationRole, Mapping, NodeState, NveAddress, Role, VniState
from geneve.drops import DropReason
from geneve.errors import ConfigError
from geneve.security.association import SequenceExhaustedError
from nve import mechanism
from nve.config import NveConfig
from nve.datagrams import Received
from nve.dataplane import Dataplane
from nve.ipsec.kernel import RETRY_INTERVAL, KernelIpsec, KernelOutbound
from nve.ipsec.sa import MAX_SHORT
from nve.ipsec.xfrm import NO_ANSWER
from nve.protection import Chosen, Use
from tests.nve.ipsec.ipsec_support import ADDRESSES, CHANNELS, profile, secured
from tests.nve.ipsec.kernel_model import Kernel
from tests.support import IPS, MACS, udp_frame

HERE, THERE = ADDRESSES[4]
BEGUN = ["policy update"] * 2 + ["state deleteall"] * 2 + ["policy deleteall"] * 2
NEW = ["state add", "policy update"]


def state(node: str, *spis: int, there: str = THERE, **terms_keys) -> NodeState:
    terms, associations = profile("esp", **terms_keys), tuple(secured("esp", spi=spi) for spi in spis)
    held = {"outbound": associations} if node == "nve1" else {"inbound": associations}
    return NodeState(
        node=node, role=Role.NVE, vnis=(VniState(vni=7, mtu=1300),), profiles=(terms,),
        nves=(NveAddress(name="nve1", address=HERE, vnis=(7,)), NveAddress(name="nve2", address=there, vnis=(7,))),
        mappings=tuple(Mapping(vni=7, mac=MACS[name], ips=IPS[name], nve=name) for name in ("nve1", "nve2")),
        policy=(Rule(vni=7, action=Action.SECURE, profile=terms.name),), **held,
    )  # fmt: skip


def back(spi: int) -> Association:
    """An association from nve2 to nve1."""
    return secured("esp", spi=spi).model_copy(update={"sender": "nve2", "audience": "nve1", "sender_address": THERE})


def nve(name: str, kernel: Kernel) -> Dataplane:
    made = KernelIpsec(CHANNELS["esp"], ADDRESSES[4][name == "nve2"], kernel)
    made.begin()
    made.take_over()
    assert kernel.done == BEGUN
    return Dataplane(name, bytes(32), mechanism=made)


def mechanism_of(one: Dataplane) -> KernelIpsec:
    made = one._mechanism
    assert isinstance(made, KernelIpsec)
    return made


def sent(one: Dataplane, now: float = 0.0) -> int:
    return len(one.from_tenants(7, [udp_frame()], now).datagrams)


def received_by(two: Dataplane, now: float = 0.0) -> int:
    """How many of the frames are delivered that come in a packet which the kernel let pass."""
    one = nve("nve1", Kernel())
    one.apply(state("nve1", 0x1000))
    (datagram,) = one.from_tenants(7, [udp_frame()]).datagrams
    return len(two.from_underlay([Received(datagram.payload, bytes(map(int, HERE.split("."))))], now))


def test_the_kernel_is_told_first_and_new_keys_come_before_old_ones_go():
    kernel = Kernel()
    one = nve("nve1", kernel)
    one.apply(state("nve1", 0x1000))
    assert kernel.done == NEW
    one.apply(state("nve1", 0x2000))
    lines = list(kernel.lines)
    assert kernel.done == ["state add", "state delete"], "the pair keeps its policy"
    assert "spi 0x00002000" in lines[0]
    assert "spi 0x00001000" in lines[1]
    one.apply(state("nve1"))
    assert kernel.done == ["state delete", "policy delete"]


def test_what_the_kernel_refuses_leaves_the_state_before_in_force():
    kernel = Kernel()
    one = nve("nve1", kernel)
    kernel.refusals["state add"] = "Requested AEAD algorithm not found"
    with pytest.raises(ConfigError, match="Requested AEAD algorithm not found"):
        one.apply(state("nve1", 0x1000))
    assert not one.networks


def test_frames_leave_in_clear_for_the_kernel_and_come_back_as_their_senders():
    one, two = nve("nve1", Kernel()), nve("nve2", Kernel())
    one.apply(state("nve1", 0x1000))
    two.apply(state("nve2", 0x1000))
    frame = udp_frame()
    (datagram,) = one.from_tenants(7, [frame]).datagrams
    assert frame in datagram.payload
    delivered = two.from_underlay([Received(datagram.payload, bytes(map(int, HERE.split("."))))])
    assert delivered == [(7, frame)]


def test_without_an_association_with_its_source_a_packet_is_refused():
    one, two = nve("nve1", Kernel()), nve("nve2", Kernel())
    one.apply(state("nve1", 0x1000))
    two.apply(state("nve2", 0x1000))
    (datagram,) = one.from_tenants(7, [udp_frame()]).datagrams
    assert not two.from_underlay([Received(datagram.payload, bytes(4))] * 3)
    assert two.drops == {DropReason.UNPROTECTED: 3}


# Nothing in clear -----------------------------------------------------------------------------------------------------


def test_at_no_moment_does_anything_pass_in_clear():
    """From the first policy on, before there is a socket, to the last, after each line."""
    kernel = Kernel()
    strangers = ("192.168.1.77", "239.1.1.1")
    ways = [("out", HERE, far) for far in (THERE, *strangers)] + [("in", THERE, HERE), ("in", strangers[0], HERE)]
    seen: list[int] = []

    def run(line: str) -> str:
        said = kernel(line)
        seen.append(sum(kernel.clear(*way) for way in ways))
        return said

    made = KernelIpsec(CHANNELS["esp"], HERE, run)
    made.begin()
    assert seen == [2, 0]
    one = Dataplane("nve1", bytes(32), mechanism=made)
    one.apply(state("nve1", 0x1000).model_copy(update={"inbound": (back(0x5000),)}))
    one.apply(state("nve1", 0x2000).model_copy(update={"inbound": (back(0x6000),)}))
    assert len(kernel.policies) == 4
    one.apply(state("nve1"))
    one.apply(state("nve1", 0x3000))
    made.close()
    assert seen[-2:] == [3, 5], "what blocks goes last"
    assert not any(seen[2:-2])
    assert not kernel.states
    assert not kernel.policies


def test_one_spi_in_both_directions_is_two_associations():
    kernel = Kernel()
    one = nve("nve1", kernel)
    one.apply(state("nve1", 0x1000).model_copy(update={"inbound": (back(0x1000),)}))
    assert kernel.done == ["state add"] * 2 + ["policy update"] * 2
    assert {name[-1] for name in kernel.policies} == {"out", "in"}
    assert [name.split()[1] for name in kernel.states] == [THERE, HERE], "inbound ones first"


def test_a_peer_that_moves_needs_fresh_keys():
    """Its state cannot be changed, and a new one would number from 1 again under the same key."""
    kernel = Kernel()
    one = nve("nve1", kernel)
    one.apply(state("nve1", 0x1000))
    kernel.lines = []
    with pytest.raises(ConfigError, match="fresh SPI"):
        one.apply(state("nve1", 0x1000, there="192.168.1.77"))
    assert not kernel.lines
    (datagram,) = one.from_tenants(7, [udp_frame()]).datagrams
    assert datagram.destination == THERE
    one.apply(state("nve1", 0x2000, there="192.168.1.77"))
    (datagram,) = one.from_tenants(7, [udp_frame()]).datagrams
    assert datagram.destination == "192.168.1.77"
    (name,) = kernel.states
    assert "dst 192.168.1.77 " in name
    assert not kernel.clear("out", HERE, "192.168.1.77")


def test_policies_are_for_the_port_that_is_used():
    kernel = Kernel()
    made = KernelIpsec(CHANNELS["esp"], HERE, kernel, 7000)
    made.begin()
    assert not kernel.clear("out", HERE, THERE, 7000)
    assert not kernel.clear("in", THERE, HERE, 7000)
    Dataplane("nve1", bytes(32), mechanism=made).apply(state("nve1", 0x1000))
    assert {name[2] for name in kernel.policies} == {"7000"}
    assert len(kernel.policies) == 3


def test_without_policies_that_block_there_is_nothing():
    kernel = Kernel()
    kernel.refusals["dir in"] = "Operation not permitted"
    made = KernelIpsec(CHANNELS["esp"], HERE, kernel)
    with pytest.raises(ConfigError, match=r"policies for IPsec cannot be set \(Operation not permitted"):
        made.begin()
    with pytest.raises(ConfigError, match="Operation not permitted"):
        Dataplane("nve1", bytes(32), mechanism=made).apply(state("nve1", 0x1000))
    assert not kernel.states


def test_what_a_process_before_left_goes_when_the_port_is_this_ones():
    kernel = Kernel()
    nve("nve1", kernel).apply(state("nve1", 0x1000))
    again = KernelIpsec(CHANNELS["esp"], HERE, kernel)
    again.begin()
    assert len(kernel.states) == 1, "perhaps the other process is still there"
    again.take_over()
    assert not kernel.states
    assert len(kernel.policies) == 2


def test_who_does_not_get_the_port_leaves_all_in_place():
    kernel = Kernel()
    nve("nve1", kernel).apply(state("nve1", 0x1000))
    kernel.lines = []
    second = KernelIpsec(CHANNELS["esp"], HERE, kernel)
    second.begin()
    second.close()
    assert len(kernel.states) == 1
    assert len(kernel.policies) == 3


# The order in the process ---------------------------------------------------------------------------------------------


def config(**changes: object) -> NveConfig:
    nva = {"name": "nva", "address": "10.0.0.1", "port": 1, "ca": "a", "certificate": "b", "key": "c"}
    document = {
        "name": "nve1", "channel": CHANNELS["esp"].model_dump(mode="json"), "ipsec": "kernel",
        "underlay": {"address": HERE, "port": 7000}, "vnis": [{"vni": 7}], "nva": nva,
    } | changes  # fmt: skip
    return load(json.dumps({key: value for key, value in document.items() if value}), "x", NveConfig)


class Sockets:
    """In place of the underlay's sockets: notes when they are opened and closed."""

    def __init__(self, events: list[str]) -> None:
        self._events = events

    def __call__(self, *_: object) -> Sockets:
        self._events.append("bound")
        return self

    def close(self) -> None:
        self._events.append("closed")


def test_what_blocks_is_there_before_a_socket_is_bound(monkeypatch):
    """Else packets could wait in the socket's queue that no policy has seen."""
    events: list[str] = []
    sockets = Sockets(events)
    monkeypatch.setattr(mechanism, "UnderlaySockets", sockets)
    monkeypatch.setattr(mechanism.xfrm, "find_bypass", lambda _: "")

    def run(line: str) -> str:
        events.append(" ".join(line.split()[1:3]))
        return ""

    made = KernelIpsec(CHANNELS["esp"], HERE, run, 7000)
    assert mechanism.make_underlay(config(), made) is sockets
    assert events == [*BEGUN[:2], "bound", *BEGUN[2:]]


def test_without_protection_no_socket_stays_open(monkeypatch):
    events: list[str] = []
    monkeypatch.setattr(mechanism, "UnderlaySockets", Sockets(events))
    monkeypatch.setattr(mechanism.xfrm, "find_bypass", lambda _: "")
    kernel = Kernel()
    made = KernelIpsec(CHANNELS["esp"], HERE, kernel, 7000)
    kernel.refusals["deleteall"] = "Operation not permitted"
    with pytest.raises(ConfigError):
        mechanism.make_underlay(config(), made)
    assert events == ["bound", "closed"]
    kernel.refusals = {"update": "Operation not permitted"}
    with pytest.raises(ConfigError):
        mechanism.make_underlay(config(), KernelIpsec(CHANNELS["esp"], HERE, kernel, 7000))
    assert events == ["bound", "closed"], "not even opened"


def test_a_kernel_that_passes_over_its_policies_is_not_relied_on(monkeypatch):
    events: list[str] = []
    monkeypatch.setattr(mechanism, "UnderlaySockets", Sockets(events))
    monkeypatch.setattr(mechanism.xfrm, "find_bypass", lambda _: "net.ipv4.conf.all.disable_xfrm")
    with pytest.raises(ConfigError, match=r"net\.ipv4\.conf\.all\.disable_xfrm is set"):
        mechanism.make_underlay(config(), KernelIpsec(CHANNELS["esp"], HERE, Kernel(), 7000))
    assert not events


def test_the_kernel_is_given_the_port(monkeypatch):
    kernel = Kernel()
    monkeypatch.setattr(mechanism.xfrm, "find_missing", lambda _: "")
    monkeypatch.setattr(mechanism.xfrm, "run_line", kernel)
    monkeypatch.setattr(mechanism.xfrm, "find_bypass", lambda _: "")
    monkeypatch.setattr(mechanism, "UnderlaySockets", Sockets([]))
    signer: object = None
    made = mechanism.make_mechanism(config(), signer)  # type: ignore[arg-type]
    mechanism.make_underlay(config(), made)
    assert {name[2] for name in kernel.policies} == {"7000"}


def test_automatic_choice_looks_at_profiles_too(monkeypatch):
    monkeypatch.setattr(mechanism.xfrm, "find_missing", lambda _: "")
    signer: object = None
    for keys, kernel in (({}, True), ({"replay_window": 8192}, False)):
        held = state("nve2", 0x1000, **keys)
        chosen = config(ipsec="auto", name="nve2", nva=None, static_state=held.to_wire())
        made = mechanism.make_mechanism(chosen, signer)  # type: ignore[arg-type]
        assert isinstance(made, KernelIpsec) == kernel


def test_keys_of_a_file_are_not_the_kernels():
    """Its numbers start again with each start."""
    for whose, refused in (("user-space", False), ("kernel", True), ("auto", True)):
        keys = {"ipsec": whose, "nva": None, "static_state": state("nve1", 0x1000).to_wire(), "sequence_file": "x"}
        if refused:
            with pytest.raises(ConfigError, match="numbers start again with each start, under the same keys"):
                config(**keys)
        else:
            config(**keys)


# What fails -----------------------------------------------------------------------------------------------------------


def test_one_failure_does_not_hinder_the_next_state():
    kernel = Kernel()
    one = nve("nve1", kernel)
    kernel.refusals["policy update"] = "Cannot allocate memory"
    for _ in range(2):
        with pytest.raises(ConfigError, match="Cannot allocate memory"):
            one.apply(state("nve1", 0x1000))
    assert kernel.done == ["state add", "policy update", "policy update"], "the state is there already"
    kernel.refusals = {}
    one.apply(state("nve1", 0x1000))
    assert kernel.done == ["policy update"]
    kernel.states.clear()  # an operator's flush, or a state's own limit
    one.apply(state("nve1", 0x2000))
    assert [name.split()[-1] for name in kernel.states] == ["0x00002000"]


def test_what_was_put_in_for_a_state_that_was_refused_goes_with_the_next():
    kernel = Kernel()
    one = nve("nve1", kernel)
    kernel.refusals["spi 0x00002000"] = "Cannot allocate memory"
    with pytest.raises(ConfigError):
        one.apply(state("nve1", 0x1000, 0x2000))
    one.apply(state("nve1", 0x3000))
    assert [name.split()[-1] for name in kernel.states] == ["0x00003000"]
    kernel.refusals = {}
    with pytest.raises(ConfigError, match=r"0x00001000 .* fresh SPI"):
        one.apply(state("nve1", 0x1000))  # it may have been in use, and would number from 1 again
    one.apply(state("nve1", 0x2000))
    assert [name.split()[-1] for name in kernel.states] == ["0x00002000"]


def test_where_nobody_answers_what_was_done_is_found_out_later():
    kernel = Kernel()
    one = nve("nve1", kernel)
    kernel.answers = False
    for _ in range(2):
        with pytest.raises(ConfigError, match="did not answer"):
            one.apply(state("nve1", 0x1000))
    kernel.answers = True
    one.apply(state("nve1", 0x1000))
    assert len(kernel.states) == 1
    assert len(kernel.policies) == 3
    other = nve("nve2", fresh := Kernel())
    fresh.states[f"src {HERE} dst {THERE} proto esp spi 0x00001000"] = "somebody else's"
    with pytest.raises(ConfigError, match="File exists"):
        other.apply(state("nve2", 0x1000))


def test_the_end_of_a_lifetime_raises_nothing_and_shuts_the_peer_out():
    kernel = Kernel()
    one, two = nve("nve1", kernel), nve("nve2", kernel2 := Kernel())
    one.apply(state("nve1", 0x1000, 0x2000))
    two.apply(state("nve2", 0x1000))
    later = state("nve2", 0x1000, 0x3000)
    two.apply(later, 100.0)
    kernel2.refusals["state delete"] = kernel.refusals["state delete"] = "Operation not permitted"
    lifetime = profile().lifetime_seconds
    assert lifetime is not None
    assert received_by(two, lifetime - 1) == 1
    two.run_due(lifetime + 1)
    assert two.counters["associations_expired"] == 1
    assert received_by(two, lifetime + 2) == 0, "the kernel would still take the old key for the new one"
    assert two.drops == {DropReason.UNPROTECTED: 1}
    assert mechanism_of(two).document()["peers_shut_out"] == 1
    kernel2.refusals = {}
    two.run_due(lifetime + 3 + RETRY_INTERVAL)
    assert received_by(two, lifetime + 4 + RETRY_INTERVAL) == 1
    one.run_due(lifetime + 1)
    assert not sent(one, lifetime + 2)
    assert mechanism_of(one).document()["peers_shut_out"] == 1


def test_nothing_is_sent_while_the_kernel_may_use_a_key_that_has_gone():
    kernel = Kernel()
    one = nve("nve1", kernel)
    one.apply(state("nve1", 0x1000))
    kernel.refusals["state delete"] = "Operation not permitted"
    one.apply(state("nve1", 0x2000))
    assert not sent(one)
    made = mechanism_of(one)
    use = Use(7, "nve2", THERE, False, 1400, ())
    sealer = made.sealer(use, Chosen(made.outbound(secured(spi=0x2000), profile())))
    assert sealer is not None
    with pytest.raises(SequenceExhaustedError):
        sealer.seal([])
    kernel.refusals = {}
    one.run_due(0.0)
    one.run_due(RETRY_INTERVAL)
    assert sent(one) == 1


def test_a_state_that_was_refused_leaves_the_peers_of_before():
    """Else the end of a lifetime would look for the peers of the wrong state."""
    kernel = Kernel()
    one = nve("nve1", kernel)
    one.apply(state("nve1", 0x1000, lifetime_seconds=100.0, rekey_seconds=None))
    with pytest.raises(ConfigError, match="fresh SPI"):
        one.apply(state("nve1", 0x1000, there="192.168.1.77", lifetime_seconds=100.0, rekey_seconds=None), 1.0)
    one.run_due(101.0)
    assert not one.counters["hold_failed"]
    assert not kernel.states
    assert len(kernel.policies) == 2


def test_the_data_path_goes_on_when_a_mechanism_cannot_hold_less(monkeypatch):
    one = nve("nve1", Kernel())
    one.apply(state("nve1", 0x1000))

    def refuse(*_: object) -> None:
        raise ConfigError("no.")

    monkeypatch.setattr(mechanism_of(one), "hold", refuse)
    one.run_due(1e9)
    assert one.counters["hold_failed"] == 1
    assert not sent(one, 1e9)


def test_who_does_not_answer_is_asked_once():
    """Each question holds up the whole process."""
    kernel = Kernel()
    one = nve("nve1", kernel)
    one.apply(state("nve1", 0x1000, 0x2000, 0x3000))
    kernel.lines = []
    kernel.refusals["state delete"] = NO_ANSWER
    one.apply(state("nve1"))
    assert len(kernel.lines) == 1
    one.run_due(0.0)
    one.run_due(RETRY_INTERVAL - 1)
    assert len(kernel.lines) == 1
    one.run_due(RETRY_INTERVAL)
    assert len(kernel.lines) == 2


def test_close_takes_away_what_it_can_line_by_line():
    kernel = Kernel()
    one = nve("nve1", kernel)
    one.apply(state("nve1", 0x1000, 0x2000))
    kernel.states.popitem()
    kernel.refusals["spi 0x00001000"] = "Operation not permitted"
    mechanism_of(one).close()
    assert not kernel.policies
    two = nve("nve1", silent := Kernel())
    two.apply(state("nve1", 0x1000))
    silent.refusals["state delete"] = NO_ANSWER
    mechanism_of(two).close()
    assert len(silent.policies) == 3, "where nobody answers it is given up, and all stays shut"


def test_close_before_anything_began_does_nothing():
    kernel = Kernel()
    KernelIpsec(CHANNELS["esp"], HERE, kernel).close()
    assert not kernel.lines


# What the kernel cannot do --------------------------------------------------------------------------------------------

UNFIT = {
    "replay window": {"replay_window": 4160},
    "dummies": {"dummies": Dummies(mode=DummyMode.FILL, rate=1.0)},
    "padding": {"padding": Padding(mode=PaddingMode.MTU)},
}


@pytest.mark.parametrize("what", UNFIT)
def test_profiles_that_the_kernel_cannot_do_are_refused_before_anything_changes(what):
    kernel = Kernel()
    one = nve("nve1", kernel)
    for spis in ((), (0x1000,)):
        with pytest.raises(ConfigError, match=what):
            one.check(state("nve1", *spis, **UNFIT[what]))
    assert not kernel.lines
    made = mechanism_of(one)
    with pytest.raises(ConfigError, match=what):
        made.check([profile(), profile(**UNFIT[what])])
    made.check([profile(), profile(replay_window=4096)])
    for end in (made.outbound, made.inbound):
        with pytest.raises(ValueError, match=what):
            end(secured(), profile(**UNFIT[what]))


def test_groups_are_refused():
    one = nve("nve1", Kernel())
    association = secured("esp").model_copy(update={"role": AssociationRole.MULTICAST, "vni": 7})
    with pytest.raises(ConfigError, match="only associations between two NVEs"):
        one.apply(state("nve1", 0x1000).model_copy(update={"outbound": (association,)}))


def test_short_numbers_end_in_time():
    terms = profile("esp-short", soft_limit=2**40, hard_limit=2**41)
    end = KernelOutbound(secured("esp-short"), terms)
    assert (end.soft_limit, end.hard_limit) == (MAX_SHORT, MAX_SHORT)
    assert KernelOutbound(secured(), profile(soft_limit=2**40, hard_limit=2**41)).hard_limit == 2**41


def test_whatever_line_fails_nothing_passes_in_clear_and_the_next_state_is_taken():
    """Each line of a life of four states fails once."""
    for at in itertools.count():
        kernel, count = Kernel(), itertools.count()

        def run(line: str, kernel: Kernel = kernel, count: itertools.count = count, at: int = at) -> str:
            said = "Cannot allocate memory" if next(count) == at else kernel(line)
            if "xfrm state" in line or "/32" in line:  # between what blocks and the end of it
                assert not kernel.clear("out", HERE, THERE)
                assert not kernel.clear("in", THERE, HERE)
            return said

        made = KernelIpsec(CHANNELS["esp"], HERE, run)
        one = Dataplane("nve1", bytes(32), mechanism=made)
        for spi in (0x1000, 0x2000, 0x3000, 0x4000):
            try:
                one.apply(state("nve1", spi).model_copy(update={"inbound": (back(spi),)}))
                assert sent(one) or made.document()["peers_shut_out"]
            except ConfigError:
                continue
        one.run_due(0.0)
        one.run_due(RETRY_INTERVAL)
        assert sent(one) == 1
        made.close()
        if next(count) <= at:
            break
        assert len(kernel.policies) + len(kernel.states) <= 1
    assert at > 20

"""Which tenants an NVE says are behind it: from the kernel's words and from frames, asked again before they go."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from geneve.control.demand import MAX_TENANT_IPS, MAX_TENANTS, Tenant
from geneve.drops import DropReason
from geneve.inner import parse_inner
from nve import presence as module
from nve.dataplane import Dataplane
from nve.fdb import MacGone, MacSeen, PortGone, PortSeen
from nve.presence import CONFIRM_WAIT, FDB_WAIT, REPORT_PAUSE, TENANTS_PER_SECOND, PortMove, Presence
from nve.probes import PROBE_MAC
from tests.support import MACS, mac, node_state, udp_frame

VNI, BRIDGE, TAP, PORT, OTHER = 100, 3, 4, 5, 6
MAC = "02:00:00:00:00:01"
MAC2 = "02:00:00:00:00:02"


def up(index: int = PORT, bridge: int = BRIDGE, running: bool = True) -> PortSeen:
    return PortSeen(index, f"port{index}", bridge, running)


def seen(text: str = MAC, port: int = PORT) -> MacSeen:
    return MacSeen(BRIDGE, port, mac(text))


def gone(text: str = MAC, port: int = PORT) -> MacGone:
    return MacGone(BRIDGE, port, mac(text))


@pytest.fixture
def here() -> Presence:
    made = Presence()
    made.add_bridge(VNI, BRIDGE, TAP)
    made.set_learned([VNI], 0.0)
    made.handle([up(), up(OTHER)], 0.0)
    assert made.take_report(0.0) == (), "the first report comes even if there is nobody"
    return made


def arp(text: str = MAC, ip: str = "10.0.0.1", claimed: str | None = None) -> bytes:
    return bytes(Ether(src=text, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=claimed or text, psrc=ip, pdst="10.0.0.9"))


def note(here: Presence, frame: bytes, now: float = 1.0) -> None:
    inner = parse_inner(frame)
    if (VNI, inner.claims) not in here.known:
        here.note(VNI, inner, now)


def tenants(here: Presence) -> dict[str, tuple[str, ...]]:
    return {tenant.mac: tenant.ips for tenant in here.report()}


# --- appearing -------------------------------------------------------------------------------


def test_a_mac_address_behind_a_port_is_a_tenant(here):
    here.handle([seen()], 1.0)
    assert here.take_report(1.0) == (Tenant(vni=VNI, mac=MAC, ips=()),)


def test_what_is_behind_the_tap_or_another_bridge_or_is_no_station_is_no_tenant(here):
    events = [seen(port=TAP), MacSeen(99, PORT, mac(MAC)), seen("01:00:5e:00:00:01"), seen(PROBE_MAC.hex(":"))]
    here.handle(events, 1.0)
    assert here.take_report(1.0) is None
    assert here.report() == ()


def test_a_frame_shows_a_tenant_and_its_addresses(here):
    note(here, arp())
    note(here, udp_frame(version=6))
    assert here.take_report(1.0) == (Tenant(vni=VNI, mac=MAC, ips=("10.0.0.1", "fd00:10::1")),)


def test_a_known_frame_costs_one_look_up(here):
    frame = udp_frame()
    note(here, frame)
    here.take_report(1.0)
    assert (VNI, parse_inner(frame).claims) in here.known
    here.note(VNI, parse_inner(frame), 1.0)
    assert here.take_report(9.0) is None


@pytest.mark.parametrize("ip", ["0.0.0.0", "169.254.1.1", "224.0.0.1", "127.0.0.1", "255.255.255.255"])
def test_addresses_that_are_no_tenants_own_are_not_reported(here, ip):
    note(here, arp(ip=ip))
    assert tenants(here) == {MAC: ()}


@pytest.mark.parametrize("ip", ["::", "fe80::1", "ff02::1", "::1"])
def test_nor_are_such_ipv6_addresses(here, ip):
    frame = udp_frame(version=6)
    note(here, frame[:22] + ipaddress.ip_address(ip).packed + frame[38:])
    assert tenants(here) == {MAC: ()}


def test_what_a_frame_says_of_another_mac_is_not_believed(here):
    note(here, arp(claimed=MAC2))
    assert tenants(here) == {MAC: ()}


def test_an_address_belongs_to_who_claimed_it_last(here):
    for text in (MAC, MAC2, MAC):
        note(here, arp(text))
        assert tenants(here)[text] == ("10.0.0.1",)
        assert sum(len(ips) for ips in tenants(here).values()) == 1


def test_only_the_newest_addresses_are_kept(here):
    for n in range(MAX_TENANT_IPS + 3):
        note(here, arp(ip=f"10.0.1.{n}"))
    (ips,) = tenants(here).values()
    assert set(ips) == {f"10.0.1.{n}" for n in range(3, MAX_TENANT_IPS + 3)}


def test_tenants_are_bounded(here):
    for n in range(MAX_TENANTS + 10):
        note(here, b"\xff" * 6 + b"\x02\x01" + struct.pack("!I", n) + b"\x88\xb5" + bytes(46))
    assert len(here.report()) == MAX_TENANTS
    assert len(here.known) <= module.MAX_KNOWN


def test_a_virtual_network_that_makes_addresses_up_takes_no_other_s_room(here):
    here.add_bridge(VNI + 1, BRIDGE + 100, TAP + 100)
    here.set_learned([VNI, VNI + 1], 1.0)
    for n in range(MAX_TENANTS + 10):
        here.handle([seen(f"02:00:00:01:{n >> 8:02x}:{n & 255:02x}")], 1.0)
    here.handle([MacSeen(BRIDGE + 100, PORT + 100, mac(MAC2))], 1.0)
    assert (VNI + 1, MAC2) in {(tenant.vni, tenant.mac) for tenant in here.report()}
    assert len(here.report()) == MAX_TENANTS // 2 + 1
    here.handle([PortGone(PORT)], 2.0)
    here.handle([up(), seen()], 2.0)
    assert {tenant.mac for tenant in here.report()} == {MAC, MAC2}, "what is gone leaves room"


def test_other_virtual_networks_are_none_of_its_business(here):
    here.add_bridge(200, 30, 40)
    here.handle([MacSeen(30, 50, mac(MAC))], 1.0)
    here.note(200, parse_inner(arp()), 1.0)
    assert here.report() == ()
    here.set_learned([VNI, 200], 2.0)
    assert here.take_report(2.0) == (Tenant(vni=200, mac=MAC),), "the kernel had told of it"
    here.set_learned([VNI], 3.0)
    assert here.take_report(3.0) == ()


def test_a_burst_gives_one_report_at_once_and_one_a_little_later(here):
    reports = []
    for n in range(20):
        now = 1.0 + n / 1000
        here.handle([seen(f"02:00:00:00:01:{n:02x}")], now)
        reports.append(here.take_report(now))
    assert [len(report) for report in reports if report is not None] == [1]
    due = 1.0 + REPORT_PAUSE + 1 / TENANTS_PER_SECOND
    assert here.next_deadline() == due
    report = here.take_report(due)
    assert report is not None
    assert [tenant.mac for tenant in report] == sorted(f"02:00:00:00:01:{n:02x}" for n in range(20))
    assert here.next_deadline() is None


def test_long_reports_are_made_less_often(here):
    here.handle([seen(f"02:00:00:00:{n // 256:02x}:{n % 256:02x}") for n in range(500)], 1.0)
    assert len(here.take_report(1.0) or ()) == 500
    here.handle([seen("02:00:00:00:09:09")], 1.1)
    assert here.take_report(1.4) is None, "half a second's worth of tenants was just reported"
    assert len(here.take_report(1.0 + REPORT_PAUSE + 500 / TENANTS_PER_SECOND) or ()) == 501


# --- disappearing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event", [up(running=False), up(bridge=0), up(bridge=77), PortGone(PORT), seen(port=TAP)], ids=str
)
@pytest.mark.parametrize("forgotten_first", [False, True])
def test_a_tenant_whose_port_is_down_or_gone_or_that_is_elsewhere_is_gone_at_once(here, event, forgotten_first):
    here.handle([seen(), seen(MAC2, OTHER)], 1.0)
    note(here, arp())
    here.handle([gone(), event] if forgotten_first else [event, gone()], 1.1)
    assert tenants(here) == {MAC2: ()}
    assert here.take_report(2.0) == (Tenant(vni=VNI, mac=MAC2),)


def test_a_tenant_that_moves_to_another_port_stays(here):
    here.handle([seen()], 1.0)
    here.handle([seen(port=OTHER), up(running=False)], 1.1)
    assert tenants(here) == {MAC: ()}


def test_a_silent_tenant_is_asked_before_it_goes_and_stays_if_it_answers(here):
    here.handle([seen()], 1.0)
    note(here, arp())
    here.handle([gone()], 300.0)
    assert tenants(here) == {MAC: ("10.0.0.1",)}
    assert len(here.take_frames()) == 1
    note(here, arp(), 300.1)
    here.run_due(301.0)
    assert tenants(here) == {MAC: ("10.0.0.1",)}
    assert here.take_confirmations(301.0) == [], "the NVA did not ask"


def test_that_the_bridge_learns_it_again_is_an_answer_too(here):
    here.handle([seen()], 1.0)
    note(here, arp())
    here.handle([gone()], 300.0)
    here.handle([seen()], 300.1)
    here.run_due(301.0)
    assert tenants(here) == {MAC: ("10.0.0.1",)}


def test_a_silent_tenant_that_does_not_answer_goes(here):
    here.handle([seen()], 1.0)
    note(here, arp())
    here.handle([gone()], 300.0)
    here.run_due(300.0 + CONFIRM_WAIT)
    assert here.report() == ()


def test_who_cannot_be_asked_goes_when_the_bridge_forgets_it(here):
    here.handle([seen(), gone()], 1.0)
    assert here.report() == ()
    assert here.take_frames() == []


def test_a_ghost_that_only_a_late_frame_showed_goes(here):
    """The port went down while the frame was on its way: the kernel never speaks of that MAC again."""
    note(here, arp(), 1.0)
    here.run_due(1.0 + FDB_WAIT - 0.01)
    assert tenants(here) == {MAC: ("10.0.0.1",)}
    assert here.next_deadline() is not None
    here.run_due(1.0 + FDB_WAIT)
    assert here.report() == ()


def test_a_frame_in_front_of_the_kernels_word_is_no_ghost(here):
    note(here, arp(), 1.0)
    here.handle([seen()], 1.2)
    here.run_due(9.0)
    assert tenants(here) == {MAC: ("10.0.0.1",)}


# --- the NVA asks ----------------------------------------------------------------------------


def test_a_tenant_is_asked_by_arp_and_neighbour_solicitation(here):
    note(here, arp())
    note(here, udp_frame(version=6))
    here.confirm(VNI, MAC, 2.0)
    frames = [Ether(frame) for vni, frame in here.take_frames() if vni == VNI]
    probe, solicitation = frames
    assert (probe.src, probe.dst) == (PROBE_MAC.hex(":"), "ff:ff:ff:ff:ff:ff")
    assert (probe[ARP].op, probe[ARP].psrc, probe[ARP].pdst) == (1, "0.0.0.0", "10.0.0.1")
    assert probe[ARP].hwsrc == PROBE_MAC.hex(":")
    assert solicitation.dst == "33:33:ff:00:00:01"
    assert (solicitation[IPv6].dst, solicitation[IPv6].hlim) == ("ff02::1:ff00:1", 255)
    assert ipaddress.ip_address(solicitation[IPv6].src).is_link_local
    assert solicitation[ICMPv6ND_NS].tgt == "fd00:10::1"
    assert solicitation[ICMPv6NDOptSrcLLAddr].lladdr == PROBE_MAC.hex(":")
    checksum = solicitation[ICMPv6ND_NS].cksum
    del solicitation[ICMPv6ND_NS].cksum
    assert Ether(bytes(solicitation))[ICMPv6ND_NS].cksum == checksum


def test_a_tenant_that_answers_is_here(here):
    here.handle([seen()], 1.0)
    note(here, arp())
    here.confirm(VNI, MAC, 2.0)
    assert here.take_confirmations(2.0) == []
    note(here, arp(), 2.1)
    assert here.take_confirmations(2.1) == [(VNI, MAC, True)]
    assert here.take_confirmations(9.0) == []
    assert tenants(here) == {MAC: ("10.0.0.1",)}


def test_what_it_said_before_the_question_does_not_count(here):
    here.handle([seen()], 1.0)
    note(here, arp(), 1.9)
    here.confirm(VNI, MAC, 2.0)
    here.run_due(2.0 + CONFIRM_WAIT / 2)
    assert len(here.take_frames()) == 2, "it is asked twice"
    assert here.take_confirmations(2.0 + CONFIRM_WAIT) == [(VNI, MAC, False)]
    assert here.report() == ()
    assert here.take_report(3.0) == ()


@pytest.mark.parametrize("event", [PortGone(PORT), up(running=False), seen(port=TAP)], ids=str)
def test_an_answer_does_not_wait_once_the_port_is_gone(here, event):
    here.handle([seen()], 1.0)
    here.confirm(VNI, MAC, 2.0)
    here.handle([event], 2.1)
    assert here.take_confirmations(2.1) == [(VNI, MAC, False)]


def test_who_is_not_here_is_answered_for_at_once(here):
    here.confirm(VNI, MAC, 2.0)
    here.confirm(999, MAC, 2.0)
    here.confirm(VNI, "nonsense", 2.0)
    assert here.take_confirmations(2.0) == [(VNI, MAC, False), (999, MAC, False), (VNI, "nonsense", False)]
    assert here.take_frames() == []


def test_a_tenant_that_comes_back_after_it_was_withdrawn_is_here_again(here):
    here.handle([seen()], 1.0)
    here.confirm(VNI, MAC, 2.0)
    assert here.take_confirmations(3.0) == [(VNI, MAC, False)]
    note(here, arp(), 4.0)
    here.run_due(9.0)
    assert tenants(here) == {MAC: ("10.0.0.1",)}, "the kernel knows its port all the time"


# --- events were lost ------------------------------------------------------------------------


def test_a_dump_takes_the_place_of_lost_events(here):
    here.handle([seen(), seen(MAC2, OTHER)], 1.0)
    here.resync([up(), up(7), seen(), seen("02:00:00:00:00:03", 7), seen("02:00:00:00:00:04", TAP)], 2.0)
    assert set(tenants(here)) == {MAC, "02:00:00:00:00:03"}
    assert here.take_moves()[-2:] == [PortMove(VNI, "port6", False), PortMove(VNI, "port7", True)]


def test_a_dump_that_lacks_a_silent_tenant_has_it_asked(here):
    here.handle([seen()], 1.0)
    note(here, arp())
    here.resync([up(), up(OTHER)], 2.0)
    assert tenants(here) == {MAC: ("10.0.0.1",)}
    here.run_due(2.0 + CONFIRM_WAIT)
    assert here.report() == ()


def test_ports_that_join_and_leave_are_told_once(here):
    assert [move.joined for move in here.take_moves()] == [True, True]
    here.handle([up(), up(running=False), up(7), up(7, bridge=0), up(TAP), PortGone(OTHER), PortGone(OTHER)], 1.0)
    assert here.take_moves() == [
        PortMove(VNI, "port7", True),
        PortMove(VNI, "port7", False),
        PortMove(VNI, "port6", False),
    ]


_EVENTS = st.one_of(
    st.builds(up, st.sampled_from([PORT, OTHER, TAP]), st.sampled_from([BRIDGE, 0]), st.booleans()),
    st.builds(PortGone, st.sampled_from([PORT, OTHER])),
    st.builds(seen, st.sampled_from([MAC, MAC2]), st.sampled_from([PORT, OTHER, TAP])),
    st.builds(gone, st.sampled_from([MAC, MAC2]), st.sampled_from([PORT, OTHER, TAP])),
    st.builds(arp, st.sampled_from([MAC, MAC2]), st.sampled_from(["10.0.0.1", "10.0.0.2"])),
    st.just("ask"),
)


@given(st.lists(st.tuples(_EVENTS, st.floats(0, 0.6)), max_size=40))
def test_whatever_happens_the_books_agree(happenings):
    here = Presence()
    here.add_bridge(VNI, BRIDGE, TAP)
    here.set_learned([VNI], 0.0)
    now, asked, answered = 0.0, 0, 0
    for happening, later in happenings:
        now += later
        if isinstance(happening, bytes):
            note(here, happening, now)
        elif isinstance(happening, str):
            here.confirm(VNI, MAC, now)
            asked += 1
        else:
            here.handle([happening], now)
        answered += len(here.take_confirmations(now))
        ips = [ip for tenant in here.report() for ip in tenant.ips]
        assert len(ips) == len(set(ips))
    now += 10
    answered += len(here.take_confirmations(now))
    assert answered <= asked
    assert (answered > 0) == (asked > 0), "every question of the NVA has an answer"
    here.resync([], now)
    here.run_due(now + 10)
    assert here.report() == (), "nobody stays whom the kernel does not know"
    assert not here._owners


# --- within the NVE --------------------------------------------------------------------------


def learning_nve() -> tuple[Dataplane, Presence]:
    presence = Presence()
    presence.add_bridge(VNI, BRIDGE, TAP)
    made = Dataplane("nve1", bytes(32), presence=presence)
    state = node_state("nve1")
    vni = state.vnis[0].model_copy(update={"learned": True})
    made.apply(state.model_copy(update={"vnis": (vni,)}), 0.0)
    return made, presence


def test_the_nve_notes_whose_frames_it_carries():
    one, presence = learning_nve()
    assert len(one.from_tenants(VNI, [udp_frame()], 1.0).datagrams) == 1
    assert presence.report() == (Tenant(vni=VNI, mac=MACS["nve1"], ips=("10.0.0.1",)),)


def test_without_learning_it_notes_nothing():
    presence = Presence()
    one = Dataplane("nve1", bytes(32), presence=presence)
    one.apply(node_state("nve1"))
    one.from_tenants(VNI, [udp_frame()], 1.0)
    assert presence.report() == ()
    assert not presence.known


def test_answers_to_its_questions_stay_with_the_nve():
    one, presence = learning_nve()
    one.from_tenants(VNI, [udp_frame()], 1.0)
    presence.confirm(VNI, MACS["nve1"], 2.0)
    answer = PROBE_MAC + arp(MACS["nve1"])[6:]
    result = one.from_tenants(VNI, [answer], 2.1)
    assert (result.datagrams, result.replies) == ([], [])
    assert one.counters["probe_answers"] == 1
    assert one.drops == {}
    assert presence.take_confirmations(2.1) == [(VNI, MACS["nve1"], True)]


def test_a_source_that_is_mapped_elsewhere_is_carried_and_left_to_the_egress():
    one, presence = learning_nve()
    moved_in = udp_frame("nve3", "nve2")
    assert len(one.from_tenants(VNI, [moved_in], 1.0).datagrams) == 1
    assert [tenant.mac for tenant in presence.report()] == [MACS["nve3"]]
    assert DropReason.UNAUTHORISED_SOURCE not in one.drops

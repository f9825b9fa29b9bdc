"""Parts of two valid packets exchanged in every combination; replay per sender and audience; what insiders try."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneve.control.profile import Coverage, InnerCoverage, Profile
from geneve.control.state import Association
from geneve.drops import DropReason
from geneve.header import HeaderField
from geneve.packet import Packet, make_packet, parse_packet
from geneve.security.association import InboundAssociation, OutboundAssociation
from geneve.security.open import Opened, PacketOpener
from geneve.security.option import EGRESS_TYPE, GROUP_TYPE, TRANSIT_TYPE
from geneve.security.seal import Item, PacketSealer
from geneve.security.transit import TransitVerifier, Verified
from tests.geneve.make_vectors import ONE, OPTIONS, device, select
from tests.support import TRANSIT_COVERAGE, association, source, udp_frame

FULL = Profile(name="full", transit=TRANSIT_COVERAGE)
CLEAR = Profile(name="full", transit=TRANSIT_COVERAGE, egress=Coverage(encrypt_inner=InnerCoverage.NONE))
HIDDEN = Profile(
    name="full",
    transit=TRANSIT_COVERAGE,
    egress=Coverage(hidden_options=select(ONE)),
    group=device(hidden_options=select(ONE)),
)
PROFILES = {"full": FULL, "clear": CLEAR, "hidden options and a group": HIDDEN}


@dataclass
class Path:
    """One sender's way to nve2 past t1: its sealer and all who open."""

    profile: Profile
    held: list[Association]

    def __post_init__(self) -> None:
        ends = [OutboundAssociation(item, self.profile) for item in self.held]
        group = [end for end in ends if end.role.value == "group"]
        vni = self.held[0].vni or 0
        self.sealer = PacketSealer(vni, ends[0], ends[1:2], group[0] if group else None)

    def seal(self, data: bytes) -> bytes:
        (packet,) = self.sealer.seal([Item(udp_frame(data=data), OPTIONS)])
        return packet


def path(profile: Profile, base: int = 1000, **fields) -> Path:
    held = [association(base, **fields)]
    held.append(association(base + 1, "transit", **{**fields, "audience": "t1"}))
    if profile.group is not None:
        held.append(association(base + 2, "group", **fields).model_copy(update={"members": ("t1",)}))
    return Path(profile, held)


OTHERS = {
    "same flow": {},
    "other VNI": {"base": 2000, "vni": 200},
    "other sender": {"base": 3000, "sender": "nve3"},
    "other audience": {"base": 4000, "audience": "nve3"},
    "other epoch": {"base": 5000},
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("name", PROFILES)
def test_no_mixture_of_two_valid_packets_opens(name, other):
    """Header, each option and payload come from either packet, in all combinations but the two true ones."""
    profile = PROFILES[name]
    first_path = path(profile)
    second_path = first_path if other == "same flow" else path(profile, **OTHERS[other])
    first, second = parse_packet(first_path.seal(b"one " * 9)), parse_packet(second_path.seal(b"two " * 9))
    assert [o.type for o in first.options] == [o.type for o in second.options]
    held = {item.spi: item for item in (*first_path.held, *second_path.held) if item.audience in ("nve2", "t1")}
    genuine = {first.build(), second.build()}
    tried = 0
    for choice in itertools.product((0, 1), repeat=len(first.options) + 2):
        pair = (first, second)
        options = [pair[which].options[index] for index, which in enumerate(choice[2:])]
        mixed = make_packet(pair[choice[0]].header, options, pair[choice[1]].payload).build()
        if mixed in genuine:
            continue
        tried += 1
        for sender in ("nve1", "nve3"):
            opener = PacketOpener(InboundAssociation(i, profile) for i in held.values() if i.opens("nve2"))
            result = opener.open(mixed, source(sender))
            assert isinstance(result, DropReason), choice
    assert tried > 50


def test_the_true_packets_open():
    for profile in PROFILES.values():
        made = path(profile)
        opener = PacketOpener(InboundAssociation(i, profile) for i in made.held if i.opens("nve2"))
        assert isinstance(opener.open(made.seal(b"data"), source("nve1")), Opened)


# --- replay ----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 199), min_size=1, max_size=300), st.sampled_from([64, 128, 1024]))
@settings(max_examples=60, deadline=None)
def test_each_packet_opens_at_most_once_and_exactly_while_the_window_reaches(order, size):
    profile = FULL.model_copy(update={"replay_window": size})
    made = path(profile)
    packets = [made.seal(b"%d" % number) for number in range(200)]
    opener = PacketOpener([InboundAssociation(made.held[0], profile)])
    verifier = TransitVerifier([InboundAssociation(made.held[1], profile)])
    seen: set[int] = set()
    highest = -1
    for number in order:
        if number in seen and number + size > highest:
            expected = DropReason.REPLAYED
        elif number + size <= highest:
            expected = DropReason.BEHIND_WINDOW
        else:
            expected = None
        at_nve, at_t1 = opener.open(packets[number], source("nve1")), verifier.verify(packets[number], source("nve1"))
        assert at_nve is expected or (expected is None and isinstance(at_nve, Opened))
        assert at_t1 is expected or (expected is None and isinstance(at_t1, Verified))
        seen.add(number)
        highest = max(highest, number)


def test_windows_are_per_sender():
    one, three = path(FULL), path(FULL, base=3000, sender="nve3")
    opener = PacketOpener(InboundAssociation(item, FULL) for item in (one.held[0], three.held[0]))
    for _ in range(2000):
        packet = one.seal(b"x")
    assert isinstance(opener.open(packet, source("nve1")), Opened)
    assert isinstance(opener.open(three.seal(b"y"), source("nve3")), Opened), "number 1 of another sender"


# --- insiders --------------------------------------------------------------------------------


def test_a_transit_device_cannot_forge_for_another_with_its_own_key():
    t1 = association(2001, "transit", audience="t1")
    t2 = association(2002, "transit", audience="t2")
    stolen = OutboundAssociation(t2.model_copy(update={"secret": t1.secret}), FULL)
    forger = PacketSealer(100, OutboundAssociation(association(1000), FULL), [stolen])
    (packet,) = forger.seal([Item(udp_frame(), OPTIONS)])
    at_t2 = TransitVerifier([InboundAssociation(t2, FULL)]).verify(packet, source("nve1"))
    assert at_t2 is DropReason.AUTHENTICATION_FAILED


def test_a_rogue_device_with_valid_keys_reads_nothing_that_is_hidden_for_others():
    profile = Profile(
        name="full",
        devices={"t1": device(hidden_options=select(ONE)), "t2": device(options=None)},
    )
    held = [association(1000), association(2001, "transit", audience="t1"), association(2002, "transit", audience="t2")]
    ends = [OutboundAssociation(item, profile) for item in held]
    (packet,) = PacketSealer(100, ends[0], ends[1:]).seal([Item(udp_frame(), OPTIONS)])
    assert ONE[4:] not in packet
    rogue = TransitVerifier([InboundAssociation(held[2], profile)]).verify(packet, source("nve1"))
    assert isinstance(rogue, Verified)
    assert all(option.data != ONE[4:] for option in rogue.options)
    # Nor does its key open t1's option, whatever it takes it for.
    for other in (held[1], held[0]):
        relabelled = held[2].model_copy(update={"spi": other.spi})
        at_rogue = TransitVerifier([InboundAssociation(relabelled, profile)]).verify(packet, source("nve1"))
        assert not isinstance(at_rogue, Verified)


def test_a_member_of_a_confidential_group_cannot_change_the_option_before_the_nve():
    """t1 holds the group's key, so it can make the group's tag; the NVE's own tag covers that option."""
    made = path(HIDDEN)
    honest, other = parse_packet(made.seal(b"one")), parse_packet(made.seal(b"two"))
    pairs = zip(honest.options, other.options, strict=True)
    swapped = [theirs if mine.type == GROUP_TYPE else mine for mine, theirs in pairs]
    forged = make_packet(honest.header, swapped, honest.payload).build()
    opener = PacketOpener(InboundAssociation(i, HIDDEN) for i in made.held if i.opens("nve2"))
    assert opener.open(forged, source("nve1")) is DropReason.AUTHENTICATION_FAILED


def test_without_the_groups_option_the_packet_is_refused_even_where_no_tag_covers_it():
    fields = frozenset(HeaderField) - {HeaderField.OPT_LEN}
    profile = HIDDEN.model_copy(update={"egress": Coverage(options=(), header=fields)})
    made = path(profile)
    packet = parse_packet(made.seal(b"data"))
    stripped = [option for option in packet.options if option.type != GROUP_TYPE]
    opener = PacketOpener(InboundAssociation(i, profile) for i in made.held if i.opens("nve2"))
    forged = make_packet(packet.header, stripped, packet.payload).build()
    assert opener.open(forged, source("nve1")) is DropReason.POLICY_MISMATCH


def test_an_audience_is_not_fooled_by_another_audiences_option():
    made = path(HIDDEN)
    packet: Packet = parse_packet(made.seal(b"data"))
    types = (TRANSIT_TYPE, GROUP_TYPE, EGRESS_TYPE)
    for mine, theirs in itertools.permutations(types, 2):
        source_option = next(option for option in packet.options if option.type == theirs)
        options = [
            option if option.type != mine else option.__class__(option.option_class, mine, source_option.data)
            for option in packet.options
        ]
        forged = make_packet(packet.header, options, packet.payload).build()
        opener = PacketOpener(InboundAssociation(i, HIDDEN) for i in made.held if i.opens("nve2"))
        verifier = TransitVerifier(InboundAssociation(i, HIDDEN) for i in made.held if i.opens("t1"))
        assert isinstance(opener.open(forged, source("nve1")), DropReason)
        result = verifier.verify(forged, source("nve1"))
        if mine in (TRANSIT_TYPE, GROUP_TYPE):
            assert not isinstance(result, Verified) or mine not in {end.option_type for end in result.associations}

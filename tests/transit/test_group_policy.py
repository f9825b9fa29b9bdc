"""Group policy: what passes the device, what is refused under which name, and what a rogue device gains."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneve.control.profile import Coverage, InnerCoverage, OptionSelector, Profile
from geneve.control.rules import TagRule, Verdict
from geneve.control.state import Association, NodeState, Role, TransitVni
from geneve.errors import ConfigError
from geneve.header import HeaderField
from geneve.option import Option
from geneve.security.association import OutboundAssociation
from geneve.security.seal import PacketSealer
from geneve.tags import TAG_CLASS, TAG_TYPE, build_tag
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_TYPE, build_telemetry
from tests.support import FULL, TRANSIT_COVERAGE, association, transit_association
from tests.transit.builders import NOW_NS, SOURCE, make_sealer, plain, seal, sealed, underlay_frame
from tests.transit.test_evasion import EVASIVE, ethernet
from transit.device import Decision, Outcome, TransitDevice

WEB, DATABASE, OFFICE, GUEST = 1, 2, 3, 9
RULES = (
    TagRule(source=WEB, destination=DATABASE, verdict=Verdict.PERMIT),
    TagRule(source=OFFICE, destination=GUEST, verdict=Verdict.DENY),
    TagRule(source=OFFICE, verdict=Verdict.PERMIT),
)
TAG = OptionSelector(option_class=TAG_CLASS, type=TAG_TYPE)
TELEMETRY = OptionSelector(option_class=TELEMETRY_CLASS, type=TELEMETRY_TYPE)
COVERAGE = TRANSIT_COVERAGE.model_copy(update={"options": (TELEMETRY, TAG)})
PROFILE = FULL.model_copy(update={"transit": COVERAGE})
TAG_SIZE = len(build_tag(0, 0))

GOOD = build_tag(WEB, DATABASE)
DENIED = build_tag(GUEST, DATABASE)


def vni_policy(vni: int = 100, **fields: object) -> TransitVni:
    return TransitVni.model_validate({"vni": vni, "group_policy": RULES, **fields})


def firewall(
    *vnis: TransitVni,
    name: str = "t1",
    inbound: Sequence[Association] | None = None,
    profile: Profile = PROFILE,
) -> TransitDevice:
    device = TransitDevice(name)
    held = (transit_association("nve1", name),) if inbound is None else tuple(inbound)
    device.apply(
        NodeState(node=name, role=Role.TRANSIT, profiles=(profile,), inbound=held, transit_vnis=vnis or (vni_policy(),))
    )
    return device


def sender(devices: Sequence[str] = ("t1",), profile: Profile = PROFILE) -> PacketSealer:
    return make_sealer(devices, profile=profile)


def decide(device: TransitDevice, packet: bytes, source: str = SOURCE) -> Decision:
    return device.process(underlay_frame(packet, source), 0, NOW_NS)


def dropped(outcome: Outcome) -> Decision:
    return Decision(outcome, forward=False)


def without(packet: bytes, start: int, size: int) -> bytes:
    """Take ``size`` bytes of options out of a packet, from byte ``start`` on, and say so in Opt Len."""
    return bytes([packet[0] - size // 4]) + packet[1:start] + packet[start + size :]


@pytest.mark.parametrize(
    ("options", "decision"),
    [
        ((GOOD,), Decision(Outcome.AUTHENTICATED)),
        ((build_tag(OFFICE, WEB),), Decision(Outcome.AUTHENTICATED)),
        ((build_tag(OFFICE, GUEST),), dropped(Outcome.TAG_DENIED)),
        ((build_tag(DATABASE, WEB),), dropped(Outcome.TAG_DENIED)),
        ((build_tag(0, 0),), dropped(Outcome.TAG_DENIED)),
        ((DENIED,), dropped(Outcome.TAG_DENIED)),
        ((), dropped(Outcome.TAG_MISSING)),
        ((build_telemetry(1, 1),), dropped(Outcome.TAG_MISSING)),
        ((GOOD, GOOD), dropped(Outcome.TAG_MALFORMED)),
        ((GOOD, DENIED), dropped(Outcome.TAG_MALFORMED)),
        ((Option(TAG_CLASS, TAG_TYPE, bytes(8)).build(),), dropped(Outcome.TAG_MALFORMED)),
        ((Option(TAG_CLASS, TAG_TYPE).build(),), dropped(Outcome.TAG_MALFORMED)),
        ((Option(0xFF61, TAG_TYPE, GOOD[4:]).build(),), dropped(Outcome.TAG_MISSING)),
        ((build_telemetry(1, 1), GOOD), Decision(Outcome.AUTHENTICATED)),
    ],
)
def test_what_a_sender_can_ask_for(options: tuple[bytes, ...], decision: Decision) -> None:
    device = firewall()
    assert decide(device, seal(sender(), *options)) == decision
    counted = device.counters()
    assert counted[decision.outcome.value] == 1
    assert counted["permitted"] == decision.forward


def test_no_rule_permits_nothing() -> None:
    assert decide(firewall(vni_policy(group_policy=())), seal(sender(), GOOD)) == dropped(Outcome.TAG_DENIED)


@pytest.mark.parametrize("control", [False, True])
def test_what_an_attacker_can_make_of_it(control: bool) -> None:
    """Forged, stripped and replayed tags: refused; without authentication, as the control, a forgery passes."""
    honest = seal(sender(), DENIED)
    forged = honest[:8] + GOOD + honest[8 + TAG_SIZE :]
    own_option = 8 + TAG_SIZE
    outcomes = {
        "forged": (forged, Outcome.AUTHENTICATION_FAILED),
        "stripped": (without(honest, 8, TAG_SIZE), Outcome.AUTHENTICATION_FAILED),
        "forged, own option stripped": (without(forged, own_option, 32), Outcome.TAG_MISSING),
        "forged in the clear": (plain(options=GOOD), Outcome.TAG_MISSING),
        "nothing at all": (plain(), Outcome.TAG_MISSING),
    }
    for name, (packet, outcome) in outcomes.items():
        held = [] if control else None
        decision = decide(firewall(vni_policy(authenticated=not control), inbound=held), packet)
        if control:
            assert decision.forward == ("forged" in name), name
        else:
            assert decision == dropped(outcome), name


def test_denied_packet_never_passes_whichever_bit_is_flipped() -> None:
    packet = seal(sender(), DENIED)
    device = firewall()
    for bit in range(len(packet) * 8):
        damaged = bytearray(packet)
        damaged[bit // 8] ^= 0x80 >> bit % 8
        # Another VNI is another network: what arrives there is that network's business.
        assert decide(device, bytes(damaged)).forward == (32 <= bit < 56), bit


def test_replayed_tags() -> None:
    device, made = firewall(), sender()
    packets = [seal(made, GOOD) for _ in range(1100)]
    assert decide(device, packets[0]).forward
    assert decide(device, packets[0]) == dropped(Outcome.REPLAYED)
    assert decide(device, packets[1099]).forward
    assert decide(device, packets[1]) == dropped(Outcome.BEHIND_WINDOW)


def test_wrong_source() -> None:
    assert decide(firewall(), seal(sender(), GOOD), "192.168.3.9") == dropped(Outcome.SOURCE_MISMATCH)


def test_association_of_another_network() -> None:
    loose = PROFILE.model_copy(update={"transit": COVERAGE.model_copy(update={"header": frozenset()})})
    device = firewall(inbound=[transit_association("nve1", "t1", 200)], profile=loose)
    packet = bytearray(seal(make_sealer(vni=200, profile=loose), GOOD))
    assert decide(device, bytes(packet)) == Decision(Outcome.AUTHENTICATED), "VNI 200 has no group policy"
    packet = bytearray(seal(make_sealer(vni=200, profile=loose), GOOD))
    packet[4:7] = (100).to_bytes(3, "big")
    fresh = firewall(inbound=[transit_association("nve1", "t1", 200)], profile=loose)
    assert decide(fresh, bytes(packet)) == dropped(Outcome.POLICY_MISMATCH)


def test_refusals_elsewhere_are_counted_and_forwarded() -> None:
    """A device that enforces one VNI lets another's packets pass, whatever is wrong with them."""
    made = seal(sender(), GOOD)
    cases: list[tuple[bytes, Outcome]] = [
        (made[:8] + DENIED + made[8 + TAG_SIZE :], Outcome.AUTHENTICATION_FAILED),
        (plain(options=DENIED), Outcome.NOT_ADDRESSED),
        (seal(sender(), DENIED), Outcome.AUTHENTICATED),
    ]
    for packet, outcome in cases:
        assert decide(firewall(vni_policy(300)), packet) == Decision(outcome)


def test_tag_that_the_coverage_leaves_out_counts_as_missing() -> None:
    profile = FULL  # covers telemetry only
    packet = seal(sender(profile=profile), build_telemetry(1, 1), GOOD)
    assert decide(firewall(profile=profile), packet) == dropped(Outcome.TAG_MISSING)


def test_tag_added_by_a_stranger_neither_permits_nor_spoils() -> None:
    hidden = with_hidden_tag()
    for own, decision in ((GOOD, Decision(Outcome.AUTHENTICATED)), (DENIED, dropped(Outcome.TAG_DENIED))):
        packet = seal(sender(profile=hidden), own)
        added = bytes([packet[0] + TAG_SIZE // 4]) + packet[1:8] + GOOD + packet[8:]
        assert decide(firewall(profile=hidden), added) == decision


def test_control_with_two_tags() -> None:
    device = firewall(vni_policy(authenticated=False), inbound=[])
    assert decide(device, plain(options=GOOD + DENIED)) == dropped(Outcome.TAG_MALFORMED)
    assert decide(device, plain(options=DENIED)) == dropped(Outcome.TAG_DENIED)
    foreign = Option(0xFF61, TAG_TYPE, GOOD[4:]).build()
    assert decide(device, plain(options=foreign)) == dropped(Outcome.TAG_MISSING)
    assert decide(device, plain(options=GOOD)) == Decision(Outcome.NOT_ADDRESSED)


def test_control_with_a_tag_that_no_option_covers() -> None:
    packet = seal(sender(profile=FULL), build_telemetry(1, 1), GOOD)
    assert decide(firewall(vni_policy(authenticated=False), profile=FULL), packet).forward
    packet = seal(sender(), GOOD)
    assert decide(firewall(vni_policy(authenticated=False)), packet).forward, "covered and clear is one tag, not two"


def test_telemetry_and_group_policy_together() -> None:
    device = firewall(vni_policy(telemetry=True))
    made = sender()
    decision = decide(device, sealed(made, 7, 8, extra=[GOOD]))
    assert decision.outcome is Outcome.EXPORTED
    assert decision.forward
    assert decision.observation is not None
    assert (decision.observation.vni, decision.observation.flow, decision.observation.sender) == (100, 7, "nve1")
    assert decide(device, sealed(made, extra=[DENIED])) == dropped(Outcome.TAG_DENIED)
    assert decide(device, seal(made, GOOD)) == Decision(Outcome.AUTHENTICATED)
    doubled = sealed(made, extra=[build_telemetry(1, 1), GOOD])
    assert decide(device, doubled) == Decision(Outcome.TELEMETRY_MALFORMED), "telemetry never drops"


class TestState:
    def test_policy_comes_and_goes_with_the_state(self) -> None:
        device = TransitDevice("t1")
        assert decide(device, plain()).forward, "before the first state"
        enforcing = NodeState(node="t1", role=Role.TRANSIT, transit_vnis=(vni_policy(),))
        device.apply(enforcing)
        assert not decide(device, plain()).forward
        assert not device.process(ethernet(EVASIVE["first fragment"][0]), 0, NOW_NS).forward
        device.apply(enforcing.model_copy(update={"transit_vnis": (TransitVni(vni=100),)}))
        assert decide(device, plain()).forward
        assert device.process(ethernet(EVASIVE["first fragment"][0]), 0, NOW_NS).forward

    def test_another_groups_association_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="not addressed to 't9'"):
            firewall(name="t9", inbound=[shared(("t1", "t2"))], profile=GROUPED)


def with_hidden_tag(device: str | None = None) -> Profile:
    """A profile that hides the tag in the option for ``device``, or in those of all."""
    nothing = TRANSIT_COVERAGE.model_copy(update={"hidden_options": (TAG,)})
    return FULL.model_copy(update={"devices": {device: nothing}} if device else {"transit": nothing})


GROUPED = FULL.model_copy(
    update={
        "transit": None,
        "group": Coverage(
            options=(TELEMETRY,),
            hidden_options=(TAG,),
            authenticate_inner=InnerCoverage.NONE,
            encrypt_inner=InnerCoverage.NONE,
        ),
    }
)


def shared(members: tuple[str, ...]) -> Association:
    return association(7000, "group", audience="nve2").model_copy(update={"members": members})


def grouped_sender() -> PacketSealer:
    egress = OutboundAssociation(association(), GROUPED)
    return PacketSealer(100, egress, group=OutboundAssociation(shared(("t1", "t2")), GROUPED))


class TestGroup:
    def test_every_member_reads_and_enforces_the_hidden_tag(self) -> None:
        made = grouped_sender()
        devices = [firewall(name=name, inbound=[shared(("t1", "t2"))], profile=GROUPED) for name in ("t1", "t2")]
        good, bad = seal(made, GOOD), seal(made, DENIED)
        assert GOOD not in good
        for device in devices:
            assert decide(device, good) == Decision(Outcome.AUTHENTICATED)
            assert decide(device, good) == dropped(Outcome.REPLAYED), "each has a window of its own"
            assert decide(device, bad) == dropped(Outcome.TAG_DENIED)
            assert device.options_read() == {"0xff60:0x06": {"count": 2, "last": DENIED[4:].hex()}}

    def test_an_outsider_with_keys_of_its_own_reads_nothing(self) -> None:
        profile = GROUPED.model_copy(update={"transit": COVERAGE})
        outsider = firewall(name="t9", profile=profile)
        assert decide(outsider, seal(grouped_sender(), GOOD)) == dropped(Outcome.TAG_MISSING)
        assert outsider.options_read() == {}


class TestRogue:
    """A transit device that was given keys of its own, and is no friend."""

    PROFILE = with_hidden_tag("t1").model_copy(update={"transit": COVERAGE})

    def test_learns_nothing_of_what_is_hidden_for_another(self) -> None:
        rogue = firewall(name="t9", profile=self.PROFILE)
        packet = seal(sender(("t1", "t9"), self.PROFILE), build_telemetry(1, 1), GOOD)
        assert GOOD not in packet
        assert GOOD[4:] not in packet[8:-40]
        decide(rogue, packet)
        assert rogue.options_read() == {"0xff60:0x02": {"count": 1, "last": build_telemetry(1, 1)[4:].hex()}}
        honest = firewall(profile=self.PROFILE)
        assert decide(honest, packet) == Decision(Outcome.AUTHENTICATED)
        assert honest.options_read()["0xff60:0x06"]["last"] == GOOD[4:].hex()

    @pytest.mark.parametrize("profile", [PROFILE, PROFILE.model_copy(update={"transit": with_hidden_tag().transit})])
    def test_cannot_forge_for_another(self, profile: Profile) -> None:
        """Its own secret, everything else as the victim's: SPI, names, sequence numbers."""
        mine, victims = transit_association("nve1", "t9"), transit_association("nve1", "t1")
        disguised = victims.model_copy(update={"secret": mine.secret})
        egress = OutboundAssociation(association(), profile)
        forging = PacketSealer(100, egress, [OutboundAssociation(disguised, profile)])
        device = firewall(profile=profile)
        assert decide(device, seal(forging, GOOD)) == dropped(Outcome.AUTHENTICATION_FAILED)
        assert device.options_read() == {}

    def test_cannot_hand_its_own_option_to_another(self) -> None:
        """Genuine for t9, its SPI overwritten with the victim's."""
        packet = seal(sender(("t9",)), GOOD)
        mine, victims = (struct.pack("!I", transit_association("nve1", name).spi) for name in ("t9", "t1"))
        assert packet.count(mine) == 1
        moved = packet.replace(mine, victims)
        assert decide(firewall(), packet) == dropped(Outcome.TAG_MISSING)
        assert decide(firewall(), moved) == dropped(Outcome.AUTHENTICATION_FAILED)


class TestHiddenVni:
    """The header says VNI 0; which policy applies depends on what the device is told."""

    FIELDS = frozenset({HeaderField.VNI, HeaderField.PROTOCOL_TYPE})
    PROFILE = PROFILE.model_copy(update={"hidden_header": FIELDS})
    TOLD = PROFILE.model_copy(
        update={"transit": COVERAGE.model_copy(update={"reveal_header": frozenset({HeaderField.VNI})})}
    )

    @pytest.mark.parametrize("options", [GOOD, DENIED])
    def test_the_association_or_the_sender_says_it(self, options: bytes) -> None:
        expected = Decision(Outcome.AUTHENTICATED) if options == GOOD else dropped(Outcome.TAG_DENIED)
        bound = seal(sender(profile=self.PROFILE), options)
        assert bound[4:7] == bytes(3)
        assert decide(firewall(profile=self.PROFILE), bound) == expected
        pair = transit_association("nve1", "t1").model_copy(update={"vni": None})
        egress = OutboundAssociation(association(), self.TOLD)
        made = PacketSealer(100, egress, [OutboundAssociation(pair, self.TOLD)])
        assert decide(firewall(inbound=[pair], profile=self.TOLD), seal(made, options)) == expected

    def test_a_device_that_is_told_nothing_leaves_it_to_the_nve(self) -> None:
        device = firewall(inbound=[], profile=self.PROFILE)
        assert decide(device, seal(sender(profile=self.PROFILE), DENIED)) == Decision(Outcome.NOT_ADDRESSED)


class TestOptionsRead:
    SELECTED = tuple(OptionSelector(option_class=0xFF61, type=number) for number in range(100))
    WIDE = FULL.model_copy(update={"transit": TRANSIT_COVERAGE.model_copy(update={"options": SELECTED})})

    def test_count_and_last_value(self) -> None:
        device, made = firewall(TransitVni(vni=100), profile=self.WIDE), sender(profile=self.WIDE)
        for value in (b"abcd", b"efgh"):
            decide(device, seal(made, Option(0xFF61, 7, value).build(), build_telemetry(1, 1)))
        assert device.options_read() == {"0xff61:0x07": {"count": 2, "last": b"efgh".hex()}}, "not what is uncovered"

    def test_bounded(self) -> None:
        device, made = firewall(TransitVni(vni=100), profile=self.WIDE), sender(profile=self.WIDE)
        for number in (*range(100), 3):
            decide(device, seal(made, Option(0xFF61, number, b"1234").build()))
        assert len(device.options_read()) == 64
        assert device.options_read()["0xff61:0x03"]["count"] == 2

    def test_nothing_of_what_did_not_verify(self) -> None:
        device = firewall()
        packet = bytearray(seal(sender(), GOOD))
        packet[8 + 5] ^= 1
        decide(device, bytes(packet))
        decide(device, plain(options=GOOD))
        assert device.options_read() == {}

    def test_control_reads_what_nobody_proved_and_no_security_options(self) -> None:
        device = firewall(TransitVni(vni=100, authenticated=False), inbound=[])
        decide(device, seal(sender(), GOOD))
        assert set(device.options_read()) == {"0xff60:0x06"}


def without_policy() -> TransitDevice:
    return firewall(TransitVni(vni=100, telemetry=True), TransitVni(vni=0, telemetry=True, authenticated=False))


def damaged(make: Callable[[], bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda position, damage: (packet := make())[:position] + damage + packet[position + len(damage) :],
        st.integers(0, 120),
        st.binary(max_size=6),
    )


frames = st.one_of(
    st.binary(max_size=1600),
    st.binary(max_size=120).map(underlay_frame),
    damaged(lambda: underlay_frame(seal(sender(), DENIED))),
    damaged(lambda: seal(sender(), GOOD)).map(underlay_frame),
    st.sampled_from([ethernet(packet) for packet, _ in EVASIVE.values()]),
)


@settings(max_examples=300)
@given(st.lists(frames, min_size=1, max_size=4))
def test_a_device_without_group_policy_never_drops(arriving: list[bytes]) -> None:
    device = without_policy()
    assert all(device.process(frame, 0, NOW_NS).forward for frame in [*arriving, *arriving])


@settings(max_examples=300)
@given(frames)
def test_enforcing_device_survives_and_counts_every_frame(frame: bytes) -> None:
    device = firewall()
    decision = device.process(frame, 0, NOW_NS)
    counted = device.counters()
    assert counted[decision.outcome.value] == 1
    assert sum(counted.values()) - counted["verified"] - counted["permitted"] == 1


@settings(max_examples=300)
@given(damaged(lambda: seal(sender(), DENIED)))
def test_damage_never_makes_a_denied_packet_pass(packet: bytes) -> None:
    decision = decide(firewall(), packet)
    assert not decision.forward or packet[4:7] != (100).to_bytes(3, "big")

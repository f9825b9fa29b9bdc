"""The device's decisions: what it exports, what it refuses to believe, and that it never does more."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneve.control.profile import OptionSelector
from geneve.control.state import NodeState, Role, TransitVni
from geneve.errors import ConfigError
from geneve.option import Option
from geneve.telemetry import build_telemetry
from tests.support import FULL, TRANSIT_COVERAGE, association, transit_association
from tests.transit.builders import (
    DESTINATION,
    NOW_NS,
    SOURCE,
    device_state,
    make_sealer,
    plain,
    sealed,
    underlay_frame,
)
from transit.device import Decision, Outcome, TransitDevice


def make_device(state: NodeState | None = None) -> TransitDevice:
    device = TransitDevice("t1")
    device.apply(state or device_state())
    return device


def decide(device: TransitDevice, packet: bytes, source: str = SOURCE) -> Decision:
    return device.process(underlay_frame(packet, source), 0, NOW_NS)


def test_authenticated_telemetry_is_exported() -> None:
    device = make_device()
    decision = decide(device, sealed(make_sealer(), flow=0xDEADBEEF, sequence=2**40))
    assert decision.outcome is Outcome.EXPORTED
    seen = decision.observation
    assert seen is not None
    assert (seen.vni, seen.flow, seen.sequence, seen.sender) == (100, 0xDEADBEEF, 2**40, "nve1")
    assert (seen.source, seen.destination, seen.ingress_ns) == (SOURCE, DESTINATION, NOW_NS)
    assert device.counters()["verified"] == device.counters()["exported"] == 1


@pytest.mark.parametrize("tags", [(), ((0x8100, 5),), ((0x88A8, 1), (0x8100, 2))])
def test_vlan_tags_make_no_difference(tags: tuple[tuple[int, int], ...]) -> None:
    frame = underlay_frame(sealed(make_sealer()), tags=tags)
    assert make_device().process(frame, 1, NOW_NS).outcome is Outcome.EXPORTED


def test_each_device_finds_its_own_option() -> None:
    packet = sealed(make_sealer(("t2", "t1", "t3")))
    assert decide(make_device(), packet).outcome is Outcome.EXPORTED
    other = TransitDevice("t2")
    other.apply(device_state("t2"))
    assert decide(other, packet).outcome is Outcome.EXPORTED


def test_every_bit_of_the_covered_parts_is_authenticated() -> None:
    """Base header, telemetry option and the device's own option; a flip that hides the option counts too."""
    packet = sealed(make_sealer())
    for bit in range((8 + 16 + 32) * 8):
        damaged = bytearray(packet)
        damaged[bit // 8] ^= 0x80 >> bit % 8
        decision = decide(make_device(), bytes(damaged))
        if decision.observation is not None:
            # C bit, reserved bits: the profile's coverage leaves them out (they are not acted on either).
            assert bit in {9, *range(10, 16), *range(56, 64)}, bit
        else:
            assert decision.outcome is not Outcome.EXPORTED


def test_replay_and_window() -> None:
    device, sealer = make_device(), make_sealer()
    packets = [sealed(sealer, sequence=number) for number in range(1, 1102)]
    assert decide(device, packets[1]).outcome is Outcome.EXPORTED
    assert decide(device, packets[1]).outcome is Outcome.REPLAYED
    assert decide(device, packets[0]).outcome is Outcome.EXPORTED, "late, but not seen before"
    assert decide(device, packets[1100]).outcome is Outcome.EXPORTED
    assert decide(device, packets[2]).outcome is Outcome.BEHIND_WINDOW


def test_forged_packet_does_not_move_the_window() -> None:
    device, sealer = make_device(), make_sealer()
    honest = sealed(sealer)
    forged = bytearray(honest)
    struct.pack_into("!Q", forged, 8 + 16 + 8, 2**60)
    assert decide(device, bytes(forged)).outcome is Outcome.AUTHENTICATION_FAILED
    assert decide(device, honest).outcome is Outcome.EXPORTED


def test_forged_telemetry_without_an_option_for_the_device() -> None:
    device = make_device()
    assert decide(device, plain(options=build_telemetry(1, 1))).outcome is Outcome.TELEMETRY_UNAUTHENTICATED
    other = sealed(make_sealer(("t9",)))
    assert decide(device, other).outcome is Outcome.TELEMETRY_UNAUTHENTICATED


def test_telemetry_that_the_tag_leaves_out_is_not_exported() -> None:
    nothing = TRANSIT_COVERAGE.model_copy(update={"options": (OptionSelector(option_class=0xFF61, type=1),)})
    profile = FULL.model_copy(update={"transit": nothing})
    device = make_device(device_state(profile=profile))
    covered = Option(0xFF61, 1).build()
    decision = decide(device, sealed(make_sealer(profile=profile), extra=[covered]))
    assert decision.outcome is Outcome.TELEMETRY_UNAUTHENTICATED
    assert device.counters()["verified"] == 1


def test_association_of_another_vni_is_refused_even_when_it_verifies() -> None:
    """A profile that does not cover the VNI: the device compares it itself."""
    loose = TRANSIT_COVERAGE.model_copy(update={"header": frozenset()})
    profile = FULL.model_copy(update={"transit": loose})
    vnis = (TransitVni(vni=100, telemetry=True), TransitVni(vni=200, telemetry=True))
    device = make_device(device_state(vnis=vnis, profile=profile))
    packet = bytearray(sealed(make_sealer(profile=profile)))
    packet[4:7] = (200).to_bytes(3, "big")
    assert decide(device, bytes(packet)).outcome is Outcome.POLICY_MISMATCH


def test_outer_source_must_be_the_senders() -> None:
    assert decide(make_device(), sealed(make_sealer()), "192.168.3.9").outcome is Outcome.SOURCE_MISMATCH
    assert decide(make_device(), sealed(make_sealer()), "fd00:6081::1").outcome is Outcome.SOURCE_MISMATCH


def test_vni_without_telemetry_is_verified_and_not_exported() -> None:
    device = make_device(device_state(vnis=()))
    assert decide(device, sealed(make_sealer())).outcome is Outcome.AUTHENTICATED


def test_control_run_exports_what_nobody_proved() -> None:
    vnis = (TransitVni(vni=100, telemetry=True, authenticated=False),)
    device = make_device(device_state(vnis=vnis, keys_for=()))
    decision = decide(device, plain(options=build_telemetry(5, 6)))
    assert decision.observation is not None
    assert (decision.observation.flow, decision.observation.sender) == (5, None)
    assert decide(device, plain(vni=101, options=build_telemetry(5, 6))).outcome is Outcome.NOT_ADDRESSED


def test_control_run_still_refuses_what_is_proven_false() -> None:
    vnis = (TransitVni(vni=100, telemetry=True, authenticated=False),)
    device = make_device(device_state(vnis=vnis))
    packet = bytearray(sealed(make_sealer()))
    packet[8 + 16 + 20] ^= 1
    assert decide(device, bytes(packet)).outcome is Outcome.AUTHENTICATION_FAILED


@pytest.mark.parametrize(
    "options",
    [
        build_telemetry(1, 1) * 2,
        Option(0xFF60, 2, bytes(8)).build(),
        Option(0xFF60, 2, bytes(16)).build(),
    ],
)
def test_unclear_telemetry_is_not_exported(options: bytes) -> None:
    vnis = (TransitVni(vni=100, telemetry=True, authenticated=False),)
    device = make_device(device_state(vnis=vnis))
    assert decide(device, plain(options=options)).outcome is Outcome.TELEMETRY_MALFORMED


def test_second_telemetry_option_under_the_same_tag() -> None:
    packet = sealed(make_sealer(), extra=[build_telemetry(9, 9)])
    assert decide(make_device(), packet).outcome is Outcome.TELEMETRY_MALFORMED


@pytest.mark.parametrize(
    ("packet", "outcome"),
    [
        (plain(), Outcome.NOT_ADDRESSED),
        (plain(vni=5, options=Option(0xFF61, 0x81, bytes(4)).build(), critical=1), Outcome.NOT_ADDRESSED),
        (plain(version=1, options=build_telemetry(1, 1)), Outcome.NOT_GENEVE),
        (plain(oam=1), Outcome.NOT_ADDRESSED),
        (b"\x00" * 7, Outcome.MALFORMED),
        (b"", Outcome.MALFORMED),
        (b"\x3f" + plain()[1:20], Outcome.MALFORMED),
        (plain(options=b"\xff\x60\x02\x1f" + bytes(4)), Outcome.MALFORMED),
        (plain(options=Option(0xFF60, 0x01, bytes(8)).build()), Outcome.NOT_ADDRESSED),
    ],
)
def test_what_is_not_for_the_device(packet: bytes, outcome: Outcome) -> None:
    device = make_device()
    assert decide(device, packet).outcome is outcome
    assert device.counters()[outcome.value] == 1


def test_two_packets_one_after_the_other() -> None:
    device, sealer = make_device(), make_sealer()
    frames = [(underlay_frame(sealed(sealer)), NOW_NS), (b"\xff" * 60, NOW_NS + 1)]
    decisions = [device.process(frame, 1, now_ns) for frame, now_ns in frames]
    assert [decision.outcome for decision in decisions] == [Outcome.EXPORTED, Outcome.NOT_GENEVE]


@given(st.binary(max_size=300))
def test_nothing_escapes_on_any_frame(frame: bytes) -> None:
    assert make_device().process(frame, 0, NOW_NS).observation is None


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_nothing_escapes_on_any_geneve_packet(packet: bytes) -> None:
    assert decide(make_device(), packet).observation is None


@settings(max_examples=300)
@given(st.integers(0, 200), st.binary(min_size=1, max_size=12))
def test_nothing_escapes_on_damaged_packets(position: int, damage: bytes) -> None:
    packet = sealed(make_sealer())
    decide(make_device(), packet[:position] + damage + packet[position + len(damage) :])


def test_every_truncation_of_a_sealed_frame() -> None:
    frame = underlay_frame(sealed(make_sealer()))
    device = make_device()
    for size in range(len(frame)):
        assert device.process(frame[:size], 0, NOW_NS).outcome is Outcome.NOT_GENEVE


class TestState:
    def test_push_of_the_same_state_keeps_the_replay_window(self) -> None:
        device, packet = make_device(), sealed(make_sealer())
        assert decide(device, packet).outcome is Outcome.EXPORTED
        device.apply(device_state())
        assert decide(device, packet).outcome is Outcome.REPLAYED

    def test_withdrawn_association_no_longer_verifies(self) -> None:
        device = make_device()
        device.apply(device_state(keys_for=()))
        assert decide(device, sealed(make_sealer())).outcome is Outcome.TELEMETRY_UNAUTHENTICATED

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"node": "t2"}, "transit 't2', not for transit device 't1'"),
            ({"role": Role.NVE}, "nve 't1'"),
            ({"profiles": ()}, "unknown profile"),
            ({"transit_vnis": (TransitVni(vni=1), TransitVni(vni=1))}, "twice"),
            ({"inbound": (transit_association("nve1", "t2"),)}, "not addressed to 't1'"),
            ({"inbound": (association(5000, "egress", audience="t1"),)}, "wrong role"),
        ],
    )
    def test_bad_state_is_refused_whole_and_the_last_good_one_stays(
        self, change: dict[str, object], words: str
    ) -> None:
        device = make_device()
        with pytest.raises(ConfigError, match=words):
            device.apply(device_state(vnis=()).model_copy(update=change))
        assert decide(device, sealed(make_sealer())).outcome is Outcome.EXPORTED


# --- lifetimes -------------------------------------------------------------------------------

SHORT = FULL.model_copy(update={"rekey_seconds": 10.0, "lifetime_seconds": 100.0})


def test_an_association_past_its_lifetime_is_as_good_as_none() -> None:
    device = TransitDevice("t1")
    device.apply(device_state(profile=SHORT), 5.0)
    sealer = make_sealer(profile=SHORT)
    assert device.next_expiry() == 105.0
    device.expire(104.9)
    assert decide(device, sealed(sealer, sequence=1)).outcome is Outcome.EXPORTED
    device.expire(105.0)
    for now in (105.0, 200.0, 0.0):
        decision = decide(device, sealed(sealer, sequence=2))
        assert decision.outcome is Outcome.TELEMETRY_UNAUTHENTICATED
        assert decision.forward
        device.apply(device_state(profile=SHORT), now)
        device.expire(now)
    assert device.next_expiry() is None


def test_a_push_does_not_prolong_a_life_and_new_keys_start_another() -> None:
    device = TransitDevice("t1")
    device.apply(device_state(profile=SHORT), 0.0)
    device.apply(device_state(profile=SHORT, keys_for=(100, 200)), 50.0)
    assert device.next_expiry() == 100.0
    device.expire(100.0)
    assert device.next_expiry() == 150.0

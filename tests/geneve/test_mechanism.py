"""The security mechanism: what each audience can do, and what breaking an invariant would allow."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneve.control.profile import Coverage, InnerCoverage, Profile
from geneve.control.state import Association
from geneve.drops import DropReason
from geneve.errors import ConfigError
from geneve.header import HeaderField
from geneve.option import Option
from geneve.packet import make_packet, parse_packet
from geneve.security.association import InboundAssociation, OutboundAssociation, SequenceExhaustedError
from geneve.security.keys import derivation_context
from geneve.security.open import Opened, PacketOpener
from geneve.security.option import EGRESS_TYPE
from geneve.security.seal import Item, PacketSealer
from geneve.security.shape import make_shape
from geneve.security.store import AssociationStore
from geneve.security.transit import TransitVerifier, Verified
from geneve.telemetry import build_telemetry
from tests.support import CLEAR, FULL, TRANSIT_COVERAGE, association, source, udp_frame

HERE = source("nve1")
EGRESS = association(1000)
T1 = association(2001, "transit", audience="t1")
T2 = association(2002, "transit", audience="t2")
TELEMETRY = build_telemetry(0x11223344, 5)


def sealer(*transit: Association, egress: Association = EGRESS, profile: Profile = FULL) -> PacketSealer:
    ends = [OutboundAssociation(item, profile) for item in transit]
    return PacketSealer(egress.vni, OutboundAssociation(egress, profile), ends)


def opener(*associations: Association, profile: Profile = FULL) -> PacketOpener:
    return PacketOpener(InboundAssociation(item, profile) for item in associations or (EGRESS,))


def verifier(*associations: Association) -> TransitVerifier:
    return TransitVerifier(InboundAssociation(item, FULL) for item in associations)


def seal_one(made: PacketSealer, frame: bytes = b"", *options: bytes) -> bytes:
    (packet,) = made.seal([Item(frame or udp_frame(), options)])
    return packet


# --- round trip and cost in bytes ------------------------------------------------------------


@given(st.binary(min_size=14, max_size=1500), st.booleans(), st.sampled_from([(), (T1,), (T1, T2)]))
def test_what_is_sealed_opens_for_its_audiences_only(frame, telemetry, transit):
    packet = seal_one(sealer(*transit), frame, *([TELEMETRY] if telemetry else []))
    # A transit device gets an option only where there is something in the packet for it.
    told = transit if telemetry else ()
    assert len(packet) == len(frame) + 8 + 32 + 16 * telemetry + 32 * len(told)
    opened = opener().open(packet, HERE)
    assert isinstance(opened, Opened)
    assert opened.frame == frame
    for item in (T1, T2):
        result = verifier(item).verify(packet, HERE)
        assert isinstance(result, Verified) == (item in told)
        assert result is not None or item not in told


def test_full_costs_32_bytes_and_hides_the_payload():
    frame = udp_frame(data=b"SECRET MARKER " * 20)
    packet = seal_one(sealer(), frame)
    assert len(packet) - len(frame) - 8 == 32
    assert b"SECRET" not in packet
    parsed = parse_packet(packet)
    assert [(o.option_class, o.type, o.size) for o in parsed.options] == [(0xFF60, EGRESS_TYPE, 32)]
    assert parsed.header.critical


def test_authentication_only_leaves_the_payload_readable():
    frame = udp_frame(data=b"READABLE")
    egress = association(1000, profile="clear")
    packet = seal_one(sealer(egress=egress, profile=CLEAR), frame)
    assert packet.endswith(frame)
    opened = opener(egress, profile=CLEAR).open(packet, HERE)
    assert isinstance(opened, Opened)
    assert opened.frame == frame


# --- tampering: every bit --------------------------------------------------------------------


def flips(packet: bytes):
    for position in range(len(packet) * 8):
        changed = bytearray(packet)
        changed[position // 8] ^= 0x80 >> position % 8
        yield position, bytes(changed)


@pytest.mark.parametrize(
    ("profile", "transit"),
    [(FULL, ()), (FULL, (T1, T2)), (CLEAR, ())],
    ids=["full", "full, two transit devices", "clear"],
)
def test_every_flipped_bit_is_refused_by_the_egress_nve(profile, transit):
    egress = association(1000, profile=profile.name)
    packet = seal_one(sealer(*transit, egress=egress, profile=profile), udp_frame(data=b"x" * 40), TELEMETRY)
    end = opener(egress, profile=profile)
    for position, changed in flips(packet):
        result = end.open(changed, HERE)
        # A flip that turns the security option into another leaves a packet without protection, which
        # the opener says and the policy refuses (tests/nve).
        refused = isinstance(result, DropReason) or result.association is None
        assert refused, f"bit {position} may be flipped"
    assert end.associations[1000].window.highest == 0, "nothing was committed for a forged packet"
    assert isinstance(end.open(packet, HERE), Opened), "and the true packet still opens"


def test_every_flipped_bit_is_seen_by_the_transit_device_or_not_its_own():
    packet = seal_one(sealer(T1, T2), udp_frame(data=b"x" * 40), TELEMETRY)
    telemetry, own = range(8 * 8, 24 * 8), range(24 * 8, 56 * 8)
    vni_and_protocol = range(2 * 8, 7 * 8)
    version, oam = (0, 1), (8,)
    covered = {*telemetry, *own, *vni_and_protocol, *version, *oam}
    accepted = set()
    for position, changed in flips(packet):
        result = verifier(T1).verify(changed, HERE)
        if isinstance(result, Verified):
            accepted.add(position)
            assert result.options == (Option(0xFF60, 2, TELEMETRY[4:]),)
    # Opt Len is not covered, but a wrong one no longer parses into options that fill it.
    opt_len = set(range(2, 8))
    assert accepted & covered == set()
    assert set(range(len(packet) * 8)) - accepted <= covered | opt_len | set(range(56 * 8, 120 * 8))


# --- invariants ------------------------------------------------------------------------------


def test_the_egress_tag_covers_the_other_audiences_options_tags_included():  # invariant 1
    packet = bytearray(seal_one(sealer(T1), udp_frame(), TELEMETRY))
    packet[24 + 31] ^= 1  # last byte of the transit device's tag
    assert opener().open(bytes(packet), HERE) is DropReason.AUTHENTICATION_FAILED


def test_an_option_added_removed_or_moved_breaks_the_tag():  # invariants 1 and 2
    packet = parse_packet(seal_one(sealer(T1), udp_frame(), TELEMETRY))
    telemetry, transit, egress = packet.options
    for options in (
        (telemetry, egress),
        (transit, telemetry, egress),
        (telemetry, egress, transit),
        (telemetry, transit, egress, Option(1, 1)),
        (telemetry, telemetry, transit, egress),
    ):
        forged = make_packet(packet.header, options, packet.payload).build()
        assert opener().open(forged, HERE) is DropReason.AUTHENTICATION_FAILED
    assert isinstance(opener().open(packet.build(), HERE), Opened)


def test_header_and_payload_of_two_packets_cannot_be_exchanged():  # invariant 3: H1/P1, H2/P2
    for profile in (FULL, CLEAR):
        egress = association(1000, profile=profile.name)
        made = sealer(egress=egress, profile=profile)
        first, second = made.seal([Item(udp_frame(data=b"first ")), Item(udp_frame(data=b"second"))])
        assert len(first) == len(second)
        for spliced in (first[:40] + second[40:], second[:40] + first[40:]):
            assert opener(egress, profile=profile).open(spliced, HERE) is DropReason.AUTHENTICATION_FAILED


@pytest.mark.parametrize("profile", [FULL, CLEAR], ids=["full", "clear"])
def test_the_vni_cannot_be_rewritten(profile):  # invariant 3
    egress = association(1000, profile=profile.name)
    packet = bytearray(seal_one(sealer(egress=egress, profile=profile)))
    packet[4:7] = (200).to_bytes(3, "big")
    assert opener(egress, profile=profile).open(bytes(packet), HERE) is DropReason.AUTHENTICATION_FAILED


def test_a_profile_that_does_not_bind_vni_and_payload_cannot_be_written():  # invariant 3
    with pytest.raises(ValueError, match="vni"):
        Coverage(header=frozenset({HeaderField.OAM}))


def test_sequence_numbers_never_repeat_and_end_at_the_hard_limit():  # invariant 4
    end = OutboundAssociation(EGRESS, FULL, hard_limit=3)
    assert (end.reserve(1), end.reserve(2)) == (1, 2)
    for count in (1, 2):
        with pytest.raises(SequenceExhaustedError):
            end.reserve(count)
    with pytest.raises(ValueError, match="forward"):
        end.resume(0, 3)


def test_no_number_is_used_twice_across_seals_of_several_sealers():  # invariant 4
    end = OutboundAssociation(EGRESS, FULL)
    made = [PacketSealer(100, end), PacketSealer(100, end, [OutboundAssociation(T1, FULL)])]
    packets = [seal_one(made[n % 2]) for n in range(20)]
    numbers = [packet[-len(udp_frame()) - 24 :][:8] for packet in packets]
    assert len(set(numbers)) == 20


def test_each_part_of_an_association_changes_its_keys():  # invariant 4
    variants = [
        (EGRESS, FULL.egress),
        (association(1001), FULL.egress),
        (association(vni=101), FULL.egress),
        (association(sender="nve3"), FULL.egress),
        (association(audience="nve3"), FULL.egress),
        (association(role="transit"), FULL.egress),
        (EGRESS, CLEAR.egress),
        (EGRESS, Coverage(options=())),
        (EGRESS, Coverage(options=TRANSIT_COVERAGE.options)),
    ]
    profiles = [(item, FULL.model_copy(update={"egress": coverage})) for item, coverage in variants]
    shapes = [(item, profile, make_shape(profile, item.role, item.audience)) for item, profile in profiles]
    contexts = {derivation_context(*variant) for variant in shapes}
    assert len(contexts) == len(variants)


def test_two_directions_never_share_a_key():  # invariant 4
    there, back = association(1000, seed=1), association(1000, sender="nve2", audience="nve1", seed=1)
    packet = seal_one(sealer(egress=there))
    reflected = opener(back).open(packet, source("nve2"))
    assert reflected is DropReason.AUTHENTICATION_FAILED, "a packet sent back to its sender does not open there"


def test_a_replay_is_refused_and_forged_numbers_do_not_move_the_window():  # invariant 5
    end, made = opener(), sealer()
    first, second = seal_one(made), seal_one(made)
    forged = bytearray(first)
    forged[16:24] = (2**60).to_bytes(8, "big")
    assert end.open(bytes(forged), HERE) is DropReason.AUTHENTICATION_FAILED
    assert isinstance(end.open(second, HERE), Opened)
    assert isinstance(end.open(first, HERE), Opened), "late, but within the window"
    assert end.open(first, HERE) is DropReason.REPLAYED
    assert end.open(second, HERE) is DropReason.REPLAYED


def test_strangers_allocate_nothing():  # invariant 5
    end, t1 = opener(), verifier(T1)
    genuine = parse_packet(seal_one(sealer(T1), udp_frame(), TELEMETRY))
    for number in range(200):
        extra = Option(0x0100, number % 128, bytes(4 * (number % 5)))
        forged = make_packet(genuine.header, (extra, *genuine.options), genuine.payload).build()
        assert isinstance(end.open(forged, HERE), DropReason)
        t1.verify(forged[:-1] + b"x", HERE)
    assert len(end._layouts._layouts) == 0
    assert isinstance(end.open(genuine.build(), HERE), Opened)
    assert len(end._layouts._layouts) == 1


def test_late_packets_at_the_edge_of_the_window():
    small = Profile(name="full", transit=TRANSIT_COVERAGE, replay_window=64)
    end, made = opener(profile=small), sealer(profile=small)
    packets = [seal_one(made) for _ in range(66)]
    assert isinstance(end.open(packets[65], HERE), Opened)
    assert isinstance(end.open(packets[2], HERE), Opened)
    assert end.open(packets[1], HERE) is DropReason.BEHIND_WINDOW


def test_the_transit_device_has_a_window_of_its_own():  # invariant 7
    t1, t2, made = verifier(T1), verifier(T2), sealer(T1, T2)
    packet = seal_one(made, b"", TELEMETRY)
    assert isinstance(t1.verify(packet, HERE), Verified)
    assert t1.verify(packet, HERE) is DropReason.REPLAYED
    assert isinstance(t2.verify(packet, HERE), Verified)
    assert isinstance(opener().open(packet, HERE), Opened)


def test_a_transit_devices_key_forges_nothing_for_others():  # invariant 7
    stolen = association(1000, "transit", audience="t1", seed=2001)
    profile = Profile(name="full", egress=FULL.egress, transit=FULL.egress.model_copy(update={
        "authenticate_inner": InnerCoverage.NONE, "encrypt_inner": InnerCoverage.NONE}))  # fmt: skip
    forged = OutboundAssociation(stolen, profile)
    with pytest.raises(ValueError, match="role"):
        PacketSealer(100, forged)
    packet = parse_packet(seal_one(sealer(T1), udp_frame(), TELEMETRY))
    telemetry, transit, _ = packet.options
    as_egress = Option(0xFF60, EGRESS_TYPE, (1000).to_bytes(4, "big") + transit.data[4:])
    attempt = make_packet(packet.header, (telemetry, as_egress), udp_frame()).build()
    assert opener().open(attempt, HERE) is DropReason.AUTHENTICATION_FAILED


def test_a_transit_device_ignores_what_it_cannot_parse_or_does_not_know():  # invariant 7
    packet = parse_packet(seal_one(sealer(), udp_frame(), TELEMETRY))
    critical = make_packet(packet.header, (Option(7, 0x80), *packet.options), packet.payload).build()
    for data in (b"", b"\x00", critical, packet.build(), bytes([0xC0]) + critical[1:], critical[:11]):
        assert verifier(T1).verify(data, HERE) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p[:5], DropReason.MALFORMED),
        (lambda p: bytes([p[0] | 0x40]) + p[1:], DropReason.UNSUPPORTED_VERSION),
        (lambda p: p[:1] + bytes([p[1] | 0x80]) + p[2:], DropReason.OAM),
        (lambda p: p[:2] + b"\x08\x00" + p[4:], DropReason.UNSUPPORTED_PROTOCOL),
        (lambda p: p[:12] + b"\x00\x00\x03\xe9" + p[16:], DropReason.UNKNOWN_SPI),
        (lambda p: p[:8] + b"\x12\x34" + p[10:], DropReason.UNKNOWN_CRITICAL_OPTION),
        (lambda p: p[:16] + bytes(8) + p[24:], DropReason.BEHIND_WINDOW),
        (lambda p: p[:11] + b"\x06" + p[12:], DropReason.MALFORMED),
        (lambda p: p[:-1], DropReason.AUTHENTICATION_FAILED),
        (lambda p: p[:40], DropReason.AUTHENTICATION_FAILED),
    ],
)
def test_each_reason_to_refuse(change, reason):
    assert opener().open(change(seal_one(sealer())), HERE) is reason


def test_two_security_options_for_an_endpoint_are_malformed():
    packet = parse_packet(seal_one(sealer()))
    doubled = make_packet(packet.header, packet.options * 2, packet.payload).build()
    assert opener().open(doubled, HERE) is DropReason.MALFORMED


def test_the_outer_source_must_be_the_senders():
    packet = seal_one(sealer(T1), b"", TELEMETRY)
    assert opener().open(packet, source("nve3")) is DropReason.SOURCE_MISMATCH
    assert verifier(T1).verify(packet, source("nve3")) is DropReason.SOURCE_MISMATCH


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_no_bytes_make_opener_or_verifier_raise(data):
    result = opener().open(data, HERE)
    assert isinstance(result, DropReason) or result.association is None
    assert not isinstance(verifier(T1).verify(data, HERE), Verified)
    prefixed = bytes.fromhex("08 40 6558 000064 00 ff60 81 07 000003e8") + data
    assert opener().open(prefixed, HERE) in set(DropReason)
    assert not isinstance(verifier(T1).verify(prefixed, HERE), Verified)


def test_an_empty_frame_is_sealed_and_opened_without_a_crash():
    (packet,) = sealer().seal([Item(b"")])
    opened = opener().open(packet, HERE)
    assert isinstance(opened, Opened)
    assert opened.frame == b""


# --- the store -------------------------------------------------------------------------------


def held(store: AssociationStore, *associations: Association, profile: Profile = FULL) -> list:
    store.commit(store.prepare(associations, {"full": profile}))
    return store.ends()


def test_a_repeated_push_keeps_sequence_numbers_and_windows():  # invariants 4 and 5
    out: AssociationStore = AssociationStore(OutboundAssociation)
    (end,) = held(out, EGRESS)
    end.reserve(1)
    assert held(out, EGRESS) == [end]
    assert end.reserve(1) == 2


@pytest.mark.parametrize("kind", [OutboundAssociation, InboundAssociation])
def test_a_withdrawn_association_never_comes_back(kind):  # invariants 4 and 5
    store: AssociationStore = AssociationStore(kind)
    held(store, EGRESS)
    held(store)
    with pytest.raises(ConfigError, match="withdrawn"):
        held(store, EGRESS)


def test_an_spi_cannot_change_its_contents_or_stand_twice():
    store: AssociationStore = AssociationStore(OutboundAssociation)
    held(store, EGRESS)
    for bad in ((association(1000, seed="other"),), (EGRESS, association(1000, vni=7))):
        with pytest.raises(ConfigError, match="0x000003e8"):
            held(store, *bad)
    with pytest.raises(ConfigError, match="changed"):
        held(store, EGRESS, profile=Profile(name="full", transit=TRANSIT_COVERAGE, replay_window=64))
    assert [end.spi for end in store.ends()] == [1000], "a refused push changes nothing"


def test_secrets_and_keys_do_not_show():
    text = repr(InboundAssociation(EGRESS, FULL)) + str(OutboundAssociation(EGRESS, FULL)) + repr(EGRESS)
    assert EGRESS.secret.get_secret_value() not in text

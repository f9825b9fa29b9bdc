"""Datagrams that stand for many packets: one decision for each, cut where they must be, whole wherever possible."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneve.control.profile import InnerCoverage, OptionSelector
from geneve.control.rules import TagRule, Verdict
from geneve.control.state import TransitVni
from geneve.drops import DropReason
from geneve.export import ExportOpener, ExportSealer, Opened
from geneve.option import Option
from geneve.outer import internet_checksum, locate
from geneve.security.association import InboundAssociation, OutboundAssociation
from geneve.security.seal import PacketSealer
from geneve.security.transit import MIN_RUN, Proof, TransitVerifier
from geneve.tags import TAG_CLASS, TAG_TYPE, build_tag
from geneve.telemetry import build_telemetry
from geneve.vnet import GSO_UDP, NEEDS_CHECKSUM, PLAIN_BYTES, VnetHeader, parse_vnet
from tests.support import FULL, TRANSIT_COVERAGE, association, source, transit_association
from tests.transit.builders import (
    NOW_NS,
    SOURCE,
    device_state,
    make_sealer,
    plain,
    seal,
    sealed,
    super_frame,
    underlay_frame,
)
from transit.config import Impair
from transit.device import TransitDevice
from transit.exporter import Exporter
from transit.forwarder import Forwarder
from transit.outcome import Outcome
from transit.relay import restore_places
from transit.segments import cut

HERE = source("nve1")
ONE_TO_TWO = TagRule(source=1, destination=2, verdict=Verdict.PERMIT)
TAGGED = FULL.model_copy(
    update={
        "transit": TRANSIT_COVERAGE.model_copy(
            update={
                "options": (
                    *(TRANSIT_COVERAGE.options or ()),
                    OptionSelector(option_class=TAG_CLASS, type=TAG_TYPE),
                )
            }
        )
    }
)
WHOLE_INNER = FULL.model_copy(
    update={"transit": TRANSIT_COVERAGE.model_copy(update={"authenticate_inner": InnerCoverage.ALL})}
)
HEADERS_INNER = FULL.model_copy(
    update={"transit": TRANSIT_COVERAGE.model_copy(update={"authenticate_inner": InnerCoverage.HEADERS})}
)
HIDING = FULL.model_copy(
    update={
        "transit": TRANSIT_COVERAGE.model_copy(
            update={"hidden_options": (OptionSelector(option_class=0xFF61, type=9),)}
        )
    }
)
TELEMETRY = TransitVni(vni=100, telemetry=True)
ENFORCED = TransitVni(vni=100, telemetry=True, group_policy=(ONE_TO_TWO,))


def packets_of(count: int, profile=FULL, options=lambda _: ()) -> list[bytes]:
    sealer = make_sealer(profile=profile)
    return [seal(sealer, build_telemetry(7, number), *options(number)) for number in range(count)]


# --- verification in a burst -----------------------------------------------------------------


def verifier(profile) -> TransitVerifier:
    return TransitVerifier([InboundAssociation(transit_association("nve1", "t1", 100), profile)])


def comparable(verdicts: Sequence[object], packets: Sequence[bytes]) -> list[object]:
    return [
        (verdict.vni, verdict.sender, verdict.header, verdict.options(packet))
        if isinstance(verdict, Proof)
        else verdict
        for verdict, packet in zip(verdicts, packets, strict=True)
    ]


changes = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["tamper", "repeat", "swap", "foreign"])), max_size=5)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([FULL, TAGGED, WHOLE_INNER, HEADERS_INNER]), changes, st.integers(0, 170), st.integers(1, 255),
       st.booleans(), st.sampled_from([2, MIN_RUN]))  # fmt: skip
def test_a_burst_is_verified_as_its_packets_one_by_one(
    profile, made, position: int, flip: int, warm: bool, least: int
) -> None:
    packets = packets_of(10, profile, lambda _: (build_tag(1, 2),))
    size = len(packets[0])
    for index, kind in made:
        if kind == "tamper":
            packet = bytearray(packets[index])
            packet[position % size] ^= flip
            packets[index] = bytes(packet)
        elif kind == "repeat":
            packets[index] = packets[(index + 3) % 10]
        elif kind == "swap":
            packets[index], packets[index - 1] = packets[index - 1], packets[index]
        else:
            packets[index] = plain(options=build_telemetry(1, 1)).ljust(size, b"\0")
    buffer = b"xyz" + b"".join(packets)
    together, alone = verifier(profile), verifier(profile)
    first = seal(make_sealer(profile=profile), build_telemetry(1, 1), build_tag(3, 4))  # another packet number 1
    if warm:
        assert isinstance(together.verify(first, HERE), type(alone.verify(first, HERE)))
    with mock.patch("geneve.security.transit.MIN_RUN", least):
        burst = together.verify_burst(buffer, 3, size, len(buffer), HERE)
    single = [alone.verify_burst(packet, 0, size, size, HERE)[0] for packet in packets]
    assert comparable(burst, packets) == comparable(single, packets)
    probe = [together.verify(packet, HERE) for packet in packets]
    assert [type(item) for item in probe] == [type(alone.verify(packet, HERE)) for packet in packets]


def test_what_is_hidden_for_the_device_comes_with_its_own_packet() -> None:
    packets = packets_of(3, HIDING, lambda number: (Option(0xFF61, 9, bytes([number] * 4)).build(),))
    verdicts = verifier(HIDING).verify_burst(b"".join(packets), 0, len(packets[0]), 3 * len(packets[0]), HERE)
    assert [verdict.revealed[0].data for verdict in verdicts if isinstance(verdict, Proof)] == [
        bytes([number] * 4) for number in range(3)
    ]


def test_a_second_option_under_the_same_spi_is_verified_on_its_own() -> None:
    """A copy of the device's option with another number must not move the window by what nobody authenticated."""
    loose = FULL.model_copy(update={"transit": TRANSIT_COVERAGE.model_copy(update={"header": frozenset()})})
    packet = packets_of(1, loose)[0]
    own = packet[24:56]
    forged = bytes([packet[0] + 8]) + packet[1:56] + own[:8] + struct.pack("!Q", 2**40) + own[16:] + packet[56:]
    device = verifier(loose)
    assert device.verify(forged, HERE) is DropReason.AUTHENTICATION_FAILED
    assert device.verify(packet, HERE) is not None
    assert device.verify(packets_of(2, loose)[1], HERE) is not DropReason.BEHIND_WINDOW


def test_layout_alone_is_not_enough_the_spi_decides() -> None:
    """Two senders with packets of one layout, in turn, in the same device."""
    ends = [transit_association("nve1", "t1", 100), transit_association("nve3", "t1", 100)]
    device = TransitVerifier([InboundAssociation(end, FULL) for end in ends])
    sealers = [
        PacketSealer(100, OutboundAssociation(association(vni=100), FULL), [OutboundAssociation(end, FULL)])
        for end in ends
    ]
    for number in range(1, 4):
        for sender, sealer in zip(("nve1", "nve3"), sealers, strict=True):
            packet = sealed(sealer, sequence=number)
            verdict = device.verify_burst(packet, 0, len(packet), len(packet), source(sender))[0]
            assert isinstance(verdict, Proof)
            assert verdict.sender == sender
            assert device.verify(packet, source("nve2")) is DropReason.SOURCE_MISMATCH


# --- decisions -------------------------------------------------------------------------------


def make_device(vnis: Sequence[TransitVni], profile=TAGGED) -> TransitDevice:
    device = TransitDevice("t1")
    device.apply(device_state(vnis=vnis, profile=profile))
    return device


@pytest.mark.parametrize(
    "vnis", [(), (TELEMETRY,), (ENFORCED,), (TransitVni(vni=100, telemetry=True, authenticated=False),)]
)
@settings(max_examples=60, deadline=None)
@given(damage=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 150), st.integers(1, 255)), max_size=3),
       groups=st.lists(st.sampled_from([(1, 2), (2, 1)]), min_size=12, max_size=12),
       short=st.integers(0, 40))  # fmt: skip
def test_decisions_are_those_of_the_packets_one_by_one(vnis, damage, groups, short: int) -> None:
    packets = packets_of(12, TAGGED, lambda number: (build_tag(*groups[number]),))
    for index, position, flip in damage:
        packet = bytearray(packets[index])
        packet[position % len(packet)] ^= flip
        packets[index] = bytes(packet)
    packets[-1] = packets[-1][: len(packets[-1]) - short]
    frame, header = super_frame(packets)
    together, alone = make_device(vnis), make_device(vnis)
    decisions = list(together.process_segments(frame, header.gso_size, 0, NOW_NS))
    singles = cut(frame, locate(frame), header.gso_size, partial=True)
    assert decisions == [alone.process(single, 0, NOW_NS) for single in singles]
    assert together.counters() == alone.counters()
    assert together.options_read() == alone.options_read()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400), st.booleans())
def test_nothing_escapes_on_any_frame_of_any_size(data: bytes, size: int, geneve: bool) -> None:
    frame = underlay_frame(data) if geneve else data
    for vnis in ((TELEMETRY,), (ENFORCED,)):
        decisions = make_device(vnis).process_segments(frame, size, 0, NOW_NS)
        payload = max(1, -(-len(data) // size)) if geneve and size else 1
        assert len(decisions) == payload


def test_a_device_that_exports_nothing_decides_the_same_without_observations() -> None:
    device = TransitDevice("t1", observing=False)
    device.apply(device_state(vnis=(TELEMETRY,)))
    frame, header = super_frame(packets_of(5))
    decisions = device.process_segments(frame, header.gso_size, 0, 0)
    assert [(d.outcome, d.observation, d.forward) for d in decisions] == [(Outcome.EXPORTED, None, True)] * 5


# --- cutting ---------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=9, max_size=9), min_size=1, max_size=20), st.binary(min_size=1, max_size=9),
       st.sampled_from([SOURCE, "fd00:6081::1"]), st.integers(0, 0xFFFF),
       st.sampled_from([(), ((0x8100, 5),)]))  # fmt: skip
def test_cut_packets_are_sound_and_in_order(payloads, last: bytes, source: str, identification: int, tags) -> None:
    frame, header = super_frame([*payloads, last], source, tags, identification)
    location = locate(frame)
    assert location is not None
    cuts = cut(frame, location, header.gso_size, partial=True)
    assert len(cuts) == len(payloads) + 1
    for index, (packet, payload) in enumerate(zip(cuts, [*payloads, last], strict=True)):
        network, transport, end = locate(packet) or (0, 0, 0)
        assert (packet[transport + 8 : end], end) == (payload, len(packet))
        assert packet[:network] == frame[:network]
        if "." in source:
            assert internet_checksum(packet[network:transport]) == 0
            assert int.from_bytes(packet[network + 4 : network + 6], "big") == (identification + index) & 0xFFFF
            addresses = packet[network + 12 : network + 20]
        else:
            addresses = packet[network + 8 : network + 40]
        summed = addresses + struct.pack("!IHH", end - transport, 0, 17) + packet[transport:end]
        assert internet_checksum(summed) == 0
        assert packet[transport + 6 : transport + 8] != b"\0\0"
    # A checksum that is whole leads to the same packets, and none stays none.
    assert cut(frame, location, header.gso_size, partial=False) == cuts
    bare = bytearray(frame)
    bare[location[1] + 6 : location[1] + 8] = b"\0\0"
    for packet in cut(bytes(bare), location, header.gso_size, partial=True):
        assert packet[location[1] + 6 : location[1] + 8] == b"\0\0"


def test_places_move_with_a_tag_that_is_put_back() -> None:
    _, header = super_frame([plain(), plain()])
    moved = parse_vnet(restore_places(header.build()))
    assert moved == header._replace(checksum_start=header.checksum_start + 4, header_size=header.header_size + 4)
    unsegmented = VnetHeader(NEEDS_CHECKSUM, 0, 0, 0, 34, 6)
    assert parse_vnet(restore_places(unsegmented.build())) == unsegmented._replace(checksum_start=38)


# --- forwarding ------------------------------------------------------------------------------


class Wire:
    """What leaves port 1: frames with their virtio headers. ``segments`` says whether the kernel can segment."""

    def __init__(self, vnis: Sequence[TransitVni], impair: Impair | None = None, segments: bool = True) -> None:
        self.out: list[tuple[bytes, bytes]] = []
        self.device = make_device(vnis)
        self.exporter = Exporter(ExportSealer("t1", bytes(32), bytes(16)))
        send = (lambda _: True, lambda frame: self._send(frame, PLAIN_BYTES))
        whole = (lambda _, __: True, self._send)
        self.segments = segments
        self.forwarder = Forwarder(self.device, self.exporter, impair, send, lambda: NOW_NS, whole)

    def _send(self, frame: bytes, vnet: bytes) -> bool | None:
        if vnet[1] == GSO_UDP and not self.segments:
            return None
        self.out.append((frame, vnet))
        return True

    def records(self) -> list[int]:
        """The sequence numbers that were reported."""
        datagrams: list[bytes] = []
        self.exporter.flush(1e9, lambda datagram: bool(datagrams.append(datagram)) or True)
        opener = ExportOpener({"t1": bytes(32)})
        opened = [opener.open(datagram) for datagram in datagrams]
        return [r["sequence"] for item in opened if isinstance(item, Opened) for r in json.loads(item.payload)]


def tampered(packets: list[bytes], index: int) -> list[bytes]:
    return [*packets[:index], packets[index][:50] + bytes([packets[index][50] ^ 1]) + packets[index][51:],
            *packets[index + 1 :]]  # fmt: skip


def test_without_group_policy_a_frame_leaves_as_it_came_whatever_is_in_it() -> None:
    wire = Wire((TELEMETRY,))
    frame, header = super_frame(tampered(packets_of(6, TAGGED, lambda _: (build_tag(1, 2),)), 3))
    wire.forwarder.take([(frame, NOW_NS, header.build())], 0, 0.0)
    assert wire.out == [(frame, header.build())]
    assert wire.device.counters()["authentication_failed"] == 1
    assert wire.records() == [0, 1, 2, 4, 5]
    assert not any(wire.forwarder.drops().values())


@pytest.mark.parametrize("segments", [True, False])
def test_group_policy_takes_single_packets_out_of_the_middle(segments: bool) -> None:
    wire = Wire((ENFORCED,), segments=segments)
    packets = tampered(packets_of(6, TAGGED, lambda n: (build_tag(1, 2) if n != 2 else build_tag(2, 1),)), 4)
    frame, header = super_frame(packets, identification=0xFFFE)
    wire.forwarder.take([(frame, NOW_NS, header.build())], 0, 0.0)
    everything = cut(frame, locate(frame), header.gso_size, partial=True)
    assert wire.out == [(everything[index], PLAIN_BYTES) for index in (0, 1, 3, 5)]
    drops = wire.forwarder.drops()
    assert {name: count for name, count in drops.items() if count} == {"tag_denied": 1, "authentication_failed": 1}
    assert wire.records() == [0, 1, 3, 5]
    assert wire.forwarder.cut == 1


def test_group_policy_lets_a_permitted_frame_leave_whole() -> None:
    wire = Wire((ENFORCED,))
    frame, header = super_frame(packets_of(6, TAGGED, lambda _: (build_tag(1, 2),)))
    wire.forwarder.take([(frame, NOW_NS, header.build())], 0, 0.0)
    assert wire.out == [(frame, header.build())]
    assert wire.device.counters()["permitted"] == 6


def test_what_the_kernel_cannot_segment_is_cut_here() -> None:
    wire = Wire((TELEMETRY,), segments=False)
    frame, header = super_frame(packets_of(4, TAGGED))
    wire.forwarder.take([(frame, NOW_NS, header.build())], 0, 0.0)
    assert [frame for frame, _ in wire.out] == cut(frame, locate(frame), header.gso_size, partial=True)
    assert {vnet for _, vnet in wire.out} == {PLAIN_BYTES}
    assert wire.records() == [0, 1, 2, 3]
    # What is not Geneve is not looked into, so it cannot be cut either.
    other = frame[:36] + b"\x11\x11" + frame[38:]
    wire.forwarder.take([(other, NOW_NS, header.build())], 0, 0.0)
    assert wire.forwarder.drops()["segmentation_failed"] == 1


def test_an_impairment_acts_on_each_packet() -> None:
    wire = Wire((TELEMETRY,), Impair(delay_ms=10.0, loss=0.3, seed=3))
    frame, header = super_frame(packets_of(40, TAGGED))
    wire.forwarder.take([(frame, NOW_NS, header.build())], 0, 0.0)
    lost = wire.forwarder.drops()["impair_loss"]
    assert 0 < lost < 40
    assert not wire.out
    wire.forwarder.run_due(1.0)
    singles = cut(frame, locate(frame), header.gso_size, partial=True)
    assert len(wire.out) == 40 - lost
    assert [packet for packet, _ in wire.out] == [single for single in singles if (single, PLAIN_BYTES) in wire.out]
    assert len(wire.records()) == 40 - lost


def test_a_header_stays_with_a_frame_that_is_delayed() -> None:
    wire = Wire((TELEMETRY,), Impair(delay_ms=10.0))
    header = VnetHeader(NEEDS_CHECKSUM, 0, 0, 0, 34, 6).build()
    frame = underlay_frame(packets_of(1, TAGGED)[0])
    wire.forwarder.take([(frame, NOW_NS, header)], 0, 0.0)
    wire.forwarder.run_due(1.0)
    assert wire.out == [(frame, header)]

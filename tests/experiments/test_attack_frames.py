"""What each attack builds: sound frames that only cryptography can tell from true ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from experiments.attack_frames import (
    ALTERED_BYTES,
    Addresses,
    Target,
    forged,
    made_up_security,
    modified,
    moved_to_vni,
    observed_security,
    rebuild,
    with_added_telemetry,
    with_forged_telemetry,
)
from experiments.traffic import PORT, build_message
from geneve.drops import DropReason
from geneve.header import BaseHeader
from geneve.option import Option
from geneve.outer import build_datagram, build_frame, parse_outer
from geneve.packet import Packet, make_packet, parse_packet
from geneve.security.association import InboundAssociation
from geneve.security.open import Opened, PacketOpener
from geneve.telemetry import Telemetry, parse_telemetry
from tests.support import FULL, association, source, udp_frame
from tests.transit.builders import (
    DESTINATION,
    MAC_A,
    MAC_B,
    NOW_NS,
    SOURCE,
    device_state,
    make_sealer,
    sealed,
    underlay_frame,
)
from transit.device import Outcome, TransitDevice

FALSE = Telemetry(0xE7E00001, 1_000_001)
BOTH_FAMILIES = pytest.mark.parametrize("outer", [SOURCE, "fd00:6081::1"])
"""The underlay's address family, by the sender's address."""


def secured(outer: str = SOURCE) -> bytes:
    """A whole frame as an NVE sends it: telemetry, an option for t1, one for the egress NVE, ciphertext."""
    return underlay_frame(sealed(make_sealer()), outer)


def open_message(size: int = 300, version: int = 4) -> bytes:
    """An inner frame with a tenant's marked message, its UDP checksum right."""
    network = IP(src="10.0.0.1", dst="10.0.0.2") if version == 4 else IPv6(src="fd00:10::1", dst="fd00:10::2")
    payload = build_message("modify", 0, 0, size)
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / network / UDP(sport=9, dport=PORT) / payload)


def plain_frame(inner: bytes, options: tuple[Option, ...] = (), outer: str = SOURCE, checksum: bool = True) -> bytes:
    packet = make_packet(BaseHeader(vni=100), options, inner).build()
    other = DESTINATION if "." in outer else "fd00:6081::2"
    return build_frame(MAC_A, MAC_B, build_datagram(outer, other, 50000, packet, checksum=checksum))


def packet_in(frame: bytes) -> Packet:
    """The Geneve packet in a frame whose every length and checksum is right."""
    outer = parse_outer(frame)
    assert outer is not None
    layers = Ether(frame)
    assert bytes(layers) == frame
    for layer, names in ((IP, ("len", "chksum")), (IPv6, ("plen",)), (UDP, ("len", "chksum"))):
        for name in names:
            if layer not in layers or (name == "chksum" and getattr(layers[layer], name) == 0):
                continue
            again = Ether(frame)
            setattr(again[layer], name, None)
            assert getattr(Ether(bytes(again))[layer], name) == getattr(layers[layer], name), name
    return parse_packet(outer.payload(frame))


def opened(frame: bytes) -> Opened | DropReason:
    """What the egress NVE makes of a frame."""
    opener = PacketOpener([InboundAssociation(association(), FULL)])
    outer = parse_outer(frame)
    assert outer is not None
    return opener.open(outer.payload(frame), source("nve1"))


def seen_by_device(frame: bytes) -> Outcome:
    device = TransitDevice("t1")
    device.apply(device_state())
    return device.process(frame, 0, NOW_NS).outcome


def test_the_untouched_packet_is_accepted_by_all() -> None:
    assert isinstance(opened(secured()), Opened)
    assert seen_by_device(secured()) is Outcome.EXPORTED


@pytest.mark.parametrize(("outer", "checksum"), [(SOURCE, True), (SOURCE, False), ("fd00:6081::1", True)])
def test_rebuilding_without_a_change_gives_the_same_bytes(outer: str, checksum: bool) -> None:
    frame = plain_frame(open_message(), outer=outer, checksum=checksum)
    assert rebuild(frame, packet_in(frame)) == frame


def test_rebuilding_follows_a_new_length() -> None:
    frame = plain_frame(open_message())
    packet = packet_in(frame)
    longer = rebuild(frame, replace(packet, payload=packet.payload + bytes(20)))
    assert len(longer) == len(frame) + 20
    assert packet_in(longer).payload == packet.payload + bytes(20)


class TestTarget:
    TARGET = Target(SOURCE, DESTINATION, 100, len(open_message()))

    def test_what_is_meant(self) -> None:
        frame = plain_frame(open_message())
        assert self.TARGET.match(frame) == packet_in(frame)

    @pytest.mark.parametrize(
        "frame",
        [
            plain_frame(open_message(301)),
            plain_frame(open_message(), outer="192.168.1.3"),
            moved_to_vni(plain_frame(open_message()), packet_in(plain_frame(open_message())), 200),
            open_message(),  # no Geneve
            plain_frame(open_message())[:60],
            underlay_frame(b"\x00\x00"),
            b"",
        ],
        ids=["size", "source", "vni", "not-geneve", "cut", "no-header", "empty"],
    )
    def test_what_is_not(self, frame: bytes) -> None:
        assert self.TARGET.match(frame) is None

    def test_ciphertext_has_the_size_of_the_clear_text(self) -> None:
        frame = secured()
        assert Target(SOURCE, DESTINATION, 100, len(udp_frame())).match(frame) == packet_in(frame)


@pytest.mark.parametrize("version", [4, 6])
def test_modified_clear_text_is_a_sound_datagram_with_other_contents(version: int) -> None:
    frame = plain_frame(open_message(version=version))
    after = packet_in(modified(frame, packet_in(frame)))
    inner = Ether(after.payload)
    assert (after.header, after.options) == (packet_in(frame).header, ())
    fresh = Ether(after.payload)
    fresh[UDP].chksum = None
    assert Ether(bytes(fresh))[UDP].chksum == inner[UDP].chksum, "the victim's kernel would drop it"
    before = bytes(Ether(packet_in(frame).payload)[UDP].payload)
    changed = bytes(inner[UDP].payload)
    assert changed[:-ALTERED_BYTES] == before[:-ALTERED_BYTES]
    assert all(one != other for one, other in zip(changed[-ALTERED_BYTES:], before[-ALTERED_BYTES:], strict=True))


@BOTH_FAMILIES
def test_modified_ciphertext_keeps_everything_else(outer: str) -> None:
    frame = secured(outer)
    before, after = packet_in(frame), packet_in(modified(frame, packet_in(frame)))
    assert (after.header, after.options) == (before.header, before.options)
    assert after.payload[:-ALTERED_BYTES] == before.payload[:-ALTERED_BYTES]
    assert after.payload[-ALTERED_BYTES:] != before.payload[-ALTERED_BYTES:]


def test_modified_ciphertext_is_refused() -> None:
    frame = secured()
    assert opened(modified(frame, packet_in(frame))) is DropReason.AUTHENTICATION_FAILED


@BOTH_FAMILIES
def test_another_vni_and_nothing_else(outer: str) -> None:
    frame = secured(outer)
    before, after = packet_in(frame), packet_in(moved_to_vni(frame, packet_in(frame), 200))
    assert after.header.vni == 200
    assert replace(after, header=before.header) == before
    assert replace(after.header, vni=before.header.vni) == before.header


def test_a_sealed_packet_in_another_vni_is_refused() -> None:
    frame = secured()
    assert isinstance(opened(moved_to_vni(frame, packet_in(frame), 200)), DropReason)


class TestForgedTelemetry:
    def test_of_a_sealed_packet(self) -> None:
        frame = secured()
        before = packet_in(frame)
        changed = with_forged_telemetry(frame, before, FALSE)
        after = packet_in(changed)
        assert len(changed) == len(frame)
        assert parse_telemetry(after.options[0]) == FALSE
        assert (after.options[1:], after.payload, after.header) == (before.options[1:], before.payload, before.header)
        assert seen_by_device(changed) is Outcome.AUTHENTICATION_FAILED

    def test_of_a_plain_packet(self) -> None:
        frame = plain_frame(open_message(), (Telemetry(7, 1).option(),))
        after = packet_in(with_forged_telemetry(frame, packet_in(frame), FALSE))
        assert [parse_telemetry(option) for option in after.options] == [FALSE]

    def test_where_there_is_none_it_is_added_in_front(self) -> None:
        other = Option(0x0101, 0x05, bytes(4))
        frame = plain_frame(open_message(), (other,))
        after = packet_in(with_forged_telemetry(frame, packet_in(frame), FALSE))
        assert after.options == (FALSE.option(), other)
        assert after.header.opt_len == 16 + 8


@BOTH_FAMILIES
def test_added_telemetry_is_the_only_option_left(outer: str) -> None:
    frame = secured(outer)
    changed = with_added_telemetry(frame, packet_in(frame), FALSE)
    after = packet_in(changed)
    assert after.options == (FALSE.option(),)
    assert (after.payload, after.header.vni) == (packet_in(frame).payload, 100)
    assert not after.header.critical
    assert seen_by_device(changed) is Outcome.TELEMETRY_UNAUTHENTICATED


def test_added_telemetry_is_exported_by_a_device_that_demands_no_proof() -> None:
    frame = plain_frame(open_message(), (Telemetry(7, 1).option(),))
    device = TransitDevice("t1")
    [policy] = device_state().transit_vnis
    device.apply(device_state(vnis=(policy.model_copy(update={"authenticated": False}),), keys_for=()))
    decision = device.process(with_added_telemetry(frame, packet_in(frame), FALSE), 0, NOW_NS)
    assert decision.observation is not None
    assert (decision.observation.flow, decision.observation.sequence) == (FALSE.flow, FALSE.sequence)


class TestForgedFrame:
    FIELDS = {
        "outer_source_mac": "02:aa:00:00:00:01", "outer_destination_mac": "02:aa:00:00:00:02",
        "outer_source": SOURCE, "outer_destination": DESTINATION,
        "inner_source_mac": "02:00:00:00:00:01", "inner_destination_mac": "02:00:00:00:00:02",
        "inner_source": "10.0.0.1", "inner_destination": "10.0.0.2",
    }  # fmt: skip
    PAYLOAD = build_message("inject", 0, 0, 120)

    @pytest.mark.parametrize("inner", [("10.0.0.1", "10.0.0.2"), ("fd00:10::1", "fd00:10::2")])
    @pytest.mark.parametrize("outer", [(SOURCE, DESTINATION), ("fd00:6081::1", "fd00:6081::2")])
    def test_it_is_sound_inside_and_outside(self, inner: tuple[str, str], outer: tuple[str, str]) -> None:
        fields = {**self.FIELDS, "inner_source": inner[0], "inner_destination": inner[1]}
        fields |= {"outer_source": outer[0], "outer_destination": outer[1]}
        frame = forged(Addresses.from_dict(fields), 100, self.PAYLOAD)
        packet = packet_in(frame)
        datagram = parse_outer(frame)
        assert datagram is not None
        assert (datagram.source, datagram.destination) == outer
        inside = Ether(packet.payload)
        assert bytes(inside[UDP].payload) == self.PAYLOAD
        assert (inside[UDP].dport, packet.header.vni, packet.options) == (PORT, 100, ())

    def test_with_a_made_up_tag(self) -> None:
        frame = forged(Addresses.from_dict(self.FIELDS), 100, self.PAYLOAD, (made_up_security(1000, 77),))
        packet = packet_in(frame)
        assert observed_security(packet) == (1000, 77)
        assert packet.header.critical
        assert opened(frame) is DropReason.AUTHENTICATION_FAILED

    def test_with_an_spi_that_nobody_has(self) -> None:
        frame = forged(Addresses.from_dict(self.FIELDS), 100, self.PAYLOAD, (made_up_security(0xBAD, 77),))
        assert opened(frame) is DropReason.UNKNOWN_SPI

    def test_without_an_option_it_is_not_proven(self) -> None:
        result = opened(forged(Addresses.from_dict(self.FIELDS), 100, self.PAYLOAD))
        assert isinstance(result, Opened)
        assert result.association is None

    def test_a_missing_address_is_an_error(self) -> None:
        with pytest.raises(KeyError, match="inner_source"):
            Addresses.from_dict({name: text for name, text in self.FIELDS.items() if name != "inner_source"})


class TestObservedSecurity:
    def test_spi_and_sequence_are_those_for_the_egress(self) -> None:
        assert observed_security(packet_in(secured())) == (1000, 1)

    def test_nothing_where_there_is_no_protection(self) -> None:
        assert observed_security(packet_in(plain_frame(open_message()))) is None

    def test_an_option_cut_short_is_none(self) -> None:
        whole = made_up_security(5, 6)
        short = replace(whole, data=whole.data[:-4])
        assert observed_security(make_packet(BaseHeader(vni=1), (short,), b"")) is None

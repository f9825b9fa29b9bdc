"""What an observer without keys reads of frames of each mechanism, and what the attacker on the path makes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from experiments.attack_frames import Target
from experiments.attacker import OnPath
from experiments.channel_frames import altered, flipped_inside
from experiments.traffic import PORT, build_message
from experiments.view import Carrier, View, view
from geneve.control.channel import DTLS_PORT, IP_PROTOCOL_ESP
from geneve.option import Option
from geneve.outer import build_datagram, build_frame
from geneve.packet import parse_packet
from tests.experiments.channel_packets import (
    DESTINATION,
    KINDS,
    OPAQUE,
    SOURCE,
    SPI,
    dtls,
    geneve,
    protected,
    underlay,
)
from tests.support import udp_frame
from tests.transit.builders import make_sealer, sealed, underlay_frame

IPV6 = ("fd00:6081::1", "fd00:6081::2")
OPTION = Option(0x0102, 0x11, b"SECRET-ONE!!")
CHANNELS = [kind for kind in KINDS if kind != "none"]
READABLE = [kind for kind in CHANNELS if kind not in OPAQUE]
CARRIERS = {
    "none": Carrier.GENEVE, "esp": Carrier.ESP, "esp-null": Carrier.ESP, "esp-udp": Carrier.ESP_UDP,
    "esp-null-udp": Carrier.ESP_UDP, "ah": Carrier.AH, "dtls": Carrier.DTLS, "dtls-null": Carrier.DTLS,
}  # fmt: skip


def message(size: int = 300) -> bytes:
    """An inner frame with a tenant's marked message, its UDP checksum right."""
    return bytes(
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / IP(src="10.0.0.1", dst="10.0.0.2")
        / UDP(sport=PORT, dport=PORT)
        / build_message("x", 0, 0, size)
    )


PACKET = geneve(message(), options=(OPTION,))


def read(frame: bytes) -> View:
    found = view(frame)
    assert found is not None
    return found


@pytest.mark.parametrize("outer", [(SOURCE, DESTINATION), IPV6])
@pytest.mark.parametrize("kind", KINDS)
def test_an_observer_tells_the_mechanism_and_reads_what_is_not_encrypted(kind, outer):
    found = read(protected(kind, PACKET, 7, *outer))
    assert (found.carrier, found.source, found.destination) == (CARRIERS[kind], *outer)
    assert found.data
    if kind in OPAQUE:
        assert found.packet is None
        assert found.size > len(PACKET)
    else:
        assert found.packet == parse_packet(PACKET)
        assert found.size == len(message())
    if kind != "none":
        assert found.sequence == 7
        assert found.spi == (1 if kind.startswith("dtls") else SPI)


def test_our_option_shows_spi_and_sequence_number():
    found = read(underlay_frame(sealed(make_sealer())))
    assert (found.carrier, found.spi, found.sequence) == (Carrier.GENEVE, 1000, 1)
    assert not found.channel


def test_what_dtls_says_of_itself_is_no_data():
    for content in (dtls(b"hello", 0, True, kind=22, epoch=0), dtls(b"x" * 40, 0, False, kind=22)):
        datagram = build_datagram(SOURCE, DESTINATION, DTLS_PORT, content, port=DTLS_PORT)
        assert not read(build_frame(bytes(6), bytes(6), datagram)).data


def test_ciphertext_is_never_taken_for_a_readable_packet():
    assert all(read(protected(kind, PACKET, n)).opaque for kind in OPAQUE for n in range(300))


def test_other_traffic_is_not_the_overlays():
    others = [b"", bytes(60), udp_frame(), underlay(1, b"ping" * 4), underlay(IP_PROTOCOL_ESP, b"\0" * 40)]
    assert [view(frame) for frame in others] == [None] * len(others)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_cut_short_is_nothing(kind):
    frame = protected(kind, PACKET)
    assert all(view(frame[:size]) is None for size in range(len(frame)))


@given(st.sampled_from(KINDS), st.integers(0, 80), st.binary(min_size=1, max_size=8))
def test_no_bytes_break_the_observer(kind, place, data):
    frame = bytearray(protected(kind, geneve(message(60))))
    frame[place : place + len(data)] = data
    found = view(bytes(frame))
    assert found is None or 0 < found.network < found.start <= found.end <= len(frame)


@given(st.binary(max_size=120))
def test_no_frame_breaks_the_observer(frame):
    assert view(frame) is None or len(frame) > 34


def checksum_is_right(frame: bytes) -> bool:
    """Whether the checksum of the first UDP datagram in a frame is what it should be."""
    layers = Ether(frame)
    right = layers.copy()
    right[UDP].chksum = None
    return bool(Ether(bytes(right))[UDP].chksum == layers[UDP].chksum)


# --- the attacker ------------------------------------------------------------------------------------


def difference(one: bytes, other: bytes) -> list[int]:
    assert len(one) == len(other)
    return [place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]


@pytest.mark.parametrize("part", ["header", "payload", "option:0102:11"])
@pytest.mark.parametrize("kind", READABLE)
def test_a_readable_byte_is_changed_where_it_stands(kind, part):
    frame = protected(kind, PACKET, checksum=True)
    found = read(frame)
    changed = flipped_inside(frame, found, part, 7, 0x10)
    packet = read(changed).packet
    assert packet is not None
    assert found.geneve is not None
    start = {"header": 0, "option:0102:11": 12, "payload": 24}[part]
    assert difference(packet.build(), PACKET) == [start + 7]
    assert difference(changed, frame)[-1] == found.geneve[0] + start + 7


@pytest.mark.parametrize("part", ["header", "payload", "option:0102:11"])
@pytest.mark.parametrize("kind", OPAQUE)
def test_in_a_ciphertext_one_byte_is_changed_behind_all_that_is_clear(kind, part):
    frame = protected(kind, PACKET)
    found = read(frame)
    changed = difference(flipped_inside(frame, found, part, 3, 0x10), frame)
    inside = [place for place in changed if place >= found.start]
    assert len(inside) == 1
    assert inside[0] >= found.start + (21 if kind == "dtls" else 16)


@pytest.mark.parametrize("kind", CHANNELS)
def test_the_sequence_number_is_moved_far_ahead(kind):
    frame = protected(kind, PACKET, 7)
    moved = read(flipped_inside(frame, read(frame), "sequence", 0, 1))
    assert moved.sequence == 7 + (1 << 40 if kind.startswith("dtls") else 1 << 24)


@pytest.mark.parametrize("attack", ["modify", "other_port", "cross_vni"])
@pytest.mark.parametrize("kind", CHANNELS)
def test_each_change_keeps_lengths_and_addresses_and_makes_checksums_right(kind, attack):
    frame = protected(kind, PACKET, checksum=True)
    changed = altered(frame, read(frame), {"attack": attack, "vni": 200})
    assert difference(changed, frame)
    after = read(changed)
    assert (after.source, after.destination, after.spi, after.sequence) == (
        SOURCE, DESTINATION, read(frame).spi, read(frame).sequence,
    )  # fmt: skip
    if kind.startswith("dtls"):
        assert checksum_is_right(changed)
    if kind in READABLE:
        assert after.packet is not None
        assert checksum_is_right(after.packet.payload)
        assert after.packet.header.vni == (200 if attack == "cross_vni" else 100)


def test_the_datagrams_checksum_inside_a_channel_follows_too():
    frame = protected("ah", PACKET, checksum=True)
    changed = altered(frame, read(frame), {"attack": "modify"})
    after = read(changed)
    assert after.geneve is not None
    start, end = after.geneve
    right = build_datagram(SOURCE, DESTINATION, 50000, changed[start:end])[20:]
    assert changed[start - 8 : end] == right


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_large_enough_packets_of_the_pair(kind):
    target = Target(SOURCE, DESTINATION, 100, len(message()))
    assert target.find(protected(kind, PACKET)) is not None
    assert (target.match(protected(kind, PACKET)) is not None) == (kind == "none")
    assert target.find(protected(kind, geneve(message(60)))) is None
    assert target.find(protected(kind, PACKET, 1, DESTINATION, SOURCE)) is None


@pytest.mark.parametrize("kind", CHANNELS)
def test_the_attacker_on_the_path_acts_on_channels_too(kind):
    sent = []
    attacker = OnPath(lambda port, frame: bool(sent.append((port, frame))) or True)
    target = {"source": SOURCE, "destination": DESTINATION, "vni": 100, "size": len(message())}
    frame = protected(kind, PACKET, 5)
    begin = {"do": "begin", "limit": 1, "target": target}
    attacker.command({**begin, "attack": "flip", "part": "payload", "offset": 100, "mask": 1, "keep": True})
    forged, true = attacker.transform(frame, 0)
    assert (true, attacker.transform(frame, 0)) == (frame, [frame])
    assert difference(forged, frame)
    assert attacker.command({"do": "end"})["security"] == (read(frame).spi, 5)
    attacker.command({**begin, "attack": "hold"})
    assert attacker.transform(frame, 0) == []
    attacker.command({"do": "release"})
    assert sent == [(1, frame)]


def test_what_a_packet_does_not_have_cannot_be_changed():
    frame = protected("ah", geneve(message()))
    for part in ("option:0102:11", "sequence"):
        found = read(frame if part != "sequence" else protected("none", PACKET))
        with pytest.raises(ValueError, match="no "):
            flipped_inside(frame, found, part, 0, 1)

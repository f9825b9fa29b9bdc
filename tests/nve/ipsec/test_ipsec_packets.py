"""Frames through IPsec: what is sealed opens as it was, bytes stand where the RFCs say, keys agree or nothing does."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneve.drops import DropReason
from geneve.header import ETHERTYPE_TEB, GENEVE_PORT
from geneve.inner import parse_inner
from geneve.outer import internet_checksum
from geneve.security.association import SequenceExhaustedError
from geneve.security.open import Burst
from geneve.security.seal import Item
from nve.ipsec.ah import Addresses, Ah
from nve.ipsec.datagrams import Ipv6Checksums
from nve.ipsec.esp import GcmEsp, NullEsp, make_text, read_text
from nve.ipsec.icv import icv
from nve.ipsec.keys import SaKeys, derive_keys
from nve.ipsec.opener import IpsecOpener
from nve.ipsec.sa import InboundSa, OutboundSa
from nve.ipsec.sealer import IpsecSealer
from tests.nve.ipsec.ipsec_support import CHANNELS, KINDS, SPI, Pair, channel, frame, frames_of, profile, secured
from tests.support import FULL, udp_frame

OPTION = b"\x01\x02\x03\x01abcd"
SIZES = {
    ("esp", 4): 8 + 8 + 120 + 16, ("esp-null", 4): 8 + 120 + 16, ("ah", 4): 20 + 28 + 116, ("ah", 6): 40 + 32 + 116,
}  # fmt: skip
"""Bytes sealed of a frame of 100 bytes, 116 with UDP and Geneve and 120 with ESP's trailer; AH with the IP header."""



@pytest.mark.parametrize(("name", "version"), KINDS)
@given(st.lists(st.integers(42, 400), min_size=1, max_size=20), st.booleans())
@settings(max_examples=25, deadline=None)
def test_what_is_sealed_opens_as_it_was_one_by_one_and_in_one_piece(name, version, sizes, telling):
    frames = [frame(size, index) for index, size in enumerate(sizes)]
    alone, together = Pair(name, version), Pair(name, version)
    options = (OPTION,) if telling else ()
    packets = alone.seal(*frames, options=options)
    assert frames_of(alone.open(*packets)) == frames
    alike = [frame(sizes[0], index) for index in range(len(sizes))] + [frame(max(42, sizes[0] - 1))]
    made = together.seal(*alike, options=options)
    results = together.open_burst(b"".join(made), len(made[0]))
    assert frames_of(results) == alike
    for burst in results:
        assert burst.opened.association is together.end
        assert burst.opened.header.vni == 100
        assert burst.opened.kinds == (frozenset({(0x0102, 3)}) if telling else frozenset())


@pytest.mark.parametrize(("name", "version"), KINDS)
def test_options_that_differ_from_packet_to_packet_stay_with_their_frames(name, version):
    pair = Pair(name, version)
    options = [((b"\x01\x02\x03\x01" + bytes([n]) * 4),) for n in range(6)]
    packets = pair.sealer.seal_burst([frame(mark=n) for n in range(6)], parse_inner(frame()), options)
    for n, (burst,) in enumerate(pair.open_burst(packet, len(packet)) for packet in packets):
        assert burst.frames == [frame(mark=n)]
        assert [option.data for option in burst.opened.options()] == [bytes([n]) * 4]


@pytest.mark.parametrize(("kind", "size"), SIZES.items())
def test_sizes_on_the_wire(kind, size):
    (packet,) = Pair(*kind).seal(frame(100))
    assert len(packet) == size


def test_the_bytes_of_an_esp_packet_without_encryption():
    pair = Pair("esp-null", at=2**32 + 6)
    (packet,) = pair.seal(frame(101))
    assert packet[:8] == SPI.to_bytes(4, "big") + (7).to_bytes(4, "big")
    text = packet[8:-16]
    assert int.from_bytes(text[:2], "big") >= 49152
    assert int.from_bytes(text[2:4], "big") == GENEVE_PORT
    assert int.from_bytes(text[4:6], "big") == 8 + 8 + 101
    assert text[6:8] == bytes(2), "no checksum over IPv4"
    assert text[8:16] == b"\0\0" + ETHERTYPE_TEB.to_bytes(2, "big") + b"\0\0\x64\0"
    assert text[16:117] == frame(101)
    assert text[117:] == b"\x01\x01\x11", "padding 1, its length, UDP"
    keys = derive_keys(pair.association, CHANNELS["esp-null"])
    assert packet[-16:] == icv(keys.integrity, packet[:-16] + (1).to_bytes(4, "big")), "the high bits are implicit"


def test_the_iv_is_the_whole_number_and_the_text_is_not_to_be_seen():
    (packet,) = Pair("esp", at=2**32 + 6).seal(frame())
    assert packet[4:8] == (7).to_bytes(4, "big")
    assert packet[8:16] == (2**32 + 7).to_bytes(8, "big")
    assert udp_frame()[:12] not in packet


def test_the_bytes_of_an_ah_packet():
    (packet,) = Pair("ah").seal(frame(101))
    assert packet[:12] == b"\x45\0" + len(packet).to_bytes(2, "big") + b"\0\0\x40\0\x40\x33" + packet[10:12]
    assert internet_checksum(packet[:20]) == 0
    assert packet[12:20] == bytes((192, 168, 1, 1, 192, 168, 1, 2))
    assert packet[20:32] == b"\x11\x05\0\0" + SPI.to_bytes(4, "big") + b"\0\0\0\x01"
    assert packet[48 + 16 :] == frame(101)
    (packet,) = Pair("ah", 6).seal(frame(101))
    assert packet[:8] == b"\x60\0\0\0" + (len(packet) - 40).to_bytes(2, "big") + b"\x33\x40"
    assert packet[40:44] == b"\x11\x06\0\0"
    assert packet[68:72] == bytes(4), "AH is a multiple of 8 bytes"


@pytest.mark.parametrize("count", [1, 3, 4, 9])
@pytest.mark.parametrize("size", [8, 9, 1400, 1401])
def test_udp_over_ipv6_has_its_checksum(count, size):
    payloads = [bytes([n * 37 & 255]) * (size - n % 2) for n in range(count)]
    heads = Ipv6Checksums("fd00::1", "fd00::2").heads(50000, payloads)
    both = bytes.fromhex("fd00" + "00" * 13 + "01" + "fd00" + "00" * 13 + "02")
    for head, payload in zip(heads, payloads, strict=True):
        length = 8 + len(payload)
        assert int.from_bytes(head[4:6], "big") == length
        assert head[6:8] != bytes(2)
        total = internet_checksum(both + length.to_bytes(4, "big") + b"\0\0\0\x11" + head + payload)
        assert total in (0, 0xFFFF)


def test_a_checksum_that_is_zero_is_sent_as_all_ones():
    first = Ipv6Checksums("fd00::1", "fd00::2")
    (head,) = first.heads(50000, [bytes(2)])
    (again,) = first.heads(50000, [head[6:8]])
    assert again[6:8] == b"\xff\xff"


def test_each_inner_flow_has_a_source_port_of_its_own():
    pair = Pair("esp-null")
    ports = set()
    for data in range(20):
        inner = dataclasses.replace(parse_inner(frame()), flow=bytes([data]))
        (packet,) = pair.sealer.seal_burst([frame()], inner, [()])
        ports.add(packet[8:10])
    assert len(ports) == 20


# --- published vectors ------------------------------------------------------------------------


def test_gcm_with_extended_sequence_numbers_as_published():
    """draft-mcgrew-gcm-test-01, case 1: its packet has a 64-bit number whose low half is zero."""
    keys = SaKeys(bytes.fromhex("4c80cdefbb5d10da906ac73c3613a634"), bytes.fromhex("2e443b68"))
    text = bytes.fromhex(
        "45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000"
        "00000000045f736970045f756470037369700963796265726369747902646b0000210001" "01020201"
    )  # fmt: skip
    sealed = bytes.fromhex(
        "fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34cfa2436f14a3f3cf65925bf1f4a13c5d"
        "15b21e1884f5ff6247aeabb786b93bce61bc17d768fd9732459018148f6cbe722fd04796562dfdb4"
    )
    packet = bytes.fromhex("00004321" "00000000" "4956ed7e3b244cfe") + sealed  # fmt: skip
    esp = GcmEsp(0x4321, keys, extended=True)
    assert esp.open(packet, 0x8765432100000000) == text
    assert esp.open(packet, 0x8765432200000000) is None
    assert read_text(text) == (1, text[:-4]), "two bytes of padding, and what the draft calls next header 1"


def test_gcm_with_short_sequence_numbers_as_published():
    """draft-mcgrew-gcm-test-01, case 2."""
    keys = SaKeys(bytes.fromhex("feffe9928665731c6d6a8f9467308308"), bytes.fromhex("cafebabe"))
    packet = bytes.fromhex(
        "0000a5f80000000afacedbaddecaf888"
        "deb22cd9b07c72c16e3a65beeb8df304a5a5897d33ae530f1ba76d5d114d2a5c3de81827c10e9a4f51330d0eec416642"
        "cfbb85a5b47e48a4ec3b9ba95d918bd183b70d3aa8bc6ee4c309e9d85a41ad4a"
    )
    text = GcmEsp(0xA5F8, keys, extended=False).open(packet, 10)
    assert text == bytes.fromhex(
        "4500003e698f000080114dccc0a80102c0a801010a980035002a2343b2d00100"
        "0001000000000000037369700963796265726369747902646b0000010001" "0001"
    )  # fmt: skip


def test_hmac_as_published():
    """RFC 4868, section 2.7.2, case AUTH256-1."""
    assert icv(b"\x0b" * 32, b"Hi There").hex() == "198a607eb44bfbc69903a0f1cf2bbdc5"


# --- keys --------------------------------------------------------------------------------------


def test_keys_have_their_sizes_and_are_not_shown():
    keys = derive_keys(secured(), CHANNELS["esp"])
    assert (len(keys.encryption), len(keys.salt), keys.integrity) == (16, 4, b"")
    keys = derive_keys(secured("ah"), CHANNELS["ah"])
    assert (keys.encryption, keys.salt, len(keys.integrity)) == (b"", b"", 32)
    assert repr(keys) == "SaKeys(...)"
    pair = Pair()
    for shown in (pair.end, pair.out, pair.sealer, pair.opener, pair.out.codec):
        assert "key" not in repr(shown).lower()
        assert derive_keys(pair.association, CHANNELS["esp"]).encryption.hex() not in repr(shown)


def test_ends_that_disagree_on_anything_share_no_key():
    base = secured()
    changed = [
        base.model_copy(update=update)
        for update in ({"spi": 7}, {"sender": "nve3"}, {"audience": "nve3"}, {"vni": 5}, {"rule": "r"},
                       {"secret": secured(spi=0x900).secret})
    ]  # fmt: skip
    made = [derive_keys(item, CHANNELS["esp"]) for item in (base, *changed, secured(role="multicast"))]
    made.append(derive_keys(base, CHANNELS["esp-short"]))
    assert len({keys.encryption for keys in made}) == len(made)
    assert len({keys.salt for keys in made}) == len(made)
    names = ("esp-null", "esp-null-short", "ah", "ah-short")
    assert len({derive_keys(base, CHANNELS[name]).integrity for name in names}) == len(names)


def test_what_carries_esp_is_no_part_of_the_keys():
    carried = channel().model_copy(update={"encapsulation": "udp"})
    assert derive_keys(secured(), carried) == derive_keys(secured(), channel())


def test_other_profiles_and_roles_are_refused():
    with pytest.raises(ValueError, match="IPsec"):
        OutboundSa(secured().model_copy(update={"profile": "full"}), FULL)
    with pytest.raises(ValueError, match="transit"):
        InboundSa(secured(role="transit"), profile())
    with pytest.raises(ValueError, match="asks for"):
        InboundSa(secured("ah"), profile())
    with pytest.raises(ValueError, match="one protocol"):
        IpsecOpener([InboundSa(secured(), profile()), InboundSa(secured("ah", spi=0x700), profile("ah"))])
    with pytest.raises(ValueError, match="address family"):
        IpsecSealer(100, OutboundSa(secured(), profile()), "192.168.1.1", "fd00::1", 1500)


# --- limits ------------------------------------------------------------------------------------


def test_at_the_hard_limit_fewer_packets_then_none():
    pair = Pair(soft_limit=3, hard_limit=5)
    assert len(pair.seal(*[frame()] * 3)) == 3
    assert pair.out.wants_rekey
    assert len(pair.seal(*[frame()] * 3)) == 2
    assert pair.seal(frame()) == []
    with pytest.raises(SequenceExhaustedError):
        pair.sealer.seal([Item(frame())])
    with pytest.raises(SequenceExhaustedError):
        pair.sealer.seal_dummy(100)
    assert pair.out.last_sequence == 5


@pytest.mark.parametrize("name", ["esp-short", "esp-null-short", "ah-short"])
def test_without_extended_numbers_the_counter_never_cycles(name):
    pair = Pair(name, at=2**32 - 3)
    packets = pair.seal(*[frame(mark=n) for n in range(5)])
    assert [pair.number(packet) for packet in packets] == [2**32 - 2, 2**32 - 1]
    assert pair.out.wants_rekey
    assert frames_of(pair.open(*packets)) == [frame(mark=0), frame(mark=1)]


@pytest.mark.parametrize(("name", "version"), [kind for kind in KINDS if "short" not in kind[0]])
def test_extended_numbers_go_on_past_the_wrap(name, version):
    pair = Pair(name, version, at=2**32 - 5)
    frames = [frame(mark=n) for n in range(8)]
    packets = pair.seal(*frames)
    assert [pair.number(packet) for packet in packets] == [*range(2**32 - 4, 2**32), 0, 1, 2, 3]
    late, packets = packets[2], packets[:2] + packets[3:]
    assert frames_of(pair.open(*packets)) == frames[:2] + frames[3:]
    assert frames_of(pair.open(late)) == [frames[2]], "late over the wrap, and still in the window"
    assert pair.open(late) == [DropReason.REPLAYED]


@pytest.mark.parametrize(("name", "version"), KINDS)
def test_items_for_a_group_open_at_its_members(name, version):
    pair = Pair(name, version)
    made = secured(name, version, spi=0x900, role="multicast")
    sealer = IpsecSealer(100, OutboundSa(made, pair.profile), *pair.addresses, 1500)
    items = [Item(frame(60 + n, n), (OPTION,), parse_inner(frame())) for n in range(5)]
    for _ in range(2):
        packets = sealer.seal(items)
        member = IpsecOpener([InboundSa(made, pair.profile)])
        opened = [r for p in packets for r in member.open_burst(p, len(p), pair.source)]
        assert frames_of(opened) == [item.frame for item in items]
    assert sealer.seal([]) == []


def test_options_need_room_in_geneve_only():
    pair = Pair()
    big = b"\x01\x02\x03\x1f" + bytes(124)
    pair.sealer.check_room([big])
    with pytest.raises(ValueError, match="252"):
        pair.sealer.check_room([big, big])


# --- the codec alone ---------------------------------------------------------------------------


@given(st.binary(max_size=80), st.integers(0, 255), st.integers(0, 40), st.integers(1, 2**64 - 1), st.booleans())
def test_any_payload_of_any_protocol(payload, next_header, padding, number, extended):
    number = number if extended else number & 0xFFFFFFFF
    for esp in (GcmEsp(5, SaKeys(bytes(16), bytes(4)), extended), NullEsp(5, SaKeys(integrity=bytes(32)), extended)):
        packet = esp.seal(number, payload, next_header, padding)
        assert len(packet) % 4 == 0
        text = esp.open(packet, number)
        assert text == make_text(payload, next_header, padding)
        assert read_text(text) == (next_header, payload + bytes(padding))
        assert esp.open(packet, number ^ (1 << 40)) is (None if extended else text) or not extended
    for version in ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2"):
        ah = Ah(5, SaKeys(integrity=bytes(32)), extended)
        packet = ah.seal(number, payload, next_header, Addresses(*version))
        assert ah.unpack(ah.open(packet, number)) == (next_header, payload)


@pytest.mark.parametrize("text", [
    b"\x01\x03\x02\x11", b"\x02\x01\x11", b"\x01\x01\xff\x11", b"\x05\x11",
])  # fmt: skip
def test_padding_that_is_not_1_2_3_is_refused(text):
    assert read_text(text) is None


def test_padding_of_up_to_255_bytes_is_accepted():
    text = b"abc" + bytes(range(1, 256)) + b"\xff\x11"
    assert read_text(text) == (17, b"abc")


def test_a_burst_says_as_much_as_a_packet():
    pair = Pair()
    (burst,) = pair.open_burst(b"".join(pair.seal(*[frame()] * 10, frame(50))), len(Pair().seal(frame())[0]))
    assert isinstance(burst, Burst)
    assert burst.frames == [frame()] * 10 + [frame(50)]

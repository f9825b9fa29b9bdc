"""What the opener refuses and why: replays, changed bits, wrong senders, wrong contents; and what it remembers."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneve.control.channel import ChannelProtocol
from geneve.control.profile import Dummies, DummyMode, Padding, PaddingMode
from geneve.drops import DropReason
from geneve.inner import parse_inner
from geneve.security.limiter import PLAUSIBLE_AHEAD
from geneve.security.open import Burst
from geneve.security.seal import Item
from nve.datagrams import Received
from nve.dataplane import Dataplane
from nve.ipsec.ah import Addresses
from nve.ipsec.esp import NEXT_NONE, NEXT_UDP, make_text
from nve.ipsec.opener import IpsecOpener
from nve.ipsec.sa import InboundSa, OutboundSa, infer
from nve.ipsec.sealer import IpsecSealer
from tests.geneve.make_vectors import PROFILES, associations, make_sealer
from tests.nve.ipsec.ipsec_support import CHANNELS, KINDS, SPI, Pair, frame, frames_of, secured
from tests.support import node_state

MUTABLE = {  # bytes of the IP header that routers may change, and bits of them (RFC 4302, section 3.3.3.1)
    4: {1: 0xFF, 6: 0xFF, 7: 0xFF, 8: 0xFF, 10: 0xFF, 11: 0xFF},
    6: {0: 0x0F, 1: 0xFF, 2: 0xFF, 3: 0xFF, 7: 0xFF},
}


# --- replay and extended sequence numbers -----------------------------------------------------


def reference(low: int, top: int, window: int) -> int:
    """RFC 4303, Appendix A2.2, word by word; before the first subspace there is none."""
    high, top_low = top >> 32, top & 0xFFFFFFFF
    if top_low >= window - 1:  # case A
        high = high if low >= top_low - (window - 1) else high + 1
    elif low >= (top_low - (window - 1)) % 2**32:  # case B
        high = max(high - 1, 0)
    return high << 32 | low


near = st.integers(-3000, 3000)


@given(st.integers(0, 2**17), near, st.sampled_from([64, 128, 1024, 65536]), near)
def test_high_bits_are_inferred_as_the_appendix_does(wraps, offset, window, step):
    top = max(0, (wraps << 32) + offset)
    for low in ((top + step) & 0xFFFFFFFF, (top + step * 0x3FFFF) & 0xFFFFFFFF):
        assert infer(low, top, window) == reference(low, top, window)


@given(st.integers(0, 2**48), st.sampled_from([64, 1024, 65536]), st.data())
def test_every_number_from_the_window_to_nearly_a_wrap_ahead_is_inferred(top, window, data):
    number = data.draw(st.integers(max(0, top - window + 1), max(0, top - window + 1) + 2**32 - 1))
    assert infer(number & 0xFFFFFFFF, top, window) == number


@pytest.mark.parametrize(("name", "version"), KINDS)
@given(st.data())
@settings(max_examples=25, deadline=None)
def test_the_window_agrees_with_a_set(name, version, data):
    """Packets in any order, some twice, over the wrap where numbers are long; alone and in bursts of one size."""
    start = 2**32 - 60 if "short" not in name else 0
    pair = Pair(name, version, at=start, replay_window=64)
    packets = pair.seal(*[frame(mark=n) for n in range(150)])
    seen, highest = set(), -1
    for _ in range(data.draw(st.integers(1, 12))):
        first = data.draw(st.integers(0, 149))
        ahead, apart = list(range(first, min(150, first + 10))), list(range(first, 150, 7))
        chosen = data.draw(st.sampled_from([[first], ahead, apart, [first, first, first - 1] * 3]))
        expected = []
        for index in chosen:
            index %= 150
            if index in seen and index > highest - 64:
                expected.append(DropReason.REPLAYED)
            elif index <= highest - 64:
                # Just behind the window looks like a wrap ahead with long numbers: then it is the ICV that fails.
                expected.append(DropReason.BEHIND_WINDOW if "short" in name else DropReason.AUTHENTICATION_FAILED)
            else:
                expected.append(frame(mark=index))
                seen.add(index)
                highest = max(highest, index)
        buffer = b"".join(packets[index % 150] for index in chosen)
        results = pair.open_burst(buffer, len(packets[0]))
        got = [item for r in results for item in (r.frames if isinstance(r, Burst) else [r])]
        # Behind the window the limiter may come first, once it has seen enough.
        limited = [DropReason.AUTHENTICATION_LIMITED, DropReason.AUTHENTICATION_FAILED]
        pairs = zip(got, expected, strict=True)
        assert all(one == two or (two is limited[1] and one in limited) for one, two in pairs)


def test_a_forgery_far_ahead_moves_nothing_and_is_limited():
    pair = Pair("esp-short")
    first, second = pair.seal(frame(), frame())
    assert frames_of(pair.open(first)) == [frame()]
    far = (PLAUSIBLE_AHEAD + 10).to_bytes(4, "big")
    forged = second[:4] + far + second[8:]
    results = pair.open(*[forged] * 150)
    assert results[:100] == [DropReason.AUTHENTICATION_FAILED] * 100
    assert results[101:] == [DropReason.AUTHENTICATION_LIMITED] * 49
    assert pair.end.window.highest == 1
    assert frames_of(pair.open(second)) == [frame()], "and no forgery keeps a true packet away"


# --- tampering --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "version"), KINDS)
def test_every_bit_counts_but_those_that_routers_may_change(name, version):
    pair = Pair(name, version)
    (packet,) = pair.seal(frame(60))
    whole = pair.profile.channel.protocol is ChannelProtocol.AH
    mutable = MUTABLE[version] if whole else {}
    for at in range(len(packet)):
        for bit in range(8):
            changed = bytearray(packet)
            changed[at] ^= 1 << bit
            before = copy.deepcopy(pair.end.window.__reduce_ex__(2)[2])
            (result,) = pair.open(bytes(changed))
            free = bool(mutable.get(at, 0) >> bit & 1)
            if free and version == 4 and at in (6, 7):
                free = not (changed[6] & 0x3F or changed[7])  # a fragment is put together first
            if free:
                assert isinstance(result, Burst)
                pair.opener = IpsecOpener([InboundSa(pair.association, pair.profile)])
                pair.end = next(iter(pair.opener._ends.values()))
                continue
            assert isinstance(result, DropReason), (at, bit)
            assert pair.end.window.__reduce_ex__(2)[2] == before, "nothing changes before the ICV has verified"
    assert frames_of(pair.open(packet)) == [frame(60)]


@pytest.mark.parametrize(("name", "version"), KINDS)
@given(st.data())
@settings(max_examples=20, deadline=None)
def test_in_a_burst_the_changed_packets_are_refused_and_no_others(name, version, data):
    pair = Pair(name, version)
    frames = [frame(80, n) for n in range(10)]
    packets = pair.seal(*frames)
    bad = data.draw(st.sets(st.integers(0, 9)))
    size = len(packets[0])
    for index in bad:
        at = data.draw(st.integers(size - 40, size - 1))
        changed = bytearray(packets[index])
        changed[at] ^= 1 << data.draw(st.integers(0, 7))
        packets[index] = bytes(changed)
    results = pair.open_burst(b"".join(packets), size)
    got = [item for r in results for item in (r.frames if isinstance(r, Burst) else [r])]
    wrong = DropReason.AUTHENTICATION_FAILED
    assert got == [wrong if index in bad else frames[index] for index in range(10)]
    assert pair.end.window.highest == max(set(range(1, 11)) - {index + 1 for index in bad}, default=0)


@pytest.mark.parametrize(("name", "version"), KINDS)
def test_cut_or_longer_packets_are_refused(name, version):
    pair = Pair(name, version)
    (packet,) = pair.seal(frame(60))
    for size in range(len(packet)):
        assert isinstance(pair.open_burst(packet[:size], max(1, size))[0], DropReason)
    for more in range(1, 9):
        assert isinstance(pair.open(packet + bytes(more))[0], DropReason)
    assert frames_of(pair.open(packet)) == [frame(60)]


# --- whose packet it is -----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "version"), KINDS)
def test_another_outer_source_or_spi_is_refused(name, version):
    pair = Pair(name, version)
    packets = pair.seal(*[frame()] * 6)
    size = len(packets[0])
    other = pair.source[:-1] + b"\x63"
    buffer = b"".join(packets)
    assert pair.opener.open_burst(buffer, size, other, 0.0) == [DropReason.SOURCE_MISMATCH] * 6
    protocol = pair.profile.channel.protocol
    assert IpsecOpener([], protocol=protocol).open_burst(buffer, size, pair.source) == [DropReason.UNKNOWN_SPI] * 6
    late = IpsecOpener([], [SPI], protocol)
    assert late.open_burst(packets[0], size, pair.source) == [DropReason.ASSOCIATION_EXPIRED]
    assert frames_of(pair.open_burst(buffer, size)) == [frame()] * 6


def test_the_source_in_an_ah_packet_is_the_one_it_came_from():
    pair = Pair("ah")
    (packet,) = pair.seal(frame())
    lying = packet[:15] + b"\x63" + packet[16:]
    assert pair.open(lying) == [DropReason.SOURCE_MISMATCH]


def test_bursts_of_several_associations_are_taken_apart():
    one = Pair()
    other = secured(spi=0x2000)
    sealer = IpsecSealer(200, OutboundSa(other, one.profile), *one.addresses, 1500)
    both = IpsecOpener([one.end, InboundSa(other, one.profile)])
    theirs = sealer.seal_burst([frame(mark=n) for n in range(5)], parse_inner(frame()), [()] * 5)
    mine = one.seal(*[frame(mark=n) for n in range(5)])
    mixed = [packet for two in zip(mine, theirs, strict=True) for packet in two]
    results = both.open_burst(b"".join(mixed), len(mine[0]), one.source, 0.0)
    assert [(r.opened.header.vni, r.opened.association.spi, r.frames) for r in results] == [
        (vni, spi, [frame(mark=n)]) for n in range(5) for vni, spi in ((100, SPI), (200, 0x2000))
    ]


# --- what is inside ---------------------------------------------------------------------------


def carry(pair: Pair, *payloads: bytes, next_header: int = NEXT_UDP) -> list[bytes]:
    """Seal what a sealer of ours would not."""
    first = pair.out.reserve(len(payloads))
    if pair.profile.channel.protocol is ChannelProtocol.AH:
        return pair.out.codec.seal_all(first, payloads, next_header, Addresses(*pair.addresses))
    return pair.out.codec.seal_all(first, payloads, next_header)


def datagram(geneve: bytes, port: int = 6081, length: int | None = None) -> bytes:
    size = 8 + len(geneve) if length is None else length
    return b"\xc0\x00" + port.to_bytes(2, "big") + size.to_bytes(2, "big") + bytes(2) + geneve


GENEVE = bytes.fromhex("0000655800006400") + frame()
WRONG = [
    (datagram(GENEVE, port=53), NEXT_UDP, DropReason.UNSUPPORTED_PROTOCOL),
    (datagram(GENEVE, length=len(GENEVE) + 9), NEXT_UDP, DropReason.MALFORMED),
    (datagram(GENEVE, length=7), NEXT_UDP, DropReason.MALFORMED),
    (datagram(b""), NEXT_UDP, DropReason.MALFORMED),
    (b"\0" * 7, NEXT_UDP, DropReason.MALFORMED),
    (datagram(GENEVE), 4, DropReason.UNSUPPORTED_PROTOCOL),
    (datagram(GENEVE), 6, DropReason.UNSUPPORTED_PROTOCOL),
    (datagram(b"\x40" + GENEVE[1:]), NEXT_UDP, DropReason.UNSUPPORTED_VERSION),
    (datagram(GENEVE[:3] + b"\x00" + GENEVE[4:]), NEXT_UDP, DropReason.UNSUPPORTED_PROTOCOL),
]


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize(("payload", "next_header", "reason"), WRONG)
def test_what_is_not_geneve_is_refused_once_and_then_as_a_replay(name, count, payload, next_header, reason):
    pair = Pair(name)
    packets = carry(pair, *[payload] * count, next_header=next_header)
    buffer = b"".join(packets)
    assert pair.open_burst(buffer, len(packets[0])) == [reason] * count
    assert pair.open_burst(buffer, len(packets[0])) == [DropReason.REPLAYED] * count


@pytest.mark.parametrize("name", CHANNELS)
def test_in_a_burst_one_of_another_protocol_is_refused_though_it_looks_the_same(name):
    pair = Pair(name)
    good = datagram(GENEVE)
    packets = carry(pair, *[good] * 5) + carry(pair, good, next_header=4) + carry(pair, good)
    results = pair.open_burst(b"".join(packets), len(packets[0]))
    counts = [r if isinstance(r, DropReason) else len(r.frames) for r in results]
    assert counts == [5, DropReason.UNSUPPORTED_PROTOCOL, 1]


def test_in_a_burst_wrong_padding_is_refused_though_its_length_is_right():
    pair = Pair()
    payload = datagram(GENEVE + b"x")
    texts = [make_text(payload, NEXT_UDP)] * 5
    assert texts[0][len(payload) :] == b"\x01\x01\x11"
    packets = pair.out.codec.seal_texts(pair.out.reserve(6), [*texts, payload + b"\x07\x01\x11"])
    results = pair.open_burst(b"".join(packets), len(packets[0]))
    assert [r if isinstance(r, DropReason) else len(r.frames) for r in results] == [5, DropReason.MALFORMED]


def test_wrong_padding_behind_a_right_icv_is_malformed():
    pair = Pair()
    (packet,) = pair.out.codec.seal_texts(pair.out.reserve(1), [datagram(GENEVE) + b"\x01\x03\x02\x11"])
    assert pair.open(packet) == [DropReason.MALFORMED]
    assert pair.open(packet) == [DropReason.REPLAYED]


@pytest.mark.parametrize("name", CHANNELS)
def test_security_options_inside_are_for_nobody_here(name):
    made = PROFILES["full"][1][0][1]
    held = associations(made, "full")
    (inner,) = make_sealer(made, held[:1]).seal([Item(frame())])
    pair = Pair(name)
    assert pair.open(*carry(pair, datagram(inner))) == [DropReason.UNKNOWN_SPI]


def test_headers_in_front_of_ah_that_it_does_not_know_are_refused_by_name():
    (packet,) = Pair("ah").seal(frame())
    options = b"\x46" + packet[1:2] + (len(packet) + 4).to_bytes(2, "big") + packet[4:20] + b"\x01\x01\x01\x00"
    pair = Pair("ah")
    assert pair.open(options + packet[20:]) == [DropReason.UNSUPPORTED_PROTOCOL]
    assert pair.open(packet[:9] + b"\x11" + packet[10:]) == [DropReason.UNSUPPORTED_PROTOCOL]
    assert pair.open(packet[:6] + b"\x20\x00" + packet[8:]) == [DropReason.MALFORMED]
    assert pair.open(packet[:21] + b"\x04" + packet[22:]) == [DropReason.MALFORMED]
    six = Pair("ah", 6)
    (packet,) = six.seal(frame())
    hop_by_hop = packet[:4] + (len(packet) - 32).to_bytes(2, "big") + b"\x00" + packet[7:40] + b"\x33\0\1\4\0\0\0\0"
    assert six.open(hop_by_hop + packet[40:]) == [DropReason.UNSUPPORTED_PROTOCOL]


@pytest.mark.parametrize("version", [4, 6])
def test_what_routers_change_does_not_matter_to_ah_in_a_burst_either(version):
    pair = Pair("ah", version)
    frames = [frame(mark=n) for n in range(8)]
    packets = [bytearray(packet) for packet in pair.seal(*frames)]
    for number, packet in enumerate(packets):
        for at, mask in MUTABLE[version].items():
            if (version, at) not in ((4, 6), (4, 7)):
                packet[at] ^= (number * 37 + 1) & mask
        if version == 4:
            packet[6] = 0x40 * (number & 1)
    assert frames_of(pair.open_burst(b"".join(packets), len(packets[0]))) == frames


# --- padding and dummies ----------------------------------------------------------------------

PADDINGS = [
    Padding(mode=PaddingMode.MULTIPLE, multiple=256),
    Padding(mode=PaddingMode.BUCKETS, buckets=(128, 512)),
    Padding(mode=PaddingMode.MTU),
    Padding(mode=PaddingMode.RANDOM, most=200),
]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("padding", PADDINGS, ids=lambda padding: padding.mode.value)
@given(st.lists(st.integers(42, 700), min_size=1, max_size=8))
@settings(max_examples=20, deadline=None)
def test_padded_packets_open_as_what_they_were(version, padding, sizes):
    pair = Pair("esp", version, largest=800, padding=padding)
    frames = [frame(size, n) for n, size in enumerate(sizes)]
    packets = pair.seal(*frames)
    assert frames_of(pair.open(*packets)) == frames
    around = 8 + 8 + 16 + 8 + 2  # SPI, number, IV, ICV, UDP, pad length, next header
    carried = [len(packet) - around for packet in packets]  # with 0 to 3 bytes of alignment
    if padding.mode is PaddingMode.MULTIPLE:
        assert all(min((size + 8 + 255) // 256 * 256, 800) <= c < min((size + 8 + 255) // 256 * 256, 800) + 4
                   for size, c in zip(sizes, carried, strict=True))  # fmt: skip
    elif padding.mode is PaddingMode.MTU:
        assert len(set(carried)) == 1
    elif padding.mode is PaddingMode.BUCKETS:
        assert {c // 4 * 4 for c in carried} <= {128, 512, 800}


def test_padded_packets_of_one_size_in_one_piece_keep_their_own_lengths():
    pair = Pair(largest=800, padding=PADDINGS[2])
    frames = [frame(60 + n, n) for n in range(9)]
    packets = pair.seal(*frames)
    assert len({len(packet) for packet in packets}) == 1
    assert frames_of(pair.open_burst(b"".join(packets), len(packets[0]))) == frames


@pytest.mark.parametrize("padding", [None, *PADDINGS[:3]])
@given(size=st.integers(42, 1490))
@settings(max_examples=30, deadline=None)
def test_a_dummy_is_as_large_as_a_frame_and_is_opened_as_one(padding, size):
    dummies = Dummies(mode=DummyMode.POISSON, rate=1.0)
    option = b"\x01\x02\x03\x01abcd"
    pair = Pair(padding=padding, dummies=dummies, largest=1506)
    (packet,) = pair.seal(frame(size), options=(option,))
    dummy = pair.sealer.seal_dummy(size, (option,))
    assert len(dummy) == len(packet)
    (result,) = pair.open(dummy)
    assert result.opened.dummy
    assert result.opened.association is pair.end
    assert not result.opened.packet
    assert pair.open(dummy) == [DropReason.REPLAYED]


def test_dummies_between_data_come_in_order():
    pair = Pair(dummies=Dummies(mode=DummyMode.POISSON, rate=1.0))
    packets = [*pair.seal(frame(), frame()), pair.sealer.seal_dummy(100), *pair.seal(frame()), *carry(
        pair, bytes(116), next_header=NEXT_NONE)]  # fmt: skip
    results = pair.open_burst(b"".join(packets), len(packets[0]))
    assert [r.opened.dummy for r in results] == [False, True, False, True]
    assert frames_of(results[:1]) == [frame()] * 2


def test_ah_has_no_dummies():
    with pytest.raises(ValueError, match="no dummy"):
        Pair("ah").sealer.seal_dummy(100)


def test_the_data_plane_counts_dummies_and_delivers_nothing():
    pair = Pair(dummies=Dummies(mode=DummyMode.POISSON, rate=1.0))
    nve = Dataplane("nve2", bytes(32))
    nve.apply(node_state("nve2"))
    nve._applied.opener = pair.opener
    assert nve.from_underlay([Received(pair.sealer.seal_dummy(100), pair.source)]) == []
    assert nve.counters["dummies_received"] == 1
    assert not nve.drops


# --- anything ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_no_bytes_make_it_raise(version, data):
    pair = Pair(data.draw(st.sampled_from(sorted(CHANNELS))), version)
    base = b"".join(pair.seal(*[frame(60)] * 5))
    packet = bytearray(base[: data.draw(st.integers(0, len(base)))] + data.draw(st.binary(max_size=30)))
    for _ in range(data.draw(st.integers(0, 4))):
        if packet:
            packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    size = data.draw(st.one_of(st.just(len(base) // 5), st.integers(1, 200)))
    for result in pair.open_burst(bytes(packet), size):
        assert isinstance(result, (Burst, DropReason))

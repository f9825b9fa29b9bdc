"""Cutting and merging of tenants' frames: what a wire would have seen, neither more nor less."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from geneve.inner import parse_inner
from geneve.vnet import GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP, NEEDS_CHECKSUM, PLAIN, VnetHeader
from nve.merging import merge
from nve.segmentation import Frame, OffloadedFrame, finish_all, finish_checksum, segment

MACS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}


def network_header(version: int, vlan: bool = False, identification: int = 7, **more: int) -> Packet:
    ether = Ether(**MACS) / Dot1Q(vlan=5) if vlan else Ether(**MACS)
    if version == 4:
        return ether / IP(src="10.0.0.1", dst="10.0.0.2", id=identification, flags="DF", **more)
    return ether / IPv6(src="2001:db8::1", dst="2001:db8::2", **more)


def offloaded(packet: Packet, size: int, ecn: bool = False) -> tuple[OffloadedFrame, int]:
    """Return what the kernel would hand over for ``packet``, and where its IP header starts."""
    plain = bytes(packet)
    network = 18 if Dot1Q in packet else 14
    transport = plain.index(bytes(packet[TCP] if TCP in packet else packet[UDP])[:8], network)
    offset = 16 if TCP in packet else 6
    addresses = plain[network + 12 : network + 20] if IP in packet else plain[network + 8 : network + 40]
    length = len(plain) - transport
    total = sum(struct.unpack(f"!{len(addresses) // 2}H", addresses)) + (6 if TCP in packet else 17) + length
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    at = transport + offset
    frame = plain[:at] + struct.pack("!H", total) + plain[at + 2 :]
    kind = (GSO_TCPV4 if IP in packet else GSO_TCPV6) if TCP in packet else GSO_UDP
    header = VnetHeader(NEEDS_CHECKSUM, kind | (GSO_ECN if ecn else 0), transport, size, transport, offset)
    return OffloadedFrame(header, frame), network


def as_wire(frame: Frame) -> list[bytes]:
    if isinstance(frame, bytes):
        return [frame]
    cut = segment(frame, parse_inner(frame.frame))
    assert cut is not None
    return [bytes(piece) for piece in cut]


def rebuilt(frame: bytes) -> bytes:
    """Return a frame as Scapy makes it, with every length and checksum worked out by Scapy."""
    packet = Ether(frame)
    layer: Packet | None = packet
    while layer is not None and not isinstance(layer, Raw):
        for name in ("len", "plen", "chksum"):
            if name in layer.fields:
                setattr(layer, name, None)
        layer = layer.payload if layer.payload else None
    return bytes(packet)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("vlan", [False, True])
@pytest.mark.parametrize("size", [1, 7, 100, 1448])
@pytest.mark.parametrize("extra", [0, 1, 3])
def test_tcp_is_cut_as_a_wire_would_see_it(version: int, vlan: bool, size: int, extra: int) -> None:
    data = bytes(range(256)) * 24
    data = data[: min(len(data), size * 20) // size * size + min(extra, size - 1)]
    options = [("Timestamp", (1, 2)), ("NOP", None), ("NOP", None)]
    tcp = TCP(sport=50001, dport=50002, seq=2**32 - size - 5, ack=9, flags="FPACE", window=77, options=options)
    packet = network_header(version, vlan, 0xFFFE) / tcp / Raw(data)
    frame, _ = offloaded(packet, size)
    pieces = as_wire(frame)
    assert len(pieces) == -(-len(data) // size)
    place = 0
    for number, piece in enumerate(pieces):
        assert piece == rebuilt(piece), "lengths and checksums"
        made = Ether(piece)
        assert made[TCP].seq == (2**32 - size - 5 + place) % 2**32
        assert bytes(made[TCP].payload) == data[place : place + size]
        last = number == len(pieces) - 1
        assert ("F" in made[TCP].flags, "P" in made[TCP].flags) == (last, last)
        assert ("C" in made[TCP].flags) == (number == 0)
        assert "E" in made[TCP].flags
        assert made[TCP].options == options
        if version == 4:
            assert made[IP].id == (0xFFFE + number) % 65536
        place += size


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("size", "total"), [(64, 640), (63, 640), (1, 9), (1200, 4000)])
def test_udp_is_cut_into_datagrams(version: int, size: int, total: int) -> None:
    data = bytes(i * 7 & 0xFF for i in range(total))
    frame, _ = offloaded(network_header(version) / UDP(sport=50001, dport=50002) / Raw(data), size)
    pieces = as_wire(frame)
    assert b"".join(bytes(Ether(piece)[UDP].payload) for piece in pieces) == data
    for piece in pieces:
        assert piece == rebuilt(piece)


def test_behind_ip_options_and_extension_headers() -> None:
    tcp = TCP(sport=50001, dport=50002, flags="A") / Raw(bytes(range(200)))
    frame, _ = offloaded(Ether(**MACS) / IP(src="10.0.0.1", dst="10.0.0.2", options=[b"\x01" * 4]) / tcp, 60)
    assert all(piece == rebuilt(piece) for piece in as_wire(frame))
    extended = Ether(**MACS) / IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrDestOpt() / tcp
    frame, _ = offloaded(extended, 60)
    assert all(piece == rebuilt(piece) for piece in as_wire(frame))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [0, 1, 30, 700, 1401])
@pytest.mark.parametrize("transport", [TCP(sport=50001, dport=50002), UDP(sport=50001, dport=50002)])
def test_a_checksum_left_to_a_device_is_filled_in(version: int, size: int, transport: Packet) -> None:
    packet = network_header(version) / transport / Raw(bytes(i * 11 & 0xFF for i in range(size)))
    frame, _ = offloaded(packet, 0)
    whole = finish_checksum(frame.header._replace(gso_type=0), frame.frame)
    assert whole == bytes(packet) == rebuilt(bytes(packet))
    assert finish_checksum(PLAIN, frame.frame) == frame.frame, "not asked for"


UNFINISHED = st.builds(
    VnetHeader, st.sampled_from([0, 1, 1, 1, 3]), st.sampled_from([0, 0, 0, GSO_UDP, GSO_TCPV4]), st.just(0),
    st.just(30), st.sampled_from([34, 34, 33, 0, 54]), st.sampled_from([6, 16, 90]),
)  # fmt: skip


@given(st.data())
@settings(deadline=None)
def test_frames_finished_together_are_those_finished_one_by_one(data: st.DataObject) -> None:
    frames: list[Frame] = []
    for _ in range(data.draw(st.integers(0, 4))):
        header, size = data.draw(UNFINISHED), data.draw(st.integers(14, 120))
        for number in range(data.draw(st.sampled_from([1, 3, 15, 16, 17, 40]))):
            body = bytes((number * 31 + place * 7) & 0xFF for place in range(size))
            whole = data.draw(st.sampled_from([False] * 30 + [True]))
            frames.append(body if whole else OffloadedFrame(header, body))
    assert list(finish_all(frames)) == [finished for frame in frames for finished in finish_all([frame])]


def test_a_run_of_frames_that_lack_only_their_checksum_is_finished_at_once() -> None:
    packets = [bytes(network_header(4) / UDP(sport=50001, dport=50002) / Raw(bytes([n] * 700))) for n in range(40)]
    frames = [offloaded(Ether(packet), 0)[0] for packet in packets]
    frames = [frame._replace(header=frame.header._replace(gso_type=0)) for frame in frames]
    assert finish_all(frames) == packets
    header = VnetHeader(NEEDS_CHECKSUM, 0, 0, 0, 34, 6)
    zero = bytes(40) + b"\xff\xff" + bytes(40)
    finished = bytes(zero)
    assert finish_all([OffloadedFrame(header, zero)] * 20) == [finished] * 20, "a sum of zero, which UDP must not say"
    assert finish_all(frames[:3]) == packets[:3]


@given(st.binary(min_size=14, max_size=120), st.tuples(*[st.integers(0, 255)] * 2, *[st.integers(0, 200)] * 4))
@settings(max_examples=300, deadline=None)
def test_nonsense_is_refused_and_never_an_error(frame: bytes, fields: tuple[int, ...]) -> None:
    item = OffloadedFrame(VnetHeader(*fields), frame)
    pieces = segment(item, parse_inner(frame))
    assert pieces is None or all(len(piece) <= len(frame) for piece in pieces)


def stream(version: int, kind: str, size: int, count: int, last: int, start: int = 65530) -> list[bytes]:
    """Return the frames of ``count`` segments of one flow, the last of ``last`` bytes."""
    total = size * (count - 1) + last
    data = bytes(i * 13 + (i >> 8) & 0xFF for i in range(total))
    tcp = TCP(sport=50001, dport=50002, seq=2**32 - 3 * size, ack=3, flags="PA")
    transport = tcp if kind == "tcp" else UDP(sport=50001, dport=50002)
    frame, _ = offloaded(network_header(version, identification=start) / transport / Raw(data), size)
    return as_wire(frame)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize(("size", "last"), [(1400, 1400), (1400, 1), (33, 32), (64, 64)])
def test_a_whole_run_becomes_one_frame(version: int, kind: str, size: int, last: int) -> None:
    frames = stream(version, kind, size, 20, last)
    ((merged, count),) = merge(frames)
    assert count == 20
    assert isinstance(merged, OffloadedFrame)
    assert as_wire(merged) == frames
    assert (merged.header.gso_size, merged.header.flags) == (size, NEEDS_CHECKSUM)


def test_no_more_is_merged_than_a_packet_can_hold() -> None:
    frames = stream(4, "udp", 1000, 60, 1000)
    more = frames + stream(4, "udp", 1000, 60, 1000, start=65530 + 60 - 65536)
    merged = merge(more)
    assert [piece for frame, _ in merged for piece in as_wire(frame)] == more
    assert all(len(frame.frame) <= 65535 + 14 for frame, _ in merged if isinstance(frame, OffloadedFrame))
    assert len(merged) == 2


EDIT = st.tuples(st.sampled_from(["flip", "drop", "swap", "repeat"]), st.integers(0, 11), st.integers(0, 639))


@given(
    st.sampled_from([4, 6]), st.sampled_from(["tcp", "udp"]), st.sampled_from([(40, 40), (40, 7), (41, 41), (41, 3)]),
    st.lists(EDIT),
)  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_whatever_comes_leaves_as_it_came(
    version: int, kind: str, sizes: tuple[int, int], edits: list[tuple[str, int, int]]
) -> None:
    frames = stream(version, kind, sizes[0], 12, sizes[1])
    for what, place, bit in edits:
        if not frames:
            break
        place %= len(frames)
        if what == "flip":
            changed = bytearray(frames[place])
            changed[bit // 8 % len(changed)] ^= 1 << bit % 8
            frames[place] = bytes(changed)
        elif what == "drop":
            del frames[place]
        elif what == "swap":
            frames[place], frames[0] = frames[0], frames[place]
        else:
            frames.insert(place, frames[place])
    merged = merge(frames)
    assert sum(count for _, count in merged) == len(frames)
    assert [piece for frame, _ in merged for piece in as_wire(frame)] == frames


@pytest.mark.parametrize("flags", ["S", "P", "R", "U", "E", "C"])
def test_segments_that_say_something_of_their_own_stay_alone(flags: str) -> None:
    tcp = TCP(sport=50001, dport=50002, seq=5, flags="A" + flags)
    frames = [bytes(network_header(4, identification=i) / TCP(bytes(tcp)) / Raw(b"x" * 10)) for i in range(5)]
    for number, frame in enumerate(frames):
        packet = Ether(frame)
        packet[TCP].seq = 5 + 10 * number
        frames[number] = rebuilt(bytes(packet))
    assert [count for _, count in merge(frames)] == [1] * 5


def test_flows_side_by_side_are_not_mixed() -> None:
    one = stream(4, "udp", 50, 5, 50)
    other = [rebuilt(bytes(_with_port(frame))) for frame in one]
    merged = merge([*one, *other])
    assert [count for _, count in merged] == [5, 5]
    assert [piece for frame, _ in merged for piece in as_wire(frame)] == [*one, *other]


def _with_port(frame: bytes) -> Packet:
    packet = Ether(frame)
    packet[UDP].sport = 50099
    return packet

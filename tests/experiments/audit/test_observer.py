"""What is in a capture is found: every way in which Geneve can be carried and protected, with the right packets."""

from __future__ import annotations

import ipaddress
import random
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.audit import records
from experiments.audit.findings import find
from experiments.audit.observer import Observer
from experiments.audit.records import Seen
from experiments.capture_file import Record
from geneve.option import Option
from geneve.outer import build_datagram, build_frame
from tests.experiments.audit import captures
from tests.experiments.audit.captures import DESTINATION, MAC_A, MAC_B, SOURCE, geneve, outer, tcp_frame
from tests.nve.ipsec.ipsec_support import Pair
from tests.support import udp_frame

PACKET = geneve(7, tcp_frame("10.0.0.1", "10.0.0.2", 80, b"GET /price of everything here HTTP/1.1 and more" * 8))
DATAGRAM = build_datagram(SOURCE, DESTINATION, 50000, PACKET)
SIX = build_datagram("2001:db8::1", "2001:db8::2", 50000, PACKET)


def observe(*frames: bytes, linktype: int = 1, ports: tuple[int, ...] = (6081,)) -> Seen:
    observer = Observer(ports)
    observer.watch((n, 1000.0 + n, linktype, frame, len(frame)) for n, frame in enumerate(frames, 1))
    return observer.finish()


def count(seen: Seen, fact: str) -> int:
    return seen.facts[fact].packets if fact in seen.facts else 0


def ip_in(protocol: int, payload: bytes, source: str = SOURCE, destination: str = DESTINATION) -> bytes:
    """An Ethernet frame with an IPv4 packet of any protocol."""
    packet = bytearray(build_datagram(source, destination, 1, bytes(max(0, len(payload) - 8)), port=1))
    packet[9] = protocol
    packet[20:] = payload
    packet[2:4] = (20 + len(payload)).to_bytes(2, "big")
    return build_frame(MAC_A, MAC_B, bytes(packet))


def with_extension(packet: bytes, following: int, header: bytes) -> bytes:
    """Put an IPv6 extension header in front of what an IPv6 packet carries."""
    size = int.from_bytes(packet[4:6], "big") + len(header)
    return packet[:4] + size.to_bytes(2, "big") + bytes([following]) + packet[7:40] + header + packet[40:]


PLACES = {
    "ethernet": (1, build_frame(MAC_A, MAC_B, DATAGRAM)),
    "vlan": (1, build_frame(MAC_A, MAC_B, DATAGRAM, tags=[(0x8100, 5)])),
    "qinq": (1, build_frame(MAC_A, MAC_B, DATAGRAM, tags=[(0x88A8, 5), (0x8100, 6)])),
    "ipv6": (1, build_frame(MAC_A, MAC_B, SIX)),
    "ipv6-hop-by-hop": (1, build_frame(MAC_A, MAC_B, with_extension(SIX, 0, bytes([17, 0, 1, 4, 0, 0, 0, 0])))),
    "ipv6-atomic-fragment": (1, build_frame(MAC_A, MAC_B, with_extension(SIX, 44, bytes([17, 0, 0, 0, 0, 0, 0, 9])))),
    "raw": (101, DATAGRAM),
    "raw-ipv4": (228, DATAGRAM),
    "raw-ipv6": (229, SIX),
    "cooked": (113, bytes(14) + b"\x08\x00" + DATAGRAM),
    "cooked-vlan": (113, bytes(14) + b"\x81\x00\x00\x05\x08\x00" + DATAGRAM),
    "cooked2": (276, b"\x86\xdd" + bytes(18) + SIX),
    "null": (0, struct.pack("<I", 2) + DATAGRAM),
    "null-big-endian": (0, struct.pack(">I", 30) + SIX),
    "loop": (108, struct.pack(">I", 2) + DATAGRAM),
    "padded-ethernet": (1, build_frame(MAC_A, MAC_B, DATAGRAM) + bytes(12)),
}


@pytest.mark.parametrize("place", PLACES)
def test_geneve_is_found_wherever_it_is(place: str) -> None:
    linktype, frame = PLACES[place]
    seen = observe(frame, linktype=linktype)
    assert seen.geneve.packets == 1
    assert [vni for vni, _ in seen.networks] == [7]
    assert count(seen, "content: plain: clear") == 1
    assert set(seen.networks.rows[7].sizes) == {len(PACKET)}, "no padding, no outer headers"


def test_other_ports_only_when_told() -> None:
    frame = build_frame(MAC_A, MAC_B, build_datagram(SOURCE, DESTINATION, 50000, PACKET, port=7777))
    assert observe(frame).geneve.packets == 0
    assert observe(frame, ports=(6081, 7777)).geneve.packets == 1


def test_fragments_are_counted_and_not_looked_into() -> None:
    first, later = bytearray(DATAGRAM), bytearray(DATAGRAM)
    first[6], later[7] = 0x20, 0x40
    seen = observe(build_frame(MAC_A, MAC_B, bytes(first)), build_frame(MAC_A, MAC_B, bytes(later)))
    assert seen.geneve.packets == 0
    assert count(seen, "fragments of Geneve") == 1
    assert count(seen, "fragments of UDP without ports") == 1
    six = build_frame(MAC_A, MAC_B, with_extension(SIX, 44, bytes([17, 0, 0, 1, 0, 0, 0, 9])))
    assert count(observe(six), "fragments of Geneve") == 1


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (PACKET[:5], "shorter than its header"),
        (b"\x40" + PACKET[1:], "version 1"),
        (b"\x3f" + PACKET[1:60], "options longer than the packet"),
        (b"\x01" + PACKET[1:8] + b"\x01\x02\x80\x1f" + bytes(40), "option longer than what remains"),
        (b"\x02" + PACKET[1:8] + b"\xff\x60\x81\x01" + bytes(40), "security option with 4 bytes"),
    ],
)
def test_malformed_packets_are_named_with_their_number(packet: bytes, reason: str) -> None:
    seen = observe(outer(PACKET), outer(packet), outer(PACKET))
    ((name, counted),) = seen.malformed.items()
    assert name.startswith(reason)
    assert (counted.packets, counted.first) == (1, [2])
    assert seen.geneve.packets == 2


def test_esp_ah_dtls_wireguard_macsec_and_ike_are_told_apart() -> None:
    noise = random.Random(1).randbytes(400)
    numbered = [struct.pack("!II", 0x1234, number) + noise for number in range(1, 4)]
    record = b"\x17\xfe\xfd\x00\x01" + (9).to_bytes(6, "big") + (400).to_bytes(2, "big") + noise
    seen = observe(
        *(ip_in(50, data) for data in numbered),
        outer(numbered[0], port=4500), outer(bytes(4) + noise, port=4500), outer(b"\xff", port=4500),
        outer(record, port=46081), outer(b"\x16" + record[1:], port=46081),
        outer(b"\x04\0\0\0" + bytes(4) + (5).to_bytes(8, "little") + noise, port=51871),
        MAC_A + MAC_B + b"\x88\xe5\x2c\x00" + (1).to_bytes(4, "big") + bytes(8) + noise,
    )  # fmt: skip
    found = {str(place[0]): key.packets for place, key in seen.keys}
    assert found == {"ESP": 3, "ESP in UDP": 1, "DTLS": 1, "WireGuard": 1, "MACsec": 1}
    assert count(seen, "IKE packets") == 1
    assert count(seen, "DTLS records other than data") == 1
    assert count(seen, "DTLS on this project's port for Geneve") == 2
    assert {what for (_, _, what), _ in seen.talks} == set(found)
    assert (SOURCE, DESTINATION, "ESP") in seen.talks.rows


@pytest.mark.parametrize(
    ("frame", "cover"),
    [
        (ip_in(51, b"\x11\x04\0\0" + struct.pack("!II", 9, 1) + bytes(12) + DATAGRAM[20:]), "AH"),
        (ip_in(50, struct.pack("!II", 9, 1) + DATAGRAM[20:] + bytes(18)), "ESP without encryption"),
        (ip_in(50, struct.pack("!II", 9, 1) + bytes(8) + DATAGRAM[20:] + bytes(18)), "ESP without encryption"),
        (outer(b"\x17\xfe\xfd" + bytes(8) + (len(PACKET) + 20).to_bytes(2, "big") + PACKET + bytes(20), port=4433),
         "DTLS without encryption"),
        (MAC_A + MAC_B + b"\x88\xe5\x00\x00" + bytes(4) + b"\x08\x00" + DATAGRAM + bytes(16),
         "MACsec without encryption"),
    ],
    ids=["ah", "esp-null", "esp-gmac", "dtls-null", "macsec"],
)  # fmt: skip
def test_channels_that_encrypt_nothing_show_the_geneve_packet(frame: bytes, cover: str) -> None:
    seen = observe(frame)
    assert count(seen, f"cover: {cover}") == 1
    assert [vni for vni, _ in seen.networks] == [7]
    assert list(seen.plain_states) == ["authenticated"]
    assert count(seen, "content: authenticated: clear") == 1


def test_a_datagram_may_hold_several_dtls_records() -> None:
    noise = random.Random(2).randbytes(300)
    made = [b"\x17\xfe\xfd\0\1" + n.to_bytes(6, "big") + (300).to_bytes(2, "big") + noise for n in (1, 2, 3)]
    seen = observe(outer(b"".join(made), port=4433), outer(made[1], port=4433))
    ((_, key),) = seen.keys
    assert key.packets == 4
    assert seen.facts["sequence numbers seen twice"].first == [2]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", ["esp", "esp-null", "ah", "esp-null-short", "ah-short"])
def test_what_our_own_ipsec_seals(name: str, version: int) -> None:
    pair = Pair(name, version)
    frames = [udp_frame(data=bytes([n]) * 400) for n in range(5)]
    sealed = [packet for frame in frames for packet in pair.seal(frame)]
    ends = [ipaddress.ip_address(text).packed for text in pair.addresses]
    if not name.startswith("ah"):
        sealed = [(struct.pack("!IHBB", 6 << 28, len(body), 50, 64) if version == 6 else
                   struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, 50, 0)) + b"".join(ends) + body
                  for body in sealed]  # fmt: skip
    seen = observe(*[build_frame(MAC_A, MAC_B, packet) for packet in sealed])
    if name == "esp":
        assert seen.geneve.packets == 0
        assert [place[0] for place, _ in seen.keys] == ["ESP"]
    else:
        assert [vni for vni, _ in seen.networks] == [100]
        assert (seen.geneve.packets, list(seen.plain_states)) == (5, ["authenticated"])


@pytest.mark.parametrize(
    ("payload", "content"),
    [
        (b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03" + random.Random(1).randbytes(58), "TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (random.Random(1).randbytes(900), "random"),
        (b"plain words and figures " * 20, "clear"),
        (b"", "empty"),
        (b"\x01\x02\x03", "unknown"),
    ],
)
def test_payload_over_tcp_is_recognised(payload: bytes, content: str) -> None:
    seen = observe(outer(geneve(1, tcp_frame("10.0.0.1", "10.0.0.2", 9999, payload))))
    assert count(seen, f"content: plain: {content}") == 1


@pytest.mark.parametrize(
    ("payload", "port", "content"),
    [
        (b"\xc3\x00\x00\x00\x01" + bytes(100), 443, "QUIC"),
        (b"\x16\xfe\xfd" + bytes(60), 5684, "DTLS"),
        (b"\x01\0\0\0" + bytes(144), 51820, "WireGuard"),
        (b"\0\0\x10\x07" + random.Random(1).randbytes(60), 4500, "IPsec"),
        (b"a question and answer ok", 4500, "clear"),
        (b"a question and answer ok", 500, "clear"),
        (captures.ike(48), 500, "IKE"),
        (bytes(4) + captures.ike(48), 4500, "IKE"),
        (b"a question and an answer", 53, "clear"),
    ],
)
def test_payload_over_udp_is_recognised(payload: bytes, port: int, content: str) -> None:
    seen = observe(outer(geneve(1, captures.ip_frame("10.0.0.1", "10.0.0.2", port, payload))))
    assert count(seen, f"content: plain: {content}") == 1


def test_ike_on_the_port_of_esp_is_followed_by_esp() -> None:
    chance = random.Random(1)
    sent = [bytes(4) + captures.ike(60)] * 2 + [b"\0\0\x10\x07" + chance.randbytes(100) for _ in range(3)]
    seen = observe(*[outer(geneve(1, captures.ip_frame("10.0.0.1", "10.0.0.2", 4500, data))) for data in sent])
    assert count(seen, "content: plain: IPsec") == 5
    assert count(seen, "content: plain: IKE") == 0


def test_sizes_of_ah_are_no_sizes_of_a_channel_that_hides() -> None:
    inner = outer(geneve(7, tcp_frame("10.0.0.1", "10.0.0.2", 80, b"words")))[34:]
    seen = observe(*[ip_in(51, b"\x11\x04\0\0" + struct.pack("!II", 9, n) + bytes(12) + inner) for n in range(9)])
    assert seen.geneve.packets == 9
    assert seen.channel_sizes == {}
    assert [(key.packets, key.bytes) for _, key in seen.keys] == [(9, 9 * len(inner))]


def test_sealed_packets_are_encrypted_and_a_flow_is_one_however_random_it_looks() -> None:
    frames = [frame for _, frame in captures.ours(3000)]
    seen = observe(*frames)
    assert {state: counted.packets for state, counted in seen.plain_states.items()} == {"encrypted": 3000}
    assert seen.networks.rows[100].flows == 1


def test_numbers_and_identical_packets_seen_twice() -> None:
    frames = [frame for _, frame in captures.ours(5)]
    seen = observe(*frames, frames[2])
    assert count(seen, "sequence numbers seen twice") == 1
    assert seen.facts["identical packets"].first == [6]
    assert count(observe(*frames), "sequence numbers seen twice") == 0
    arp = bytes(12) + b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01" + bytes(20)
    assert count(observe(*[outer(geneve(1, arp))] * 3), "identical packets") == 0, "ARP repeats itself"


def test_a_flow_of_heartbeats_is_regular_and_one_of_chance_is_not() -> None:
    chance = random.Random(1)
    frames = [outer(geneve(3, captures.ip_frame("10.0.0.1", "10.0.0.2", 9, bytes([n])))) for n in range(30)]
    observer = Observer()
    observer.watch((n, n * 2.0 + chance.random() * 0.01, 1, frame, 100) for n, frame in enumerate(frames))
    others = [outer(geneve(4, frame[50:])) for frame in frames]
    observer.watch((n, 100 + n + chance.random(), 1, frame, 100) for n, frame in enumerate(others))
    seen = observer.finish()
    assert [row[1].split(":")[0] for row in seen.regular] == ["VNI 3"]


def test_options_are_counted_with_their_contents() -> None:
    frames = [outer(geneve(1, PACKET[8:], [Option(0x0102, 0x80, n.to_bytes(4, "big"))])) for n in (1, 2, 2, 3)]
    seen = observe(*frames)
    option = seen.options.rows[(0x0102, 0x80)]
    assert (option.packets, len(option.values), option.example) == (4, 3, b"\0\0\0\1")
    assert count(seen, "C bit, unprotected") == 4


def test_a_short_capture_still_tells_headers() -> None:
    whole = outer(PACKET)
    observer = Observer()
    observer.watch([(1, 1.0, 1, whole[:90], len(whole)), (2, 2.0, 1, whole[:46], len(whole))])
    seen = observer.finish()
    assert [vni for vni, _ in seen.networks] == [7]
    assert count(seen, "packets cut short by the capture") == 1
    assert count(seen, "Geneve headers cut short by the capture") == 1
    assert set(seen.networks.rows[7].sizes) == {len(PACKET)}


def hostile(count: int, seed: int) -> Iterator[Record]:
    """Frames of which nearly every one has addresses, VNI, options, SPI, sizes and flow of its own."""
    chance = random.Random(seed)
    head = build_frame(MAC_A, MAC_B, DATAGRAM)[:42]
    for number in range(1, count + 1):
        kind = number % 3
        body = chance.randbytes(chance.randrange(40, 90))
        if kind == 0:
            option = chance.randbytes(3) + b"\x01" + chance.randbytes(4)
            body = b"\x02\0\x65\x58" + chance.randbytes(3) + b"\0" + option + bytes(12) + b"\x08\x00\x45" + body
        elif kind == 1:
            option = b"\xff\x60\x81\x07" + chance.randbytes(28)
            body = b"\x08\x40\x65\x58" + chance.randbytes(3) + b"\0" + option + body
        frame = bytearray(head + body)
        frame[16:18] = (28 + len(body)).to_bytes(2, "big")
        frame[26:36] = chance.randbytes(10)
        if kind == 2:
            frame[23] = 50
        yield number, float(number), 1, bytes(frame), len(frame)


def test_memory_is_bounded_whatever_is_in_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    observer = Observer()
    for name, cap in (("networks", 64), ("options", 64), ("keys", 128), ("talks", 128)):
        getattr(observer.seen, name).cap = cap
    observer._flows.cap = 256
    observer.seen.recent.size = 512
    monkeypatch.setattr("experiments.audit.observer._MAX_SHAPES", 64)
    tracemalloc.start()
    try:
        observer.watch(hostile(6000, 1))
        before = tracemalloc.get_traced_memory()[0]
        observer.watch(hostile(12000, 2))
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert after < before * 1.25 + 200_000
    seen = observer.finish()
    assert len(seen.networks) <= 64
    assert len(seen.options) <= 64
    assert len(seen.keys) <= 128
    assert len(seen.talks) <= 128
    assert seen.folded > 5000
    assert seen.other_talks.packets + sum(counted.packets for _, counted in seen.talks) >= seen.geneve.packets
    assert all(len(network.sizes) <= records.MAX_SIZES + 1 for _, network in seen.networks)


def test_a_large_flow_keeps_its_row_among_many_small_ones() -> None:
    observer = Observer()
    observer._flows.cap = 64
    big = outer(geneve(9, tcp_frame("10.9.9.9", "10.0.0.2", 80, bytes(900))))
    for number, time, linktype, frame, wire in hostile(3000, 3):
        observer.watch([(number, time, linktype, frame, wire), (number, time, 1, big, len(big))])
    seen = observer.finish()
    assert max(seen.top)[1:4] == (3000, "10.9.9.9 40001 > 10.0.0.2 80 protocol 6", 9)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_behind_any_true_beginning(data: st.DataObject) -> None:
    linktype, frame = PLACES[data.draw(st.sampled_from(sorted(PLACES)))]
    kept = data.draw(st.integers(0, min(140, len(frame))))
    observe(frame[:kept] + data.draw(st.binary(max_size=200)), linktype=linktype)


def test_corpus_files_are_small_and_audited(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "corpus" / "audit"
    files = sorted(folder.iterdir())
    assert len(files) >= 4
    from experiments.audit.capture_audit import audit_capture

    for path in files:
        assert path.stat().st_size < 64 * 1024
        assert audit_capture(path).inventory["file"]["geneve_packets"] > 0


def test_a_capture_that_ends_within_options_is_no_packet_without_options() -> None:
    whole = outer(geneve(7, PACKET[8:], [Option(0x0102, 0x80, b"\0\1\0\2"), Option(0x0103, 1, b"abcd")]))
    observer = Observer()
    observer.watch((n, 1.0, 1, whole[:cut], len(whole)) for n, cut in enumerate((50, 54, 58, 65), 1))
    seen = observer.finish()
    assert seen.facts["Geneve headers cut short by the capture"].first == [1, 2, 3, 4]
    assert seen.geneve.packets == 0


def test_the_first_frames_are_those_of_all_flows_together() -> None:
    one, two = (outer(geneve(7, captures.ip_frame("10.0.0.1", "10.0.0.2", port, b"x" * 20))) for port in (7, 8))
    seen = observe(one, two, two, one, two, one, one)
    assert seen.networks.rows[7].first == [1, 2, 3, 4, 5]
    assert seen.networks.rows[7].flows == 2


def test_pings_are_one_flow_although_their_checksums_differ() -> None:
    frames = []
    for number in range(5):
        echo = bytes([8, 0, number, number, 0, 1, 0, number]) + b"ping" * 8
        packet = ip_in(1, echo, "10.0.0.1", "10.0.0.2")
        frames.append(outer(geneve(7, packet)))
    assert observe(*frames).networks.rows[7].flows == 1


def test_bits_that_should_not_be_set() -> None:
    plain, critical = bytearray(PACKET), bytearray(PACKET)
    plain[1] |= 1
    critical[1] |= 0x40
    seen = observe(outer(PACKET), outer(bytes(plain)), outer(bytes(critical)), outer(PACKET[:7] + b"\1" + PACKET[8:]))
    assert seen.facts["reserved bits set"].first == [2, 4]
    assert seen.facts["C bit that contradicts the options"].first == [3]
    assert {finding.name for finding in find(seen)} >= {"reserved-bits", "critical-bit-wrong"}

"""Made-up captures: networks as OVN, Cilium, GWLB and this project make them, and files in every form."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator, Sequence

from geneve.control.profile import Profile
from geneve.header import BaseHeader
from geneve.option import Option
from geneve.outer import build_datagram, build_frame
from geneve.packet import make_packet
from geneve.security.association import OutboundAssociation
from geneve.security.seal import Item, PacketSealer
from tests.support import FULL, association, udp_frame

MAC_A, MAC_B = bytes.fromhex("020000000a01"), bytes.fromhex("020000000a02")
SOURCE, DESTINATION = "192.168.1.1", "192.168.1.2"
START = 1_700_000_000.0

Timed = tuple[float, bytes]


def outer(packet: bytes, source: str = SOURCE, destination: str = DESTINATION, port: int = 6081, **more: int) -> bytes:
    return build_frame(MAC_A, MAC_B, build_datagram(source, destination, more.pop("source_port", 50000), packet,
                                                    port=port, checksum=False))  # fmt: skip


def ip_frame(source: str, destination: str, port: int, payload: bytes, *, source_port: int = 40000) -> bytes:
    """An inner Ethernet frame with UDP."""
    packet = build_datagram(source, destination, source_port, payload, port=port)
    return build_frame(bytes.fromhex("020000000001"), bytes.fromhex("020000000002"), packet)


def tcp_frame(source: str, destination: str, port: int, payload: bytes, number: int = 0) -> bytes:
    """An inner Ethernet frame with a TCP segment; ``number`` is its sequence number and IP identification."""
    tcp = struct.pack("!HHIIBBHHH", 40001, port, number, 1, 0x50, 0x18, 1024, 0, 0) + payload
    udp = build_datagram(source, destination, 1, bytes(max(0, len(tcp) - 8)), port=1, checksum=False)
    head = bytearray(udp[:20])
    head[9], head[4:6] = 6, (number & 0xFFFF).to_bytes(2, "big")
    return build_frame(bytes.fromhex("020000000001"), bytes.fromhex("020000000002"), bytes(head) + tcp)


def geneve(vni: int, inner: bytes, options: Sequence[Option] = (), *, oam: bool = False, kind: int = 0x6558) -> bytes:
    return make_packet(BaseHeader(vni=vni, protocol_type=kind, oam=oam), options, inner).build()


def ike(size: int) -> bytes:
    """An IKE message of ``size`` bytes: SPIs, next payload, version 2, IKE_SA_INIT, initiator, number 0, length."""
    head = b"initiatr" + bytes(8) + bytes([33, 0x20, 34, 8]) + bytes(4) + size.to_bytes(4, "big")
    return head + random.Random(size).randbytes(size - len(head))


def words(chance: random.Random, size: int) -> bytes:
    text = b" ".join(chance.choice((b"price", b"order", b"customer", b"name", b"amount")) for _ in range(size // 4))
    return text[:size]


def ovn(count: int = 200, seed: int = 1) -> list[Timed]:
    """Logical ports in a critical option, text inside, BFD with the O bit between chassis, one flow of TLS."""
    chance, made = random.Random(seed), []
    for number in range(count):
        time = START + number * 0.05
        ports = Option(0x0102, 0x80, struct.pack("!HH", number % 3 + 1, 7))
        if number % 10 == 9:
            bfd = bytes.fromhex("20400318") + bytes(20)
            frame = ip_frame("169.254.1.1", "169.254.1.0", 3784, bfd, source_port=49152)
            made.append((time, outer(geneve(0, frame, oam=True))))
        elif number % 4 == 0:
            record = b"\x17\x03\x03\x01\x00" + chance.randbytes(256)
            made.append((time, outer(geneve(5, tcp_frame("10.0.0.1", "10.0.0.3", 443, record, number), [ports]))))
        else:
            text = words(chance, chance.randrange(40, 1200))
            made.append((time, outer(geneve(5, tcp_frame("10.0.0.1", "10.0.0.2", 80, text, number), [ports]))))
    return made


def cilium(count: int = 100, seed: int = 2) -> list[Timed]:
    """Identities as VNIs, now and then the option of direct server return."""
    chance, made = random.Random(seed), []
    for number in range(count):
        dsr = [Option(0x014B, 0x81, bytes([10, 96, 0, 10, 0x1F, 0x90, 0, 0]))] if number % 20 == 0 else []
        frame = tcp_frame("10.0.1.5", "10.0.2.7", 8080, words(chance, 300), number)
        made.append((START + number * chance.random(), outer(geneve(20000 + number % 4, frame, dsr))))
    return sorted(made)


def gwlb(count: int = 60, seed: int = 3) -> list[Timed]:
    """VNI 0, IP without Ethernet, three options with endpoint, attachment and cookie."""
    chance, made = random.Random(seed), []
    for number in range(count):
        options = [Option(0x0108, 1, bytes(8)), Option(0x0108, 2, bytes(8)), Option(0x0108, 3, b"\xab\xcd\x00\x01")]
        frame = tcp_frame("10.1.0.4", "203.0.113.9", 443, b"\x17\x03\x03\x00\x40" + chance.randbytes(64), number)
        made.append((START + number, outer(geneve(0, frame[14:], options, kind=0x0800))))
    return made


def ours(count: int = 100, profile: Profile = FULL, vni: int = 100, seed: int = 4, spi: int = 1000) -> list[Timed]:
    """Packets that this project's mechanism sealed."""
    chance = random.Random(seed)
    sealer = PacketSealer(vni, OutboundAssociation(association(spi, vni=vni, profile=profile.name), profile))
    frames = [udp_frame(data=words(chance, chance.randrange(40, 1200))) for _ in range(count)]
    packets = sealer.seal([Item(frame) for frame in frames])
    return [(START + number * 0.1 + chance.random() * 0.09, outer(packet)) for number, packet in enumerate(packets)]


def pcap(
    frames: Iterable[Timed], order: str = "<", nano: bool = False, linktype: int = 1, snaplen: int = 262144
) -> bytes:
    return b"".join(pcap_pieces(frames, order, nano, linktype, snaplen))


def pcap_pieces(
    frames: Iterable[Timed], order: str = "<", nano: bool = False, linktype: int = 1, snaplen: int = 262144
) -> Iterator[bytes]:
    yield struct.pack(order + "IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, snaplen, linktype)
    unit = 1e9 if nano else 1e6
    for time, frame in frames:
        seconds = int(time)
        kept = frame[:snaplen]
        yield struct.pack(order + "IIII", seconds, int((time - seconds) * unit), len(kept), len(frame)) + kept


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = len(body) + 12
    return struct.pack(order + "II", kind, size) + body + struct.pack(order + "I", size)


def section(order: str = "<") -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str = "<", linktype: int = 1, snaplen: int = 0, resolution: int | None = None) -> bytes:
    options = b"" if resolution is None else struct.pack(order + "HHB3xHH", 9, 1, resolution, 0, 0)
    return block(order, 1, struct.pack(order + "HHI", linktype, 0, snaplen) + options)


def enhanced(frame: bytes, time: float, order: str = "<", index: int = 0, unit: float = 1e-6) -> bytes:
    ticks = round(time / unit)
    head = struct.pack(order + "IIIII", index, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    return block(order, 6, head + frame)


def simple(frame: bytes, order: str = "<") -> bytes:
    return block(order, 3, struct.pack(order + "I", len(frame)) + frame)


def obsolete(frame: bytes, time: float, order: str = "<", index: int = 0) -> bytes:
    ticks = round(time * 1e6)
    head = struct.pack(order + "HHIIII", index, 0, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    return block(order, 2, head + frame)


def pcapng(frames: Iterable[Timed], order: str = "<") -> bytes:
    return section(order) + interface(order) + b"".join(enhanced(frame, time, order) for time, frame in frames)

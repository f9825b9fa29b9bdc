"""The outer parser: finds every sound Geneve datagram, and calls everything else not Geneve."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve import outer

MAC_A, MAC_B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
GENEVE = bytes.fromhex("0000655800006400") + bytes(range(40))

V4 = ("192.168.1.1", "192.168.1.2")
V6 = ("fd00:6081::1", "fd00:6081::2")
FAMILIES = pytest.mark.parametrize("addresses", [V4, V6], ids=["ipv4", "ipv6"])
TAG_STACKS = [(), ((0x8100, 100),), ((0x88A8, 0xE005), (0x8100, 100)), ((0x8100, 1),) * 4]


def make_frame(
    addresses: tuple[str, str] = V4, tags: tuple[tuple[int, int], ...] = (), port: int = 6081
) -> bytes:
    packet = outer.build_datagram(*addresses, 50000, GENEVE, port=port, traffic_class=0xB9)
    return outer.build_frame(MAC_A, MAC_B, packet, tags=tags)


def with_ipv6_extensions(*extensions: bytes, first: int) -> bytes:
    """An IPv6 Geneve frame with ``extensions`` between IPv6 and UDP; each names its own next header."""
    frame = make_frame(V6)
    chain = b"".join(extensions)
    ip = bytearray(frame[14:54])
    struct.pack_into("!HB", ip, 4, len(frame) - 54 + len(chain), first)
    return frame[:14] + bytes(ip) + chain + frame[54:]


@FAMILIES
@pytest.mark.parametrize("tags", TAG_STACKS)
@pytest.mark.parametrize("padding", [0, 1, 46])
def test_finds_the_datagram(
    addresses: tuple[str, str], tags: tuple[tuple[int, int], ...], padding: int
) -> None:
    frame = make_frame(addresses, tags=tags) + bytes(padding)
    found = outer.parse_outer(frame)
    assert found is not None
    assert (found.source, found.destination) == addresses
    assert (found.source_port, found.destination_port, found.traffic_class) == (50000, 6081, 0xB9)
    assert found.payload(frame) == GENEVE
    location = outer.locate(frame)
    assert location is not None
    assert outer.source_address(frame, location) == ipaddress.ip_address(addresses[0]).packed


def test_five_tags_are_not_looked_into() -> None:
    assert outer.locate(make_frame(tags=((0x8100, 1),) * 5)) is None


@FAMILIES
def test_other_ports_and_protocols_are_not_geneve(addresses: tuple[str, str]) -> None:
    assert outer.locate(make_frame(addresses, port=6082)) is None
    protocol_at = 23 if addresses is V4 else 20
    frame = bytearray(make_frame(addresses))
    frame[protocol_at] = 6
    assert outer.locate(bytes(frame)) is None


def test_ipv4_options_are_skipped() -> None:
    frame = make_frame()
    ip = bytearray(frame[14:34])
    ip[0] = 0x47
    struct.pack_into("!H", ip, 2, len(frame) - 14 + 8)
    longer = frame[:14] + bytes(ip) + b"\x01" * 8 + frame[34:]
    found = outer.parse_outer(longer)
    assert found is not None
    assert found.payload(longer) == GENEVE


@pytest.mark.parametrize("fragment", [0x2000, 0x0001, 0x1FFF, 0x3000])
def test_ipv4_fragments_are_not_looked_into(fragment: int) -> None:
    frame = bytearray(make_frame())
    struct.pack_into("!H", frame, 20, fragment)
    assert outer.locate(bytes(frame)) is None


def test_ipv6_extension_headers_are_skipped() -> None:
    frame = with_ipv6_extensions(
        bytes([43, 0]) + bytes(6), bytes([60, 1]) + bytes(14), bytes([17, 0]) + bytes(6), first=0
    )
    found = outer.parse_outer(frame)
    assert found is not None
    assert found.payload(frame) == GENEVE


@pytest.mark.parametrize(
    ("extension", "first"),
    [
        (bytes([17, 0]) + bytes(6), 44),  # a fragment
        (bytes([17, 0]) + bytes(6), 51),  # an authentication header
        (bytes([17, 255]) + bytes(6), 0),  # longer than the packet
        (bytes([59, 0]) + bytes(6), 60),  # no next header
    ],
)
def test_other_ipv6_chains_are_not_looked_into(extension: bytes, first: int) -> None:
    assert outer.locate(with_ipv6_extensions(extension, first=first)) is None


def test_ipv6_chain_is_bounded() -> None:
    more = bytes([0, 0]) + bytes(6)
    last = bytes([17, 0]) + bytes(6)
    most = outer.MAX_EXTENSION_HEADERS
    assert outer.locate(with_ipv6_extensions(*[more] * (most - 1), last, first=0)) is not None
    assert outer.locate(with_ipv6_extensions(*[more] * most, last, first=0)) is None


@FAMILIES
@pytest.mark.parametrize("tags", TAG_STACKS)
def test_every_truncation_is_not_geneve(
    addresses: tuple[str, str], tags: tuple[tuple[int, int], ...]
) -> None:
    frame = make_frame(addresses, tags=tags)
    for size in range(len(frame)):
        assert outer.locate(frame[:size]) is None, size


@FAMILIES
@pytest.mark.parametrize("lie", [-65, -48, -9, -1, 1, 9, 1000])
def test_lengths_that_lie_are_not_geneve(addresses: tuple[str, str], lie: int) -> None:
    """The IP length, then the UDP length, contradicts the other."""
    length_at, udp_length_at = (16, 38) if addresses is V4 else (18, 58)
    for position in (length_at, udp_length_at):
        frame = bytearray(make_frame(addresses) + bytes(8))
        (length,) = struct.unpack_from("!H", frame, position)
        struct.pack_into("!H", frame, position, max(0, length + lie))
        assert outer.locate(bytes(frame)) is None


@pytest.mark.parametrize("first", [0x00, 0x44, 0x40, 0x55, 0x65, 0xF5])
def test_wrong_ipv4_version_or_header_length(first: int) -> None:
    frame = bytearray(make_frame())
    frame[14] = first
    assert outer.locate(bytes(frame)) is None


@given(st.binary(max_size=200))
def test_nothing_escapes_on_any_bytes(frame: bytes) -> None:
    outer.parse_outer(frame)


@given(
    st.sampled_from([V4, V6]),
    st.sampled_from(TAG_STACKS),
    st.integers(0, 80),
    st.binary(min_size=1, max_size=8),
)
def test_nothing_escapes_on_damaged_frames(
    addresses: tuple[str, str], tags: tuple[tuple[int, int], ...], position: int, damage: bytes
) -> None:
    frame = make_frame(addresses, tags=tags)
    frame = frame[:position] + damage + frame[position + len(damage) :]
    found = outer.parse_outer(frame)
    if found is not None:
        assert 0 < found.payload_offset <= found.payload_offset + found.payload_size <= len(frame)
        ipaddress.ip_address(found.source)


@given(st.binary(max_size=300), st.sampled_from([V4, V6]))
def test_built_checksums_verify(payload: bytes, addresses: tuple[str, str]) -> None:
    packet = outer.build_datagram(*addresses, 1234, payload)
    if addresses is V4:
        assert outer.internet_checksum(packet[:20]) == 0
        pseudo, udp = packet[12:20], packet[20:]
    else:
        pseudo, udp = packet[8:40], packet[40:]
    assert outer.internet_checksum(pseudo + struct.pack("!IHH", len(udp), 0, 17) + udp) == 0
    assert udp[6:8] != b"\0\0"


def test_checksum_known_value() -> None:
    """The worked example of RFC 1071, section 3."""
    assert outer.internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D


def test_udp_checksum_can_be_left_out() -> None:
    assert outer.build_datagram(*V4, 1, b"x", checksum=False)[26:28] == b"\0\0"


def test_builders_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="one address family"):
        outer.build_datagram(V4[0], V6[0], 1, b"")
    with pytest.raises(ValueError, match="does not fit"):
        outer.build_datagram(*V4, 1, bytes(65508))
    with pytest.raises(ValueError, match="does not fit"):
        outer.build_datagram(*V4, 65536, b"")
    with pytest.raises(ValueError, match="6 bytes"):
        outer.build_frame(b"", MAC_A, b"\x45")

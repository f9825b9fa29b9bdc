"""Nothing that a stranger sends makes a reader raise: corpus, random bytes, and the shapes of past faults elsewhere."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneve.drops import DropReason
from geneve.errors import ParseError
from geneve.option import parse_options
from geneve.packet import parse_packet
from geneve.security.association import InboundAssociation
from geneve.security.open import Opened, PacketOpener
from geneve.security.seal import Item
from nve.datagrams import Received
from nve.dataplane import Dataplane
from tests.geneve.fuzz_targets import CORPUS, HERE, TARGETS
from tests.geneve.make_vectors import FOLDER, PROFILES, associations, make_sealer
from tests.support import node_state, udp_frame

VECTORS = [
    bytes.fromhex(case["packet"])
    for path in sorted(FOLDER.glob("*.json"))
    for case in json.loads(path.read_text())["cases"]
]


@pytest.mark.parametrize("name", TARGETS)
def test_every_file_of_the_corpus(name):
    files = sorted((CORPUS / name).iterdir())
    assert files, "the corpus is part of the project"
    for path in files:
        TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_random_and_damaged_packets(name, data):
    packet = bytearray(data.draw(st.sampled_from(VECTORS)))
    for _ in range(data.draw(st.integers(0, 6))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(packet)))
    extra = data.draw(st.binary(max_size=40))
    for candidate in (bytes(packet), bytes(packet[:cut]), extra + bytes(packet), bytes(packet[:cut]) + extra, extra):
        TARGETS[name](candidate)


# --- shapes of faults that others had --------------------------------------------------------


def header(opt_len: int, protocol: int = 0x6558) -> bytes:
    return struct.pack("!BBHI", opt_len // 4, 0, protocol, 100 << 8)


def refused(packet: bytes) -> DropReason:
    made = PROFILES["full"][1][0][1]
    result = PacketOpener(InboundAssociation(i, made) for i in associations(made, "full")[:1]).open(packet, HERE)
    assert isinstance(result, DropReason)
    return result


def test_an_option_of_128_bytes_does_not_wrap_to_nothing():
    """A length field of 31 words and 4 bytes of header are 128 bytes, which a signed byte takes for -128."""
    option = b"\x01\x02\x03\x1f" + bytes(124)
    assert len(parse_options(option)[0].data) == 124
    assert parse_packet(header(128) + option + udp_frame()).payload == udp_frame()


def test_options_in_all_cannot_exceed_252_bytes():
    options = [b"\x01\x02\x03\x1f" + bytes(124)] * 2
    made = PROFILES["full"][1][0][1]
    with pytest.raises(ValueError, match="252"):
        make_sealer(made, associations(made, "full")).seal([Item(udp_frame(), options)])


def test_an_option_longer_than_what_remains_is_malformed():
    for length in range(3, 32):
        packet = header(12) + b"\x01\x02\x03" + bytes([length]) + bytes(8) + udp_frame()
        assert refused(packet) is DropReason.MALFORMED
        with pytest.raises(ParseError):
            parse_packet(packet)


def test_reserved_bits_are_not_part_of_an_options_length():
    option = b"\x01\x02\x03\xe1" + bytes(4)
    assert len(parse_options(option)) == 1
    assert parse_options(option)[0].reserved == 7


def test_opt_len_beyond_the_packet_is_malformed():
    assert refused(header(252) + bytes(100)) is DropReason.MALFORMED
    assert refused(header(0)[:7]) is DropReason.MALFORMED


def test_a_security_option_too_short_for_its_fields_is_malformed():
    for words in range(7):
        option = b"\xff\x60\x81" + bytes([words]) + bytes(4 * words)
        assert refused(header(4 + 4 * words) + option + udp_frame()) is DropReason.MALFORMED


@pytest.mark.parametrize("size", range(14))
def test_a_short_inner_frame_is_dropped_after_authentication(size):
    made = PROFILES["full"][1][0][1]
    held = associations(made, "full")
    (packet,) = make_sealer(made, held[:1]).seal([Item(bytes(size))])
    opened = PacketOpener([InboundAssociation(held[0], made)]).open(packet, HERE)
    assert isinstance(opened, Opened), "even of nothing: an empty plaintext authenticates"
    assert len(opened.frame) == size
    one, two = Dataplane("nve1", bytes(32)), Dataplane("nve2", bytes(32))
    one.apply(node_state("nve1"))
    two.apply(node_state("nve2"))
    (sent,) = [target for key, target in one._applied.targets.items() if key[1] == "nve2"]
    (packet,) = sent.sealer.seal([Item(bytes(size))])
    assert two.from_underlay([Received(packet, HERE)]) == []
    assert two.drops == {DropReason.MALFORMED_INNER: 1}


@pytest.mark.parametrize("tags", range(12))
def test_stacks_of_vlan_tags_end(tags):
    frame = udp_frame()[:12] + b"\x81\x00\x00\x07" * tags + udp_frame()[12:]
    one = Dataplane("nve1", bytes(32))
    one.apply(node_state("nve1"))
    assert len(one.from_tenants(100, [frame]).datagrams) == 1
    cut = udp_frame()[:12] + b"\x81\x00\x00\x07" * tags
    sent = one.from_tenants(100, [cut]).datagrams
    two = Dataplane("nve2", bytes(32))
    two.apply(node_state("nve2"))
    assert two.from_underlay([Received(datagram.payload, HERE) for datagram in sent]) == [], "nobody can read it"


def test_an_inner_length_beyond_the_payload_is_refused_before_any_decryption():
    made = dict(PROFILES["inner"][1])["headers-headers"]
    held = associations(made, "inner")
    (packet,) = make_sealer(made, held).seal([Item(udp_frame())])
    for length, zero in ((0xFFFF, 0), (len(udp_frame()) + 1, 0), (48, 1)):
        changed = bytearray(packet)
        struct.pack_into("!HH", changed, 8 + 16, length, zero)
        result = PacketOpener([InboundAssociation(held[0], made)]).open(bytes(changed), HERE)
        assert result is DropReason.AUTHENTICATION_FAILED

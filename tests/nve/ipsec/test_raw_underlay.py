"""What raw sockets receive: whatever it is, the opener gets it or refuses it by name, and nothing is raised."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneve.control.channel import IP_PROTOCOL_AH, ChannelProtocol
from geneve.drops import DropReason
from geneve.security.open import Burst
from nve.datagrams import Received, together
from nve.ipsec.opener import IpsecOpener
from nve.ipsec.sa import InboundSa
from nve.raw_underlay import Control, read_packet
from tests.nve.ipsec.ipsec_support import KINDS, Pair, frame, frames_of

EXTENSIONS = {
    "hop-by-hop options": socket.IPV6_HOPOPTS,
    "destination options": socket.IPV6_DSTOPTS,
    "routing header": socket.IPV6_RTHDR,
}
PADDED = bytes((IP_PROTOCOL_AH, 0, 1, 4, 0, 0, 0, 0))
"""Hop-by-hop or destination options that say nothing."""


def received(pair: Pair, packet: bytes, control: Control, flags: int = 0) -> Received:
    """What the socket gives of a packet as it was sealed."""
    ah, ipv6 = pair.profile.channel.protocol is ChannelProtocol.AH, len(pair.source) == 16
    if ah and ipv6:
        packet = packet[40:]  # the kernel keeps the header
    elif not ah and not ipv6:
        packet = bytes((0x45, *bytes(19))) + packet
    whole = socket.inet_pton(socket.AF_INET6 if ipv6 else socket.AF_INET, pair.addresses[1]) if ah else None
    return read_packet(packet, control, flags, pair.source, whole)


def open_all(pair: Pair, *packets: Received) -> list[Burst | DropReason]:
    return [
        result
        for packet in together(packets)
        for result in pair.opener.open_burst(packet.payload, packet.segment or len(packet.payload), packet.source, 1.0)
    ]


@pytest.mark.parametrize(("name", "version"), KINDS)
def test_packets_open_as_they_were_sealed(name, version):
    pair = Pair(name, version)
    classed = [(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, struct.pack("i", 0xBA))] if version == 6 else []
    packets = [received(pair, packet, classed) for packet in pair.seal(frame(mark=1), frame(mark=2))]
    assert frames_of(open_all(pair, *packets)) == [frame(mark=1), frame(mark=2)]
    assert {packet.traffic_class for packet in packets} == {0xBA if version == 6 else 0}


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_ah_behind_an_extension_header_is_refused(extension):
    """AH did not see it: somebody on the path put it in."""
    pair = Pair("ah", 6)
    (packet,) = pair.seal(frame())
    told = [(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, bytes(4)), (socket.IPPROTO_IPV6, EXTENSIONS[extension], PADDED)]
    assert open_all(pair, received(pair, packet, told)) == [DropReason.UNSUPPORTED_PROTOCOL]
    assert open_all(pair, received(pair, packet, [], socket.MSG_CTRUNC)) == [DropReason.UNSUPPORTED_PROTOCOL]
    assert frames_of(open_all(pair, received(pair, packet, told[:1]))) == [frame()], "its number was not used up"


def test_an_extension_header_is_no_traffic_class():
    pair = Pair("ah", 6)
    told = [(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, b"\xff" * 8)]
    assert received(pair, pair.seal(frame())[0], told).traffic_class == 0


def test_what_is_too_short_is_malformed():
    for name, version in KINDS:
        pair = Pair(name, version)
        for size in (0, 1, 19):
            whole = bytes(16 if version == 6 else 4) if name.startswith("ah") else None
            packet = read_packet(b"\x45" * size, [], 0, pair.source, whole)
            reasons = open_all(pair, packet)
            assert len(reasons) == 1
            assert reasons[0] in (DropReason.MALFORMED, DropReason.UNKNOWN_SPI)
    pair = Pair("esp", 4)
    assert open_all(pair, read_packet(b"\x4f" + bytes(30), [], 0, pair.source, None)) == [DropReason.MALFORMED]


controls = st.lists(
    st.tuples(
        st.sampled_from([socket.IPPROTO_IPV6, socket.IPPROTO_IP, socket.IPPROTO_UDP]),
        st.one_of(st.sampled_from([socket.IPV6_TCLASS, *EXTENSIONS.values()]), st.integers(0, 255)),
        st.binary(max_size=20),
    ),
    max_size=4,
)
PAIRS = [Pair(name, version) for name, version in KINDS]
FOREIGN = [b"\x0a\x00\x00\x07", bytes(15) + b"\x07"]


@given(st.integers(0, len(PAIRS) - 1), st.binary(max_size=120), controls, st.integers(0, 255), st.booleans())
def test_nothing_that_a_raw_socket_receives_raises(which, packet, control, flags, foreign):
    pair = PAIRS[which]
    ipv6 = len(pair.source) == 16
    source = FOREIGN[ipv6] if foreign else pair.source
    for whole in (None, bytes(16 if ipv6 else 4)):
        found = read_packet(packet, control, flags, source, whole)
        assert 0 <= found.traffic_class <= 255
        for result in open_all(pair, found):
            assert isinstance(result, DropReason)


@given(st.sampled_from(range(len(PAIRS))), st.sampled_from(range(len(PAIRS))))
def test_packets_of_another_mechanism_or_host_are_refused_by_name(sender, receiver):
    one, two = Pair(*KINDS[sender]), Pair(*KINDS[receiver])
    (packet,) = one.seal(frame())
    if one.association == two.association and one.profile == two.profile:
        two = Pair(*KINDS[receiver])
        stranger = FOREIGN[len(two.source) == 16]
        (result,) = two.opener.open_burst(packet, len(packet), stranger, 1.0)
        assert result is DropReason.SOURCE_MISMATCH
        return
    for result in open_all(two, received(one, packet, [])):
        assert isinstance(result, DropReason)


def test_a_foreign_host_uses_up_nothing():
    pair = Pair("esp", 4)
    (packet,) = pair.seal(frame())
    stranger = IpsecOpener([InboundSa(pair.association, pair.profile)])
    assert stranger.open_burst(packet, len(packet), FOREIGN[0], 1.0) == [DropReason.SOURCE_MISMATCH]
    assert frames_of(stranger.open_burst(packet, len(packet), pair.source, 1.0)) == [frame()]


ON_A_LINK = """
import socket, struct, subprocess
from nve.raw_underlay import RawSockets
from tests.nve.ipsec.ipsec_support import Pair, frame
from tests.nve.ipsec.test_raw_underlay import PADDED

def ip(*words): subprocess.run(["ip", *words], check=True)

ip("netns", "add", "far")
ip("link", "add", "veth-here", "type", "veth", "peer", "name", "veth-far", "netns", "far")
ip("addr", "add", "fd00::2/64", "dev", "veth-here", "nodad")
ip("link", "set", "veth-here", "up")
ip("-n", "far", "link", "set", "veth-far", "up")
raw = RawSockets("fd00::2", 51)
raw.receiver.settimeout(5)
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind(("veth-here", 0))
here = link.getsockname()[4]
SEND = (
    "import socket, sys; link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); link.bind(('veth-far', 0));"
    "link.send(bytes.fromhex(sys.argv[1]))"
)

def send(packet):
    data = (here + bytes.fromhex("020000000001") + bytes.fromhex("86dd") + packet).hex()
    subprocess.run(["ip", "netns", "exec", "far", {python!r}, "-c", SEND, data], check=True)

def extended(packet, first, extension=PADDED):
    size = struct.pack("!H", len(packet) - 40 + len(extension))
    return packet[:4] + size + bytes((first,)) + packet[7:40] + extension + packet[40:]

pair = Pair("ah", 6)
def opened():
    (found,) = raw.receive(1, raw.receiver)
    (result,) = pair.opener.open_burst(found.payload, len(found.payload), found.source, 1.0)
    return getattr(result, "value", "opened")

good, other = pair.seal(frame(mark=1), frame(mark=2))
long = bytes((51, 31, 0x1E, 252)) + bytes(252)  # one option of an experiment (RFC 4727)
for what, packet in (("hop-by-hop", extended(good, 0)), ("destination", extended(good, 60)),
                     ("long", extended(good, 60, long)), ("plain", good), ("plain", other)):
    send(packet)
    print(what, opened())
"""


@pytest.mark.live
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None,
    reason="needs root, unshare and ip",
)
def test_extension_headers_put_in_on_the_path_are_refused_on_a_real_link():
    command = ["unshare", "--net", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$0" -c "$1"']
    program = ON_A_LINK.replace("{python!r}", repr(sys.executable))
    done = subprocess.run([*command, sys.executable, program], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.splitlines() == [
        "hop-by-hop unsupported_protocol", "destination unsupported_protocol", "long unsupported_protocol",
        "plain opened", "plain opened",
    ], done.stderr  # fmt: skip

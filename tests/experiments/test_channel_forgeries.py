"""What is made up of a channel's packets: sound in all that needs no key, and refused by who has one."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from experiments.attack_frames import Addresses, forged_packet
from experiments.channel_forgeries import CONTROL_RECORDS, forged_control, forged_data
from experiments.view import Carrier, View, view
from geneve.control.channel import DTLS_PORT, IP_PROTOCOL_AH, IP_PROTOCOL_ESP
from geneve.drops import DropReason
from geneve.outer import ETHERNET_SIZE, IPV4_SIZE
from geneve.security.open import Burst
from tests.nve.dtls.world import World
from tests.nve.ipsec.ipsec_support import Pair, frame, frames_of
from tests.support import ADDRESSES

IPV4, IPV6 = ("192.168.1.1", "192.168.1.2"), ("fd00:6081::1", "fd00:6081::2")
CHANNELS = [carrier for carrier in Carrier if carrier is not Carrier.GENEVE]
BOTH_FAMILIES = pytest.mark.parametrize("ends", [IPV4, IPV6], ids=["ipv4", "ipv6"])
MESSAGE = b"a message that no tenant ever sent, long enough for a datagram"


def addresses(ends: tuple[str, str]) -> Addresses:
    return Addresses(
        "02:ee:00:00:00:01", "02:aa:00:00:00:02", *ends,
        "02:00:00:00:00:01", "02:00:00:00:00:02", "10.0.0.1", "10.0.0.2",
    )  # fmt: skip


def seen(made: bytes) -> View:
    found = view(made)
    assert found is not None
    return found


@BOTH_FAMILIES
@pytest.mark.parametrize("carrier", CHANNELS)
def test_an_observer_reads_the_chosen_spi_and_sequence(carrier: Carrier, ends: tuple[str, str]) -> None:
    packet = forged_packet(addresses(ends), 100, MESSAGE)
    read = seen(forged_data(addresses(ends), carrier, 0x1234, 77, packet, encrypts=True))
    assert (read.carrier, read.spi, read.sequence, read.data) == (carrier, 0x1234, 77, True)
    assert (read.source, read.destination) == ends


@BOTH_FAMILIES
@pytest.mark.parametrize("carrier", CHANNELS)
def test_without_a_cipher_the_forgery_looks_whole(carrier: Carrier, ends: tuple[str, str]) -> None:
    packet = forged_packet(addresses(ends), 100, MESSAGE)
    read = seen(forged_data(addresses(ends), carrier, 0x1234, 77, packet, encrypts=False))
    assert read.packet is not None
    assert read.packet.build() == packet


@BOTH_FAMILIES
@pytest.mark.parametrize("carrier", CHANNELS)
@pytest.mark.parametrize("encrypts", [True, False])
def test_lengths_and_checksums_are_right(carrier: Carrier, ends: tuple[str, str], encrypts: bool) -> None:
    packet = forged_packet(addresses(ends), 100, MESSAGE)
    made = forged_data(addresses(ends), carrier, 5, 6, packet, encrypts)
    rebuilt = Ether(made)
    for layer in (IP, UDP):
        if layer in rebuilt:
            rebuilt[layer].chksum = None
            rebuilt[layer].len = None
    if IPv6 in rebuilt:
        rebuilt[IPv6].plen = None
    assert bytes(rebuilt) == made


@BOTH_FAMILIES
def test_ip_says_which_protocol_follows(ends: tuple[str, str]) -> None:
    packet = forged_packet(addresses(ends), 100, MESSAGE)
    for carrier, protocol in ((Carrier.ESP, IP_PROTOCOL_ESP), (Carrier.AH, IP_PROTOCOL_AH)):
        layers = Ether(forged_data(addresses(ends), carrier, 5, 6, packet, encrypts=True))
        assert (layers[IPv6].nh if IPv6 in layers else layers[IP].proto) == protocol


def test_sequence_numbers_wrap_where_the_field_ends() -> None:
    packet = forged_packet(addresses(IPV4), 100, MESSAGE)
    read = seen(forged_data(addresses(IPV4), Carrier.ESP, 5, 2**32 + 3, packet, encrypts=True))
    assert read.sequence == 3


def test_plain_geneve_is_no_channel() -> None:
    with pytest.raises(ValueError, match="no channel"):
        forged_data(addresses(IPV4), Carrier.GENEVE, 1, 1, b"", encrypts=True)


@pytest.mark.parametrize("variant", CONTROL_RECORDS)
def test_records_of_sessions_are_whole_and_unprotected(variant: str) -> None:
    made = forged_control(addresses(IPV4), variant, 9)
    read = seen(made)
    assert (read.carrier, read.data, read.spi, read.sequence) == (Carrier.DTLS, False, 0, 9)
    assert read.end == len(made), "the record fills the datagram"
    assert Ether(made)[UDP].dport == DTLS_PORT


def test_alerts_are_fatal_and_close_notify_in_turn() -> None:
    alerts = [forged_control(addresses(IPV4), "alert", number)[-2:] for number in range(4)]
    assert alerts == [b"\x02\x14", b"\x01\x00"] * 2


def test_an_unknown_record_is_an_error() -> None:
    with pytest.raises(KeyError):
        forged_control(addresses(IPV4), "server_hello", 0)


@pytest.mark.parametrize("name", ["esp-short", "esp-null-short", "ah-short"])
def test_a_receiver_with_the_key_gets_as_far_as_the_icv_and_refuses(name: str) -> None:
    pair = Pair(name)
    [true] = pair.seal(frame())
    carrier = Carrier.AH if name.startswith("ah") else Carrier.ESP
    geneve = forged_packet(addresses(pair.addresses), 100, MESSAGE)
    forged = forged_data(
        addresses(pair.addresses), carrier, pair.association.spi, 50, geneve, encrypts=name.startswith("esp-short")
    )  # fmt: skip
    packet = forged[ETHERNET_SIZE:] if carrier is Carrier.AH else forged[ETHERNET_SIZE + IPV4_SIZE :]
    assert pair.open(packet) == [DropReason.AUTHENTICATION_FAILED]
    assert frames_of(pair.open(true)) == [frame()], "what comes behind it is not refused for it"


@pytest.mark.parametrize("variant", CONTROL_RECORDS)
def test_an_established_session_goes_on_whatever_record_comes_unprotected(variant: str) -> None:
    world = World()
    world.join()
    for number in range(4):
        forged = Ether(forged_control(addresses(IPV4), variant, number))
        for node, peer in (("nve1", "nve2"), ("nve2", "nve1")):
            world.nodes[node].take(bytes(forged[UDP].payload), ADDRESSES[peer])
        world.settle()
    for node, peer in (("nve1", "nve2"), ("nve2", "nve1")):
        [record] = world.nodes[node].seal(peer)
        [burst] = world.nodes[peer].take(record, ADDRESSES[node])
        assert isinstance(burst, Burst)

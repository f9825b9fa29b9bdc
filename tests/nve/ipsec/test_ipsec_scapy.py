"""Both ways with Scapy's IPsec, which others wrote: what it seals opens here, what is sealed here opens there."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import AH, ESP, IPSecIntegrityError, SecurityAssociation
from scapy.packet import Raw

from geneve.control.channel import ChannelProtocol
from geneve.drops import DropReason
from nve.ipsec.esp import NEXT_IPV4
from nve.ipsec.keys import derive_keys
from tests.nve.ipsec.ipsec_support import KINDS, SPI, Pair, frame, frames_of

GENEVE = bytes.fromhex("0000655800006400")
HIGH = 3
"""High 32 bits of the extended numbers here."""


def start(name: str) -> int:
    return 0 if "short" in name else HIGH << 32 | 41


def scapy_sa(pair: Pair, **more) -> SecurityAssociation:
    channel = pair.profile.channel
    keys = derive_keys(pair.association, channel)
    if channel.protocol is ChannelProtocol.AH:
        how = {"proto": AH, "auth_algo": "SHA2-256-128", "auth_key": keys.integrity}
    elif keys.encryption:
        how = {"proto": ESP, "crypt_algo": "AES-GCM", "crypt_key": keys.encryption + keys.salt}
    else:
        how = {"proto": ESP, "crypt_algo": "NULL", "auth_algo": "SHA2-256-128", "auth_key": keys.integrity}
    if channel.extended_sequence_numbers:
        how |= {"esn_en": True, "esn": HIGH}
    return SecurityAssociation(spi=SPI, **how, **more)


def outer(pair: Pair):
    source, destination = pair.addresses
    if ":" in source:
        return IPv6(src=source, dst=destination, hlim=64)
    return IP(src=source, dst=destination, flags="DF", id=0, ttl=64)


def as_ip(pair: Pair, sealed: bytes):
    """The IP packet that carries what a sealer made."""
    if pair.profile.channel.protocol is ChannelProtocol.AH:
        return IPv6(sealed) if sealed[0] >> 4 == 6 else IP(sealed)
    made = outer(pair) / ESP(sealed)
    return type(made)(bytes(made))


def from_ip(pair: Pair, packet) -> bytes:
    """What an opener gets of an IP packet."""
    return bytes(packet) if pair.profile.channel.protocol is ChannelProtocol.AH else bytes(packet[ESP])


@pytest.mark.parametrize(("name", "version"), KINDS)
@pytest.mark.parametrize("size", [60, 61, 62, 63, 1400])
def test_scapy_opens_what_is_sealed_here(name, version, size):
    pair = Pair(name, version, at=start(name))
    (sealed,) = pair.seal(frame(size))
    packet = as_ip(pair, sealed)
    assert packet[AH if "ah" in name else ESP].spi == SPI
    opened = scapy_sa(pair).decrypt(packet)
    opened = type(opened)(bytes(opened))
    assert opened[UDP].dport == 6081
    assert bytes(opened[UDP].payload) == GENEVE + frame(size)
    if version == 6:
        wire = opened[UDP].chksum
        del opened[UDP].chksum
        assert type(opened)(bytes(opened))[UDP].chksum == wire, "Scapy computes the same checksum"


@pytest.mark.parametrize(("name", "version"), KINDS)
@pytest.mark.parametrize("size", [60, 61, 62, 63, 1400])
def test_what_scapy_seals_opens_here(name, version, size):
    pair = Pair(name, version, at=start(name))
    plain = outer(pair) / UDP(sport=50000, dport=6081) / Raw(GENEVE + frame(size))
    made = scapy_sa(pair).encrypt(type(plain)(bytes(plain)), seq_num=42)
    assert frames_of(pair.open(from_ip(pair, made))) == [frame(size)]
    assert pair.open(from_ip(pair, made)) == [DropReason.REPLAYED]
    more = [
        from_ip(pair, scapy_sa(pair).encrypt(type(plain)(bytes(plain)), seq_num=number)) for number in range(43, 53)
    ]
    assert frames_of(pair.open_burst(b"".join(more), len(more[0]))) == [frame(size)] * 10


@pytest.mark.parametrize(("name", "version"), [kind for kind in KINDS if "short" not in kind[0]])
def test_scapy_refuses_what_has_other_high_bits(name, version):
    pair = Pair(name, version, at=start(name) + (1 << 32))
    (sealed,) = pair.seal(frame())
    with pytest.raises((IPSecIntegrityError, InvalidTag)):
        scapy_sa(pair).decrypt(as_ip(pair, sealed))


@pytest.mark.parametrize(("name", "version"), [kind for kind in KINDS if "ah" in kind[0]])
def test_scapy_agrees_on_what_routers_may_change(name, version):
    pair = Pair(name, version, at=start(name))
    (sealed,) = pair.seal(frame())
    packet = as_ip(pair, sealed)
    if version == 4:
        packet.tos, packet.ttl = 0xB9, 3
    else:
        packet.tc, packet.hlim, packet.fl = 0xB9, 3, 0x12345
    changed = bytes(packet)
    opened = scapy_sa(pair).decrypt(type(packet)(changed))
    assert bytes(type(opened)(bytes(opened))[UDP].payload) == GENEVE + frame()
    assert frames_of(pair.open(changed)) == [frame()]


@pytest.mark.parametrize("name", ["esp", "esp-short", "esp-null", "esp-null-short"])
def test_tunnel_mode_both_ways(name):
    pair = Pair(name, at=start(name))
    inner = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / b"tenant")
    tunnel = scapy_sa(pair, tunnel_header=outer(pair))
    number = pair.out.reserve(1)
    sealed = pair.out.codec.seal(number, inner, NEXT_IPV4)
    assert bytes(tunnel.decrypt(as_ip(pair, sealed))) == inner
    made = from_ip(pair, tunnel.encrypt(IP(inner), seq_num=number & 0xFFFFFFFF))
    assert pair.out.codec.unpack(pair.out.codec.open(made, number)) == (NEXT_IPV4, inner)


def test_sizes_are_scapys():
    for name, version in KINDS:
        pair = Pair(name, version, at=start(name))
        (sealed,) = pair.seal(frame(77))
        plain = outer(pair) / UDP(sport=50000, dport=6081) / Raw(GENEVE + frame(77))
        assert len(bytes(scapy_sa(pair).encrypt(type(plain)(bytes(plain)), seq_num=42))) == len(
            bytes(as_ip(pair, sealed))
        ), (name, version)

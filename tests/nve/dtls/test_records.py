"""Records of established sessions: what they show, what is refused, and hostile bytes."""

from __future__ import annotations

import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geneve.control.channel import Cipher
from geneve.drops import DropReason
from geneve.errors import ConfigError, ParseError
from geneve.inner import parse_inner
from geneve.option import Option
from geneve.security.association import SequenceExhaustedError
from geneve.security.open import Burst
from geneve.security.seal import Item
from nve.datagrams import packed_address
from nve.dtls import records
from nve.dtls.context import SUITES, DtlsContext
from nve.dtls.session import READ_AT_ONCE
from nve.plain import plain_packets
from tests.nve.dtls.world import World, credentials, profile
from tests.support import ADDRESSES, udp_frame

BOTH = (Cipher.AES_128_GCM, Cipher.NULL)
NVE1, NVE2 = ADDRESSES["nve1"], ADDRESSES["nve2"]


def joined(cipher: Cipher = Cipher.AES_128_GCM) -> World:
    world = World(terms=profile(cipher))
    world.join()
    return world


@pytest.mark.parametrize("cipher", BOTH)
@pytest.mark.parametrize("size", [1, 100, 1372, 8900])
def test_every_record_is_longer_by_the_same(cipher: Cipher, size: int) -> None:
    frame = udp_frame("nve1", "nve2", b"x" * size)
    sealer = joined(cipher).nodes["nve1"].sessions.sealer(100, "nve2")
    assert sealer is not None
    [record] = sealer.seal([Item(frame)])
    [packet] = plain_packets(100, [frame], [()])
    assert len(record) == len(packet) + SUITES[cipher].overhead
    assert records.is_data(record)


@pytest.mark.parametrize("cipher", BOTH)
def test_who_sees_what(cipher: Cipher) -> None:
    frame = udp_frame("nve1", "nve2", b"a secret of the tenant")
    sealer = joined(cipher).nodes["nve1"].sessions.sealer(100, "nve2")
    assert sealer is not None
    [record] = sealer.seal([Item(frame)])
    assert (plain_packets(100, [frame], [()])[0] in record) is (cipher is Cipher.NULL)


@pytest.mark.parametrize("cipher", BOTH)
def test_every_flipped_bit_is_refused_and_the_session_goes_on(cipher: Cipher) -> None:
    world = joined(cipher)
    [record] = world.nodes["nve1"].seal("nve2", 1, 8)
    server = world.nodes["nve2"]
    for bit in range(8 * len(record)):
        flipped = bytearray(record)
        flipped[bit // 8] ^= 1 << bit % 8
        server.take(bytes(flipped), NVE1)
    assert not server.received
    server.take(record, NVE1)
    assert len(server.received) == 1
    assert world.both()
    assert world.nodes["nve1"].seal("nve2")


@pytest.mark.parametrize("cipher", BOTH)
def test_a_record_is_delivered_once(cipher: Cipher) -> None:
    world = joined(cipher)
    server, sealed = world.nodes["nve2"], world.nodes["nve1"].seal("nve2", 40)
    size = len(sealed[0])
    server.take(b"".join(sealed[:20]), NVE1, size)
    assert server.take(b"".join(sealed[10:30]), NVE1, size)[1:] == [DropReason.RECORD_REFUSED] * 10
    for record in sealed[:30]:
        assert server.take(record, NVE1) == [DropReason.RECORD_REFUSED]
    for record in reversed(sealed[30:]):
        server.take(record, NVE1)
    assert len(server.received) == len(set(server.received)) == 40


def test_the_replay_window_is_64_records_wide() -> None:
    """OpenSSL's window is not the profile's to choose (RFC 6347, section 4.1.2.6)."""
    world = joined()
    server, sealed = world.nodes["nve2"], world.nodes["nve1"].seal("nve2", 101)
    server.take(sealed[100], NVE1)
    accepted = [index for index in range(100) if isinstance(server.take(sealed[index], NVE1)[0], Burst)]
    assert accepted == list(range(37, 100))


@pytest.mark.parametrize("size", [60, 700, 1372, 7000, 8900])
@pytest.mark.parametrize("cipher", BOTH)
def test_bursts_of_all_sizes_with_damage_in_between(cipher: Cipher, size: int) -> None:
    world = joined(cipher)
    server, count = world.nodes["nve2"], 3 * READ_AT_ONCE // size + 5
    sealed = world.nodes["nve1"].seal("nve2", count, size)
    length = len(sealed[0])
    damaged = {0, count // 2, count // 2 + 1, count - 1}
    stream = b"".join(
        record[:-1] + bytes([record[-1] ^ 1]) if index in damaged else record for index, record in enumerate(sealed)
    )
    server.take(stream, NVE1, length)
    assert server.drops == [DropReason.RECORD_REFUSED] * len(damaged)
    assert len(server.received) == count - len(damaged)
    assert server.received == sorted(server.received), "in order"
    server.take(b"".join(sealed), NVE1, length)
    assert len(server.received) == len(set(server.received)) > count - len(damaged), "whole, the last is new"


def test_a_burst_with_a_shorter_last_record_and_one_with_alien_records() -> None:
    world = joined()
    client, server = world.nodes["nve1"], world.nodes["nve2"]
    sealed = client.seal("nve2", 6, 200)
    length = len(sealed[0])
    server.take(b"".join(sealed[:3] + client.seal("nve2", 1, 20)), NVE1, length)
    assert len(server.received) == 4
    assert not server.drops
    garbage, alien = bytes(length), records.hello_request(1).ljust(length, b"\0")
    server.take(b"".join([sealed[3], garbage, sealed[4], alien, sealed[5]]), NVE1, length)
    assert len(server.received) == 7
    assert server.drops == [DropReason.MALFORMED] * 2


def test_two_records_in_one_datagram_are_both_read() -> None:
    world = joined()
    server = world.nodes["nve2"]
    server.take(b"".join(world.nodes["nve1"].seal("nve2", 2)), NVE1)
    assert len(server.received) == 2


def test_options_travel_and_are_authenticated() -> None:
    world = joined()
    option = Option(0x0104, 0x01, b"\x01\x02\x03\x04")
    sealer = world.nodes["nve1"].sessions.sealer(100, "nve2")
    assert sealer is not None
    frame = udp_frame()
    sealed = sealer.seal_burst([frame] * 5, parse_inner(frame), [(option.build(),)] * 5)
    world.nodes["nve2"].take(b"".join(sealed), NVE1, len(sealed[0]))
    [burst] = world.nodes["nve2"].bursts
    assert burst.opened.options() == (option,)
    assert burst.opened.kinds == {(0x0104, 0x01)}
    assert burst.opened.header.vni == 100


def test_what_the_sealer_refuses() -> None:
    world = joined()
    sealer = world.nodes["nve1"].sessions.sealer(100, "nve2")
    assert sealer is not None
    assert sealer.associations == ()
    with pytest.raises(ValueError, match="no dummy"):
        sealer.seal_dummy(100)
    sealer.check_room([bytes(252)])
    with pytest.raises(ValueError, match="252"):
        sealer.check_room([bytes(256)])
    world.nodes["nve1"].apply(None)
    assert sealer.seal_burst([udp_frame()], parse_inner(udp_frame()), [()]) == []
    with pytest.raises(SequenceExhaustedError):
        sealer.seal([Item(udp_frame())])


def test_credentials_that_cannot_be_used_are_named() -> None:
    good, other = credentials("nve1"), credentials("nve2")
    for ca, certificate, key, names in (
        (good.key, good.certificate, good.key, good.key),
        (good.ca, good.key, good.key, good.key),
        (good.ca, good.certificate, other.key, other.key),
        (good.ca, "/nowhere", good.key, "/nowhere"),
    ):
        with pytest.raises(ConfigError, match=names):
            DtlsContext(type(good)(ca, certificate, key), Cipher.AES_128_GCM, 1472)


def test_splitting_and_packing() -> None:
    one, two = records.hello_request(0), records.hello_request(2**48 - 1)
    assert records.split(one + two) == [one, two]
    assert list(records.pack([one, two], 50)) == [one + two]
    assert list(records.pack([one, two], 49)) == [one, two]
    for broken in (b"", one[:-1], one + b"x", one[:12], b"\x16" * 13, b"\x18" + one[1:], one[:1] + b"\x03" + one[2:]):
        with pytest.raises(ParseError):
            records.split(broken)


def test_the_cookie_of_a_hello() -> None:
    world = joined()
    kinds = {records.message_type(datagram) for _, _, datagram in world.log}
    assert {records.CLIENT_HELLO, records.HELLO_VERIFY_REQUEST} <= kinds
    first, answer, second = (datagram for _, _, datagram in world.log[:3])
    cookie = records.hello_cookie(second)
    assert len(cookie) == 32
    assert records.message_body(answer).endswith(b"\x20" + cookie)
    assert records.hello_cookie(first) == records.hello_cookie(answer) == b""


@given(st.binary(min_size=records.HEADER_SIZE, max_size=200), st.integers(0, 199), st.integers(0, 255))
def test_what_is_read_of_any_record(record: bytes, place: int, value: int) -> None:
    hello = bytearray(_flights()[2])
    hello[place % len(hello)] = value
    for one in (record, bytes(hello), bytes(hello[: max(records.HEADER_SIZE, place)])):
        cookie, random = records.hello_cookie(one), records.hello_random(one)
        assert cookie == b"" or (random is not None and cookie in one)
        assert records.fatal_alert(one) is None or one[0] == records.ALERT
        assert 0 <= records.number(one) < 2**48
        assert records.renumbered(records.renumbered(one, 5), records.number(one)) == one


@functools.lru_cache
def _world(cipher: Cipher) -> World:
    return joined(cipher)


@functools.lru_cache
def _flights() -> tuple[bytes, ...]:
    """Datagrams of a handshake and some after it, for hypothesis to change."""
    world = joined()
    world.send("nve1", "nve2", 2)
    world.settle()
    return (*[datagram for _, _, datagram in world.log], records.hello_request(3))


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """Bytes of any kind; whole records of any type, epoch and content; true flights with some bytes changed."""
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return draw(st.binary(max_size=200))
    if kind == 1:
        fragment = draw(st.binary(max_size=100))
        head = bytes([draw(st.integers(18, 25))]) + draw(st.sampled_from([b"\xfe\xfd", b"\xfe\xff", b"\x03\x03"]))
        head += draw(st.integers(0, 3)).to_bytes(2, "big") + draw(st.binary(min_size=6, max_size=6))
        return head + len(fragment).to_bytes(2, "big") + fragment
    datagram = bytearray(draw(st.sampled_from(_flights())))
    for _ in range(draw(st.integers(0, 3))):
        datagram[draw(st.integers(0, len(datagram) - 1))] = draw(st.integers(0, 255))
    return bytes(datagram[: draw(st.integers(1, len(datagram)))]) if draw(st.booleans()) else bytes(datagram)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(BOTH), st.lists(hostile(), min_size=1, max_size=6), st.integers(0, 40), st.booleans())
def test_hostile_bytes_raise_nothing_and_end_no_session(
    cipher: Cipher, datagrams: list[bytes], size: int, to_client: bool
) -> None:
    world = _world(cipher)
    node, source = (world.nodes["nve1"], NVE2) if to_client else (world.nodes["nve2"], NVE1)
    world.now += 1
    for datagram in datagrams:
        for one in (size or len(datagram), len(datagram)):
            results = node.sessions.open_burst(datagram, one, packed_address(source), world.now)
            assert all(isinstance(result, DropReason) for result in results)
        node.sessions.run_due(world.now)
    world.nodes["nve2"].received.clear()
    assert world.both()
    for record in world.nodes["nve1"].seal("nve2", 2):
        world.nodes["nve2"].take(record, NVE1)
    assert len(world.nodes["nve2"].received) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(hostile(), max_size=8), st.booleans())
def test_hostile_bytes_amid_a_handshake_raise_nothing(datagrams: list[bytes], to_client: bool) -> None:
    world = World()
    to, sender = ("nve1", "nve2") if to_client else ("nve2", "nve1")
    world.nodes["nve1"].sessions.want("nve2", world.now)
    for datagram in datagrams:
        world.collect()
        world.under_way.append((sender, to, datagram))
        world.deliver()
    assert world.run(60, lambda: (world.nodes["nve1"].sessions.want("nve2", world.now), world.both())[1])

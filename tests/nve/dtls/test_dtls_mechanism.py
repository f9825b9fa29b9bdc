"""DTLS as the data path uses it: what is refused before anything changes, sizes, peers that move, what is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from geneve.control.channel import Cipher
from geneve.control.profile import Profile
from geneve.control.tls import TlsFiles
from geneve.errors import ConfigError
from geneve.header import BASE_HEADER_SIZE
from geneve.inner import parse_inner
from geneve.overhead import channel_size, largest_datagram, tenant_mtu
from geneve.security.association import SequenceExhaustedError
from geneve.security.seal import Item
from nve.dtls import records
from nve.dtls.budget import Budget
from nve.dtls.link import Ended, SessionEvent
from nve.dtls.mechanism import NOTED_AT_ONCE, NOTED_PER_SECOND, Dtls
from nve.dtls.sessions import DtlsSessions
from nve.plain import plain_packets
from nve.protection import Chosen, Use
from tests.nve.dtls.world import MTU, Node, World, credentials, profile
from tests.support import ADDRESSES, udp_frame

LARGE_MTU = 20_000
HEADERS = len(udp_frame("nve1", "nve2", b"")) + BASE_HEADER_SIZE


def mechanism(terms: Profile, events: list[SessionEvent]) -> Dtls:
    assert terms.channel is not None
    sessions = DtlsSessions("nve1", ADDRESSES["nve1"], credentials("nve1"), MTU, terms.channel)
    return Dtls(terms.channel, sessions, events.append)


def test_more_than_one_profile_is_refused_before_anything_changes() -> None:
    dtls = mechanism(profile(), [])
    dtls.check([])
    dtls.check([profile()])
    with pytest.raises(ConfigError, match="'a', 'b'"):
        dtls.check(iter([profile(name="a"), profile(name="b")]))


def test_options_and_frames_without_room_are_refused_before_there_is_a_session() -> None:
    dtls = mechanism(profile(), [])
    most = 2**14 - BASE_HEADER_SIZE

    def use(frame: int, options: tuple[bytes, ...] = ()) -> Use:
        return Use(100, "nve2", ADDRESSES["nve2"], False, frame, options)

    assert dtls.sealer(use(most), Chosen()) is None
    assert dtls.sealer(use(1500, (bytes(252),)), Chosen()) is None
    with pytest.raises(ValueError, match="16384"):
        dtls.sealer(use(most + 1), Chosen())
    with pytest.raises(ValueError, match="16384"):
        dtls.sealer(use(most - 3, (bytes(4),)), Chosen())
    with pytest.raises(ValueError, match="252"):
        dtls.sealer(use(1500, (bytes(256),)), Chosen())


@pytest.mark.parametrize("cipher", [Cipher.AES_128_GCM, Cipher.NULL])
@pytest.mark.parametrize("family", [4, 6])
def test_no_packet_is_larger_than_a_record_has_room_for(cipher: Cipher, family: int) -> None:
    terms = profile(cipher)
    assert largest_datagram(LARGE_MTU, family, terms.channel) == 8 + 2**14
    whole = channel_size(8 + 2**14, family, terms.channel) + {4: 20, 6: 40}[family]
    assert largest_datagram(whole, family, terms.channel) == 8 + 2**14
    assert largest_datagram(whole - 1, family, terms.channel) == 8 + 2**14 - 1
    assert tenant_mtu(LARGE_MTU, family, 0, terms) == 2**14 - BASE_HEADER_SIZE - 14
    assert tenant_mtu(LARGE_MTU, family, 0) > 2**14, "without DTLS there is no such end"


@pytest.mark.parametrize("cipher", [Cipher.AES_128_GCM, Cipher.NULL])
def test_a_packet_without_room_is_counted_and_ends_nothing(cipher: Cipher) -> None:
    world = World(terms=profile(cipher), mtu=LARGE_MTU)
    world.join()
    client, server = world.nodes["nve1"], world.nodes["nve2"]
    sealer = client.sessions.sealer(100, "nve2")
    assert sealer is not None
    frames = [udp_frame("nve1", "nve2", bytes(size - HEADERS)) for size in (500, 2**14 + 1, 2**14, 17_000, 600)]
    sealed = sealer.seal_burst(frames, parse_inner(frames[0]), [()] * 5)
    assert len(sealed) == 3
    for record in sealed:
        server.take(record, ADDRESSES["nve1"])
    assert server.received == [frames[0], frames[2], frames[4]]
    assert client.sessions.document()["nve2"]["packets_too_large"] == 2
    with pytest.raises(SequenceExhaustedError):
        sealer.seal([Item(frames[1])])
    assert len(sealer.seal([Item(frames[2])])) == 1
    world.settle()
    assert world.both()
    assert not [event for node in world.nodes.values() for event in node.events if isinstance(event, Ended)]


def test_a_session_that_failed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """What SSL_write refuses is the end of a connection; what it sealed before that still leaves."""
    world = World(mtu=LARGE_MTU)
    world.join()
    link = world.nodes["nve1"].sessions._links["nve2"]
    small = plain_packets(100, [udp_frame()], [()])[0]
    large = bytes(records.MAX_PLAINTEXT + 1)
    monkeypatch.setattr(records, "MAX_PLAINTEXT", len(large))
    assert len(link.seal([small, large, small])) == 1
    world.settle()
    [ended] = [event for event in world.nodes["nve1"].events if isinstance(event, Ended)]
    assert "sending over DTLS failed" in ended.reason


def test_a_sealer_finds_the_session_of_a_peer_that_has_moved() -> None:
    world = World()
    world.join()
    node = world.nodes["nve1"]
    sealer = node.sessions.sealer(100, "nve2")
    assert sealer is not None
    frame = udp_frame("nve1", "nve2", b"x")
    before = node.sessions.version
    node.sessions.apply({"nve2": "192.168.1.99"}, world.terms, world.now)
    assert node.sessions.version > before, "who holds sealers is told"
    assert node.sessions.sealer(100, "nve2") is None
    assert sealer.seal_burst([frame], parse_inner(frame), [()]) == []
    node.apply(world.terms)
    world.run(2.0)
    world.join()
    [record] = sealer.seal_burst([frame], parse_inner(frame), [()])
    world.nodes["nve2"].take(record, ADDRESSES["nve1"])
    assert world.nodes["nve2"].received == [frame]
    node.apply(None)
    assert sealer.seal_burst([frame], parse_inner(frame), [()]) == []
    assert sealer.terms == world.terms


def test_applying_raises_nothing_though_the_files_are_gone(tmp_path: Path) -> None:
    """Contexts are made once: a profile of another cipher, which the data path refuses before, has no sessions."""
    files = credentials("nve1")
    copies = [Path(shutil.copy(file, tmp_path)) for file in (files.ca, files.certificate, files.key)]
    world = World()
    world.nodes["nve1"] = Node(world, "nve1", TlsFiles(*map(str, copies)))
    for file in copies:
        file.unlink()
    world.join()
    node = world.nodes["nve1"]
    node.apply(profile(Cipher.NULL))
    assert not node.sessions.established("nve2")
    assert node.sessions.document() == {}
    node.apply(world.terms)
    world.run(2.0)
    world.join()


def test_credentials_are_read_when_the_sessions_are_made() -> None:
    files, channel = credentials("nve1"), profile(Cipher.NULL).channel
    assert channel is not None
    with pytest.raises(ConfigError, match="/nowhere"):
        DtlsSessions("nve1", ADDRESSES["nve1"], type(files)(files.ca, "/nowhere", files.key), MTU, channel)


class _Told(DtlsSessions):
    """Sessions of which ``many`` end at each run."""

    many = 0

    def take_events(self) -> list[SessionEvent]:
        return [Ended("nve2", "so it is")] * self.many


def test_not_more_is_told_than_a_log_has_room_for() -> None:
    terms, events = profile(), list[SessionEvent]()
    assert terms.channel is not None
    sessions = _Told("nve1", ADDRESSES["nve1"], credentials("nve1"), MTU, terms.channel)
    dtls = Dtls(terms.channel, sessions, events.append)
    sessions.many = NOTED_AT_ONCE
    dtls.run_due(1000.0)
    assert len(events) == NOTED_AT_ONCE
    for _ in range(20):
        dtls.run_due(1010.0)
    assert len(events) == NOTED_AT_ONCE + int(10 * NOTED_PER_SECOND)
    assert dtls.document()["events_not_noted"] == 21 * NOTED_AT_ONCE - len(events)


def test_a_budget() -> None:
    budget = Budget(2.0, 3)
    assert [budget.take(10.0) for _ in range(5)] == [True] * 3 + [False] * 2
    ready = budget.ready_at(10.0)
    assert 10.5 <= ready < 10.51
    assert budget.ready_at(ready) == ready
    assert not budget.take(9.0), "a clock that goes back brings nothing"
    assert budget.take(ready)
    assert not budget.take(ready)
    assert [budget.take(100.0) for _ in range(4)] == [True] * 3 + [False]

"""Sessions between NVEs: made, replaced and ended on links that behave, and on links that do not."""

from __future__ import annotations

import math
import time

import pytest

from geneve.control.channel import Cipher
from geneve.control.tls import TlsFiles
from geneve.drops import DropReason
from geneve.security.open import Burst
from nve.dtls import records
from nve.dtls.link import DRAIN_SECONDS, HANDSHAKE_SECONDS, SWITCH_SECONDS, Ended, Established, Failed
from tests.nve.dtls.world import MTU, Node, World, credentials, lossy, nothing_arrives, nva_credentials, profile
from tests.support import ADDRESSES

BOTH = (Cipher.AES_128_GCM, Cipher.NULL)
NVE1, NVE2 = ADDRESSES["nve1"], ADDRESSES["nve2"]


def handshakes(world: World, name: str) -> list[Established]:
    return [event for event in world.nodes[name].events if isinstance(event, Established)]


def hellos(world: World) -> int:
    """ClientHellos sent until now."""
    return sum(records.message_type(datagram) == records.CLIENT_HELLO for _, _, datagram in world.log)


@pytest.mark.parametrize("cipher", BOTH)
@pytest.mark.parametrize("wisher", ["nve1", "nve2"])
def test_either_nve_can_wish_for_a_session_and_the_lower_address_is_the_client(cipher: Cipher, wisher: str) -> None:
    world = World(terms=profile(cipher))
    world.join(wisher, "nve1" if wisher == "nve2" else "nve2")
    assert [event.client for event in handshakes(world, "nve1")] == [True]
    assert [event.client for event in handshakes(world, "nve2")] == [False]
    assert world.send("nve1", "nve2", 20) == world.send("nve2", "nve1", 20) == 20
    world.settle()
    for node, peer in (("nve1", "nve2"), ("nve2", "nve1")):
        there = world.nodes[node]
        assert len(there.received) == 20
        assert not there.drops
        whose = {burst.opened.association for burst in there.bursts}
        [end] = whose
        assert end is not None
        assert (end.sender, end.audience, end.profile, end.vni, end.rule) == (peer, node, "dtls", None, None)


def test_no_datagram_of_a_handshake_is_larger_than_the_underlay_has_room_for() -> None:
    world = World()
    world.join()
    sizes = [len(datagram) for _, _, datagram in world.log]
    assert max(sizes) <= MTU - 28
    small = World(mtu=576)
    small.join()
    assert max(len(datagram) for _, _, datagram in small.log) <= 576 - 28


def test_no_state_is_kept_for_a_client_that_does_not_return_its_cookie() -> None:
    world = World()
    world.nodes["nve1"].sessions.want("nve2", world.now)
    world.collect()
    first = world.under_way.pop()[2]
    for _ in range(50):
        world.nodes["nve2"].take(first, NVE1)
    answers = world.nodes["nve2"].sessions.run_due(world.now)
    assert len(answers) == 50
    assert all(len(answer.payload) <= len(first) for answer in answers), "more would amplify a flood"
    assert not world.nodes["nve2"].sessions.document()["nve1"]["handshaking"]


def test_a_cookie_is_good_for_its_client_only_and_not_for_ever() -> None:
    world = World(("nve1", "nve2", "nve3"))
    world.nodes["nve1"].sessions.want("nve3", world.now)
    world.collect()
    world.deliver()
    world.collect()
    world.deliver()
    world.collect()
    [(_, _, second)] = world.under_way
    server = world.nodes["nve3"]
    server.take(second, NVE2)
    assert not server.sessions.document()["nve2"]["handshaking"]
    world.now += 200
    server.take(second, NVE1)
    assert not server.sessions.document()["nve1"]["handshaking"]
    world.now -= 200
    server.take(second, NVE1)
    assert server.sessions.document()["nve1"]["handshaking"]


def test_simultaneous_wishes_make_one_session() -> None:
    world = World()
    for name, peer in (("nve1", "nve2"), ("nve2", "nve1")):
        world.nodes[name].sessions.want(peer, world.now)
    world.run(20)
    assert len(handshakes(world, "nve1")) == len(handshakes(world, "nve2")) == 1


def test_three_nves_have_sessions_with_each_other() -> None:
    world = World(("nve1", "nve2", "nve3"))
    pairs = [("nve2", "nve1"), ("nve3", "nve1"), ("nve2", "nve3")]
    for one, other in pairs:
        world.nodes[one].sessions.want(other, world.now)
    world.settle()
    for one, other in pairs:
        assert world.both(one, other)
        world.send(one, other, 3)
        world.send(other, one, 3)
    world.settle()
    for node in world.nodes.values():
        assert len(node.received) == 6
        assert not node.drops


@pytest.mark.parametrize("seed", range(6))
def test_a_session_is_made_on_a_link_that_loses_duplicates_and_reorders(seed: int) -> None:
    world = World()
    world.spoil = lossy(seed, 0.2)
    wisher, peer = ("nve1", "nve2") if seed % 2 else ("nve2", "nve1")

    def wished() -> bool:
        world.nodes[wisher].sessions.want(peer, world.now)
        return world.both()

    assert world.run(600, wished)
    world.spoil = lambda under_way: under_way
    world.run(20)
    for node in world.nodes.values():
        node.received.clear()
    world.send("nve1", "nve2")
    world.send("nve2", "nve1")
    world.settle()
    assert [len(node.received) for node in world.nodes.values()] == [1, 1]


def test_a_lost_flight_is_sent_again_by_the_protocols_timer() -> None:
    """OpenSSL's clock cannot be set: this takes a second."""
    world = World()
    began = time.monotonic()
    world.now = began
    world.nodes["nve1"].sessions.want("nve2", world.now)
    world.collect()
    world.under_way.clear()
    while not world.both():
        deadline = world.nodes["nve1"].sessions.next_deadline()
        assert deadline is not None
        assert deadline < began + HANDSHAKE_SECONDS, "another handshake would begin"
        time.sleep(max(0.0, deadline - time.monotonic()))
        world.now = time.monotonic()
        world.settle()
    [event] = handshakes(world, "nve1")
    assert 0.9 < event.seconds < HANDSHAKE_SECONDS


def test_a_wish_ends_when_nobody_answers() -> None:
    world = World()
    world.spoil = nothing_arrives
    world.nodes["nve1"].sessions.want("nve2", world.now)
    world.run(120)
    failures = [event for event in world.nodes["nve1"].events if isinstance(event, Failed)]
    assert 3 <= len(failures) <= 8
    assert "not complete" in failures[0].reason
    assert world.nodes["nve1"].sessions.next_deadline() is None


@pytest.mark.parametrize("restarted", ["nve1", "nve2"])
@pytest.mark.parametrize("speaker", ["nve1", "nve2"])
def test_either_side_can_be_restarted(restarted: str, speaker: str) -> None:
    world = World()
    world.join()
    world.nodes[restarted].start()
    listener = "nve1" if speaker == "nve2" else "nve2"
    for _ in range(4):
        world.send(speaker, listener)
        world.run(1.0)
    assert world.both()
    world.nodes[listener].received.clear()
    assert world.send(speaker, listener, 5) == 5
    world.settle()
    assert len(world.nodes[listener].received) == 5


def test_a_server_restarted_amid_a_handshake_gets_another() -> None:
    world = World()
    world.nodes["nve1"].sessions.want("nve2", world.now)
    for _ in range(3):
        world.collect()
        world.deliver()
    world.nodes["nve2"].start()
    world.run(HANDSHAKE_SECONDS + 3)
    assert world.both()


@pytest.mark.parametrize("cipher", BOTH)
@pytest.mark.parametrize("speakers", [("nve1",), ("nve2",), ("nve1", "nve2"), ()])
def test_rekeying_loses_nothing(cipher: Cipher, speakers: tuple[str, ...]) -> None:
    world = World(terms=profile(cipher, rekey_seconds=10.0))
    world.join()
    sent = dict.fromkeys(world.names, 0)
    versions = {name: node.sessions.version for name, node in world.nodes.items()}
    for _ in range(400):
        for name in speakers:
            peer = "nve1" if name == "nve2" else "nve2"
            sent[peer] += world.send(name, peer, 6)
        world.collect()
        world.deliver()
        world.now += 0.1
    world.settle()
    for name, node in world.nodes.items():
        assert len(handshakes(world, name)) == 4, "at 0, 10, 20 and 30 s"
        assert [event.rekey for event in handshakes(world, name)] == [False, True, True, True]
        assert len(node.received) == len(set(node.received)) == sent[name]
        assert not node.drops
        assert node.sessions.version == versions[name]
        assert len({burst.opened.association for burst in node.bursts}) <= 1, "whose packets they are stays the same"


def test_records_of_the_old_session_are_opened_for_a_while() -> None:
    world = World(terms=profile(rekey_seconds=10.0))
    world.join()
    late, too_late = (world.nodes["nve1"].seal("nve2")[0] for _ in range(2))
    world.run(11)
    server = world.nodes["nve2"]
    assert len(handshakes(world, "nve2")) == 2
    server.take(late, NVE1)
    assert len(server.received) == 1
    assert server.take(late, NVE1) == [DropReason.RECORD_REFUSED], "replayed"
    world.now += DRAIN_SECONDS
    assert server.take(too_late, NVE1) == [DropReason.RECORD_REFUSED]


def test_the_server_waits_for_the_client_before_it_uses_a_new_session() -> None:
    world = World(terms=profile(rekey_seconds=10.0))
    world.join()
    world.run(9.9)
    world.now += 0.2

    def keep_the_last_flight(under_way: list[tuple[str, str, bytes]]) -> list[tuple[str, str, bytes]]:
        return [item for item in under_way if item[2][0] != records.CHANGE_CIPHER_SPEC]

    world.spoil = keep_the_last_flight
    world.settle()
    assert len(handshakes(world, "nve2")) == 2
    assert len(handshakes(world, "nve1")) == 1
    assert world.send("nve2", "nve1", 5) == 5
    world.settle()
    assert len(world.nodes["nve1"].received) == 5, "sealed in the session that the client still has"
    world.spoil = lambda under_way: under_way
    world.now += SWITCH_SECONDS
    world.settle()
    world.send("nve2", "nve1", 5)
    world.settle()
    assert len(world.nodes["nve1"].received) == 5, "a second later in the new one"


def test_nothing_is_lost_while_the_client_lacks_the_end_of_the_handshake() -> None:
    world = World(terms=profile(rekey_seconds=10.0))
    world.join()
    broken = True
    world.spoil = lambda under_way: [
        item for item in under_way if not (broken and item[0] == "nve2" and item[2][0] == records.CHANGE_CIPHER_SPEC)
    ]
    for _ in range(300):
        assert world.send("nve1", "nve2", 2) == world.send("nve2", "nve1", 2) == 2
        world.run(0.1)
        broken = world.now < 1018.0
    assert len(handshakes(world, "nve2")) > len(handshakes(world, "nve1")) >= 2
    for node in world.nodes.values():
        assert len(node.received) == 600
        assert not node.drops


def test_a_replaced_session_does_not_outlive_its_lifetime() -> None:
    world = World(terms=profile(rekey_seconds=10.0, lifetime_seconds=12.0))
    world.join()
    late = world.nodes["nve1"].seal("nve2", 2)
    world.run(11.0)
    server = world.nodes["nve2"]
    assert len(handshakes(world, "nve2")) == 2
    world.now = 1011.9
    assert isinstance(server.take(late[0], NVE1)[0], Burst)
    world.now = 1012.1
    assert server.take(late[1], NVE1) == [DropReason.RECORD_REFUSED]


@pytest.mark.parametrize("seed", range(3))
def test_sessions_are_replaced_on_a_bad_link(seed: int) -> None:
    world = World(terms=profile(rekey_seconds=10.0, lifetime_seconds=600.0))
    world.join()
    world.spoil = lossy(seed, 0.05, duplicated=0.1)
    for _ in range(600):
        assert world.send("nve1", "nve2", 2) == world.send("nve2", "nve1", 2) == 2
        world.run(0.2)
    assert len(handshakes(world, "nve1")) >= 3
    assert all(len(node.received) == len(set(node.received)) > 900 for node in world.nodes.values())


@pytest.mark.parametrize("speaker", ["nve1", "nve2"])
def test_the_soft_limit_asks_for_a_new_session(speaker: str) -> None:
    world = World(terms=profile(soft_limit=100, hard_limit=1000))
    world.join()
    listener = "nve1" if speaker == "nve2" else "nve2"
    for _ in range(40):
        assert world.send(speaker, listener, 10) == 10
        world.run(0.5)
    assert len(world.nodes[listener].received) == 400
    assert 4 <= len(handshakes(world, speaker)) <= 8


@pytest.mark.parametrize("speaker", ["nve1", "nve2"])
def test_nothing_is_sealed_beyond_the_hard_limit(speaker: str) -> None:
    world = World(terms=profile(soft_limit=10, hard_limit=10))
    world.join()
    listener = "nve1" if speaker == "nve2" else "nve2"
    node = world.nodes[speaker]
    assert len(node.seal(listener, 8)) == 8
    assert len(node.seal(listener, 8)) == 2
    assert len(node.seal(listener, 8)) == 0
    before = node.sessions.version
    world.spoil = nothing_arrives
    world.settle()
    assert not node.sessions.established(listener)
    assert node.sessions.version > before
    assert any(isinstance(event, Ended) for event in node.events)


def test_a_lifetime_ends_service_when_there_is_no_new_session() -> None:
    world = World(terms=profile(rekey_seconds=10.0, lifetime_seconds=20.0))
    world.join()
    world.spoil = lambda under_way: [item for item in under_way if item[2][0] == records.APPLICATION_DATA]
    late = world.nodes["nve1"].seal("nve2")[0]
    world.run(19.9)
    assert world.both()
    world.send("nve1", "nve2")
    world.settle()
    assert len(world.nodes["nve2"].received) == 1
    versions = {name: node.sessions.version for name, node in world.nodes.items()}
    world.now += 0.2
    assert world.nodes["nve2"].take(late, NVE1) == [DropReason.NO_SESSION], "by the clock, whoever runs the timers"
    world.settle()
    for name, node in world.nodes.items():
        peer = "nve1" if name == "nve2" else "nve2"
        assert not node.sessions.established(peer)
        assert node.sessions.sealer(100, peer) is None
        assert node.sessions.version > versions[name]
        assert any(isinstance(event, Ended) and "20 s old" in event.reason for event in node.events)
    world.spoil = lambda under_way: under_way
    world.run(3)
    world.join()


def impostors(name: str) -> dict[str, tuple[TlsFiles, str]]:
    """Credentials that are not those of the NVE named, and what is said of them. All trust the right CA."""
    ours, theirs = credentials(name), credentials(name, "theirs")
    return {
        "name": (credentials("nve3"), "names 'nve3'"),
        "authority": (TlsFiles(ours.ca, theirs.certificate, theirs.key), "certificate verify failed"),
        "nva": (nva_credentials(name), "is not that of a node"),
    }


@pytest.mark.parametrize("wrong", ["name", "authority", "nva"])
@pytest.mark.parametrize("impostor", ["nve1", "nve2"])
def test_certificates_of_others_are_refused(wrong: str, impostor: str) -> None:
    files, says = impostors(impostor)[wrong]
    world = World()
    peer = "nve1" if impostor == "nve2" else "nve2"
    world.nodes[impostor] = Node(world, impostor, files)
    for _ in range(10):
        world.nodes[peer].sessions.want(impostor, world.now)
        world.nodes[impostor].sessions.want(peer, world.now)
        world.run(1)
    assert not world.nodes[peer].sessions.established(impostor)
    assert not handshakes(world, peer)
    failures = [event.reason for event in world.nodes[peer].events if isinstance(event, Failed)]
    assert failures
    assert all(says in reason for reason in failures)


def test_different_ciphers_do_not_meet() -> None:
    world = World()
    world.nodes["nve2"].apply(profile(Cipher.NULL))
    for _ in range(5):
        world.nodes["nve1"].sessions.want("nve2", world.now)
        world.run(2)
    assert not world.nodes["nve1"].sessions.established("nve2")
    assert not world.nodes["nve2"].sessions.established("nve1")


def test_a_flood_of_hello_requests_costs_a_handshake_a_second() -> None:
    world = World()
    world.join()
    client, before = world.nodes["nve1"], hellos(world)
    forged = records.hello_request(7)
    assert len(forged) == 25
    lost = 0
    for _ in range(50):
        for _ in range(20):
            client.take(forged, NVE2)
        lost += world.send("nve1", "nve2", 2) != 2
        world.settle()
        world.now += 0.1
    assert hellos(world) - before <= 2 * 6, "two hellos for each handshake, one of them a second"
    assert hellos(world) > before
    assert not lost
    assert len(world.nodes["nve2"].received) == 100
    assert not world.nodes["nve2"].drops


def test_a_flood_of_records_without_a_session_costs_a_request_a_second() -> None:
    world = World()
    world.join()
    record = world.nodes["nve1"].seal("nve2")[0]
    world.nodes["nve2"].start()
    world.spoil = nothing_arrives
    for _ in range(50):
        for _ in range(20):
            assert world.nodes["nve2"].take(record, NVE1) == [DropReason.NO_SESSION]
        world.settle()
        world.now += 0.1
    requests = [item for item in world.log if records.is_hello_request(item[2])]
    assert 4 <= len(requests) <= 6


def test_strangers_get_no_answer() -> None:
    world = World()
    world.nodes["nve1"].sessions.want("nve2", world.now)
    world.collect()
    hello = world.under_way.pop()[2]
    server = world.nodes["nve2"]
    assert server.take(hello, "192.0.2.77") == [DropReason.NO_SESSION]
    assert not server.sessions.run_due(world.now)


def test_forged_alerts_and_handshake_messages_do_not_end_a_session() -> None:
    world = World()
    world.join()
    head = b"\xfe\xfd" + bytes(7) + b"\x09"
    protected = b"\xfe\xfd\x00\x01" + bytes(5) + b"\x09"
    for node, source in ((world.nodes["nve1"], NVE2), (world.nodes["nve2"], NVE1)):
        for _ in range(3):
            node.take(b"\x15" + head + b"\x00\x02\x02\x28", source)  # fatal: handshake_failure
            node.take(b"\x15" + head + b"\x00\x02\x01\x00", source)  # close_notify
            node.take(b"\x14" + head + b"\x00\x01\x01", source)
            for kind in (20, 21, 22, 23, 24, 99):
                node.take(bytes((kind,)) + protected + b"\x00\x28" + bytes(40), source)
            for message in range(256):
                node.take(b"\x16" + head + b"\x00\x0c" + bytes((message,)) + bytes(11), source)
    world.run(3)
    for node in world.nodes.values():
        node.received.clear()
    assert world.send("nve1", "nve2", 3) == world.send("nve2", "nve1", 3) == 3
    world.settle()
    assert [len(node.received) for node in world.nodes.values()] == [3, 3]
    assert not [event for node in world.nodes.values() for event in node.events if isinstance(event, Ended)]


def test_a_peer_that_goes_is_told_and_tells() -> None:
    world = World()
    world.join()
    world.nodes["nve1"].apply(None)
    assert world.nodes["nve1"].sessions.next_deadline() == -math.inf
    world.settle()
    assert not world.nodes["nve2"].sessions.established("nve1")
    assert [event.reason for event in world.nodes["nve2"].events if isinstance(event, Ended)] == ["the peer closed it"]


def test_sessions_go_on_when_the_state_says_the_same_and_under_new_terms() -> None:
    world = World()
    world.join()
    node = world.nodes["nve1"]
    version = node.sessions.version
    node.apply(world.terms)
    assert node.sessions.established("nve2")
    assert node.sessions.version == version
    node.apply(profile(rekey_seconds=100.0, name="other"))
    assert node.sessions.established("nve2")
    assert node.sessions.version > version
    sealer = node.sessions.sealer(100, "nve2")
    assert sealer is not None
    assert sealer.terms.name == "other"
    node.apply(profile(Cipher.NULL))
    assert not node.sessions.established("nve2")


def test_the_document_says_what_there_is() -> None:
    world = World(terms=profile(rekey_seconds=10.0))
    world.join()
    for _ in range(15):
        world.send("nve1", "nve2", 2)
        world.run(1)
    document = world.nodes["nve2"].sessions.document()["nve1"]
    assert document == {
        "role": "server",
        "established": True,
        "handshaking": False,
        "version": "DTLSv1.2",
        "suite": "ECDHE-ECDSA-AES128-GCM-SHA256",
        "handshakes": 2,
        "handshake_seconds": 0.0,
        "packets_too_large": 0,
        "records_sent": 0,
        "records_received": 30,
    }


def test_a_session_says_in_one_sentence_why_it_failed() -> None:
    world = World()
    world.nodes["nve2"] = Node(world, "nve2", credentials("nve3"))
    world.nodes["nve1"].sessions.want("nve2", world.now)
    world.settle()
    reasons = [event.reason for node in world.nodes.values() for event in node.events if isinstance(event, Failed)]
    assert "the peer's certificate names 'nve3', expected 'nve2'" in reasons
    assert all("\n" not in reason and reason for reason in reasons)

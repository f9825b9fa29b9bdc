"""Forged datagrams: they keep nobody from a session, end none, and cost no more than a budget."""

from __future__ import annotations

import random

import pytest

from geneve.security.open import Burst
from nve.dtls import link, records
from nve.dtls.link import HANDSHAKE_SECONDS, QUICK_SECONDS, QUICK_TRIES, Ended, Failed
from nve.dtls.sessions import DtlsSessions
from tests.nve.dtls.forging import ATTACKS, CLIENT, SERVER, flood, large_hello, message, own_hello, seen
from tests.nve.dtls.world import MTU, World, credentials, nothing_arrives, profile
from tests.support import ADDRESSES


def wishing(mtu: int = MTU) -> World:
    """A client that wishes for a session."""
    world = World(mtu=mtu)
    world.nodes[CLIENT].sessions.want(SERVER, world.now)
    return world


def sent(world: World, sender: str, kind: int) -> list[bytes]:
    """The datagrams from ``sender`` that were under way and begin with a message of the kind."""
    return [one for name, _, one in world.log if name == sender and records.message_type(one) == kind]


@pytest.mark.parametrize("delay", [0.0005, 0.01, 0.1])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_flood_does_not_delay_a_session(attack: str, delay: float) -> None:
    """OpenSSL's timer stands still here: nothing is sent twice."""
    world = wishing()
    took = flood(world, ATTACKS[attack], delay, 5.0, world.both)
    assert took is not None
    assert took < 6.5 * delay, "three round trips"
    assert not [event for node in world.nodes.values() for event in node.events if isinstance(event, Failed)]


@pytest.mark.parametrize("mtu", [1500, 20_000])
@pytest.mark.parametrize("size", [100, 1472, 4096, 4097, 16_384, 16_500, 18_445])
def test_no_forged_hello_of_any_size_is_in_the_way_of_the_next(size: int, mtu: int) -> None:
    world = wishing(mtu)
    world.nodes[SERVER].take(large_hello(size), ADDRESSES[CLIENT])
    world.settle()
    assert world.both()


def test_a_cookie_for_a_forged_hello_serves_the_client() -> None:
    """Also where the forger sees the client's hello, and the answer to his own comes first."""
    world = wishing()
    chance = random.Random(1)
    world.spoil = lambda under_way: [
        item
        for one in under_way
        for item in ([(CLIENT, SERVER, seen(own_hello(chance), world, 0)), one] if one[0] == CLIENT else [one])
    ]
    world.settle()
    assert world.both()
    answers = sent(world, SERVER, records.HELLO_VERIFY_REQUEST)
    assert len(answers) >= 2
    assert len({records.message_body(answer) for answer in answers}) == 1


def test_unprotected_records_have_numbers_that_only_those_know_who_see_them() -> None:
    numbers = []
    for _ in range(8):
        world = wishing()
        world.settle()
        found = [one for _, _, datagram in world.log for one in records.split(datagram) if not records.epoch(one)]
        own = [records.number(one) for one in found]
        assert len(found) >= 10
        assert max(own) - min(own) < 32
        numbers.append(min(own))
    assert len(set(numbers)) == 8
    assert max(numbers) > 2**40


def test_a_broken_handshake_is_followed_by_another_at_once() -> None:
    world = wishing()
    broken = 0

    def spoil(under_way: list[tuple[str, str, bytes]]) -> list[tuple[str, str, bytes]]:
        nonlocal broken
        if broken < 3 and any(records.message_type(one) == records.SERVER_HELLO for _, _, one in under_way):
            broken += 1
            return [(SERVER, CLIENT, seen(message(records.SERVER_HELLO, 1, bytes(3)), world))]
        return under_way

    world.spoil = spoil
    before = world.now
    assert world.run(2.0, world.both)
    assert broken == 3
    assert world.now - before <= 3 * QUICK_SECONDS + 0.01


@pytest.mark.parametrize("victim", [CLIENT, SERVER])
def test_handshakes_that_always_break_are_bounded(victim: str) -> None:
    """One who sees all breaks each: that costs handshakes at once, then one a second."""
    world = wishing()
    kind, sequence = (records.SERVER_HELLO, 1) if victim == CLIENT else (records.CERTIFICATE, 2)
    sender = SERVER if victim == CLIENT else CLIENT

    def spoil(under_way: list[tuple[str, str, bytes]]) -> list[tuple[str, str, bytes]]:
        forged = message(kind, sequence, bytes(3))
        return [(sender, victim, seen(forged, world)), *under_way] if under_way else []

    world.spoil = spoil
    for _ in range(20):
        world.nodes[CLIENT].sessions.want(SERVER, world.now)
        world.run(1.0)
    assert not world.both()
    begun = len(sent(world, CLIENT, records.CLIENT_HELLO))
    assert 20 <= begun <= 2 * (QUICK_TRIES + 21)
    world.spoil = lambda under_way: under_way
    assert world.run(HANDSHAKE_SECONDS + 1.5, world.both), "and it goes on when the disturbance ends"


def test_an_alert_that_nothing_protects_makes_a_client_begin_anew_but_ends_nothing() -> None:
    world = wishing()
    world.collect()
    world.deliver()
    client = world.nodes[CLIENT]
    forged = records.renumbered(b"\x15\xfe\xfd" + bytes(8) + b"\x00\x02\x02\x28", 0)
    client.take(seen(forged, world), ADDRESSES[SERVER])
    world.settle()
    assert world.both(), "it was completed nevertheless"

    lost = wishing()
    lost.collect()
    lost.deliver()
    lost.collect()
    lost.under_way.clear()  # the server has given the handshake up, and only the alert arrives
    lost.nodes[CLIENT].take(seen(forged, lost), ADDRESSES[SERVER])
    assert lost.run(0.5, lost.both)
    [failure] = [event for event in lost.nodes[CLIENT].events if isinstance(event, Failed)]
    assert "alert" in failure.reason
    assert "40" in failure.reason


def test_a_server_that_lost_its_cookies_amid_a_handshake_gets_another_at_once() -> None:
    world = wishing()
    for _ in range(2):
        world.collect()
        world.deliver()
    world.nodes[SERVER].start()
    assert world.run(0.5, world.both)


def test_a_hello_that_was_seen_begins_no_second_handshake() -> None:
    world = wishing()
    world.settle()
    second = sent(world, CLIENT, records.CLIENT_HELLO)[1]
    server = world.nodes[SERVER]
    for _ in range(5):
        server.take(second, ADDRESSES[CLIENT])
        assert not server.sessions.document()[CLIENT]["handshaking"]
        world.run(1.0)


def test_one_who_saw_a_cookie_does_not_keep_the_server_from_asking_for_a_session() -> None:
    """Each second a hello of his own with that cookie; the server has no session, and its tenants have frames."""
    world = World()
    world.nodes[CLIENT].sessions.want(SERVER, world.now)
    for _ in range(2):
        world.collect()
        world.deliver()
    world.collect()
    second = world.under_way.pop()[2]
    server, chance = world.nodes[SERVER], random.Random(2)
    world.spoil = nothing_arrives
    for _ in range(100):
        for _ in range(10):
            server.take(second[:27] + chance.randbytes(32) + second[59:], ADDRESSES[CLIENT])
        server.sessions.want(CLIENT, world.now)
        world.run(0.1)
    assert len(sent(world, SERVER, records.HELLO_REQUEST)) >= 9
    begun = len(sent(world, SERVER, records.SERVER_HELLO))
    assert 1 <= begun <= link.SERVED_AT_ONCE + link.SERVED_PER_SECOND * 10 + 1
    world.spoil = lambda under_way: under_way
    assert world.run(HANDSHAKE_SECONDS + 2, world.both)


def test_requests_that_seem_to_come_from_many_peers_cost_a_budget() -> None:
    channel = profile().channel
    assert channel is not None
    sessions = DtlsSessions("nve1", "192.0.2.1", credentials("nve1"), MTU, channel)
    peers = {f"peer{number}": f"192.0.2.{number}" for number in range(2, 202)}
    sessions.apply(peers, profile(), 1000.0)
    hellos = 0
    for second in range(10):
        for address in peers.values():
            sessions.open_burst(records.hello_request(second), 25, bytes(map(int, address.split("."))), 1000.0 + second)
        hellos += len(sessions.run_due(1000.0 + second))
    most = link.REQUESTED_AT_ONCE + link.REQUESTED_PER_SECOND * 10
    assert most / 2 <= hellos <= most
    sessions.want("peer201", 1009.5)
    begun = [one.destination for one in sessions.run_due(1009.5)]
    assert "192.0.2.201" in begun, "its own wishes do not wait"
    assert len(begun) <= 1 + link.REQUESTED_PER_SECOND / 2


def test_requests_for_other_sessions_have_a_smaller_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "RENEWALS_PER_SECOND", 0.25)
    monkeypatch.setattr(link, "RENEWALS_AT_ONCE", 2)
    world = World()
    world.join()
    before = len(sent(world, CLIENT, records.CLIENT_HELLO))
    for second in range(20):
        world.nodes[CLIENT].take(records.hello_request(second), ADDRESSES[SERVER])
        world.run(1.5)
    renewed = (len(sent(world, CLIENT, records.CLIENT_HELLO)) - before) / 2
    assert 7 <= renewed <= 2 + 0.25 * 30


def test_records_that_seem_to_come_from_many_peers_cost_the_same_budget() -> None:
    channel = profile().channel
    assert channel is not None
    sessions = DtlsSessions("nve1", "192.0.2.1", credentials("nve1"), MTU, channel)
    sessions.apply({f"peer{number}": f"192.0.2.{number}" for number in range(2, 202)}, profile(), 1000.0)
    data, hellos = ATTACKS["data"].make(random.Random(1)), 0
    for second in range(10):
        for number in range(2, 202):
            sessions.open_burst(data, len(data), bytes((192, 0, 2, number)), 1000.0 + second)
        hellos += len(sessions.run_due(1000.0 + second))
    assert 0 < hellos <= link.REQUESTED_AT_ONCE + link.REQUESTED_PER_SECOND * 10


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_established_session_with_traffic_survives(attack: str) -> None:
    _survives(attack, sighted=False)


@pytest.mark.parametrize("attack", [name for name in ATTACKS if "protected" not in name and name != "data"])
def test_an_established_session_with_traffic_survives_one_who_sees_all(attack: str) -> None:
    _survives(attack, sighted=True)


def _survives(attack: str, sighted: bool) -> None:
    """For 3.5 s, with a rekey in it, 5 frames each way every 50 ms, 15 forged datagrams in between."""
    world = World(terms=profile(rekey_seconds=3.0))
    world.join()
    forger, chance, expected = ATTACKS[attack], random.Random(3), 0
    replayed = [(name, to, datagram) for name, to, datagram in world.log]

    def spoil(under_way: list[tuple[str, str, bytes]]) -> list[tuple[str, str, bytes]]:
        arriving = []
        for item in under_way:
            if records.message_type(item[2]) != records.HELLO_VERIFY_REQUEST:  # that may be the answer to a forged one
                forged = forger.make(chance)
                arriving.append((forger.sender, forger.victim, seen(forged, world) if sighted else forged))
            arriving.append(item)
        return arriving

    world.spoil = spoil
    for _ in range(70):
        assert world.send(CLIENT, SERVER, 5) == world.send(SERVER, CLIENT, 5) == 5
        expected += 5
        for _ in range(5):
            world.under_way.append((forger.sender, forger.victim, forger.make(chance)))
        world.under_way += replayed if sighted else []
        world.run(0.05)
    for node in world.nodes.values():
        assert len(node.received) == len(set(node.received)) == expected
        assert not [event for event in node.events if isinstance(event, Ended)]
    assert world.both()


def test_what_a_forged_flood_is_counted_as() -> None:
    world = World()
    world.join()
    results = world.nodes[SERVER].take(ATTACKS["data"].make(random.Random(1)), ADDRESSES[CLIENT])
    assert not any(isinstance(result, Burst) for result in results)
    assert len(results) == 1

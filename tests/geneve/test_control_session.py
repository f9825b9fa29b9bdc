"""A node's link against a scripted NVA over TLS, in memory: registration, pushes, silence, reconnection."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from geneve.control import jsonrpc
from geneve.control.demand import Demand, Tenant
from geneve.control.protocol import (
    GAP,
    PING_INTERVAL,
    SILENCE_LIMIT,
    Disconnected,
    Event,
    Identity,
    Registered,
    StateReceived,
)
from geneve.control.session import ControlLink
from geneve.control.state import Role
from geneve.control.tls import TlsEndpoint, client_context, server_context
from tests.credentials import make_ca, node_files, nva_files


class Pipe:
    """A transport whose other end the test holds. ``window`` bounds what one ``send`` takes."""

    def __init__(self, window: int = 1 << 20) -> None:
        self.to_nva, self.to_node = bytearray(), bytearray()
        self.closed = self.ended = False
        self.window = window

    def fileno(self) -> int:
        return 7

    def recv(self, size: int) -> bytes:
        if not self.to_node and not self.ended:
            raise BlockingIOError
        data = bytes(self.to_node[:size])
        del self.to_node[:size]
        return data

    def send(self, data: bytes) -> int:
        if self.window <= 0:
            raise BlockingIOError
        self.to_nva += data[: self.window]
        return min(len(data), self.window)

    def close(self) -> None:
        self.closed = True


class Nva:
    """The NVA's end of one connection."""

    def __init__(self, context: ssl.SSLContext, pipe: Pipe) -> None:
        self.tls, self.pipe = TlsEndpoint(context), pipe
        self.decoder, self.received = jsonrpc.FrameDecoder(), list[jsonrpc.Message]()
        self.request = 100

    def run(self) -> None:
        data, self.pipe.to_nva = bytes(self.pipe.to_nva), bytearray()
        if data:
            self.decoder.feed(self.tls.receive(data))
        self.received += iter(self.decoder.next_message, None)
        self.pipe.to_node += self.tls.take_outgoing()

    def send(self, message: jsonrpc.Message) -> None:
        self.tls.send(jsonrpc.encode(message))

    def push(self, sequence: Any, **params: Any) -> int:
        """Push a snapshot, or with ``base`` a delta; returns the request's number."""
        self.request += 1
        whole = {"epoch": "e1", "sequence": sequence, **params}
        self.send(jsonrpc.Request(self.request, "push", whole))
        return self.request


class World:
    """A link, the NVA's ends of its connections, and a clock."""

    def __init__(self, folder: Path) -> None:
        authority = make_ca()
        self.server_context = server_context(nva_files(folder, authority))
        self.pipes: list[Pipe] = []
        self._nva: Nva | None = None
        self.refuse_connections = False
        self.window = 1 << 20
        self.now = 1000.0
        self.link = ControlLink(
            identity=Identity("nve1", Role.NVE, "0123abcd", "nva"),
            context=client_context(node_files(folder, authority, "nve1")),
            connect=self.connect,
            random=lambda: 1.0,
        )

    @property
    def nva(self) -> Nva:
        assert self._nva is not None
        return self._nva

    def connect(self) -> Pipe:
        if self.refuse_connections:
            raise ConnectionRefusedError(111, "Connection refused")
        pipe = Pipe(self.window)
        self.pipes.append(pipe)
        self._nva = Nva(self.server_context, pipe)
        return pipe

    def run(self) -> list[Event]:
        """Carry bytes until nothing moves; returns the link's events."""
        events = self.link.on_timer(self.now) if self.now >= self.link.next_deadline else []
        for _ in range(12):
            if self._nva is not None:
                self._nva.run()
            events += self.link.on_readable(self.now)
            events += self.link.on_writable(self.now)
        return events

    def register(self, epoch: str = "e1", resume: dict[str, Any] | None = None) -> list[Event]:
        events = self.run()
        request = self.nva.received.pop(0)
        assert isinstance(request, jsonrpc.Request)
        assert request.method == "register"
        expected = {"instance": "0123abcd", "protocol": 2}
        assert request.params == (expected if resume is None else {**expected, "resume": resume})
        self.nva.send(jsonrpc.Response(request.id, {"epoch": epoch}))
        return events + self.run()

    def states(self, events: list[Event]) -> list[StateReceived]:
        return [event for event in events if isinstance(event, StateReceived)]

    def take(self) -> StateReceived:
        """Return the one state that comes."""
        (event,) = self.states(self.run())
        return event

    def answers(self) -> list[jsonrpc.Message]:
        self.run()
        received, self.nva.received = self.nva.received, []
        return received


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_registers_and_applies_a_state(world: World) -> None:
    assert world.register() == [Registered()]
    request = world.nva.push(1)
    event = world.take()
    assert (event.state.node, event.push.epoch, event.push.sequence) == ("nve1", "e1", 1)
    assert world.answers() == []  # nothing is acknowledged before it was applied
    world.link.acknowledge(event)
    assert world.link.wants_write
    assert world.answers() == [jsonrpc.Response(request, {"sequence": 1})]


def test_repeated_late_and_reordered_pushes_change_nothing(world: World) -> None:
    world.register()
    world.nva.push(5)
    event = world.take()
    again = world.nva.push(5)  # repeated before it was applied
    assert world.run() == []
    world.link.acknowledge(event)
    assert [answer.id for answer in world.answers()] == [101, again]  # type: ignore[union-attr]
    for sequence in (5, 4, 1):
        request = world.nva.push(sequence)
        assert world.run() == []
        assert world.answers() == [jsonrpc.Response(request, {"sequence": sequence})]
    assert world.link.progress.sequence == 5


def test_a_push_that_a_newer_one_has_overtaken_is_not_applied_after_it(world: World) -> None:
    world.register()
    world.nva.push(9)
    late = world.nva.push(8)
    event = world.take()
    assert event.push.sequence == 9
    (answer,) = world.answers()
    assert isinstance(answer, jsonrpc.ErrorResponse), "it was not applied, and so it is not acknowledged"
    assert (answer.id, answer.code) == (late, GAP)
    world.link.acknowledge(event)
    assert world.answers() == [jsonrpc.Response(101, {"sequence": 9})]
    assert world.link.progress.sequence == 9


def test_a_new_epoch_starts_counting_anew(world: World) -> None:
    world.register()
    world.nva.push(50)
    world.link.acknowledge(world.take())
    world.pipes[-1].ended = True
    world.link.on_readable(world.now)
    world.now = world.link.next_deadline
    world.register("e2", resume={"epoch": "e1", "sequence": 50})
    world.nva.push(1, epoch="e2")
    world.link.acknowledge(world.take())
    assert (world.link.progress.epoch, world.link.progress.sequence) == ("e2", 1)


def test_a_push_of_another_epoch_than_the_registrations_is_refused(world: World) -> None:
    world.register()
    request = world.nva.push(1, epoch="e2")
    assert world.run() == []
    (answer,) = world.answers()
    assert isinstance(answer, jsonrpc.ErrorResponse)
    assert (answer.id, answer.code) == (request, jsonrpc.INVALID_PARAMS)


@pytest.mark.parametrize("result", [{}, {"epoch": ""}, {"epoch": 5}, {"epoch": None}])
def test_an_nva_that_names_no_epoch_is_left(world: World, result: dict[str, Any]) -> None:
    world.run()
    request = world.nva.received.pop()
    assert isinstance(request, jsonrpc.Request)
    world.nva.send(jsonrpc.Response(request.id, result))
    (event,) = world.run()
    assert isinstance(event, Disconnected)


def test_the_caller_can_refuse_a_state(world: World) -> None:
    world.register()
    request = world.nva.push(1)
    event = world.take()
    world.link.refuse(event, "no such interface")
    assert world.answers() == [jsonrpc.ErrorResponse(request, jsonrpc.INVALID_PARAMS, "no such interface")]
    assert world.link.progress.sequence == 0
    world.nva.push(1)  # the NVA may try again
    assert len(world.states(world.run())) == 1


def test_no_state_is_taken_before_registration(world: World) -> None:
    world.run()
    world.nva.received.clear()
    world.nva.push(1)
    assert world.run() == []
    (answer,) = world.answers()
    assert isinstance(answer, jsonrpc.ErrorResponse)


def test_nothing_is_asked_before_registration(world: World) -> None:
    world.run()
    world.nva.received.clear()
    demand = Demand(audience="nve2", vni=100, profile="full")
    assert not world.link.ask_keys([demand], world.now)
    assert not world.link.ask_rekey(300, world.now)
    assert not world.link.tell_tenants(1, [Tenant(vni=100, mac="02:00:00:00:00:01")], world.now)
    assert world.answers() == []


def test_unknown_methods_are_answered_and_notifications_ignored(world: World) -> None:
    world.register()
    world.nva.send(jsonrpc.Notification("push", {}))
    world.nva.send(jsonrpc.Request(5, "reboot"))
    (answer,) = world.answers()
    assert isinstance(answer, jsonrpc.ErrorResponse)
    assert answer.code == jsonrpc.METHOD_NOT_FOUND


def test_pings_and_gives_up_on_silence(world: World) -> None:
    world.register()
    world.now += PING_INTERVAL
    assert world.run() == []
    (ping,) = world.answers()
    assert isinstance(ping, jsonrpc.Request)
    assert ping.method == "ping"
    world.nva.send(jsonrpc.Response(ping.id))
    world.run()
    started = world.now
    events: list[Event] = []
    while world.now < started + SILENCE_LIMIT:
        assert world.link.next_deadline > world.now
        world.now = world.link.next_deadline
        events = world.run()
    (event,) = events
    assert isinstance(event, Disconnected)
    assert "did not answer" in event.reason
    assert world.pipes[0].closed


def test_a_refused_registration_ends_the_connection(world: World) -> None:
    world.run()
    request = world.nva.received.pop()
    world.nva.send(jsonrpc.ErrorResponse(request.id, -32002, "not yours"))  # type: ignore[union-attr]
    (event,) = world.run()
    assert event == Disconnected("the NVA refused: not yours")


def test_garbage_instead_of_messages_ends_the_connection(world: World) -> None:
    world.register()
    world.nva.tls.send(b"\x00\x00\x00\x02[]")
    (event,) = world.run()
    assert isinstance(event, Disconnected)


def test_reconnects_ever_later_and_says_what_it_has(world: World) -> None:
    world.register()
    world.nva.push(3)
    world.link.acknowledge(world.take())
    world.pipes[0].ended = True
    assert world.link.on_readable(world.now) == [Disconnected("the NVA closed the connection")]
    assert world.link.fileno() is None
    world.refuse_connections = True
    delays = []
    for _ in range(8):
        delays.append(world.link.next_deadline - world.now)
        assert world.link.on_timer(world.now) == []  # not before its time
        world.now = world.link.next_deadline
        (event,) = world.link.on_timer(world.now)
        assert isinstance(event, Disconnected)
    assert delays == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    world.refuse_connections = False
    world.now = world.link.next_deadline
    generation = world.link.generation
    assert world.register(resume={"epoch": "e1", "sequence": 3}) == [Registered()]
    assert world.link.generation == generation + 1
    world.nva.push(3)
    assert world.states(world.run()) == []  # the same epoch and sequence as before the loss
    world.pipes[-1].ended = True
    world.link.on_readable(world.now)
    assert world.link.next_deadline - world.now == 0.25  # a success starts the delays anew


def test_jitter_spreads_the_delays(world: World) -> None:
    world.refuse_connections = True
    world.link._random = lambda: 0.0
    world.link.on_timer(world.now)
    assert world.link.next_deadline - world.now == 0.125


def test_partial_writes_lose_nothing(world: World) -> None:
    world.window = 10
    assert world.register() == [Registered()]


def test_an_event_decided_after_a_reconnection_does_no_harm(world: World) -> None:
    world.register()
    world.nva.push(1)
    event = world.take()
    world.pipes[0].ended = True
    world.link.on_readable(world.now)
    world.link.acknowledge(event)
    world.now = world.link.next_deadline
    world.register()
    world.nva.push(1)
    assert len(world.states(world.run())) == 1, "what was not recorded as applied is applied again"


def test_closing_is_final(world: World) -> None:
    world.register()
    world.link.close()
    assert world.pipes[0].closed
    world.now += 1000
    assert world.run() == []
    assert len(world.pipes) == 1

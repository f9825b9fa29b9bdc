"""A node's session and link against a scripted NVA, in memory: idempotence, errors, reconnection."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from geneve.control import jsonrpc
from geneve.control.session import (
    PING_INTERVAL,
    SILENCE_LIMIT,
    ControlLink,
    Disconnected,
    Event,
    Identity,
    Registered,
    StateReceived,
)
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

    def push(self, version: Any, epoch: Any = "e1", state: Any = None) -> int:
        self.request += 1
        document = {"node": "nve1", "role": "nve"} if state is None else state
        params = {"epoch": epoch, "version": version, "state": document}
        self.send(jsonrpc.Request(self.request, "state", params))
        return self.request


class World:
    """A link, the NVA's ends of its connections, and a clock."""

    def __init__(self, folder: Path) -> None:
        authority = make_ca()
        self.server_context = server_context(nva_files(folder, authority))
        self.pipes: list[Pipe] = []
        self.nva: Nva | None = None
        self.refuse_connections = False
        self.window = 1 << 20
        self.now = 1000.0
        self.link = ControlLink(
            identity=Identity("nve1", Role.NVE, "0123abcd", "nva"),
            context=client_context(node_files(folder, authority, "nve1")),
            connect=self.connect,
            random=lambda: 1.0,
        )

    def connect(self) -> Pipe:
        if self.refuse_connections:
            raise ConnectionRefusedError(111, "Connection refused")
        pipe = Pipe(self.window)
        self.pipes.append(pipe)
        self.nva = Nva(self.server_context, pipe)
        return pipe

    def run(self) -> list[Event]:
        """Carry bytes until nothing moves; returns the link's events."""
        events = self.link.on_timer(self.now) if self.now >= self.link.next_deadline else []
        for _ in range(12):
            if self.nva is not None:
                self.nva.run()
            events += self.link.on_readable(self.now)
            events += self.link.on_writable(self.now)
        return events

    def register(self) -> list[Event]:
        events = self.run()
        assert self.nva is not None
        request = self.nva.received.pop(0)
        assert isinstance(request, jsonrpc.Request)
        assert request.method == "register"
        assert request.params == {"instance": "0123abcd", "protocol": 1}
        self.nva.send(jsonrpc.Response(request.id))
        return events + self.run()

    def states(self, events: list[Event]) -> list[StateReceived]:
        return [event for event in events if isinstance(event, StateReceived)]

    def answers(self) -> list[jsonrpc.Message]:
        self.run()
        assert self.nva is not None
        received, self.nva.received = self.nva.received, []
        return received


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_registers_and_applies_a_state(world: World) -> None:
    assert world.register() == [Registered()]
    assert world.nva is not None
    request = world.nva.push(1)
    (event,) = world.states(world.run())
    assert (event.state.node, event.epoch, event.version) == ("nve1", "e1", 1)
    assert world.answers() == []  # nothing is acknowledged before it was applied
    world.link.acknowledge(event)
    assert world.link.wants_write
    assert world.answers() == [jsonrpc.Response(request, {"version": 1})]


def test_repeated_late_and_reordered_pushes_change_nothing(world: World) -> None:
    world.register()
    assert world.nva is not None
    world.nva.push(5)
    (event,) = world.states(world.run())
    again = world.nva.push(5)  # repeated before it was applied
    assert world.run() == []
    world.link.acknowledge(event)
    assert [answer.id for answer in world.answers()] == [101, again]  # type: ignore[union-attr]
    for version in (5, 4, 1):
        request = world.nva.push(version)
        assert world.run() == []
        assert world.answers() == [jsonrpc.Response(request, {"version": version})]
    assert world.link.progress.version == 5
    world.nva.push(9)
    late = world.nva.push(8)
    assert [state.version for state in world.states(world.run())] == [9]
    assert world.answers() == [jsonrpc.Response(late, {"version": 8})]


def test_a_new_epoch_starts_counting_anew(world: World) -> None:
    world.register()
    assert world.nva is not None
    world.nva.push(50)
    world.link.acknowledge(world.states(world.run())[0])
    world.nva.push(1, epoch="e2")
    (event,) = world.states(world.run())
    world.link.acknowledge(event)
    assert (world.link.progress.epoch, world.link.progress.version) == ("e2", 1)


@pytest.mark.parametrize(
    ("version", "epoch", "state"),
    [
        (0, "e1", None),
        (True, "e1", None),
        ("2", "e1", None),
        (2, "", None),
        (2, "e" * 65, None),
        (2, 7, None),
        (2, "e1", "text"),
        (2, "e1", {"node": "nve1", "role": "nve", "unknown": 1}),
        (2, "e1", {"node": "nve2", "role": "nve"}),
        (2, "e1", {"node": "nve1", "role": "transit"}),
    ],
)
def test_an_invalid_state_is_refused_and_the_last_one_stays(world: World, version: Any, epoch: Any, state: Any) -> None:
    world.register()
    assert world.nva is not None
    world.nva.push(1)
    world.link.acknowledge(world.states(world.run())[0])
    world.answers()
    request = world.nva.push(version, epoch, state)
    assert world.run() == []
    (answer,) = world.answers()
    assert isinstance(answer, jsonrpc.ErrorResponse)
    assert (answer.id, answer.code) == (request, jsonrpc.INVALID_PARAMS)
    assert (world.link.progress.epoch, world.link.progress.version) == ("e1", 1)
    good = world.nva.push(2)
    assert len(world.states(world.run())) == 1, good


def test_the_caller_can_refuse_a_state(world: World) -> None:
    world.register()
    assert world.nva is not None
    request = world.nva.push(1)
    (event,) = world.states(world.run())
    world.link.refuse(event, "no such interface")
    assert world.answers() == [jsonrpc.ErrorResponse(request, jsonrpc.INVALID_PARAMS, "no such interface")]
    assert world.link.progress.version == 0
    world.nva.push(1)  # the NVA may try again
    assert len(world.states(world.run())) == 1


def test_no_state_is_taken_before_registration(world: World) -> None:
    world.run()
    assert world.nva is not None
    world.nva.received.clear()
    world.nva.push(1)
    assert world.run() == []
    (answer,) = world.answers()
    assert isinstance(answer, jsonrpc.ErrorResponse)


def test_unknown_methods_are_answered_and_notifications_ignored(world: World) -> None:
    world.register()
    assert world.nva is not None
    world.nva.send(jsonrpc.Notification("state", {}))
    world.nva.send(jsonrpc.Request(5, "reboot"))
    (answer,) = world.answers()
    assert isinstance(answer, jsonrpc.ErrorResponse)
    assert answer.code == jsonrpc.METHOD_NOT_FOUND


def test_pings_and_gives_up_on_silence(world: World) -> None:
    world.register()
    assert world.nva is not None
    world.now += PING_INTERVAL
    assert world.run() == []
    (ping,) = world.answers()
    assert isinstance(ping, jsonrpc.Request)
    assert ping.method == "ping"
    world.nva.send(jsonrpc.Response(ping.id))
    world.run()
    started = world.now
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
    assert world.nva is not None
    request = world.nva.received.pop()
    world.nva.send(jsonrpc.ErrorResponse(request.id, -32002, "not yours"))  # type: ignore[union-attr]
    (event,) = world.run()
    assert event == Disconnected("the NVA refused: not yours")


def test_garbage_instead_of_messages_ends_the_connection(world: World) -> None:
    world.register()
    assert world.nva is not None
    world.nva.tls.send(b"\x00\x00\x00\x02[]")
    (event,) = world.run()
    assert isinstance(event, Disconnected)


def test_reconnects_ever_later_and_keeps_its_progress(world: World) -> None:
    world.register()
    assert world.nva is not None
    world.nva.push(3)
    world.link.acknowledge(world.states(world.run())[0])
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
    assert world.register() == [Registered()]
    assert world.link.generation == generation + 1
    world.nva.push(3)
    assert world.states(world.run()) == []  # the same epoch and version as before the loss
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
    assert world.nva is not None
    world.nva.push(1)
    (event,) = world.states(world.run())
    world.pipes[0].ended = True
    world.link.on_readable(world.now)
    world.link.acknowledge(event)
    world.now = world.link.next_deadline
    world.register()
    world.nva.push(1)
    assert world.states(world.run()) == []


def test_closing_is_final(world: World) -> None:
    world.register()
    world.link.close()
    assert world.pipes[0].closed
    world.now += 1000
    assert world.run() == []
    assert len(world.pipes) == 1

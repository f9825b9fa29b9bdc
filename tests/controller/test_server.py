"""The TLS listener with real sockets on the loopback: hostile and slow clients harm only themselves."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller import nva, server
from controller.admission import Admission, MessageRate
from controller.server import NodeServer
from controller.shell import Shell
from controller.store import Store
from geneve.control import jsonrpc
from geneve.control.protocol import Event, Identity, StateReceived
from geneve.control.session import ControlLink
from geneve.control.state import Role
from geneve.control.tls import client_context, server_context
from geneve.errors import ConfigError
from tests.controller.inventories import build
from tests.credentials import make_ca, node_files, nva_files

PATIENCE = 20.0
_MORE = re.compile(r"\((\d+) times more\)")


class _Thread(threading.Thread):
    def wait(self) -> None:
        self.join()


def spawn(function: Callable[..., object], *arguments: object) -> _Thread:
    thread = _Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


class World:
    def __init__(self, folder: Path, admission: Admission | None = None) -> None:
        self.folder, self.authority = folder, make_ca()
        self.store = Store(None, bytes(32))
        self.shell = Shell(build(), self.store)
        listener = server.listen("127.0.0.1", 0, "nva")
        self.address = listener.getsockname()
        context = server_context(nva_files(folder, self.authority))
        self.server = NodeServer(spawn, self.shell, context, listener, admission or Admission([]))
        spawn(self.server.serve)
        self.sockets: list[socket.socket] = []

    def connect(self) -> socket.socket:
        connected = socket.create_connection(self.address, timeout=PATIENCE)
        self.sockets.append(connected)
        return connected

    def tls(self, name: str) -> ssl.SSLSocket:
        context = client_context(node_files(self.folder, self.authority, name))
        wrapped = context.wrap_socket(self.connect(), server_hostname="nva")
        self.sockets.append(wrapped)
        return wrapped

    def view(self, name: str) -> Any:
        view = self.shell.view(name)
        assert view is not None
        return view[name]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.view("events")
            time.sleep(0.01)
            self.shell.node(nva.Tick())

    def events(self, text: str) -> int:
        """How often the audit log says so, repetitions that are only counted included."""
        found = [event["text"] for event in self.view("events") if text in event["text"]]
        return sum(int(more[1]) if (more := _MORE.search(line)) else 1 for line in found)

    def connected(self, name: str) -> bool:
        return any(node["name"] == name and node["connected"] for node in self.view("nodes"))

    def run_link(self, name: str, role: Role, until: Callable[[list[Event]], bool]) -> list[Event]:
        """Run a node's real link over a real socket until it has the events that ``until`` wants."""

        def connect() -> socket.socket:
            connected = self.connect()
            connected.settimeout(0.05)  # stands in for the daemon's poll
            return connected

        files = node_files(self.folder, self.authority, name)
        identity = Identity(name, role, "abcd", "nva")
        link = ControlLink(
            identity=identity, context=client_context(files), connect=_Polling(connect), random=lambda: 0.0
        )
        events: list[Event] = []

        def enough() -> bool:
            now = time.monotonic()
            new = link.on_timer(now) if now >= link.next_deadline else []
            new += link.on_readable(now) + link.on_writable(now)
            for event in new:
                if isinstance(event, StateReceived):
                    link.acknowledge(event)
            new += link.on_writable(now)
            events.extend(new)
            return until(events)

        self.until(enough)
        return events


class _Polling:
    """Makes transports of which ``recv`` waits a little and then says that there is nothing."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect

    def __call__(self) -> _Transport:
        return _Transport(self._connect())


class _Transport:
    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.fileno, self.send, self.close = connected.fileno, connected.send, connected.close

    def recv(self, size: int) -> bytes:
        try:
            return self._socket.recv(size)
        except TimeoutError:
            raise BlockingIOError from None


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for connected in world.sockets:
        connected.close()


def read_until_closed(connected: socket.socket) -> bytes:
    data = b""
    try:
        while chunk := connected.recv(65536):
            data += chunk
    except (ConnectionResetError, ssl.SSLError):
        pass
    return data


def has_state(events: list[Event]) -> bool:
    return any(isinstance(event, StateReceived) for event in events)


def test_a_node_registers_and_gets_its_state(world: World) -> None:
    events = world.run_link("nve1", Role.NVE, has_state)
    (state,) = [event.state for event in events if isinstance(event, StateReceived)]
    assert state.node == "nve1"
    world.until(lambda: world.view("nodes")[0]["in_step"])


def test_garbage_and_clients_without_certificate_are_turned_away(world: World) -> None:
    connected = world.connect()
    connected.sendall(b"GET / HTTP/1.1\r\n\r\n")
    read_until_closed(connected)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(world.folder / "ca.pem")
    with pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(world.connect(), server_hostname="nva").recv(1)
    world.until(lambda: world.events("handshake failed") == 2)
    world.run_link("nve1", Role.NVE, has_state)


def test_a_tenant_with_a_good_certificate_is_no_node(world: World) -> None:
    intruder = world.tls("red1")
    intruder.sendall(jsonrpc.encode(jsonrpc.Request(1, "register", {"instance": "a", "protocol": 2})))
    assert read_until_closed(intruder) == b""
    world.until(lambda: world.events("not in the inventory") == 1)


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x02[]", b"\x00\x00\x00\x03{}}"])
def test_malformed_messages_end_that_connection_only(world: World, data: bytes) -> None:
    bad = world.tls("nve1")
    bad.sendall(jsonrpc.encode(jsonrpc.Request(1, "register", {"instance": "a", "protocol": 2})))
    world.until(lambda: world.connected("nve1"))
    bad.sendall(data)
    read_until_closed(bad)
    world.until(lambda: not world.connected("nve1"))
    world.run_link("nve2", Role.NVE, has_state)


def test_silent_and_dripping_clients_are_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_TIMEOUT", 0.3)
    monkeypatch.setattr(server, "SEND_TIMEOUT", 0.1)
    silent, dripping = world.connect(), world.connect()

    def drip() -> None:
        with contextlib.suppress(OSError):
            for octet in b"\x16\x03\x01\x40\x00" + bytes(100_000):
                dripping.sendall(bytes([octet]))
                time.sleep(0.01)

    thread = spawn(drip)
    assert read_until_closed(silent) == b""
    thread.join(PATIENCE)
    assert not thread.is_alive()
    world.until(lambda: world.events("did not complete") == 2)


def test_a_silent_registered_node_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_TIMEOUT", 0.3)
    monkeypatch.setattr(server, "SEND_TIMEOUT", 0.1)
    quiet = world.tls("nve1")
    quiet.sendall(jsonrpc.encode(jsonrpc.Request(1, "register", {"instance": "a", "protocol": 2})))
    read_until_closed(quiet)
    world.until(lambda: world.events("was silent") == 1)


def test_a_client_that_does_not_read_is_cut_off_and_delays_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SEND_TIMEOUT", 0.5)
    monkeypatch.setattr(server, "MessageRate", lambda: MessageRate(1e9, 1e9))  # else it would be cut off for that
    slow = world.tls("nve1")
    request = jsonrpc.encode(jsonrpc.Request(1, "ping")) * 100

    def ask() -> None:
        try:
            while True:
                slow.sendall(request)  # and never reads the answers
        except OSError:
            pass

    thread = spawn(ask)
    world.run_link("nve2", Role.NVE, has_state)
    world.until(lambda: world.events("does not read") == 1)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_one_address_cannot_use_up_all_handshakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_TIMEOUT", 1000.0)
    world = World(tmp_path, Admission([], per_address=3))
    for _ in range(3):
        world.connect()
    world.until(lambda: len(world.server._connections) == 3)
    assert read_until_closed(world.connect()) == b""


def test_a_full_house_still_lets_nodes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_TIMEOUT", 1000.0)
    world = World(tmp_path, Admission([], total=3, reserved=0, per_address=100))
    silent = [world.connect() for _ in range(3)]
    world.until(lambda: len(world.server._connections) == 3)
    world.run_link("nve1", Role.NVE, has_state)
    assert read_until_closed(silent[0]) == b"", "the oldest made room"
    world.until(lambda: world.events("made room") == 1)
    world.until(lambda: len(world.server._connections) == 3)
    world.connect()
    world.until(lambda: len(world.server._connections) == 4), "who has proven its name takes no such place"
    assert world.connected("nve1")


def test_an_address_in_use_is_one_sentence(world: World) -> None:
    with pytest.raises(ConfigError, match="cannot listen on 127"):
        server.listen("127.0.0.1", world.address[1], "nva")


def test_a_registered_node_that_floods_is_cut_off_and_others_are_served(world: World) -> None:
    attacker = world.tls("nve1")
    frame = jsonrpc.encode(jsonrpc.Request(1, "register", {"instance": "a", "protocol": 2}))
    pings = b"".join(jsonrpc.encode(jsonrpc.Request(number, "ping")) for number in range(2, 402))
    attacker.sendall(frame)
    world.until(lambda: world.connected("nve1"))

    def drain() -> None:
        with contextlib.suppress(OSError):
            while attacker.recv(1 << 16):
                pass

    spawn(drain)  # one that does not read is cut off for that
    with contextlib.suppress(OSError):
        for _ in range(20):
            attacker.sendall(pings)
    world.until(lambda: world.events("sends more messages than any node needs") == 1)
    world.until(lambda: not world.connected("nve1"))
    world.run_link("nve2", Role.NVE, lambda events: any(isinstance(event, StateReceived) for event in events))

"""The TLS listener with real sockets on the loopback: hostile and slow clients harm only themselves."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller import server
from controller.admission import Admission, MessageRate
from controller.operators.operations import Revoke
from geneve.control import jsonrpc
from geneve.control.protocol import StateReceived
from geneve.control.state import Role
from geneve.errors import ConfigError
from tests.controller.tls_world import PATIENCE, World, has_state, read_until_closed, spawn
from tests.credentials import make_ca

REGISTER = jsonrpc.Request(1, "register", {"instance": "a", "protocol": 2})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def frame(text: bytes) -> bytes:
    return struct.pack("!I", len(text)) + text


def call(**changed: object) -> bytes:
    return frame(json.dumps({"jsonrpc": "2.0", "id": 5, "method": "need", "params": {}, **changed}).encode())


MALFORMED = [
    b"\xff\xff\xff\xff",
    struct.pack("!I", 0),
    struct.pack("!I", jsonrpc.MAX_FRAME_SIZE + 1),
    frame(b"[]"),
    frame(b"{}}"),
    frame(b"\xff\xfe"),
    frame(b"[" * 100_000),
    frame(b'{"a":' * 1000 + b"1" + b"}" * 1000),
    frame(b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "method": "need"}'),
    frame(b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": "\\ud800"}}'),
    frame(b'{"jsonrpc": "2.0", "id": 1e999, "method": "ping"}'),
    frame(b'{"jsonrpc": "2.0", "id": ' + b"9" * 5000 + b', "method": "ping"}'),
    call(jsonrpc="1.0"),
    call(id=None),
    call(method="x" * 1000),
    call(params=[1]),
    call(params={"demands": [{}]}),
    call(params={"demands": ["x"] * 5000}),
    call(method="tenants", params={"number": 1, "present": [{"vni": 100, "mac": "\n" * 1000}]}),
    call(method="../../etc/passwd"),
]


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
    intruder.sendall(jsonrpc.encode(REGISTER))
    assert read_until_closed(intruder) == b""
    world.until(lambda: world.events("not in the inventory") == 1)


def test_a_certificate_of_a_foreign_authority_is_refused_and_logged(world: World) -> None:
    with contextlib.suppress(OSError):  # in TLS 1.3 a client learns it only after its handshake
        intruder = world.tls("nve1", make_ca())
        intruder.sendall(jsonrpc.encode(REGISTER))
        assert read_until_closed(intruder) == b""
    world.until(lambda: world.events("certificate was refused") == 1)
    assert not world.connected("nve1")
    world.run_link("nve1", Role.NVE, has_state)


def test_an_expired_certificate_of_the_right_authority_is_refused(world: World) -> None:
    old = make_ca(days_ago=3)
    for part in ("_key", "_certificate", "_issuer_identifier"):
        setattr(old, part, getattr(world.authority, part))
    with contextlib.suppress(OSError):
        intruder = world.tls("nve1", old)
        intruder.sendall(jsonrpc.encode(REGISTER))
        assert read_until_closed(intruder) == b""
    world.until(lambda: world.events("certificate has expired") == 1)


def test_the_nva_s_own_certificate_and_a_server_s_make_no_node(world: World) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(world.folder / "ca.pem")
    context.load_cert_chain(world.folder / "nva.pem", world.folder / "nva.key")
    with contextlib.suppress(OSError):
        intruder = context.wrap_socket(world.connect(), server_hostname="nva")
        intruder.sendall(jsonrpc.encode(REGISTER))
        assert read_until_closed(intruder) == b""
    world.until(lambda: world.events("certificate was refused") + world.events("not in the inventory") == 1)


def test_older_tls_is_not_spoken(world: World) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(world.folder / "ca.pem")
    with pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(world.connect(), server_hostname="nva")
    world.until(lambda: world.events("handshake failed") == 1)


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data[:24]))
def test_malformed_messages_end_that_connection_only(world: World, data: bytes) -> None:
    bad = world.tls("nve1")
    bad.sendall(jsonrpc.encode(REGISTER))
    world.until(lambda: world.connected("nve1"))
    bad.sendall(data)
    read_until_closed(bad)
    world.until(lambda: not world.connected("nve1"))
    last = world.view("events")[-1]
    assert (last["kind"], last["node"]) == ("disconnected", "nve1"), "and the audit log says why"
    assert last["text"].isprintable()
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
    quiet.sendall(jsonrpc.encode(REGISTER))
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


def test_what_waits_for_one_node_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_WAITING_BYTES", 1000)
    near, far = socket.socketpair()
    connection = server.Connection(1, None, near, None, "192.0.2.1")  # type: ignore[arg-type]
    with near, far:
        connection.put(bytes(600))
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            far.recv(1)
        connection.put(bytes(600))
        assert far.recv(1) == b"", "it was cut off"


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


def test_hundreds_of_connections_are_bounded_logged_and_keep_no_node_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_TIMEOUT", 1000.0)
    world = World(tmp_path, Admission([], total=20, reserved=0, per_address=1000))
    before = world.run_link("nve1", Role.NVE, has_state)
    assert before
    for _ in range(300):
        world.connect()
    events = world.run_link("nve2", Role.NVE, has_state)
    assert any(isinstance(event, StateReceived) for event in events)
    world.until(lambda: world.events("made room") >= 270)
    assert len(world.view("events")) < 50, "counted, not listed one by one"
    assert sum(not connection.named for connection in list(world.server._connections.values())) <= 21
    world.close()


def test_who_is_turned_away_at_the_door_is_in_the_audit_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_TIMEOUT", 1000.0)
    world = World(tmp_path, Admission([], per_address=3))
    for _ in range(3):
        world.connect()
    world.until(lambda: len(world.server._connections) == 3)
    for _ in range(50):
        assert read_until_closed(world.connect()) == b""
    world.until(lambda: world.events("too many connections") == 50)
    assert len(world.view("events")) < 10
    world.close()


def test_a_revoked_node_s_connection_ends_and_the_next_is_refused(world: World) -> None:


    node = world.tls("nve1")
    node.sendall(jsonrpc.encode(REGISTER))
    world.until(lambda: world.connected("nve1"))
    world.shell.operate(Revoke("nve1"))
    read_until_closed(node)
    again = world.tls("nve1")
    again.sendall(jsonrpc.encode(REGISTER))
    assert read_until_closed(again) == b""
    world.until(lambda: world.events("it is revoked") == 1)
    world.run_link("nve2", Role.NVE, has_state)


def test_a_frame_that_never_ends_costs_a_bounded_buffer(world: World) -> None:
    greedy = world.tls("nve1")
    with contextlib.suppress(OSError):
        greedy.sendall(struct.pack("!I", jsonrpc.MAX_FRAME_SIZE) + b" " * (jsonrpc.MAX_FRAME_SIZE - 1))
        for _ in range(64):
            greedy.sendall(b" " * 65536)
    assert read_until_closed(greedy) == b""
    world.until(lambda: world.events("JSON") + world.events("frame") == 1)


def test_a_registered_node_that_floods_is_cut_off_and_others_are_served(world: World) -> None:
    attacker = world.tls("nve1")
    pings = b"".join(jsonrpc.encode(jsonrpc.Request(number, "ping")) for number in range(2, 402))
    attacker.sendall(jsonrpc.encode(REGISTER))
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
    world.run_link("nve2", Role.NVE, has_state)

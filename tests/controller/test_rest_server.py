"""The operators' listener with real sockets on the loopback: attackers are turned away, operators are served."""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.operators import rest_server
from controller.operators.http_message import MAX_BODY
from controller.operators.northbound import Northbound
from controller.operators.rest_server import RestServer
from controller.pki import TestbedCa
from controller.server import listen
from geneve.control.rest_client import RestClient, RestError
from geneve.control.tls import TlsFiles, client_context, server_context
from tests.controller.operator_backend import NODE, FakeBackend
from tests.credentials import make_ca, node_files, now, nva_files

PATIENCE = 20.0


def spawn(function: Callable[..., object], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


class World:
    def __init__(self, folder: Path, backend: FakeBackend | None = None) -> None:
        self.folder, self.authority = folder, make_ca()
        self.backend = backend or FakeBackend()
        listener = listen("127.0.0.1", 0, "rest")
        self.address = listener.getsockname()
        self.url = f"https://127.0.0.1:{self.address[1]}"
        context = server_context(nva_files(folder, self.authority))
        self.server = RestServer(spawn, context, listener, Northbound(self.backend, ["alice", "bob"]))
        spawn(self.server.serve)
        self.alice = self.files("alice")
        self.sockets: list[socket.socket] = []

    def files(self, name: str, authority: TestbedCa | None = None, folder_name: str = "") -> TlsFiles:
        folder = self.folder / (folder_name or name)
        folder.mkdir(exist_ok=True)
        made = node_files(folder, authority or self.authority, name)
        # Whoever made the certificate: the client itself trusts the NVA.
        return TlsFiles(str(self.folder / "ca.pem"), made.certificate, made.key)

    def client(self, files: TlsFiles | None = None) -> RestClient:
        return RestClient(self.url, files or self.alice, timeout=PATIENCE)

    def is_served(self) -> None:
        assert self.client().request("GET", "/v1/nodes/nve1") == NODE

    def connect(self) -> socket.socket:
        connected = socket.create_connection(self.address, timeout=PATIENCE)
        self.sockets.append(connected)
        return connected

    def tls(self, files: TlsFiles | None = None) -> ssl.SSLSocket:
        context = client_context(files or self.alice)
        wrapped = context.wrap_socket(self.connect(), server_hostname="127.0.0.1")
        self.sockets.append(wrapped)
        return wrapped

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.backend.audit[-10:]
            time.sleep(0.01)

    def refused(self, text: str, name: str = "127.0.0.1") -> bool:
        return any(entry[:2] == ("refused", name) and text in entry[2] for entry in list(self.backend.audit))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for connected in world.sockets:
        connected.close()


def exchange(connected: socket.socket, data: bytes) -> tuple[int, dict[str, Any]]:
    """Send a request and return the answer's status and document."""
    with contextlib.suppress(OSError):
        connected.sendall(data)
    head, _, body = read_all(connected).partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


def read_all(connected: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        while chunk := connected.recv(65536):
            data += chunk
    return data


REQUEST = b"GET /v1/nodes/nve1 HTTP/1.1\r\nHost: nva\r\n\r\n"


def test_an_operator_is_served(world: World) -> None:
    world.is_served()
    assert world.client(world.files("bob")).request("POST", "/v1/rekey", {}) == {"replaced": 2}
    assert world.backend.audit == [("operator", "bob", "POST /v1/rekey")]
    with pytest.raises(RestError, match="no node is named 'nve9'") as caught:
        world.client().request("GET", "/v1/nodes/nve9")
    assert caught.value.status == 404


def test_a_request_in_two_halves_and_a_head_request(world: World) -> None:
    connected = world.tls()
    connected.sendall(REQUEST[:20])
    time.sleep(0.05)
    assert exchange(connected, REQUEST[20:]) == (200, NODE)
    head = world.tls()
    head.sendall(REQUEST.replace(b"GET", b"HEAD"))
    answer = read_all(head)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")


def test_a_client_that_asks_before_it_sends_a_body_is_told_to(world: World) -> None:
    connected = world.tls()
    connected.sendall(
        b"POST /v1/rekey HTTP/1.1\r\nHost: nva\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    assert connected.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert exchange(connected, b"{}")[0] == 202


def no_certificate(world: World) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(world.folder / "ca.pem")
    return context


def foreign_certificate(world: World) -> ssl.SSLContext:
    return client_context(world.files("alice", make_ca(), "foreign"))


def expired_certificate(world: World) -> ssl.SSLContext:
    # The same authority, two days ago: what it issued is over, though its signature is good.
    authority = world.authority
    authority._from, authority._until = now() - datetime.timedelta(days=2), now() - datetime.timedelta(days=1)
    return client_context(world.files("alice", authority, "expired"))


def server_certificate(world: World) -> ssl.SSLContext:
    return client_context(nva_files(world.folder, world.authority))


def old_protocol(world: World) -> ssl.SSLContext:
    context = client_context(world.alice)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (no_certificate, "did not return a certificate"),
        (foreign_certificate, "certificate was refused"),
        (expired_certificate, "expired"),
        (server_certificate, "certificate was refused"),
        (old_protocol, "handshake failed"),
    ],
)
def test_who_cannot_prove_a_name_gets_no_answer(
    world: World, make: Callable[[World], ssl.SSLContext], reason: str
) -> None:
    context, answer = make(world), b""
    with contextlib.suppress(OSError):
        connected = context.wrap_socket(world.connect(), server_hostname="127.0.0.1")
        connected.sendall(REQUEST)
        answer = connected.recv(100)
    assert answer == b""
    world.until(lambda: world.refused(reason))
    world.is_served()
    assert world.backend.operations == []


def test_http_without_tls_gets_no_answer(world: World) -> None:
    connected = world.connect()
    connected.sendall(REQUEST)
    assert b"HTTP" not in read_all(connected)
    world.until(lambda: world.refused("handshake failed"))
    world.is_served()


@pytest.mark.parametrize("name", ["nve1", "t1", "red1", "Alice"])
def test_a_good_certificate_of_somebody_else_is_403(world: World, name: str) -> None:
    client = world.client(world.files(name))
    for method, path, body in (("GET", "/v1/nodes", None), ("POST", f"/v1/nodes/{name}/restore", {})):
        with pytest.raises(RestError, match=f"'{name}' is no operator") as caught:
            client.request(method, path, body)
        assert caught.value.status == 403
    assert world.refused("no operator's", name)
    assert world.backend.operations == []
    world.is_served()


def test_nonsense_of_somebody_else_is_403_too(world: World) -> None:
    for data in (b"BREW\r\n\r\n", POST + b"Content-Length: 1000\r\n\r\n", b"x" * 100_000):
        assert exchange(world.tls(world.files("nve1")), data)[0] == 403, "without waiting for a body"
    assert world.refused("no operator's", "nve1")


POST = b"POST /v1/rekey HTTP/1.1\r\nHost: nva\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (POST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1) + bytes(MAX_BODY + 1), 413),
        (POST + b"Content-Length: 999999999999\r\n\r\n", 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (POST + b"Content-Length: 1\r\n\r\n{", 400),
        (POST + b"Content-Length: %d\r\n\r\n" % MAX_BODY + b"[" * MAX_BODY, 400),
        (b"GET /" + b"x" * 100_000, 414),
        (POST + b"a: b\r\n" * 100_000, 431),
        (b"\x00" * 100 + b"\r\n\r\n", 400),
    ],
)
def test_oversized_and_malformed_requests(world: World, data: bytes, status: int) -> None:
    found, document = exchange(world.tls(), data)
    assert found == status
    assert document.keys() == {"error"}
    assert world.backend.operations == []
    world.is_served()


def drip(connected: socket.socket, data: bytes) -> threading.Thread:
    def run() -> None:
        with contextlib.suppress(OSError):
            for octet in data:
                connected.sendall(bytes([octet]))
                time.sleep(0.01)

    return spawn(run)


def test_silent_and_dripping_handshakes_are_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_server, "HANDSHAKE_TIME", 0.3)
    silent, dripping = world.connect(), world.connect()
    thread = drip(dripping, b"\x16\x03\x01\x40\x00" + bytes(100_000))
    assert read_all(silent) == b""
    thread.join(PATIENCE)
    assert not thread.is_alive()
    refusals = [entry for entry in world.backend.audit if "did not complete the TLS handshake" in entry[2]]
    assert len(refusals) == 2
    world.is_served()


@pytest.mark.parametrize("name", ["alice", "nve1"])
def test_silent_and_dripping_requests_are_cut_off(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(rest_server, "REQUEST_TIME", 0.3)
    files = world.files(name)
    silent, dripping = world.tls(files), world.tls(files)
    thread = drip(dripping, POST + b"Content-Length: 100000\r\n\r\n" + bytes(100_000))
    assert read_all(silent) == b""
    thread.join(PATIENCE)
    assert not thread.is_alive()
    world.until(lambda: sum("did not complete its request" in entry[2] for entry in world.backend.audit) == 2)
    assert world.refused("did not complete its request", name)
    world.is_served()


def test_a_client_that_does_not_read_its_answer_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_server, "RESPONSE_TIME", 0.3)
    world.backend.happen(1)
    world.backend.events[0]["text"] = "x" * 50_000_000
    slow = world.tls()
    slow.sendall(REQUEST.replace(b"nodes/nve1", b"events"))
    world.until(lambda: any(entry.operator for entry in list(world.server._clients.values())))
    world.is_served()
    world.until(lambda: not world.server._clients)


def test_five_hundred_connections_at_once_do_not_keep_an_operator_out(world: World) -> None:
    crowd = [world.connect() for _ in range(500)]
    for _ in range(5):
        world.is_served()
    assert len(world.server._clients) <= rest_server.MAX_THREADS
    world.until(lambda: world.refused("made room for others"))
    for connected in crowd:
        connected.close()
    world.until(lambda: not world.server._clients)
    world.is_served()


def test_a_crowd_with_a_node_s_certificate_does_not_either(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_server, "MAX_UNPROVEN", 8)
    world = World(world.folder)
    files = world.files("nve1")
    crowd = [world.tls(files) for _ in range(20)]
    world.is_served()
    world.until(lambda: world.refused("made room for others", "nve1"))
    assert len(crowd) == 20


def test_the_crowd_that_comes_last_does_not_end_what_an_operator_has_begun(world: World) -> None:
    connected = world.tls()
    connected.sendall(REQUEST[:20])
    world.until(lambda: any(entry.operator for entry in list(world.server._clients.values())))
    for _ in range(200):
        world.connect()
    assert exchange(connected, REQUEST[20:]) == (200, NODE)


def test_too_many_operators_at_once_are_told_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_server, "MAX_OPERATORS", 2)
    waiting = [world.tls() for _ in range(2)]
    world.until(lambda: sum(entry.operator for entry in list(world.server._clients.values())) == 2)
    with pytest.raises(RestError, match="try again") as caught:
        world.client().request("GET", "/v1/nodes")
    assert caught.value.status == 503
    assert exchange(waiting[0], REQUEST) == (200, NODE)


def test_events_come_as_they_happen_and_from_where_the_last_stream_ended(world: World) -> None:
    world.backend.happen(2)
    stream = world.client().events(after=1)
    assert next(stream)["number"] == 2
    world.backend.happen(2)
    assert [next(stream)["number"] for _ in range(2)] == [3, 4]
    stream.close()
    world.until(lambda: world.server._streams == 0)
    again = world.client().events(after=3)
    assert next(again)["text"] == "event 4"
    again.close()
    world.until(lambda: not world.server._clients)


def test_streams_are_limited_and_the_rest_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_server, "MAX_STREAMS", 2)
    world.backend.happen(1)
    streams = [world.client().events(after=0) for _ in range(2)]
    for stream in streams:
        next(stream)
    with pytest.raises(RestError, match="2 streams of events already"):
        next(world.client().events(after=0))
    world.is_served()
    for stream in streams:
        stream.close()


def test_a_stream_is_not_served_to_who_talks_on(world: World) -> None:
    connected = world.tls()
    connected.sendall(REQUEST.replace(b"nodes/nve1", b"events/stream"))
    assert connected.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    connected.sendall(b"and another thing")
    read_all(connected)
    world.until(lambda: world.server._streams == 0)


def test_a_client_meets_only_the_nva_it_means(world: World, tmp_path: Path) -> None:
    elsewhere = RestClient(world.url.replace("127.0.0.1", "localhost"), world.alice)
    with pytest.raises(RestError, match="not the NVA's"):
        elsewhere.request("GET", "/v1/nodes")

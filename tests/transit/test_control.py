"""The control channel against a real TLS server on the loopback interface, and the daemon's wait for it."""

from __future__ import annotations

import datetime
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from controller.pki import TestbedCa, write_credentials
from geneve.control import jsonrpc
from geneve.control.document import IN, NODE_SCOPE, POLICY, TRANSIT, PolicyEntry, to_wire
from geneve.control.state import NodeState
from geneve.control.tls import TlsFiles, server_context
from geneve.errors import ConfigError
from tests.transit.builders import device_state
from transit.config import Nva
from transit.control import make_agent

TIMEOUT = 10.0


class FakeNva:
    """Accepts one connection at a time and speaks frames, without blocking the test for good."""

    def __init__(self, files: TlsFiles) -> None:
        self._context = server_context(files)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._tls: ssl.SSLSocket | None = None
        self._decoder = jsonrpc.FrameDecoder()
        self._handshaken = False
        self.messages: list[jsonrpc.Message] = []

    def step(self) -> None:
        if self._listener.fileno() < 0:
            return
        try:
            if self._tls is None:
                client, _ = self._listener.accept()
                client.setblocking(False)
                self._decoder = jsonrpc.FrameDecoder()
                self._tls = self._context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
                self._handshaken = False
            if not self._handshaken:
                self._tls.do_handshake()
                self._handshaken = True
            self._decoder.feed(self._tls.recv(65536))
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        while (message := self._decoder.next_message()) is not None:
            self.messages.append(message)
            if isinstance(message, jsonrpc.Request):
                self.send(jsonrpc.Response(message.id, {"epoch": "e1"}))

    def send(self, message: jsonrpc.Message) -> None:
        assert self._tls is not None
        self._tls.sendall(jsonrpc.encode(message))

    def push(self, state: NodeState, sequence: int) -> None:
        """Push what makes up a device's state, as a snapshot."""
        entries: dict[str, BaseModel] = {POLICY: PolicyEntry(version=1, profiles=state.profiles)}
        entries |= {f"{IN}/{item.spi}": item for item in state.inbound}
        entries |= {f"{TRANSIT}/{vni.vni}": vni for vni in state.transit_vnis}
        scopes = {NODE_SCOPE: {"set": {key: to_wire(entry) for key, entry in entries.items()}}}
        self.send(jsonrpc.Request(sequence, "push", {"epoch": "e1", "sequence": sequence, "scopes": scopes}))

    def hang_up(self) -> None:
        if self._tls is not None:
            self._tls.close()
        self._tls = None

    def close(self) -> None:
        self.hang_up()
        self._listener.close()


class Bench:
    """A channel, an NVA, and a loop that runs both until something has happened."""

    def __init__(self, folder: Path) -> None:
        authority = TestbedCa(datetime.datetime.now(datetime.timezone.utc))
        (folder / "ca.pem").write_bytes(authority.certificate)
        write_credentials(folder, "nva", authority.issue_nva("nva", ["127.0.0.1"]))
        write_credentials(folder, "t1", authority.issue_node("t1"))
        self.applied: list[NodeState] = []
        self.refusal: str | None = None
        self.nva = FakeNva(TlsFiles(*[str(folder / name) for name in ("ca.pem", "nva.pem", "nva.key")]))
        self.poller = select.epoll()
        ca, certificate, key = (str(folder / name) for name in ("ca.pem", "t1.pem", "t1.key"))
        config = Nva(name="nva", address="127.0.0.1", port=self.nva.port, ca=ca, certificate=certificate, key=key)
        self.channel = make_agent("t1", config, self.apply, self.poller)

    def apply(self, state: NodeState) -> None:
        if self.refusal:
            raise ConfigError(self.refusal)
        self.applied.append(state)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, "it did not come to that in time"
            self.nva.step()
            for descriptor, events in self.poller.poll(0.005):
                if descriptor == self.channel.fileno():
                    self.channel.handle(
                        bool(events & ~select.EPOLLOUT), bool(events & select.EPOLLOUT), time.monotonic()
                    )
            self.channel.run_timers(time.monotonic())

    def close(self) -> None:
        self.channel.close()
        self.nva.close()
        self.poller.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_registers_applies_and_acknowledges(bench: Bench) -> None:
    bench.until(lambda: bench.channel.registered)
    (register,) = bench.nva.messages
    assert isinstance(register, jsonrpc.Request)
    assert register.method == "register"
    bench.nva.push(device_state(), 1)
    bench.until(lambda: len(bench.nva.messages) == 2)
    assert bench.applied == [device_state()]
    assert bench.nva.messages[1] == jsonrpc.Response(1, {"sequence": 1})


def test_state_that_cannot_be_applied_is_refused_with_the_reason(bench: Bench) -> None:
    bench.refusal = "the state names a VNI twice."
    bench.until(lambda: bench.channel.registered)
    bench.nva.push(device_state(), 1)
    bench.until(lambda: len(bench.nva.messages) == 2)
    answer = bench.nva.messages[1]
    assert isinstance(answer, jsonrpc.ErrorResponse)
    assert "names a VNI twice" in answer.message


def test_comes_back_after_the_nva_hung_up(bench: Bench) -> None:
    bench.until(lambda: bench.channel.registered)
    bench.nva.push(device_state(), 1)
    bench.until(lambda: len(bench.applied) == 1)
    bench.nva.hang_up()
    bench.until(lambda: not bench.channel.registered)
    bench.until(lambda: bench.channel.registered)
    bench.nva.push(device_state(vnis=()), 2)
    bench.until(lambda: len(bench.applied) == 2)


def test_waits_for_an_nva_that_is_not_there(bench: Bench) -> None:
    bench.nva.close()
    bench.channel.run_timers(time.monotonic())
    bench.until(lambda: bench.channel.fileno() is None)
    assert bench.channel.next_deadline > time.monotonic() - TIMEOUT
    assert not bench.channel.registered

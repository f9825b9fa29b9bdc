"""The NVA's real TLS listener on the loopback, with real nodes' links and raw sockets around it."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controller import server
from controller.admission import Admission
from controller.authority import nva
from controller.pki import TestbedCa
from controller.server import NodeServer
from controller.shell import Shell
from controller.store import Store
from geneve.control.protocol import Event, Identity, StateReceived
from geneve.control.session import ControlLink
from geneve.control.state import Role
from geneve.control.tls import client_context, server_context
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
    """A listener; what a test connects to it, and what the operator sees meanwhile."""

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

    def tls(self, name: str, authority: TestbedCa | None = None) -> ssl.SSLSocket:
        """Connect with a certificate for ``name``, of the network's CA or of another that the client trusts too."""
        context = client_context(node_files(self.folder, self.authority, name))
        if authority is not None:
            own = authority.issue_node(name)
            for path, data in ((self.folder / "x.pem", own.certificate), (self.folder / "x.key", own.key)):
                path.write_bytes(data)
            context.load_cert_chain(self.folder / "x.pem", self.folder / "x.key")
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

    def close(self) -> None:
        for connected in self.sockets:
            connected.close()


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

"""The connection to the NVA within the device's epoll loop (thin shell)."""

from __future__ import annotations

import contextlib
import functools
import random
import secrets
import select
import socket
from collections.abc import Callable

from geneve.control.agent import ControlAgent
from geneve.control.nva import Nva
from geneve.control.protocol import Identity
from geneve.control.session import ControlLink
from geneve.control.state import NodeState, Role
from geneve.control.tls import TlsFiles, client_context


def make_agent(name: str, nva: Nva, apply: Callable[[NodeState], None], poller: select.epoll) -> ControlAgent:
    """Return the agent that keeps this device connected, watched by ``poller``.

    ConfigError when a certificate file cannot be used.
    """
    link = ControlLink(
        identity=Identity(name=name, role=Role.TRANSIT, instance=secrets.token_hex(16), nva=nva.name),
        context=client_context(TlsFiles(nva.ca, nva.certificate, nva.key)),
        connect=functools.partial(_connect, nva.address, nva.port),
        random=random.random,
    )

    def watch(descriptor: int, for_writing: bool) -> None:
        poller.register(descriptor, select.EPOLLIN | (select.EPOLLOUT if for_writing else 0))

    def unwatch(descriptor: int) -> None:
        with contextlib.suppress(OSError):  # closed, and with that gone from epoll
            poller.unregister(descriptor)

    return ControlAgent(link, apply, watch, unwatch)


def _connect(address: str, port: int) -> socket.socket:
    connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.connect_ex((address, port))  # a failure shows at the first use
    return connection

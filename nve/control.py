"""The connection to the NVA within the NVE's event loop (thin shell)."""

from __future__ import annotations

import base64
import functools
import random
import secrets
import socket
import time
from collections.abc import Callable

from geneve.control.agent import ControlAgent
from geneve.control.demand import Demand
from geneve.control.nva import Nva
from geneve.control.protocol import Identity
from geneve.control.session import ControlLink
from geneve.control.state import NodeState, Role
from geneve.control.tls import TlsFiles, client_context
from nve.poller import Poller


def make_agent(
    name: str,
    nva: Nva,
    apply: Callable[[NodeState], None],
    poller: Poller,
    signing_key: bytes,
    *,
    check: Callable[[NodeState], None] = lambda _: None,
    refused: Callable[[Demand], None] = lambda _: None,
    confirm: Callable[[int, str], None] = lambda vni, mac: None,  # noqa: ARG005
) -> ControlAgent:
    """Return the agent that keeps this NVE connected, its descriptor watched by ``poller``.

    ``signing_key`` is the Ed25519 public key with which the NVE proves its multicast packets, 32 bytes; the
    callbacks are those of :class:`ControlAgent`. ConfigError when a certificate file cannot be used.
    """
    link = ControlLink(
        identity=Identity(
            name=name,
            role=Role.NVE,
            instance=secrets.token_hex(16),
            nva=nva.name,
            signing_key=base64.b64encode(signing_key).decode("ascii"),
        ),
        context=client_context(TlsFiles(nva.ca, nva.certificate, nva.key)),
        connect=functools.partial(_connect, nva.address, nva.port),
        random=random.random,
    )

    def handle(readable: bool, writable: bool) -> None:
        agent.handle(readable, writable, time.monotonic())

    def watch(descriptor: int, for_writing: bool) -> None:
        poller.watch(descriptor, handle, for_writing)

    agent = ControlAgent(link, apply, watch, poller.unwatch, check=check, refused=refused, confirm=confirm)
    return agent


def _connect(address: str, port: int) -> socket.socket:
    connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.connect_ex((address, port))  # a failure shows at the first use
    return connection

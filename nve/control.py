"""The connection to the NVA within the NVE's event loop (thin shell)."""

from __future__ import annotations

import random
import secrets
import selectors
import socket
from collections.abc import Callable

from geneve.control.agent import ControlAgent
from geneve.control.session import ControlLink, Identity
from geneve.control.state import NodeState, Role
from geneve.control.tls import TlsFiles, client_context
from nve.config import Nva


class ControlChannel:
    """Keeps the agent's descriptor registered in ``selector``, with this object as its data."""

    def __init__(
        self, name: str, nva: Nva, apply: Callable[[NodeState], None], selector: selectors.BaseSelector
    ) -> None:
        """Raise ConfigError when a certificate file cannot be used."""
        link = ControlLink(
            identity=Identity(name=name, role=Role.NVE, instance=secrets.token_hex(16), nva=nva.name),
            context=client_context(TlsFiles(nva.ca, nva.certificate, nva.key)),
            connect=lambda: _connect(nva.address, nva.port),
            random=random.random,
        )
        self._agent = ControlAgent(link, apply)
        self._selector = selector
        self._registered: tuple[int, int, bool] | None = None

    def handle(self, events: int, now: float) -> None:
        """Act on a ready descriptor."""
        self._agent.handle(bool(events & selectors.EVENT_READ), bool(events & selectors.EVENT_WRITE), now)
        self._update()

    def run_timers(self, now: float) -> None:
        """Connect, ping or give up if it is time."""
        self._agent.run_timers(now)
        self._update()

    def next_deadline(self) -> float:
        """When :meth:`run_timers` wants to be called."""
        return self._agent.next_deadline

    def _update(self) -> None:
        wanted = self._agent.interest
        if wanted == self._registered:
            return
        if self._registered is not None:
            # The link may have closed the descriptor already; the selector still knows its number.
            self._selector.unregister(self._registered[1])
        if wanted is not None:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted[2] else 0)
            self._selector.register(wanted[1], events, self)
        self._registered = wanted

    def close(self) -> None:
        """Close the connection."""
        self._agent.close()


def _connect(address: str, port: int) -> socket.socket:
    connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect_ex((address, port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        connection.close()
        raise
    return connection

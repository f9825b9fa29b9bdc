"""The device's connection to the NVA: a TCP socket under geneve.control's session (thin shell)."""

from __future__ import annotations

import errno
import logging
import os
import random
import secrets
import select
import socket
from collections.abc import Callable, Iterable

from geneve.control.session import ControlLink, Disconnected, Event, Identity, Registered, StateReceived
from geneve.control.state import NodeState, Role
from geneve.control.tls import TlsFiles, client_context
from geneve.errors import ConfigError
from transit.config import Nva

log = logging.getLogger("transit.control")


class ControlChannel:
    """Keeps the link to ``nva`` alive in an epoll loop, and hands pushed states to ``apply``.

    ``apply`` raises ConfigError for a state that cannot be applied; the NVA is told why. ConfigError here
    when the certificate files cannot be used.
    """

    def __init__(
        self, name: str, nva: Nva, apply: Callable[[NodeState], None], poller: select.epoll
    ) -> None:
        self._nva = nva
        self._apply = apply
        self._poller = poller
        self._watched: tuple[int, int, int] | None = None  # generation, descriptor, epoll events
        self._link = ControlLink(
            identity=Identity(name, Role.TRANSIT, secrets.token_hex(16), nva.name),
            context=client_context(TlsFiles(nva.ca, nva.certificate, nva.key)),
            connect=self._connect,
            random=random.random,
        )

    def _connect(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._nva.address else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = opened.connect_ex((self._nva.address, self._nva.port))
        if code not in (0, errno.EINPROGRESS):
            opened.close()
            raise OSError(code, os.strerror(code))
        return opened

    @property
    def registered(self) -> bool:
        """Whether the NVA has accepted this device on the present connection."""
        return self._link.registered

    def fileno(self) -> int | None:
        """Return the descriptor that is watched now, or None."""
        return self._link.fileno()

    def next_deadline(self) -> float:
        """Return when :meth:`run_timers` is needed next; minus infinity means now."""
        return self._link.next_deadline

    def handle(self, events: int, now: float) -> None:
        """React to what epoll reported for :meth:`fileno`."""
        if events & ~select.EPOLLOUT:  # errors and hang-ups show when reading
            self._act(self._link.on_readable(now))
        if events & select.EPOLLOUT:
            self._act(self._link.on_writable(now))
        self._flush(now)

    def run_timers(self, now: float) -> None:
        """Connect, ping or give up when it is time."""
        if now >= self._link.next_deadline:
            self._act(self._link.on_timer(now))
            self._flush(now)

    def _act(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, StateReceived):
                try:
                    self._apply(event.state)
                except ConfigError as error:
                    log.error("state %d refused: %s", event.version, error)
                    self._link.refuse(event, str(error))
                else:
                    log.info("state %d applied", event.version)
                    self._link.acknowledge(event)
            elif isinstance(event, Registered):
                log.info("registered with %s", self._nva.name)
            elif isinstance(event, Disconnected):
                log.warning("not connected to %s: %s", self._nva.name, event.reason)

    def _flush(self, now: float) -> None:
        """Send acknowledgements at once: the NVA waits for them before it lets senders use new keys."""
        if self._link.wants_write:
            self._act(self._link.on_writable(now))
        self._watch()

    def _watch(self) -> None:
        """Have epoll watch the link's present descriptor, for writing only while something waits."""
        descriptor = self._link.fileno()
        if descriptor is None:
            self._watched = None  # closed, and with that gone from epoll
            return
        events = select.EPOLLIN | (select.EPOLLOUT if self._link.wants_write else 0)
        wanted = (self._link.generation, descriptor, events)
        if wanted == self._watched:
            return
        if self._watched is not None and self._watched[0] == self._link.generation:
            self._poller.modify(descriptor, events)
        else:
            self._poller.register(descriptor, events)
        self._watched = wanted

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

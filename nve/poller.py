"""Which descriptor is whose: epoll with a handler for each descriptor (thin shell).

In place of the standard library's selectors, whose objects for each event cost more than the event.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from typing import Protocol

MAX_EVENTS = 32
"""Descriptors that one turn serves; the others, if any, are served by the next ones."""

Handler = Callable[[bool, bool], object]
"""Called with whether a descriptor is readable (or broken, which shows when it is read) and writable."""


class HasDescriptor(Protocol):
    """A socket, or anything else that has a descriptor."""

    def fileno(self) -> int:
        """Return the descriptor."""


class Poller:
    """Calls handlers of descriptors that are ready."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}

    def watch(self, source: HasDescriptor | int, handler: Handler, for_writing: bool = False) -> None:
        """Have ``handler`` called when ``source`` can be read; with ``for_writing`` also when it can be written."""
        descriptor = source if isinstance(source, int) else source.fileno()
        self._epoll.register(descriptor, select.EPOLLIN | (select.EPOLLOUT if for_writing else 0))
        self._handlers[descriptor] = handler

    def unwatch(self, source: HasDescriptor | int) -> None:
        """Forget a source; one that is closed already, or was never watched, is no error."""
        descriptor = source if isinstance(source, int) else source.fileno()
        self._handlers.pop(descriptor, None)
        with contextlib.suppress(OSError, ValueError):  # closed, and with that gone from epoll
            self._epoll.unregister(descriptor)

    def turn(self, timeout: float) -> bool:
        """Handle what is ready, or is so within ``timeout`` seconds; return whether anything was."""
        ready = self._epoll.poll(timeout, MAX_EVENTS)
        for descriptor, events in ready:
            # One handler may have ended what another one waits for.
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler(bool(events & ~select.EPOLLOUT), bool(events & select.EPOLLOUT))
        return bool(ready)

    def close(self) -> None:
        """Close epoll's own descriptor; those that were watched stay open."""
        self._epoll.close()

"""A node's link to the NVA, driven by whatever event loop the node has.

The loop waits on ``interest`` and calls :meth:`ControlAgent.handle` and :meth:`ControlAgent.run_timers`;
the agent has the node apply each state that comes, and acknowledges or refuses it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from geneve.control.session import ControlLink, Disconnected, Event, Registered, StateReceived
from geneve.control.state import NodeState
from geneve.errors import ConfigError

log = logging.getLogger(__name__)


class ControlAgent:
    """Applies what a :class:`ControlLink` brings through ``apply``, which raises ConfigError to refuse."""

    def __init__(self, link: ControlLink, apply: Callable[[NodeState], None]) -> None:
        self._link = link
        self._apply = apply

    @property
    def interest(self) -> tuple[int, int, bool] | None:
        """``(generation, descriptor, wants to write)`` to wait for, or None while there is no connection.

        A descriptor number of another generation is another connection and must be registered anew.
        """
        descriptor = self._link.fileno()
        return None if descriptor is None else (self._link.generation, descriptor, self._link.wants_write)

    @property
    def next_deadline(self) -> float:
        """When :meth:`run_timers` wants to be called."""
        return self._link.next_deadline

    def handle(self, readable: bool, writable: bool, now: float) -> None:
        """Receive and send after the descriptor became ready."""
        if readable:
            self._act(self._link.on_readable(now))
        if writable or self._link.wants_write:
            self._act(self._link.on_writable(now))

    def run_timers(self, now: float) -> None:
        """Connect, ping or give up if it is time."""
        if now >= self._link.next_deadline:
            self._act(self._link.on_timer(now))

    def close(self) -> None:
        """Close the connection for good."""
        self._link.close()

    def _act(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, Registered):
                log.info("registered with the NVA")
            elif isinstance(event, Disconnected):
                log.warning("not connected to the NVA: %s", event.reason)
            else:
                self._take_over(event)

    def _take_over(self, event: StateReceived) -> None:
        try:
            self._apply(event.state)
        except ConfigError as error:
            log.error("state %d refused: %s", event.version, error)
            self._link.refuse(event, str(error))
        else:
            self._link.acknowledge(event)

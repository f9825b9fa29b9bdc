"""A node's link to the NVA, driven by whatever event loop the node has.

The loop calls :meth:`ControlAgent.handle` when the descriptor it was told to watch is ready and
:meth:`ControlAgent.run_timers` when time has passed; the agent has the node apply each state that
comes, and acknowledges or refuses it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from geneve.control.session import ControlLink, Disconnected, Event, Registered, StateReceived
from geneve.control.state import NodeState
from geneve.errors import ConfigError

log = logging.getLogger(__name__)


class ControlAgent:
    """Applies what ``link`` brings through ``apply``, which raises ConfigError to refuse.

    ``watch(descriptor, for_writing)`` has the loop wait for a descriptor, for reading in any case;
    ``unwatch(descriptor)`` takes that back. The descriptor may be closed by then.
    """

    def __init__(
        self,
        link: ControlLink,
        apply: Callable[[NodeState], None],
        watch: Callable[[int, bool], object],
        unwatch: Callable[[int], object],
    ) -> None:
        self._link = link
        self._apply = apply
        self._watch, self._unwatch = watch, unwatch
        self._rekeys: dict[int, None] = {}
        # Generation, descriptor, for writing. The number of a closed descriptor comes back for another
        # connection, so the generation tells them apart.
        self._watched: tuple[int, int, bool] | None = None

    @property
    def registered(self) -> bool:
        """Whether the NVA has accepted this node on the present connection."""
        return self._link.registered

    @property
    def next_deadline(self) -> float:
        """When :meth:`run_timers` wants to be called; minus infinity means now."""
        return self._link.next_deadline

    def fileno(self) -> int | None:
        """Return the descriptor of the present connection, or None."""
        return self._link.fileno()

    def handle(self, readable: bool, writable: bool, now: float) -> None:
        """Receive and send after the descriptor became ready."""
        if readable:
            self._act(self._link.on_readable(now))
        if writable:
            self._act(self._link.on_writable(now))
        self._flush(now)

    def run_timers(self, now: float) -> None:
        """Connect, ping or give up if it is time."""
        if now >= self._link.next_deadline:
            self._act(self._link.on_timer(now))
            self._flush(now)
        if self._rekeys:
            self._rekeys = {spi: None for spi in self._rekeys if not self._link.ask_rekey(spi)}
            self._flush(now)

    def ask_rekey(self, spi: int) -> None:
        """Ask the NVA for an association in place of ``spi``, now or once the node is registered again."""
        log.warning("association %#010x reached its soft limit; asking for another", spi)
        self._rekeys[spi] = None

    def close(self) -> None:
        """Close the connection for good."""
        self._link.close()

    def _flush(self, now: float) -> None:
        # Acknowledgements go out at once: the NVA waits for them before it lets senders use new keys.
        if self._link.wants_write:
            self._act(self._link.on_writable(now))
        descriptor = self._link.fileno()
        wanted = None if descriptor is None else (self._link.generation, descriptor, self._link.wants_write)
        if wanted == self._watched:
            return
        if self._watched is not None:
            self._unwatch(self._watched[1])
        if wanted is not None:
            self._watch(wanted[1], wanted[2])
        self._watched = wanted

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
            log.info("state %d applied", event.version)
            self._link.acknowledge(event)

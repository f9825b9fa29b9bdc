"""A node's link to the NVA, driven by whatever event loop the node has.

The loop calls :meth:`ControlAgent.handle` when the descriptor it was told to watch is ready and
:meth:`ControlAgent.run_timers` when time has passed; the agent has the node apply each state that
comes, and acknowledges or refuses it. What the node wants of the NVA is kept until it has been asked.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence

from geneve.control.demand import Demand, Tenant
from geneve.control.protocol import ConfirmAsked, DemandsRefused, Disconnected, Event, Registered, StateReceived
from geneve.control.session import ControlLink
from geneve.control.state import NodeState
from geneve.errors import ConfigError
from geneve.policy import Policy

log = logging.getLogger(__name__)


class ControlAgent:
    """Applies what ``link`` brings through ``apply``, which raises ConfigError to refuse.

    ``watch(descriptor, for_writing)`` has the loop wait for a descriptor, for reading in any case;
    ``unwatch(descriptor)`` takes that back. The descriptor may be closed by then. ``check`` raises ConfigError
    when a state under a policy that is only proposed could not be applied. ``refused`` is told of each demand that
    the NVA will not meet, ``confirm`` of each tenant that it asks for: answer with :meth:`confirmed`.
    """

    def __init__(
        self,
        link: ControlLink,
        apply: Callable[[NodeState], None],
        watch: Callable[[int, bool], object],
        unwatch: Callable[[int], object],
        *,
        check: Callable[[NodeState], None] = lambda _: None,
        refused: Callable[[Demand], None] = lambda _: None,
        confirm: Callable[[int, str], None] = lambda vni, mac: None,  # noqa: ARG005
    ) -> None:
        self._link = link
        self._apply, self._check = apply, check
        self._refused, self._confirm = refused, confirm
        self._watch, self._unwatch = watch, unwatch
        self._rekeys: dict[int, None] = {}
        self._demands: dict[Demand, None] = {}
        self._tenants: tuple[int, Sequence[Tenant]] | None = None
        self._told = False
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
        waiting = self._rekeys or self._demands or (self._tenants is not None and not self._told)
        return -math.inf if waiting and self._link.registered else self._link.next_deadline

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
        if self._link.registered and (self._rekeys or self._demands or not self._told):
            self._ask(now)
            self._flush(now)

    def _ask(self, now: float) -> None:
        """Say what waits to be said, as far as the node is registered."""
        self._rekeys = {spi: None for spi in self._rekeys if not self._link.ask_rekey(spi, now)}
        if self._demands and self._link.ask_keys(tuple(self._demands), now):
            self._demands.clear()
        if self._tenants is not None and not self._told:
            self._told = self._link.tell_tenants(*self._tenants, now)

    def ask_rekey(self, spi: int) -> None:
        """Ask the NVA for an association in place of ``spi``, now or once the node is registered again."""
        if spi not in self._rekeys:
            log.info("association %#010x reached its soft limit; asking for another", spi)
        self._rekeys[spi] = None

    def ask_keys(self, demands: Iterable[Demand]) -> None:
        """Ask the NVA for keys at the next :meth:`run_timers`, or once the node is registered again."""
        self._demands.update(dict.fromkeys(demands))

    def tell_tenants(self, tenants: Sequence[Tenant]) -> None:
        """Report all tenants of this node at the next :meth:`run_timers`, and again after each registration."""
        self._tenants = ((self._tenants[0] if self._tenants else 0) + 1, tenants)
        self._told = False

    def confirmed(self, vni: int, mac: str, present: bool) -> None:
        """Tell the NVA whether a tenant that it asked for is here."""
        self._link.confirm(vni, mac, present)

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

    def _forget_closed(self) -> None:
        # Before anything is opened in answer to an event, which may well be given the number of what was closed.
        if self._watched is not None and self._watched[:2] != (self._link.generation, self._link.fileno()):
            self._unwatch(self._watched[1])
            self._watched = None

    def _act(self, events: Iterable[Event]) -> None:
        self._forget_closed()
        for event in events:
            if isinstance(event, Registered):
                log.info("registered with the NVA")
                self._told = False  # a report that was never answered may never have arrived
            elif isinstance(event, Disconnected):
                log.warning("not connected to the NVA: %s", event.reason)
            elif isinstance(event, DemandsRefused):
                for demand in event.demands:
                    self._refused(demand)
            elif isinstance(event, ConfirmAsked):
                self._confirm(event.vni, event.mac)
            else:
                self._take_over(event)

    def _take_over(self, event: StateReceived) -> None:
        sequence = event.push.sequence
        try:
            if event.candidate is not None:
                Policy(event.candidate.policy, event.candidate.profiles)
                self._check(event.candidate)
            self._apply(event.state)
        except ConfigError as error:
            log.error("state %d refused: %s", sequence, error)
            self._link.refuse(event, str(error))
        else:
            log.debug("state %d applied", sequence)
            self._link.acknowledge(event)

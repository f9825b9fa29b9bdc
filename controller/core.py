"""The whole controller as plain Python: the underlay's paths go to the NVA, both answer operators.

Not safe against simultaneous calls; the shell serialises them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from controller.authority import nva as authority
from controller.authority.nva import Effect, Nva
from controller.authority.records import AuditLine, Saved
from controller.fabric import underlay as network
from controller.fabric.underlay import Command, Notice, PathsChanged, Underlay
from controller.inventory import Inventory
from controller.operators import views
from controller.operators.operate import operate
from controller.operators.operations import Operation

DISCOVERY_TIME = 15.0
"""Seconds after a restart in which the paths of before count until every link is found again."""


class Core:
    """Underlay and NVA of one inventory."""

    def __init__(
        self,
        inventory: Inventory,
        listener: Callable[[AuditLine], None] = lambda _: None,
        token: Callable[[int], bytes] = secrets.token_bytes,
        *,
        saved: Saved | None = None,
        now: float = 0.0,
        utc_offset: float = 0.0,
        last_event: int = 0,
    ) -> None:
        """``listener`` is told each event; ``token`` returns random bytes fit for keys; the rest is Nva's."""
        self.inventory = inventory
        self.nva = Nva(
            inventory, token, listener, saved=saved, now=now, utc_offset=utc_offset, last_event=last_event
        )  # fmt: skip
        # What is found first is not all there is: a device that is not found yet is not gone, nor is a switch.
        self._hold_until = now + DISCOVERY_TIME if self.nva.restored else None
        self.underlay = Underlay(inventory, token(32), self.nva.life, self._hold_until)
        self._held: PathsChanged | None = None

    def handle_underlay(self, event: network.UnderlayEvent, now: float) -> tuple[list[Command], list[Effect]]:
        """Take an event of the underlay; returns what switches and what nodes must be told."""
        commands: list[Command] = []
        effects: list[Effect] = []
        for command in self.underlay.handle(event, now):
            if isinstance(command, PathsChanged):
                self._held = command
            elif isinstance(command, Notice):
                self.nva.report(now, "underlay", "", command.text)
            else:
                commands.append(command)
        if self._hold_until is not None and (self.underlay.complete or now >= self._hold_until):
            self._hold_until = None
        if self._held is not None and self._hold_until is None:
            held, self._held = self._held, None
            effects += self.nva.handle(authority.PathsAre(held.paths), now)
        return commands, effects

    def operate(self, operation: Operation, now: float) -> tuple[dict[str, Any], list[Effect]]:
        """Carry out what an operator asks; OperationError says why nothing is done."""
        return operate(self.nva, operation, now)

    def view(self, name: str, now: float) -> dict[str, Any] | None:
        """Return one resource for operators, or None when there is none of that name."""
        nva = self.nva
        resources: dict[str, Callable[[], dict[str, Any]]] = {
            "nodes": lambda: views.nodes(nva, now),
            "tenants": lambda: views.tenants(nva.book.inventory),
            "mappings": lambda: views.mappings(nva),
            "policy": nva.book.view,
            "associations": lambda: views.associations(nva, now),
            "topology": self.underlay.view,
            "flows": lambda: self.underlay.flows_view(now),
            "events": lambda: {"events": [views.event(line) for line in nva.events.after(0, 1000)]},
        }
        view = resources.get(name)
        return None if view is None else view()

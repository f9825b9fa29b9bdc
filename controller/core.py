"""The whole controller as plain Python: the underlay's paths go to the NVA, both answer the REST view.

Not safe against simultaneous calls; the shell serialises them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from controller import nva as authority
from controller import underlay as network
from controller.inventory import Inventory
from controller.nva import Effect, LogEntry, Nva
from controller.underlay import Command, Notice, PathsChanged, Underlay


class Core:
    """Underlay and NVA of one inventory."""

    def __init__(
        self,
        inventory: Inventory,
        listener: Callable[[LogEntry], None] = lambda _: None,
        token: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """``listener`` is told each event; ``token`` returns random bytes fit for keys."""
        self.inventory = inventory
        self.nva = Nva(inventory, token, listener)
        self.underlay = Underlay(inventory, token(32))

    def handle_underlay(self, event: network.UnderlayEvent, now: float) -> tuple[list[Command], list[Effect]]:
        """Take an event of the underlay; returns what switches and what nodes must be told."""
        commands: list[Command] = []
        effects: list[Effect] = []
        for command in self.underlay.handle(event, now):
            if isinstance(command, PathsChanged):
                effects += self.nva.handle(authority.PathsAre(command.paths), now)
            elif isinstance(command, Notice):
                self.nva.report(now, "underlay", "", command.text)
            else:
                commands.append(command)
        return commands, effects

    def view(self, name: str, now: float) -> dict[str, Any] | None:
        """Return one resource of the REST view, or None when there is none of that name."""
        views: dict[str, Callable[[], dict[str, Any]]] = {
            "nodes": lambda: self.nva.nodes_view(now),
            "tenants": self._tenants,
            "mappings": self._mappings,
            "associations": lambda: self.nva.associations_view(now),
            "topology": self.underlay.view,
            "flows": lambda: self.underlay.flows_view(now),
            "events": lambda: self.nva.events_view(now),
        }
        view = views.get(name)
        return None if view is None else view()

    def _tenants(self) -> dict[str, Any]:
        tenants: dict[str, list[dict[str, Any]]] = {}
        for vni in self.inventory.vnis:
            entry = {**vni.model_dump(mode="json"), "members": list(self.inventory.members(vni.vni))}
            tenants.setdefault(vni.tenant, []).append(entry)
        return {"tenants": [{"name": name, "vnis": vnis} for name, vnis in tenants.items()]}

    def _mappings(self) -> dict[str, Any]:
        return {"mappings": [mapping.model_dump(mode="json") for mapping in self.inventory.mappings]}

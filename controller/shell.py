"""The one lock around the controller's logic, its clock, and the ways of its results (thin shell)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from controller import nva, underlay
from controller.core import Core
from controller.inventory import Inventory

TICK = 0.1
"""Seconds between two looks at what is due."""

log = logging.getLogger("controller")


class Shell:
    """Serialises all calls of the logic. What it returns is queued under the lock, so its order is kept;
    the two ``dispatch`` functions must not block.
    """

    def __init__(self, inventory: Inventory) -> None:
        self.lock = threading.RLock()
        self._core = Core(inventory, _log_event)
        self.dispatch_switch: Callable[[underlay.Command], None] = lambda _: None
        self.dispatch_node: Callable[[nva.Effect], None] = lambda _: None

    def underlay(self, event: underlay.UnderlayEvent) -> None:
        """Handle an event of the underlay."""
        with self.lock:
            commands, effects = self._core.handle_underlay(event, time.monotonic())
            for command in commands:
                self.dispatch_switch(command)
            for effect in effects:
                self.dispatch_node(effect)

    def node(self, message: nva.Input) -> None:
        """Handle a message of a node's connection."""
        with self.lock:
            for effect in self._core.nva.handle(message, time.monotonic()):
                self.dispatch_node(effect)

    def refused(self, name: str, reason: str) -> None:
        """Note a connection that did not get as far as the NVA."""
        with self.lock:
            self._core.nva.report(time.monotonic(), "refused", name, reason)

    def view(self, name: str) -> dict[str, Any] | None:
        """Return a resource of the REST view."""
        with self.lock:
            return self._core.view(name, time.monotonic())

    def run_timer(self) -> None:
        """Tick for ever."""
        while True:
            time.sleep(TICK)
            try:
                self.underlay(underlay.Tick())
                self.node(nva.Tick())
            except Exception:  # the timer must outlive a fault, and the fault must show
                log.exception("a timer failed")


def _log_event(entry: nva.LogEntry) -> None:
    log.info("%s %s %s", entry.kind, entry.node or "-", entry.text)

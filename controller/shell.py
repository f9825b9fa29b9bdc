"""The one lock around the controller's logic, its clock, its store, and the ways of its results (thin shell)."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from controller.authority import nva
from controller.authority.records import AuditLine
from controller.core import Core
from controller.fabric import underlay
from controller.inventory import Inventory
from controller.operators import views
from controller.operators.operations import Operation
from controller.store import Store, StoreError

TICK = 0.05
"""Seconds between two looks at what is due."""

log = logging.getLogger("controller")


class Shell:
    """Serialises all calls of the logic. What changed is stored before anybody is told, and what is to be told is
    queued under the lock, so its order is kept; the two ``dispatch`` functions must not block.
    """

    def __init__(self, inventory: Inventory, store: Store) -> None:
        """Go on where ``store`` says that an earlier life ended."""
        self.lock = threading.RLock()
        self._store = store
        now = time.monotonic()
        self._core = Core(
            inventory,
            _log_event,
            saved=store.load(),
            now=now,
            utc_offset=time.time() - now,
            last_event=store.last_audit_number(),
        )
        self.dispatch_switch: Callable[[underlay.Command], None] = lambda _: None
        self.dispatch_node: Callable[[nva.Effect], None] = lambda _: None
        self._commit()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[float]:
        with self.lock:
            try:
                yield time.monotonic()
            finally:
                self._commit()

    def _commit(self) -> None:
        changes = self._core.nva.take_changes()
        if not changes:
            return
        try:
            self._store.commit(changes)
        except Exception as error:  # StoreError, and whatever else keeps the changes from the store
            # Going on would give out keys that the next life does not know of. The data plane does not need us now.
            log.critical("%s", error, exc_info=not isinstance(error, StoreError))
            logging.shutdown()
            os._exit(1)

    def underlay(self, event: underlay.UnderlayEvent) -> None:
        """Handle an event of the underlay."""
        with self.lock:
            with self._turn() as now:
                commands, effects = self._core.handle_underlay(event, now)
            for command in commands:
                self.dispatch_switch(command)
            self._dispatch(effects)

    def node(self, *messages: nva.Input) -> None:
        """Handle messages of a node's connection, in order; what they change is stored together."""
        effects: list[nva.Effect] = []
        with self.lock:
            now = time.monotonic()
            try:
                for message in messages:
                    effects += self._core.nva.handle(message, now)
            finally:
                self._commit()
                self._dispatch(effects)

    def operate(self, operation: Operation) -> dict[str, Any]:
        """Carry out what an operator asks; OperationError says why nothing is done."""
        with self.lock:
            with self._turn() as now:
                answer, effects = self._core.operate(operation, now)
            self._dispatch(effects)
            return answer

    def _dispatch(self, effects: list[nva.Effect]) -> None:
        for effect in effects:
            self.dispatch_node(effect)

    def refused(self, name: str, reason: str) -> None:
        """Note a connection that did not get as far as the NVA."""
        with self._turn() as now:
            self._core.nva.report(now, "refused", name, reason)

    def operated(self, name: str, text: str) -> None:
        """Note what an operator did."""
        with self._turn() as now:
            self._core.nva.report(now, "operator", name, text)

    def view(self, name: str) -> dict[str, Any] | None:
        """Return a resource for operators."""
        with self.lock:
            return self._core.view(name, time.monotonic())

    def events_after(self, number: int, limit: int) -> list[dict[str, Any]]:
        """Return up to ``limit`` lines of the audit log that follow ``number``, oldest first."""
        with self.lock:
            log_in_memory = self._core.nva.events
            if number + 1 >= log_in_memory.oldest:
                lines = log_in_memory.after(number, limit)
            else:
                lines = self._store.audit_after(number, limit)
            return [views.event(line) for line in lines]

    def run_timer(self) -> None:
        """Tick for ever."""
        while True:
            time.sleep(TICK)
            try:
                self.underlay(underlay.Tick())
                self.node(nva.Tick())
            except Exception:  # the timer must outlive a fault, and the fault must show
                log.exception("a timer failed")


def _log_event(line: AuditLine) -> None:
    log.info("%s %s %s", line.kind, line.node or "-", line.text)

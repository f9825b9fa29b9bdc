"""The core and its shell: paths after a restart, and that nobody is told what is not stored yet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from controller import shell as shells
from controller.authority.nva import Close, Effect, Opened, Received, Send
from controller.authority.records import AuditLine, Change, Keep
from controller.core import DISCOVERY_TIME, Core
from controller.fabric.underlay import PathsChanged, Tick, Underlay
from controller.inventory import Inventory
from controller.operators.operations import OperationError, Rekey, Revoke
from controller.shell import Shell
from controller.store import Store, StoreError
from geneve.control import jsonrpc
from tests.controller.inventories import build
from tests.controller.world import RING, World, eager

REGISTER = jsonrpc.Request(1, "register", {"instance": "aa", "protocol": 2})


class FakeUnderlay:
    """Says what paths there are when it is told to, and whether it has found everything."""

    def __init__(self) -> None:
        self.complete = False
        self.paths: Mapping[tuple[str, str], tuple[str, ...]] | None = None

    def handle(self, *_: object) -> list[PathsChanged]:
        paths, self.paths = self.paths, None
        return [] if paths is None else [PathsChanged(dict(paths))]


def found(core: Core, now: float, paths: Any = None, complete: bool = False) -> list[Effect]:
    """Let the underlay find something."""
    underlay = core.underlay
    assert isinstance(underlay, FakeUnderlay)
    underlay.paths, underlay.complete = paths, complete
    return core.handle_underlay(Tick(), now)[1]


def reborn(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(eager())
    world.register_all()
    world.restart()
    monkeypatch.setattr(world.core, "underlay", FakeUnderlay())
    return world


def test_after_a_restart_paths_of_before_hold_until_every_link_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    world = reborn(monkeypatch)
    found(world.core, world.now, {})
    found(world.core, world.now + 1, {("nve1", "nve2"): ()})
    assert world.nva._paths == RING, "what is not found yet is not gone"
    found(world.core, world.now + 2, RING, complete=True)
    assert world.nva._paths == RING
    found(world.core, world.now + 3, {})
    assert world.nva._paths == {}, "from then on what is gone is gone"


def test_links_that_are_never_found_are_waited_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    world = reborn(monkeypatch)
    found(world.core, world.now, {})
    found(world.core, world.now + DISCOVERY_TIME - 0.1)
    assert world.nva._paths == RING
    found(world.core, world.now + DISCOVERY_TIME)
    assert world.nva._paths == {}


def test_a_first_life_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    assert isinstance(world.core.underlay, Underlay)
    monkeypatch.setattr(world.core, "underlay", FakeUnderlay())
    found(world.core, world.now, {})
    assert world.nva._paths == {}


# The shell ------------------------------------------------------------------------------------------------


class WatchedStore(Store):
    """Notes what is stored, among the effects that follow, and can fail."""

    def __init__(self) -> None:
        self.order: list[object] = []
        self.broken = False
        super().__init__(None, bytes(32))

    def commit(self, changes: Any) -> None:
        if self.broken:
            raise StoreError("nva.db: cannot be written (disk full); make room.")
        listed: list[Change] = list(changes)
        super().commit(listed)
        self.order += listed


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


def shell_of(store: WatchedStore, inventory: Inventory | None = None) -> Shell:
    shell = Shell(inventory or build(), store)
    shell.dispatch_node = store.order.append
    return shell


def register(shell: Shell, connection: int, name: str) -> None:
    shell.node(Opened(connection, name))
    shell.node(Received(connection, REGISTER))


def pushed_spis(effect: object) -> set[int]:
    if not isinstance(effect, Send) or not isinstance(effect.message, jsonrpc.Request):
        return set()
    keys = effect.message.params.get("scopes", {}).get("node", {}).get("set", {})
    return {int(key.partition("/")[2]) for key in keys if key.startswith(("in/", "out/"))}


def test_no_node_is_told_a_key_that_is_not_stored(store: WatchedStore) -> None:
    shell = shell_of(store, eager())
    register(shell, 1, "nve1")
    register(shell, 2, "nve2")
    stored: set[int] = set()
    told: set[int] = set()
    for item in store.order:
        if isinstance(item, Keep) and item.kind == "association":
            stored.add(int(item.name))
        told |= pushed_spis(item)
        assert told <= stored
    assert told


def test_a_store_that_fails_ends_the_program_before_anybody_is_told(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(BaseException):
        pass

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(shells.os, "_exit", end)
    monkeypatch.setattr(shells.logging, "shutdown", lambda: None)
    shell = shell_of(store, eager())
    register(shell, 1, "nve1")
    shell.node(Opened(2, "nve2"))
    store.broken, count = True, len(store.order)
    with pytest.raises(Ended):
        shell.node(Received(2, REGISTER))
    assert store.order[count:] == []


def test_an_operation_is_stored_and_then_carried_out(store: WatchedStore) -> None:
    shell = shell_of(store)
    register(shell, 1, "nve1")
    assert shell.operate(Revoke("nve1")) == {"node": "nve1", "revoked": True}
    places = {type(item).__name__: place for place, item in enumerate(store.order)}
    (kept,) = [i for i, item in enumerate(store.order) if isinstance(item, Keep) and item.content.get("revoked")]
    assert kept < places["Close"]
    assert isinstance(store.order[places["Close"]], Close)
    with pytest.raises(OperationError):
        shell.operate(Rekey(spi=1))


def test_events_come_from_memory_and_beyond_it_from_the_store(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = shell_of(store)
    for number in range(1, 1501):
        shell._core.nva.report(0.0, "x", "", f"line {number}")
    shell._commit()
    assert [event["number"] for event in shell.events_after(0, 3)] == [1, 2, 3]
    assert [event["number"] for event in shell.events_after(499, 2)] == [500, 501]
    assert [event["number"] for event in shell.events_after(1498, 9)] == [1499, 1500]
    assert shell.events_after(1500, 9) == []
    assert set(shell.events_after(1499, 1)[0]) == {"number", "time", "kind", "node", "text"}
    again = Shell(build(), store)
    again._core.nva.report(0.0, "x", "", "another life")
    again._commit()
    assert [event["text"] for event in again.events_after(1499, 9)] == ["line 1500", "another life"]
    assert all(isinstance(item, (AuditLine, Keep)) for item in store.order)
    json.dumps(again.events_after(0, 5000))

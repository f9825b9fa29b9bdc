"""Scopes: what a node lacks, from whatever position it has."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.authority import scopes
from controller.authority.scopes import Scope
from geneve.control.document import NveEntry, to_wire

KEYS = ("nve/a", "nve/b", "nve/c", "nve/d")
ADDRESSES = ("192.0.2.1", "192.0.2.2", "2001:db8::1")
ENTRIES = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(ADDRESSES), max_size=4)
STEPS = st.one_of(
    st.tuples(st.just("set"), st.sampled_from(KEYS), st.sampled_from(ADDRESSES)),
    st.tuples(st.just("remove"), st.sampled_from(KEYS)),
    st.tuples(st.just("replace"), ENTRIES),
)


def entry(address: str) -> NveEntry:
    return NveEntry(address=address)


def wire(scope: Scope) -> dict[str, dict[str, Any]]:
    return {key: to_wire(value) for key, value in scope.entries.items()}


def applied(held: dict[str, Any], change: dict[str, Any] | None) -> dict[str, Any]:
    """What a node holds after a change: docs/control-protocol.md, in four lines."""
    if change is None:
        return held
    held = {} if change.get("replace") else dict(held)
    for key in change.get("remove", ()):
        held.pop(key, None)
    return {**held, **change["set"]}


def run(scope: Scope, step: tuple[Any, ...]) -> bool:
    if step[0] == "set":
        return scope.set(step[1], entry(step[2]))
    if step[0] == "remove":
        return scope.remove(step[1])
    return scope.replace({key: entry(address) for key, address in step[1].items()})


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=40), st.integers(1, 60))
def test_from_every_position_the_change_leads_to_what_the_scope_has(steps: list[Any], log: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scopes, "MAX_LOG", log)
        scope = Scope("vni/1")
        history: dict[int | None, dict[str, Any]] = {None: {}, 0: {}}
        for step in steps:
            before, version = wire(scope), scope.version
            changed = run(scope, step)
            assert changed == (scope.version > version)
            if not changed:
                assert wire(scope) == before
            history[scope.version] = wire(scope)
        for position, held in history.items():
            change = copy.deepcopy(scope.change_since(position))
            assert applied(held, change) == wire(scope), position
            assert applied(applied(held, change), change) == wire(scope), "twice delivered"
            assert (change is None) == (position == scope.version)
            if change is not None and not change.get("replace"):
                assert not set(change["set"]) & set(change.get("remove", ()))


def test_a_position_too_old_gets_everything_and_a_near_one_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "MAX_LOG", 10)
    scope = Scope("vni/1")
    for number in range(100):
        scope.set(f"nve/n{number}", entry("192.0.2.1"))
    near, far = scope.change_since(90), scope.change_since(89)
    assert near is not None
    assert far is not None
    assert set(near["set"]) == {f"nve/n{number}" for number in range(90, 100)}
    assert "replace" not in near
    assert far["replace"]
    assert len(far["set"]) == 100
    assert scope.change_since(101) == {"replace": True, "set": wire(scope)}, "a position that never was"
    assert scope.change_since(100) is None


def test_what_was_set_and_set_back_is_one_entry_of_a_change() -> None:
    scope = Scope("vni/1")
    scope.set("nve/a", entry("192.0.2.1"))
    start = scope.version
    for _ in range(20):
        scope.set("nve/a", entry("192.0.2.2"))
        scope.set("nve/a", entry("192.0.2.1"))
    assert scope.change_since(start) == {"set": {"nve/a": {"address": "192.0.2.1"}}}
    scope.remove("nve/a")
    assert scope.change_since(start) == {"set": {}, "remove": ["nve/a"]}
    assert not scope.remove("nve/a")


def test_no_entry_shows_in_its_representation() -> None:
    scope = Scope("node")
    scope.set("nve/a", entry("192.0.2.1"))
    assert "192.0.2.1" not in repr(scope)

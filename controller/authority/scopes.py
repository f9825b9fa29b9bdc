"""What nodes are told, in scopes that remember what changed: snapshots and deltas come from here. Pure.

A scope counts its versions and notes which entry each one changed. A node's position in a scope is the version that it
has; what it lacks is then a short list of entries, however large the scope is, unless it has fallen too far behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from geneve.control.document import NODE_SCOPE, to_wire
from geneve.control.jsonrpc import Shared

MAX_LOG = 4096
"""Changes that a scope remembers; a node further behind gets the scope whole."""

_MAX_KEPT = 64


class Scope:
    """Entries by key, and the order in which they changed. Its representation shows no entry: some are keys."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = 0
        self._entries: dict[str, BaseModel] = {}
        self._wire: dict[str, dict[str, Any]] = {}
        self._log: deque[tuple[int, str]] = deque()
        self._changes: dict[int | None, Shared] = {}

    def __repr__(self) -> str:
        return f"Scope({self.name!r}, version {self.version}, {len(self._entries)} entries)"

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> Mapping[str, BaseModel]:
        """All entries by key."""
        return self._entries

    def set(self, key: str, entry: BaseModel) -> bool:
        """Set an entry; returns whether that changed anything."""
        known = self._entries.get(key)
        if known is entry or known == entry:
            return False
        self._entries[key] = entry
        self._wire.pop(key, None)
        self._note(key)
        return True

    def remove(self, key: str) -> bool:
        """Remove an entry; returns whether it was there."""
        if self._entries.pop(key, None) is None:
            return False
        self._wire.pop(key, None)
        self._note(key)
        return True

    def replace(self, entries: Mapping[str, BaseModel]) -> bool:
        """Make the entries exactly these; returns whether that changed anything."""
        changed = [self.remove(key) for key in list(self._entries.keys() - entries.keys())]
        changed += [self.set(key, entry) for key, entry in entries.items()]
        return any(changed)

    def _note(self, key: str) -> None:
        self.version += 1
        self._changes.clear()
        self._log.append((self.version, key))
        if len(self._log) > MAX_LOG:
            self._log.popleft()

    def change_since(self, version: int | None) -> dict[str, Any] | None:
        """Return the change that brings a node from ``version`` here, None for none; a version None has nothing."""
        if version == self.version:
            return None
        if self.name == NODE_SCOPE:
            return self._change_since(version)  # one node's alone, and it can hold keys: nothing is kept
        change = self._changes.get(version)
        if change is None:
            # Many nodes are at the same version: what they lack is looked up, and encoded, once.
            if len(self._changes) >= _MAX_KEPT:
                self._changes.clear()
            change = self._changes[version] = Shared(self._change_since(version))
        return change

    def _change_since(self, version: int | None) -> dict[str, Any]:
        if version is None or not self._log or version < self._log[0][0] - 1 or version > self.version:
            return {"replace": True, "set": {key: self._wire_of(key) for key in self._entries}}
        # The newest come last, so that looking back from the end finds what a node lacks at once.
        keys: dict[str, None] = {}
        for number, key in reversed(self._log):
            if number <= version:
                break
            keys[key] = None
        change: dict[str, Any] = {"set": {key: self._wire_of(key) for key in keys if key in self._entries}}
        removed = [key for key in keys if key not in self._entries]
        return {**change, "remove": removed} if removed else change

    def _wire_of(self, key: str) -> dict[str, Any]:
        wire = self._wire.get(key)
        if wire is None:
            wire = self._wire[key] = to_wire(self._entries[key])
        return wire

"""What the NVA knows of each node, and what to push to it next. Pure.

Only one push is on its way to a node at a time; what changes meanwhile goes with the next one, together. A push that
is not answered is repeated as it was, and a node that answers none of them is cut off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.authority.scopes import Scope
from geneve.control.document import CANDIDATE, IN, NODE_SCOPE, OUT

REPEAT = 2.0
"""Seconds after which a push without an answer is sent again; twice as long each further time."""
PUSH_LIMIT = 10.0
"""Seconds a node may take to answer a push before its connection is closed."""
REFUSED_PAUSE = 5.0
"""Seconds before what a node refused is tried again."""


@dataclass(slots=True)
class PushInFlight:
    """A push without an answer yet. Its parameters can hold keys."""

    request: int
    sequence: int
    since: float
    sent: float
    positions: dict[str, int]
    inbound: frozenset[int]
    outbound: frozenset[int]
    candidate: int | None
    params: dict[str, Any] = field(repr=False)
    repeats: int = 0


@dataclass(slots=True)
class NodeRecord:
    """One node. ``positions`` are the versions of scopes that it has; None: it needs a snapshot."""

    name: str
    private: Scope = field(default_factory=lambda: Scope(NODE_SCOPE))
    connection: int | None = None
    instance: str = ""
    signing_key: str | None = None
    known: bool = False
    revoked: bool = False
    registered_at: float = 0.0
    sequence: int = 0
    acknowledged: int = 0
    positions: dict[str, int] | None = None
    push: PushInFlight | None = None
    outdated: bool = False
    """Whether its own part has changed while a push is on its way; it is made anew once that is answered."""
    refusal: str | None = None
    not_before: float = 0.0

    def resume(self, sequence: int | None) -> PushInFlight | None:
        """Note what a node that has come back has: the state of ``sequence``, or nothing that counts (None).

        Returns the push that it turns out to have applied, whose answer was lost with the connection.
        """
        push, self.push = self.push, None
        if push is not None and sequence == push.sequence:
            self.positions, self.acknowledged = push.positions, push.sequence
            return push
        if sequence != self.acknowledged:
            self.positions = None
        return None

    def has_checked(self) -> int | None:
        """Return the version of the candidate policy that the node is known to have checked, None for none."""
        candidate = self.private.entries.get(CANDIDATE)
        if candidate is None or self.positions is None or self.positions.get(NODE_SCOPE) != self.private.version:
            return None
        return int(getattr(candidate, "version", 0))

    def next_push(self, scopes: Iterable[Scope], epoch: str, request: int, now: float) -> PushInFlight | None:
        """Return the push that brings the node from what it has to what the scopes hold, None for none."""
        has = self.positions
        changes: dict[str, dict[str, Any]] = {}
        after: dict[str, int] = {}
        for scope in scopes:
            change = scope.change_since(None if has is None else has.get(scope.name))
            after[scope.name] = scope.version
            if change is not None:
                changes[scope.name] = change
        drop = sorted(has.keys() - after.keys()) if has else []
        if has is not None and not changes and not drop:
            return None
        self.sequence += 1
        params: dict[str, Any] = {"epoch": epoch, "sequence": self.sequence, "scopes": changes}
        if has is not None:
            params["base"] = self.acknowledged
        if drop:
            params["drop"] = drop
        own: Mapping[str, Any] = changes.get(NODE_SCOPE, {}).get("set", {})
        candidate = self.private.entries.get(CANDIDATE)
        self.push = PushInFlight(
            request=request,
            sequence=self.sequence,
            since=now,
            sent=now,
            positions=after,
            inbound=_spis(own, IN),
            outbound=_spis(own, OUT),
            candidate=None if candidate is None else int(getattr(candidate, "version", 0)),
            params=params,
        )
        return self.push

    def applied(self) -> PushInFlight:
        """Note that the node has applied the push on its way."""
        push = self.push
        assert push is not None
        self.positions, self.acknowledged = push.positions, push.sequence
        self.push, self.refusal = None, None
        return push

    def lacks(self, scopes: Iterable[Scope]) -> bool:
        """Whether the node has not acknowledged all that the scopes hold."""
        if self.push is not None or self.positions is None:
            return True
        return any(self.positions.get(scope.name) != scope.version for scope in scopes)


def _spis(entries: Mapping[str, Any], kind: str) -> frozenset[int]:
    prefix = kind + "/"
    return frozenset(int(key[len(prefix) :]) for key in entries if key.startswith(prefix))

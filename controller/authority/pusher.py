"""Decides which node is pushed what and when: its own part at once, what it shares with others soon. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from controller.authority.membership import Membership
from controller.authority.messages import Effect, Send
from controller.authority.nodes import PUSH_LIMIT, REPEAT, NodeRecord
from controller.authority.scopes import Scope
from controller.authority.states import NodeEntries, vni_entries
from controller.inventory import Inventory
from geneve.control import document, jsonrpc
from geneve.control.document import NveEntry


class Pusher:
    """The scopes of all nodes and VNIs, and whose turn it is. ``entries`` makes nodes' own entries as things stand."""

    def __init__(
        self,
        epoch: str,
        inventory: Inventory,
        nodes: Mapping[str, NodeRecord],
        membership: Membership,
        entries: Callable[[], NodeEntries],
    ) -> None:
        self._epoch, self._nodes, self._membership, self._make = epoch, nodes, membership, entries
        self.scopes = {vni.vni: Scope(document.vni_scope(vni.vni)) for vni in inventory.vnis}
        """What the nodes of a VNI share."""
        self._entries: NodeEntries | None = None
        self._stale: set[str] = set()
        self._urgent: set[str] = set()
        self._lazy: set[str] = set()
        self._next_request = 1

    def fill(self, inventory: Inventory, revoked: Iterable[str]) -> None:
        """Fill the shared scopes with all but the mappings, at the start."""
        for vni in inventory.vnis:
            self.scopes[vni.vni].replace(vni_entries(vni, self._membership, revoked))

    def number(self) -> int:
        """Return the next request's number; none is given twice."""
        self._next_request += 1
        return self._next_request - 1

    # What has changed -----------------------------------------------------------------------------------

    def concern(self, names: Iterable[str]) -> None:
        """Note that the own parts of these nodes may have changed."""
        self._stale.update(names)

    def concern_all(self) -> None:
        """Note that policy or paths have changed, and with them perhaps everybody's part."""
        self._entries = None
        self._stale.update(name for name, node in self._nodes.items() if node.connection is not None)

    def at_once(self, name: str) -> None:
        """Give a node its turn now."""
        self._urgent.add(name)

    def soon(self, name: str) -> None:
        """Give a node its turn at the next tick."""
        self._lazy.add(name)

    def set_shared(self, vni: int, key: str, entry: object) -> None:
        """Set an entry that the nodes of a VNI share, or remove it (None)."""
        scope = self.scopes[vni]
        if scope.remove(key) if entry is None else scope.set(key, entry):  # type: ignore[arg-type]
            self._lazy.update(self._membership.members(vni))

    def show_nve(self, name: str, *, shown: bool) -> None:
        """Show an NVE to the others of its VNIs, or hide it."""
        entry = NveEntry(address=self._membership.address(name)) if shown else None
        for vni in self._membership.vnis_of(name):
            self.set_shared(vni, f"{document.NVE}/{name}", entry)

    def push_over(self, node: NodeRecord) -> None:
        """Note that no push is on its way to a node any more: what has changed meanwhile is made anew."""
        if node.outdated:
            node.outdated = False
            self._stale.add(node.name)

    def applied(self, node: NodeRecord, positions: Mapping[str, int]) -> None:
        """Give a node that has applied a push its next turn, if there is more."""
        if node.private.version != positions.get(node.private.name):
            self._urgent.add(node.name)
        elif node.lacks(self.scopes_of(node.name)):
            self._lazy.add(node.name)

    # What goes out --------------------------------------------------------------------------------------

    def scopes_of(self, name: str) -> list[Scope]:
        """Return the scopes that a node is told: its own, and those of its VNIs."""
        return [self._nodes[name].private, *(self.scopes[vni] for vni in self._membership.vnis_of(name))]

    def in_step(self, node: NodeRecord) -> bool:
        """Whether a node has acknowledged all that it is to know."""
        if node.connection is None or node.refusal is not None or node.name in self._stale:
            return False
        return not node.lacks(self.scopes_of(node.name))

    def flush(self, now: float, *, lazily: bool) -> list[Effect]:
        """Push to nodes whose own part has changed; with ``lazily`` also what they share with others.

        What is shared waits for the next tick, so that a hundred changes make one push to each and not a hundred.
        """
        self._renew_stale()
        effects: list[Effect] = []
        for name in sorted(self._urgent | self._lazy if lazily else self._urgent):
            node = self._nodes[name]
            if node.connection is None or node.push is not None:
                self._forget_turn(name)  # the answer, or the next registration, brings its turn
            elif now >= node.not_before or name in self._urgent:
                self._forget_turn(name)
                push = node.next_push(self.scopes_of(name), self._epoch, self.number(), now)
                if push is not None:
                    effects.append(Send(node.connection, jsonrpc.Request(push.request, "push", push.params)))
        return effects

    def _renew_stale(self) -> None:
        if self._stale and self._entries is None:
            self._entries = self._make()
        for name in self._stale:
            node = self._nodes[name]
            if node.push is not None:
                node.outdated = True  # it can be told nothing now, and there may be more by then
            elif node.connection is None or self._entries is None:
                continue
            elif node.private.replace(self._entries.of(name)):
                self._urgent.add(name)
        self._stale.clear()

    def _forget_turn(self, name: str) -> None:
        self._urgent.discard(name)
        self._lazy.discard(name)

    def repeat(self, now: float) -> tuple[list[Effect], list[int]]:
        """Return pushes to send again, and connections of nodes that have taken too long to answer one."""
        effects: list[Effect] = []
        overdue: list[int] = []
        for node in self._nodes.values():
            push = node.push
            if push is None or node.connection is None:
                continue
            if now - push.since > PUSH_LIMIT:
                overdue.append(node.connection)
            elif now - push.sent >= REPEAT * 2**push.repeats:
                # Less and less often: a node that is behind has the more to read for each copy.
                push.sent = now
                push.repeats += 1
                effects.append(Send(node.connection, jsonrpc.Request(push.request, "push", push.params)))
        return effects, overdue

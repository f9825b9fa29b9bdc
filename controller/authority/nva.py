"""The network virtualization authority's decisions (RFC 8014): who may register, and what each is told.

Plain Python: :meth:`Nva.handle` takes a message and a time and returns what is to be done. Connections are numbers
that the caller chooses; a connection's name is the one in its verified certificate. What must survive is in
:meth:`Nva.take_changes`: the caller stores it before it carries out the effects, so that no node ever has a key that
the store does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as ParameterMapping
from typing import Any

from controller.authority import memory, records, requests
from controller.authority.associations import AssociationTable
from controller.authority.directory import Directory
from controller.authority.events import EventLog
from controller.authority.lines import Paths
from controller.authority.membership import Membership
from controller.authority.memory import JournalRecorder
from controller.authority.messages import Close, Closed, Effect, Input, Opened, PathsAre, Received, Send, Tick
from controller.authority.nodes import REFUSED_PAUSE, NodeRecord, PushInFlight
from controller.authority.policies import Adopted, Rejected
from controller.authority.pusher import Pusher
from controller.authority.records import AuditLine, Change, Journal, Saved
from controller.authority.states import NodeEntries
from controller.authority.tenants import Tenants
from controller.inventory import Inventory
from geneve.control import jsonrpc
from geneve.control.demand import Demand
from geneve.control.protocol import GAP
from geneve.control.state import Association, Mapping, Role
from geneve.errors import ParseError
from geneve.policy import Policy

__all__ = ["Close", "Closed", "Effect", "Input", "Nva", "Opened", "PathsAre", "Received", "Send", "Tick"]

_NOT_REGISTERED = -32001
_REFUSED = -32002
MAX_CONNECTIONS_OF_NODE = 4
"""Connections with one node's certificate at most; the oldest that is not registered makes room."""


class Nva:
    """All nodes of one inventory. ``token`` returns that many random bytes, fit for keys.

    ``saved`` is what the store has of an earlier life; ``listener`` is told each line of the audit log;
    ``utc_offset`` is what turns this object's clock into UTC.
    """

    def __init__(
        self,
        inventory: Inventory,
        token: Callable[[int], bytes],
        listener: Callable[[AuditLine], None] = lambda _: None,
        *,
        saved: Saved | None = None,
        now: float = 0.0,
        utc_offset: float = 0.0,
        last_event: int = 0,
    ) -> None:
        saved = saved or {}
        self.journal = Journal()
        self.epoch = token(8).hex()
        """Names this NVA's lifetime; sequence numbers count within it."""

        def written(line: AuditLine) -> None:
            self.journal.audit(line)
            listener(line)

        self.events = EventLog(last_event, utc_offset, written)
        self.membership = Membership(inventory)
        policy = memory.saved_policy(inventory, saved)
        self._inventory, self.book = inventory, policy.book
        if policy.fresh:
            memory.keep_policy(self.journal, self.book, inventory)
        self.nodes = {name: NodeRecord(name) for name in inventory.nodes}
        """All nodes of the inventory by name."""
        self._paths = memory.saved_paths(saved)
        self._pusher = Pusher(self.epoch, inventory, self.nodes, self.membership, self._make_entries)
        self._tenants = Tenants(
            inventory, self.nodes, self.membership, self._pusher, self.journal, self.report
        )  # fmt: skip
        self.associations = AssociationTable(
            self.membership,
            self._compiled_policy(),
            token,
            memory.saved_spis(saved, token, self.journal),
            JournalRecorder(self.journal, utc_offset),
        )
        self._eager = not inventory.keys.on_demand
        self._connections: dict[int, str] = {}
        self._restore(inventory, saved, policy.edited, now, utc_offset)

    @property
    def directory(self) -> Directory:
        """Where tenants are."""
        return self._tenants.directory

    def _compiled_policy(self) -> Policy:
        return Policy(self.book.inventory.rules(), self.book.inventory.profiles)

    def _make_entries(self) -> NodeEntries:
        return NodeEntries(self.book, self.membership, self.associations, self._paths)

    # From one life to the next --------------------------------------------------------------------------

    def _restore(
        self, inventory: Inventory, saved: Saved, edited: frozenset[str], now: float, utc_offset: float
    ) -> None:
        for name, content in saved.get(records.NODE, {}).items():
            if name in self.nodes:
                node = self.nodes[name]
                node.instance, node.signing_key = str(content["instance"]), content["signing_key"]
                node.known, node.revoked = bool(content["known"]), bool(content["revoked"])
        self._pusher.fill(inventory, [node.name for node in self.nodes.values() if node.revoked])
        self._tenants.restore(inventory, saved, now)
        known = {node.name: node.signing_key for node in self.nodes.values() if node.known and not node.revoked}

        def fits(association: Association) -> bool:
            """Whether it can go on under an inventory that may have been edited since."""
            ends = {association.sender, *association.members}
            if not ends <= self.nodes.keys() or association.profile in edited:
                return False
            return association.sender_address == self.membership.address(association.sender)

        held = memory.saved_associations(saved, fits, now, utc_offset, self.journal)
        self.associations.restore(memory.saved_demands(saved), list(held), known, self._paths, now)
        self.life = memory.next_life(self.journal, saved)
        """Counts the lives of this NVA's store."""
        self.restored = bool(known)
        """Whether nodes of an earlier life are expected back."""

    def take_changes(self) -> list[Change]:
        """Return what is to be stored before the last effects are carried out."""
        return self.journal.take()

    # Messages -------------------------------------------------------------------------------------------

    def handle(self, message: Input, now: float) -> list[Effect]:
        """Take one message and return what is to be done, in order."""
        effects: list[Effect] = []
        if isinstance(message, Opened):
            effects += self._opened(message, now)
        elif isinstance(message, Closed):
            self._closed(message, now)
        elif isinstance(message, Received):
            effects += self._received(message, now)
        elif isinstance(message, PathsAre):
            self._set_paths(message.paths, now)
        else:
            effects += self._tick(now)
        effects += self._tenants.due(now)
        return effects + self._pusher.flush(now, lazily=isinstance(message, Tick))

    def report(self, now: float, kind: str, node: str, text: str) -> None:
        """Add a line to the audit log."""
        self.events.report(now, kind, node, text)

    def _opened(self, message: Opened, now: float) -> list[Effect]:
        node = self.nodes.get(message.name)
        if node is None:
            self.report(now, "refused", message.name, "a certificate of this name is not in the inventory")
            return [Close(message.connection, "not in the inventory")]
        if node.revoked:
            self.report(now, "refused", message.name, "it is revoked")
            return [Close(message.connection, "revoked")]
        # Whoever holds one certificate must not take the room of all others.
        own = [number for number, name in self._connections.items() if name == message.name]
        spare = [number for number in own if number != node.connection]
        self._connections[message.connection] = message.name
        if len(own) < MAX_CONNECTIONS_OF_NODE:
            return []
        return [self._end(spare[0], "made room for another connection of this node", now)]

    def _closed(self, message: Closed, now: float) -> None:
        name = self._connections.pop(message.connection, None)
        if name is None:
            return
        node = self.nodes[name]
        registered = node.connection == message.connection
        if registered:
            # Its associations stay: a node that has only lost the NVA goes on forwarding.
            node.connection = None
            self.book.left(name)
            self._pusher.concern(self.associations.disconnected(name, now))
            self._tenants.disconnected(name, now)
        self.report(now, "disconnected" if registered else "refused", name, message.reason)

    def _end(self, connection: int, reason: str, now: float) -> Close:
        """Count a connection as closed from now on, whatever still comes on it, and have it closed."""
        self._closed(Closed(connection, reason), now)
        return Close(connection, reason)

    def _received(self, message: Received, now: float) -> list[Effect]:
        name = self._connections.get(message.connection)
        if name is None:
            return []  # already closed: what was still on its way does not count
        content = message.message
        if isinstance(content, jsonrpc.Request):
            return self._request(message.connection, name, content, now)
        if isinstance(content, (jsonrpc.Response, jsonrpc.ErrorResponse)):
            return self._answer(message.connection, name, content, now)
        return []

    def _request(self, connection: int, name: str, request: jsonrpc.Request, now: float) -> list[Effect]:
        try:
            if request.method == "register":
                return self._register(connection, name, request, now)
            methods: dict[str, Callable[[str, jsonrpc.Request, float], dict[str, Any]]] = {
                "ping": lambda *_: {},
                "rekey": self._rekey,
                "need": self._need,
                "tenants": self._report_tenants,
                "resync": self._resync,
            }
            method = methods.get(request.method)
            if method is None:
                text = f"the methods are register, {', '.join(methods)}"
                answer = _error(connection, request, jsonrpc.METHOD_NOT_FOUND, text)
                return [answer, self._end(connection, "asked for a method that does not exist", now)]
            if self.nodes[name].connection != connection:
                return [_error(connection, request, _NOT_REGISTERED, "register first")]
            return [Send(connection, jsonrpc.Response(request.id, method(name, request, now)))]
        except _RefusedError as error:
            self.report(now, "refused", name, str(error))
            return [_error(connection, request, _REFUSED, str(error))]
        except ParseError as error:
            answer = _error(connection, request, jsonrpc.INVALID_PARAMS, str(error))
            return [answer, self._end(connection, str(error), now)]

    def _register(self, connection: int, name: str, request: jsonrpc.Request, now: float) -> list[Effect]:
        node = self.nodes[name]
        given = requests.registration(request.params, self._role(name))
        if node.revoked:
            raise _RefusedError("it is revoked")
        accepted = Send(connection, jsonrpc.Response(request.id, {"epoch": self.epoch}))
        if node.connection == connection:
            if node.instance == given.instance:
                return [accepted]  # the same request once more
            raise _RefusedError("this connection is registered with another instance")
        effects: list[Effect] = []
        if node.connection is not None:
            effects.append(self._end(node.connection, "registered anew on another connection", now))
        fresh = not node.known or node.instance != given.instance
        again = "a new process" if node.known and fresh else "the same process" if node.known else "first time"
        node.connection, node.registered_at, node.known = connection, now, True
        node.refusal, node.not_before = None, 0.0
        resumed = given.resume[1] if given.resume is not None and given.resume[0] == self.epoch else None
        applied = node.resume(None if fresh else resumed)
        self._pusher.push_over(node)
        if fresh:
            # Neither an old key nor an old sequence number may meet a new replay window: all keys are fresh.
            node.instance, node.signing_key = given.instance, given.signing_key
            self._keep_node(node)
        self._pusher.concern({name} | self.associations.register(name, given.signing_key, now, fresh=fresh))
        self._tenants.connected(name, now, fresh=fresh)
        self.book.joined(name)
        checked = node.has_checked()
        if checked is not None:  # on the connection before: it will not be asked again
            self.book.checked(name, checked)
        if applied is not None:
            self._applied(name, applied, now)
        if fresh and self._eager:
            self._demand_all(name, now)
        self._pusher.at_once(name)
        self.report(now, "registered", name, f"{self._role(name).value}, {again}")
        return [*effects, accepted]

    def _role(self, name: str) -> Role:
        return self.book.inventory.nodes[name].role

    def _keep_node(self, node: NodeRecord) -> None:
        content = {
            "instance": node.instance, "signing_key": node.signing_key, "known": node.known, "revoked": node.revoked,
        }  # fmt: skip
        self.journal.keep(records.NODE, node.name, content)

    # What nodes ask -------------------------------------------------------------------------------------

    def _rekey(self, name: str, request: jsonrpc.Request, now: float) -> dict[str, Any]:
        """Replace an association whose sender says that it has reached its soft limit."""
        spi = requests.rekey(request.params)
        line = self.associations.line_of(spi)
        if line is None:
            return {}  # replaced already: the request crossed with the news
        if line.key.sender != name:
            raise _RefusedError(f"asked to rekey {spi:#x}, which is none of its own")
        concerned = self.associations.renew_spi(spi, now)
        if concerned:
            self.report(now, "rekey", name, f"association {spi:#010x} reached its soft limit")
        self._pusher.concern(concerned)
        return {}

    def _need(self, name: str, request: jsonrpc.Request, now: float) -> dict[str, Any]:
        refused = []
        for place, demand in enumerate(requests.demands(request.params)):
            if not self._demand(name, demand, now):
                refused.append(place)
                what = f"keys towards {demand.audience} in VNI {demand.vni} under {demand.profile}"
                self.report(now, "refused", name, f"asked for {what}, which policy and membership do not give it")
        return {"refused": refused} if refused else {}

    def _demand(self, name: str, demand: Demand, now: float) -> bool:
        key = self.associations.permits(name, demand)
        audience = self.nodes.get(demand.audience)
        if key is None or (not demand.multicast and (audience is None or audience.revoked)):
            return False
        self._pusher.concern(self.associations.demand(key, now))
        return True

    def _demand_all(self, name: str, now: float) -> None:
        """Demand, in both directions, all keys that a node may have: where keys are not made on demand."""
        policy = self._compiled_policy()
        for vni in self.membership.vnis_of(name):
            rules = [rule for rule in policy.rules_for(vni) if rule.profile is not None]
            others = [other for other in self.membership.members(vni) if other != name]
            for rule in rules:
                assert rule.profile is not None
                for other in others:
                    for sender, audience in ((name, other), (other, name)):
                        wish = Demand(audience=audience, vni=vni, profile=rule.profile, rule=rule.name)
                        self._demand(sender, wish, now)
                for group in self.membership.groups(vni):
                    for sender in group.senders:
                        wish = Demand(
                            audience=group.name, multicast=True, vni=vni, profile=rule.profile, rule=rule.name
                        )
                        self._demand(sender, wish, now)

    def _report_tenants(self, name: str, request: jsonrpc.Request, now: float) -> dict[str, Any]:
        if self._role(name) is not Role.NVE:
            raise _RefusedError("only an NVE has tenants")
        number, reported = requests.tenants(request.params)
        self._tenants.reported(name, number, reported, now)
        return {}

    def _resync(self, name: str, request: jsonrpc.Request, now: float) -> dict[str, Any]:
        del request, now
        node = self.nodes[name]
        if node.push is not None and "base" not in node.push.params:
            return {}  # a snapshot is on its way
        node.positions = node.push = None
        self._pusher.push_over(node)
        self._pusher.at_once(name)
        return {}

    # What nodes answer ----------------------------------------------------------------------------------

    def _answer(
        self, connection: int, name: str, answer: jsonrpc.Response | jsonrpc.ErrorResponse, now: float
    ) -> list[Effect]:
        node = self.nodes[name]
        if node.connection != connection:
            return []
        if self._tenants.answered(name, answer, now):
            return []
        push = node.push
        if push is None or answer.id != push.request:
            return []  # late, or for nothing that was asked
        if isinstance(answer, jsonrpc.ErrorResponse):
            self._push_refused(node, answer, now)
            return []
        node.applied()
        self._pusher.push_over(node)
        self._applied(name, push, now)
        self._pusher.applied(node, push.positions)
        return []

    def _applied(self, name: str, push: PushInFlight, now: float) -> None:
        """Act on a push that a node has applied."""
        if push.candidate is not None:
            self.book.checked(name, push.candidate)
            self._step_policy(now)
        self._pusher.concern(self.associations.acknowledged(name, push.inbound, push.outbound, now))

    def _push_refused(self, node: NodeRecord, answer: jsonrpc.ErrorResponse, now: float) -> None:
        push, node.push = node.push, None
        assert push is not None
        self._pusher.push_over(node)
        if answer.code == GAP:
            node.positions = None
            self._pusher.at_once(node.name)
            return
        node.refusal = answer.message
        self.report(now, "refused-state", node.name, f"sequence {push.sequence}, error {answer.code}")
        if push.candidate is not None:
            rejected = self.book.refused(node.name, push.candidate, answer.message)
            if rejected is not None:
                self._policy_rejected(rejected, now)
            self._pusher.at_once(node.name)  # without the candidate it may well be acceptable
            return
        # Tried again after a pause, in case the reason goes away, and at once with the next change.
        node.not_before = now + REFUSED_PAUSE
        self._pusher.soon(node.name)

    # What changes ---------------------------------------------------------------------------------------

    def _set_paths(self, paths: Paths, now: float) -> None:
        self._paths = dict(paths)
        memory.keep_paths(self.journal, paths)
        self._pusher.concern(self.associations.set_paths(self._paths, now))
        self._pusher.concern_all()

    def _step_policy(self, now: float) -> None:
        result = self.book.step(now)
        if isinstance(result, Adopted):
            self._pusher.concern(self.associations.set_policy(self._compiled_policy(), result.changed, now))
            self._pusher.concern_all()
            memory.keep_policy(self.journal, self.book, self._inventory)
            for name in [name for name, node in self.nodes.items() if self._eager and node.known]:
                self._demand_all(name, now)
            self.report(now, "policy", "", f"version {result.version} is in force")
        elif isinstance(result, Rejected):
            self._policy_rejected(result, now)

    def _policy_rejected(self, rejected: Rejected, now: float) -> None:
        self.report(now, "policy-refused", "", f"version {rejected.version}: {rejected.reason}")
        self._pusher.concern_all()

    # Time -----------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> list[Effect]:
        self.events.settle(now)
        self._tenants.tick(now)
        self._step_policy(now)
        self._pusher.concern(self.associations.tick(now))
        effects, overdue = self._pusher.repeat(now)
        return effects + [self._end(connection, "did not answer a push", now) for connection in overdue]

    # What operators ask: see operate.py ------------------------------------------------------------------

    def flush(self, now: float) -> list[Effect]:
        """Return the pushes that follow from what was changed by the methods below."""
        return self._tenants.due(now) + self._pusher.flush(now, lazily=True)

    def rekey(self, spi: int | None, node: str | None, now: float) -> int:
        """Replace one association, those of a node, or all; returns how many are being replaced."""
        if spi is not None:
            concerned = self.associations.renew_spi(spi, now)
            count = int(bool(concerned))
        else:
            count, concerned = self.associations.renew_all(now, node)
        self._pusher.concern(concerned)
        self.report(now, "rekey", node or "", f"{count} associations, asked for by an operator")
        return count

    def revoke(self, name: str, now: float) -> list[Effect]:
        """Cut a node off: its associations, demands and mappings end everywhere at once."""
        node = self.nodes[name]
        if node.revoked:
            return []
        node.revoked, node.known, node.instance, node.signing_key = True, False, "", None
        node.positions = node.push = None
        self._pusher.push_over(node)
        self._keep_node(node)
        self._pusher.concern(self.associations.revoke(name, now))
        self._pusher.show_nve(name, shown=False)
        self._tenants.forget(name, now)
        self.report(now, "revoked", name, "its associations end everywhere")
        return [
            self._end(number, "revoked", now) for number, owner in list(self._connections.items()) if owner == name
        ]

    def restore_node(self, name: str, now: float) -> None:
        """Let a revoked node register again."""
        node = self.nodes[name]
        if node.revoked:
            node.revoked = False
            self._keep_node(node)
            self._pusher.show_nve(name, shown=True)
            self._tenants.show(name)
            self.report(now, "restored", name, "it may register again")

    def propose_policy(self, proposal: ParameterMapping[str, Any], now: float) -> int:
        """Have a policy checked by every connected node; returns its version. ConfigError when it is not sound."""
        connected = [name for name, node in self.nodes.items() if node.connection is not None]
        candidate = self.book.propose(proposal, connected, now)
        self._pusher.concern_all()
        self.report(now, "policy", "", f"version {candidate.version} is being checked by {len(connected)} nodes")
        self._step_policy(now)
        return candidate.version

    def set_mapping(self, mapping: Mapping, now: float) -> None:
        """Set a static mapping; ValueError when it takes an IP address of another static one."""
        self._tenants.set_static(mapping, now)

    def remove_mapping(self, vni: int, mac: str, now: float) -> None:
        """Remove a mapping; what an NVE still reports takes its place."""
        self._tenants.remove(vni, mac, now)

    def in_step(self, node: NodeRecord) -> bool:
        """Whether a node has acknowledged all that it is to know."""
        return self._pusher.in_step(node)


class _RefusedError(ParseError):
    """A request that is sound, but not this node's to make; the connection goes on."""


def _error(connection: int, request: jsonrpc.Request, code: int, text: str) -> Send:
    return Send(connection, jsonrpc.ErrorResponse(request.id, code, text))


"""The network virtualization authority's decisions (RFC 8014): who may register, and what each is told.

Plain Python: :meth:`Nva.handle` takes a message and a time and returns what is to be done. Connections are numbers
that the caller chooses; a connection's name is the one in its verified certificate. What must survive is in
:meth:`Nva.take_changes`: the caller stores it before it carries out the effects, so that no node ever has a key that
the store does not know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from collections.abc import Mapping as ParameterMapping
from dataclasses import dataclass
from typing import Any

from controller import records, requests
from controller.associations import AssociationTable, DemandKey, Paths
from controller.directory import Address, Ask, Changed, Conflict, Directory, Outcome
from controller.events import EventLog
from controller.inventory import Inventory
from controller.membership import Membership
from controller.nodes import PUSH_LIMIT, REFUSED_PAUSE, REPEAT, NodeRecord, PushInFlight
from controller.policies import Adopted, PolicyBook, PolicyDocument, Rejected, changed_profiles, document_of
from controller.records import AuditLine, Change, Journal, Saved
from controller.scopes import Scope
from controller.spis import KEY_SIZE as SPI_KEY_SIZE
from controller.spis import SpiSpace
from controller.states import NodeEntries, vni_entries
from geneve.config import validate
from geneve.control import document, jsonrpc
from geneve.control.demand import Demand, Tenant
from geneve.control.document import NveEntry
from geneve.control.protocol import GAP
from geneve.control.state import Association, Mapping, Role
from geneve.errors import ParseError
from geneve.policy import Policy

ASK_REPEAT = 2.0
"""Seconds after which a question to an NVE is asked again."""

MOVE_TIME = 5.0
"""Seconds within which a tenant that left one NVE and appears behind another has moved."""

_NOT_REGISTERED = -32001
_REFUSED = -32002


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection's handshake is complete; ``name`` is the common name of its certificate."""

    connection: int
    name: str


@dataclass(frozen=True, slots=True)
class Received:
    """A message came on a connection."""

    connection: int
    message: jsonrpc.Message


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection is gone."""

    connection: int
    reason: str


@dataclass(frozen=True, slots=True)
class PathsAre:
    """The transit devices on the paths between NVEs."""

    paths: Paths


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Input = Opened | Received | Closed | PathsAre | Tick


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message on a connection."""

    connection: int
    message: jsonrpc.Message


@dataclass(frozen=True, slots=True)
class Close:
    """Close a connection once what was sent on it before is out."""

    connection: int
    reason: str


Effect = Send | Close


@dataclass(slots=True)
class _Question:
    """A question to an NVE whether a tenant is still there."""

    request: int
    nve: str
    vni: int
    mac: str
    sent: float


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
        self._utc_offset = utc_offset
        self.epoch = token(8).hex()
        """Names this NVA's lifetime; sequence numbers count within it."""

        def written(line: AuditLine) -> None:
            self.journal.audit(line)
            listener(line)

        self.events = EventLog(last_event, utc_offset, written)
        self.membership = Membership(inventory)
        self.book = self._restore_policy(inventory, saved)
        self.directory = Directory()
        self.associations = self._make_table(token, saved)
        self._eager = not inventory.keys.on_demand
        self.nodes = {name: NodeRecord(name) for name in inventory.nodes}
        """All nodes of the inventory by name."""
        self._scopes = {vni.vni: Scope(document.vni_scope(vni.vni)) for vni in inventory.vnis}
        self._connections: dict[int, str] = {}
        self._paths: Paths = {}
        self._stale: set[str] = set()
        self._urgent: set[str] = set()
        self._lazy: set[str] = set()
        self._questions: dict[int, _Question] = {}
        self._left: dict[Address, tuple[str, float]] = {}
        self._next_request = 1
        self._entries: NodeEntries | None = None
        self._restore(inventory, saved, now)

    # From one life to the next --------------------------------------------------------------------------

    def _restore_policy(self, inventory: Inventory, saved: Saved) -> PolicyBook:
        """Return the newest policy: the store's, unless the inventory's own was edited since."""
        kept = saved.get(records.POLICY, {}).get("current")
        version, chosen = 1, None
        self._edited: frozenset[str] = frozenset()
        if kept is not None:
            # Compared as models: the order in which a set was written says nothing.
            stored, origin = (
                validate(dict(kept[key]), "the store's policy", PolicyDocument) for key in ("document", "inventory")
            )
            version = int(kept["version"])
            if origin == document_of(inventory):
                chosen = stored
            else:
                version += 1
                self._edited = changed_profiles(stored, document_of(inventory))
        book = PolicyBook(inventory, version, chosen)
        self._origin = document_of(inventory)
        if kept is None or chosen is None:
            self._keep_policy(book)
        return book

    def _keep_policy(self, book: PolicyBook) -> None:
        content = {
            "version": book.version,
            "inventory": self._origin.model_dump(mode="json"),
            "document": book.document.model_dump(mode="json"),
        }
        self.journal.keep(records.POLICY, "current", content)

    def _make_table(self, token: Callable[[int], bytes], saved: Saved) -> AssociationTable:
        meta = saved.get(records.META, {})
        if "spi-key" in meta:
            key = bytes.fromhex(meta["spi-key"][records.SECRET_FIELD])
        else:
            key = token(SPI_KEY_SIZE)
            self.journal.keep(records.META, "spi-key", {records.SECRET_FIELD: key.hex()})
        start = int(meta.get("spi", {}).get("reserved", 0))
        spis = SpiSpace(key, start, lambda limit: self.journal.keep(records.META, "spi", {"reserved": limit}))
        policy = Policy(self.book.inventory.rules(), self.book.inventory.profiles)
        recorder = JournalRecorder(self.journal, self._utc_offset)
        return AssociationTable(self.membership, policy, token, spis, recorder)

    def _restore(self, inventory: Inventory, saved: Saved, now: float) -> None:
        for name, content in saved.get(records.NODE, {}).items():
            if name in self.nodes:
                node = self.nodes[name]
                node.instance, node.signing_key = str(content["instance"]), content["signing_key"]
                node.known, node.revoked = bool(content["known"]), bool(content["revoked"])
        for vni in inventory.vnis:
            self._scopes[vni.vni].replace(vni_entries(vni, self.membership, self._revoked()))
        self._restore_mappings(inventory, saved)
        paths = {
            (sender, other): tuple(devices)
            for sender, other, devices in saved.get(records.META, {}).get("paths", {}).get("pairs", [])
        }
        self._paths = paths
        known = {node.name: node.signing_key for node in self.nodes.values() if node.known and not node.revoked}
        held = []
        for spi, content in saved.get(records.ASSOCIATION, {}).items():
            fields = {key: value for key, value in content.items() if key not in ("stage", "created")}
            association = validate(fields, "the store's association", Association)
            if self._still_fits(association):
                # By UTC: the clock starts anew with each process, and what is due for replacement stays due.
                created = float(content.get("created", now + self._utc_offset)) - self._utc_offset
                held.append((str(content["stage"]), association, created))
            else:
                self.journal.drop(records.ASSOCIATION, spi)
        demands = [DemandKey(*content["demand"]) for content in saved.get(records.DEMAND, {}).values()]
        self.associations.restore(demands, held, known, paths, now)
        self.life = int(saved.get(records.META, {}).get("life", {}).get("number", 0)) + 1
        """Counts the lives of this NVA's store."""
        self.journal.keep(records.META, "life", {"number": self.life})
        self.restored = bool(known)
        """Whether nodes of an earlier life are expected back."""

    def _still_fits(self, association: Association) -> bool:
        """Whether an association of an earlier life can go on under an inventory that may have been edited since."""
        if not {association.sender, *association.members} <= self.nodes.keys() or association.profile in self._edited:
            return False
        return association.sender_address == self.membership.address(association.sender)

    def _restore_mappings(self, inventory: Inventory, saved: Saved) -> None:
        for mapping in inventory.mappings:
            self.directory.set_static(mapping)
        learned = []
        for name, content in saved.get(records.MAPPING, {}).items():
            mapping = validate(dict(content["mapping"]), "the store's mapping", Mapping)
            if not self.membership.serves(mapping.nve, mapping.vni):
                self.journal.drop(records.MAPPING, name)
            elif content["static"]:
                try:
                    self.directory.set_static(mapping)
                except ValueError:  # the inventory has given the IP address away since
                    self.journal.drop(records.MAPPING, name)
            else:
                learned.append(mapping)
        self.directory.restore(learned)
        for mapping in self.directory.all():
            self._publish(mapping.vni, mapping.mac, mapping)

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
        return effects + self._flush(now, lazily=isinstance(message, Tick))

    def report(self, now: float, kind: str, node: str, text: str) -> None:
        """Add a line to the audit log."""
        self.events.report(now, kind, node, text)

    def _revoked(self) -> list[str]:
        return [node.name for node in self.nodes.values() if node.revoked]

    def _opened(self, message: Opened, now: float) -> list[Effect]:
        node = self.nodes.get(message.name)
        if node is None:
            self.report(now, "refused", message.name, "a certificate of this name is not in the inventory")
            return [Close(message.connection, "not in the inventory")]
        if node.revoked:
            self.report(now, "refused", message.name, "it is revoked")
            return [Close(message.connection, "revoked")]
        self._connections[message.connection] = message.name
        return []

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
            self._stale |= self.associations.disconnected(name)
            self._questions = {key: item for key, item in self._questions.items() if item.nve != name}
            self._learned(self.directory.disconnected(name), now)
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
                "tenants": self._tenants,
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
        self._push_over(node)
        if fresh:
            # Neither an old key nor an old sequence number may meet a new replay window: all keys are fresh.
            node.instance, node.signing_key = given.instance, given.signing_key
            self._keep_node(node)
        self._stale |= {name} | self.associations.register(name, given.signing_key, now, fresh=fresh)
        self.directory.connected(name, fresh=fresh)
        self.book.joined(name)
        checked = node.has_checked()
        if checked is not None:  # on the connection before: it will not be asked again
            self.book.checked(name, checked)
        if applied is not None:
            self._applied(name, applied, now)
        if fresh and self._eager:
            self._demand_all(name, now)
        self._urgent.add(name)
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
        self._stale |= concerned
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
        self._stale |= self.associations.demand(key, now)
        return True

    def _demand_all(self, name: str, now: float) -> None:
        """Demand, in both directions, all keys that a node may have: where keys are not made on demand."""
        policy = Policy(self.book.inventory.rules(), self.book.inventory.profiles)
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

    def _tenants(self, name: str, request: jsonrpc.Request, now: float) -> dict[str, Any]:
        if self._role(name) is not Role.NVE:
            raise _RefusedError("only an NVE has tenants")
        number, reported = requests.tenants(request.params)
        learned = {vni.vni for vni in self.book.inventory.vnis if vni.learned}
        accepted: list[Tenant] = []
        for tenant in reported:
            if tenant.vni in learned and self.membership.serves(name, tenant.vni) and _is_station(tenant.mac):
                accepted.append(tenant)
            else:
                what = f"a tenant {tenant.mac} in VNI {tenant.vni}"
                self.report(now, "refused", name, f"reported {what}, which it does not serve or nobody learns")
        self._learned(self.directory.report(name, number, accepted), now)
        return {}

    def _resync(self, name: str, request: jsonrpc.Request, now: float) -> dict[str, Any]:
        del request, now
        node = self.nodes[name]
        node.positions = node.push = None
        self._push_over(node)
        self._urgent.add(name)
        return {}

    # What nodes answer ----------------------------------------------------------------------------------

    def _answer(
        self, connection: int, name: str, answer: jsonrpc.Response | jsonrpc.ErrorResponse, now: float
    ) -> list[Effect]:
        node = self.nodes[name]
        if node.connection != connection:
            return []
        question = self._questions.get(answer.id) if isinstance(answer.id, int) else None
        if question is not None and question.nve == name:
            del self._questions[question.request]
            present = isinstance(answer, jsonrpc.Response) and answer.result.get("present") is True
            self._learned(self.directory.confirmed(name, question.vni, question.mac, present), now)
            return []
        push = node.push
        if push is None or answer.id != push.request:
            return []  # late, or for nothing that was asked
        if isinstance(answer, jsonrpc.ErrorResponse):
            self._push_refused(node, answer, now)
            return []
        node.applied()
        self._push_over(node)
        self._applied(name, push, now)
        if node.private.version != push.positions.get(node.private.name):
            self._urgent.add(name)
        elif node.lacks(self._scopes_of(name)):
            self._lazy.add(name)
        return []

    def _applied(self, name: str, push: PushInFlight, now: float) -> None:
        """Act on a push that a node has applied."""
        if push.candidate is not None:
            self.book.checked(name, push.candidate)
            self._step_policy(now)
        self._stale |= self.associations.acknowledged(name, push.inbound, push.outbound, now)

    def _push_refused(self, node: NodeRecord, answer: jsonrpc.ErrorResponse, now: float) -> None:
        push, node.push = node.push, None
        assert push is not None
        self._push_over(node)
        if answer.code == GAP:
            node.positions = None
            self._urgent.add(node.name)
            return
        node.refusal = answer.message
        self.report(now, "refused-state", node.name, f"sequence {push.sequence}, error {answer.code}")
        if push.candidate is not None:
            rejected = self.book.refused(node.name, push.candidate, answer.message)
            if rejected is not None:
                self._policy_rejected(rejected, now)
            self._urgent.add(node.name)  # without the candidate it may well be acceptable
            return
        # Tried again after a pause, in case the reason goes away, and at once with the next change.
        node.not_before = now + REFUSED_PAUSE
        self._lazy.add(node.name)

    # What changes ---------------------------------------------------------------------------------------

    def _set_paths(self, paths: Paths, now: float) -> None:
        self._paths = dict(paths)
        pairs = [[*pair, list(devices)] for pair, devices in sorted(paths.items()) if devices]
        self.journal.keep(records.META, "paths", {"pairs": pairs})
        self._entries = None
        self._stale |= self.associations.set_paths(self._paths, now)
        self._stale |= {name for name, node in self.nodes.items() if node.connection is not None}

    def _learned(self, outcomes: Iterable[Outcome], now: float) -> None:
        """Act on what the directory decided."""
        for outcome in outcomes:
            if isinstance(outcome, Changed):
                self._publish(outcome.vni, outcome.mac, outcome.mapping)
                self._keep_mapping(outcome.vni, outcome.mac)
                self._report_tenant(outcome, now)
            elif isinstance(outcome, Conflict):
                self.report(now, "conflict", outcome.nve, outcome.text)
            else:
                self._ask(outcome, now)

    def _report_tenant(self, change: Changed, now: float) -> None:
        where, place = f"{change.mac} in VNI {change.vni}", (change.vni, change.mac)
        if change.mapping is None:
            self._left[place] = (change.came_from or "", now)
            self.report(now, "tenant-left", change.came_from or "", where)
            return
        # One that has just left and turns up elsewhere has moved: the news of both come one after the other.
        nve, left_at = self._left.pop(place, ("", -math.inf))
        came_from = change.came_from or (nve if nve != change.mapping.nve and now - left_at < MOVE_TIME else "")
        ips = ", ".join(change.mapping.ips) or "no IP address"
        if came_from:
            self.report(now, "tenant-moved", change.mapping.nve, f"{where}, {ips}, from {came_from}")
        else:
            self.report(now, "tenant", change.mapping.nve, f"{where}, {ips}")

    def _keep_mapping(self, vni: int, mac: str) -> None:
        mapping, name = self.directory.get(vni, mac), f"{vni} {mac}"
        if mapping is None:
            self.journal.drop(records.MAPPING, name)
        elif not self.directory.is_static(vni, mac):
            self.journal.keep(records.MAPPING, name, {"static": False, "mapping": mapping.model_dump(mode="json")})

    def _publish(self, vni: int, mac: str, mapping: Mapping | None) -> None:
        """Put a mapping into its VNI's scope, or take it out; the nodes that serve the VNI hear of it soon."""
        scope, key = self._scopes[vni], f"{document.MAPPING}/{mac}"
        shown = None if mapping is None or self.nodes[mapping.nve].revoked else mapping
        if scope.remove(key) if shown is None else scope.set(key, shown):
            self._lazy.update(self.membership.members(vni))

    def _ask(self, ask: Ask, now: float) -> None:
        if any((item.nve, item.vni, item.mac) == (ask.nve, ask.vni, ask.mac) for item in self._questions.values()):
            return
        request = self._request_number()
        # Its time has come already: the next look at what is due sends it.
        self._questions[request] = _Question(request, ask.nve, ask.vni, ask.mac, now - ASK_REPEAT)

    def _request_number(self) -> int:
        self._next_request += 1
        return self._next_request - 1

    def _step_policy(self, now: float) -> None:
        result = self.book.step(now)
        if isinstance(result, Adopted):
            policy = Policy(self.book.inventory.rules(), self.book.inventory.profiles)
            self._stale |= self.associations.set_policy(policy, result.changed, now)
            self._stale |= {name for name, node in self.nodes.items() if node.connection is not None}
            self._entries = None
            self._keep_policy(self.book)
            for name in [name for name, node in self.nodes.items() if self._eager and node.known]:
                self._demand_all(name, now)
            self.report(now, "policy", "", f"version {result.version} is in force")
        elif isinstance(result, Rejected):
            self._policy_rejected(result, now)

    def _policy_rejected(self, rejected: Rejected, now: float) -> None:
        self.report(now, "policy-refused", "", f"version {rejected.version}: {rejected.reason}")
        self._entries = None
        self._stale |= {name for name, node in self.nodes.items() if node.connection is not None}

    # Time -----------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> list[Effect]:
        self.events.settle(now)
        if self._left:
            self._left = {place: left for place, left in self._left.items() if now - left[1] < MOVE_TIME}
        self._step_policy(now)
        self._stale |= self.associations.tick(now)
        effects: list[Effect] = []
        for node in self.nodes.values():
            push = node.push
            if push is None or node.connection is None:
                continue
            if now - push.since > PUSH_LIMIT:
                effects.append(self._end(node.connection, "did not answer a push", now))
            elif now - push.sent >= REPEAT * 2**push.repeats:
                # Less and less often: a node that is behind has the more to read for each copy.
                push.sent = now
                push.repeats += 1
                effects.append(Send(node.connection, jsonrpc.Request(push.request, "push", push.params)))
        return effects

    def _questions_due(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for question in self._questions.values():
            connection = self.nodes[question.nve].connection
            if connection is not None and now - question.sent >= ASK_REPEAT:
                question.sent = now
                params = {"vni": question.vni, "mac": question.mac}
                effects.append(Send(connection, jsonrpc.Request(question.request, "confirm", params)))
        return effects

    # Pushes ---------------------------------------------------------------------------------------------

    def _scopes_of(self, name: str) -> list[Scope]:
        return [self.nodes[name].private, *(self._scopes[vni] for vni in self.membership.vnis_of(name))]

    def _flush(self, now: float, *, lazily: bool) -> list[Effect]:
        """Push to nodes whose own part has changed; with ``lazily`` also what they share with others.

        What is shared waits for the next tick, so that a hundred changes make one push to each and not a hundred.
        """
        if self._stale and self._entries is None:
            self._entries = NodeEntries(self.book, self.membership, self.associations, self._paths)
        for name in self._stale:
            node = self.nodes[name]
            if node.push is not None:
                node.outdated = True  # it can be told nothing now, and there may be more by then
            elif node.connection is not None and self._entries is not None and node.private.replace(
                self._entries.of(name)
            ):
                self._urgent.add(name)
        self._stale.clear()
        effects = self._questions_due(now) if self._questions else []
        chosen = self._urgent | self._lazy if lazily else self._urgent
        for name in sorted(chosen):
            node = self.nodes[name]
            if node.connection is None or node.push is not None:
                self._forget_turn(name)  # the answer, or the next registration, brings its turn
            elif now >= node.not_before or name in self._urgent:
                self._forget_turn(name)
                push = node.next_push(self._scopes_of(name), self.epoch, self._request_number(), now)
                if push is not None:
                    effects.append(Send(node.connection, jsonrpc.Request(push.request, "push", push.params)))
        return effects

    def _push_over(self, node: NodeRecord) -> None:
        """Note that no push is on its way to a node any more: what has changed meanwhile is made anew."""
        if node.outdated:
            node.outdated = False
            self._stale.add(node.name)

    def _forget_turn(self, name: str) -> None:
        self._urgent.discard(name)
        self._lazy.discard(name)

    # What operators ask: see operate.py ------------------------------------------------------------------

    def flush(self, now: float) -> list[Effect]:
        """Return the pushes that follow from what was changed by the methods below."""
        return self._flush(now, lazily=True)

    def rekey(self, spi: int | None, node: str | None, now: float) -> int:
        """Replace one association, those of a node, or all; returns how many are being replaced."""
        if spi is not None:
            concerned = self.associations.renew_spi(spi, now)
            count = int(bool(concerned))
        else:
            count, concerned = self.associations.renew_all(now, node)
        self._stale |= concerned
        self.report(now, "rekey", node or "", f"{count} associations, asked for by an operator")
        return count

    def revoke(self, name: str, now: float) -> list[Effect]:
        """Cut a node off: its associations, demands and mappings end everywhere at once."""
        node = self.nodes[name]
        if node.revoked:
            return []
        node.revoked, node.known, node.instance, node.signing_key = True, False, "", None
        node.positions = node.push = None
        self._push_over(node)
        self._keep_node(node)
        self._stale |= self.associations.revoke(name, now)
        self._show_nve(node, shown=False)
        self._learned(self.directory.forget(name), now)
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
            self._show_nve(node, shown=True)
            self.report(now, "restored", name, "it may register again")

    def _show_nve(self, node: NodeRecord, *, shown: bool) -> None:
        """Show an NVE and its mappings to the others of its VNIs, or hide them."""
        for vni in self.membership.vnis_of(node.name):
            scope, key = self._scopes[vni], f"{document.NVE}/{node.name}"
            entry = NveEntry(address=self.membership.address(node.name))
            if scope.set(key, entry) if shown else scope.remove(key):
                self._lazy.update(self.membership.members(vni))
        for mapping in self.directory.all():
            if mapping.nve == node.name:
                self._publish(mapping.vni, mapping.mac, mapping if shown else None)

    def propose_policy(self, proposal: ParameterMapping[str, Any], now: float) -> int:
        """Have a policy checked by every connected node; returns its version. ConfigError when it is not sound."""
        connected = [name for name, node in self.nodes.items() if node.connection is not None]
        candidate = self.book.propose(proposal, connected, now)
        self._entries = None
        self._stale |= set(connected)
        self.report(now, "policy", "", f"version {candidate.version} is being checked by {len(connected)} nodes")
        self._step_policy(now)
        return candidate.version

    def set_mapping(self, mapping: Mapping, now: float) -> None:
        """Set a static mapping; ValueError when it takes an IP address of another static one."""
        self._learned(self.directory.set_static(mapping), now)
        content = {"static": True, "mapping": mapping.model_dump(mode="json")}
        self.journal.keep(records.MAPPING, f"{mapping.vni} {mapping.mac}", content)

    def remove_mapping(self, vni: int, mac: str, now: float) -> None:
        """Remove a mapping; what an NVE still reports takes its place."""
        self._learned(self.directory.remove(vni, mac), now)

    def in_step(self, node: NodeRecord) -> bool:
        """Whether a node has acknowledged all that it is to know."""
        if node.connection is None or node.refusal is not None or node.name in self._stale:
            return False
        return not node.lacks(self._scopes_of(node.name))


class JournalRecorder:
    """Writes associations and demands into the journal. ``utc_offset`` is what turns the table's clock into UTC."""

    def __init__(self, journal: Journal, utc_offset: float) -> None:
        self._journal, self._utc_offset = journal, utc_offset

    def association(self, stage: str, association: Association, created: float) -> None:
        """Note an association, its stage, and when it was made."""
        content = association.model_dump(mode="json", context={"reveal_secrets": True})
        content |= {"stage": stage, "created": created + self._utc_offset}
        self._journal.keep(records.ASSOCIATION, str(association.spi), content)

    def association_gone(self, spi: int) -> None:
        """Note that an association has ended."""
        self._journal.drop(records.ASSOCIATION, str(spi))

    def demand(self, key: DemandKey) -> None:
        """Note a demand."""
        self._journal.keep(records.DEMAND, _demand_name(key), {"demand": list(key)})

    def demand_gone(self, key: DemandKey) -> None:
        """Note that a demand is no more."""
        self._journal.drop(records.DEMAND, _demand_name(key))


class _RefusedError(ParseError):
    """A request that is sound, but not this node's to make; the connection goes on."""


def _error(connection: int, request: jsonrpc.Request, code: int, text: str) -> Send:
    return Send(connection, jsonrpc.ErrorResponse(request.id, code, text))


def _demand_name(key: DemandKey) -> str:
    return "|".join("" if part is None else str(part) for part in key)


def _is_station(mac: str) -> bool:
    """Whether a MAC address can be one station's: not a group's, not all zeros."""
    data = bytes.fromhex(mac.replace(":", ""))
    return not data[0] & 1 and any(data)

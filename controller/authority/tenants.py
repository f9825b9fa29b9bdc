"""From what NVEs and operators say of tenants to what nodes are told of them and the store keeps. Pure.

The rule itself is the directory's (directory.py); this carries its decisions out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from controller.authority import records
from controller.authority.directory import Address, Ask, Changed, Conflict, Directory, Outcome
from controller.authority.membership import Membership
from controller.authority.messages import Effect, Send
from controller.authority.nodes import NodeRecord
from controller.authority.pusher import Pusher
from controller.authority.records import Journal, Saved
from controller.inventory import Inventory
from geneve.config import validate
from geneve.control import document, jsonrpc
from geneve.control import state as models
from geneve.control.demand import Tenant

ASK_REPEAT = 2.0
"""Seconds after which a question to an NVE is asked again."""

ASK_LIMIT = 10.0
"""Seconds after which an NVE that does not answer, though it is connected, keeps the tenant: the safe side."""

RETURN_TIME = 15.0
"""Seconds after a restart of the NVA in which nobody takes what an NVE had that has not come back yet."""

MOVE_TIME = 5.0
"""Seconds within which a tenant that left one NVE and appears behind another has moved."""

Report = Callable[[float, str, str, str], None]
"""Adds a line to the audit log: time, kind, node, text."""


@dataclass(slots=True)
class _Question:
    """A question to an NVE whether a tenant is still there."""

    request: int
    nve: str
    vni: int
    mac: str
    asked: float
    sent: float


class Tenants:
    """The mappings of all VNIs. Times are seconds of one clock."""

    def __init__(
        self,
        inventory: Inventory,
        nodes: Mapping[str, NodeRecord],
        membership: Membership,
        pusher: Pusher,
        journal: Journal,
        report: Report,
    ) -> None:
        self.directory = Directory()
        self._nodes, self._membership, self._pusher = nodes, membership, pusher
        self._journal, self._report = journal, report
        self._learned = frozenset(vni.vni for vni in inventory.vnis if vni.learned)
        self._questions: dict[int, _Question] = {}
        self._left: dict[Address, tuple[str, float]] = {}
        self._expect_until: float | None = None

    def restore(self, inventory: Inventory, saved: Saved, now: float) -> None:
        """Take over the inventory's mappings, and those of an earlier life that still fit."""
        for mapping in inventory.mappings:
            self.directory.set_static(mapping)
        learned = []
        for name, content in saved.get(records.MAPPING, {}).items():
            mapping = validate(dict(content["mapping"]), "the store's mapping", models.Mapping)
            if not self._membership.serves(mapping.nve, mapping.vni):
                self._journal.drop(records.MAPPING, name)
            elif content["static"]:
                try:
                    self.directory.set_static(mapping)
                except ValueError:  # the inventory has given the IP address away since
                    self._journal.drop(records.MAPPING, name)
            else:
                learned.append(mapping)
        self.directory.restore(learned)
        self._expect_until = now + RETURN_TIME
        for mapping in self.directory.all():
            self._publish(mapping.vni, mapping.mac, mapping)

    # What NVEs say --------------------------------------------------------------------------------------

    def reported(self, nve: str, number: int, tenants: Iterable[Tenant], now: float) -> None:
        """Take an NVE's report; what it may not report is left out and noted."""
        accepted: list[Tenant] = []
        for tenant in tenants:
            known = tenant.vni in self._learned and self._membership.serves(nve, tenant.vni)
            if known and _is_station(tenant.mac):
                accepted.append(tenant)
            else:
                what = f"a tenant {tenant.mac} in VNI {tenant.vni}"
                self._report(now, "refused", nve, f"reported {what}, which it does not serve or nobody learns")
        self._act(self.directory.report(nve, number, accepted), now)

    def answered(self, nve: str, answer: jsonrpc.Response | jsonrpc.ErrorResponse, now: float) -> bool:
        """Take an NVE's answer if it is one to a question of ours; returns whether it is."""
        question = self._questions.get(answer.id) if isinstance(answer.id, int) else None
        if question is None or question.nve != nve:
            return False
        del self._questions[question.request]
        present = isinstance(answer, jsonrpc.Response) and answer.result.get("present") is True
        self._act(self.directory.confirmed(nve, question.vni, question.mac, present), now)
        return True

    def connected(self, nve: str, now: float, *, fresh: bool) -> None:
        """Note that an NVE has registered, ``fresh`` as a new process."""
        self._act(self.directory.connected(nve, fresh=fresh), now)

    def disconnected(self, nve: str, now: float) -> None:
        """Note that an NVE cannot be asked."""
        self._questions = {key: item for key, item in self._questions.items() if item.nve != nve}
        self._act(self.directory.disconnected(nve), now)

    def forget(self, nve: str, now: float) -> None:
        """Drop what a revoked NVE has reported, and hide what else is mapped to it."""
        self.show(nve)
        self._act(self.directory.forget(nve), now)

    def show(self, nve: str) -> None:
        """Show or hide the mappings of an NVE that was restored or revoked."""
        for mapping in self.directory.all():
            if mapping.nve == nve:
                self._publish(mapping.vni, mapping.mac, mapping)

    # What operators say ---------------------------------------------------------------------------------

    def set_static(self, mapping: models.Mapping, now: float) -> None:
        """Set a static mapping; ValueError when it takes an IP address of another static one."""
        self._act(self.directory.set_static(mapping), now)
        content = {"static": True, "mapping": mapping.model_dump(mode="json")}
        self._journal.keep(records.MAPPING, f"{mapping.vni} {mapping.mac}", content)

    def remove(self, vni: int, mac: str, now: float) -> None:
        """Remove a mapping; what an NVE still reports takes its place."""
        self._act(self.directory.remove(vni, mac), now)

    # What follows ---------------------------------------------------------------------------------------

    def due(self, now: float) -> list[Effect]:
        """Return the questions to ask now."""
        effects: list[Effect] = []
        for question in self._questions.values():
            connection = self._nodes[question.nve].connection
            if connection is not None and now - question.sent >= ASK_REPEAT:
                question.sent = now
                params = {"vni": question.vni, "mac": question.mac}
                effects.append(Send(connection, jsonrpc.Request(question.request, "confirm", params)))
        return effects

    def tick(self, now: float) -> None:
        """Answer questions for those who do not, and forget who left too long ago to have moved."""
        for question in [item for item in self._questions.values() if now - item.asked >= ASK_LIMIT]:
            del self._questions[question.request]
            self._act(self.directory.confirmed(question.nve, question.vni, question.mac, True), now)
        if self._expect_until is not None and now >= self._expect_until:
            self._expect_until = None
            self._act(self.directory.expect_no_longer(), now)
        if self._left:
            self._left = {place: left for place, left in self._left.items() if now - left[1] < MOVE_TIME}

    def _act(self, outcomes: Iterable[Outcome], now: float) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Changed):
                self._publish(outcome.vni, outcome.mac, outcome.mapping)
                self._keep(outcome.vni, outcome.mac)
                self._report_change(outcome, now)
            elif isinstance(outcome, Conflict):
                self._report(now, "conflict", outcome.nve, outcome.text)
            else:
                self._ask(outcome, now)

    def _publish(self, vni: int, mac: str, mapping: models.Mapping | None) -> None:
        shown = None if mapping is None or self._nodes[mapping.nve].revoked else mapping
        self._pusher.set_shared(vni, f"{document.MAPPING}/{mac}", shown)

    def _keep(self, vni: int, mac: str) -> None:
        mapping, name = self.directory.get(vni, mac), f"{vni} {mac}"
        if mapping is None:
            self._journal.drop(records.MAPPING, name)
        elif not self.directory.is_static(vni, mac):
            content = {"static": False, "mapping": mapping.model_dump(mode="json")}
            self._journal.keep(records.MAPPING, name, content)

    def _report_change(self, change: Changed, now: float) -> None:
        where, place = f"{change.mac} in VNI {change.vni}", (change.vni, change.mac)
        if change.mapping is None:
            self._left[place] = (change.came_from or "", now)
            self._report(now, "tenant-left", change.came_from or "", where)
            return
        # One that has just left and turns up elsewhere has moved: the news of both come one after the other.
        nve, left_at = self._left.pop(place, ("", -math.inf))
        came_from = change.came_from or (nve if nve != change.mapping.nve and now - left_at < MOVE_TIME else "")
        ips = ", ".join(change.mapping.ips) or "no IP address"
        if came_from:
            self._report(now, "tenant-moved", change.mapping.nve, f"{where}, {ips}, from {came_from}")
        else:
            self._report(now, "tenant", change.mapping.nve, f"{where}, {ips}")

    def _ask(self, ask: Ask, now: float) -> None:
        if any((item.nve, item.vni, item.mac) == (ask.nve, ask.vni, ask.mac) for item in self._questions.values()):
            return
        request = self._pusher.number()
        # Its time has come already: the next look at what is due sends it.
        self._questions[request] = _Question(request, ask.nve, ask.vni, ask.mac, now, now - ASK_REPEAT)


def _is_station(mac: str) -> bool:
    """Whether a MAC address can be one station's: not a group's, not all zeros."""
    data = bytes.fromhex(mac.replace(":", ""))
    return not data[0] & 1 and any(data)

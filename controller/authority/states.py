"""Builds what nodes are told: the shared part of each VNI, and of each node its own and no more. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from controller.authority.associations import AssociationTable
from controller.authority.lines import Paths
from controller.authority.membership import Membership
from controller.authority.policies import PolicyBook
from controller.inventory import Inventory, InventoryVni
from geneve.control import document
from geneve.control.document import NveEntry, PathEntry, PolicyEntry
from geneve.control.rules import Rule
from geneve.control.state import Role, TransitVni, VniState

Entries = dict[str, BaseModel]


def vni_entries(vni: InventoryVni, membership: Membership, revoked: Iterable[str]) -> Entries:
    """Return the entries of a VNI's scope but its mappings: what its packets carry, and which NVEs serve it."""
    gone = set(revoked)
    entries: Entries = {
        document.VNI: VniState(
            vni=vni.vni,
            telemetry=vni.telemetry,
            tags=vni.tags,
            options=vni.options,
            multicast=vni.multicast,
            learned=vni.learned,
            mtu=vni.mtu,
        )
    }
    for name in membership.members(vni.vni):
        if name not in gone:
            entries[f"{document.NVE}/{name}"] = NveEntry(address=membership.address(name))
    return entries


class NodeEntries:
    """Makes the private entries of nodes under the policy and the paths that hold now."""

    def __init__(self, book: PolicyBook, membership: Membership, table: AssociationTable, paths: Paths) -> None:
        self._book, self._membership, self._table, self._paths = book, membership, table, paths
        self._towards: dict[str, dict[str, tuple[str, ...]]] = {}
        self._crossing: dict[str, set[int]] = {}
        self._policies: dict[tuple[int, tuple[int, ...]], PolicyEntry] = {}
        self._rules: dict[int, tuple[Rule, ...]] = {}
        for (first, second), devices in paths.items():
            if not devices:
                continue
            self._towards.setdefault(first, {})[second] = devices
            shared = membership.shared_vnis(first, second)
            for device in devices:
                self._crossing.setdefault(device, set()).update(shared)

    def of(self, node: str) -> Entries:
        """Return a node's own entries."""
        role = self._book.inventory.nodes[node].role
        return self._of_nve(node) if role is Role.NVE else self._of_device(node)

    def _of_nve(self, node: str) -> Entries:
        book, vnis = self._book, self._membership.vnis_of(node)
        entries: Entries = {document.POLICY: self._policy(book.inventory, book.version, vnis)}
        if book.candidate is not None:
            entries[document.CANDIDATE] = self._policy(book.candidate.inventory, book.candidate.version, vnis)
        for other, devices in self._towards.get(node, {}).items():
            if self._membership.shared_vnis(node, other):
                entries[f"{document.PATH}/{other}"] = PathEntry(transit=devices)
        for association in self._table.outbound(node):
            entries[f"{document.OUT}/{association.spi}"] = association
        return entries | self._inbound(node)

    def _of_device(self, node: str) -> Entries:
        book = self._book
        inbound = self._inbound(node)
        names = {association.profile for association in self._table.inbound(node)}
        profiles = tuple(profile for profile in book.inventory.profiles if profile.name in names)
        entries: Entries = {document.POLICY: PolicyEntry(version=book.version, profiles=profiles)}
        if book.candidate is not None:
            its = tuple(
                profile
                for profile in book.candidate.inventory.profiles
                if profile.device_coverage(node) is not None or profile.group is not None
            )
            entries[document.CANDIDATE] = PolicyEntry(version=book.candidate.version, profiles=its)
        crossing = self._crossing.get(node, set())
        for vni in book.inventory.vnis:
            if vni.vni in crossing:
                entries[f"{document.TRANSIT}/{vni.vni}"] = TransitVni(
                    vni=vni.vni,
                    telemetry=vni.telemetry,
                    # One rule that secures is enough: else a stranger's packet without protection would count.
                    authenticated=book.inventory.secures(vni.vni),
                    group_policy=vni.group_policy if not vni.enforcers or node in vni.enforcers else None,
                )
        return entries | inbound

    def _inbound(self, node: str) -> Entries:
        return {f"{document.IN}/{item.spi}": item for item in self._table.inbound(node)}

    def _policy(self, inventory: Inventory, version: int, vnis: tuple[int, ...]) -> PolicyEntry:
        """Return a version of the policy for who serves ``vnis``; the same object whenever it is the same."""
        entry = self._policies.get((version, vnis))
        if entry is None:
            # Rules are made once for each version, since every node that has anything new asks for them.
            rules = self._rules.get(version)
            if rules is None:
                rules = self._rules[version] = inventory.rules()
            chosen = tuple(rule for rule in rules if rule.vni is None or rule.vni in vnis)
            names = {rule.profile for rule in chosen}
            profiles = tuple(item for item in inventory.profiles if item.name in names)
            entry = self._policies[version, vnis] = PolicyEntry(version=version, rules=chosen, profiles=profiles)
        return entry

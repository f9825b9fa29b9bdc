"""The Geneve Security Associations that should exist, and their keys.

One association for each sender, audience and VNI. It exists while both its ends are registered, gets
fresh keys whenever one of them registers, and is given to its sender once its audience has acknowledged
it, or after a bounded wait without that: an acknowledgement that does not come must not keep the two apart
for ever. What the audience cannot open yet, it then drops.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from controller.inventory import Inventory
from geneve.control.profile import Profile
from geneve.control.rules import Action
from geneve.control.state import SECRET_SIZE, Association, AssociationRole, Role

FIRST_SPI = 256

Key = tuple[str, str, int]
"""Sender, audience and VNI."""
Paths = Mapping[tuple[str, str], tuple[str, ...]]


@dataclass(slots=True)
class Held:
    """An association and how far it has got."""

    association: Association
    created: float
    deadline: float
    active: bool = False


class SpiSpace:
    """Hands out random SPIs, none of them twice in the NVA's life. ``token`` returns random bytes."""

    def __init__(self, token: Callable[[int], bytes]) -> None:
        self._token = token
        self._used: set[int] = set()

    def take(self) -> int:
        """Return a new SPI."""
        while True:
            spi = int.from_bytes(self._token(4), "big")
            if spi >= FIRST_SPI and spi not in self._used:
                self._used.add(spi)
                return spi


class AssociationTable:
    """All associations of the NVA. Times are seconds of one clock."""

    def __init__(self, inventory: Inventory, token: Callable[[int], bytes], wait: float) -> None:
        """``wait`` is the seconds after which a sender gets what its audience has not acknowledged."""
        self._inventory = inventory
        self._profiles: dict[str, Profile] = {profile.name: profile for profile in inventory.profiles}
        self._token, self._wait = token, wait
        self._spis = SpiSpace(token)
        self._wanted: dict[Key, AssociationRole] = {}
        self._table: dict[Key, Held] = {}

    def wanted(self, paths: Paths) -> dict[Key, AssociationRole]:
        """Return the associations that policy and paths ask for, whoever is registered."""
        wanted: dict[Key, AssociationRole] = {}
        for vni in self._inventory.vnis:
            if vni.action is not Action.SECURE or vni.profile is None:
                continue
            members = self._inventory.members(vni.vni)
            to_transit = vni.telemetry and self._profiles[vni.profile].transit is not None
            for sender in members:
                for other in members:
                    if other == sender:
                        continue
                    wanted[sender, other, vni.vni] = AssociationRole.EGRESS
                    for device in paths.get((sender, other), ()) if to_transit else ():
                        wanted[sender, device, vni.vni] = AssociationRole.TRANSIT
        return wanted

    def settle(self, paths: Paths, registered: Iterable[str], now: float) -> set[str]:
        """Make what is wanted between registered nodes, drop what is not; returns the nodes concerned."""
        present = set(registered)
        self._wanted = self.wanted(paths)
        wanted = {key: role for key, role in self._wanted.items() if key[0] in present and key[1] in present}
        changed: set[str] = set()
        for key in self._table.keys() - wanted.keys():
            del self._table[key]
            changed.update(key[:2])
        for key in sorted(wanted.keys() - self._table.keys()):
            self._table[key] = self._make(key, wanted[key], now)
            changed.update(key[:2])
        return changed

    def forget(self, node: str) -> set[str]:
        """Drop all associations of ``node``, so that it gets fresh ones; returns the nodes concerned."""
        keys = [key for key in self._table if node in key[:2]]
        for key in keys:
            del self._table[key]
        return {name for key in keys for name in key[:2]}

    def activate(self, audience: str, spis: frozenset[int]) -> set[str]:
        """Note that ``audience`` has applied a state with ``spis``; returns the senders concerned."""
        return self._activate(
            held
            for held in self._table.values()
            if held.association.audience == audience and held.association.spi in spis
        )

    def activate_overdue(self, now: float) -> set[str]:
        """Give up waiting for audiences that do not acknowledge; returns the senders concerned."""
        return self._activate(held for held in self._table.values() if now >= held.deadline)

    @staticmethod
    def _activate(associations: Iterable[Held]) -> set[str]:
        senders = set()
        for held in associations:
            if not held.active:
                held.active = True
                senders.add(held.association.sender)
        return senders

    def inbound(self, node: str) -> list[Association]:
        """Return what ``node`` must be able to open."""
        return [held.association for key, held in sorted(self._table.items()) if key[1] == node]

    def outbound(self, node: str) -> list[Association]:
        """Return what ``node`` may send with now."""
        return [held.association for key, held in sorted(self._table.items()) if key[0] == node and held.active]

    def usable(self, sender: str, audience: str, vnis: Iterable[int]) -> bool:
        """Whether every association wanted from ``sender`` to ``audience`` for ``vnis`` is active."""
        keys = [(sender, audience, vni) for vni in vnis if (sender, audience, vni) in self._wanted]
        return all(key in self._table and self._table[key].active for key in keys)

    def all(self) -> list[Held]:
        """Return all associations in a fixed order."""
        return [held for _, held in sorted(self._table.items())]

    def _make(self, key: Key, role: AssociationRole, now: float) -> Held:
        sender, audience, number = key
        profile = next(vni.profile for vni in self._inventory.vnis if vni.vni == number)
        assert profile is not None
        association = Association(
            spi=self._spis.take(),
            role=role,
            sender=sender,
            audience=audience,
            sender_address=self._inventory.nodes[sender].address,
            vni=number,
            profile=profile,
            secret=SecretStr(base64.b64encode(self._token(SECRET_SIZE)).decode("ascii")),
        )
        return Held(association, created=now, deadline=now + self._wait)


def member_vnis(inventory: Inventory, node: str) -> tuple[int, ...]:
    """Return the VNIs in which an NVE has tenants."""
    mine = {mapping.vni for mapping in inventory.mappings if mapping.nve == node}
    return tuple(vni.vni for vni in inventory.vnis if vni.vni in mine)


def role_of(inventory: Inventory, node: str) -> Role | None:
    """Return a node's role, or None for a name that is not in the inventory."""
    entry = inventory.nodes.get(node)
    return None if entry is None else entry.role

"""The Geneve Security Associations that should exist, and their keys.

Which there are follows from policy, paths and the profiles' key granularity. An association exists while its
ends are registered, gets fresh keys whenever one of them registers or its members change, and is given to its
sender once its audience has acknowledged it, or after a bounded wait without that: an acknowledgement that
does not come must not keep the two apart for ever. What the audience cannot open yet, it then drops.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import SecretStr

from controller.inventory import Inventory, InventoryVni
from geneve.control.profile import InnerCoverage, KeyGranularity, Profile
from geneve.control.state import SECRET_SIZE, Association, AssociationRole, MulticastGroup, Role
from geneve.policy import Policy

FIRST_SPI = 256
GRACE = 10.0
"""Seconds for which what was replaced can still be opened."""
MIN_AGE = 1.0
"""Seconds before an association can be replaced at its sender's wish."""


class Key(NamedTuple):
    """What there is one association for. ``vni`` and ``rule`` are None where the profile's keys are wider."""

    sender: str
    audience: str
    role: AssociationRole
    vni: int | None
    profile: str
    rule: str | None


Paths = Mapping[tuple[str, str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Wish:
    """What an association should be besides its key: who else can open it, and the sender's signing key."""

    members: tuple[str, ...] = ()
    signer: str | None = None


@dataclass(slots=True)
class Held:
    """An association and how far it has got. ``waiting`` are those that have yet to acknowledge it."""

    association: Association
    created: float
    deadline: float
    waiting: set[str]
    active: bool = False
    previous: Held | None = field(default=None, repr=False)
    """What it replaces, as long as that can still be opened."""
    replaced_at: float | None = None


class SpiSpace:
    """Hands out random SPIs, none of them twice in the NVA's life. ``token`` returns random bytes.

    All are remembered: a node refuses a state with an SPI that was withdrawn from it before.
    """

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
        self._policy = Policy(inventory.rules(), inventory.profiles)
        self._token, self._wait = token, wait
        self._spis = SpiSpace(token)
        self._signers: dict[str, str] = {}
        self._wanted: dict[Key, Wish] = {}
        self._table: dict[Key, Held] = {}

    def set_signer(self, node: str, signing_key: str | None) -> None:
        """Note the public key with which an NVE signs, base64; it counts from the next :meth:`settle`."""
        self._signers.pop(node, None)
        if signing_key is not None:
            self._signers[node] = signing_key

    # What should exist ----------------------------------------------------------------------------------

    def wanted(self, paths: Paths) -> dict[Key, Wish]:
        """Return the associations that policy and paths ask for, whoever is registered."""
        wanted: dict[Key, Wish] = {}
        for vni in self._inventory.vnis:
            for profile, rule in self._uses(vni.vni):
                wanted.update(self._between_members(vni, profile, rule, paths))
                for group in vni.multicast:
                    wanted.update(self._in_group(vni, group, profile, rule))
        return wanted

    def _uses(self, vni: int) -> Iterator[tuple[Profile, str | None]]:
        """Yield the profiles that packets of a VNI can get, with each rule where rules have keys of their own."""
        for profile in self._policy.profiles_for(vni):
            if profile.key_granularity is not KeyGranularity.RULE:
                yield profile, None
                continue
            for rule in self._policy.rules_for(vni):
                if rule.profile == profile.name:
                    yield profile, rule.name

    def _between_members(
        self, vni: InventoryVni, profile: Profile, rule: str | None, paths: Paths
    ) -> Iterator[tuple[Key, Wish]]:
        scope = None if profile.key_granularity is KeyGranularity.PAIR else vni.vni
        members = self._inventory.members(vni.vni)
        for sender in members:
            for other in members:
                if other == sender:
                    continue
                devices = paths.get((sender, other), ())
                yield Key(sender, other, AssociationRole.EGRESS, scope, profile.name, rule), Wish()
                for device in devices:
                    if _concerns(vni, profile, device):
                        yield Key(sender, device, AssociationRole.TRANSIT, scope, profile.name, rule), Wish()
                if profile.group is not None:
                    yield Key(sender, other, AssociationRole.GROUP, scope, profile.name, rule), Wish(devices)

    def _in_group(
        self, vni: InventoryVni, group: MulticastGroup, profile: Profile, rule: str | None
    ) -> Iterator[tuple[Key, Wish]]:
        members = self._inventory.members(vni.vni)
        for sender in group.senders:
            signer = self._signers.get(sender)
            others = tuple(name for name in members if name != sender)
            if signer is not None and sender in members and others:
                key = Key(sender, group.name, AssociationRole.MULTICAST, vni.vni, profile.name, rule)
                yield key, Wish(others, signer)

    def _present(self, paths: Paths, registered: set[str]) -> dict[Key, Wish]:
        """Return what is wanted among registered nodes; members that are not are left out."""
        present: dict[Key, Wish] = {}
        for key, wish in self.wanted(paths).items():
            members = tuple(name for name in wish.members if name in registered)
            multicast = key.role is AssociationRole.MULTICAST
            if key.sender in registered and (bool(members) if multicast else key.audience in registered):
                present[key] = Wish(members, wish.signer)
        return present

    # How it comes to exist ------------------------------------------------------------------------------

    def settle(self, paths: Paths, registered: Iterable[str], now: float) -> set[str]:
        """Make what is wanted between registered nodes, drop what is not; returns the nodes concerned."""
        self._wanted = self.wanted(paths)
        present = self._present(paths, set(registered))
        changed: set[str] = set()
        for key, held in list(self._table.items()):
            association = held.association
            if present.get(key) != Wish(association.members, association.signer):
                # Gone, or other members: who leaves must not read on, who joins not what was before.
                changed |= _ends(self._table.pop(key))
        for key in sorted(present.keys() - self._table.keys(), key=_order):
            held = self._table[key] = self._make(key, present[key], now)
            changed |= _ends(held)
        return changed

    def forget(self, node: str) -> set[str]:
        """Drop all associations of ``node``, so that it gets fresh ones; returns the nodes concerned."""
        gone = [key for key, held in self._table.items() if node in _ends(held)]
        return {name for key in gone for name in _ends(self._table.pop(key))}

    def renew(self, spi: int, now: float) -> set[str]:
        """Replace an association by a fresh one, make before break; returns the nodes concerned.

        The old one goes on until the audience has the new one, and can be opened for GRACE seconds more.
        Nothing happens while a replacement is under way or the association is not in use yet, or less than MIN_AGE
        after the last: the sender asks again.
        """
        for key, held in self._table.items():
            if held.association.spi != spi:
                continue
            if not held.active or now - held.created < MIN_AGE:
                return set()
            held.previous = None
            wish = Wish(held.association.members, held.association.signer)
            fresh = self._table[key] = self._make(key, wish, now)
            fresh.previous = held
            return _ends(fresh)
        return set()

    def sender_of(self, spi: object) -> str | None:
        """Return who seals with ``spi`` now, or did until it was replaced a moment ago; None when nobody does."""
        for held in self._table.values():
            for item in (held, held.previous):
                if item is not None and item.association.spi == spi:
                    return item.association.sender
        return None

    def activate(self, audience: str, spis: frozenset[int]) -> set[str]:
        """Note that ``audience`` has applied a state with ``spis``; returns the senders concerned."""
        senders = set()
        for held in self._table.values():
            if held.association.spi in spis:
                held.waiting.discard(audience)
                if not held.waiting and not held.active:
                    held.active = True
                    senders.add(held.association.sender)
        return senders

    def tick(self, now: float) -> set[str]:
        """Stop waiting for acknowledgements that do not come, drop what was replaced; returns the nodes concerned."""
        concerned: set[str] = set()
        for held in self._table.values():
            if not held.active and now >= held.deadline:
                held.active = True
                concerned.add(held.association.sender)
            if held.active and held.previous is not None:
                if held.replaced_at is None:
                    held.replaced_at = now
                elif now - held.replaced_at >= GRACE:
                    concerned |= _ends(held)
                    held.previous = None
        return concerned

    # Who gets what --------------------------------------------------------------------------------------

    def inbound(self, node: str) -> list[Association]:
        """Return what ``node`` must be able to open."""
        found = []
        for held in self.all():
            if held.association.opens(node):
                found += [item.association for item in (held, held.previous) if item is not None]
        return found

    def outbound(self, node: str) -> list[Association]:
        """Return what ``node`` may send with now: one association of each kind."""
        found = []
        for held in self.all():
            if held.association.sender == node:
                usable = held if held.active else held.previous
                if usable is not None and usable.active:
                    found.append(usable.association)
        return found

    def usable(self, sender: str, device: str, vnis: Iterable[int]) -> bool:
        """Whether every association wanted from ``sender`` to a transit device for ``vnis`` can be used."""
        numbers = {*vnis, None}
        keys = [key for key in self._wanted if key[:2] == (sender, device) and key.vni in numbers]
        return all(key in self._table and self._is_usable(self._table[key]) for key in keys)

    @staticmethod
    def _is_usable(held: Held) -> bool:
        return held.active or held.previous is not None

    def all(self) -> list[Held]:
        """Return all associations in a fixed order."""
        return [self._table[key] for key in sorted(self._table, key=_order)]

    def _make(self, key: Key, wish: Wish, now: float) -> Held:
        association = Association(
            spi=self._spis.take(),
            role=key.role,
            sender=key.sender,
            audience=key.audience,
            members=wish.members,
            sender_address=self._inventory.nodes[key.sender].address,
            vni=key.vni,
            rule=key.rule,
            profile=key.profile,
            secret=SecretStr(base64.b64encode(self._token(SECRET_SIZE)).decode("ascii")),
            signer=wish.signer,
        )
        waiting = _audience(association)
        return Held(association, created=now, deadline=now + self._wait, waiting=waiting)


def _concerns(vni: InventoryVni, profile: Profile, device: str) -> bool:
    """Return whether packets of ``vni`` can have anything for a transit device to authenticate or read."""
    coverage = profile.device_coverage(device)
    if coverage is None:
        return False
    carries = vni.telemetry or vni.tags or bool(vni.options)
    return carries or coverage.authenticate_inner is not InnerCoverage.NONE


def _audience(association: Association) -> set[str]:
    """Return the nodes that can open an association's options."""
    members = set(association.members)
    return members if association.role is AssociationRole.MULTICAST else members | {association.audience}


def _ends(held: Held) -> set[str]:
    """Return all nodes that know of an association."""
    return _audience(held.association) | {held.association.sender}


def _order(key: Key) -> tuple[str, ...]:
    vni = "" if key.vni is None else f"{key.vni:08}"
    return (key.sender, key.audience, key.role.value, vni, key.profile, key.rule or "")


def member_vnis(inventory: Inventory, node: str) -> tuple[int, ...]:
    """Return the VNIs in which an NVE has tenants."""
    mine = {mapping.vni for mapping in inventory.mappings if mapping.nve == node}
    return tuple(vni.vni for vni in inventory.vnis if vni.vni in mine)


def role_of(inventory: Inventory, node: str) -> Role | None:
    """Return a node's role, or None for a name that is not in the inventory."""
    entry = inventory.nodes.get(node)
    return None if entry is None else entry.role

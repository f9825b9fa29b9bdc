"""The policy in its versions, and how one follows another: proposed, checked by every node, then in force. Pure.

A proposal is validated as a whole against the inventory; then each connected node is asked to check it (a push of the
*candidate*), and only when all have is it put in force, everywhere with the next push. One node that refuses, or does
not answer in time, and the last good version stays; no node has acted by the new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.inventory import Inventory, first_fault
from geneve.config import StrictModel, validate
from geneve.control.names import Name
from geneve.control.profile import Profile
from geneve.control.rules import Action, Rule
from geneve.errors import ConfigError

CHECK_TIME = 10.0
"""Seconds in which every connected node must have checked a candidate."""


class VniPolicy(StrictModel):
    """What holds in a VNI where no rule matches."""

    action: Action
    profile: Name | None = None


class PolicyDocument(StrictModel):
    """A whole policy. ``vnis`` names every VNI of the inventory, by its number written as text."""

    profiles: tuple[Profile, ...] = ()
    policy: tuple[Rule, ...] = ()
    vnis: dict[str, VniPolicy]


def document_of(inventory: Inventory) -> PolicyDocument:
    """Return the policy that an inventory holds."""
    vnis = {str(vni.vni): VniPolicy(action=vni.action, profile=vni.profile) for vni in inventory.vnis}
    return PolicyDocument(profiles=inventory.profiles, policy=inventory.policy, vnis=vnis)


def with_policy(inventory: Inventory, document: PolicyDocument) -> Inventory:
    """Return the inventory under another policy; ConfigError says what does not fit."""
    known = {str(vni.vni) for vni in inventory.vnis}
    if document.vnis.keys() != known:
        odd = sorted(document.vnis.keys() ^ known)[0]
        raise ConfigError(f"policy: key 'vnis' must name every VNI of the inventory and no other; see '{odd}'.")
    vnis = tuple(
        vni.model_copy(update={"action": chosen.action, "profile": chosen.profile})
        for vni in inventory.vnis
        if (chosen := document.vnis[str(vni.vni)])
    )
    changed = inventory.model_copy(update={"profiles": document.profiles, "policy": document.policy, "vnis": vnis})
    fault = first_fault(changed)
    if fault is not None:
        raise ConfigError(f"policy: {fault}")
    return changed


def changed_profiles(before: PolicyDocument, after: PolicyDocument) -> frozenset[str]:
    """Return the names of profiles that both have with different contents."""
    old = {profile.name: profile for profile in before.profiles}
    return frozenset(item.name for item in after.profiles if item.name in old and old[item.name] != item)


@dataclass(slots=True)
class Candidate:
    """A proposal that nodes are checking; ``waiting`` are those that have not yet."""

    version: int
    document: PolicyDocument
    inventory: Inventory = field(repr=False)
    waiting: set[str]
    deadline: float


@dataclass(frozen=True, slots=True)
class Adopted:
    """A version is in force now."""

    version: int
    changed: frozenset[str]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A version is given up; the one before it stays."""

    version: int
    reason: str


class PolicyBook:
    """The version in force, and at most one candidate."""

    def __init__(self, inventory: Inventory, version: int = 1, document: PolicyDocument | None = None) -> None:
        """Start with the inventory's own policy, or with a later ``document`` that an earlier life adopted."""
        self._base = inventory
        self.version = version
        self.document = document_of(inventory) if document is None else document
        self.inventory = inventory if document is None else with_policy(inventory, document)
        self.candidate: Candidate | None = None
        self.last_rejection: Rejected | None = None
        self._last_version = version

    def propose(self, document: Mapping[str, Any], connected: Iterable[str], now: float) -> Candidate:
        """Validate a proposal and start having it checked; ConfigError when it is not sound."""
        proposal = validate(dict(document), "policy", PolicyDocument)
        inventory = with_policy(self._base, proposal)
        self._last_version += 1
        self.candidate = Candidate(self._last_version, proposal, inventory, set(connected), now + CHECK_TIME)
        return self.candidate

    def checked(self, node: str, version: int) -> None:
        """Note that a node can apply the candidate."""
        if self.candidate is not None and self.candidate.version == version:
            self.candidate.waiting.discard(node)

    def joined(self, node: str) -> None:
        """Note that a node has registered: it must check the candidate too."""
        if self.candidate is not None:
            self.candidate.waiting.add(node)

    def left(self, node: str) -> None:
        """Note that a node is not connected: it will be told what is in force when it comes back."""
        if self.candidate is not None:
            self.candidate.waiting.discard(node)

    def refused(self, node: str, version: int, reason: str) -> Rejected | None:
        """Give the candidate up because a node cannot apply it."""
        if self.candidate is None or self.candidate.version != version:
            return None
        return self._reject(f"{node} cannot apply it: {reason}")

    def step(self, now: float) -> Adopted | Rejected | None:
        """Put the candidate in force when all have checked it, or give it up when that takes too long."""
        candidate = self.candidate
        if candidate is None:
            return None
        if candidate.waiting:
            if now < candidate.deadline:
                return None
            return self._reject(f"not checked within {CHECK_TIME:g} s by {', '.join(sorted(candidate.waiting))}")
        changed = changed_profiles(self.document, candidate.document)
        self.version, self.document, self.inventory = candidate.version, candidate.document, candidate.inventory
        self.candidate = self.last_rejection = None
        return Adopted(self.version, changed)

    def _reject(self, reason: str) -> Rejected:
        assert self.candidate is not None
        self.last_rejection = Rejected(self.candidate.version, reason)
        self.candidate = None
        return self.last_rejection

    def view(self) -> dict[str, Any]:
        """Return the policy for operators."""
        candidate, rejection = self.candidate, self.last_rejection
        return {
            "version": self.version,
            "document": self.document.model_dump(mode="json"),
            "candidate": None
            if candidate is None
            else {"version": candidate.version, "waiting": sorted(candidate.waiting)},
            "rejected": None if rejection is None else {"version": rejection.version, "reason": rejection.reason},
        }

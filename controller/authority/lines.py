"""What there is an association for, and how far it has got: demands, lines, and the associations on them. Pure data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from geneve.control.state import Association, AssociationRole

Paths = Mapping[tuple[str, str], tuple[str, ...]]


class DemandKey(NamedTuple):
    """A demand in its canonical form: ``vni`` and ``rule`` are None where the profile's keys are wider."""

    sender: str
    audience: str
    multicast: bool
    vni: int | None
    profile: str
    rule: str | None


class Key(NamedTuple):
    """What there is one line for."""

    sender: str
    audience: str
    role: AssociationRole
    vni: int | None
    profile: str
    rule: str | None


@dataclass(frozen=True, slots=True)
class Wish:
    """What an association should be besides its line's key: who else can open it, and the sender's signing key."""

    members: tuple[str, ...] = ()
    signer: str | None = None


@dataclass(slots=True, eq=False)
class Held:
    """An association and how far it has got. ``waiting``: whose acknowledgement an offered one needs yet."""

    association: Association
    created: float
    waiting: set[str] = field(default_factory=set)
    deadline: float | None = None
    """When to stop waiting for those that are not connected."""
    expires: float | None = None


@dataclass(slots=True, eq=False)
class Line:
    """The associations of one key. ``given``: the sender may have the current one (all it needs besides is there)."""

    key: Key
    wish: Wish
    offered: Held | None = None
    current: Held | None = None
    retiring: list[Held] = field(default_factory=list)
    given: bool = False
    taken: bool = False
    """Whether the sender has acknowledged the current one."""
    nodes: set[str] = field(default_factory=set)
    """Everybody who knows one of the associations."""
    rekey_timer: float | None = None
    again: bool = False
    """Whether it is to be replaced once more when the exchange under way is complete."""

    def all(self) -> Iterator[tuple[str, Held]]:
        """Yield every association with its stage."""
        if self.offered is not None:
            yield "offered", self.offered
        if self.current is not None:
            yield "current", self.current
        for held in self.retiring:
            yield "retiring", held


class Recorder(Protocol):
    """Is told what must survive the NVA."""

    def association(self, stage: str, association: Association, created: float) -> None:
        """Note an association, its stage, and when it was made."""

    def association_gone(self, spi: int) -> None:
        """Note that an association has ended."""

    def demand(self, key: DemandKey) -> None:
        """Note a demand."""

    def demand_gone(self, key: DemandKey) -> None:
        """Note that a demand is no more."""


def audience_of(association: Association) -> set[str]:
    """Return the nodes that can open an association's options."""
    members = set(association.members)
    return members if association.role is AssociationRole.MULTICAST else members | {association.audience}


def indispensable_to(association: Association) -> set[str]:
    """Return who must have an association before its sender, connected or not: the NVE drops what it cannot open."""
    return {association.audience} if association.role in (AssociationRole.EGRESS, AssociationRole.GROUP) else set()


def line_order(key: Key) -> tuple[str, ...]:
    """Return what lines are sorted by."""
    vni = "" if key.vni is None else f"{key.vni:08}"
    return (key.sender, key.audience, key.role.value, vni, key.profile, key.rule or "")


def demand_order(key: DemandKey) -> tuple[str, ...]:
    """Return what demands are sorted by."""
    vni = "" if key.vni is None else f"{key.vni:08}"
    return (key.sender, key.audience, str(key.multicast), vni, key.profile, key.rule or "")

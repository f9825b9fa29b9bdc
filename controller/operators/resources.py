"""What operators send and receive, as models: the OpenAPI description is made from them.

Answers are made in views.py and underlay.py; tests hold these against the models, key by key.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from controller.authority.policies import PolicyDocument
from controller.inventory import InventoryVni
from geneve.config import StrictModel
from geneve.control.names import IpAddress, MacAddress, Name, Spi, Tag, Vni
from geneve.control.state import AssociationRole, Mapping, Role

MAX_EVENTS = 1000
"""Events in one answer at most."""
MAX_NUMBER = 10**15 - 1
"""Largest number of an event that a request may name."""


class Problem(StrictModel):
    """Why a request was refused, in one sentence."""

    error: str


class Node(StrictModel):
    """A node of the inventory; ``in_step``: it has acknowledged all that the NVA has for it."""

    name: Name
    role: Role
    address: IpAddress
    connected: bool
    revoked: bool
    instance: str | None
    registered_s: float | None
    sequence: int
    in_step: bool
    refusal: str | None


class Nodes(StrictModel):
    """All nodes; ``converged``: everything has reached everyone that is not revoked."""

    epoch: str
    converged: bool
    nodes: tuple[Node, ...]


class TenantVni(InventoryVni):
    """A virtual network and the NVEs that serve it."""

    members: tuple[Name, ...]


class Tenant(StrictModel):
    """A tenant and its virtual networks."""

    name: Name
    vnis: tuple[TenantVni, ...]


class Tenants(StrictModel):
    """All tenants."""

    tenants: tuple[Tenant, ...]


class MappingEntry(Mapping):
    """A mapping in force; ``static``: from the inventory or an operator, not learned from an NVE."""

    static: bool


class Mappings(StrictModel):
    """All mappings in force."""

    mappings: tuple[MappingEntry, ...]


class MappingBody(StrictModel):
    """A static mapping without what the path says."""

    ips: tuple[IpAddress, ...] = ()
    nve: Name
    tag: Tag = 0


class MappingAnswer(StrictModel):
    """The static mapping that is in force now."""

    mapping: Mapping


class Removed(StrictModel):
    """A mapping was removed."""

    removed: bool


class PolicyCandidate(StrictModel):
    """A version that nodes are checking; ``waiting`` are those that have not."""

    version: int
    waiting: tuple[Name, ...]


class PolicyRejection(StrictModel):
    """The last version that was given up."""

    version: int
    reason: str


class PolicyView(StrictModel):
    """The policy in force, the version that may follow it, and the last one that was given up."""

    version: int
    document: PolicyDocument
    candidate: PolicyCandidate | None
    rejected: PolicyRejection | None


class PolicyAccepted(StrictModel):
    """The version that nodes are asked to check now; GET /v1/policy tells how that ends."""

    version: int


class AssociationEntry(StrictModel):
    """An association, without its keys. ``waiting``: nodes that have not acknowledged this stage."""

    spi: Spi
    stage: str
    role: AssociationRole
    sender: Name
    audience: Name
    members: tuple[Name, ...]
    vni: Vni | None
    rule: str | None
    profile: str | None
    waiting: tuple[Name, ...]
    age_s: float


class Associations(StrictModel):
    """All associations in all stages of their lives."""

    associations: tuple[AssociationEntry, ...]


class Switch(StrictModel):
    """A switch of the underlay."""

    name: Name
    dpid: int
    connected: bool


class UnderlayLink(StrictModel):
    """A link of the inventory, and the ports at its two ends when it was found; ``tree``: multicast takes it."""

    between: tuple[Name, Name]
    ports: tuple[int | None, int | None]
    via: tuple[Name, ...]
    cost: int
    up: bool
    tree: bool


class UnderlayHost(StrictModel):
    """Where a MAC address is on the underlay."""

    mac: MacAddress
    switch: Name
    port: int


class NodePath(StrictModel):
    """The transit devices between two NVEs, in the order of travel."""

    from_: Name = Field(alias="from")
    to: Name
    transit: tuple[Name, ...]


class Topology(StrictModel):
    """The underlay; ``complete``: every link of the inventory was found."""

    switches: tuple[Switch, ...]
    links: tuple[UnderlayLink, ...]
    hosts: tuple[UnderlayHost, ...]
    paths: tuple[NodePath, ...]
    complete: bool


class Flow(StrictModel):
    """A rule of a switch and what it counted; ``spoofed``: it drops packets with others' source addresses."""

    table: int
    priority: int
    match: dict[str, Any]
    packets: int
    bytes: int
    spoofed: bool


class SwitchFlows(StrictModel):
    """What one switch answered, ``age_s`` seconds ago; ``truncated``: there are more rules."""

    name: str
    age_s: float | None
    spoofed_packets: int
    truncated: bool
    flows: tuple[Flow, ...]
    ports: tuple[dict[str, int], ...]


class Flows(StrictModel):
    """What rules and ports of the switches counted; asked for every ``interval_s`` seconds."""

    interval_s: float
    spoofed_packets: int
    switches: tuple[SwitchFlows, ...]


class EventEntry(StrictModel):
    """A line of the audit log; ``time`` is UTC in seconds. ``node`` is a node, an operator, or an address."""

    number: int
    time: float
    kind: str
    node: str
    text: str


class Events(StrictModel):
    """Lines of the audit log, oldest first."""

    events: tuple[EventEntry, ...]


class EventsQuery(StrictModel):
    """Which events: those after a number, and how many at most. Without ``after`` the newest."""

    after: int | None = Field(default=None, ge=0, le=MAX_NUMBER)
    limit: int = Field(default=MAX_EVENTS, ge=1, le=MAX_EVENTS)


class StreamQuery(StrictModel):
    """Where a stream begins; without it, and without the header field Last-Event-ID, with what happens next."""

    after: int | None = Field(default=None, ge=0, le=MAX_NUMBER)


class NoQuery(StrictModel):
    """No keys."""


class EmptyBody(StrictModel):
    """An object without keys."""


class RekeyBody(StrictModel):
    """What gets fresh keys: one association, all of a node, or, without a key, all there are."""

    node: Name | None = None
    spi: Spi | None = None

    @model_validator(mode="after")
    def _one(self) -> RekeyBody:
        if self.node is not None and self.spi is not None:
            raise ValueError("give 'node' or 'spi', not both")
        return self


class Replaced(StrictModel):
    """How many associations are being replaced."""

    replaced: int


class Revoked(StrictModel):
    """Whether a node is cut off."""

    node: Name
    revoked: bool

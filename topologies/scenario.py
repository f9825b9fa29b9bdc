"""Scenario files: topology, tenants, devices, attackers and security profiles as strict YAML.

A file that is not right is refused in one sentence that names the file and the key. Two tenants may
use the same addresses, MAC addresses included; within one tenant (one VNI) each is unique.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from geneve.config import StrictModel
from geneve.control.names import MacAddress, Name, Vni
from geneve.control.profile import Coverage, InnerCoverage, OptionSelector, Profile
from geneve.control.rules import Action
from geneve.header import HeaderField
from geneve.overhead import max_options_size, tenant_mtu
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_TYPE
from topologies.scenario_types import Ipv4Interface, Ipv6Interface, NodeName

NVA_NAME = "nva"
"""Name of the NVA's node in every scenario."""

NO_PROTECTION = "none"
FULL_PROTECTION = "full"

BUILT_IN_PROFILES = (
    Profile(
        name=FULL_PROTECTION,
        egress=Coverage(),
        transit=Coverage(
            header=frozenset(
                {HeaderField.VNI, HeaderField.PROTOCOL_TYPE, HeaderField.VERSION, HeaderField.OAM}
            ),
            options=(OptionSelector(option_class=TELEMETRY_CLASS, type=TELEMETRY_TYPE),),
            authenticate_inner=InnerCoverage.NONE,
            encrypt_inner=InnerCoverage.NONE,
        ),
    ),
)
"""Profiles every scenario has, besides ``none``, which means plain Geneve."""


def _probability(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("expected a probability from 0 to 1")
    return value


Probability = Annotated[float, AfterValidator(_probability)]


class Link(StrictModel):
    """A link between two switches; ``via`` are the devices on it, from the first switch to the second."""

    between: tuple[NodeName, NodeName]
    via: tuple[NodeName, ...] = ()
    cost: int = Field(default=10, ge=1, le=65535)
    rate_mbit: float | None = Field(default=None, gt=0)
    delay_ms: float | None = Field(default=None, gt=0)


class Underlay(StrictModel):
    """The network under the overlay: one flat layer 2 network of OpenFlow switches."""

    family: Literal["ipv4", "ipv6"] = "ipv4"
    mtu: int = Field(default=1500, ge=1280, le=9000)
    switches: tuple[NodeName, ...] = Field(min_length=1)
    links: tuple[Link, ...] = ()

    @property
    def ip_version(self) -> int:
        """4 or 6."""
        return 4 if self.family == "ipv4" else 6


class Attachment(StrictModel):
    """A node on one port of one switch."""

    attach: NodeName


class Impairment(StrictModel):
    """What a transit device does to the frames it relays, so that no kernel needs netem."""

    delay_ms: float = Field(default=0, ge=0, le=60_000)
    jitter_ms: float = Field(default=0, ge=0)
    loss: Probability = 0.0
    reorder: Probability = 0.0
    rate_mbit: float | None = Field(default=None, gt=0)
    seed: int = 1


class TransitDevice(StrictModel):
    """A device on a link; ``management`` is the switch where its own port is attached."""

    management: NodeName
    impair: Impairment | None = None


class Attacker(StrictModel):
    """An attacker: attached to a switch, or, without ``attach``, on a link's ``via``."""

    attach: NodeName | None = None


class Host(StrictModel):
    """A tenant's host behind an NVE."""

    nve: NodeName
    mac: MacAddress
    ipv4: Ipv4Interface | None = None
    ipv6: Ipv6Interface | None = None

    @property
    def ips(self) -> tuple[str, ...]:
        """The addresses without their prefix lengths."""
        return tuple(text.split("/")[0] for text in (self.ipv4, self.ipv6) if text is not None)


class Tenant(StrictModel):
    """A tenant: one VNI, its protection, and its hosts."""

    vni: Vni
    profile: Name = FULL_PROTECTION
    telemetry: bool = False
    hosts: dict[NodeName, Host] = Field(min_length=1)

    @property
    def action(self) -> Action:
        """What the policy does with the tenant's packets."""
        return Action.BYPASS if self.profile == NO_PROTECTION else Action.SECURE


class Scenario(StrictModel):
    """A whole scenario. Use :func:`load_scenario`, which also checks what the parts say of each other."""

    name: Name
    description: str = ""
    underlay: Underlay
    nva: Attachment
    nves: dict[NodeName, Attachment] = Field(min_length=1)
    transit_devices: dict[NodeName, TransitDevice] = {}
    attackers: dict[NodeName, Attacker] = {}
    profiles: tuple[Profile, ...] = ()
    tenants: dict[Name, Tenant] = Field(min_length=1)

    def profile(self, name: str) -> Profile | None:
        """Return the named profile; None for ``none``. KeyError when there is none of that name."""
        if name == NO_PROTECTION:
            return None
        for profile in (*self.profiles, *BUILT_IN_PROFILES):
            if profile.name == name:
                return profile
        raise KeyError(name)

    @property
    def profile_names(self) -> list[str]:
        """Names a tenant can use."""
        return [NO_PROTECTION, *(profile.name for profile in (*BUILT_IN_PROFILES, *self.profiles))]

    def options_size(self, tenant: str) -> int:
        """Return the most bytes of options in a packet of ``tenant``; ValueError when they do not fit.

        The bound takes every transit device of the scenario to be on the path: a reroute may lead
        through links that the shortest path avoids, and the MTU must hold then too.
        """
        entry = self.tenants[tenant]
        return max_options_size(self.profile(entry.profile), entry.telemetry, len(self.transit_devices))

    def tenant_mtu(self, tenant: str) -> int:
        """Return the MTU of the hosts of ``tenant`` in bytes."""
        return tenant_mtu(self.underlay.mtu, self.underlay.ip_version, self.options_size(tenant))

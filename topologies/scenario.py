"""Scenario files: topology, tenants, devices, attackers and security profiles as strict YAML.

A file that is not right is refused in one sentence that names the file and the key. Two tenants may
use the same addresses, MAC addresses included; within one tenant (one VNI) each is unique.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from geneve.config import StrictModel
from geneve.control.channel import Channel, ChannelProtocol
from geneve.control.names import IpAddress, MacAddress, Name, Tag, Vni
from geneve.control.profile import Profile
from geneve.control.rules import Action, Rule, TagRule
from geneve.control.state import StaticOption
from geneve.offloads import Offloads
from geneve.option import OPTION_HEADER_SIZE
from geneve.overhead import max_options_size, tenant_mtu
from geneve.security.carriage import OptionSize
from geneve.tags import TAG_CLASS, TAG_OPTION_SIZE, TAG_TYPE
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_OPTION_SIZE, TELEMETRY_TYPE
from topologies.profiles import BUILT_IN_PROFILES, FULL_PROTECTION, NO_PROTECTION, OURS
from topologies.risks import RiskAnalysis
from topologies.scenario_types import Ipv4Interface, Ipv6Interface, NodeName

NVA_NAME = "nva"
"""Name of the NVA's node in every scenario."""
OPERATOR_NAME = "operator"
"""Name in the certificate of the one operator of every testbed."""

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
    """The network under the overlay: one flat layer 2 network of OpenFlow switches.

    ``ecmp``: unicast is spread over all shortest paths; else each pair of switches uses one. ``anti_spoofing``: edge
    ports drop frames with the underlay source addresses of nodes elsewhere; off where an attack needs them.
    """

    family: Literal["ipv4", "ipv6"] = "ipv4"
    mtu: int = Field(default=1500, ge=1280, le=9000)
    ecmp: bool = True
    anti_spoofing: bool = True
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
    """A tenant's host behind an NVE; ``tag`` is its security group."""

    nve: NodeName
    mac: MacAddress
    tag: Tag = 0
    ipv4: Ipv4Interface | None = None
    ipv6: Ipv6Interface | None = None

    @property
    def ips(self) -> tuple[str, ...]:
        """The addresses without their prefix lengths."""
        return tuple(text.split("/")[0] for text in (self.ipv4, self.ipv6) if text is not None)


class UnderlayGroup(StrictModel):
    """A multicast group of the underlay that carries a tenant's group traffic; without ``senders`` all may send."""

    name: Name
    address: IpAddress
    inner: tuple[IpAddress, ...] = ()
    senders: tuple[NodeName, ...] = ()


class Tenant(StrictModel):
    """A tenant: one VNI, its protection, what its packets carry besides frames, and its hosts.

    With ``tags``, packets carry the security groups of the two hosts. ``group_policy`` says which pairs may talk,
    and ``enforcers`` which transit devices see to it; none means all. Without ``multicast`` groups, frames to
    groups of stations are replicated by the ingress NVE. ``mappings``: the NVA is told where the hosts are
    (``static``), or learns it from the NVEs, all of which then serve the VNI, so that hosts can move (``learned``).
    """

    vni: Vni
    mappings: Literal["static", "learned"] = "static"
    profile: Name = FULL_PROTECTION
    telemetry: bool = False
    tags: bool = False
    options: tuple[StaticOption, ...] = ()
    multicast: tuple[UnderlayGroup, ...] = ()
    group_policy: tuple[TagRule, ...] | None = None
    enforcers: tuple[NodeName, ...] = ()
    hosts: dict[NodeName, Host] = Field(min_length=1)

    @property
    def option_sizes(self) -> list[OptionSize]:
        """The options that each packet carries, before anything is hidden."""
        sizes = [
            OptionSize(item.option_class, item.type, OPTION_HEADER_SIZE + len(item.data) // 2) for item in self.options
        ]
        if self.telemetry:
            sizes.append(OptionSize(TELEMETRY_CLASS, TELEMETRY_TYPE, TELEMETRY_OPTION_SIZE))
        if self.tags:
            sizes.append(OptionSize(TAG_CLASS, TAG_TYPE, TAG_OPTION_SIZE))
        return sizes

    @property
    def action(self) -> Action:
        """What the policy does with the tenant's packets."""
        return Action.BYPASS if self.profile == NO_PROTECTION else Action.SECURE


class Scenario(StrictModel):
    """A whole scenario. Use :func:`load_scenario`, which also checks what the parts say of each other.

    ``policy`` are rules that come before each tenant's own profile. ``keys``: made when an NVE has something to send
    (``on-demand``), or at the start for all that policy permits (``all``). ``key_log`` has the NVEs write all keys to
    files of the run, for demonstrations with a dissector; never use it with traffic that matters. ``offloads`` that
    are false are switched off at all nodes; the others are used where the kernel has them. ``risks`` is the operator's
    risk analysis, for the audit; nothing in the network acts on it.

    ``mechanism``: ``ours``, with a profile for each tenant and in rules, ``none`` for plain Geneve, or the name of a
    channel's profile, which then protects all that NVEs send; tenants need no ``profile`` there. ``ipsec``: whether
    our own ESP and AH are used (same data path as all else), or the kernel's, or the kernel's where there are any
    (``auto``).
    """

    name: Name
    description: str = ""
    mechanism: Name = OURS
    ipsec: Literal["user-space", "kernel", "auto"] = "user-space"
    underlay: Underlay
    nva: Attachment
    nves: dict[NodeName, Attachment] = Field(min_length=1)
    transit_devices: dict[NodeName, TransitDevice] = {}
    attackers: dict[NodeName, Attacker] = {}
    profiles: tuple[Profile, ...] = ()
    policy: tuple[Rule, ...] = ()
    keys: Literal["on-demand", "all"] = "on-demand"
    key_log: bool = False
    offloads: Offloads = Offloads()
    tenants: dict[Name, Tenant] = Field(min_length=1)
    risks: RiskAnalysis | None = None

    @property
    def channel(self) -> Channel | None:
        """The channel below Geneve; None with security options, and without protection."""
        profile = None if self.mechanism == OURS else self.profile(self.mechanism)
        return None if profile is None else profile.channel

    def under(self, mechanism: str) -> Scenario:
        """Return the scenario with everything under a mechanism for all, ``none`` or a channel's profile.

        What the mechanism cannot express is left out: rules that choose a protection, and with DTLS underlay groups,
        in place of which the ingress NVE replicates. KeyError when no profile has the name.
        """
        profile = self.profile(mechanism)
        dtls = profile is not None and profile.channel is not None and profile.channel.protocol is ChannelProtocol.DTLS
        update: dict[str, object] = {"profile": mechanism, **({"multicast": ()} if dtls else {})}
        tenants = {name: tenant.model_copy(update=update) for name, tenant in self.tenants.items()}
        policy = tuple(rule for rule in self.policy if rule.action is Action.DISCARD)
        return self.model_copy(update={"mechanism": mechanism, "tenants": tenants, "policy": policy})

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

    def profiles_of(self, tenant: str) -> list[Profile | None]:
        """Return the profiles that packets of ``tenant`` can get: its own and those of rules; None: unprotected."""
        entry = self.tenants[tenant]
        names = [entry.profile]
        for rule in self.policy:
            if rule.vni in (None, entry.vni) and rule.action is not Action.DISCARD:
                names.append(rule.profile or NO_PROTECTION)
        return [self.profile(name) for name in dict.fromkeys(names)]

    def serves(self, nve: str, tenant: str) -> bool:
        """Whether an NVE serves a tenant: it has hosts there, or could have."""
        entry = self.tenants[tenant]
        return entry.mappings == "learned" or any(host.nve == nve for host in entry.hosts.values())

    def options_size(self, tenant: str, profile: Profile | None) -> int:
        """Return the most bytes of options in packets of ``tenant`` under ``profile``; ValueError when they do not fit.

        The bound takes every transit device of the scenario to be on the path: a reroute may lead
        through links that the shortest path avoids, and the MTU must hold then too.
        """
        entry = self.tenants[tenant]
        return max_options_size(profile, entry.option_sizes, tuple(self.transit_devices), bool(entry.multicast))

    def tenant_mtu(self, tenant: str) -> int:
        """Return the MTU of the hosts of ``tenant`` in bytes."""
        underlay = self.underlay
        return min(
            tenant_mtu(underlay.mtu, underlay.ip_version, self.options_size(tenant, profile), profile)
            for profile in self.profiles_of(tenant)
        )

"""What the NVA tells a node: the models of the control messages' contents.

A node receives one :class:`NodeState`, complete and only its own: an NVE the mappings, policy and
associations of its VNIs, a transit device the associations addressed to it. The same model, written
as YAML, configures a stand-alone NVE.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import stat
from enum import Enum
from typing import Any

from pydantic import Field, SecretStr, SerializationInfo, field_serializer, field_validator, model_validator

from geneve.config import StrictModel
from geneve.control.names import IpAddress, MacAddress, Name, Spi, Tag, Vni
from geneve.control.profile import Profile
from geneve.control.rules import Rule, TagRule
from geneve.errors import ConfigError
from geneve.option import MAX_OPTION_DATA

PUBLIC_KEY_SIZE = 32
"""Bytes of an Ed25519 public key."""

SECRET_SIZE = 32
"""Bytes of an association's secret, from which its keys are derived."""


class Role(str, Enum):
    """What a node is, from the NVA's inventory; never from the node's own words."""

    NVE = "nve"
    TRANSIT = "transit"


class StaticOption(StrictModel):
    """An option that ingress NVEs add to every packet of a VNI; ``data`` in hexadecimal, a multiple of 4 bytes."""

    option_class: int = Field(ge=0, le=0xFFFF)
    type: int = Field(ge=0, le=0xFF)
    data: str = ""

    @field_validator("data")
    @classmethod
    def _hexadecimal(cls, value: str) -> str:
        try:
            size = len(bytes.fromhex(value))
        except ValueError:
            raise ValueError("expected hexadecimal digits") from None
        if size % 4 or size > MAX_OPTION_DATA:
            raise ValueError(f"expected a multiple of 4 bytes, at most {MAX_OPTION_DATA}")
        return value.lower()


class MulticastGroup(StrictModel):
    """A multicast group of the underlay that carries inner group traffic of a VNI (SEC-GEN-17).

    ``inner`` are the inner multicast addresses it is for; none: whatever no other group of the VNI is for.
    ``senders`` are the NVEs that may send to it; every other NVE of the VNI only receives.
    """

    name: Name
    address: IpAddress
    inner: tuple[IpAddress, ...] = ()
    senders: tuple[Name, ...]

    @model_validator(mode="after")
    def _group_addresses(self) -> MulticastGroup:
        for text in (self.address, *self.inner):
            if not ipaddress.ip_address(text).is_multicast:
                raise ValueError(f"{text} is no multicast address")
        return self


class VniState(StrictModel):
    """One virtual network: what its packets carry besides frames, and its tenants' MTU in bytes.

    ``tags``: packets carry the security groups of the two tenants. Without ``multicast`` groups, frames to
    groups of stations are replicated by the ingress NVE. ``learned``: the NVEs tell the NVA which tenants
    they see; otherwise only what the NVA's inventory says counts.
    """

    vni: Vni
    telemetry: bool = False
    tags: bool = False
    options: tuple[StaticOption, ...] = ()
    multicast: tuple[MulticastGroup, ...] = ()
    learned: bool = False
    mtu: int = Field(ge=576, le=65535)


class NveAddress(StrictModel):
    """An NVE, its underlay address, its VNIs, and the transit devices on this node's path to it, in order."""

    name: Name
    address: IpAddress
    vnis: tuple[Vni, ...]
    transit: tuple[Name, ...] = ()


class Mapping(StrictModel):
    """A tenant system's addresses, its security group, and the NVE behind which it is (RFC 8014, section 4)."""

    vni: Vni
    mac: MacAddress
    ips: tuple[IpAddress, ...] = ()
    nve: Name
    tag: Tag = 0


class AssociationRole(str, Enum):
    """Who the audience of an association is."""

    EGRESS = "egress"
    TRANSIT = "transit"
    GROUP = "group"
    """The transit devices on a path and its egress NVE, all with the same key."""
    MULTICAST = "multicast"
    """The receivers of an underlay multicast group."""


class Association(StrictModel):
    """A Geneve Security Association as one of its ends gets it.

    ``audience`` names who can open the option: a node, or for MULTICAST a multicast group. With GROUP it is the
    egress NVE, and ``members`` are the transit devices that can open it too; with MULTICAST ``members`` are the
    receiving NVEs. ``vni`` is None where one key serves all VNIs of a pair; ``rule`` names the policy rule where each
    has its own. ``secret`` is base64 of 32 bytes; ``signer`` is base64 of the sender's Ed25519 public key,
    32 bytes, with MULTICAST.
    """

    spi: Spi
    role: AssociationRole
    sender: Name
    audience: Name
    members: tuple[Name, ...] = ()
    sender_address: IpAddress
    vni: Vni | None
    rule: Name | None = None
    profile: Name
    secret: SecretStr
    signer: str | None = None

    @field_validator("secret")
    @classmethod
    def _secret_size(cls, value: SecretStr) -> SecretStr:
        _check_base64(value.get_secret_value(), SECRET_SIZE)
        return value

    @field_validator("signer")
    @classmethod
    def _signer_size(cls, value: str | None) -> str | None:
        if value is not None:
            _check_base64(value, PUBLIC_KEY_SIZE)
        return value

    def opens(self, node: str) -> bool:
        """Return whether ``node`` is among those that can open the association's options."""
        if self.role is AssociationRole.MULTICAST:
            return node in self.members
        return node == self.audience or (self.role is AssociationRole.GROUP and node in self.members)

    @field_serializer("secret")
    def _secret_text(self, value: SecretStr, info: SerializationInfo) -> str:
        # Masked unless asked for by name, so that no log line or REST view can show it by accident.
        reveal = isinstance(info.context, dict) and info.context.get("reveal_secrets") is True
        return value.get_secret_value() if reveal else "**********"

    def secret_bytes(self) -> bytes:
        """Return the 32 secret bytes."""
        return base64.b64decode(self.secret.get_secret_value())


def is_base64(value: str, size: int) -> bool:
    """Return whether ``value`` is base64 of exactly ``size`` bytes."""
    try:
        return len(base64.b64decode(value, validate=True)) == size
    except (binascii.Error, ValueError):
        return False


def _check_base64(value: str, size: int) -> None:
    if not is_base64(value, size):
        raise ValueError(f"expected base64 of {size} bytes")


class TransitVni(StrictModel):
    """What a transit device does for one VNI, and whether what it acts upon must be authenticated first.

    With ``group_policy``, packets must carry the security groups of sender and receiver, and pass only if a
    rule permits the pair; None: the device enforces nothing.
    """

    vni: Vni
    telemetry: bool = False
    authenticated: bool = True
    group_policy: tuple[TagRule, ...] | None = None


class NodeState(StrictModel):
    """Everything one node is told. Lists that do not concern its role are empty."""

    node: Name
    role: Role
    vnis: tuple[VniState, ...] = ()
    nves: tuple[NveAddress, ...] = ()
    mappings: tuple[Mapping, ...] = ()
    profiles: tuple[Profile, ...] = ()
    policy: tuple[Rule, ...] = ()
    outbound: tuple[Association, ...] = ()
    inbound: tuple[Association, ...] = ()
    transit_vnis: tuple[TransitVni, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object for the control channel, secrets included: never for a log or a result."""
        return self.model_dump(mode="json", context={"reveal_secrets": True})


def refuse_open_secrets(state: NodeState | None, mode: int, source: str) -> None:
    """Raise ConfigError when ``state`` holds secrets and the file ``source`` it stands in is open to others.

    ``mode`` is the file's mode as stat gives it.
    """
    if state is not None and (state.inbound or state.outbound) and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{source}: holds secrets and is open to other users; run 'chmod 600 {source}'.")

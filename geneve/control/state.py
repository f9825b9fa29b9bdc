"""What the NVA tells a node: the models of the control messages' contents.

A node receives one :class:`NodeState`, complete and only its own: an NVE the mappings, policy and
associations of its VNIs, a transit device the associations addressed to it. The same model, written
as YAML, configures a stand-alone NVE.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import stat
from enum import Enum
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    SerializationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from geneve.config import StrictModel
from geneve.errors import ConfigError
from geneve.header import MAX_VNI, HeaderField

SECRET_SIZE = 32
"""Bytes of an association's secret, from which its keys are derived."""

BINDING_FIELDS = frozenset({HeaderField.VNI, HeaderField.PROTOCOL_TYPE})
"""Header fields bound to the payload whenever it is authenticated (design invariant 3)."""

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")


def _check_mac(value: str) -> str:
    value = value.lower()
    if not _MAC.fullmatch(value):
        raise ValueError("expected a MAC address such as 02:00:00:00:00:01")
    return value


def _check_address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("expected an IPv4 or IPv6 address") from None


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("expected a name of 1 to 32 letters, digits, - or _, a letter first")
    return value


MacAddress = Annotated[str, AfterValidator(_check_mac)]
"""A MAC address in lower case with colons."""
IpAddress = Annotated[str, AfterValidator(_check_address)]
"""An IPv4 or IPv6 address in its canonical text form."""
Name = Annotated[str, AfterValidator(_check_name)]
"""The name of a node, tenant or profile."""
Vni = Annotated[int, Field(ge=0, le=MAX_VNI)]
"""A virtual network identifier, 24 bits."""
Spi = Annotated[int, Field(ge=256, le=0xFFFFFFFF)]
"""A security parameters index; 0 to 255 stay reserved, as in RFC 4303, section 2.1."""


class Role(str, Enum):
    """What a node is, from the NVA's inventory; never from the node's own words."""

    NVE = "nve"
    TRANSIT = "transit"


class Aead(str, Enum):
    """AEAD algorithms an association can use (RFC 8221)."""

    AES_128_GCM = "aes-128-gcm"


class Action(str, Enum):
    """What a policy rule does with a flow (GSP)."""

    DISCARD = "discard"
    BYPASS = "bypass"
    SECURE = "secure"


class OptionSelector(StrictModel):
    """Selects options by class and type (the type octet, critical bit included)."""

    option_class: int = Field(ge=0, le=0xFFFF)
    type: int = Field(ge=0, le=0xFF)


class InnerCoverage(str, Enum):
    """How much of the inner frame an audience's association covers."""

    NONE = "none"
    ALL = "all"


class Coverage(StrictModel):
    """What one audience's tag covers, and what is encrypted for it (``mechanism``: property of a GSA).

    ``options=None`` means every option of the packet, those of other audiences included.
    """

    header: frozenset[HeaderField] = frozenset(HeaderField)
    options: tuple[OptionSelector, ...] | None = None
    authenticate_inner: InnerCoverage = InnerCoverage.ALL
    encrypt_inner: InnerCoverage = InnerCoverage.ALL

    @model_validator(mode="after")
    def _encryption_is_authenticated(self) -> Coverage:
        if self.encrypt_inner is InnerCoverage.ALL and self.authenticate_inner is not InnerCoverage.ALL:
            raise ValueError("what is encrypted is authenticated too: set authenticate_inner to 'all'")
        if self.authenticate_inner is InnerCoverage.ALL and not self.header >= BINDING_FIELDS:
            raise ValueError("who authenticates the inner frame must cover the header's vni and protocol_type")
        return self


class Profile(StrictModel):
    """A named set of protections: one coverage for the egress NVE, one for each transit device on the path."""

    name: Name
    aead: Aead = Aead.AES_128_GCM
    egress: Coverage = Coverage()
    transit: Coverage | None = None
    replay_window: int = Field(default=1024, ge=64, le=65536, multiple_of=64)

    @model_validator(mode="after")
    def _transit_covers_no_inner(self) -> Profile:
        if self.transit is not None and self.transit.authenticate_inner is not InnerCoverage.NONE:
            raise ValueError(
                "a transit device's tag does not cover the inner frame: set transit.authenticate_inner "
                "and transit.encrypt_inner to 'none'"
            )
        return self


class Rule(StrictModel):
    """One policy rule. ``vni=None`` selects every VNI; the first rule that matches decides; none is DISCARD."""

    vni: Vni | None = None
    action: Action
    profile: Name | None = None

    @field_validator("profile")
    @classmethod
    def _profile_with_secure(cls, value: str | None, info: object) -> str | None:
        action = getattr(info, "data", {}).get("action")
        if (action is Action.SECURE) != (value is not None):
            raise ValueError("a profile belongs to the action 'secure' and to no other")
        return value


class VniState(StrictModel):
    """One virtual network: its number, whether its packets carry telemetry, and its tenants' MTU in bytes."""

    vni: Vni
    telemetry: bool = False
    mtu: int = Field(ge=576, le=65535)


class NveAddress(StrictModel):
    """An NVE, its underlay address, its VNIs, and the transit devices on this node's path to it, in order."""

    name: Name
    address: IpAddress
    vnis: tuple[Vni, ...]
    transit: tuple[Name, ...] = ()


class Mapping(StrictModel):
    """A tenant system's addresses and the NVE behind which it is (RFC 8014, section 4)."""

    vni: Vni
    mac: MacAddress
    ips: tuple[IpAddress, ...] = ()
    nve: Name


class AssociationRole(str, Enum):
    """Who the audience of an association is."""

    EGRESS = "egress"
    TRANSIT = "transit"


class Association(StrictModel):
    """A Geneve Security Association as one of its two ends gets it.

    ``secret`` is base64 of 32 bytes. ``audience`` names the node that can open the option.
    """

    spi: Spi
    role: AssociationRole
    sender: Name
    audience: Name
    sender_address: IpAddress
    vni: Vni
    profile: Name
    secret: SecretStr

    @field_validator("secret")
    @classmethod
    def _secret_size(cls, value: SecretStr) -> SecretStr:
        try:
            size = len(base64.b64decode(value.get_secret_value(), validate=True))
        except (binascii.Error, ValueError):
            raise ValueError("expected base64") from None
        if size != SECRET_SIZE:
            raise ValueError(f"expected base64 of {SECRET_SIZE} bytes")
        return value

    @field_serializer("secret")
    def _secret_text(self, value: SecretStr, info: SerializationInfo) -> str:
        # Masked unless asked for by name, so that no log line or REST view can show it by accident.
        reveal = isinstance(info.context, dict) and info.context.get("reveal_secrets") is True
        return value.get_secret_value() if reveal else "**********"

    def secret_bytes(self) -> bytes:
        """Return the 32 secret bytes."""
        return base64.b64decode(self.secret.get_secret_value())


class TransitVni(StrictModel):
    """What a transit device does for one VNI: export telemetry, and whether it must be authenticated first."""

    vni: Vni
    telemetry: bool = False
    authenticated: bool = True


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

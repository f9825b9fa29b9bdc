"""Rules of the security policy (GSP) and of group policy, as configuration files and control messages have them."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from geneve.config import StrictModel
from geneve.control.names import IpPrefix, MacAddress, Name, Tag, Vni
from geneve.control.profile import OptionSelector

Port = Annotated[int, Field(ge=0, le=65535)]


class Action(str, Enum):
    """What a policy rule does with a flow (GSP)."""

    DISCARD = "discard"
    BYPASS = "bypass"
    SECURE = "secure"


class Direction(str, Enum):
    """To which packets an NVE applies a rule: those its tenants send, those they receive, or both."""

    OUT = "out"
    IN = "in"
    BOTH = "both"


class Cast(str, Enum):
    """Whether the inner destination MAC address is a single station's or a group's (broadcast included)."""

    UNICAST = "unicast"
    MULTICAST = "multicast"


class Protocol(str, Enum):
    """Inner protocols that rules can name; others by number."""

    ICMP = "icmp"
    TCP = "tcp"
    UDP = "udp"
    ICMPV6 = "icmpv6"
    SCTP = "sctp"


PROTOCOL_NUMBERS = {
    Protocol.ICMP: 1,
    Protocol.TCP: 6,
    Protocol.UDP: 17,
    Protocol.ICMPV6: 58,
    Protocol.SCTP: 132,
}


class Endpoint(StrictModel):
    """One side of an inner flow; ``port`` is one port or the first and last of a range."""

    mac: MacAddress | None = None
    ip: IpPrefix | None = None
    port: Port | tuple[Port, Port] | None = None


class Rule(StrictModel):
    """One policy rule: every selector that is given must match; the first rule that matches decides; none is DISCARD.

    ``vlan`` is the outermost 802.1Q tag's VLAN ID. ``option`` matches packets that carry such an option, in
    clear or hidden.
    """

    name: Name | None = None
    direction: Direction = Direction.BOTH
    vni: Vni | None = None
    source: Endpoint = Endpoint()
    destination: Endpoint = Endpoint()
    protocol: Protocol | Annotated[int, Field(ge=0, le=255)] | None = None
    icmp_type: int | None = Field(default=None, ge=0, le=255)
    dscp: int | None = Field(default=None, ge=0, le=63)
    flow_label: int | None = Field(default=None, ge=0, le=0xFFFFF)
    vlan: int | None = Field(default=None, ge=0, le=4094)
    option: OptionSelector | None = None
    cast: Cast | None = None
    action: Action
    profile: Name | None = None

    @property
    def protocol_number(self) -> int | None:
        """The protocol as a number, None when the rule does not select one."""
        return PROTOCOL_NUMBERS[self.protocol] if isinstance(self.protocol, Protocol) else self.protocol

    @field_validator("profile")
    @classmethod
    def _profile_with_secure(cls, value: str | None, info: object) -> str | None:
        action = getattr(info, "data", {}).get("action")
        if (action is Action.SECURE) != (value is not None):
            raise ValueError("a profile belongs to the action 'secure' and to no other")
        return value

    @model_validator(mode="after")
    def _selectors_fit(self) -> Rule:
        if self.icmp_type is not None and self.protocol_number not in (1, 58):
            raise ValueError("icmp_type needs the protocol 'icmp' or 'icmpv6'")
        for end in (self.source, self.destination):
            if end.port is not None and self.protocol_number not in (6, 17, 132):
                raise ValueError("a port needs the protocol 'tcp', 'udp' or 'sctp'")
            if isinstance(end.port, tuple) and end.port[0] > end.port[1]:
                raise ValueError("a range of ports goes from the lower to the higher")
        return self


class Verdict(str, Enum):
    """What group policy does with a pair of security groups."""

    PERMIT = "permit"
    DENY = "deny"


class TagRule(StrictModel):
    """One rule of group policy; a group left out matches all. The first that matches decides; none is deny."""

    source: Tag | None = None
    destination: Tag | None = None
    verdict: Verdict

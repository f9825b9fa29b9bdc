"""What a node asks of the NVA and tells it, besides registering: keys it needs, tenants it has."""

from __future__ import annotations

from pydantic import Field

from geneve.config import StrictModel
from geneve.control.names import IpAddress, MacAddress, Name, Vni

MAX_DEMANDS = 64
"""Demands in one request at most."""
MAX_TENANTS = 2048
"""Tenants that one NVE reports at most; each of its virtual networks has an equal share."""
MAX_TENANT_IPS = 8
"""IP addresses of one tenant at most. The largest report fits in a frame: tenants can make up what they like."""


class Demand(StrictModel):
    """Keys that an ingress NVE needs: towards ``audience``, an NVE or, with ``multicast``, an underlay group.

    ``profile`` is what its policy decided for the packet, ``rule`` the policy rule where each has its own keys.
    """

    audience: Name
    multicast: bool = False
    vni: Vni
    profile: Name
    rule: Name | None = None


class Tenant(StrictModel):
    """A tenant system that an NVE sees on its own ports (RFC 8014, section 4.2)."""

    vni: Vni
    mac: MacAddress
    ips: tuple[IpAddress, ...] = Field(default=(), max_length=MAX_TENANT_IPS)

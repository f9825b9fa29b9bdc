"""Types of values that configuration files and control messages share: names, addresses, numbers."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from geneve.header import MAX_VNI

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


def _check_prefix(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError("expected an IPv4 or IPv6 prefix such as 10.0.0.0/24, with no host bits set") from None


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("expected a name of 1 to 32 letters, digits, - or _, a letter first")
    return value


MacAddress = Annotated[str, AfterValidator(_check_mac)]
"""A MAC address in lower case with colons."""
IpAddress = Annotated[str, AfterValidator(_check_address)]
"""An IPv4 or IPv6 address in its canonical text form."""
IpPrefix = Annotated[str, AfterValidator(_check_prefix)]
"""An IPv4 or IPv6 prefix in its canonical text form; a single address is one too."""
Name = Annotated[str, AfterValidator(_check_name)]
"""The name of a node, tenant, profile, rule or group."""
Vni = Annotated[int, Field(ge=0, le=MAX_VNI)]
"""A virtual network identifier, 24 bits."""
Spi = Annotated[int, Field(ge=256, le=0xFFFFFFFF)]
"""A security parameters index; 0 to 255 stay reserved, as in RFC 4303, section 2.1."""
Tag = Annotated[int, Field(ge=0, le=0xFFFF)]
"""A security group's number, 16 bits."""

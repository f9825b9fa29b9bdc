"""Types of values in scenario files that the control plane's models do not have."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator

MAX_INTERFACE_NAME = 15
"""Linux interface names have at most 15 characters (IFNAMSIZ less the terminator)."""

MAX_NODE_NAME = MAX_INTERFACE_NAME - len("-eth99")
"""A node's name is part of its interfaces' names."""

_NODE_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9_]{{0,{MAX_NODE_NAME - 1}}}")


def _check_node_name(value: str) -> str:
    if not _NODE_NAME.fullmatch(value):
        raise ValueError(f"expected a name of 1 to {MAX_NODE_NAME} letters, digits or _, a letter first")
    return value


def _check_interface(value: str, version: int) -> str:
    example = "10.0.0.1/24" if version == 4 else "fd00:10::1/64"
    complaint = f"expected an IPv{version} address with its prefix length such as {example}"
    if "/" not in value:
        raise ValueError(complaint)
    try:
        interface = ipaddress.ip_interface(value)
    except ValueError:
        raise ValueError(complaint) from None
    if interface.version != version:
        raise ValueError(complaint)
    network, address = interface.network, interface.ip
    if address.is_multicast or address.is_loopback or address.is_unspecified:
        raise ValueError(f"expected a unicast IPv{version} address of a host")
    if network.num_addresses > 2 and address in {network.network_address, network.broadcast_address}:
        raise ValueError("expected a host's address, not the first or last of its subnet")
    return interface.with_prefixlen


def _check_ipv4(value: str) -> str:
    return _check_interface(value, 4)


def _check_ipv6(value: str) -> str:
    return _check_interface(value, 6)


NodeName = Annotated[str, AfterValidator(_check_node_name)]
"""The name of a switch, host or device; short enough for interface names."""
Ipv4Interface = Annotated[str, AfterValidator(_check_ipv4)]
"""An IPv4 address with prefix length."""
Ipv6Interface = Annotated[str, AfterValidator(_check_ipv6)]
"""An IPv6 address with prefix length."""

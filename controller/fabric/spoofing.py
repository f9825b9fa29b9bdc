"""Rules against frames that carry a source address of a node that did not send them.

They stand in the table that learns, between the rules of link ports and those that learn, so a spoofed frame is
neither learned nor forwarded, and the rule that drops it counts it. Pure.

What they see to, on all ports that are no links:

- where a node of the inventory has its place, frames carry its MAC and its underlay address as their source
  (Ethernet, ARP, IPv4, IPv6, and the target of a neighbour advertisement), and nothing else passes;
- no other port may use a node's MAC or underlay address.

What they cannot: without ``switch_port`` in the inventory, a node's place is the port of its switch that spoke first
with its MAC, so at the node's own switch all this holds from then on only. On-path attackers sit behind link ports.
Addresses of strangers are nobody's. A fragment other than the first shows no target of neighbour discovery, but
receivers refuse that anyway (RFC 6980).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controller.fabric.discovery import PortId
from controller.fabric.flows import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    FORWARD_TABLE,
    LEARN_TABLE,
    FlowRule,
    Match,
)

_ADMIT_ADVERTISEMENT, _DROP_ADVERTISEMENT, _ADMIT, _DROP_OTHERS = 292, 291, 290, 280
_DROP_MAC, _DROP_ADDRESS, _DROP_TARGET = 254, 253, 252
_DROPS = frozenset({_DROP_ADVERTISEMENT, _DROP_OTHERS, _DROP_MAC, _DROP_ADDRESS, _DROP_TARGET})
_UNSPECIFIED = "::"


@dataclass(frozen=True, slots=True)
class Owner:
    """A node of the inventory (or the NVA): its MAC, underlay address, switch (datapath id) and, if known, port."""

    mac: str
    address: str
    dpid: int
    port: int | None = None

    @property
    def eth_types(self) -> tuple[int, ...]:
        """The kinds of frames that carry its address."""
        version = ipaddress.ip_address(self.address).version
        return (ETHERTYPE_ARP, ETHERTYPE_IPV4) if version == 4 else (ETHERTYPE_IPV6,)


def is_guard(table: int, priority: int) -> bool:
    """Whether the rules of a table and priority are those that drop spoofed frames."""
    return table == LEARN_TABLE and priority in _DROPS


def guard_rules(dpid: int, owners: Iterable[Owner], places: Mapping[str, PortId]) -> list[FlowRule]:
    """Return the rules of switch ``dpid``; ``places`` are those of MAC addresses, as far as they are known."""
    rules: list[FlowRule] = []
    ports: set[int] = set()
    for owner in owners:
        place = places.get(owner.mac)
        port = owner.port if place is None else place[1]
        if owner.dpid == dpid and port is None:
            continue  # its first frame has to get to the controller
        rules += _refused(owner)
        if owner.dpid == dpid and port is not None:
            ports.add(port)
            rules += _admitted(owner, port, edge=place is not None)
    for port in ports:
        advertisement = Match(in_port=port, eth_type=ETHERTYPE_IPV6, advertisement=True)
        rules.append(FlowRule(LEARN_TABLE, _DROP_ADVERTISEMENT, advertisement))
        rules.append(FlowRule(LEARN_TABLE, _DROP_OTHERS, Match(in_port=port)))
    return rules


def _admitted(owner: Owner, port: int, edge: bool) -> list[FlowRule]:
    """``edge``: what comes in goes on; else the port is not known to be one, and a frame is what may make it one."""
    matches = [
        (_ADMIT, Match(in_port=port, eth_type=eth_type, eth_src=owner.mac, ip_src=owner.address))
        for eth_type in owner.eth_types
    ]
    if ETHERTYPE_IPV6 in owner.eth_types:
        source = Match(in_port=port, eth_type=ETHERTYPE_IPV6, eth_src=owner.mac, ip_src=_UNSPECIFIED)
        # Nobody's address: what listeners of groups say before they have an address of their own (RFC 3590).
        matches.append((_ADMIT, source))
        target = Match(
            in_port=port,
            eth_type=ETHERTYPE_IPV6,
            eth_src=owner.mac,
            ip_src=owner.address,
            advertisement=True,
            nd_target=owner.address,
        )
        matches.append((_ADMIT_ADVERTISEMENT, target))
    goto = FORWARD_TABLE if edge else None
    return [FlowRule(LEARN_TABLE, priority, match, controller=not edge, goto=goto) for priority, match in matches]


def _refused(owner: Owner) -> list[FlowRule]:
    rules = [FlowRule(LEARN_TABLE, _DROP_MAC, Match(eth_src=owner.mac))]
    rules += [
        FlowRule(LEARN_TABLE, _DROP_ADDRESS, Match(eth_type=eth_type, ip_src=owner.address))
        for eth_type in owner.eth_types
    ]
    if ETHERTYPE_IPV6 in owner.eth_types:
        target = Match(eth_type=ETHERTYPE_IPV6, advertisement=True, nd_target=owner.address)
        rules.append(FlowRule(LEARN_TABLE, _DROP_TARGET, target))
    return rules

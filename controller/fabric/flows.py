"""Flow rules and group entries as plain data, and what leads from some rules to others."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

LEARN_TABLE, FORWARD_TABLE = 0, 1
ETHERTYPE_IPV4, ETHERTYPE_ARP, ETHERTYPE_IPV6 = 0x0800, 0x0806, 0x86DD
PROTOCOL_ICMPV6 = 58
NEIGHBOUR_ADVERTISEMENT = 136
"""The ICMPv6 type (RFC 4861 §4.4)."""

COOKIES = (4, 5, 6, 7)
"""What rules of this controller are marked with; each of its lives takes the next one."""
COOKIE_MASK = 7

_SELECT_ID = 0x40000000


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule matches; None matches all. IP addresses are IPv4 or IPv6, as ``eth_type`` says."""

    in_port: int | None = None
    eth_type: int | None = None
    eth_src: str | None = None
    eth_dst: str | None = None
    eth_dst_mask: str | None = None
    ip_dst: str | None = None
    ip_src: str | None = None
    """Of ARP it is the sender's protocol address."""
    nd_target: str | None = None
    """The target of a neighbour advertisement; matches nothing else."""
    advertisement: bool = False
    """Match ICMPv6 neighbour advertisements only, of any target."""


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """One entry of a switch's group table.

    Of type ALL: a packet goes to every port but the one it came from. ``address`` is the multicast group.
    With ``select`` of type SELECT: a packet goes to one of the ports that are up, chosen by a hash of its flow.
    An entry never changes: another set of ports is another entry, with an id of its own.
    """

    address: str
    ports: tuple[int, ...]
    select: bool = False

    @property
    def group_id(self) -> int:
        """The id in the switch's group table; the two types have ranges of their own."""
        digest = zlib.crc32(f"{self.address} {self.ports}".encode()) & (_SELECT_ID - 1)
        return digest | _SELECT_ID if self.select else digest


@dataclass(frozen=True, slots=True)
class FlowRule:
    """One OpenFlow rule as plain data. No output, no group and no ``goto`` means drop."""

    table: int
    priority: int
    match: Match
    outputs: tuple[int, ...] = ()
    controller: bool = False
    goto: int | None = None
    group: GroupEntry | None = None

    @property
    def key(self) -> tuple[int, int, Match]:
        """What identifies a rule in a switch: adding another one with the same key replaces it."""
        return self.table, self.priority, self.match


Rules = frozenset[FlowRule]


def difference(installed: Rules, desired: Rules) -> tuple[list[FlowRule], list[FlowRule]]:
    """Return the rules to add (which replaces those with the same key) and those to delete, in a fixed order."""
    keys = {rule.key for rule in desired}
    added = sorted(desired - installed, key=repr)
    deleted = sorted((rule for rule in installed - desired if rule.key not in keys), key=repr)
    return added, deleted


def groups_of(rules: Iterable[FlowRule]) -> set[GroupEntry]:
    """Return the group entries that ``rules`` need."""
    return {rule.group for rule in rules if rule.group is not None}

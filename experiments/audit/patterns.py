"""What sizes and times of packets tell although everything else may be encrypted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from experiments.audit.records import OPAQUE, OTHER_SIZES, Key, Network, Seen

ENOUGH_PACKETS = 50
"""Packets from which on a distribution of sizes says something."""
FEW_SIZES = 4
"""So few different sizes, or fewer, look like padding to buckets."""
PADDING_STEP = 32
"""Sizes that differ by multiples of this many bytes or more look like padding; a cipher's blocks have 16."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """A distribution of sizes: how many packets, how many different sizes, the most frequent, and their information.

    ``bits`` is the distribution's entropy: what one packet's size tells an observer, 0 when all are the same.
    ``step`` is the greatest common divisor of their differences, 0 for one size only.
    """

    packets: int
    different: int
    top: tuple[tuple[int, int], ...]
    bits: float
    step: int

    @property
    def padded(self) -> bool | None:
        """Whether it looks padded; None when there are too few packets to say."""
        if self.packets < ENOUGH_PACKETS:
            return None
        return self.different <= FEW_SIZES or self.step >= PADDING_STEP


def describe_sizes(sizes: dict[int, int]) -> Sizes:
    """Return what a table of size -> packets says."""
    packets = sum(sizes.values())
    known = sorted(size for size in sizes if size != OTHER_SIZES)
    bits = -sum(count / packets * math.log2(count / packets) for count in sizes.values()) if packets else 0.0
    step = math.gcd(*(size - known[0] for size in known)) if known and OTHER_SIZES not in sizes else 1
    top = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:8]
    return Sizes(packets, len(sizes), tuple(top), abs(bits), step)


def merged(tables: Iterable[dict[int, int]]) -> dict[int, int]:
    """Return one table of several."""
    total: dict[int, int] = {}
    for table in tables:
        for size, count in table.items():
            total[size] = total.get(size, 0) + count
    return total


def networks_of(seen: Seen) -> list[tuple[str, Network]]:
    """Return each virtual network by name, those beyond the table's bound together at the end."""
    found = [(str(vni), network) for vni, network in sorted(seen.networks) if network.packets]
    return [*found, ("others", seen.other_networks)] if seen.other_networks.packets else found


def opaque_keys(seen: Seen) -> list[tuple[str, Key]]:
    """Return what passes through channels that cannot be read: mechanism and key."""
    return [
        (str(place[0]), key)
        for place, key in seen.keys
        if place[0] in OPAQUE and key.inner_at is None
    ]

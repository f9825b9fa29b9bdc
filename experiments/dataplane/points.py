"""What is measured: along each axis one thing grows, and everything else stays as small as it can be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

ASSOCIATIONS, RULES, FLOWS, AUDIENCES, FRAME_BYTES = "associations", "rules", "flows", "audiences", "frame bytes"
AXES = (ASSOCIATIONS, RULES, FLOWS, AUDIENCES, FRAME_BYTES)
SEAL, OPEN = "seal", "open"
SIDES = (SEAL, OPEN)

ROUND_ROBIN, ONE, NEW, ZIPF, FLOW_KEYS = "round robin", "one", "new flows", "zipf", "keys per flow"
"""Which packets come: each of the many in turn, all of one of them, each of a flow never seen, few flows most often;
and each in turn where every flow has a key of its own."""
NO_PROTECTION, FULL, HEADERS_ONLY = "none", "full", "headers only"
"""How much of a frame is protected; all packets are of one flow."""
SERIES = {
    ASSOCIATIONS: (ROUND_ROBIN, ONE),
    RULES: (ROUND_ROBIN, NEW),
    FLOWS: (ROUND_ROBIN, ZIPF, FLOW_KEYS),
    AUDIENCES: (ROUND_ROBIN,),
    FRAME_BYTES: (NO_PROTECTION, FULL, HEADERS_ONLY),
}
SIZES = {
    ASSOCIATIONS: (1, 10, 100, 1000, 10_000),
    RULES: (1, 10, 100, 1000),
    FLOWS: (1, 10, 100, 1000, 10_000, 100_000),
    AUDIENCES: (0, 1, 2, 3, 4, 5, 6, 7),
    FRAME_BYTES: (64, 128, 256, 512, 1024, 1400, 2800, 8900),
}
LARGEST = {FLOW_KEYS: 10_000}
"""The largest size of a series where that is not the axis's: new keys for 100,000 flows take long, and tell nothing."""
MEMORY_SIZES = {ASSOCIATIONS: (1000, 10_000), FLOWS: (1000, 10_000, 100_000)}
KNOWN_FLOWS = 64
"""Flows that take turns where neither flows nor associations are what grows."""


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One thing to time: so many of what ``axis`` says, packets as ``series`` says, sealing or opening."""

    axis: str
    series: str
    size: int
    side: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for a file."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.side}, {self.size} {self.axis}, {self.series}"


def all_points(largest: dict[str, int] | None = None) -> list[Point]:
    """Return every point up to the largest size given for an axis."""
    limits = largest or {}
    return [
        Point(axis, series, size, side)
        for axis in AXES
        for series in SERIES[axis]
        for size in SIZES[axis]
        if size <= min(limits.get(axis, size), LARGEST.get(series, size))
        for side in SIDES
    ]

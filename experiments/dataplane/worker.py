"""Times and weighs the data plane in a process of its own: ``python -m experiments.dataplane.worker``.

``time`` answers one JSON command a line with microseconds per packet; ``weigh`` prints the memory that associations
or flows take. Each number is of this process alone, which has nothing else to do.
"""

from __future__ import annotations

import argparse
import bisect
import ctypes
import gc
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from experiments.dataplane.plane import BATCH, Peers, Plane, Shape, frame_to
from experiments.dataplane.points import (
    ASSOCIATIONS,
    AUDIENCES,
    FLOW_KEYS,
    FLOWS,
    FRAME_BYTES,
    HEADERS_ONLY,
    KNOWN_FLOWS,
    NEW,
    NO_PROTECTION,
    ONE,
    OPEN,
    RULES,
    SEAL,
    ZIPF,
    Point,
)

Place = tuple[int, int]
"""Whose a packet is: the number of the peer, and of the flow."""
_ZIPF_EXPONENT = 1.1
_FRESH = 1_000
"""Numbers of the first flow that is new, beyond all that are known."""


def shape_of(point: Point) -> Shape:
    """Return what the point needs, everything that does not grow as small as it can be."""
    # Two rules: one of them looks at addresses and ports, so that flows are not all the same to the policy.
    shape = Shape(rules=2)
    if point.axis == ASSOCIATIONS:
        return replace(shape, peers=point.size)
    if point.axis == RULES:
        return replace(shape, rules=point.size)
    if point.axis == AUDIENCES:
        return replace(shape, audiences=point.size, option=True)
    if point.axis == FRAME_BYTES:
        audiences = 0 if point.series == NO_PROTECTION else 1
        return replace(shape, frame_size=point.size, audiences=audiences, headers_only=point.series == HEADERS_ONLY)
    return replace(shape, flow_keys=point.series == FLOW_KEYS)


def places(point: Point, seed: int) -> Iterator[Place]:
    """Yield whose each packet is, without an end."""
    if point.axis == ASSOCIATIONS:
        turns = [(peer, 0) for peer in range(point.size)]
        return itertools.repeat((0, 0)) if point.series == ONE else itertools.cycle(turns)
    if point.axis == FRAME_BYTES:
        return itertools.repeat((0, 0))
    if point.axis == FLOWS and point.series == ZIPF:
        return _zipf(point.size, random.Random(seed))
    if point.series == NEW:
        return ((0, flow) for flow in itertools.count(_FRESH))
    count = point.size if point.axis == FLOWS else KNOWN_FLOWS
    return itertools.cycle([(0, flow) for flow in range(count)])


def _zipf(count: int, chance: random.Random) -> Iterator[Place]:
    shares = list(itertools.accumulate((rank + 1) ** -_ZIPF_EXPONENT for rank in range(count)))
    while True:
        yield 0, bisect.bisect(shares, chance.random() * shares[-1])


def warm_up(point: Point) -> int:
    """Return how many packets come before any is timed: each of what takes turns once."""
    return max(point.size if point.axis in (ASSOCIATIONS, FLOWS) else 0, 4 * KNOWN_FLOWS)


class Station:
    """One point: its data plane, and the packets that it is given."""

    def __init__(self, point: Point, seed: int) -> None:
        self._plane = Plane(shape_of(point))
        self._places = places(point, seed)
        self._make: Callable[[int], list[Any]]
        self._use: Callable[[Sequence[Any]], int]
        if point.side == SEAL:
            self._plane.seals()
            self._make, self._use = self._frames, self._plane.send
        else:
            self._plane.opens()
            self._peers = Peers(self._plane)
            self._make, self._use = self._packets, self._plane.receive
        left = warm_up(point)
        while left > 0:
            self.round(min(left, 4096))
            left -= 4096

    def _frames(self, count: int) -> list[bytes]:
        size = self._plane.shape.frame_size
        return [frame_to(*place, size) for place in itertools.islice(self._places, count)]

    def _packets(self, count: int) -> list[Any]:
        return [self._peers.packet(*place) for place in itertools.islice(self._places, count)]

    def round(self, count: int) -> float:
        """Give it ``count`` packets; return microseconds per packet. RuntimeError when one was not let through."""
        given = self._make(count)
        batches = [given[start : start + BATCH] for start in range(0, count, BATCH)]
        use, done = self._use, 0
        gc.collect(0)
        gc.disable()
        try:
            begin = time.perf_counter_ns()
            for batch in batches:
                done += use(batch)
            spent = time.perf_counter_ns() - begin
        finally:
            gc.enable()
        if done != count:
            raise RuntimeError(f"only {done} of {count} packets were let through")
        return spent / count / 1000


def serve_times(seed: int) -> None:
    """Time points on command until standard input ends."""
    stations: dict[Point, Station] = {}
    for line in sys.stdin:
        order = json.loads(line)
        point = Point(**order["point"])
        if point not in stations:
            stations[point] = Station(point, seed)
            gc.freeze()  # what is built stays; collections while others are timed need not look at it
        print(json.dumps({"us": stations[point].round(order["packets"])}), flush=True)


def resident_bytes() -> int:
    """Return the resident set of this process in bytes, after what is free went back to the kernel."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def weigh(axis: str, side: str, size: int) -> dict[str, Any]:
    """Return the bytes that the process grew by for ``size`` associations or flows that each had one packet."""
    point = Point(axis, "", 1, side)
    Station(point, 0)  # whatever is made once in a process is there now
    plane = Plane(shape_of(replace(point, size=size)))
    peers = None
    if side == OPEN:
        peers = Peers(plane)
    before = resident_bytes()
    plane.seals() if side == SEAL else plane.opens()
    applied = resident_bytes()
    everything = ((n, 0) for n in range(size)) if axis == ASSOCIATIONS else ((0, n) for n in range(size))
    for place in everything:
        done = plane.send([frame_to(*place)]) if peers is None else plane.receive([peers.packet(*place)])
        if not done:
            raise RuntimeError("a packet was not let through")
    return {"bytes": resident_bytes() - before, "bytes_applied": applied - before}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="experiments.dataplane.worker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    timing = commands.add_parser("time")
    timing.add_argument("--seed", type=int, required=True)
    weighing = commands.add_parser("weigh")
    weighing.add_argument("axis", choices=(ASSOCIATIONS, FLOWS))
    weighing.add_argument("side", choices=(SEAL, OPEN))
    weighing.add_argument("size", type=int)
    options = parser.parse_args(arguments)
    if options.command == "time":
        serve_times(options.seed)
    else:
        print(json.dumps(weigh(options.axis, options.side, options.size)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

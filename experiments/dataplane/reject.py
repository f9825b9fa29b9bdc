"""What the data plane alone spends on a forged packet of each kind, and on a true one, without any system call."""

from __future__ import annotations

import gc
import random
import time

from experiments.dataplane.flood_analysis import TRUE
from experiments.dataplane.kinds import KINDS, UNPROTECTED, forge
from experiments.dataplane.plane import BATCH, Peers, Plane, Shape, packets_like
from experiments.samples import SampleWriter, sample

_ROUNDS, _PACKETS = 9, 1024
FRAME_BYTES = 1400


def measure(chance: random.Random, samples: SampleWriter) -> None:
    """Time every kind in shuffled order; RuntimeError when a packet is not treated as its kind says."""
    kinds = [TRUE, UNPROTECTED, *KINDS]
    for number in range(_ROUNDS):
        order = list(kinds)
        chance.shuffle(order)
        for kind in order:
            value = _round(kind, chance)
            samples.write(sample("refusal", {"kind": kind, "round": number}, round(value, 4), "us/packet"))


def _round(kind: str, chance: random.Random) -> float:
    plane = Plane(Shape(rules=2, frame_size=FRAME_BYTES))
    plane.opens()
    peers = Peers(plane)
    seen = peers.packet(0, 0)
    plane.receive([seen])
    if kind == TRUE:
        packets = [peers.packet(0, 0) for _ in range(_PACKETS)]
    else:
        packets = packets_like(seen, [forge(kind, seen.payload, index, chance) for index in range(_PACKETS)])
    batches = [packets[start : start + BATCH] for start in range(0, _PACKETS, BATCH)]
    delivered = 0
    gc.collect(0)
    gc.disable()
    try:
        begin = time.perf_counter_ns()
        for batch in batches:
            delivered += plane.receive(batch)
        spent = time.perf_counter_ns() - begin
    finally:
        gc.enable()
    if delivered != (_PACKETS if kind == TRUE else 0):
        raise RuntimeError(f"{delivered} of {_PACKETS} packets ({kind}) were delivered")
    return spent / _PACKETS / 1000

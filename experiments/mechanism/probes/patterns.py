"""SEC-GEN-6 and 7: what an observer learns from the sizes and the number of packets."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from experiments.mechanism.evidence import Evidence, Seen
from experiments.mechanism.probe import MUST, Finding, Judge, Probe, Weight
from experiments.mechanism.probes.common import arrives, enough, numbers, own
from experiments.samples import read_lines
from geneve.control.profile import Padding, Profile
from geneve.header import BASE_HEADER_SIZE, MAX_OPTIONS_SIZE

if TYPE_CHECKING:
    from experiments.mechanism.live import Bench

SCENARIO = "mechanism-traffic"
_SIZES = [60, 100, 300, 700, 1000, 1200] * 3
_EQUAL = [200] * 30
_MULTIPLE, _BUCKETS, _MOST = 128, (128, 512, 1024), 256
_ALIGNMENT = 3
_RATE = 50.0
_QUIET, _BUSY = 2.0, 2.0


def unpadded(profile: Profile) -> Profile:
    """Neither padding nor dummies."""
    return profile.model_copy(update={"padding": Padding(), "dummies": None})


def _burst(first: str, second: str, sizes: list[int]) -> Callable[[Bench], dict[str, object]]:
    def act(bench: Bench) -> dict[str, object]:
        arrived = bench.burst(first, second, sizes)
        return {"arrived": arrived, "largest": bench.largest_payload}

    return act


Right = Callable[[list[int], int, bool], bool]
"""Whether sizes are right: those seen, ascending; the largest that a payload can have; whether they are of ciphertexts.

A ciphertext is its payload and as much again for each packet, which is not known: only differences count there.
"""


def _sizes(packets: list[Seen]) -> list[int]:
    return sorted({seen.size for seen in packets})


def _judge_sizes(first: str, second: str, statement: str, right: Right) -> Judge:
    def judge(evidence: Evidence) -> list[Finding]:
        packets = own(evidence, "nve1")
        sizes = _sizes(packets)
        largest = int(evidence.facts["facts"]["largest"])
        opaque = enough(packets) and all(seen.packet is None for seen in packets)
        return [
            Finding(
                statement,
                enough(packets) and right(sizes, largest, opaque),
                f"{'ciphertexts' if opaque else 'payloads'} of {sizes} bytes",
                numbers(packets),
            ),
            arrives(evidence, first, second),
        ]

    return judge


def _multiples(sizes: list[int], largest: int, opaque: bool) -> bool:
    if opaque:
        return len(sizes) > 1 and len({size % _MULTIPLE for size in sizes}) == 1
    return len(sizes) > 1 and all(size % _MULTIPLE == 0 or size == largest for size in sizes)


def _in_buckets(sizes: list[int], largest: int, opaque: bool) -> bool:
    if not opaque:
        return len(sizes) > 1 and set(sizes) <= {*_BUCKETS, largest}
    # All buckets and the largest size are in use. Geneve's own header may be padded with the frame: then the largest
    # is that much larger, and what aligns a ciphertext can add a little.
    steps = [size - sizes[0] for size in sizes]
    beyond = steps[-1] - (largest - _BUCKETS[0])
    inner = [bucket - _BUCKETS[0] for bucket in _BUCKETS]
    return steps[:-1] == inner and 0 <= beyond <= BASE_HEADER_SIZE + MAX_OPTIONS_SIZE + _ALIGNMENT


def _all_largest(sizes: list[int], largest: int, opaque: bool) -> bool:
    return len(sizes) == 1 and (sizes[0] > largest if opaque else sizes[0] == largest)


def _spread(sizes: list[int], _: int, __: bool) -> bool:
    # Thirty frames of one size, padded at random by up to 256 bytes: fewer than ten sizes would be no chance.
    return len(sizes) >= 10 and sizes[-1] - sizes[0] <= _MOST


# --- dummies ---------------------------------------------------------------------------------------


def _idle_then_busy(first: str, second: str) -> Callable[[Bench], dict[str, object]]:
    def act(bench: Bench) -> dict[str, object]:
        log = bench.hosts.receiver(bench.host(second))
        begin = time.time()
        time.sleep(_QUIET)
        middle = time.time()
        during = len(read_lines(log))
        arrived = bench.burst(first, second, [900] * 40, interval=_BUSY / 40)
        end = time.time()
        return {"begin": begin, "middle": middle, "end": end, "received while idle": during, "arrived": arrived}

    return act


def _between(evidence: Evidence, packets: list[Seen], start: str, end: str) -> list[Seen]:
    facts = evidence.facts["facts"]
    return [seen for seen in packets if facts[start] <= seen.timestamp < facts[end]]


def _clear_fields(seen: Seen) -> tuple[object, ...]:
    """Everything of a packet that is not random or a number that counts: what could tell dummies from data."""
    packet, raw = seen.packet, seen.raw
    outer = (raw[:16], raw[23], raw[22], raw[15], _source_port(raw))
    if packet is None:
        return (*outer, seen.view.carrier, seen.view.spi, len(raw))
    layout = tuple((option.option_class, option.type, option.size) for option in packet.options)
    return (*outer, packet.header, layout, len(raw))


def _source_port(raw: bytes) -> bytes:
    """Return the outer UDP source port, which tells flows apart; nothing where there is no UDP under IPv4."""
    return raw[34:36] if raw[12:15] == b"\x08\x00\x45" and raw[23] == socket.IPPROTO_UDP else b""


def _judge_dummies(first: str, second: str, one_size: bool, fills: bool) -> Judge:
    def judge(evidence: Evidence) -> list[Finding]:
        packets = own(evidence, "nve1")
        quiet, busy = _between(evidence, packets, "begin", "middle"), _between(evidence, packets, "middle", "end")
        looks = {_clear_fields(seen) for seen in packets}
        lengths = {len(seen.raw) for seen in packets}
        taken = evidence.counted("nve2", "counters", "dummies_received")
        idle = int(evidence.facts["facts"]["received while idle"])
        alike = len(looks) == (1 if one_size else len(lengths))
        span = evidence.facts["facts"]["end"] - evidence.facts["facts"]["middle"]
        findings = [
            Finding("packets flow although no tenant sends", len(quiet) >= 0.6 * _RATE * _QUIET,
                    f"{len(quiet)} packets in {_QUIET:g} s without data", numbers(quiet)),
            Finding("packets without data reach no tenant", bool(quiet) and idle == 0,
                    f"{len(quiet)} packets without data, {idle} datagrams at the receiver meanwhile", numbers(quiet)),
            Finding("the NVE says that it recognised packets without data", taken >= len(quiet) > 0,
                    f"{taken} counted by the NVE", weight=Weight.NOTE),
            Finding("no field that can be read tells dummies from data of the same size",
                    bool(busy and quiet) and alike,
                    f"{len(packets)} packets; different sizes: {len(lengths)}, different sets of clear fields, the "
                    f"outer source port among them: {len(looks)}"
                    if quiet else "no packet without data was seen that data could be compared with", numbers(busy)),
            arrives(evidence, first, second),
        ]  # fmt: skip
        if fills:
            findings.append(
                Finding("the rate stays the same with data", 0.7 * _RATE <= len(busy) / span <= 1.3 * _RATE,
                        f"{len(busy) / span:.0f} packets a second with 20 of data, {len(quiet) / _QUIET:.0f} without")
            )  # fmt: skip
        return findings

    return judge


def _pad(name: str, prefix: str, sizes: list[int], statement: str, right: Right, compared: bool = True) -> Probe:
    first, second = f"{prefix}1", f"{prefix}2"
    return Probe(6, MUST, name, SCENARIO, name, _burst(first, second, sizes),
                 _judge_sizes(first, second, statement, right), unpadded, compared=compared)  # fmt: skip


def _dummy(name: str, prefix: str, one_size: bool, fills: bool, compared: bool = False) -> Probe:
    first, second = f"{prefix}1", f"{prefix}2"
    return Probe(7, MUST, name, SCENARIO, name, _idle_then_busy(first, second),
                 _judge_dummies(first, second, one_size, fills), unpadded, compared=compared)  # fmt: skip


PROBES = (
    _pad("multiple", "mul", _SIZES, f"payloads are padded to multiples of {_MULTIPLE} bytes", _multiples, False),
    _pad("buckets", "buck", _SIZES, f"payloads are padded to {_BUCKETS} bytes or the largest", _in_buckets),
    _pad("mtu", "mtu", _SIZES, "payloads are all padded to the largest size", _all_largest, False),
    _pad("random", "rand", _EQUAL, "frames of one size are padded at random", _spread, False),
    _dummy("constant", "cons", True, False),
    _dummy("poisson", "pois", False, False),
    _dummy("fill", "fill", True, True, compared=True),
)

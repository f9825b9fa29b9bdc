"""The experiment *mechanisms*: all of them through the same NVE, between the same tenants, in one run (thin shell).

The pairs of NVEs of all variants stay up beside each other. Every repeat measures each of them once, in an order that
is shuffled anew. A figure that could not be had is written as missing, with the reason.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.context import Context
from experiments.measure import Capture, MeasureError, parse_ping, ping
from experiments.mechanisms import flows, setup_times
from experiments.mechanisms.compared_analysis import (
    NAME,
    PING_INTERVAL,
    SAMPLES,
    SECONDS_PER_MEASUREMENT,
    UDP_RATE,
    UDP_SIZE,
    capture_filter,
)
from experiments.mechanisms.pairs import (
    FAULTS,
    FRAMES,
    RECEIVER,
    SENDER,
    START_SECONDS,
    Pair,
    Pairs,
    whole_datagrams,
)
from experiments.mechanisms.variants import COMPARED, IN_KERNEL, Variant, segment_payload
from experiments.mechanisms.wire import outer_packets
from experiments.peers.measuring import GRACE_SECONDS, cpu_now
from experiments.peers.network import LEFT, RIGHT, SIDES, UNDERLAY, WIRE
from experiments.peers.runner import reason_of
from experiments.profiles import FRAME_SIZES
from experiments.programs import wait_for
from experiments.samples import SampleWriter, sample
from nve.ipsec import xfrm
from topologies.profiles import NO_PROTECTION

__all__ = ["NAME", "run"]
_HEADERS = 14 + 20 + 8
"""Bytes of Ethernet, IPv4 and UDP in front of a tenant's payload."""
_ATTEMPTS = 3
_DRAIN_SECONDS = 0.05


class Compared:
    """One run of the part between pairs."""

    def __init__(self, context: Context, pairs: Pairs, samples: SampleWriter) -> None:
        self._context, self._pairs, self._samples = context, pairs, samples
        self._runs = 0

    def _take(self, key: dict[str, Any], measures: dict[str, str], take: Callable[[], dict[str, Any]]) -> None:
        """Write what ``take`` returns by measure (value and details); all ``measures`` (and units) if it fails."""
        try:
            found = take()
        except FAULTS as error:
            found = {measure: {"value": None, "missing": reason_of(error)} for measure in measures}
        for measure, unit in measures.items():
            details = found.get(measure, {"value": None, "missing": "not measured"})
            value, missing = details.pop("value"), details.pop("missing", None)
            self._samples.write(sample(measure, key, value, unit, missing, **details))

    def note(self, variant: Variant) -> None:
        """Note what the NVEs say of themselves after they have worked."""
        self._take(variant.key(), {"nve": ""}, lambda: {"nve": {"value": self._pairs.pairs[variant].observe()}})

    # Bytes -------------------------------------------------------------------------------------------------

    def bytes_added(self, variant: Variant) -> None:
        """Capture frames of known sizes, sent in shuffled order, on the left NVE's underlay interface."""
        self._take(variant.key(), {"bytes": "bytes"}, lambda: {"bytes": self._bytes(self._pairs.pairs[variant])})

    def _bytes(self, pair: Pair) -> dict[str, Any]:
        reason = "not tried"
        for attempt in range(_ATTEMPTS):
            burst = self._burst(pair, attempt)
            captured = len(outer_packets(self._context.run.path / burst["capture"]))
            if captured == len(burst["sizes"]):
                return {"value": burst, "attempt": attempt}
            reason = f"{len(burst['sizes'])} frames sent, {captured} packets captured"
        raise MeasureError(f"{reason}, {_ATTEMPTS} times")

    def _burst(self, pair: Pair, attempt: int) -> dict[str, Any]:
        variant = pair.variant
        sizes = [size for size in (*FRAME_SIZES, variant.tenant_mtu + 14) for _ in range(
            self._context.profile.frames_per_size)]  # fmt: skip
        self._context.random(f"sizes {variant.name}").shuffle(sizes)
        path = self._context.captures() / f"bytes-{variant.name}-{attempt}.pcap"
        order = {
            "do": "send", "label": "bytes", "trial": 0, "unmarked": True, "interval": 0.003,
            "destination": pair.address, "sizes": [size - _HEADERS for size in sizes],
        }  # fmt: skip
        wanted = capture_filter(variant.profile, UNDERLAY[RIGHT])
        node = pair.network.node(LEFT)
        with whole_datagrams(pair), Capture(node, WIRE, path, wanted, 10 * len(sizes), "out"):
            answer = pair.programs[FRAMES].ask(order, 10 + 0.01 * len(sizes))
            if answer["sent"] != len(sizes):
                raise MeasureError(f"only {answer['sent']} of {len(sizes)} frames could be sent")
            wait_for(lambda: len(outer_packets(path)) >= len(sizes), 3)
        return {"capture": self._context.relative(path), "sizes": sizes}

    # Figures -----------------------------------------------------------------------------------------------

    def measure(self, variant: Variant, repeat: int, place: int) -> None:
        """Take one sample of everything."""
        key = {**variant.key(), "repeat": repeat, "order": place}
        pair = self._pairs.pairs.get(variant)
        take = self._take if pair is not None else self._miss(variant)
        take(key, {"rtt_idle": "ms"}, lambda: {"rtt_idle": self._idle(self._pairs.pairs[variant])})
        take(key, dict.fromkeys(("cpu_udp_left", "cpu_udp_right"), "us"), lambda: self._udp(self._pairs.pairs[variant]))
        tcp = {"tcp": "bit/s", **dict.fromkeys(("cpu_tcp_left", "cpu_tcp_right"), "us"), "rtt_load": "ms"}
        take(key, tcp, lambda: self._tcp(self._pairs.pairs[variant]))

    def _miss(self, variant: Variant) -> Callable[..., None]:
        def take(key: dict[str, Any], measures: dict[str, str], _: Callable[[], dict[str, Any]]) -> None:
            for measure, unit in measures.items():
                self._samples.write(sample(measure, key, None, unit, self._pairs.missing[variant]))

        return take

    def _idle(self, pair: Pair) -> dict[str, Any]:
        count = self._context.profile.mechanisms_pings
        found = ping(pair.network.tenant(LEFT), pair.address, count, PING_INTERVAL)
        return {"value": found.rtts, "lost": found.lost}

    def _udp(self, pair: Pair) -> dict[str, Any]:
        """Return the CPU time of each NVE for a datagram, under a load that is paced well below what any can do."""
        seconds = self._context.profile.mechanisms_udp_seconds
        sender, receiver = pair.programs[SENDER], pair.programs[RECEIVER]
        self._runs += 1
        receiver.ask({"run": self._runs, "most": int(UDP_RATE * seconds) + 1, "size": UDP_SIZE, "together": False})
        before = cpu_now(pair.running)
        order = {"run": self._runs, "rate": UDP_RATE, "seconds": seconds, "size": UDP_SIZE, "segments": 1}
        answer = sender.ask(order, timeout=20 * seconds + 10)
        wait_for(lambda: False, GRACE_SECONDS + _DRAIN_SECONDS)
        after = cpu_now(pair.running)
        counted = receiver.ask({"deadline_ns": answer["last_ns"] + int(1e9)})
        if not counted["received"]:
            raise MeasureError("no datagram came through")
        details = {"packets": counted["received"], "sent": answer["sent"],
                   "rate": round(answer["sent"] / answer["seconds"])}  # fmt: skip
        return {
            f"cpu_udp_{side}": {"value": (after[side] - before[side]) / 1000 / counted["received"], **details}
            for side in SIDES
        }  # fmt: skip

    def _tcp(self, pair: Pair) -> dict[str, Any]:
        seconds = self._context.profile.mechanisms_tcp_seconds
        beside = pair.network.tenant(LEFT).popen(
            ["ping", "-n", "-c", str(max(3, int(seconds / 0.02))), "-i", "0.02", "-W", "1", pair.address],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            found = flows.measure_flow(pair, seconds)
        finally:
            words = _words(beside)
        packets = found["bytes"] / segment_payload(pair.variant.tenant_mtu)
        cpu = {f"cpu_tcp_{side}": {"value": found["cpu_ns"][side] / 1000 / packets, "packets": round(packets)}
               for side in SIDES}  # fmt: skip
        try:
            pings = parse_ping(words)
            load: dict[str, Any] = {"value": pings.rtts, "lost": pings.lost}
        except MeasureError as error:
            load = {"value": None, "missing": str(error)}
        return {"tcp": found, **cpu, "rtt_load": load}


def _start_programs(pair: Pair, log: Path) -> None:
    """Start the tenants' programs; ``log`` is the folder of what they say of the frames of known sizes."""
    flows.open_flow(pair)
    near, far = pair.network.tenant_address(LEFT), pair.address
    pair.program(RECEIVER, RIGHT, "experiments.peers.datagrams", "receive", "--address", far)
    pair.program(SENDER, LEFT, "experiments.peers.datagrams", "send", "--address", far)
    path = log / f"{pair.variant.name}.jsonl"
    pair.program(FRAMES, LEFT, "experiments.traffic", "send", "--address", near, "--log", str(path))


def _words(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=10)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0]


def _absent() -> dict[Variant, str]:
    """Return why which of the kernel's mechanisms is not measured."""
    absent = {}
    for variant in IN_KERNEL:
        assert variant.profile is not None
        assert variant.profile.channel is not None
        reason = xfrm.find_missing(variant.profile.channel)
        # These NVEs have their keys from a file, under which the kernel's numbers would start again with each process.
        absent[variant] = f"the kernel has none: {reason}" if reason else "the kernel's needs keys from the NVA"
    return absent


def run(context: Context) -> None:
    """Run the experiment; every sample is on disk when this returns."""
    absent = _absent()
    plan = []
    for repeat in range(context.profile.repeats):
        variants = list(COMPARED)
        context.random(f"order {repeat}").shuffle(variants)
        plan += [(variant, repeat) for variant in variants]
    names = [f"{variant.name}, repeat {repeat}" for variant, repeat in plan]
    context.run.update(order={**context.run.record.get("order", {}), context.name: names})
    folder, log = context.raw("programs", "x").parent, context.raw("frames", "x").parent
    with context.writer(SAMPLES) as samples:
        for variant, reason in absent.items():
            samples.write(sample("kernel", variant.key(), None, "", reason))
        context.progress.step("start the pairs of NVEs", START_SECONDS * len(COMPARED))
        with Pairs(COMPARED, folder, lambda pair: _start_programs(pair, log)) as pairs:
            compared = Compared(context, pairs, samples)
            for variant in list(pairs.pairs):
                context.progress.step(f"bytes per packet: {variant.name}", 1.0)
                compared.bytes_added(variant)
            for place, (variant, repeat) in enumerate(plan):
                label = f"{variant.name} (measurement {place + 1} of {len(plan)})"
                context.progress.step(label, SECONDS_PER_MEASUREMENT)
                compared.measure(variant, repeat, place)
            for variant in list(pairs.pairs):
                compared.note(variant)
            for variant, reason in pairs.missing.items():
                samples.write(sample("nve", variant.key(), None, "", reason))
                samples.write(sample("bytes", variant.key(), None, "bytes", reason))
        setup_times.run(context, samples)


assert COMPARED[0].mechanism == NO_PROTECTION

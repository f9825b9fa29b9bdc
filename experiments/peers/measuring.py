"""What is measured of a contender while it is up. Every figure, or why there is none, becomes a sample."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.measure import (
    IperfServer,
    MeasureError,
    Ping,
    cpu_nanoseconds,
    parse_ping,
    ping,
    tcp_goodput,
)
from experiments.peers.contender import Description, Running
from experiments.peers.network import LEFT, RIGHT, WIRE
from experiments.peers.search import Search, Trial
from experiments.programs import Program, ProgramError, python_module
from experiments.samples import sample
from experiments.statistics import quantile
from topologies.nodes import NodeCommandError

UDP_SIZES = (64, 512, 1400)
"""UDP payloads in bytes; the largest is cut to what the tenants' MTU takes."""
IP_UDP_HEADERS = 28
TCP_HEADERS = 52
"""IPv4 and TCP with timestamps, bytes."""
SEGMENTS = 32
"""Datagrams that the application hands over at once in the variant with UDP_SEGMENT."""
GRACE_SECONDS = 0.01
"""A datagram that comes later than this after the last was sent counts as lost: it waited in a queue that grew."""
_SETTLE_SECONDS = 12.0
_DRAIN_SECONDS = 0.05

Write = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Budget:
    """How long each part takes: seconds, and numbers of pings."""

    tcp_seconds: int
    pings: int
    ping_interval: float
    short_seconds: float
    """Of a trial of the coarse search."""
    long_seconds: float
    resolution: float
    """Ratio of two rates that the search tells apart."""


def cpu_now(running: Running) -> dict[str, int]:
    """Return the CPU time in ns that a contender's processes have had by end, and the whole machine (``machine``)."""
    spent = {end: sum(map(cpu_nanoseconds, pids)) for end, pids in running.processes.items()}
    return {**spent, "machine": machine_nanoseconds(Path("/proc/stat").read_text(), os.sysconf("SC_CLK_TCK"))}


def machine_nanoseconds(text: str, ticks: int) -> int:
    """Return the time that all processors were not idle, from /proc/stat; MeasureError when it cannot be read."""
    fields = text.split("\n", 1)[0].split()
    if fields[:1] != ["cpu"] or len(fields) < 9:
        raise MeasureError("/proc/stat cannot be read")
    user, nice, system, _, _, irq, softirq, steal = (int(value) for value in fields[1:9])
    return (user + nice + system + irq + softirq + steal) * 1_000_000_000 // ticks


def proportional_memory(text: str) -> int:
    """Return the proportional set size in bytes, from smaps_rollup; MeasureError when it is not there."""
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise MeasureError("no proportional set size of a process")


def _words(process: subprocess.Popen[str]) -> str:
    """Return what a process that is about to end has printed; one that does not is ended."""
    try:
        return process.communicate(timeout=20)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0]


def median(values: list[float]) -> float:
    """Return the middle of some values."""
    return quantile(values, 0.5)


class Measuring:
    """Measures one contender that runs, and writes samples with its name and the repeat."""

    def __init__(
        self, description: Description, running: Running, repeat: int, budget: Budget, folder: Path, write: Write,
        order: random.Random,
    ) -> None:  # fmt: skip
        self._description, self._running, self._budget, self._write_sample = description, running, budget, write
        self._key = {"contender": description.name, "repeat": repeat}
        network = running.network
        self._near, self._far = network.tenant(LEFT), network.tenant(RIGHT)
        self._address = network.tenant_address(RIGHT)
        self._folder, self._random = folder, order
        self._number = 0

    # What all parts share --------------------------------------------------------------------------------

    def write(self, measure: str, value: float | None, unit: str, missing: str | None = None, **details: Any) -> None:
        """Keep a sample."""
        self._write_sample(sample(measure, self._key, value, unit, missing, **details))

    @contextmanager
    def _part(self, *measures: tuple[str, str]) -> Iterator[None]:
        """Carry out a part; if it fails, all measures (name, unit) that it was to give are missing, with the reason."""
        try:
            yield
        except (MeasureError, ProgramError, NodeCommandError, OSError, subprocess.SubprocessError) as error:
            reason = " ".join(str(error).split())[:300]
            for measure, unit in measures:
                self.write(measure, None, unit, reason)

    def settle(self) -> None:
        """Return when the tenants reach each other with full-size packets that the underlay carries whole.

        MeasureError when they do not: a contender that fragments or loses would be measured at something else.
        """
        size = self._description.tenant_mtu - IP_UDP_HEADERS  # ICMP's header is as long as UDP's
        argv = ["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", str(size), self._address]
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            done = self._near.run(argv, 10.0, check=False)
            if done.returncode == 0 and self._packets_for_ten(size) < 2 * 13:
                return
            if time.monotonic() > deadline:
                raise MeasureError(
                    f"packets of {self._description.tenant_mtu} bytes do not cross, or not in one piece, after "
                    f"{_SETTLE_SECONDS:g} s: {' '.join(done.stdout.split())[-120:]}"
                )

    def _packets_for_ten(self, size: int) -> int:
        """Return how many packets the underlay's wire carries, both ways, for ten pings of a size."""
        before = self._wire_packets()
        argv = ["ping", "-n", "-c", "10", "-i", "0.002", "-W", "1", "-M", "do", "-s", str(size), self._address]
        parse_ping(self._near.run(argv, 20.0, check=False).stdout)
        return self._wire_packets() - before

    def _wire_packets(self) -> int:
        text = (Path("/proc") / str(self._running.network.node(LEFT).pid) / "net" / "dev").read_text()
        for line in text.splitlines()[2:]:
            name, _, numbers = line.partition(":")
            if name.strip() == WIRE:
                fields = numbers.split()
                return int(fields[1]) + int(fields[9])
        raise MeasureError("the underlay's wire is gone")

    # The parts -------------------------------------------------------------------------------------------

    def run(self, hints: dict[str, float]) -> None:
        """Measure everything; ``hints`` has the rate found last by measure, and is brought up to date."""
        self.idle_round_trips()
        self.tcp()
        self.udp(hints)
        self.memory()

    def idle_round_trips(self) -> None:
        """Measure the round-trip time of small packets without other load."""
        with self._part(("rtt_idle", "ms")):
            self._write_round_trips("rtt_idle", ping(
                self._near, self._address, self._budget.pings, self._budget.ping_interval
            ))  # fmt: skip

    def _write_round_trips(self, measure: str, found: Ping) -> None:
        self.write(measure, median(found.rtts), "ms", p95=quantile(found.rtts, 0.95), count=len(found.rtts),
                   lost=found.lost)  # fmt: skip

    def tcp(self) -> None:
        """Measure goodput of one flow, with pings beside it, and of four; CPU time with the one."""
        parts = [("tcp_1", "bit/s"), ("tcp_4", "bit/s"), ("rtt_load", "ms")]
        parts += [(f"cpu_tcp_{end}", "us") for end in (*self._running.processes, "machine")]
        with self._part(*parts):
            server = IperfServer(self._far)
            try:
                for flows in (1, 4):
                    with self._part(*(parts[:1] + parts[2:] if flows == 1 else parts[1:2])):
                        server.await_ready()
                        self._tcp_flows(flows)
            finally:
                server.stop()

    def _tcp_flows(self, flows: int) -> None:
        seconds = self._budget.tcp_seconds
        before = cpu_now(self._running)
        pings = self._ping_beside(seconds) if flows == 1 else None
        try:
            result = tcp_goodput(self._near, self._address, seconds, flows)
        finally:
            text = "" if pings is None else _words(pings)
        after = cpu_now(self._running)
        self.write(f"tcp_{flows}", result["value"], "bit/s", retransmits=result["retransmits"], bytes=result["bytes"])
        if flows == 1:
            segment = self._description.tenant_mtu - TCP_HEADERS
            self._write_cpu("tcp", before, after, result["bytes"] / segment)
            with self._part(("rtt_load", "ms")):
                self._write_round_trips("rtt_load", parse_ping(text))

    def _ping_beside(self, seconds: int) -> subprocess.Popen[str]:
        # Not in the first and last tenth: there the flow is not yet, or no longer, at its rate.
        interval = self._budget.ping_interval
        count = max(5, int(0.85 * seconds / interval))
        argv = ["ping", "-n", "-c", str(count), "-i", str(interval), "-W", "1", self._address]
        return self._near.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def _write_cpu(self, load: str, before: dict[str, int], after: dict[str, int], packets: float) -> None:
        for end in (*self._running.processes, "machine"):
            spent = (after[end] - before[end]) / 1000
            self.write(f"cpu_{load}_{end}", spent / packets, "us", packets=round(packets))

    def memory(self) -> None:
        """Note the memory of the contender's processes at each end."""
        for end, pids in self._running.processes.items():
            with self._part((f"memory_{end}", "B")):
                texts = [(Path("/proc") / str(pid) / "smaps_rollup").read_text() for pid in pids]
                self.write(f"memory_{end}", sum(map(proportional_memory, texts)), "B")

    # UDP -------------------------------------------------------------------------------------------------

    def udp(self, hints: dict[str, float]) -> None:
        """Search the highest rate of each datagram size, and of the smallest sent in large pieces."""
        loads = [(f"udp_{size}", min(size, self._description.tenant_mtu - IP_UDP_HEADERS), 1) for size in UDP_SIZES]
        loads.append((f"udp_{UDP_SIZES[0]}_segmented", UDP_SIZES[0], SEGMENTS))
        cpu = [(f"cpu_udp_{end}", "us") for end in (*self._running.processes, "machine")]
        with self._part(*((name, "1/s") for name, _, _ in loads), *cpu):
            receiver = self._program("receive", self._far)
            try:
                sender = self._program("send", self._near)
                try:
                    for name, size, segments in loads:
                        largest = name == f"udp_{UDP_SIZES[-1]}"
                        with self._part((name, "1/s"), *(cpu if largest else ())):
                            self._search(name, size, segments, sender, receiver, hints, with_cpu=largest)
                finally:
                    sender.stop()
            finally:
                receiver.stop()

    def _program(self, role: str, node: Any) -> Program:
        argv = python_module("experiments.peers.datagrams", role, "--address", self._address)
        program = Program(node, argv, self._folder / f"{role}.stderr")
        program.answer()
        return program

    def _search(
        self, name: str, size: int, segments: int, sender: Program, receiver: Program, hints: dict[str, float], *,
        with_cpu: bool,
    ) -> None:  # fmt: skip
        spent: list[tuple[dict[str, int], dict[str, int], Trial]] = []

        def attempt(rate: float, long: bool) -> Trial:
            before = cpu_now(self._running)
            seconds = self._budget.long_seconds if long else self._budget.short_seconds
            trial = self._trial(rate, seconds, size, segments, sender, receiver)
            spent.append((before, cpu_now(self._running), trial))
            return trial

        # Not exactly what was found before: steps from there would lead to the same few rates in all repeats.
        known = None if name not in hints else hints[name] * self._budget.resolution ** self._random.uniform(-0.5, 0.5)
        search = Search(attempt, known, resolution=self._budget.resolution)
        if hints:  # another size's rate is no bad place to start from
            search.start, search.factor = list(hints.values())[-1], 1.4
        best = search.run()
        if best is None:
            raise MeasureError(f"no rate with under 0.1% loss down to {search.lowest:g} datagrams/s")
        hints[name] = best.rate
        self.write(name, best.rate, "1/s", payload=size, loss=best.loss, sent=best.sent, received=best.received,
                   seconds=best.seconds, sender_limited=best.held_back, sender_busy=round(best.busy, 3),
                   trials=search.trials)  # fmt: skip
        if with_cpu:
            before, after = next((before, after) for before, after, trial in spent if trial is best)
            self._write_cpu("udp", before, after, best.received)

    def _trial(
        self, rate: float, seconds: float, size: int, segments: int, sender: Program, receiver: Program
    ) -> Trial:
        self._number += 1
        most = int(rate * seconds) + segments
        receiver.ask({"run": self._number, "most": most, "size": size, "together": segments > 1})
        order = {"run": self._number, "rate": rate, "seconds": seconds, "size": size, "segments": segments}
        answer = sender.ask(order, timeout=seconds * 20 + 10)
        if "error" in answer:
            raise MeasureError(f"the sender was refused: {answer['error']}")
        time.sleep(GRACE_SECONDS + _DRAIN_SECONDS)
        counted = receiver.ask({"deadline_ns": answer["last_ns"] + int(GRACE_SECONDS * 1e9)})
        return Trial(answer["sent"], counted["received"], answer["seconds"], answer["busy"])

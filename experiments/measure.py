"""Measuring tools in the nodes: ping, iperf3, tcpdump, CPU time and interface counters.

Each raises :class:`MeasureError` with a reason where no figure could be had; the caller writes a
missing sample with it.
"""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.programs import stop_process, tail, wait_for
from topologies.nodes import NodeCommandError, NodeHandle

_RTT = re.compile(r"time=(\d+(?:\.\d+)?) ms(?! \(DUP!\))")
_SUMMARY = re.compile(r"(\d+) packets transmitted, (\d+) received")
_LISTEN = "0A"
_PROC = Path("/proc")
IPERF_PORT = 5201
_PATIENCE = 15.0
"""Seconds beyond its own duration that a tool may take before it counts as hung."""


class MeasureError(RuntimeError):
    """A figure could not be measured; the text is the reason for the missing sample."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Round-trip times in milliseconds, and how many requests were not answered."""

    rtts: list[float]
    lost: int


def parse_ping(text: str) -> Ping:
    """Read the output of ping; MeasureError unless it has a summary, an answer, and both agree."""
    summary = _SUMMARY.search(text)
    if summary is None:
        raise MeasureError("ping gave no summary")
    rtts = [float(value) for value in _RTT.findall(text)]
    if not rtts:
        raise MeasureError(f"none of {summary.group(1)} pings was answered")
    if len(rtts) != int(summary.group(2)):
        raise MeasureError(f"ping says that {summary.group(2)} were answered, and gives {len(rtts)} times")
    if not all(rtts):
        raise MeasureError("ping gave a round-trip time of zero")
    return Ping(rtts, int(summary.group(1)) - len(rtts))


def _run(node: NodeHandle, argv: list[str], timeout: float, check: bool = True) -> str:
    try:
        return node.run(argv, timeout=timeout, check=check).stdout
    except NodeCommandError as error:
        raise MeasureError(" ".join(str(error).split())[:200]) from None


def ping(node: NodeHandle, address: str, count: int, interval: float) -> Ping:
    """Ping ``address`` from a node."""
    argv = ["ping", "-n", "-c", str(count), "-i", str(interval), "-W", "1", address]
    return parse_ping(_run(node, argv, count * interval + _PATIENCE, check=False))


def iperf_result(text: str) -> dict[str, Any]:
    """Read iperf3's JSON; MeasureError with its own words when the test failed."""
    try:
        result = json.loads(text)
    except ValueError:
        raise MeasureError("iperf3 gave no result") from None
    if not isinstance(result, dict) or "error" in result:
        words = result.get("error") if isinstance(result, dict) else None
        raise MeasureError(f"iperf3: {words or 'no result'}")
    end = result.get("end")
    if not isinstance(end, dict) or not end:
        raise MeasureError("iperf3 gave no result")
    return result


def _figure(section: Any, name: str, least: float = 0.0, strictly: bool = True) -> float:
    """Return a number of iperf3's result; MeasureError unless it is one, finite, and more than ``least``."""
    value = section.get(name) if isinstance(section, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise MeasureError(f"iperf3 gave no {name}")
    if value < least or (strictly and value == least):
        raise MeasureError(f"iperf3: {name} is {value}")
    return value


def parse_tcp(text: str) -> dict[str, Any]:
    """Return the receiver's bits per second as ``value``, and what else iperf3's JSON says of the TCP flows."""
    end = iperf_result(text)["end"]
    received, sent = end.get("sum_received"), end.get("sum_sent")
    return {
        "value": _figure(received, "bits_per_second"), "bytes": _figure(received, "bytes"),
        "seconds": _figure(received, "seconds"),
        "retransmits": sent.get("retransmits") if isinstance(sent, dict) else None,
    }  # fmt: skip


def parse_udp(text: str) -> dict[str, Any]:
    """Return how many datagrams were sent and lost, from iperf3's JSON."""
    total = iperf_result(text)["end"].get("sum")
    sent, lost = _figure(total, "packets"), _figure(total, "lost_packets", strictly=False)
    if lost >= sent:
        raise MeasureError(f"iperf3: {lost} of {sent} datagrams were lost")
    return {"datagrams": sent, "lost": lost}


def tcp_goodput(node: NodeHandle, address: str, seconds: int, flows: int = 1) -> dict[str, Any]:
    """Measure TCP from a node to ``address``, over one or several flows together; see :func:`parse_tcp`."""
    argv = ["iperf3", "-J", "-c", address, "-p", str(IPERF_PORT), "-t", str(seconds), "-P", str(flows)]
    return parse_tcp(_run(node, argv, seconds + _PATIENCE, check=False))


def udp_load(node: NodeHandle, address: str, seconds: int, rate: int, payload: int) -> dict[str, Any]:
    """Send ``rate`` datagrams of ``payload`` bytes a second; return how many were sent and lost."""
    bits = rate * payload * 8
    argv = ["iperf3", "-J", "-u", "-c", address, "-p", str(IPERF_PORT), "-t", str(seconds), "-b", str(bits),
            "-l", str(payload)]  # fmt: skip
    return parse_udp(_run(node, argv, seconds + _PATIENCE, check=False))


class IperfServer:
    """An iperf3 server in a node, ready when the constructor returns."""

    def __init__(self, node: NodeHandle) -> None:
        self._node = node
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = self._node.popen(
            ["iperf3", "-s", "-p", str(IPERF_PORT)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if not wait_for(lambda: listening(self._node.pid, IPERF_PORT), 5):
            stop_process(process)
            raise MeasureError(f"the iperf3 server in {self._node.name} did not start")
        return process

    def await_ready(self) -> None:
        """Return when it accepts a test: after each one it closes its socket and opens another."""
        if not wait_for(lambda: listening(self._node.pid, IPERF_PORT), 5):
            self.restart()

    def restart(self) -> None:
        """Start it afresh: a server can stay busy with a test that failed."""
        self.stop()
        self._process = self._start()

    def stop(self) -> None:
        """End the server."""
        stop_process(self._process)


def listening(pid: int, port: int) -> bool:
    """Tell whether a TCP socket listens on ``port`` in the network namespace of process ``pid``."""
    for name in ("tcp", "tcp6"):
        path = Path(f"/proc/{pid}/net/{name}")
        if not path.exists():
            continue
        for line in path.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rsplit(":", 1)[1], 16) == port:
                return True
    return False


def cpu_nanoseconds(pid: int, proc: Path = _PROC) -> int:
    """Return the CPU time that all threads of a process have had, user and kernel, in nanoseconds."""
    total = 0
    found = False
    for task in (proc / str(pid) / "task").glob("*/schedstat"):
        try:
            total += int(task.read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            continue
        except (IndexError, ValueError):
            raise MeasureError(f"scheduler statistics of process {pid} cannot be read") from None
        found = True
    if not found:
        raise MeasureError(f"no scheduler statistics of process {pid}")
    return total


@dataclass(frozen=True, slots=True)
class Counters:
    """Packets that an interface received and sent."""

    received: int
    sent: int


def parse_interfaces(text: str) -> dict[str, Counters]:
    """Read /proc/net/dev; MeasureError on a line that is not an interface with its counters."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(":")
        fields = numbers.split()
        try:
            found[name.strip()] = Counters(int(fields[1]), int(fields[9]))
        except (IndexError, ValueError):
            raise MeasureError(f"counters of {name.strip() or 'an interface'} cannot be read") from None
    return found


def counters(pid: int, interface: str, proc: Path = _PROC) -> Counters:
    """Return the counters of an interface in the network namespace of process ``pid``."""
    try:
        found = parse_interfaces((proc / str(pid) / "net" / "dev").read_text())
    except OSError as error:
        raise MeasureError(f"no counters of process {pid} ({error.strerror})") from None
    if interface not in found:
        raise MeasureError(f"no interface {interface} in the namespace of process {pid}")
    return found[interface]


class Capture:
    """tcpdump in a node, capturing when the constructor returns; whole frames, at most ``limit`` of them."""

    def __init__(
        self, node: NodeHandle, interface: str, path: Path, expression: str, limit: int, direction: str = "inout"
    ) -> None:
        self.path = path
        self._log = path.with_suffix(".stderr")
        argv = ["tcpdump", "-i", interface, "-w", str(path), "-U", "--immediate-mode", "-n", "-s", "0",
                "-c", str(limit), "-Z", "root", "-Q", direction, expression]  # fmt: skip
        with self._log.open("wb") as sink:
            self._process = node.popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=sink)
        if not wait_for(lambda: "listening on" in tail(self._log) or self._process.poll() is not None, 10):
            self.stop()
            raise MeasureError(f"tcpdump in {node.name} did not start: {tail(self._log)}")
        if self._process.poll() is not None:
            raise MeasureError(f"tcpdump in {node.name} ended: {tail(self._log)}")

    def stop(self) -> None:
        """End the capture; tcpdump's own words go with it."""
        stop_process(self._process, signal.SIGINT)
        self._log.unlink(missing_ok=True)

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

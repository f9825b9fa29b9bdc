"""What the measuring tools say is read exactly; whatever else they say is a missing sample with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.measure import (
    Counters,
    MeasureError,
    counters,
    cpu_nanoseconds,
    parse_interfaces,
    parse_ping,
    parse_tcp,
    parse_udp,
)
from experiments.overhead import Overhead
from experiments.overhead_analysis import Configuration

LINE = "64 bytes from 10.0.0.3: icmp_seq={} ttl=64 time={} ms{}\n"
CONFIGURATION = Configuration("full", False, 0)


def ping_output(times: list[str], sent: int, received: int, after: str = "") -> str:
    lines = "".join(LINE.format(number, time, "") for number, time in enumerate(times, 1))
    loss = 100 * (sent - received) / sent
    return (
        f"PING 10.0.0.3 (10.0.0.3) 56(84) bytes of data.\n{lines}{after}\n--- 10.0.0.3 ping statistics ---\n"
        f"{sent} packets transmitted, {received} received, {loss:g}% packet loss, time 4ms\n"
    )


def test_ping() -> None:
    found = parse_ping(ping_output(["0.512", "1.25", "12"], 4, 3))
    assert (found.rtts, found.lost) == ([0.512, 1.25, 12.0], 1)


def test_a_second_answer_to_one_ping_is_no_sample() -> None:
    found = parse_ping(ping_output(["0.5", "0.6"], 2, 2, LINE.format(2, "0.9", " (DUP!)")))
    assert (found.rtts, found.lost) == ([0.5, 0.6], 0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ping gave no summary"),
        ("ping: connect: Network is unreachable\n", "ping gave no summary"),
        (LINE.format(1, "0.5", ""), "ping gave no summary"),  # killed before its end
        (ping_output([], 5, 0), "none of 5 pings was answered"),
        (ping_output(["0.5"], 5, 4), "4 were answered, and gives 1 times"),
        (ping_output(["0.5", "0.6"], 5, 1), "1 were answered, and gives 2 times"),
        (ping_output(["0.5", "1.2.3"], 2, 2), "2 were answered, and gives 1 times"),
        (ping_output(["0.5", "-0.6"], 2, 2), "2 were answered, and gives 1 times"),
        (ping_output(["0.5", "0.000"], 2, 2), "a round-trip time of zero"),
    ],
)
def test_ping_that_gives_no_figure(text: str, reason: str) -> None:
    with pytest.raises(MeasureError, match=reason):
        parse_ping(text)


TCP = {
    "sum_sent": {"retransmits": 3, "bytes": 1100},
    "sum_received": {"bytes": 1000, "bits_per_second": 8e6, "seconds": 0.001},
}
UDP = {"sum": {"packets": 2000, "lost_packets": 4}}


def iperf(end: Any) -> str:
    return json.dumps({"start": {}, "intervals": [], "end": end})


def changed(end: dict[str, Any], section: str, **fields: Any) -> str:
    return iperf({**end, section: {**end[section], **fields}})


def without(end: dict[str, Any], section: str, field: str) -> str:
    return iperf({**end, section: {name: value for name, value in end[section].items() if name != field}})


def test_iperf() -> None:
    assert parse_tcp(iperf(TCP)) == {"value": 8e6, "bytes": 1000, "seconds": 0.001, "retransmits": 3}
    assert parse_tcp(iperf({"sum_received": TCP["sum_received"]}))["retransmits"] is None
    assert parse_udp(iperf(UDP)) == {"datagrams": 2000, "lost": 4}
    assert parse_udp(changed(UDP, "sum", lost_packets=0)) == {"datagrams": 2000, "lost": 0}


@pytest.mark.parametrize("parse", [parse_tcp, parse_udp])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "iperf3 gave no result"),
        ("iperf3: error - unable to connect", "iperf3 gave no result"),
        (iperf(TCP)[:-9], "iperf3 gave no result"),
        ("[]", "iperf3: no result"),
        ("null", "iperf3: no result"),
        ("{}", "iperf3 gave no result"),
        (json.dumps({"end": {}, "error": "the server is busy"}), "iperf3: the server is busy"),
        (json.dumps({**json.loads(iperf(TCP)), "error": "control socket closed"}), "iperf3: control socket closed"),
        (iperf({}), "iperf3 gave no result"),
        (iperf([]), "iperf3 gave no result"),
        (iperf({"streams": []}), "iperf3 gave no (bits_per_second|packets)"),
        (iperf({"sum_received": None, "sum": 5}), "iperf3 gave no (bits_per_second|packets)"),
    ],
)
def test_iperf_that_gives_no_figure(parse: Any, text: str, reason: str) -> None:
    with pytest.raises(MeasureError, match=f"^{reason}$"):
        parse(text)


@pytest.mark.parametrize("name", ["bits_per_second", "bytes", "seconds"])
def test_every_tcp_figure_must_be_one(name: str) -> None:
    for value in (None, "8", True, float("nan"), float("inf")):
        with pytest.raises(MeasureError, match=f"^iperf3 gave no {name}$"):
            parse_tcp(changed(TCP, "sum_received", **{name: value}))
    for value in (0, 0.0, -1):
        with pytest.raises(MeasureError, match=f"^iperf3: {name} is {value}$"):
            parse_tcp(changed(TCP, "sum_received", **{name: value}))
    with pytest.raises(MeasureError, match=f"^iperf3 gave no {name}$"):
        parse_tcp(without(TCP, "sum_received", name))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (without(UDP, "sum", "packets"), "iperf3 gave no packets"),
        (without(UDP, "sum", "lost_packets"), "iperf3 gave no lost_packets"),
        (changed(UDP, "sum", packets=0), "iperf3: packets is 0"),
        (changed(UDP, "sum", lost_packets=-1), "iperf3: lost_packets is -1"),
        (changed(UDP, "sum", lost_packets=None), "iperf3 gave no lost_packets"),
        (changed(UDP, "sum", lost_packets=2000), "iperf3: 2000 of 2000 datagrams were lost"),
    ],
)
def test_every_udp_figure_must_be_one(text: str, reason: str) -> None:
    with pytest.raises(MeasureError, match=f"^{reason}$"):
        parse_udp(text)


HEAD = "Inter-|   Receive\n face |bytes packets\n"
ETH0 = "  eth0: 100 7 0 0 0 0 0 0 200 9 0 0 0 0 0 0\n"


def test_interface_counters(tmp_path: Path) -> None:
    assert parse_interfaces(HEAD + ETH0) == {"eth0": Counters(7, 9)}
    path = tmp_path / "12" / "net" / "dev"
    path.parent.mkdir(parents=True)
    path.write_text(HEAD + ETH0)
    assert counters(12, "eth0", tmp_path) == Counters(7, 9)
    with pytest.raises(MeasureError, match="no interface eth1"):
        counters(12, "eth1", tmp_path)
    with pytest.raises(MeasureError, match="no counters of process 13"):
        counters(13, "eth0", tmp_path)


@pytest.mark.parametrize("line", ["  eth0: 100 7 0 0\n", "  eth0: a b c d e f g h i j\n", "  eth0\n", "\n"])
def test_damaged_interface_counters(line: str) -> None:
    with pytest.raises(MeasureError, match="cannot be read"):
        parse_interfaces(HEAD + line)


def test_cpu_time_is_that_of_all_threads(tmp_path: Path) -> None:
    for thread, spent in (("5", "100 7 3"), ("6", "23 0 1")):
        path = tmp_path / "5" / "task" / thread / "schedstat"
        path.parent.mkdir(parents=True)
        path.write_text(spent + "\n")
    assert cpu_nanoseconds(5, tmp_path) == 123
    with pytest.raises(MeasureError, match="no scheduler statistics of process 7"):
        cpu_nanoseconds(7, tmp_path)


@pytest.mark.parametrize("text", ["", "no number"])
def test_damaged_scheduler_statistics(tmp_path: Path, text: str) -> None:
    path = tmp_path / "5" / "task" / "5" / "schedstat"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(MeasureError, match="cannot be read"):
        cpu_nanoseconds(5, tmp_path)


class _Samples:
    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []

    def write(self, entry: dict[str, Any]) -> None:
        self.written.append(entry)


class _Measured(Overhead):
    """The experiment with made-up readings in place of a testbed."""

    def __init__(self, readings: list[tuple[int, int]], load: dict[str, Any] | None) -> None:
        self.found = _Samples()
        self.samples = self.found  # type: ignore[assignment]
        self.readings = iter(readings)
        self.load = load

    def _daemons(self, _configuration: Configuration) -> list[tuple[str, str, list[str]]]:
        return [("ingress", "nve0", [])]

    def _work(self, _role: str, _daemon: str, _wires: list[str]) -> tuple[int, int]:
        return next(self.readings)

    def _load(self, _configuration: Configuration) -> dict[str, Any]:
        if self.load is None:
            raise MeasureError("iperf3: the server is busy")
        return self.load


@pytest.mark.parametrize(
    ("after", "load", "value", "missing"),
    [
        ((5000, 110), {"datagrams": 100, "lost": 0}, 40.0, None),
        ((5000, 10), {"datagrams": 100, "lost": 0}, None, "no packet was counted"),
        ((1000, 110), {"datagrams": 100, "lost": 0}, None, "no CPU time was counted"),
        ((900, 110), {"datagrams": 100, "lost": 0}, None, "no CPU time was counted"),
        ((5000, 110), None, None, "iperf3: the server is busy"),
    ],
)
def test_cpu_samples_are_missing_and_never_zero(
    after: tuple[int, int], load: dict[str, Any] | None, value: float | None, missing: str | None
) -> None:
    measured = _Measured([(1000, 10), after], load)
    measured._cpu(CONFIGURATION, {"repeat": 0})
    [entry] = measured.found.written
    assert (entry["value"], entry["missing"]) == (value, missing)


def test_a_failed_measurement_is_written_with_its_reason() -> None:
    def fail() -> dict[str, Any]:
        raise MeasureError("none of 5 pings was answered")

    measured = _Measured([], None)
    measured._take("rtt", "ms", {"repeat": 0}, fail)
    [entry] = measured.found.written
    assert (entry["value"], entry["missing"], entry["unit"]) == (None, "none of 5 pings was answered", "ms")

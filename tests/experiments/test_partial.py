"""Tenants' TLS through overlays: what is found in captures, what is judged, and the flow itself."""

from __future__ import annotations

import datetime
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from controller.pki import TestbedCa
from experiments.mechanisms import partial_analysis as analysis
from experiments.mechanisms import partial_plots
from experiments.mechanisms.flows import SUITE, Certificates
from experiments.mechanisms.variants import Variant, hidden_payload, inner_frame, outer_size, partial_variants
from experiments.mechanisms.wire import WINDOW, Seen, Sent, outer_packets, seen, tcp_payloads, tls_records
from experiments.peers.network import BRIDGED, LEFT, MACS, RIGHT
from experiments.profiles import PROFILES
from experiments.samples import sample
from experiments.statistics import summarise
from tests.experiments.synthetic import pcap, write_lines

# Reading captures ------------------------------------------------------------------------------------------


def test_what_a_tenant_sent_is_found_wherever_it_stands():
    stream = os.urandom(4000)
    sent = Sent([os.urandom(100), stream])
    for first, length in ((0, 1400), (7, 1399), (2600, 1400), (13, 2 * WINDOW)):
        packet = b"head" * 9 + stream[first : first + length] + os.urandom(16)
        assert sent.readable(packet) in range(length, length + 4)  # what follows may go on by accident
    assert sent.readable(os.urandom(1500)) == 0
    assert sent.readable(stream[5 : 5 + WINDOW - 1]) == 0
    assert sent.readable(b"") == 0


def test_of_several_runs_the_longest_counts():
    stream = os.urandom(4000)
    packet = stream[:100] + os.urandom(50) + stream[1000:1300] + os.urandom(20)
    assert Sent([stream]).readable(packet) in range(300, 304)


def test_inner_addresses_are_seen_by_any_of_their_marks():
    sent = Sent([])
    assert seen(b"xx" + b"mark" + b"yy", sent, [b"none", b"mark"]) == Seen(8, True, 0)
    assert not seen(b"xxyy", sent, [b"mark"]).addresses


def records(count: int, content: int = 500) -> bytes:
    return b"".join(struct.pack("!BHH", 23, 0x0303, content) + os.urandom(content) for _ in range(count))


def test_tls_records_are_followed_from_the_first_whole_one():
    stream = records(5)
    assert tls_records(stream) == (5, 25)
    assert tls_records(stream[3:])[0] == 4
    assert tls_records(bytes(5000)) == (0, 0)
    assert tls_records(b"") == (0, 0)
    assert tls_records(records(1)) == (0, 0)  # one could be an accident


def ethernet(protocol: int, payload: bytes) -> bytes:
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0, bytes(4), bytes(4))
    return (bytes(12) + b"\x08\x00" + header + payload).ljust(60, b"\0")


def tcp(payload: bytes) -> bytes:
    return struct.pack("!HHIIBBHHH", 1, 2, 0, 0, 8 << 4, 0, 0, 0, 0) + bytes(12) + payload


def test_payloads_of_a_capture_have_neither_headers_nor_padding(tmp_path):
    path = tmp_path / "x.pcap"
    arp = bytes(12) + b"\x08\x06" + bytes(46)
    path.write_bytes(pcap([arp, ethernet(6, tcp(b"abc")), ethernet(6, tcp(b"")), ethernet(17, bytes(8))]))
    assert tcp_payloads(path) == [b"abc"]
    assert [len(packet) for packet in outer_packets(path)] == [55, 52, 28]


# Judging ---------------------------------------------------------------------------------------------------


def shown(variant: Variant, hidden: int | None = None, addresses: bool | None = None) -> list[Seen]:
    payload = variant.tenant_mtu - 52
    covered = hidden_payload(variant.profile, payload) if hidden is None else hidden
    seen_addresses = not analysis.addresses_hidden(variant) if addresses is None else addresses
    size = outer_size(variant.profile, inner_frame(variant.tenant_mtu))
    return [Seen(size, seen_addresses, payload - covered)] * 5 + [Seen(size - 400, seen_addresses, 0)]


@pytest.mark.parametrize("variant", partial_variants((1500, 9000)), ids=lambda item: item.name)
def test_every_protection_shows_what_it_is_to_show(variant):
    row = analysis.judged(variant, analysis.TLS, shown(variant), 3)
    assert row["verdict"] == analysis.AS_EXPECTED
    assert row["packets"] == 5
    assert row["hidden_bytes"] == row["expected_hidden"]
    assert row["twice_bytes"] == pytest.approx(row["hidden_bytes"], rel=0.001)
    assert analysis.judged(variant, analysis.CLEAR, shown(variant), 0)["twice_bytes"] == 0


def variant_of(name: str) -> Variant:
    return next(variant for variant in partial_variants((1500,)) if variant.mechanism == name)


@pytest.mark.parametrize(
    ("name", "changed", "found"),
    [
        ("full", {"hidden": 0}, 3),  # the payload stands on the wire
        ("full", {"addresses": True}, 3),
        ("headers-only", {"addresses": True}, 3),
        ("headers-only", {"hidden": 1362}, 3),  # it encrypts what it is to leave alone
        ("none", {"addresses": False}, 3),  # the observer sees nothing at all: the control does not work
        ("full", {}, 0),  # what is called TLS is none
    ],
)
def test_each_fault_is_found(name, changed, found):
    variant = variant_of(name)
    assert analysis.judged(variant, analysis.TLS, shown(variant, **changed), found)["verdict"] == analysis.WRONG


def test_without_full_size_packets_nothing_is_judged():
    variant = variant_of("full")
    assert analysis.judged(variant, analysis.TLS, [Seen(100, False, 0)], 3)["verdict"] == analysis.NOT_MEASURED


def test_a_difference_needs_an_interval_that_leaves_out_one():
    def of(*values: float) -> str:
        return analysis.verdict(summarise(list(values)))

    assert of(0.7, 0.8, 0.75, 0.9, 0.85, 0.8) == analysis.SAVES
    assert of(0.7, 0.8, 0.75, 0.9, 0.85, 1.1) == analysis.NO_DIFFERENCE
    assert of(1.2, 1.3, 1.1, 1.05, 1.3, 1.2) == analysis.COSTS
    assert of(0.7, 0.8) == analysis.TOO_FEW
    assert of() == analysis.NOT_MEASURED


# Tables ----------------------------------------------------------------------------------------------------

CPU = {"none": 1.0, "headers-only": 2.0, "authenticated-only": 2.5, "full": 4.0}
"""CPU time in ns for a byte at each end, made up."""


def underlay_packet(variant: Variant, stream: bytes) -> bytes:
    """Return what an NVE makes of a full-size segment: made-up bytes for all that is encrypted."""
    size = outer_size(variant.profile, inner_frame(variant.tenant_mtu))
    payload = variant.tenant_mtu - 52
    hidden = hidden_payload(variant.profile, payload)
    inner = bytes.fromhex((MACS[RIGHT] + MACS[LEFT]).replace(":", ""))
    if analysis.addresses_hidden(variant):
        inner = os.urandom(12)
    body = inner.ljust(66, b"\1") + os.urandom(hidden) + stream[hidden:payload]
    return ethernet(17, (body + os.urandom(size)).ljust(size)[: size - 20])


def run_of(tmp_path: Path) -> list[dict[str, Any]]:
    folder = tmp_path / "captures"
    folder.mkdir(exist_ok=True)
    stream = records(4, 3000)
    entries: list[dict[str, Any]] = []
    for variant in partial_variants((1500,)):
        value = {"implementation": "ours", "observed_path": variant.path}
        entries += [sample("nve", variant.key(), value, ""), sample("tls", variant.key(), SUITE, "")]
        for tenants in analysis.TENANTS:
            data = stream if tenants == analysis.TLS else bytes(12_000)
            names = {end: f"captures/{variant.name}-{tenants}-{end}.pcap" for end in ("tenant", "underlay")}
            (tmp_path / names["tenant"]).write_bytes(pcap([ethernet(6, tcp(data))]))
            (tmp_path / names["underlay"]).write_bytes(pcap([underlay_packet(variant, data) for _ in range(5)]))
            key = {**variant.key(), "tenants": tenants}
            entries.append(sample("capture", key, {**names, **BRIDGED}, ""))
            cost = CPU.get(variant.mechanism, 8.0)
            for repeat in range(6):
                spent = int(cost * 1e9 * (1 + repeat))
                entries.append(sample("flow", {**key, "repeat": repeat, "order": 0}, 1e9 / cost, "bit/s",
                                      bytes=10**9, cpu_ns={LEFT: spent, RIGHT: spent, "machine": 0}))  # fmt: skip
    return entries


def analyse(tmp_path: Path, entries: list[dict[str, Any]]) -> analysis.PartialResult:
    write_lines(tmp_path / "raw" / analysis.NAME / analysis.SAMPLES, entries)
    return analysis.analyse(tmp_path)


def test_a_whole_run_gives_whole_tables(tmp_path):
    result = analyse(tmp_path, run_of(tmp_path))
    assert result.failures == []
    assert result.warnings == []
    assert {row["verdict"] for row in result.twice} == {analysis.AS_EXPECTED}
    (saving,) = [row for row in result.savings if (row["mechanism"], row["against"], row["tenants"])
                 == ("headers-only", "full", analysis.TLS)]  # fmt: skip
    assert (saving["cpu_ratio"], saving["goodput_ratio"], saving["verdict"]) == (0.5, 2.0, analysis.SAVES)
    assert saving["cpu_saved"] == pytest.approx(14.0)  # seconds per gigabyte, both ends
    (cpu,) = [row for row in result.cpu if (row["mechanism"], row["tenants"], row["end"]) == ("full", "tls", "both")]
    assert (cpu["median"], cpu["ratio"]) == (28.0, 4.0)
    assert len(analysis.conclusions(result)) == 4
    assert [row["ratio"] for row in result.goodput if row["mechanism"] == "esp"] == [None, None]  # another path
    assert {plot.name for plot in partial_plots.draw(result, tmp_path)} == {plot.name for plot in partial_plots.PLOTS}


def test_a_payload_on_the_wire_fails_the_run(tmp_path):
    entries = run_of(tmp_path)
    leak = variant_of("none")
    for entry in entries:
        if entry["measure"] == "capture" and (entry["mechanism"], entry["tenants"]) == ("full", analysis.TLS):
            path = tmp_path / entry["value"]["underlay"]
            stream = tcp_payloads(tmp_path / entry["value"]["tenant"])[0]
            path.write_bytes(pcap([underlay_packet(leak, stream) for _ in range(5)]))
    (text,) = analyse(tmp_path, entries).failures
    assert "full" in text


def test_what_is_missing_is_told_and_nothing_at_all_fails_the_run(tmp_path):
    entries = [
        {**entry, "value": None, "missing": "it ended"} if entry["mechanism"] == "dtls" else entry
        for entry in run_of(tmp_path)
    ]  # fmt: skip
    result = analyse(tmp_path, entries)
    assert result.failures == []
    assert any("it ended" in text for text in result.warnings)
    assert [row["verdict"] for row in result.savings if row["against"] == "dtls"] == [analysis.NOT_MEASURED] * 2
    partial_plots.draw(result, tmp_path)
    assert len(analyse(tmp_path, []).failures) == 2


def test_the_plan_fits_its_time():
    assert analysis.seconds(PROFILES["quick"]) < 190
    assert analysis.seconds(PROFILES["smoke"]) < 60


# The flow --------------------------------------------------------------------------------------------------


def _ask(process: subprocess.Popen[str], order: str) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"do": order}) + "\n")
    process.stdin.flush()
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


def _bulk(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.dataplane.bulk", *arguments], text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("tls", [False, True])
def test_a_flow_goes_and_pauses_in_clear_and_within_tls(tmp_path, tls):
    files = Certificates.make(tmp_path, "server", "127.0.0.1")
    assert files.own.stat().st_mode & 0o777 == 0o600
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = {"OPENSSL_CONF": str(files.settings)} if tls else {}
    sink = _bulk(environment, "sink", "127.0.0.1", "--port", port,
                 *(["--certificate", str(files.own)] if tls else []))  # fmt: skip
    watchdog = threading.Timer(60, sink.kill)
    watchdog.start()
    try:
        assert sink.stdout is not None
        assert json.loads(sink.stdout.readline())["ready"]
        source = _bulk(environment, "source", "127.0.0.1", "127.0.0.1", "--port", port,
                       *(["--ca", str(files.ca)] if tls else []))  # fmt: skip
        try:
            assert source.stdout is not None
            assert json.loads(source.stdout.readline()) == {"ready": True, "cipher": SUITE if tls else None}
            assert _ask(sink, "count")["bytes"] == 0
            assert _ask(source, "go")["going"]
            while _ask(sink, "count")["bytes"] < 1 << 20:
                assert source.poll() is None
            assert not _ask(source, "pause")["going"]
            last = -1
            while (now := _ask(sink, "count")["bytes"]) != last:
                last = now
            assert last >= 1 << 20
        finally:
            source.kill()
            source.communicate()
    finally:
        watchdog.cancel()
        sink.kill()
        sink.communicate()


def test_a_source_that_trusts_another_authority_does_not_connect(tmp_path):
    files = Certificates.make(tmp_path, "server", "127.0.0.1")
    foreign = tmp_path / "foreign.pem"
    foreign.write_bytes(TestbedCa(datetime.datetime.now(datetime.timezone.utc)).certificate)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    sink = _bulk({}, "sink", "127.0.0.1", "--port", port, "--certificate", str(files.own))
    try:
        assert sink.stdout is not None
        sink.stdout.readline()
        source = _bulk({}, "source", "127.0.0.1", "127.0.0.1", "--port", port, "--ca", str(foreign))
        assert source.communicate(timeout=30)[0] == ""
        assert source.returncode != 0
    finally:
        sink.kill()
        sink.communicate()

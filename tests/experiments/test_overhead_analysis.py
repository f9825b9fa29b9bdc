"""The overhead analysis on made-up raw data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.overhead_analysis import Configuration, analyse, pair_frames, summary, theory
from experiments.samples import read_lines
from tests.experiments import synthetic


def _rewrite(run: Path, change: Any) -> None:
    path = run / "raw" / "overhead" / "samples.jsonl"
    entries = [change(entry) for entry in read_lines(path)]
    synthetic.write_lines(path, [entry for entry in entries if entry is not None])


@pytest.mark.parametrize(
    ("mode", "telemetry", "hops", "added"),
    [
        ("none", False, 2, 14 + 20 + 8 + 8),
        ("none", True, 2, 14 + 20 + 8 + 8 + 16),
        ("full", False, 2, 14 + 20 + 8 + 8 + 32),
        ("full", True, 0, 14 + 20 + 8 + 8 + 16 + 32),
        ("full", True, 2, 14 + 20 + 8 + 8 + 16 + 32 + 2 * 32),
    ],
)
def test_theory(mode: str, telemetry: bool, hops: int, added: int) -> None:
    assert theory(Configuration(mode, telemetry, hops), 4) == added
    assert theory(Configuration(mode, telemetry, hops), 6) == added + 20


def test_a_clean_run_has_every_figure_and_no_warning(tmp_path: Path) -> None:
    synthetic.overhead(tmp_path)
    result = analyse(tmp_path)
    assert result.warnings == result.failures == []
    assert len(result.throughput) == len(result.rtt) == 15
    assert {row["count"] for row in result.throughput} == {6}
    assert all(row["ci_low"] <= row["median"] <= row["ci_high"] for row in result.throughput)
    full = [row for row in result.bytes if (row["mode"], row["telemetry"], row["hops"]) == ("full", True, 2)]
    assert [(row["inner_bytes"], row["added_bytes"]) for row in full] == [(64, 162), (512, 162), (1280, 162)]
    assert {row["role"] for row in result.cpu} == {"ingress", "egress", "transit"}
    json.dumps(summary(result))


def test_missing_samples_stay_missing_and_are_named(tmp_path: Path) -> None:
    synthetic.overhead(tmp_path)
    chosen = ("full", True, 1)

    def lose(entry: dict[str, Any]) -> dict[str, Any]:
        of = (entry.get("mode"), entry.get("telemetry"), entry.get("hops"))
        if entry["measure"] == "tcp" and of == chosen and entry["repeat"] < 2:
            return {**entry, "value": None, "missing": "iperf3 timed out"}
        return entry

    _rewrite(tmp_path, lose)
    result = analyse(tmp_path)
    [row] = [row for row in result.throughput if (row["mode"], row["telemetry"], row["hops"]) == chosen]
    assert (row["count"], row["missing"], row["reasons"]) == (4, 2, "iperf3 timed out")
    assert row["ci_low"] > 0
    assert any("2 sample(s) of tcp missing" in text for text in result.warnings)


def test_one_deviating_packet_is_seen(tmp_path: Path) -> None:
    synthetic.overhead(tmp_path, repeats=1)
    path = tmp_path / "captures" / "overhead" / "full-False-0.pcap"
    [entry] = [
        entry for entry in read_lines(tmp_path / "raw" / "overhead" / "samples.jsonl")
        if entry["measure"] == "bytes" and entry["value"]["capture"].endswith(path.name)
    ]  # fmt: skip
    sizes = entry["value"]["sizes"]
    path.write_bytes(synthetic.pcap(
        [synthetic.geneve_frame(bytes(size), 36 if index == 4 else 32) for index, size in enumerate(sizes)]
    ))  # fmt: skip
    warnings = analyse(tmp_path).warnings
    assert any("differing amounts [82, 86]" in text for text in warnings)


def test_wrong_overhead_is_reported_against_theory(tmp_path: Path) -> None:
    synthetic.overhead(tmp_path, repeats=1)
    path = tmp_path / "captures" / "overhead" / "none-False-1.pcap"
    order = [512] * 9
    _rewrite(tmp_path, lambda entry: (
        {**entry, "value": {**entry["value"], "sizes": order}}
        if entry["measure"] == "bytes" and entry["value"]["capture"].endswith(path.name) else entry
    ))  # fmt: skip
    path.write_bytes(synthetic.pcap([synthetic.geneve_frame(bytes(512), 4)] * 9))
    assert any("grew by [54] bytes, expected 50" in text for text in analyse(tmp_path).warnings)


def test_a_lost_packet_in_the_capture_makes_the_figure_missing(tmp_path: Path) -> None:
    synthetic.overhead(tmp_path, repeats=1)
    path = tmp_path / "captures" / "overhead" / "none-False-0.pcap"
    path.write_bytes(path.read_bytes()[:-10])
    result = analyse(tmp_path)
    [row] = [row for row in result.bytes if (row["mode"], row["telemetry"], row["hops"]) == ("none", False, 0)]
    assert row["added_bytes"] is None
    assert row["missing"] == "9 frames sent, 8 packets captured"
    assert any("no bytes per packet" in text for text in result.warnings)


@pytest.mark.parametrize(
    ("measure", "name"),
    [("bytes", "bytes per packet"), ("tcp", "TCP goodput"), ("rtt", "round-trip time"), ("cpu", "CPU time")],
)
def test_a_measure_without_a_single_sample_is_a_failure(tmp_path: Path, measure: str, name: str) -> None:
    synthetic.overhead(tmp_path)
    path = tmp_path / "raw" / "overhead" / "samples.jsonl"
    entries = read_lines(path)
    gone = {"value": None, "missing": "iperf3: busy"}
    synthetic.write_lines(path, [{**entry, **gone} if entry["measure"] == measure else entry for entry in entries])
    assert analyse(tmp_path).failures == [f"overhead: there is not one sample of {name}"]


def test_pairing_needs_equal_numbers() -> None:
    with pytest.raises(ValueError, match="2 frames sent, 0 packets"):
        pair_frames([64, 64], [])


def test_doubtful_cpu_samples_are_named(tmp_path: Path) -> None:
    synthetic.overhead(tmp_path, repeats=1)
    changes = {"nve0": {"lost_share": 0.2}, "t1": {"packets": 900}}
    _rewrite(tmp_path, lambda entry: (
        {**entry, **changes[entry["daemon"]]} if entry["measure"] == "cpu" and entry["daemon"] in changes else entry
    ))  # fmt: skip
    warnings = analyse(tmp_path).warnings
    assert any("cpu of nve0" in text and "20.0% of the load was lost" in text for text in warnings)
    assert any("cpu of t1" in text and "counted 900 packets" in text for text in warnings)


def test_nothing_on_disk_gives_nothing(tmp_path: Path) -> None:
    result = analyse(tmp_path)
    assert result.throughput == result.bytes == result.cpu == []

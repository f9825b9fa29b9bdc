"""The comparison of mechanisms: sizes, set-up times, what is read from captures, tables and verdicts."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from experiments.control_logs import FlowLog
from experiments.measure import MeasureError
from experiments.mechanisms import compared_analysis as analysis
from experiments.mechanisms import compared_plots
from experiments.mechanisms.setup_times import scenario_of
from experiments.mechanisms.variants import (
    BATCHED,
    COMPARED,
    IN_KERNEL,
    KERNEL,
    PROFILES,
    SETUP,
    SINGLE,
    Variant,
    hidden_payload,
    implementation,
    observed_path,
    outer_size,
    partial_variants,
)
from experiments.peers.network import UNDERLAY
from experiments.peers.ours import CHANNELS, node_states
from experiments.profiles import PROFILES as RUN_PROFILES
from experiments.samples import sample
from geneve.control.channel import receiving_port
from geneve.errors import ConfigError
from nve.config import NveConfig
from nve.sizes import refuse_sizes
from tests.experiments.synthetic import pcap, write_lines
from topologies.scenario_file import load_scenario

# Variants ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [*COMPARED, *partial_variants((1500, 9000))], ids=lambda item: item.name)
def test_the_largest_frame_of_a_tenant_fills_the_underlay(variant):
    largest = variant.tenant_mtu + 14
    assert outer_size(variant.profile, largest) <= variant.underlay_mtu < outer_size(variant.profile, largest + 1)


def test_both_paths_have_a_control_and_names_are_told_apart():
    for path in (BATCHED, SINGLE):
        assert {"none", "full"} <= {variant.mechanism for variant in COMPARED if variant.path == path}
    every = [*COMPARED, *partial_variants((9000,))]
    assert len({variant.name for variant in every}) == len(every)
    assert {variant.mechanism for variant in COMPARED} >= set(SETUP)
    raw = [variant for variant in COMPARED if variant.profile and variant.profile.channel
           and variant.profile.channel.ip_protocol is not None]  # fmt: skip
    assert raw
    assert {variant.path for variant in raw} == {SINGLE}


def test_what_an_nve_says_of_its_path_and_its_implementation():
    assert observed_path({"udp_segment": "on", "udp_gro": "on"}) == BATCHED
    assert observed_path({"udp_segment": "on", "udp_gro": "off"}) == SINGLE
    assert observed_path({"udp_segment": "unavailable: IP carries the packets"}) == SINGLE
    assert observed_path({"udp_segment": "on", "udp_gro": "on"}, {"implementation": "kernel"}) == KERNEL
    assert observed_path(None) is None
    assert implementation({"name": "esp", "implementation": "user space"}) == "esp, user space"
    assert implementation({"name": "security options"}) == "security options"
    assert implementation(None) == "unknown"


@pytest.mark.parametrize(
    ("mechanism", "hidden"), [("none", 0), ("authenticated-only", 0), ("esp-null-udp", 0), ("headers-only", 14),
                              ("full", 1366), ("dtls", 1366), ("esp-udp", 1366)]
)  # fmt: skip
def test_how_much_of_a_payload_the_overlay_encrypts(mechanism, hidden):
    assert hidden_payload(PROFILES[mechanism], 1366) == hidden


@pytest.mark.parametrize("contender", CHANNELS, ids=lambda item: item.description.name)
def test_an_nve_takes_the_configuration_of_each_channel(contender):
    channel = contender.profile.channel
    states = node_states(contender.profile, ())
    for side, address in UNDERLAY.items():
        document = {
            "name": side, "underlay": {"address": address, "port": receiving_port(channel)},
            "vnis": [{"vni": 100, "ports": ["tenant"]}], "static_state": states[side].to_wire(),
            "sequence_file": "numbers", "channel": channel.model_dump(mode="json"),
            "credentials": {"ca": "ca.pem", "certificate": "own.pem", "key": "own.key"},
        }  # fmt: skip
        state = NveConfig.model_validate_json(json.dumps(document)).static_state
        assert state is not None
        refuse_sizes(state, 1500, 4)
        larger = state.vnis[0].model_copy(update={"mtu": state.vnis[0].mtu + 1})
        with pytest.raises(ConfigError, match="leaves"):
            refuse_sizes(state.model_copy(update={"vnis": (larger,)}), 1500, 4)
        assert all(item.vni is None for item in (*state.outbound, *state.inbound))


@pytest.mark.parametrize("mechanism", SETUP)
def test_the_scenario_stands_under_every_mechanism_that_is_timed(mechanism):
    scenario = scenario_of(load_scenario("mechanisms"), mechanism)
    assert {tenant.profile for tenant in scenario.tenants.values()} == {mechanism}
    assert scenario.keys == "on-demand"  # else there is no first time


def test_what_is_captured_is_what_the_channel_sends():
    assert analysis.capture_filter(None, "192.168.1.2") == "udp dst port 6081 and dst host 192.168.1.2"
    assert analysis.capture_filter(PROFILES["esp-udp"], "192.168.1.2").startswith("udp dst port 4500 ")
    assert analysis.capture_filter(PROFILES["esp"], "192.168.1.2").startswith("ip proto 50 ")
    assert analysis.capture_filter(PROFILES["ah"], "192.168.1.2").startswith("ip proto 51 ")


# Set-up times ----------------------------------------------------------------------------------------------


def flow(sent: dict[int, int], received: list[tuple[int, int]]) -> FlowLog:
    return FlowLog(sent, received)


def test_set_up_time_is_the_first_delay_beyond_a_later_one():
    cold = flow({0: 1_000_000}, [(9_000_000, 0)])
    warm = flow({0: 0, 1: 10_000_000, 2: 20_000_000}, [(1_000_000, 0), (11_500_000, 1), (23_000_000, 2)])
    assert analysis.set_up_time(cold, warm) == {"value": 6.5, "cold_ms": 8.0, "warm_ms": [1.0, 1.5, 3.0]}


def test_without_a_delivery_there_is_no_set_up_time():
    warm = flow({0: 0}, [(1_000_000, 0)])
    with pytest.raises(MeasureError, match="first"):
        analysis.set_up_time(flow({0: 0}, []), warm)
    with pytest.raises(MeasureError, match="first"):
        analysis.set_up_time(None, warm)
    with pytest.raises(MeasureError, match="later"):
        analysis.set_up_time(warm, None)


# Tables ----------------------------------------------------------------------------------------------------

SIZES = [64, 1024, 64]


def packet(size: int) -> bytes:
    """Return an Ethernet frame with an IPv4 packet of so many bytes, and what fills a short frame."""
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, 50, 0, bytes(4), bytes(4))
    return (bytes(12) + b"\x08\x00" + header + os.urandom(size - 20)).ljust(60, b"\0")


def told(path: str) -> dict[str, Any]:
    on = "on" if path == BATCHED else "off"
    return {"implementation": "ours", "observed_path": path, "offloads": {"udp_segment": on, "udp_gro": on},
            "drops": {"left": {"replayed": 1}, "right": {"replayed": 2, "malformed": 0}}}  # fmt: skip


def run_of(tmp_path: Path, wrong: str | None = None, repeats: int = 6) -> list[dict[str, Any]]:
    """Write the captures of a made-up run and return its samples; frames of ``wrong`` are one byte too long."""
    folder = tmp_path / "captures" / analysis.NAME
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    for variant in COMPARED:
        sizes = [*SIZES, variant.tenant_mtu + 14]
        path = folder / f"{variant.name}.pcap"
        extra = int(variant.name == wrong)
        path.write_bytes(pcap([packet(outer_size(variant.profile, size) + extra) for size in sizes]))
        taken = {"capture": str(path.relative_to(tmp_path)), "sizes": sizes}
        key = variant.key()
        entries += [sample("bytes", key, taken, "bytes"), sample("nve", key, told(variant.path), "")]
        slow = 1.0 if variant.mechanism == "none" else 2.0
        for repeat in range(repeats):
            key = {**variant.key(), "repeat": repeat, "order": 0}
            drift = 1 + 0.5 * repeat  # falls on all alike
            entries += [
                sample("rtt_idle", key, [0.4, 0.5, 0.6], "ms", lost=1), sample("rtt_load", key, [4.0], "ms", lost=0),
                sample("tcp", key, 1e9 / slow / drift, "bit/s"),
                *(sample(f"cpu_{load}_{side}", key, slow * drift, "us", packets=100, sent=100)
                  for load in ("udp", "tcp") for side in ("left", "right")),
            ]  # fmt: skip
    for mechanism in SETUP:
        for number in range(10):
            for direction in (analysis.FIRST, analysis.BACK):
                key = {"mechanism": mechanism, "start": 0, "direction": direction}
                entries.append(sample("setup", key, 5.0 + number, "ms", warm_ms=[0.5], cold_ms=5.5, nva_cpu_ms=2.0))
    return entries


def analyse(tmp_path: Path, entries: list[dict[str, Any]]) -> analysis.ComparedResult:
    write_lines(tmp_path / "raw" / analysis.NAME / analysis.SAMPLES, entries)
    return analysis.analyse(tmp_path)


def row_of(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (found,) = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    return found


def test_a_whole_run_gives_whole_tables(tmp_path):
    result = analyse(tmp_path, run_of(tmp_path))
    assert result.failures == []
    assert result.warnings == []
    assert all(row["agrees"] for row in result.bytes)
    assert row_of(result.bytes, mechanism="full", path=BATCHED, inner_bytes=64)["added_bytes"] == 68
    assert row_of(result.nves, mechanism="ah")["drops"] == {"replayed": 3}
    # the machine became slower and slower, and the ratio does not show it
    goodput = row_of(result.goodput, mechanism="esp")
    assert (goodput["ratio"], goodput["ratio_low"], goodput["ratio_high"]) == (0.5, 0.5, 0.5)
    assert goodput["ci_low"] < goodput["median"] < goodput["ci_high"]
    both = row_of(result.cpu, mechanism="dtls", load="udp", end="both")
    assert both["median"] == pytest.approx(9.0)
    assert both["ratio"] == 2
    setup = row_of(result.setup, mechanism="dtls", direction="first")
    assert (setup["median"], setup["count"], setup["nva_cpu_ms"], setup["warm_ms"]) == (9.5, 10, 2.0, 0.5)
    assert {plot.name for plot in compared_plots.draw(result, tmp_path)} == {
        plot.name for plot in compared_plots.PLOTS
    }


def test_a_byte_too_many_fails_the_run(tmp_path):
    result = analyse(tmp_path, run_of(tmp_path, wrong="ah-single"))
    assert len(result.failures) == 3  # one for each size
    assert all("ah-single" in text for text in result.failures)
    assert not row_of(result.bytes, mechanism="ah", inner_bytes=64)["agrees"]


def test_a_mechanism_that_did_not_come_up_is_missing_and_never_zero(tmp_path):
    entries = [
        {**entry, "value": None, "missing": "it ended"} if entry["mechanism"] == "dtls" else entry
        for entry in run_of(tmp_path)
    ]  # fmt: skip
    result = analyse(tmp_path, entries)
    assert result.failures == []
    row = row_of(result.goodput, mechanism="dtls")
    assert (row["median"], row["count"], row["missing"], row["reasons"], row["ratio"]) == (None, 0, 6, "it ended", None)
    assert row_of(result.cpu, mechanism="dtls", load="tcp", end="both")["median"] is None
    assert any("dtls" in text and "it ended" in text for text in result.warnings)
    compared_plots.draw(result, tmp_path)


def test_another_path_than_the_one_named_is_a_warning(tmp_path):
    entries = run_of(tmp_path)
    for entry in entries:
        if entry["measure"] == "nve" and entry["mechanism"] == "dtls":
            entry["value"] = told(SINGLE)
    assert any("dtls-batched" in text and "single" in text for text in analyse(tmp_path, entries).warnings)


def test_a_paced_load_that_is_lost_is_a_warning(tmp_path):
    entries = run_of(tmp_path)
    for entry in entries:
        if entry["measure"].startswith("cpu_udp") and entry["mechanism"] == "ah" and entry["repeat"] == 2:
            entry["packets"] = 90
    (text,) = analyse(tmp_path, entries).warnings
    assert "10.0% of the paced load was lost under ah-single, repeat 2" in text


def test_the_kernels_own_ipsec_has_rows_where_there_is_any(tmp_path):
    entries = run_of(tmp_path)
    absent, there = IN_KERNEL[0], IN_KERNEL[2]
    entries.append(sample("kernel", absent.key(), None, "", "the kernel has none"))
    for repeat in range(6):
        entries.append(sample("tcp", {**there.key(), "repeat": repeat, "order": 0}, 2e9, "bit/s"))
    result = analyse(tmp_path, entries)
    assert row_of(result.nves, mechanism="esp", path=KERNEL)["reasons"] == "the kernel has none"
    assert not [row for row in result.goodput if (row["mechanism"], row["path"]) == ("esp", KERNEL)]
    assert row_of(result.goodput, mechanism="ah", path=KERNEL)["median"] == 2000
    assert result.warnings == []
    compared_plots.draw(result, tmp_path)


def test_nothing_measured_at_all_fails_the_run(tmp_path):
    entries = [sample(entry["measure"], {"mechanism": entry["mechanism"], "path": entry.get("path"), "repeat": 0,
                                         "direction": entry.get("direction")}, None, entry["unit"], "no network")
               for entry in run_of(tmp_path, repeats=1)]  # fmt: skip
    assert len(analyse(tmp_path, entries).failures) == 5
    assert len(analyse(tmp_path, []).failures) == 5


def test_the_plan_fits_its_time():
    assert analysis.seconds(RUN_PROFILES["quick"]) < 190
    assert analysis.seconds(RUN_PROFILES["smoke"]) < 60
    assert Variant("full", BATCHED, 9000).name == "full-batched-9000"

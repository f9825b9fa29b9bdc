"""The control-plane benchmark: its deployments are sound, its analysis is right, and a small run works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from controller.authority.membership import Membership
from controller.authority.states import vni_entries
from controller.inventory import parse_inventory
from experiments.control_scale import SAMPLES, Plan, publish, run
from experiments.control_scale_analysis import analyse, exponent, show, targets
from experiments.control_scale_counts import FrameCount
from experiments.control_scale_deployment import Deployment, inventory
from experiments.samples import SampleWriter
from experiments.tables import read_csv
from geneve.control import jsonrpc

PORTS = {"nva": 1001, "openflow": 1002, "rest": 1003}


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("nodes", [3, 25])
def test_a_node_is_complete_exactly_when_it_has_what_the_inventory_says(nodes, learned):
    deployment = Deployment(nodes, learned=learned)
    parsed = parse_inventory(json.dumps(inventory(deployment, PORTS)), "inventory")
    membership = Membership(parsed)
    for index in range(nodes):
        expected = {}
        for vni in parsed.vnis:
            if vni.vni in membership.vnis_of(deployment.name(index)):
                tenants = [
                    tenant for other in range(nodes) for tenant in deployment.tenants(other) if tenant.vni == vni.vni
                ]
                expected[f"vni/{vni.vni}"] = len(vni_entries(vni, membership, ())) + len(tenants)
        assert deployment.entries(index) == expected
    assert len(parsed.mappings) == (0 if learned else 10 * nodes)


def test_a_change_is_another_address_of_the_tenant_in_the_shared_network_only():
    deployment = Deployment(3)
    before, after = deployment.tenants(1), deployment.tenants(1, change=5)
    assert [place for place in range(10) if before[place] != after[place]] == [0]
    assert before[0].mac == after[0].mac


@pytest.mark.parametrize("step", [1, 3, 5, 1000])
def test_frames_are_counted_however_they_are_cut(step):
    stream = b"".join(jsonrpc.encode(jsonrpc.Request(number, "ping")) for number in range(7))
    counter = FrameCount()
    assert sum(counter.feed(stream[place : place + step]) for place in range(0, len(stream), step)) == 7


def test_an_exponent_is_the_slope_of_the_logarithms():
    assert exponent([(10, 5.0), (100, 500.0), (1000, 50000.0)]) == pytest.approx(2.0)
    assert exponent([(10, 5.0)]) is None
    assert exponent([(10, 0.0), (100, 1.0)]) is None


def phase(nodes: int, name: str, value: float | None, mode: str = "learned", **more: object) -> dict:
    counts = {"received_tls": 1000 * nodes, "sent_tls": 500 * nodes, "received_json": 900 * nodes,
              "sent_json": 400 * nodes, "received_messages": nodes, "sent_messages": nodes,
              "disconnections": 0}  # fmt: skip
    return {"measure": "phase", "mode": mode, "nodes": nodes, "phase": name, "value": value, "unit": "s",
            "missing": None if value is not None else "not there", "counts": counts, "nva_cpu_s": 1.0,
            "nva_peak_rss_bytes": 100 << 20, **more}  # fmt: skip


def write(path: Path, samples: list[dict]) -> Path:
    with SampleWriter(path) as writer:
        for entry in samples:
            writer.write(entry)
    return path


def test_rows_are_medians_and_growth_is_measured(tmp_path):
    samples = [phase(10, "tenants", value) for value in (1.0, 3.0, 2.0)] + [phase(100, "tenants", 20.0)]
    samples += [phase(10, "change", 0.3, latencies=[0.1, 0.2, 0.3]), phase(10, "rekey", None, per_node=4)]
    result = analyse(write(tmp_path / "samples", samples))
    (row,) = [row for row in result.phases if (row["phase"], row["nodes"]) == ("tenants", 10)]
    assert (row["seconds"], row["ci_low"], row["ci_high"], row["count"]) == (2.0, 1.0, 3.0, 3)
    assert (row["bytes"], row["messages"], row["bytes_per_node"]) == (15000, 20, 1500)
    growth = {(entry["phase"], entry["figure"]): entry["exponent"] for entry in result.growth}
    assert growth["tenants", "seconds"] == 1.0
    assert growth["tenants", "bytes"] == 1.0
    (change,) = [row for row in result.phases if row["phase"] == "change"]
    assert (change["p50_ms"], change["max_ms"]) == (200, 300)
    assert result.latencies["learned", "change", 10] == [[0.1, 0.2, 0.3]]
    assert result.missing == ["learned, 10 nodes, rekey: not there"]
    assert "tenants" in show(result.phases)


def verdicts(tmp_path: Path, synchronised: float, change: float, peak_mib: int) -> list[bool]:
    peak = {"nva_peak_rss_bytes": peak_mib << 20}
    samples = [
        phase(1000, "synchronisation", synchronised, "static"), phase(1000, "registration", 1.0),
        phase(1000, "tenants", 5.0, **peak), phase(1000, "change", 1.0), phase(1000, "change", change, "static"),
    ]  # fmt: skip
    return [met for _, met in targets(analyse(write(tmp_path / "verdicts", samples)).phases)]


def test_targets_can_be_missed(tmp_path):
    assert verdicts(tmp_path / "met", 50.0, 1.5, 1000) == [True] * 5
    assert verdicts(tmp_path / "missed", 70.0, 2.5, 1100) == [False, True, True, False, False]
    assert list(targets(analyse(write(tmp_path / "small", [phase(10, "change", 1.0)])).phases)) == []


def test_a_phase_that_did_not_end_misses_its_target(tmp_path):
    samples = [phase(1000, "registration", 1.0), phase(1000, "tenants", None)]
    assert [met for _, met in targets(analyse(write(tmp_path / "samples", samples)).phases)][:4] == [False] * 4


def test_three_nodes_over_loopback(tmp_path):
    """The real program, real TLS connections; what is measured is not looked at, only that it is there."""
    plan = Plan(sizes=(3,), eager_sizes=(3,), changes=2, needs=1, keys_per_node=(2,), idle_seconds=0.1)
    raw = tmp_path / "raw"
    with SampleWriter(raw / SAMPLES) as writer:
        assert run(plan, writer.write, seed=1, workers=2, log_folder=raw) == []
    rows = publish(tmp_path)
    assert {(row["mode"], row["phase"]) for row in rows} == {
        ("static", "start"), ("static", "registration"), ("static", "synchronisation"), ("static", "change"),
        ("learned", "start"), ("learned", "registration"), ("learned", "tenants"), ("learned", "idle"),
        ("learned", "change"), ("learned", "need"), ("learned", "need-all"), ("learned", "rekey"),
        ("learned", "restart"), ("eager", "start"), ("eager", "registration"), ("eager", "keys"), ("eager", "rekey"),
    }  # fmt: skip
    assert all(row["seconds"] is not None for row in rows)
    pairs = {(row["mode"], row["per_node"]): row["pairs"] for row in rows if row["phase"] == "rekey"}
    assert pairs == {("learned", 2): 6, ("eager", None): 12}
    assert len(read_csv(tmp_path / "csv" / "control-scale.csv")[1]) == len(rows)
    assert (tmp_path / "plots" / "control-scale-change.pdf").exists()

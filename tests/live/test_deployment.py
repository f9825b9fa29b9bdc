"""Captures of the emulated network show what its scenario promises, under the audit's eyes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from experiments.audit.capture_audit import audit_capture
from experiments.audit.result import AuditResult, Verdict
from experiments.measure import Capture
from tests.live.conftest import make_testbed, make_testbed_of
from tests.live.test_scenarios import pings
from topologies.network import Testbed
from topologies.scenario_file import load_scenario

pytestmark = pytest.mark.live

MET, NOT_MET = Verdict.MET, Verdict.NOT_MET
NULL = {"dtls-null": "DTLS", "esp-null": "ESP", "esp-null-udp": "ESP", "ah": "AH"}


def watch(testbed: Testbed, path: Path, talk: list[tuple[str, str]]) -> AuditResult:
    """Audit what passes nve1's port while hosts ping addresses."""
    with Capture(testbed.node("nve1"), testbed.interface("nve1", "s1"), path, "ip", 100_000):
        for host, address in talk:
            assert pings(testbed, host, address, count=20), (host, address)
        time.sleep(0.2)
    return audit_capture(path)


def test_the_good_deployment_runs_and_its_captures_show_it(tmp_path: Path) -> None:
    talk = [("red1", "10.0.0.2"), ("red1", "fd00:10::2"), ("blue1", "10.0.0.2"), ("blue1", "10.0.0.3")]
    with make_testbed("deployment-good", tmp_path) as testbed:
        result = watch(testbed, tmp_path / "a.pcap", talk)
    for requirement in ("SEC-OP-1", "SEC-OP-4", "SEC-OP-6", "SEC-OP-8"):
        assert result.judgement(requirement).verdict is MET, result.judgement(requirement)
    vnis = {row["vni"]: row for row in result.inventory["vnis"]}
    assert set(vnis) == {"0", "200"}, "red's VNI is hidden, blue's is not"
    assert vnis["0"]["sizes"]["padded"] is True
    assert result.finding("unauthenticated") is None


@pytest.mark.parametrize("mechanism", ["dtls", "esp-null-udp", "ah"])
def test_channels_are_told_apart(mechanism: str, tmp_path: Path) -> None:
    with make_testbed_of(load_scenario("small").under(mechanism), tmp_path) as testbed:
        result = watch(testbed, tmp_path / "a.pcap", [("red1", "10.0.0.2"), ("blue1", "10.0.0.2")])
    verdicts = {item.requirement: item.verdict for item in result.judgements}
    assert verdicts["SEC-OP-1"] is (NOT_MET if mechanism in NULL else MET), result.judgement("SEC-OP-1")
    assert [verdicts[f"SEC-OP-{n}"] for n in (4, 5, 6, 8)] == [MET] * 4
    vnis = {row["vni"] for row in result.inventory["vnis"]}
    assert vnis == ({"100", "200"} if mechanism in NULL else set())
    assert any(NULL.get(mechanism, mechanism[:3].upper()) in row["protection"] for row in result.inventory["talks"])

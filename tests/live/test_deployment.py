"""The audit's good example runs, and its captures show what its file promises."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from experiments.audit.capture_audit import audit_capture
from experiments.audit.result import Verdict
from tests.live.conftest import make_testbed
from tests.live.test_scenarios import pings

pytestmark = pytest.mark.live


def test_the_good_deployment_runs_and_its_captures_show_it(tmp_path: Path) -> None:
    path = tmp_path / "nve1.pcap"
    with make_testbed("deployment-good", tmp_path) as testbed:
        argv = ["tcpdump", "-i", "nve1-eth0", "-U", "-w", str(path), "udp", "port", "6081"]
        process = testbed.node("nve1").popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            while not path.exists() or not path.stat().st_size:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            for _ in range(3):
                assert pings(testbed, "red1", "10.0.0.2", count=10)
                for address in ("10.0.0.2", "10.0.0.3", "fd00:10::2"):
                    assert pings(testbed, "blue1", address), address
        finally:
            process.terminate()
            process.wait(timeout=10)
    result = audit_capture(path)
    verdicts = {item.requirement: item.verdict for item in result.judgements}
    for requirement in ("SEC-OP-1", "SEC-OP-4", "SEC-OP-6", "SEC-OP-8"):
        assert verdicts[requirement] is Verdict.MET, result.judgement(requirement)
    vnis = {row["vni"]: row for row in result.inventory["vnis"]}
    # Red's VNI is hidden, blue's is not.
    assert set(vnis) == {"0", "200"}
    assert vnis["0"]["sizes"]["padded"] is True
    assert result.finding("unauthenticated") is None

"""What a started network leaves in run.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import bench
from experiments.context import Context
from experiments.profiles import PROFILES
from experiments.progress import Progress
from experiments.results import RunDirectory
from topologies.plan import Kind

ON = {"tso": "on", "udp_segment": "on"}
LATER = {"tso": "on", "udp_segment": "unavailable: UDP_SEGMENT: Input/output error"}


class FakeTestbed:
    """A network of two NVEs and a transit device, one of which can be away."""

    warnings = ("something is slow",)

    def __init__(self, *_: Any, **__: Any) -> None:
        self.plan = self
        self.facts: dict[str, Any] = {}
        self.offloads: dict[str, dict[str, str]] = {"nve1": ON, "nve2": ON, "t1": {"vnet_header": "on"}}
        self.stopped = False

    def nodes(self, kind: Kind) -> list[str]:
        return {Kind.NVE: ["nve1", "nve2"], Kind.TRANSIT: ["t1"]}[kind]

    def start(self, _: object) -> None:
        self.facts["start_seconds"] = 1.5

    def stats(self, name: str) -> dict[str, Any]:
        if name not in self.offloads:
            raise ConnectionRefusedError
        return {"offloads": self.offloads[name]}

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr(bench, "Testbed", FakeTestbed)
    run = RunDirectory.create(tmp_path, "smoke", {})
    return Context("overhead", "small", run, PROFILES["smoke"], 1, Progress())


def noted(context: Context, label: str) -> dict[str, Any]:
    return RunDirectory.open(context.run.path).record["testbeds"][f"overhead {label}"]


def test_each_networks_facts_say_what_became_of_its_nodes_offloads(context: Context) -> None:
    for label in ("none", "full"):
        with bench.started(context, None, label) as testbed:
            found = noted(context, label)
            assert found["node_offloads"] == {"nve1": ON, "nve2": ON, "t1": {"vnet_header": "on"}}
            assert found["start_seconds"] == 1.5
            testbed.offloads["nve1"] = LATER
            testbed.facts["marks_ns"] = {"ready": 7}
        assert testbed.stopped
        assert noted(context, label)["node_offloads"]["nve1"] == LATER, "the kernel refuses some in use only"
        assert noted(context, label)["marks_ns"] == {"ready": 7}
    assert noted(context, "none"), "the second network has not replaced the first"
    assert context.run.record["warnings"] == ["something is slow"]


def test_a_node_that_is_away_ends_nothing(context: Context) -> None:
    with bench.started(context, None, "full") as testbed:
        del testbed.offloads["nve2"]
    assert noted(context, "full")["node_offloads"] == {"nve1": ON, "nve2": None, "t1": {"vnet_header": "on"}}


def test_an_experiment_that_breaks_off_leaves_what_was_noted_at_the_start(context: Context) -> None:
    network = bench.started(context, None, "full")
    testbed = network.__enter__()
    testbed.offloads["nve1"] = LATER
    assert not network.__exit__(RuntimeError, RuntimeError("broken"), None)
    assert testbed.stopped
    assert noted(context, "full")["node_offloads"]["nve1"] == ON

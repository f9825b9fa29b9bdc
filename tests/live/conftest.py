"""How live tests run.

``make test`` starts pytest itself inside a sandbox (``python -m topologies.sandbox -- python -m
pytest``): one pytest, one summary, and a test may build networks as it likes. Two kinds of live tests:

- those with a testbed: take the fixture ``small_testbed`` (started once for each test module, in about
  two seconds) or build a ``Testbed`` of their own; one at a time, since the switches share the sandbox's
  network namespace;
- those that start ``python -m topologies.sandbox -- ...`` themselves, such as the sandbox's own: they
  nest a sandbox and work outside of one too.

Started by hand outside a sandbox, tests of the first kind are skipped and say so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.bench import Hosts
from topologies import sandbox
from topologies.network import Testbed
from topologies.scenario import Scenario
from topologies.scenario_file import load_scenario


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs root when there is none."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("live") is not None:
            item.add_marker(pytest.mark.skip(reason="needs root; run 'sudo make test'"))


@pytest.fixture(scope="module")
def small_testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """A started testbed of the small scenario, shared by the tests of one module."""
    with make_testbed("small", tmp_path_factory.mktemp("run")) as testbed:
        yield testbed


@pytest.fixture(scope="module")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """A started testbed of the control-plane scenario, shared by the tests of one module."""
    with make_testbed("control-plane", tmp_path_factory.mktemp("run")) as made:
        yield made


@pytest.fixture
def hosts(testbed: Testbed, tmp_path: Path) -> Iterator[Hosts]:
    """Senders and receivers in the hosts of the control-plane scenario."""
    with Hosts(testbed, tmp_path) as made:
        yield made


def make_testbed(name: str, folder: Path, framework: str = "auto") -> Testbed:
    """Return a testbed to start, or skip where none can run."""
    return make_testbed_of(load_scenario(name), folder, framework)


def make_testbed_of(scenario: Scenario, folder: Path, framework: str = "auto") -> Testbed:
    """Return a testbed of a scenario to start, or skip where none can run."""
    if not sandbox.inside():
        pytest.skip("builds a network and so runs inside the sandbox only; run 'make test'")
    return Testbed(scenario, folder, framework)

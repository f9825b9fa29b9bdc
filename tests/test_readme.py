"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from geneve.config import load
from nve.config import NveConfig
from topologies.plan import make_plan
from topologies.scenario_file import parse_scenario

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def yaml_block(first_line: str) -> str:
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    return next(block for block in blocks if block.startswith(first_line))


def test_the_scenario_loads_and_plans():
    scenario = parse_scenario(yaml_block("name: mine"), "README.md")
    plan = make_plan(scenario)
    assert set(scenario.nves) <= set(plan.kinds)


def test_the_stand_alone_configuration_loads():
    assert load(yaml_block("name: nve1"), "README.md", NveConfig).static_state is not None


def test_every_file_it_links_to_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) >= 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_target_it_names_is_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z][a-z-]*)", README))
    assert {"experiment", "test", "cli", "doctor", "plots"} <= targets
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []

"""Rate and delay of links as commands, and what is said when the kernel cannot."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest

from geneve.errors import ConfigError
from topologies.plan import Shaping, make_plan
from topologies.scenario_file import parse_scenario, scenario_path
from topologies.shaping import apply_shaping, shaping_argv


def test_a_link_is_shaped_at_both_switches_in_its_direction_out() -> None:
    text = scenario_path("small").read_text().replace("via: [t1, eve]", "via: [t1, eve], rate_mbit: 10")
    assert make_plan(parse_scenario(text, "x.yaml")).shaping == (
        Shaping("s1", "s1-eth1", 10, None),
        Shaping("s2", "s2-eth1", 10, None),
    )


@pytest.mark.parametrize(
    ("rate", "delay", "expected"),
    [
        (10, None, "tbf rate 10mbit burst 65536 latency 50ms"),
        (None, 2.5, "netem delay 2.5ms"),
        (10, 2.5, "netem delay 2.5ms rate 10mbit"),
    ],
)
def test_commands(rate: float | None, delay: float | None, expected: str) -> None:
    argv = shaping_argv(Shaping("s1", "s1-eth1", rate, delay))
    assert " ".join(argv) == f"tc qdisc add dev s1-eth1 root {expected}"


def test_refusal_names_the_way_out() -> None:
    def refuse(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(argv, 2, "", "Error: Specified qdisc kind is unknown.")

    with pytest.raises(ConfigError, match=r"underlay\.links.*s1-eth1.*no working netem.*'impair'.*\.$"):
        apply_shaping([Shaping("s1", "s1-eth1", None, 1)], refuse)

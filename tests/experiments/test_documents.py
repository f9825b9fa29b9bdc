"""What the documents say of columns, attacks, verdicts and statuses is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiments import (
    attacks_analysis,
    control_analysis,
    control_scale_analysis,
    overhead_analysis,
    results,
    telemetry_analysis,
)
from experiments.conformance import analysis as conformance_analysis
from experiments.conformance.verdicts import Agreement
from experiments.conformance.verdicts import Verdict as Conformance
from experiments.dataplane import flood_analysis, scale_analysis
from experiments.dataplane.kinds import KINDS
from experiments.mechanism.probe import Weight
from experiments.mechanisms import compared_analysis, partial_analysis
from experiments.peers import analysis as peers_analysis
from experiments.peers.registry import CONTENDERS
from experiments.profiles import PROFILES
from experiments.registry import EXPERIMENTS

ROOT = Path(__file__).resolve().parent.parent.parent
TABLES = {
    **{f"overhead-{name}.csv": columns for name, columns in overhead_analysis.TABLES.items()},
    "attacks-outcomes.csv": attacks_analysis.OUTCOME_COLUMNS,
    "attacks-legitimate.csv": attacks_analysis.LEGITIMATE_COLUMNS,
    "telemetry-path.csv": telemetry_analysis.COLUMNS,
    **{f"control-{name}.csv": columns for name, columns in control_analysis.TABLES.items()},
    "bench.csv": peers_analysis.COLUMNS,
    "bench-ratios.csv": peers_analysis.RATIO_COLUMNS,
    "bench-targets.csv": peers_analysis.TARGET_COLUMNS,
    **{f"dataplane-scale-{name}.csv": columns for name, columns in scale_analysis.TABLES.items()},
    **{f"flood-{name}.csv": columns for name, columns in flood_analysis.TABLES.items()},
    **{f"mechanisms-{name}.csv": columns for name, columns in compared_analysis.TABLES.items()},
    **{f"partial-{name}.csv": columns for name, columns in partial_analysis.TABLES.items()},
    "conformance.csv": conformance_analysis.COLUMNS,
    "conformance-findings.csv": conformance_analysis.FINDING_COLUMNS,
    "control-scale.csv": control_scale_analysis.COLUMNS,
    "control-scale-growth.csv": control_scale_analysis.GROWTH_COLUMNS,
}
NAMED_IN_WORDS = {"unit", "attack"}
"""Columns that need no explanation."""


def _quoted(path: str) -> set[str]:
    text = (ROOT / path).read_text(encoding="utf-8")
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))


@pytest.mark.parametrize("file", sorted(TABLES))
def test_every_column_is_explained(file: str) -> None:
    quoted = _quoted("results/README.md")
    assert file in quoted
    assert set(TABLES[file]) - quoted - NAMED_IN_WORDS == set()


def test_every_status_attack_verdict_and_profile_is_explained() -> None:
    statuses = {results.COMPLETE, results.FAILED, results.INTERRUPTED, results.RUNNING}
    assert statuses - _quoted("results/README.md") == set()
    words = _quoted("docs/experiments.md")
    assert set(attacks_analysis.ATTACKS) - words == set()
    assert set(attacks_analysis.MODES) - words == set()
    assert set(KINDS) - words == set()
    assert set(PROFILES) - words == set()
    text = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    verdicts = ("attack succeeded (control)", "resisted", "succeeds by design", "not applicable", "BROKEN", "INVALID")
    for verdict in verdicts:
        assert f"| {verdict} |" in text
    for name in EXPERIMENTS:
        assert f"\n## {name.capitalize()}" in text


def _section(file: str) -> str:
    """Return what results/README.md says of a table: from its name to the blank line behind its own rows."""
    text = (ROOT / "results/README.md").read_text(encoding="utf-8")
    return re.split(r"\n\n(?!\|)", text[text.index(f"\n`{file}`") + 1 :], maxsplit=1)[0]


@pytest.mark.parametrize(
    ("file", "columns"),
    [
        ("conformance.csv", conformance_analysis.COLUMNS),
        ("conformance-findings.csv", conformance_analysis.FINDING_COLUMNS),
    ],
)
def test_the_columns_of_conformance_are_explained_with_their_own_table(file: str, columns: tuple[str, ...]) -> None:
    assert set(columns) - set(re.findall(r"`([^`\n]+)`", _section(file))) == set()


def test_what_conformance_can_say_is_explained_and_its_raw_files_are() -> None:
    verdicts = set(re.findall(r"`([^`]+)`", _section("conformance.csv")))
    assert {verdict.value for verdict in Conformance} - verdicts == set()
    said = set(re.findall(r"`([^`]+)`", _section("conformance-findings.csv")))
    assert {weight.value for weight in Weight} - said == set()
    assert {item.value for item in Agreement if item.value} - said == set()
    text = (ROOT / "results/README.md").read_text(encoding="utf-8")
    assert f"`conformance/{conformance_analysis.DEPLOYMENTS}`" in text
    assert f"`conformance/{conformance_analysis.PLAN}`" in text


def test_every_contender_of_the_benchmark_is_described_with_its_mtu() -> None:
    text = (ROOT / "docs/bench.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    for name, contender in CONTENDERS.items():
        (row,) = [row for row in rows if f"`{name}`" in row.split("|")[1]]
        assert str(contender.description.tenant_mtu) in row

"""Scenario files: found by name or path, read, and checked as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geneve.config import parse_yaml, validate
from geneve.errors import ConfigError
from topologies.profiles import OURS
from topologies.scenario import Scenario
from topologies.scenario_checks import first_fault

SCENARIO_FOLDER = Path(__file__).parent / "scenarios"


def scenario_names() -> list[str]:
    """Return the names of the scenarios that come with the testbed."""
    return sorted(path.stem for path in SCENARIO_FOLDER.glob("*.yaml"))


def scenario_path(source: str | Path) -> Path:
    """Return the file that ``source`` means: a path, or the name of one of the testbed's scenarios."""
    path = Path(source)
    if path.suffix not in {".yaml", ".yml"} and path.name == str(source):
        known = SCENARIO_FOLDER / f"{source}.yaml"
        if not known.exists():
            names = ", ".join(scenario_names())
            raise ConfigError(f"{source}: no scenario has this name; give a YAML file or one of {names}.")
        return known
    return path


def load_scenario(source: str | Path) -> Scenario:
    """Read and check a scenario file or a scenario by name; ConfigError is one sentence."""
    path = scenario_path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason}); give a scenario's name or file.") from None
    return parse_scenario(text, str(path))


def parse_scenario(text: str, source: str) -> Scenario:
    """Parse and check a scenario; ConfigError names ``source`` and the key at fault."""
    scenario = validate(_with_profiles(parse_yaml(text, source)), source, Scenario)
    fault = first_fault(scenario)
    if fault is not None:
        raise ConfigError(f"{source}: {fault}")
    return scenario


def _with_profiles(data: Any) -> Any:
    """Give tenants without a profile that of the mechanism, where there is one for all."""
    mechanism = data.get("mechanism", OURS) if isinstance(data, dict) else OURS
    tenants = None if mechanism == OURS else data.get("tenants")
    if not isinstance(tenants, dict):
        return data
    given = {
        name: {"profile": mechanism, **tenant} if isinstance(tenant, dict) else tenant
        for name, tenant in tenants.items()
    }
    return {**data, "tenants": given}

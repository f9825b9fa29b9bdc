"""Scenario files: found by name or path, read, and checked as a whole."""

from __future__ import annotations

from pathlib import Path

from geneve.config import load
from geneve.errors import ConfigError
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
    scenario = load(text, source, Scenario)
    fault = first_fault(scenario)
    if fault is not None:
        raise ConfigError(f"{source}: {fault}")
    return scenario

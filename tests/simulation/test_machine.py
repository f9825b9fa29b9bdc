"""Whatever happens in whatever order, the invariants hold, and once the faults are over everything works again.

SIMULATION_EXAMPLES and SIMULATION_STEPS (environment) make longer runs.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.simulation.machine import Machine

EXAMPLES = int(os.environ.get("SIMULATION_EXAMPLES", "25"))
STEPS = int(os.environ.get("SIMULATION_STEPS", "25"))


def test_invariants_hold_and_the_world_heals() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )

"""Whether the simulation would notice: each mutant of mutants.py must be caught, and without any nothing is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.mutants import MUTANTS, Patch


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_mutant_is_noticed(mutate: Callable[[Patch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mutate(patch)
        with pytest.raises((AssertionError, LookupError)) as noticed:
            MUTANTS[mutate]()
    print(f"{mutate.__name__}: {str(noticed.value)[:120]}")


def test_without_mutants_nothing_is_noticed() -> None:
    for run in dict.fromkeys(MUTANTS.values()):
        run()

"""Whether the simulation would notice: each mutant of mutants.py must be caught, and without any nothing is.

============================================  ===========================================================
Mutant                                        What notices it
============================================  ===========================================================
promote before the acknowledgement            a sender uses what its audience does not hold
break before make, no grace period            frames are lost in a rekey without faults
sequence numbers start again with a push      a (key, nonce) pair is used twice
plaintext where there are no keys             a tenant's data is seen on the underlay
sent before it is stored                      a key is pushed that the store does not know
SPIs are not reserved                         an SPI names two associations after a crash
a leaver's key is not replaced                a sender in step uses a key that a revoked node knows
a newcomer is given the group's old key       an SPI names two associations (members are part of it)
a new process keeps its keys                  a node holds what was made before it came
pushes are not repeated                       not every node is in step within the time for recovery
requests are not repeated                     a tenant is mapped to where it was
deltas without their keys                     a sender uses what its audience does not hold
a policy is put in force unchecked            a policy is in force that a node refuses
associations or their stages are not stored   a key unknown to the store; memory and restart differ
============================================  ===========================================================
"""

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

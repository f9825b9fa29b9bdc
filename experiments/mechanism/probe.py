"""What a probe is: what it does on the emulated network, and how its evidence is judged afterwards.

A probe judges captures and what receivers got, wherever these can show it. Some statements rest on what nodes count,
since no packet shows it: which options a node read (SEC-GEN-3, 5), what transit devices acted on or refused (13, 14),
and that packets which eve brought elsewhere or a member forged came to be refused (16, 17). The NVA's list of
associations says whose an SPI is (15 to 17), and nodes say which DTLS sessions they have (16). Attacks are counted by
who makes them.
Each probe runs twice, side by side: for a tenant under the profile that is to meet the requirement, and for its twin
under a crippled one, where the same judge must say "not met", while the controls hold there too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from geneve.control.profile import Profile

if TYPE_CHECKING:
    from experiments.mechanism.evidence import Evidence
    from experiments.mechanism.live import Bench

MUST, SHOULD = "MUST", "SHOULD"


WHOLE = "whole"
"""The part of a requirement that a statement belongs to, unless it says otherwise."""


class Weight(str, Enum):
    """What a statement is for: the requirement demands it, the trial is void without it, or it is worth knowing."""

    DEMANDED = "demanded"
    CONTROL = "control"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement that a judge checked. ``packets`` are numbers in the capture, counted from 1.

    Our own profiles have to pass all statements. For a comparison of mechanisms, ``weight`` says what a statement is
    for, and ``parts`` which things the requirement asks for need it: a thing is there if all its statements hold.
    """

    statement: str
    holds: bool
    reason: str
    packets: tuple[int, ...] = ()
    weight: Weight = Weight.DEMANDED
    parts: tuple[str, ...] = (WHOLE,)


Judge = Callable[["Evidence"], list[Finding]]
"""Reads a probe's evidence and says what holds."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of one requirement.

    ``act`` does on the network what is needed, for the tenant it is given, and returns facts that are kept;
    ``judge`` gets the evidence back from disk. ``cripple`` takes the protection out of the profile; None: the twin has
    none at all.
    """

    requirement: int
    level: str
    name: str
    scenario: str
    tenant: str
    act: Callable[[Bench], dict[str, object]]
    judge: Callable[[Evidence], list[Finding]]
    cripple: Callable[[Profile], Profile | None]
    keep_rules: bool = True
    """Whether the twin has the tenant's policy rules too."""
    beside: tuple[str, ...] = ()
    """Other tenants of the scenario that act too."""
    compared: bool = True
    """Whether it is worth trying under other mechanisms, beside the requirement's other probes: not if it looks at
    another setting of ours only, or at more than the requirement asks for."""

"""The outcome of an operator's risk analysis, as a scenario file has it (the draft's SEC-OP-2, 3, 5, 7 and 8).

Several requirements say that a risk MUST be evaluated, and what follows where it is too high. No packet shows that
somebody thought about it, so the operator writes it down here, with reasons. Nothing in the network acts on it.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from geneve.config import StrictModel
from geneve.control.names import Name

ANY_OPTION = "all"
"""Instead of an option's class and type: every option that is not named itself."""

_OPTION = re.compile(r"0x[0-9a-f]{4}:0x[0-9a-f]{2}")


def option_key(option_class: int, option_type: int) -> str:
    """Return how risk analyses name an option."""
    return f"0x{option_class:04x}:0x{option_type:02x}"


def _check_option(value: str) -> str:
    value = value.lower()
    if value != ANY_OPTION and not _OPTION.fullmatch(value):
        raise ValueError(f"expected an option's class and type such as 0x0102:0x80, or '{ANY_OPTION}'")
    return value


OptionKey = Annotated[str, AfterValidator(_check_option)]
"""Class and type of an option, such as 0x0102:0x80, or ``all``."""
Text = Annotated[str, Field(min_length=1, max_length=2000)]
"""A reason in words; an evaluation without one is none."""


class Evaluated(StrictModel):
    """One risk as the operator judged it; ``high`` means too high to be left as it is."""

    risk: Literal["low", "high"]
    reason: Text

    @property
    def high(self) -> bool:
        """Whether something has to be done about it."""
        return self.risk == "high"


class Leaking(StrictModel):
    """What it would mean if others read the Geneve information (SEC-OP-2)."""

    vni: Evaluated | None = None
    protocol_type: Evaluated | None = None
    options: dict[OptionKey, Evaluated] = {}


class Modification(StrictModel):
    """What it would mean if others changed outer header, Geneve header or options (SEC-OP-5)."""

    outer_header: Evaluated | None = None
    geneve_header: Evaluated | None = None
    options: dict[OptionKey, Evaluated] = {}


class Delegated(StrictModel):
    """What the operator leaves to the tenant's own systems, and why that is enough (SEC-OP-1, 4 and 6)."""

    encryption: Text | None = None
    authentication: Text | None = None


class RiskEvaluation(StrictModel):
    """All that was evaluated for a tenant, or for all. What is left out, nobody has evaluated.

    ``processing_before_authentication`` is about NVEs and transit devices that act on what nobody has verified.
    """

    leaking: Leaking = Leaking()
    traffic_patterns: Evaluated | None = None
    modification: Modification = Modification()
    replay: Evaluated | None = None
    processing_before_authentication: Evaluated | None = None
    delegated: Delegated = Delegated()


class RiskAnalysis(StrictModel):
    """A scenario's risk analysis: ``all`` for every tenant, ``tenants`` where one differs, point by point."""

    all: RiskEvaluation = RiskEvaluation()
    tenants: dict[Name, RiskEvaluation] = {}

    def evaluation(self, tenant: str) -> RiskEvaluation:
        """Return what was evaluated for ``tenant``: its own points, and for the others those for all."""
        own = self.tenants.get(tenant, RiskEvaluation())
        return RiskEvaluation(
            leaking=Leaking(
                vni=own.leaking.vni or self.all.leaking.vni,
                protocol_type=own.leaking.protocol_type or self.all.leaking.protocol_type,
                options={**self.all.leaking.options, **own.leaking.options},
            ),
            traffic_patterns=own.traffic_patterns or self.all.traffic_patterns,
            modification=Modification(
                outer_header=own.modification.outer_header or self.all.modification.outer_header,
                geneve_header=own.modification.geneve_header or self.all.modification.geneve_header,
                options={**self.all.modification.options, **own.modification.options},
            ),
            replay=own.replay or self.all.replay,
            processing_before_authentication=own.processing_before_authentication
            or self.all.processing_before_authentication,
            delegated=Delegated(
                encryption=own.delegated.encryption or self.all.delegated.encryption,
                authentication=own.delegated.authentication or self.all.delegated.authentication,
            ),
        )


def option_point(evaluated: dict[str, Evaluated], key: str) -> Evaluated | None:
    """Return what was evaluated of the option ``key``, by itself or with all others; None when nothing was."""
    return evaluated.get(key) or evaluated.get(ANY_OPTION)


def option_risk(evaluated: dict[str, Evaluated], option_class: int, option_type: int) -> Evaluated | None:
    """Return what was evaluated of an option by class and type; None when nothing was."""
    return option_point(evaluated, option_key(option_class, option_type))

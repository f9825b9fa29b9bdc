"""Faults to plant in a scenario that meets every requirement: each is found by the audit, or the audit is wrong.

Each takes ``deployment-good`` and returns it with one thing changed. Where one change breaks more than its own
requirement, ``why`` says so: the requirements overlap, and a deployment cannot have one without the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from experiments.audit.result import LEVELS, Verdict
from geneve.control.profile import Coverage, InnerCoverage, KeyGranularity, Padding, PaddingMode
from geneve.control.rules import Action, Endpoint, Protocol, Rule
from geneve.header import HeaderField
from topologies.risks import Delegated, Evaluated, RiskEvaluation
from topologies.scenario import Scenario

NOT_MET, IN_PART = Verdict.NOT_MET, Verdict.IN_PART
RED, BLUE = "red", "blue"
SHIELDED, BY_RULE = "shielded", "by-rule"


@dataclass(frozen=True)
class Fault:
    """A change and what the audit must say of it: requirement -> verdict; all others stay met."""

    name: str
    plant: Callable[[Scenario], Scenario]
    breaks: dict[str, Verdict]
    why: str = ""
    key: str = field(default="")
    """Start of the key in the scenario file that the first broken requirement must point to."""


def _changed(model: Any, **values: Any) -> Any:
    """Return a model with values changed, checked again as a whole."""
    given = {name: getattr(model, name) for name in type(model).model_fields}
    return type(model)(**{**given, **values})


def _profile(scenario: Scenario, name: str, **values: Any) -> Scenario:
    profiles = tuple(_changed(item, **values) if item.name == name else item for item in scenario.profiles)
    return _scenario(scenario, profiles=profiles)


def _scenario(scenario: Scenario, **values: Any) -> Scenario:
    changed: Scenario = _changed(scenario, **values)
    return changed


def _tenant(scenario: Scenario, name: str, **values: Any) -> Scenario:
    return _scenario(scenario, tenants={**scenario.tenants, name: _changed(scenario.tenants[name], **values)})


def _risks(scenario: Scenario, tenant: str | None, **values: Any) -> Scenario:
    analysis = scenario.risks
    assert analysis is not None
    if tenant is None:
        return _scenario(scenario, risks=_changed(analysis, all=_changed(analysis.all, **values)))
    own = _changed(analysis.tenants.get(tenant, RiskEvaluation()), **values)
    return _scenario(scenario, risks=_changed(analysis, tenants={**analysis.tenants, tenant: own}))


def _of_all(scenario: Scenario) -> RiskEvaluation:
    assert scenario.risks is not None
    return scenario.risks.all


def blue_in_clear(scenario: Scenario) -> Scenario:
    """SEC-OP-1: one tenant's frames are authenticated but not encrypted."""
    return _profile(scenario, BY_RULE, egress=Coverage(encrypt_inner=InnerCoverage.NONE))


def payload_in_clear(scenario: Scenario) -> Scenario:
    """SEC-OP-1: only the inner headers of one tenant's frames are encrypted."""
    return _profile(scenario, BY_RULE, egress=Coverage(encrypt_inner=InnerCoverage.HEADERS))


def vni_shown(scenario: Scenario) -> Scenario:
    """SEC-OP-2: the VNI whose leaking is a high risk travels in clear."""
    profile = scenario.profile(SHIELDED)
    assert profile is not None
    assert profile.transit is not None
    transit = _changed(profile.transit, reveal_header=frozenset())
    return _profile(scenario, SHIELDED, hidden_header=frozenset({HeaderField.PROTOCOL_TYPE}), transit=transit)


def option_shown(scenario: Scenario) -> Scenario:
    """SEC-OP-2: the option whose leaking is a high risk travels in clear."""
    return _profile(scenario, SHIELDED, egress=Coverage())


def leaking_not_evaluated(scenario: Scenario) -> Scenario:
    """SEC-OP-2: nobody has thought about what the VNI of one tenant tells."""
    leaking = _changed(_of_all(scenario).leaking, vni=None)
    return _risks(scenario, None, leaking=leaking)


def no_dummies(scenario: Scenario) -> Scenario:
    """SEC-OP-3: traffic patterns are a high risk, and there are no dummy packets."""
    return _profile(scenario, SHIELDED, dummies=None)


def no_padding(scenario: Scenario) -> Scenario:
    """SEC-OP-3: traffic patterns are a high risk, and nothing is padded."""
    return _profile(scenario, SHIELDED, padding=Padding(mode=PaddingMode.NONE))


def patterns_not_evaluated(scenario: Scenario) -> Scenario:
    """SEC-OP-3: nobody has thought about the patterns of one tenant's traffic."""
    return _risks(scenario, None, traffic_patterns=None)


def payload_unauthenticated(scenario: Scenario) -> Scenario:
    """SEC-OP-4: a tenant encrypts by itself, so the overlay does not, and leaves the payload unauthenticated."""
    coverage = Coverage(authenticate_inner=InnerCoverage.NONE, encrypt_inner=InnerCoverage.NONE)
    delegated = Delegated(encryption="Blue's systems use TLS 1.3 only.")
    return _risks(_profile(scenario, BY_RULE, egress=coverage), BLUE, delegated=delegated)


def option_unauthenticated(scenario: Scenario) -> Scenario:
    """SEC-OP-5: the NVE's tag leaves out an option in clear whose change is a high risk."""
    return _profile(scenario, BY_RULE, egress=Coverage(options=()))


def modification_not_evaluated(scenario: Scenario) -> Scenario:
    """SEC-OP-5: nobody has thought about a change of the outer header."""
    return _risks(scenario, None, modification=_changed(_of_all(scenario).modification, outer_header=None))


def outer_header_matters(scenario: Scenario) -> Scenario:
    """SEC-OP-5: a changed outer header is a high risk, and no mechanism of options covers it."""
    high = Evaluated(risk="high", reason="The outer DSCP decides what is billed.")
    return _risks(scenario, None, modification=_changed(_of_all(scenario).modification, outer_header=high))


def header_open(scenario: Scenario) -> Scenario:
    """SEC-OP-6: blue protects its own packets, and the overlay binds no VNI to them."""
    coverage = Coverage(
        header=frozenset(), authenticate_inner=InnerCoverage.NONE, encrypt_inner=InnerCoverage.NONE
    )
    own = "Blue's systems use IPsec among themselves, with replay windows."
    low = Evaluated(risk="low", reason=own)
    changed = _profile(scenario, BY_RULE, egress=coverage)
    modification = _changed(_of_all(scenario).modification, geneve_header=low)
    delegated = Delegated(encryption=own, authentication=own)
    return _risks(changed, BLUE, delegated=delegated, replay=low, modification=modification)


def oam_open(scenario: Scenario) -> Scenario:
    """SEC-OP-6: the O bit of one tenant's packets is not authenticated, by choice."""
    low = Evaluated(risk="low", reason="No NVE does anything with the O bit.")
    changed = _profile(scenario, BY_RULE, egress=Coverage(header=frozenset(HeaderField) - {HeaderField.OAM}))
    return _risks(changed, BLUE, modification=_changed(_of_all(scenario).modification, geneve_header=low))


def device_without_key(scenario: Scenario) -> Scenario:
    """SEC-OP-7: a transit device is to report telemetry that it cannot authenticate."""
    return _profile(scenario, BY_RULE, transit=None)


def replay_not_evaluated(scenario: Scenario) -> Scenario:
    """SEC-OP-8: nobody has thought about replay."""
    return _risks(scenario, None, replay=None)


def rule_never_used(scenario: Scenario) -> Scenario:
    """SEC-OP-9: a rule in front gives the database's flows another protection than the policy says they have."""
    vni = scenario.tenants[BLUE].vni
    wide = Rule(name="blue-tcp", vni=vni, protocol=Protocol.TCP, action=Action.SECURE, profile=BY_RULE)
    return _scenario(scenario, policy=(wide, *scenario.policy))


def one_key_for_a_vni(scenario: Scenario) -> Scenario:
    """SEC-OP-10: the flows that the policy tells apart share keys."""
    return _profile(scenario, BY_RULE, key_granularity=KeyGranularity.VNI)


def one_key_for_all(scenario: Scenario) -> Scenario:
    """SEC-OP-10: both tenants share the keys of each pair of NVEs."""
    first = _profile(scenario, BY_RULE, key_granularity=KeyGranularity.PAIR)
    rule = Rule(name="red-dns", vni=scenario.tenants[RED].vni, action=Action.SECURE, profile=BY_RULE,
                protocol=Protocol.UDP, destination=Endpoint(port=53))  # fmt: skip
    return _scenario(first, policy=(*first.policy, rule))


def nothing_at_all(scenario: Scenario) -> Scenario:
    """Blue's packets are not protected."""
    return _tenant(scenario, BLUE, profile="none")


def no_analysis(scenario: Scenario) -> Scenario:
    """There is no risk analysis."""
    return _scenario(scenario, risks=None)


def dtls_instead(scenario: Scenario) -> Scenario:
    """DTLS between NVEs instead of security options."""
    return scenario.under("dtls")


def esp_instead(scenario: Scenario) -> Scenario:
    """ESP between NVEs instead of security options, without its padding and dummies."""
    return scenario.under("esp")


def ah_instead(scenario: Scenario) -> Scenario:
    """AH between NVEs instead of security options."""
    return scenario.under("ah")


def plain_instead(scenario: Scenario) -> Scenario:
    """Plain Geneve."""
    return scenario.under("none")


_BINDING = "The draft wants header and payload bound together: what is open for SEC-OP-4 is so for 6 and 8."
_NOTHING = "A packet without protection is open to everything whose risk is high, and has no keys or policy."
_CHANNEL = "A channel has no dummies here, no flows, one key for a pair of NVEs, and nothing for transit devices."

FAULTS = (
    Fault("blue_in_clear", blue_in_clear, {"SEC-OP-1": NOT_MET}, key="tenants.blue.profile"),
    Fault("payload_in_clear", payload_in_clear, {"SEC-OP-1": IN_PART}, key="tenants.blue.profile"),
    Fault("vni_shown", vni_shown, {"SEC-OP-2": NOT_MET}, key="tenants.red.profile"),
    Fault("option_shown", option_shown, {"SEC-OP-2": NOT_MET}, key="tenants.red.profile"),
    Fault("leaking_not_evaluated", leaking_not_evaluated, {"SEC-OP-2": NOT_MET}, key="risks.all.leaking.vni"),
    Fault("no_dummies", no_dummies, {"SEC-OP-3": NOT_MET}, key="tenants.red.profile"),
    Fault("no_padding", no_padding, {"SEC-OP-3": NOT_MET}, key="tenants.red.profile"),
    Fault("patterns_not_evaluated", patterns_not_evaluated, {"SEC-OP-3": NOT_MET}, key="risks.all.traffic_patterns"),
    Fault("payload_unauthenticated", payload_unauthenticated,
          {"SEC-OP-4": NOT_MET, "SEC-OP-6": IN_PART, "SEC-OP-8": IN_PART}, _BINDING, "tenants.blue.profile"),
    Fault("option_unauthenticated", option_unauthenticated, {"SEC-OP-5": NOT_MET}, key="tenants.blue.profile"),
    Fault("modification_not_evaluated", modification_not_evaluated, {"SEC-OP-5": NOT_MET},
          key="risks.all.modification.outer_header"),
    Fault("outer_header_matters", outer_header_matters, {"SEC-OP-5": NOT_MET}, key="tenants.red.profile"),
    Fault("header_open", header_open, {"SEC-OP-6": NOT_MET, "SEC-OP-7": NOT_MET},
          "An NVE that cannot authenticate the VNI forwards by it all the same.", "tenants.blue.profile"),
    Fault("oam_open", oam_open, {"SEC-OP-6": IN_PART}, key="tenants.blue.profile"),
    Fault("device_without_key", device_without_key, {"SEC-OP-7": NOT_MET}, key="tenants.blue.telemetry"),
    Fault("replay_not_evaluated", replay_not_evaluated, {"SEC-OP-8": NOT_MET}, key="risks.all.replay"),
    Fault("rule_never_used", rule_never_used, {"SEC-OP-9": NOT_MET}, key="policy.1"),
    Fault("one_key_for_a_vni", one_key_for_a_vni, {"SEC-OP-10": IN_PART}, key="tenants.blue.profile"),
    Fault("one_key_for_all", one_key_for_all, {"SEC-OP-10": NOT_MET, "SEC-OP-2": NOT_MET, "SEC-OP-3": NOT_MET},
          "To share keys, flows of red get blue's profile, which hides neither VNI nor patterns.", "policy.2"),
    Fault("nothing_at_all", nothing_at_all,
          {"SEC-OP-1": NOT_MET, "SEC-OP-4": NOT_MET, "SEC-OP-5": NOT_MET, "SEC-OP-6": NOT_MET, "SEC-OP-7": NOT_MET,
           "SEC-OP-8": NOT_MET, "SEC-OP-9": NOT_MET, "SEC-OP-10": NOT_MET}, _NOTHING, "tenants.blue.profile"),
    Fault("no_analysis", no_analysis,
          {"SEC-OP-2": NOT_MET, "SEC-OP-3": NOT_MET, "SEC-OP-5": NOT_MET, "SEC-OP-8": NOT_MET},
          "Four requirements begin with an evaluation.", "risks"),
    Fault("dtls_instead", dtls_instead,
          {"SEC-OP-3": NOT_MET, "SEC-OP-7": IN_PART, "SEC-OP-9": IN_PART, "SEC-OP-10": NOT_MET}, _CHANNEL, "mechanism"),
    Fault("esp_instead", esp_instead,
          {"SEC-OP-3": NOT_MET, "SEC-OP-7": IN_PART, "SEC-OP-9": IN_PART, "SEC-OP-10": NOT_MET}, _CHANNEL, "mechanism"),
    Fault("ah_instead", ah_instead,
          {"SEC-OP-1": NOT_MET, "SEC-OP-2": NOT_MET, "SEC-OP-3": NOT_MET, "SEC-OP-7": IN_PART, "SEC-OP-9": IN_PART,
           "SEC-OP-10": NOT_MET}, f"{_CHANNEL} AH shows everything.",
          "mechanism"),
    Fault("plain_instead", plain_instead, dict.fromkeys(LEVELS, NOT_MET), _NOTHING, "mechanism"),
)  # fmt: skip
"""All planted faults, at least one for each requirement."""

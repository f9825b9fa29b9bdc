"""A scenario judged against the draft's operational requirements, SEC-OP-1 to SEC-OP-10. Pure.

:func:`judge` looks at every way that packets of every tenant can take (``ways.py``) and at the operator's risk
analysis (``topologies/risks.py``). The worst answer for any tenant is the deployment's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.audit.result import AuditResult, Judgement, Reason, Verdict, make_judgement
from experiments.audit.ways import BINDING, HEADER_FIELDS, Way, acting_devices, option_kinds, shadowed_last, ways_of
from geneve.control.channel import ChannelProtocol
from geneve.control.profile import InnerCoverage, KeyGranularity
from geneve.control.rules import Action, Rule
from geneve.header import HeaderField
from topologies.risks import Evaluated, RiskEvaluation, option_key, option_point, option_risk
from topologies.scenario import Scenario, Tenant
from topologies.scenario_file import load_scenario

MET, NOT_MET, IN_PART = Verdict.MET, Verdict.NOT_MET, Verdict.IN_PART


@dataclass(frozen=True)
class _Case:
    """One tenant of a scenario, with all that its packets can get and what was evaluated for it."""

    scenario: Scenario
    name: str
    tenant: Tenant
    ways: list[Way]
    risks: RiskEvaluation | None

    def place(self, key: str) -> str:
        """Return where in the scenario file the point ``key`` of an evaluation stands, or would stand."""
        analysis = self.scenario.risks
        if analysis is None:
            return "risks"
        own = analysis.tenants.get(self.name)
        return f"risks.tenants.{self.name}.{key}" if own is not None and _says(own, key) else f"risks.all.{key}"

    def evaluated(self, point: Evaluated | None, what: str, key: str) -> Iterator[Reason]:
        """Yield the reason that goes with a risk that nobody has evaluated, or that is low."""
        where = self.place(key)
        if point is None:
            yield Reason(NOT_MET, f"Nobody has evaluated {what} for tenant {self.name}.", where)
        elif not point.high:
            yield Reason(MET, f"For tenant {self.name}, {what} was evaluated as low: {point.reason}", where)

    def delegates(self, what: str) -> str | None:
        """Return why ``encryption`` or ``authentication`` is left to the tenant; None when it is not."""
        value = None if self.risks is None else getattr(self.risks.delegated, what)
        return value if isinstance(value, str) else None


def _says(evaluation: RiskEvaluation, key: str) -> bool:
    """Return whether an evaluation has the point ``key``; an option's may be that for all of them."""
    part: object = evaluation
    for name in key.split("."):
        part = option_point(part, name) if isinstance(part, dict) else getattr(part, name)
    return part is not None


def judge(scenario: Scenario) -> tuple[Judgement, ...]:
    """Return the judgements on SEC-OP-1 to SEC-OP-10, in this order."""
    cases = [
        _Case(
            scenario, name, tenant, ways_of(scenario, name),
            None if scenario.risks is None else scenario.risks.evaluation(name),
        )
        for name, tenant in scenario.tenants.items()
    ]  # fmt: skip
    return tuple(
        make_judgement(requirement, [reason for case in cases for reason in check(case)])
        for requirement, check in _CHECKS.items()
    )


def audit_deployment(source: str | Path) -> AuditResult:
    """Return the audit of a scenario, by name or file; ConfigError is one sentence."""
    scenario = load_scenario(source)
    inventory = {
        "scenario": scenario.name,
        "description": scenario.description,
        "tenants": [
            {
                "tenant": name, "vni": tenant.vni, "options": [option_key(*kind) for kind in option_kinds(tenant)],
                "protection": [
                    {"key": way.key, "profile": None if way.profile is None else way.profile.name}
                    for way in ways_of(scenario, name)
                ],
            }
            for name, tenant in scenario.tenants.items()
        ],
    }  # fmt: skip
    return AuditResult("deployment", str(source), judge(scenario), (), inventory)


def _payload_encrypted(case: _Case) -> Iterator[Reason]:
    """SEC-OP-1."""
    delegated = case.delegates("encryption")
    for way in case.ways:
        if way.encrypts is InnerCoverage.ALL:
            yield Reason(MET, f"The inner payload of {way.what} is encrypted.", way.key)
        elif delegated is not None:
            extra = ", and the inner headers are encrypted" if way.encrypts is InnerCoverage.HEADERS else ""
            text = f"Encryption of {way.what} is left to the tenant{extra}: {delegated}"
            yield Reason(MET, text, case.place("delegated.encryption"))
        elif way.encrypts is InnerCoverage.HEADERS:
            yield Reason(IN_PART, f"Of {way.what} only the inner headers are encrypted, the payload is not.", way.key)
        else:
            yield Reason(NOT_MET, f"The inner payload of {way.what} is not encrypted.", way.key)


def _leaks(case: _Case) -> Iterator[Reason]:
    """SEC-OP-2."""
    leaking = None if case.risks is None else case.risks.leaking
    points: list[tuple[Evaluated | None, str, str, Callable[[Way], bool]]] = [
        (None if leaking is None else leaking.vni, "the leaking of the VNI", "leaking.vni",
         lambda way: way.hides_field(HeaderField.VNI)),
        (None if leaking is None else leaking.protocol_type, "the leaking of the protocol type",
         "leaking.protocol_type", lambda way: way.hides_field(HeaderField.PROTOCOL_TYPE)),
    ]  # fmt: skip
    for kind in option_kinds(case.tenant):
        name = option_key(*kind)
        point = None if leaking is None else option_risk(leaking.options, *kind)
        points.append((point, f"the leaking of option {name}", f"leaking.options.{name}",
                       lambda way, kind=kind: way.hides_option(kind)))  # type: ignore[misc]  # fmt: skip
    for point, what, key, hides in points:
        yield from case.evaluated(point, what, key)
        if point is None or not point.high:
            continue
        for way in case.ways:
            secret = what.removeprefix("the leaking of ")
            if hides(way):
                yield Reason(MET, f"For {way.what}, {secret} does not travel in clear.", way.key)
            else:
                text = f"The risk of {what} is high, and {secret} of {way.what} travels in clear."
                yield Reason(NOT_MET, text, way.key)


def _patterns(case: _Case) -> Iterator[Reason]:
    """SEC-OP-3."""
    point = None if case.risks is None else case.risks.traffic_patterns
    yield from case.evaluated(point, "the recognition of traffic patterns", "traffic_patterns")
    if point is None or not point.high:
        return
    for way in case.ways:
        missing = [name for name, there in (("padding", way.pads), ("dummy packets", way.sends_dummies)) if not there]
        if missing:
            text = f"The risk of traffic patterns is high, and {way.what} has no {' and no '.join(missing)}."
            yield Reason(NOT_MET, text, way.key)
        else:
            yield Reason(MET, f"{way.what[0].upper()}{way.what[1:]} has padding and dummy packets.", way.key)
    if case.tenant.multicast:
        text = f"Underlay groups get no dummy packets, and tenant {case.name} has some."
        yield Reason(IN_PART, text, f"tenants.{case.name}.multicast")


def _payload_authenticated(case: _Case) -> Iterator[Reason]:
    """SEC-OP-4."""
    delegated = case.delegates("authentication")
    for way in case.ways:
        if way.authenticates is InnerCoverage.ALL:
            yield Reason(MET, f"The inner payload of {way.what} is authenticated.", way.key)
        elif delegated is not None:
            text = f"Authentication of the inner payload of {way.what} is left to the tenant: {delegated}"
            yield Reason(MET, text, case.place("delegated.authentication"))
        elif way.authenticates is InnerCoverage.HEADERS:
            yield Reason(IN_PART, f"Of {way.what} only the inner headers are authenticated.", way.key)
        else:
            text = f"The inner payload of {way.what} is neither encrypted nor authenticated."
            yield Reason(NOT_MET, text, way.key)


def _modification(case: _Case) -> Iterator[Reason]:
    """SEC-OP-5."""
    changes = None if case.risks is None else case.risks.modification
    outer, header = (None, None) if changes is None else (changes.outer_header, changes.geneve_header)
    yield from case.evaluated(outer, "a change of the outer header", "modification.outer_header")
    yield from case.evaluated(header, "a change of the Geneve header", "modification.geneve_header")
    for way in case.ways:
        if outer is not None and outer.high and not way.authenticates_outer:
            note = "" if way.profile is None else " (its source address is compared with that of the keys' owner)"
            text = f"The risk of a changed outer header is high, and that of {way.what} is not authenticated{note}."
            yield Reason(NOT_MET, text, way.key)
        if header is not None and header.high:
            missing = sorted(field.value for field in HEADER_FIELDS - way.header)
            if missing:
                text = f"The risk of a changed Geneve header is high, and {way.what} leaves open: {', '.join(missing)}."
                yield Reason(NOT_MET, text, way.key)
            else:
                yield Reason(MET, f"The Geneve header of {way.what} is authenticated.", way.key)
    for kind in option_kinds(case.tenant):
        name = option_key(*kind)
        point = None if changes is None else option_risk(changes.options, *kind)
        yield from case.evaluated(point, f"a change of option {name}", f"modification.options.{name}")
        if point is None or not point.high:
            continue
        for way in case.ways:
            if way.authenticates_option(kind):
                yield Reason(MET, f"Option {name} of {way.what} is authenticated.", way.key)
            else:
                text = f"The risk of a changed option {name} is high, and that of {way.what} is not authenticated."
                yield Reason(NOT_MET, text, way.key)


def _nves_authenticated(case: _Case) -> Iterator[Reason]:
    """SEC-OP-6."""
    for way in case.ways:
        missing = sorted(field.value for field in HEADER_FIELDS - way.header)
        if not way.header >= BINDING:
            text = f"NVEs cannot tell who sent packets of {way.what}: nothing binds the VNI and the protocol type."
            yield Reason(NOT_MET, text, way.key)
        elif way.authenticates is not InnerCoverage.ALL:
            text = (
                f"The Geneve header of {way.what} is authenticated, but not bound to the inner payload, "
                "which the draft does not recommend."
            )
            yield Reason(IN_PART, text, way.key)
        elif missing:
            text = f"Between NVEs, {way.what} leaves these fields of the Geneve header open: {', '.join(missing)}."
            yield Reason(IN_PART, text, way.key)
        else:
            yield Reason(MET, f"Egress NVEs authenticate header and inner payload of {way.what}.", way.key)


def _processing(case: _Case) -> Iterator[Reason]:
    """SEC-OP-7."""
    point = None if case.risks is None else case.risks.processing_before_authentication
    accepted = point is not None and not point.high
    where = case.place("processing_before_authentication")
    found = list(_early_processing(case))
    for text, key in found:
        if accepted and point is not None:
            yield Reason(MET, f"{text} Its impact was evaluated as low: {point.reason}", where)
        else:
            yield Reason(NOT_MET, f"{text} {'Its impact is high.' if point else 'Nobody has evaluated it.'}", key)
    for way in case.ways:
        if way.channel is not None:
            reads = "can read nothing" if way.hides_everything else "could read, but does not act on, packets"
            for device, _, what, key in acting_devices(case.scenario, case.tenant):
                text = f"Device {device} {reads} of {way.what}, so its {what} is not there at all."
                yield Reason(IN_PART, text, key)
    if not found:
        yield Reason(MET, f"Nobody acts on packets of tenant {case.name} before authenticating them.", case.ways[0].key
                     if case.ways else "policy")  # fmt: skip


def _early_processing(case: _Case) -> Iterator[tuple[str, str]]:
    """Yield (sentence, key) for everything that is processed before anybody has authenticated it."""
    for way in case.ways:
        if not way.header >= BINDING:
            yield f"NVEs forward packets of {way.what} by a VNI that they have not authenticated.", way.key
        if way.channel is not None:
            continue  # devices look for Geneve alone: what passes in a channel they forward unread
        for device, kind, what, key in acting_devices(case.scenario, case.tenant):
            if way.device_authenticates(device, kind):
                continue
            if way.hides_option(kind):
                continue  # the device cannot read it, so it does not act on it
            reads = f"Device {device} reads option {option_key(*kind)} of {way.what} for {what}"
            yield f"{reads} and cannot authenticate it.", key


def _replay(case: _Case) -> Iterator[Reason]:
    """SEC-OP-8."""
    point = None if case.risks is None else case.risks.replay
    yield from case.evaluated(point, "replay", "replay")
    if point is None or not point.high:
        return
    for way in case.ways:
        if not way.header >= BINDING:
            text = f"The risk of replay is high, and {way.what} has no authentication with protection against it."
            yield Reason(NOT_MET, text, way.key)
        elif way.authenticates is not InnerCoverage.ALL:
            text = f"Numbers protect {way.what} against replay, but the inner payload is not bound to them."
            yield Reason(IN_PART, text, way.key)
        else:
            yield Reason(MET, f"Packets of {way.what} are numbered and authenticated.", way.key)


def _policies(case: _Case) -> Iterator[Reason]:
    """SEC-OP-9."""
    entry = case.tenant
    own = Rule(vni=entry.vni, action=entry.action, profile=None if entry.action is Action.BYPASS else entry.profile)
    rules = [(number, rule) for number, rule in enumerate(case.scenario.policy) if rule.vni in (None, entry.vni)]
    for place, (number, _) in enumerate(rules):
        if shadowed_last([rule for _, rule in rules[: place + 1]]):
            text = f"Rule {number} says something of flows of tenant {case.name}, but an earlier one always decides."
            yield Reason(NOT_MET, text, f"policy.{number}")
    if shadowed_last([*(rule for _, rule in rules), own]):
        text = f"Tenant {case.name} names the profile {entry.profile}, but a rule for all its packets always decides."
        yield Reason(NOT_MET, text, f"tenants.{case.name}.profile")
    for way in case.ways:
        if way.channel is not None:
            name = way.channel.protocol.value.upper()
            text = f"{name} protects all that passes between two NVEs alike; it knows no flows of {way.what}."
            yield Reason(IN_PART, text, way.key)
        elif way.profile is None and not (case.delegates("encryption") and case.delegates("authentication")):
            text = f"The policy for {way.what} associates nothing, and no reason is given for it."
            yield Reason(NOT_MET, text, way.key)
        else:
            yield Reason(MET, f"The policy says how {way.what} is protected.", way.key)


def _keys(case: _Case) -> Iterator[Reason]:
    """SEC-OP-10."""
    told_apart = len(case.ways) > 1
    for way in case.ways:
        if way.granularity is None:
            if case.delegates("encryption") and case.delegates("authentication"):
                text = f"The overlay has no keys for {way.what}; protection is left to the tenant."
                yield Reason(Verdict.NOT_APPLICABLE, text, way.key)
            else:
                yield Reason(NOT_MET, f"There are no keys for {way.what}.", way.key)
            continue
        yield from _granularity(case, way, told_apart)
        if case.tenant.multicast and way.channel is not None:
            key = f"tenants.{case.name}.multicast"
            if way.channel.protocol is ChannelProtocol.DTLS:
                yield Reason(NOT_MET, f"DTLS has no keys for the multicast groups of tenant {case.name}.", key)
            else:
                text = f"Groups of tenant {case.name} have keys of their own, but any member could send as another."
                yield Reason(IN_PART, text, key)
        elif case.tenant.multicast:
            text = f"Each sender to each group of tenant {case.name} has a key and a signature of its own."
            yield Reason(MET, text, f"tenants.{case.name}.multicast")


def _granularity(case: _Case, way: Way, told_apart: bool) -> Iterator[Reason]:
    """Compare what has keys of its own with what the policy tells apart: these are the flows of SEC-OP-9."""
    assert way.granularity is not None
    if way.granularity in (KeyGranularity.FLOW, KeyGranularity.RULE):
        text = f"Each {way.granularity.value} of {way.what} has keys of its own."
        yield Reason(MET, text, way.key)
    elif way.granularity is KeyGranularity.VNI:
        if told_apart:
            text = f"The policy tells flows of tenant {case.name} apart, and those of {way.what} share keys per VNI."
            yield Reason(IN_PART, text, way.key)
        else:
            yield Reason(MET, f"The VNI of {way.what} has keys of its own, and its policy knows one flow.", way.key)
    elif len(_sharing(case.scenario, case.tenant)) > 1:
        names = ", ".join(_sharing(case.scenario, case.tenant))
        yield Reason(NOT_MET, f"Tenants {names} share the keys of each pair of NVEs.", way.key)
    else:
        yield Reason(IN_PART, f"All flows of {way.what} between two NVEs share keys.", way.key)


def _sharing(scenario: Scenario, tenant: Tenant) -> list[str]:
    """Return the tenants whose packets use the same keys per pair of NVEs as those of ``tenant``, itself included."""

    def pairwise(name: str) -> set[str]:
        ways = ways_of(scenario, name)
        return {way.profile.name for way in ways if way.profile and way.granularity is KeyGranularity.PAIR}

    own = next(name for name, entry in scenario.tenants.items() if entry is tenant)
    return [name for name in scenario.tenants if pairwise(name) & pairwise(own)]


_CHECKS: dict[str, Callable[[_Case], Iterator[Reason]]] = {
    "SEC-OP-1": _payload_encrypted,
    "SEC-OP-2": _leaks,
    "SEC-OP-3": _patterns,
    "SEC-OP-4": _payload_authenticated,
    "SEC-OP-5": _modification,
    "SEC-OP-6": _nves_authenticated,
    "SEC-OP-7": _processing,
    "SEC-OP-8": _replay,
    "SEC-OP-9": _policies,
    "SEC-OP-10": _keys,
}

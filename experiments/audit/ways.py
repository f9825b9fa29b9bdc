"""The ways in which packets of a tenant can be protected in a scenario, and what each of them covers.

A way is a profile, or none, that the tenant's own entry or a policy rule gives to some flows. Questions that the
requirements ask of a profile are answered here, for security options and for channels alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from geneve.control.channel import Channel, ChannelProtocol, Cipher
from geneve.control.profile import Coverage, InnerCoverage, KeyGranularity, PaddingMode, Profile
from geneve.control.rules import Action, Rule
from geneve.header import HeaderField
from geneve.policy import shadowed
from geneve.security.carriage import hidden_kinds
from geneve.tags import TAG_CLASS, TAG_TYPE
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_TYPE
from topologies.profiles import NO_PROTECTION, OURS
from topologies.scenario import Scenario, Tenant

Kind = tuple[int, int]
"""An option's class and type."""

HEADER_FIELDS = frozenset(
    {
        HeaderField.VERSION, HeaderField.OPT_LEN, HeaderField.OAM, HeaderField.CRITICAL,
        HeaderField.PROTOCOL_TYPE, HeaderField.VNI,
    }
)  # fmt: skip
"""The Geneve header's fields that mean something; receivers ignore the reserved ones."""
BINDING = frozenset({HeaderField.VNI, HeaderField.PROTOCOL_TYPE})


@dataclass(frozen=True, slots=True)
class Way:
    """A protection that some packets of ``tenant`` get; ``key`` is the place in the scenario file that says so."""

    tenant: str
    key: str
    profile: Profile | None
    rule: int | None = None

    @property
    def what(self) -> str:
        """For sentences: whose packets, and under what."""
        who = f"tenant {self.tenant}" if self.rule is None else f"flows of tenant {self.tenant} under rule {self.rule}"
        return f"{who} ({'no protection' if self.profile is None else f'profile {self.profile.name}'})"

    @property
    def channel(self) -> Channel | None:
        """The channel below Geneve; None with security options and without protection."""
        return None if self.profile is None else self.profile.channel

    @property
    def encrypts(self) -> InnerCoverage:
        """How much of the inner frame is encrypted."""
        if self.profile is None:
            return InnerCoverage.NONE
        if self.profile.channel is not None:
            return InnerCoverage.NONE if self.profile.channel.cipher is Cipher.NULL else InnerCoverage.ALL
        return _most(coverage.encrypt_inner for coverage in _to_nve(self.profile))

    @property
    def authenticates(self) -> InnerCoverage:
        """How much of the inner frame the egress NVE authenticates, by whatever option."""
        if self.profile is None:
            return InnerCoverage.NONE
        if self.profile.channel is not None:
            return InnerCoverage.ALL
        return _most(coverage.authenticate_inner for coverage in _to_nve(self.profile))

    @property
    def header(self) -> frozenset[HeaderField]:
        """The fields of the Geneve header that the egress NVE authenticates."""
        if self.profile is None:
            return frozenset()
        if self.profile.channel is not None:
            return frozenset(HeaderField)
        return frozenset().union(*(coverage.header for coverage in _to_nve(self.profile)))

    @property
    def hides_everything(self) -> bool:
        """Whether the whole Geneve packet is encrypted."""
        return self.channel is not None and self.encrypts is InnerCoverage.ALL

    def hides_field(self, field: HeaderField) -> bool:
        """Whether a header field shows a constant, or nothing, on the wire."""
        return self.hides_everything or (self.profile is not None and field in self.profile.hidden_header)

    def hides_option(self, kind: Kind) -> bool:
        """Whether an option never travels in clear."""
        if self.profile is None or self.profile.channel is not None:
            return self.hides_everything
        return kind in hidden_kinds(self.profile)

    def authenticates_option(self, kind: Kind) -> bool:
        """Whether an option that travels in clear is under the egress NVE's tag, or travels in a sealed part."""
        if self.profile is None:
            return False
        if self.profile.channel is not None or self.hides_option(kind):
            return True
        return any(_covers(coverage, kind) for coverage in _to_nve(self.profile))

    def device_authenticates(self, device: str, kind: Kind) -> bool:
        """Whether a transit device can verify an option before it acts on it."""
        if self.profile is None or self.profile.channel is not None:
            return False
        for coverage in (self.profile.device_coverage(device), self.profile.group):
            if coverage is None:
                continue
            if kind in _selected(coverage):
                return True
            if _covers(coverage, kind) and not self.hides_option(kind):
                return True
        return False

    @property
    def authenticates_outer(self) -> bool:
        """Whether the outer IP header is under an integrity check: AH's is, nothing else here does that."""
        return self.channel is not None and self.channel.protocol is ChannelProtocol.AH

    @property
    def pads(self) -> bool:
        """Whether sizes are hidden to some degree."""
        return self.profile is not None and self.profile.padding.mode is not PaddingMode.NONE

    @property
    def sends_dummies(self) -> bool:
        """Whether there are dummy packets."""
        return self.profile is not None and self.profile.dummies is not None

    @property
    def granularity(self) -> KeyGranularity | None:
        """What has keys of its own; None without protection."""
        return None if self.profile is None else self.profile.key_granularity


def _to_nve(profile: Profile) -> Iterator[Coverage]:
    """Yield the coverages of the options that an egress NVE verifies."""
    yield profile.egress
    if profile.group is not None:
        yield profile.group


def _most(values: Iterator[InnerCoverage]) -> InnerCoverage:
    order = tuple(InnerCoverage)
    return max(values, key=order.index)


def _selected(coverage: Coverage) -> frozenset[Kind]:
    return frozenset((item.option_class, item.type) for item in coverage.hidden_options)


def _covers(coverage: Coverage, kind: Kind) -> bool:
    if coverage.options is None:
        return True
    return kind in {(item.option_class, item.type) for item in coverage.options}


def ways_of(scenario: Scenario, tenant: str) -> list[Way]:
    """Return every way that packets of ``tenant`` can take, rules first as the policy has them.

    A rule that an earlier one always beats gives nothing to anybody; neither does the tenant's own entry behind a
    rule for all its packets.
    """
    entry = scenario.tenants[tenant]
    own = Rule(vni=entry.vni, action=entry.action, profile=None if entry.action is Action.BYPASS else entry.profile)
    rules = [(number, rule) for number, rule in enumerate(scenario.policy) if rule.vni in (None, entry.vni)]
    ways = []
    for place, (number, rule) in enumerate(rules):
        if rule.action is Action.DISCARD or shadowed_last([item for _, item in rules[: place + 1]]):
            continue
        ways.append(Way(tenant, f"policy.{number}", scenario.profile(rule.profile or NO_PROTECTION), number))
    if not shadowed_last([*(rule for _, rule in rules), own]):
        key = f"tenants.{tenant}.profile" if scenario.mechanism == OURS else "mechanism"
        ways.append(Way(tenant, key, scenario.profile(entry.profile)))
    return ways


def shadowed_last(rules: list[Rule]) -> bool:
    """Return whether the last of ``rules`` can never decide, because one in front of it always does."""
    return any(shadowed([rule, rules[-1]]) for rule in rules[:-1])


def option_kinds(tenant: Tenant) -> list[Kind]:
    """Return the options that each packet of a tenant carries, those of the mechanism left out."""
    return [size.kind for size in tenant.option_sizes]


def acting_devices(scenario: Scenario, tenant: Tenant) -> list[tuple[str, Kind, str, str]]:
    """Return what transit devices are asked to act on: device, option, what for, and key in the scenario file."""
    name = next(name for name, entry in scenario.tenants.items() if entry is tenant)
    devices = tuple(scenario.transit_devices)
    found = []
    if tenant.telemetry:
        kind = (TELEMETRY_CLASS, TELEMETRY_TYPE)
        found += [(device, kind, "telemetry", f"tenants.{name}.telemetry") for device in devices]
    if tenant.group_policy is not None:
        kind = (TAG_CLASS, TAG_TYPE)
        enforcers = tenant.enforcers or devices
        found += [(device, kind, "group policy", f"tenants.{name}.group_policy") for device in enforcers]
    return found

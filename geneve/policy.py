"""The security policy (GSP): ordered rules, the first that matches decides, no match is DISCARD.

Rules are compiled once per VNI and direction. Decisions are remembered by exactly those fields of a packet
that some rule looks at, so what a decision costs does not depend on how many rules there are.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from geneve.control.profile import KeyGranularity, Profile
from geneve.control.rules import Action, Cast, Direction, Endpoint, Rule
from geneve.errors import ConfigError
from geneve.inner import InnerFrame

MAX_FLOWS = 65_536
"""Decisions remembered; when there are more, all are forgotten and made anew."""

Kinds = frozenset[tuple[int, int]]
"""Options that a packet carries, by class and type."""
_Test = Callable[[InnerFrame, Kinds], bool]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a flow: an action, for SECURE the profile to apply, and the name of the rule that said so."""

    action: Action
    profile: Profile | None = None
    rule: str | None = None


DISCARD = Decision(Action.DISCARD)


@dataclass(frozen=True, slots=True)
class _Table:
    """The rules of one VNI and direction, and the fields that they look at."""

    rules: tuple[tuple[tuple[_Test, ...], Decision], ...]
    fields: tuple[Callable[[InnerFrame], Any], ...]
    looks_at_options: bool


class Policy:
    """An ordered rule list, checked as a whole when it is made."""

    def __init__(self, rules: Iterable[Rule], profiles: Iterable[Profile]) -> None:
        """Raise ConfigError when a rule names an unknown profile, a name is given twice, or a name is missing."""
        self._profiles = {profile.name: profile for profile in profiles}
        self._rules = tuple(rules)
        names: set[str] = set()
        self._decisions: list[Decision] = []
        for number, rule in enumerate(self._rules):
            if rule.name is not None and rule.name in names:
                raise ConfigError(f"policy rule {number} has the name {rule.name!r} of another; give each its own.")
            names.add(rule.name or "")
            self._decisions.append(self._decision(number, rule))
        self._tables: dict[tuple[Direction, int], _Table] = {}
        self._cache: dict[tuple[Any, ...], Decision] = {}

    def _decision(self, number: int, rule: Rule) -> Decision:
        if rule.profile is None:
            return Decision(rule.action, None, rule.name)
        profile = self._profiles.get(rule.profile)
        if profile is None:
            raise ConfigError(f"policy rule {number} names the unknown profile {rule.profile!r}.")
        if profile.key_granularity is KeyGranularity.RULE and rule.name is None:
            raise ConfigError(
                f"policy rule {number} needs a name: profile {profile.name!r} has keys of its own for each rule."
            )
        return Decision(rule.action, profile, rule.name)

    def decide(self, direction: Direction, vni: int, inner: InnerFrame, options: Kinds) -> Decision:
        """Return the decision for a packet of ``vni`` that carries ``options``; ``direction`` is OUT or IN."""
        table = self._tables.get((direction, vni)) or self._compile(direction, vni)
        key = (direction, vni, options if table.looks_at_options else None, *[read(inner) for read in table.fields])
        decision = self._cache.get(key)
        if decision is None:
            decision = next(
                (made for tests, made in table.rules if all(test(inner, options) for test in tests)), DISCARD
            )
            if len(self._cache) >= MAX_FLOWS:
                self._cache.clear()
            self._cache[key] = decision
        return decision

    def rules_for(self, vni: int) -> tuple[Rule, ...]:
        """Return the rules that can match packets of ``vni``, in order."""
        return tuple(rule for rule in self._rules if rule.vni in (None, vni))

    def profiles_for(self, vni: int) -> tuple[Profile, ...]:
        """Return the profiles that rules can give packets of ``vni``, each once, in the order of the rules."""
        names = dict.fromkeys(rule.profile for rule in self.rules_for(vni) if rule.profile is not None)
        return tuple(self._profiles[name] for name in names)

    def _compile(self, direction: Direction, vni: int) -> _Table:
        chosen = [
            (rule, decision)
            for rule, decision in zip(self._rules, self._decisions, strict=True)
            if rule.vni in (None, vni) and rule.direction in (Direction.BOTH, direction)
        ]
        fields: dict[str, Callable[[InnerFrame], Any]] = {}
        rules = []
        for rule, decision in chosen:
            tests = _tests(rule)
            rules.append((tuple(test for _, test in tests), decision))
            fields |= {name: _FIELDS[name] for name, _ in tests if name in _FIELDS}
        table = _Table(tuple(rules), tuple(fields.values()), any(rule.option is not None for rule, _ in chosen))
        if len(self._tables) >= MAX_FLOWS:
            self._tables.clear()
        self._tables[direction, vni] = table
        return table


_FIELDS: dict[str, Callable[[InnerFrame], Any]] = {
    "source": lambda inner: inner.source,
    "destination": lambda inner: inner.destination,
    "source_ip": lambda inner: inner.source_ip,
    "destination_ip": lambda inner: inner.destination_ip,
    "protocol": lambda inner: inner.protocol,
    "source_port": lambda inner: inner.source_port,
    "destination_port": lambda inner: inner.destination_port,
    "icmp_type": lambda inner: inner.icmp_type,
    "dscp": lambda inner: inner.dscp,
    "flow_label": lambda inner: inner.flow_label,
    "vlan": lambda inner: inner.vlan,
    "cast": lambda inner: inner.destination[0] & 1,
}
"""The fields of a frame that rules can select, by name."""


def _tests(rule: Rule) -> list[tuple[str, _Test]]:
    """Return what must hold for ``rule`` to match, each with the name of the field it looks at."""
    tests: list[tuple[str, _Test]] = []
    for name, wanted in (
        ("protocol", rule.protocol_number),
        ("icmp_type", rule.icmp_type),
        ("dscp", rule.dscp),
        ("flow_label", rule.flow_label),
        ("vlan", rule.vlan),
        ("cast", None if rule.cast is None else int(rule.cast is Cast.MULTICAST)),
    ):
        if wanted is not None:
            tests.append((name, _equal(name, wanted)))
    tests += _endpoint_tests(rule.source, "source")
    tests += _endpoint_tests(rule.destination, "destination")
    if rule.option is not None:
        kind = (rule.option.option_class, rule.option.type)
        tests.append(("option", lambda _, options: kind in options))
    return tests


def _equal(name: str, wanted: object) -> _Test:
    read = _FIELDS[name]
    return lambda inner, _: bool(read(inner) == wanted)


def _endpoint_tests(endpoint: Endpoint, side: str) -> list[tuple[str, _Test]]:
    tests: list[tuple[str, _Test]] = []
    if endpoint.mac is not None:
        tests.append((side, _equal(side, bytes.fromhex(endpoint.mac.replace(":", "")))))
    if endpoint.ip is not None:
        tests.append((f"{side}_ip", _in_prefix(f"{side}_ip", endpoint.ip)))
    ports = _port_range(endpoint)
    if ports is not None:
        tests.append((f"{side}_port", _in_range(f"{side}_port", *ports)))
    return tests


def _in_prefix(name: str, prefix: str) -> _Test:
    network = ipaddress.ip_network(prefix)
    size = network.max_prefixlen // 8
    mask, wanted, read = int(network.netmask), int(network.network_address), _FIELDS[name]

    def test(inner: InnerFrame, _: Kinds) -> bool:
        address: bytes = read(inner)
        return len(address) == size and int.from_bytes(address, "big") & mask == wanted

    return test


def _in_range(name: str, first: int, last: int) -> _Test:
    read = _FIELDS[name]

    def test(inner: InnerFrame, _: Kinds) -> bool:
        port = read(inner)
        return port is not None and first <= port <= last

    return test


def _port_range(endpoint: Endpoint) -> tuple[int, int] | None:
    if endpoint.port is None:
        return None
    return endpoint.port if isinstance(endpoint.port, tuple) else (endpoint.port, endpoint.port)


def shadowed(rules: Sequence[Rule]) -> list[str]:
    """Return one sentence for each rule that can never match, because one earlier rule matches all that it does.

    Rules that only several earlier ones together cover are not found.
    """
    warnings = []
    for number, rule in enumerate(rules):
        earlier = next((place for place in range(number) if _covers(rules[place], rule)), None)
        if earlier is not None:
            warnings.append(
                f"policy rule {_title(number, rule)} can never match: rule {_title(earlier, rules[earlier])} in front "
                "of it matches everything that it would; reorder or remove it."
            )
    return warnings


def _title(number: int, rule: Rule) -> str:
    return f"{number} ({rule.name})" if rule.name else str(number)


def _covers(wide: Rule, narrow: Rule) -> bool:
    if wide.direction not in (Direction.BOTH, narrow.direction):
        return False
    plain = ("vni", "protocol_number", "icmp_type", "dscp", "flow_label", "vlan", "option", "cast")
    if any(getattr(wide, name) not in (None, getattr(narrow, name)) for name in plain):
        return False
    return _covers_endpoint(wide.source, narrow.source) and _covers_endpoint(wide.destination, narrow.destination)


def _covers_endpoint(wide: Endpoint, narrow: Endpoint) -> bool:
    if wide.mac not in (None, narrow.mac):
        return False
    if wide.ip is not None:
        if narrow.ip is None:
            return False
        outer, inner = ipaddress.ip_network(wide.ip), ipaddress.ip_network(narrow.ip)
        if outer.version != inner.version or not inner.subnet_of(outer):  # type: ignore[arg-type]
            return False
    outer_ports, inner_ports = _port_range(wide), _port_range(narrow)
    if outer_ports is None:
        return True
    return inner_ports is not None and outer_ports[0] <= inner_ports[0] and inner_ports[1] <= outer_ports[1]

"""Which configurations of a mechanism each probe is tried under: what of our profiles a channel can be set to. Pure.

A channel has a cipher, padding, dummies and a replay window. All else that a probe's profile says has no counterpart;
what is missing is part of the evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from experiments.mechanism.probe import Probe
from geneve.control.channel import Channel, ChannelProtocol, Cipher
from geneve.control.profile import (
    Coverage,
    InnerCoverage,
    KeyGranularity,
    PaddingMode,
    Profile,
)
from geneve.control.rules import Action, Rule
from geneve.header import HeaderField
from topologies.profiles import CHANNEL_PROFILES, NO_PROTECTION, OURS
from topologies.scenario import Attachment, Scenario, Tenant
from topologies.scenario_file import load_scenario

WORTH_READING = frozenset({2, 3, 4, 5, 8, 9, 10, 11, 13})
"""SEC-GEN requirements of which a channel could do more where it does not encrypt."""

COMBINED = "mechanism"
"""Name of the scenario in which mechanisms other than ours are tried: all that the probes' own have, in one network."""

_BUILT_IN = {"dtls": ("dtls", "dtls-null"), "esp": ("esp", "esp-null"), "ah": ("ah",)}
_CHANNELS = {profile.name: profile.channel for profile in CHANNEL_PROFILES}


@dataclass(frozen=True, slots=True)
class Configuration:
    """One setting of a mechanism. ``profile`` is one that the scenario does not have yet.

    ``missing`` are settings of the probe's profile that the mechanism has no counterpart of. ``alone``: the tenant is
    to be the only one, since others' packets could not be told from its own.
    """

    mechanism: str
    name: str
    profile: Profile | None = None
    missing: tuple[str, ...] = field(default=())
    alone: bool = False


@lru_cache(maxsize=32)
def scenario_of(probe_scenario: str) -> Scenario:
    """Return a probe's scenario, read once."""
    return load_scenario(probe_scenario)


def configurations(probe: Probe, mechanism: str, scenario: Scenario) -> tuple[Configuration, ...]:
    """Return what ``probe`` of ``scenario`` is tried under, the most likely first.

    Nothing for a probe of our own settings only, unless the mechanism is ours.
    """
    if mechanism != OURS and not probe.compared:
        return ()
    if mechanism in (OURS, NO_PROTECTION):
        return (Configuration(mechanism, mechanism),)
    wanted = scenario.profile(scenario.tenants[probe.tenant].profile)
    assert wanted is not None, "every probe's tenant is protected"
    names = [name for name in _BUILT_IN[mechanism] if name == mechanism or probe.requirement in WORTH_READING]
    rules = any(
        rule.action is Action.SECURE and rule.vni in (None, scenario.tenants[probe.tenant].vni)
        for rule in scenario.policy
    )
    multicast = bool(scenario.tenants[probe.tenant].multicast)
    return tuple(_translated(mechanism, name, probe, wanted, rules, multicast) for name in names)


def _translated(
    mechanism: str, name: str, probe: Probe, wanted: Profile, rules: bool, multicast: bool
) -> Configuration:
    channel = _CHANNELS[name]
    assert channel is not None
    pads = channel.protocol is ChannelProtocol.ESP and channel.cipher is not Cipher.NULL
    update: dict[str, object] = {}
    if wanted.padded and pads:
        update |= {"padding": wanted.padding, "dummies": wanted.dummies}
    missing = tuple(missing_settings(wanted, channel, rules, multicast))
    if not update:
        return Configuration(mechanism, name, None, missing)
    profile = Profile.model_validate(
        {"name": f"{name}-{probe.name}"[:32], "channel": channel, "key_granularity": KeyGranularity.PAIR, **update}
    )
    return Configuration(mechanism, profile.name, profile, missing, alone=wanted.padded)


def missing_settings(wanted: Profile, channel: Channel, rules: bool = False, multicast: bool = False) -> Iterator[str]:
    """Yield the settings that ``wanted`` makes use of and ``channel`` does not have, in plain words."""
    encrypts = channel.cipher is not Cipher.NULL
    egress, default = wanted.egress, Coverage()
    if wanted.padded and not (channel.protocol is ChannelProtocol.ESP and encrypts):
        if wanted.padding.mode is not PaddingMode.NONE:
            yield "padding"
        if wanted.dummies is not None:
            yield "dummy packets"
    if egress.options != default.options or egress.hidden_options:
        yield "a choice of options"
    if egress.header != default.header or (wanted.hidden_header and wanted.hidden_header != frozenset(HeaderField)):
        yield "a choice of header fields"
    if InnerCoverage.HEADERS in (egress.authenticate_inner, egress.encrypt_inner):
        yield "a choice within the inner frame"
    if wanted.transit is not None or wanted.devices or wanted.group is not None:
        yield "transit devices as an audience"
    if rules:
        yield "profiles by policy rule"
    if wanted.key_granularity in (KeyGranularity.RULE, KeyGranularity.FLOW):
        yield f"keys for each {wanted.key_granularity.value}"
    if multicast:
        yield "proof of a multicast packet's sender"


def under(scenario: Scenario, configuration: Configuration) -> Scenario:
    """Return ``scenario`` under a channel or none, what that cannot express left out."""
    profiles = () if configuration.profile is None else (configuration.profile,)
    return scenario.model_copy(update={"profiles": profiles}).under(configuration.name)


def combined(parts: Mapping[str, Iterable[str]]) -> Scenario:
    """Return one scenario with tenants of several that share their underlay: scenario -> names of tenants.

    A tenant that two scenarios have, with the same hosts and options, is there once; ValueError if they differ.
    Profiles are not in it: names can mean different ones.
    """
    scenarios = {name: scenario_of(name) for name in parts}
    first = next(iter(scenarios.values()))
    tenants: dict[str, Tenant] = {}
    nves: dict[str, Attachment] = {}
    rules: list[Rule] = []
    for name, scenario in scenarios.items():
        for tenant in parts[name]:
            entry = scenario.tenants[tenant]
            known = tenants.setdefault(tenant, entry)
            if (known.hosts, known.options) != (entry.hosts, entry.options):
                raise ValueError(f"another scenario has a tenant '{tenant}' that differs from that of '{name}'")
        served = {host.nve for tenant in parts[name] for host in scenario.tenants[tenant].hosts.values()}
        nves |= {nve: place for nve, place in scenario.nves.items() if nve in served}
        rules += scenario.policy
    kept = {None, *(tenant.vni for tenant in tenants.values())}
    spoofing = all(scenario.underlay.anti_spoofing for scenario in scenarios.values())
    update: dict[str, object] = {
        "name": COMBINED, "description": "", "profiles": (), "tenants": tenants, "nves": nves,
        "policy": tuple(rule for rule in rules if rule.vni in kept),
        "underlay": first.underlay.model_copy(update={"anti_spoofing": spoofing}),
    }  # fmt: skip
    return first.model_copy(update=update)

"""Which configurations of a mechanism each probe is tried under: what of our profiles a channel can be set to. Pure.

A channel has a cipher, padding, dummies and a replay window. All else that a probe's profile says has no counterpart;
what is missing is part of the evidence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from experiments.mechanism.probe import Probe
from geneve.control.channel import Channel, ChannelProtocol, Cipher, Encapsulation
from geneve.control.profile import (
    Coverage,
    InnerCoverage,
    KeyGranularity,
    PaddingMode,
    Profile,
)
from geneve.control.rules import Action
from geneve.header import HeaderField
from topologies.profiles import FULL_PROTECTION, NO_PROTECTION
from topologies.scenario import Scenario
from topologies.scenario_file import load_scenario

OURS = "ours"
WORTH_READING = frozenset({2, 3, 4, 5, 8, 9, 10, 11, 12, 13})
"""SEC-GEN requirements of which a channel could do more where it does not encrypt."""

_BUILT_IN = {"dtls": ("dtls", "dtls-null"), "esp": ("esp", "esp-null"), "ah": ("ah",)}
_CHANNELS = {
    "dtls": Channel(protocol=ChannelProtocol.DTLS, encapsulation=Encapsulation.UDP),
    "dtls-null": Channel(protocol=ChannelProtocol.DTLS, cipher=Cipher.NULL, encapsulation=Encapsulation.UDP),
    "esp": Channel(protocol=ChannelProtocol.ESP),
    "esp-null": Channel(protocol=ChannelProtocol.ESP, cipher=Cipher.NULL),
    "ah": Channel(protocol=ChannelProtocol.AH, cipher=Cipher.NULL),
}


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
    """Return what ``probe`` of ``scenario`` is tried under, the most likely first."""
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
    pads = channel.protocol is ChannelProtocol.ESP and channel.cipher is not Cipher.NULL
    update: dict[str, object] = {}
    if wanted.padded and pads:
        update |= {"padding": wanted.padding, "dummies": wanted.dummies}
    if wanted.replay_window != Profile.model_fields["replay_window"].default:
        update["replay_window"] = wanted.replay_window
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


def under(scenario: Scenario, configuration: Configuration, tenant: str) -> Scenario:
    """Return ``scenario`` under a configuration; with a channel its profiles and the rules that name them are gone.

    ``tenant`` is the one that acts; the others stay unless the configuration is to have it alone.
    """
    if configuration.name == OURS:
        return scenario
    tenants = scenario.tenants
    if configuration.alone:
        tenants = {tenant: tenants[tenant]}
    own = NO_PROTECTION if configuration.name == NO_PROTECTION else FULL_PROTECTION
    left = {entry.vni for entry in tenants.values()}
    update: dict[str, object] = {
        "mechanism": configuration.name,
        "tenants": {name: entry.model_copy(update={"profile": own}) for name, entry in tenants.items()},
        "policy": tuple(
            rule for rule in scenario.policy
            if rule.action is not Action.SECURE and (rule.vni is None or rule.vni in left)
        ),
        "profiles": () if configuration.profile is None else (configuration.profile,),
    }  # fmt: skip
    return scenario.model_copy(update=update)

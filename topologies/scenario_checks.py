"""What the parts of a scenario say of each other: names, places, addresses, sizes.

Each check returns the first fault as the end of one sentence, key included, or None.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from geneve.control.channel import ChannelProtocol
from geneve.control.kernel_ipsec import kernel_lacks
from geneve.control.rules import Action
from geneve.errors import ConfigError
from geneve.option import CRITICAL_TYPE_BIT
from geneve.policy import Policy
from geneve.security.option import PADDING_TYPE, SECURITY_CLASS, is_mechanism_option
from topologies.profiles import BUILT_IN_PROFILES, NO_PROTECTION, OURS
from topologies.scenario import NVA_NAME, OPERATOR_NAME, Scenario, Tenant

MIN_MTU = {4: 576, 6: 1280}
"""Smallest MTU of a tenant, by the IP version it uses (RFC 791, RFC 8200)."""

_INNER_KINDS = frozenset(
    {(SECURITY_CLASS, PADDING_TYPE), (SECURITY_CLASS, PADDING_TYPE | CRITICAL_TYPE_BIT)}
)
"""Options that stand in sealed parts only."""

_RESERVED = {
    NVA_NAME: "the NVA",
    OPERATOR_NAME: "the testbed's operator",
    "ca": "the certificate authority",
    "root": "the sandbox itself",
}


def first_fault(scenario: Scenario) -> str | None:
    """Return the first fault of ``scenario``, None when it is sound."""
    checks = (
        _check_names,
        _check_links,
        _check_connected,
        _check_attachments,
        _check_places,
        _check_profiles,
        _check_mechanism,
        _check_kernel_ipsec,
        _check_tenants,
        _check_policy,
        _check_options,
        _check_groups,
        _check_group_policy,
        _check_sizes,
        _check_risks,
    )
    for check in checks:
        fault = check(scenario)
        if fault is not None:
            return fault
    return None


def _named(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Yield (key, name) of everything that becomes a node."""
    for number, name in enumerate(scenario.underlay.switches):
        yield f"underlay.switches.{number}", name
    for group in ("nves", "transit_devices", "attackers"):
        for name in getattr(scenario, group):
            yield f"{group}.{name}", name
    for tenant, entry in scenario.tenants.items():
        for name in entry.hosts:
            yield f"tenants.{tenant}.hosts.{name}", name


def _check_names(scenario: Scenario) -> str | None:
    seen: dict[str, str] = {}
    for key, name in _named(scenario):
        if name in _RESERVED:
            return f"key '{key}': the name '{name}' is kept for {_RESERVED[name]}; choose another."
        if name in seen:
            return f"key '{key}': the name '{name}' is in use at '{seen[name]}'; give each node its own."
        seen[name] = key
    return None


def _check_links(scenario: Scenario) -> str | None:
    pairs: set[frozenset[str]] = set()
    on_path: dict[str, int] = {}
    for number, link in enumerate(scenario.underlay.links):
        key = f"key 'underlay.links.{number}"
        for end in link.between:
            if end not in scenario.underlay.switches:
                return f"{key}.between': no switch is named '{end}'; add it to underlay.switches."
        pair = frozenset(link.between)
        if len(pair) == 1:
            return f"{key}.between': a link joins two different switches, found '{link.between[0]}' twice."
        if pair in pairs:
            return f"{key}.between': {' and '.join(link.between)} have a link already; keep one."
        pairs.add(pair)
        for device in link.via:
            if device not in scenario.transit_devices and device not in scenario.attackers:
                return (
                    f"{key}.via': no transit device or attacker is named '{device}'; add it to "
                    "transit_devices or attackers."
                )
            if device in on_path:
                return (
                    f"{key}.via': '{device}' is on a link already (underlay.links.{on_path[device]}); "
                    "a device sits in one place."
                )
            on_path[device] = number
    return None


def _check_connected(scenario: Scenario) -> str | None:
    switches = scenario.underlay.switches
    reached = {switches[0]}
    grown = True
    while grown:
        grown = False
        for link in scenario.underlay.links:
            if len(reached.intersection(link.between)) == 1:
                reached.update(link.between)
                grown = True
    for switch in switches:
        if switch not in reached:
            return f"key 'underlay.links': no path leads from '{switches[0]}' to '{switch}'; add a link."
    return None


def _check_attachments(scenario: Scenario) -> str | None:
    places = [("nva.attach", scenario.nva.attach)]
    places += [(f"nves.{name}.attach", nve.attach) for name, nve in scenario.nves.items()]
    places += [
        (f"transit_devices.{name}.management", device.management)
        for name, device in scenario.transit_devices.items()
    ]
    places += [
        (f"attackers.{name}.attach", attacker.attach)
        for name, attacker in scenario.attackers.items()
        if attacker.attach is not None
    ]
    for key, switch in places:
        if switch not in scenario.underlay.switches:
            return f"key '{key}': no switch is named '{switch}'; add it to underlay.switches."
    return None


def _check_places(scenario: Scenario) -> str | None:
    on_path = {device for link in scenario.underlay.links for device in link.via}
    for name in scenario.transit_devices:
        if name not in on_path:
            return f"key 'transit_devices.{name}': the device is on no link; name it in the 'via' of one."
    for name, device in scenario.transit_devices.items():
        if device.impair is not None and device.impair.jitter_ms > device.impair.delay_ms:
            return (
                f"key 'transit_devices.{name}.impair.jitter_ms': {device.impair.jitter_ms:g} is more than "
                f"delay_ms, {device.impair.delay_ms:g}, so some delays would be negative; lower it."
            )
    for name, attacker in scenario.attackers.items():
        if attacker.attach is None and name not in on_path:
            return f"key 'attackers.{name}': give 'attach: SWITCH', or name it in the 'via' of a link."
        if attacker.attach is not None and name in on_path:
            return (
                f"key 'attackers.{name}.attach': the attacker is on a link's 'via' as well; choose one place."
            )
    return None


def _check_profiles(scenario: Scenario) -> str | None:
    taken = {NO_PROTECTION, *(profile.name for profile in BUILT_IN_PROFILES)}
    for number, profile in enumerate(scenario.profiles):
        if profile.name in taken:
            return f"key 'profiles.{number}.name': a profile named '{profile.name}' exists; rename it."
        taken.add(profile.name)
    return None


def _check_mechanism(scenario: Scenario) -> str | None:
    """Refuse a mixture: a channel, or no protection, is the whole network's, and profiles are our mechanism's."""
    mechanism = scenario.mechanism
    profiles = {profile.name: profile for profile in (*BUILT_IN_PROFILES, *scenario.profiles)}
    channels = [name for name, profile in profiles.items() if profile.channel is not None]
    if mechanism not in (OURS, NO_PROTECTION, *channels):
        known = ", ".join((OURS, NO_PROTECTION, *channels))
        return f"key 'mechanism': '{mechanism}' is none; use one of {known}, or define a profile with a 'channel'."
    for name, tenant in scenario.tenants.items():
        key = f"key 'tenants.{name}"
        if mechanism == OURS and tenant.profile in channels:
            return f"{key}.profile': '{tenant.profile}' is a channel, the whole network's: set it as 'mechanism'."
        if mechanism not in (OURS, tenant.profile):
            return f"{key}.profile': under the mechanism '{mechanism}' tenants have no profile of their own; remove it."
        if tenant.multicast and scenario.channel is not None and scenario.channel.protocol is ChannelProtocol.DTLS:
            return f"{key}.multicast': DTLS has no multicast; remove it, and the ingress NVE replicates."
    for number, rule in enumerate(scenario.policy):
        if mechanism != OURS and rule.action is not Action.DISCARD:
            return (
                f"key 'policy.{number}.action': under the mechanism '{mechanism}' rules can only 'discard': it knows "
                "nothing of inner flows."
            )
        if rule.profile in channels:
            return f"key 'policy.{number}.profile': '{rule.profile}' is a channel, the whole network's; use another."
    return None


def kernel_ipsec_lacks(scenario: Scenario) -> tuple[str, str] | None:
    """Return the key and why the kernel's IPsec cannot serve the scenario, None when it can or there is no IPsec."""
    profile = None if scenario.mechanism == OURS else scenario.profile(scenario.mechanism)
    if profile is None or profile.channel is None or profile.channel.protocol is ChannelProtocol.DTLS:
        return None
    for name, tenant in scenario.tenants.items():
        if tenant.multicast:
            return f"tenants.{name}.multicast", "the kernel's IPsec is used between two NVEs only"
    lacks = kernel_lacks(profile)
    return ("ipsec", lacks) if lacks else None


def _check_kernel_ipsec(scenario: Scenario) -> str | None:
    found = kernel_ipsec_lacks(scenario) if scenario.ipsec == "kernel" else None
    return None if found is None else f"key '{found[0]}': {found[1]}; set 'ipsec: user-space'."


def _check_tenants(scenario: Scenario) -> str | None:
    owners: dict[int, str] = {}
    for name, tenant in scenario.tenants.items():
        key = f"key 'tenants.{name}"
        if tenant.vni in owners:
            return (
                f"{key}.vni': {tenant.vni} belongs to tenant '{owners[tenant.vni]}' already; "
                "give each tenant its own VNI."
            )
        owners[tenant.vni] = name
        if tenant.profile not in scenario.profile_names:
            known = ", ".join(scenario.profile_names)
            return f"{key}.profile': no profile is named '{tenant.profile}'; define it or use {known}."
        fault = _check_learned(name, tenant) or _check_hosts(scenario, name, tenant)
        if fault is not None:
            return fault
    used = {host.nve for tenant in scenario.tenants.values() for host in tenant.hosts.values()}
    anywhere = any(tenant.mappings == "learned" for tenant in scenario.tenants.values())
    for name in scenario.nves:
        if name not in used and not anywhere:
            return f"key 'nves.{name}': no tenant's host is behind this NVE; add one or remove the NVE."
    return None


def _check_policy(scenario: Scenario) -> str | None:
    vnis = {tenant.vni for tenant in scenario.tenants.values()}
    kept = {f"vni-{vni}" for vni in vnis}
    for number, rule in enumerate(scenario.policy):
        if rule.name in kept:
            return f"key 'policy.{number}.name': '{rule.name}' is kept for the tenant's own rule; choose another."
        if rule.vni is not None and rule.vni not in vnis:
            return f"key 'policy.{number}.vni': no tenant has VNI {rule.vni}; correct the number."
        if rule.profile is not None and rule.profile not in scenario.profile_names[1:]:
            known = ", ".join(scenario.profile_names[1:])
            return f"key 'policy.{number}.profile': no profile is named '{rule.profile}'; define it or use {known}."
    try:
        Policy(scenario.policy, (*BUILT_IN_PROFILES, *scenario.profiles))
    except ConfigError as error:
        return f"key 'policy': {error}"
    for number, profile in enumerate(scenario.profiles):
        for device in profile.devices:
            if device not in scenario.transit_devices:
                return f"key 'profiles.{number}.devices.{device}': there is no transit device of this name."
    return None


def _check_options(scenario: Scenario) -> str | None:
    for name, tenant in scenario.tenants.items():
        kinds = [size.kind for size in tenant.option_sizes]
        for number, option in enumerate(tenant.options):
            key = f"key 'tenants.{name}.options.{number}'"
            kind = (option.option_class, option.type)
            if is_mechanism_option(*kind) or kind in _INNER_KINDS:
                return f"{key}: class and type belong to the security mechanism; choose others."
            if option.type & CRITICAL_TYPE_BIT:
                return f"{key}: no NVE knows this critical option, so all would drop it; take a type below 128."
            if kinds.count(kind) > 1:
                return f"{key}: the tenant's packets carry this class and type already; choose others."
    return None


def _check_groups(scenario: Scenario) -> str | None:
    seen = {name: key for key, name in _named(scenario)}
    for name, tenant in scenario.tenants.items():
        if sum(not group.inner for group in tenant.multicast) > 1:
            return f"key 'tenants.{name}.multicast': two groups are for all addresses; give one of them 'inner'."
        members = {host.nve for host in tenant.hosts.values()}
        for number, group in enumerate(tenant.multicast):
            key = f"key 'tenants.{name}.multicast.{number}"
            address = ipaddress.ip_address(group.address)
            version = scenario.underlay.ip_version
            if not address.is_multicast or address.version != version:
                return f"{key}.address': expected a multicast address of the underlay, IPv{version}."
            if not all(ipaddress.ip_address(text).is_multicast for text in group.inner):
                return f"{key}.inner': expected multicast addresses of the tenant's."
            for value, what in ((group.name, "name"), (group.address, "address")):
                if value in seen:
                    return f"{key}.{what}': {value} is in use at '{seen[value]}'; give each group its own."
                seen[value] = f"tenants.{name}.multicast.{number}"
            stranger = next((sender for sender in group.senders if sender not in members), None)
            if stranger is not None:
                return f"{key}.senders': no host of the tenant is behind '{stranger}'; remove it."
    return None


def _check_group_policy(scenario: Scenario) -> str | None:
    for name, tenant in scenario.tenants.items():
        key = f"key 'tenants.{name}"
        if tenant.group_policy is not None and not tenant.tags:
            return f"{key}.group_policy': the tenant's packets carry no security groups; set 'tags: true'."
        if tenant.group_policy is not None and tenant.multicast:
            return f"{key}.multicast': enforcers would drop packets to groups, which carry no tags for them."
        if tenant.enforcers and tenant.group_policy is None:
            return f"{key}.enforcers': there is no 'group_policy' to enforce; add one or remove them."
        for device in tenant.enforcers:
            if device not in scenario.transit_devices:
                return f"{key}.enforcers': there is no transit device '{device}'; correct the name."
    return None


def _check_learned(tenant_name: str, tenant: Tenant) -> str | None:
    if tenant.mappings == "learned" and tenant.tags:
        return (
            f"key 'tenants.{tenant_name}.mappings': security groups are properties of static mappings; "
            "set 'mappings: static' or remove 'tags'."
        )
    return None


def _check_hosts(scenario: Scenario, tenant_name: str, tenant: Tenant) -> str | None:
    macs: dict[str, str] = {}
    ips: dict[str, str] = {}
    subnets: dict[int, tuple[str, str]] = {}
    for name, host in tenant.hosts.items():
        key = f"key 'tenants.{tenant_name}.hosts.{name}"
        if host.nve not in scenario.nves:
            return f"{key}.nve': no NVE is named '{host.nve}'; add it to nves."
        if int(host.mac[:2], 16) & 1:
            return f"{key}.mac': {host.mac} is a group address; expected a unicast MAC address."
        if host.mac in macs:
            return f"{key}.mac': {host.mac} belongs to '{macs[host.mac]}' of the same tenant; change one."
        macs[host.mac] = name
        if not host.ips:
            return f"{key}': the host has no address; give ipv4, ipv6 or both."
        for text in (host.ipv4, host.ipv6):
            if text is None:
                continue
            interface = ipaddress.ip_interface(text)
            word = f"ipv{interface.version}"
            if str(interface.ip) in ips:
                return (
                    f"{key}.{word}': {interface.ip} belongs to '{ips[str(interface.ip)]}' of the same "
                    "tenant; change one."
                )
            ips[str(interface.ip)] = name
            subnet, first = subnets.setdefault(interface.version, (str(interface.network), name))
            if str(interface.network) != subnet:
                return (
                    f"{key}.{word}': {text} is outside the tenant's subnet {subnet} (that of '{first}'); "
                    "a tenant's hosts share one subnet."
                )
    return None


def _check_sizes(scenario: Scenario) -> str | None:
    for name, tenant in scenario.tenants.items():
        try:
            mtu = scenario.tenant_mtu(name)
        except ValueError as error:
            return f"key 'tenants.{name}': {error}; take fewer transit devices or options, or hide less."
        version = 6 if any(host.ipv6 for host in tenant.hosts.values()) else 4
        if mtu < MIN_MTU[version]:
            return (
                f"key 'underlay.mtu': {scenario.underlay.mtu} leaves {mtu} bytes for tenant '{name}', and "
                f"IPv{version} needs {MIN_MTU[version]}; raise it."
            )
    return None


def _check_risks(scenario: Scenario) -> str | None:
    for name in scenario.risks.tenants if scenario.risks is not None else ():
        if name not in scenario.tenants:
            return f"key 'risks.tenants.{name}': there is no tenant of this name; correct it or remove the entry."
    return None

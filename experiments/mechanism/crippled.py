"""The twin of a tenant: same hosts and addresses, another VNI, and a profile that lacks what is probed. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable

from geneve.control.profile import Profile
from topologies.profiles import BUILT_IN_PROFILES, NO_PROTECTION
from topologies.scenario import Scenario, Tenant

TWIN_VNI = 10_000
"""What is added to a tenant's VNI for each twin."""


def twin_name(tenant: str, number: int) -> str:
    """Return the name of a tenant's twin."""
    return f"{tenant}-x{number}"


def twin_host(host: str, number: int) -> str:
    """Return the name of a host's twin; short, since interfaces are named after it."""
    return f"{host[:6]}x{number}"


def _twin_group(address: str, number: int) -> str:
    """Return another multicast address for a twin's group."""
    return str(ipaddress.ip_address(address) + 256 * number)


def with_twins(
    scenario: Scenario, wanted: Iterable[tuple[int, str, Callable[[Profile], Profile | None], bool]]
) -> Scenario:
    """Add a twin for each ``(number, tenant, cripple, keep rules)``; with its rules for the tenant's VNI if kept.

    Profiles that rules name are crippled with the same function, where it changes them.
    """
    tenants: dict[str, Tenant] = dict(scenario.tenants)
    profiles = {profile.name: profile for profile in (*BUILT_IN_PROFILES, *scenario.profiles)}
    added: dict[str, Profile] = {}
    policy = list(scenario.policy)

    def crippled(name: str, number: int, cripple: Callable[[Profile], Profile | None]) -> str:
        # Without profiles there is nothing to take away: the tenant is unprotected already.
        if name == NO_PROTECTION:
            return name
        renamed = f"{name[:24]}-x{number}"
        changed = cripple(profiles[name])
        if changed is None:
            return NO_PROTECTION
        added[renamed] = Profile.model_validate(changed.model_copy(update={"name": renamed}).model_dump())
        return renamed

    for number, name, cripple, keep_rules in wanted:
        tenant = scenario.tenants[name]
        vni = tenant.vni + TWIN_VNI * number
        tenants[twin_name(name, number)] = tenant.model_copy(
            update={
                "vni": vni,
                "profile": crippled(tenant.profile, number, cripple),
                "hosts": {twin_host(host, number): entry for host, entry in tenant.hosts.items()},
                "multicast": tuple(
                    group.model_copy(
                        update={"name": f"{group.name[:24]}-x{number}", "address": _twin_group(group.address, number)}
                    )
                    for group in tenant.multicast
                ),
            }
        )
        for rule in scenario.policy:
            if rule.vni != tenant.vni or not keep_rules:
                continue
            update: dict[str, object] = {"vni": vni}
            if rule.name is not None:
                update["name"] = f"{rule.name[:24]}-x{number}"
            if rule.profile is not None:
                update["profile"] = crippled(rule.profile, number, cripple)
            policy.append(rule.model_copy(update=update))
    return scenario.model_copy(
        update={"tenants": tenants, "profiles": (*scenario.profiles, *added.values()), "policy": tuple(policy)}
    )

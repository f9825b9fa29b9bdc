"""Whether packets under a policy fit the underlay with the tenants' MTU as it is (RFC 8926, section 4.4.1). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from geneve.control.profile import Profile
from geneve.control.state import NodeState, VniState
from geneve.errors import ConfigError
from geneve.option import OPTION_HEADER_SIZE
from geneve.overhead import max_options_size, tenant_mtu
from geneve.policy import Policy
from geneve.security.carriage import OptionSize
from geneve.tags import TAG_CLASS, TAG_OPTION_SIZE, TAG_TYPE
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_OPTION_SIZE, TELEMETRY_TYPE


def refuse_sizes(state: NodeState, underlay_mtu: int, family: int) -> None:
    """Raise ConfigError when some packet that ``state`` allows would not fit the underlay.

    ``underlay_mtu`` in bytes, ``family`` is the underlay's IP version. All transit devices on this node's paths count.
    """
    policy = Policy(state.policy, state.profiles)
    for vni in state.vnis:
        paths = {peer.transit for peer in state.nves if vni.vni in peer.vnis} or {()}
        for profile in policy.profiles_for(vni.vni):
            for path in paths:
                _check(vni, profile, path, underlay_mtu, family)


def _check(vni: VniState, profile: Profile, path: tuple[str, ...], underlay_mtu: int, family: int) -> None:
    try:
        size = max_options_size(profile, list(_option_sizes(vni)), path, bool(vni.multicast))
    except ValueError as error:
        raise ConfigError(f"profile '{profile.name}' cannot be used in VNI {vni.vni}: {error}.") from None
    room = tenant_mtu(underlay_mtu, family, size, profile)
    if vni.mtu > room:
        raise ConfigError(
            f"profile '{profile.name}' leaves tenants of VNI {vni.vni} an MTU of {room}, and they have {vni.mtu}; "
            "choose one that adds less, or give them a smaller MTU."
        )


def _option_sizes(vni: VniState) -> Iterator[OptionSize]:
    for item in vni.options:
        yield OptionSize(item.option_class, item.type, OPTION_HEADER_SIZE + len(item.data) // 2)
    if vni.telemetry:
        yield OptionSize(TELEMETRY_CLASS, TELEMETRY_TYPE, TELEMETRY_OPTION_SIZE)
    if vni.tags:
        yield OptionSize(TAG_CLASS, TAG_TYPE, TAG_OPTION_SIZE)

"""Which associations an NVE seals a packet with: one sealer for each target, profile and rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from geneve.control.profile import KeyGranularity, Profile
from geneve.control.state import AssociationRole
from geneve.overhead import ETHERNET_HEADER_SIZE
from geneve.policy import Decision, Policy
from geneve.security import padding
from geneve.security.association import OutboundAssociation
from geneve.security.seal import PacketSealer
from geneve.security.signature import SourceSigner
from geneve.tags import build_tag
from geneve.telemetry import build_telemetry
from nve.tables import Group, Peer, VirtualNetwork

Key = tuple[int, str, bool, str, str | None]
"""VNI, target's name, whether it is a multicast group, profile, and policy rule where each has its own keys."""
_Index = dict[tuple[AssociationRole, str, int | None, str, str | None], OutboundAssociation]


@dataclass(slots=True)
class Target:
    """A sealer, where its packets go, and what the last data packet looked like, for dummies to look the same."""

    sealer: PacketSealer
    address: str
    network: VirtualNetwork
    entropy: int = 0
    traffic_class: int = 0
    tags: tuple[int, int] = (0, 0)
    associations: tuple[OutboundAssociation, ...] = ()

    def adopt(self, previous: Target | None) -> None:
        """Go on looking as the target of the state before did."""
        if previous is not None:
            self.entropy, self.traffic_class = previous.entropy, previous.traffic_class
            self.tags = previous.tags


def sealer_key(vni: int, target: str, multicast: bool, decision: Decision) -> Key:
    """Return the key of the sealer for a policy's decision."""
    profile = decision.profile
    if profile is None:
        raise ValueError("only the action 'secure' has a sealer")
    rule = decision.rule if profile.key_granularity is KeyGranularity.RULE else None
    return vni, target, multicast, profile.name, rule


def make_targets(
    networks: Iterable[VirtualNetwork],
    policy: Policy,
    ends: Iterable[OutboundAssociation],
    node: str,
    signer: SourceSigner | None,
) -> dict[Key, Target]:
    """Make every sealer for which there are associations; ValueError when options do not fit into packets."""
    index: _Index = {(end.role, end.audience, end.vni, end.profile, end.rule): end for end in ends}
    targets: dict[Key, Target] = {}
    for network in networks:
        for profile, rule in _uses(policy, network.vni):
            for peer in network.peers.values():
                sealer = _to_peer(network, peer, profile, rule, index)
                if sealer is not None:
                    key = (network.vni, peer.name, False, profile.name, rule)
                    targets[key] = _target(sealer, peer.address, network)
            for group in network.groups if signer is not None else ():
                sealer = _to_group(network, group, profile, rule, index, signer) if node in group.senders else None
                if sealer is not None:
                    key = (network.vni, group.name, True, profile.name, rule)
                    targets[key] = _target(sealer, group.address, network)
    return targets


def _target(sealer: PacketSealer, address: str, network: VirtualNetwork) -> Target:
    # The largest set of options, with any values: only sizes matter here.
    options = list(network.static_options)
    if network.telemetry:
        options.append(build_telemetry(0, 0))
    if network.tags:
        options.append(build_tag(0, 0))
    sealer.check_room(options)
    return Target(sealer, address, network, associations=sealer.associations)


def _uses(policy: Policy, vni: int) -> Iterator[tuple[Profile, str | None]]:
    """Yield each profile that the policy can give packets of ``vni``, with its rules where each has own keys."""
    profiles = {profile.name: profile for profile in policy.profiles_for(vni)}
    for profile in profiles.values():
        if profile.key_granularity is not KeyGranularity.RULE:
            yield profile, None
            continue
        for rule in policy.rules_for(vni):
            if rule.profile == profile.name:
                yield profile, rule.name


def _scope(profile: Profile, vni: int) -> int | None:
    return None if profile.key_granularity is KeyGranularity.PAIR else vni


def _largest(network: VirtualNetwork) -> int:
    return network.mtu + ETHERNET_HEADER_SIZE + padding.LENGTH_SIZE


def _to_peer(
    network: VirtualNetwork, peer: Peer, profile: Profile, rule: str | None, index: _Index
) -> PacketSealer | None:
    scope = _scope(profile, network.vni)
    egress = index.get((AssociationRole.EGRESS, peer.name, scope, profile.name, rule))
    group = index.get((AssociationRole.GROUP, peer.name, scope, profile.name, rule))
    if egress is None or (profile.group is not None and group is None):
        return None
    transit = [index.get((AssociationRole.TRANSIT, device, scope, profile.name, rule)) for device in peer.transit]
    return PacketSealer(
        network.vni,
        egress,
        [association for association in transit if association is not None],
        group if profile.group is not None else None,
        largest=_largest(network),
    )


def _to_group(
    network: VirtualNetwork,
    group: Group,
    profile: Profile,
    rule: str | None,
    index: _Index,
    signer: SourceSigner | None,
) -> PacketSealer | None:
    association = index.get((AssociationRole.MULTICAST, group.name, network.vni, profile.name, rule))
    if association is None:
        return None
    return PacketSealer(network.vni, association, signer=signer, largest=_largest(network))

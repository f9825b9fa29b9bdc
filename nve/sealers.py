"""Which associations an NVE seals a packet with: one sealer for each target, profile and rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from geneve.control.profile import KeyGranularity, Profile
from geneve.control.state import AssociationRole
from geneve.overhead import ETHERNET_HEADER_SIZE
from geneve.policy import Decision, Policy
from geneve.security.association import OutboundEnd
from geneve.tags import build_tag
from geneve.telemetry import build_telemetry
from nve.plain import plain_packets
from nve.protection import Chosen, Mechanism, Sealer, Use
from nve.tables import Group, Peer, VirtualNetwork

Key = tuple[int, str, bool, str, str | None]
"""VNI, target's name, whether it is a multicast group, profile, and policy rule where each has its own keys."""
_IndexKey = tuple[AssociationRole, str, int | None, str, str | None]
_Index = dict[_IndexKey, OutboundEnd]


@dataclass(slots=True)
class Target:
    """A sealer, where its packets go, and what the last data packet looked like, for dummies to look the same."""

    sealer: Sealer
    address: str
    network: VirtualNetwork
    traffic_class: int = 0
    tags: tuple[int, int] = (0, 0)
    associations: tuple[OutboundEnd, ...] = ()

    def serves(self, network: VirtualNetwork) -> bool:
        """Return whether its sealer was made for frames and options such as those of ``network``."""
        mine = self.network
        return mine is network or (mine.mtu, mine.telemetry, mine.tags, mine.static_options) == (
            network.mtu,
            network.telemetry,
            network.tags,
            network.static_options,
        )

    def adopt(self, previous: Target | None) -> None:
        """Go on looking as the target of the state before did."""
        if previous is not None:
            self.traffic_class = previous.traffic_class
            self.tags = previous.tags


def sealer_key(vni: int, target: str, multicast: bool, decision: Decision) -> Key:
    """Return the key of the sealer for a policy's decision."""
    profile = decision.profile
    if profile is None:
        raise ValueError("only the action 'secure' has a sealer")
    rule = decision.rule if profile.key_granularity is KeyGranularity.RULE else None
    return vni, target, multicast, profile.name, rule


class TargetMaker:
    """Makes the sealers for which there are associations: ``ends`` to use, and ``expired``, past their lifetime.

    Where an association of a path has expired, there is no sealer at all: a packet without the option of one
    transit device would be less protected than it was. A mechanism with keys of its own needs no associations.
    """

    def __init__(
        self,
        mechanism: Mechanism,
        ends: Iterable[OutboundEnd],
        expired: Iterable[OutboundEnd],
        node: str,
        previous: Mapping[Key, Target],
    ) -> None:
        """``previous`` are the targets until now; those for which nothing has changed stay the same objects."""
        self._mechanism = mechanism
        self._index: _Index = {_index_key(end): end for end in ends}
        self._expired = frozenset(_index_key(end) for end in expired) - self._index.keys()
        self._node = node
        self._previous = previous

    def make(self, networks: Iterable[VirtualNetwork], policy: Policy) -> dict[Key, Target]:
        """Return every target under ``policy``; ValueError when options do not fit into packets."""
        targets: dict[Key, Target] = {}
        for network in networks:
            if not self._mechanism.keyed:
                # Whether options fit must not come out only when a session does.
                plain_packets(network.vni, (b"",), (_largest_options(network),))
            for profile, rule in uses(policy, network.vni):
                for peer in network.peers.values():
                    key = (network.vni, peer.name, False, profile.name, rule)
                    self._add(targets, key, peer.address, network, self._to_peer(network, peer, profile, rule))
                for group in network.groups:
                    key = (network.vni, group.name, True, profile.name, rule)
                    self._add(targets, key, group.address, network, self._to_group(network, group, profile, rule))
        return targets

    def _to_peer(self, network: VirtualNetwork, peer: Peer, profile: Profile, rule: str | None) -> Chosen | None:
        if not self._mechanism.keyed:
            return Chosen()
        scope = None if profile.key_granularity is KeyGranularity.PAIR else network.vni
        rest = (scope, profile.name, rule)
        egress = self._index.get((AssociationRole.EGRESS, peer.name, *rest))
        group = self._index.get((AssociationRole.GROUP, peer.name, *rest)) if profile.group is not None else None
        if egress is None or (profile.group is not None and group is None):
            return None
        devices = [(AssociationRole.TRANSIT, device, *rest) for device in peer.transit]
        if self._expired and not self._expired.isdisjoint(devices):
            return None
        return Chosen(egress, tuple([self._index[key] for key in devices if key in self._index]), group)

    def _to_group(self, network: VirtualNetwork, group: Group, profile: Profile, rule: str | None) -> Chosen | None:
        if self._node not in group.senders:
            return None
        end = self._index.get((AssociationRole.MULTICAST, group.name, network.vni, profile.name, rule))
        return None if end is None else Chosen(end)

    def _add(
        self, targets: dict[Key, Target], key: Key, address: str, network: VirtualNetwork, chosen: Chosen | None
    ) -> None:
        if chosen is None:
            return
        known = self._previous.get(key)
        unchanged = known is not None and known.address == address and known.associations == chosen.associations
        if known is not None and unchanged and self._mechanism.keyed and known.serves(network):
            if known.network is network:
                targets[key] = known
                return
            sealer: Sealer | None = known.sealer
        else:
            largest = network.mtu + ETHERNET_HEADER_SIZE
            use = Use(network.vni, key[1], address, key[2], largest, _largest_options(network))
            sealer = self._mechanism.sealer(use, chosen)
        if sealer is not None:
            targets[key] = Target(sealer, address, network, associations=sealer.associations)
            targets[key].adopt(known)


def _index_key(end: OutboundEnd) -> _IndexKey:
    return end.role, end.audience, end.vni, end.profile, end.rule


def _largest_options(network: VirtualNetwork) -> tuple[bytes, ...]:
    # The largest set of options, with any values: only sizes matter here.
    options = list(network.static_options)
    if network.telemetry:
        options.append(build_telemetry(0, 0))
    if network.tags:
        options.append(build_tag(0, 0))
    return tuple(options)


def uses(policy: Policy, vni: int) -> Iterator[tuple[Profile, str | None]]:
    """Yield each profile that the policy can give packets of ``vni``, with its rules where each has own keys."""
    profiles = {profile.name: profile for profile in policy.profiles_for(vni)}
    for profile in profiles.values():
        if profile.key_granularity is not KeyGranularity.RULE:
            yield profile, None
            continue
        for rule in policy.rules_for(vni):
            if rule.profile == profile.name:
                yield profile, rule.name


def covered_keys(networks: Iterable[VirtualNetwork], policy: Policy) -> Iterator[Key]:
    """Yield the key of every sealer that must exist without any data: dummies are wanted to each peer."""
    for network in networks:
        for profile, rule in uses(policy, network.vni):
            if profile.dummies is not None:
                for peer in network.peers:
                    yield network.vni, peer, False, profile.name, rule

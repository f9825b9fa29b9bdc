"""The NVE's decisions: tenant frames to Geneve packets and back. Pure: bytes and times in, bytes and counts out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from geneve.control.channel import Channel
from geneve.control.demand import Demand
from geneve.control.rules import Action
from geneve.control.state import NodeState
from geneve.drops import DropReason
from geneve.errors import ConfigError
from geneve.policy import Policy
from geneve.security.association import InboundEnd, OutboundEnd
from geneve.security.signature import SourceSigner
from geneve.security.store import AssociationStore, Held, usable
from nve.applied import Applied
from nve.datagrams import Datagram, Received
from nve.decapsulation import Decapsulator
from nve.encapsulation import Encapsulator, Outbound, Work
from nve.presence import Presence
from nve.protection import Mechanism
from nve.sealers import TargetMaker, covered_keys
from nve.security_options import SecurityOptions
from nve.seen import SeenOptions
from nve.segmentation import Frame
from nve.tables import VirtualNetwork, build_tables


@dataclass(slots=True)
class _Prepared:
    """A state that was found good, and what is to be held for it."""

    applied: Applied
    outbound: dict[int, Held[OutboundEnd]]
    inbound: dict[int, Held[InboundEnd]]


class Dataplane:
    """One NVE. ``flow_secret`` keys the hash that gives source ports and flow labels; ``dscp`` as in ecn.py.

    ``signer`` proves this NVE to multicast groups. ``key_log`` is told of keys, for demonstrations only. With
    ``on_demand`` frames wait for keys that :meth:`take_demands` asks for; otherwise they are dropped. ``presence``
    notes the tenants behind this NVE. ``batching`` puts packets of one size together for UDP_SEGMENT, ``merging``
    frames of one flow for the TAP. ``mechanism`` protects all; without it, security options do. All times are
    seconds of one clock.
    """

    def __init__(
        self,
        name: str,
        flow_secret: bytes,
        dscp: int | None = 0,
        signer: SourceSigner | None = None,
        key_log: Callable[[str], None] | None = None,
        on_demand: bool = False,
        presence: Presence | None = None,
        batching: bool = False,
        merging: bool = False,
        mechanism: Mechanism | None = None,
    ) -> None:
        self.name = name
        self.drops: Counter[DropReason] = Counter()
        self.counters: Counter[str] = Counter()
        self._mechanism: Mechanism = mechanism or SecurityOptions(signer)
        self._mechanism_version = self._mechanism.version
        # A mechanism that agrees on keys itself makes frames wait for that too.
        on_demand = self._on_demand = on_demand or not self._mechanism.keyed
        self._presence = presence or Presence()
        self._next_expiry = math.inf
        self._peers: dict[str, str] = {}
        self._outbound: AssociationStore[OutboundEnd] = AssociationStore(self._mechanism.outbound, key_log)
        self._inbound: AssociationStore[InboundEnd] = AssociationStore(self._mechanism.inbound, key_log)
        self._encapsulator = Encapsulator(
            name, flow_secret, dscp, on_demand, self._presence, batching, self.counters, self.drops
        )
        self._decapsulator = Decapsulator(self.counters, self.drops, merging)
        self._waiting, self._cover = self._encapsulator.waiting, self._encapsulator.cover
        self._swap(Applied(opener=self._mechanism.opener((), ())))

    def _swap(self, applied: Applied) -> None:
        self._applied = self._encapsulator.applied = self._decapsulator.applied = applied

    @property
    def networks(self) -> dict[int, VirtualNetwork]:
        """The virtual networks in force, by VNI."""
        return self._applied.networks

    @property
    def seen(self) -> SeenOptions:
        """The options that reached this NVE."""
        return self._decapsulator.seen

    # The state ------------------------------------------------------------------------------------------

    def apply(self, state: NodeState, now: float = 0.0) -> list[Datagram]:
        """Take over a state as a whole; ConfigError leaves the previous one in force.

        Returns what waited for keys that are there now, to be sent in front of anything that comes later.
        """
        self.expire(now)
        self._drop_stale(now)
        prepared = self._prepare(state, now)
        peers = {nve.name: nve.address for nve in state.nves}
        self._mechanism.hold(usable(prepared.outbound)[0], usable(prepared.inbound)[0], peers)
        self._peers = peers
        before = self._applied
        self._swap(prepared.applied)
        self._outbound.commit(prepared.outbound)
        self._inbound.commit(prepared.inbound)
        self._encapsulator.forget_associations(prepared.outbound)
        self._next_expiry = min(self._outbound.next_expiry(), self._inbound.next_expiry())
        self._mechanism.apply(self._peers, state.profiles, now)
        self._presence.set_learned((vni for vni, network in self.networks.items() if network.learned), now)
        if self._mechanism.keyed:
            self._targets_changed(now)
        else:
            self._mechanism_version = self._mechanism.version
            self._make_targets(now)  # sessions may have ended with the peers of before
        return self._release(before, now)

    def check(self, state: NodeState, now: float = 0.0) -> None:
        """Raise ConfigError where :meth:`apply` would; change nothing."""
        self._prepare(state, now)

    def _prepare(self, state: NodeState, now: float) -> _Prepared:
        """Work out all that follows from a state; what follows from unchanged parts of it is taken over."""
        if state.node != self.name:
            raise ConfigError(f"the state is for node {state.node!r}, this is {self.name!r}.")
        self._check_ends(state)
        self._check_profiles(state)
        before = self._applied
        networks = build_tables(state, before.networks)
        if (state.policy, state.profiles) == (before.rules, before.profiles):
            rules, profiles, policy = before.rules, before.profiles, before.policy
        else:
            rules, profiles, policy = state.policy, state.profiles, Policy(state.policy, state.profiles)
        by_name = {profile.name: profile for profile in profiles}
        outbound = self._outbound.prepare(state.outbound, by_name, now)
        inbound = self._inbound.prepare(state.inbound, by_name, now)
        ends = usable(inbound)
        try:
            opener = before.opener if ends == before.inbound else self._mechanism.opener(*ends)
            maker = TargetMaker(self._mechanism, *usable(outbound), self.name, before.targets)
            targets = maker.make(networks.values(), policy)
        except ValueError as error:
            raise ConfigError(f"the associations do not fit together: {error}.") from None
        return _Prepared(Applied(networks, rules, profiles, policy, ends, opener, targets), outbound, inbound)

    def _targets_changed(self, now: float) -> None:
        applied = self._applied
        self._cover.apply(applied.targets, now)
        if self._on_demand:
            self._waiting.met(applied.targets)
            covered = covered_keys(applied.networks.values(), applied.policy)
            self._waiting.stand((key for key in covered if key not in applied.targets), now)

    def _check_ends(self, state: NodeState) -> None:
        """Refuse a key that is not this node's to use: two senders under one key would repeat nonces."""
        for association in state.outbound:
            if association.sender != self.name:
                raise ConfigError(
                    f"outbound association {association.spi:#010x} has the sender {association.sender!r}; "
                    f"expected {self.name!r}."
                )
        for association in state.inbound:
            if not association.opens(self.name) or association.sender == self.name:
                raise ConfigError(
                    f"inbound association {association.spi:#010x} is from {association.sender!r} to "
                    f"{association.audience!r}; expected one from another node to {self.name!r}."
                )

    def _check_profiles(self, state: NodeState) -> None:
        """Refuse profiles of another mechanism than this NVE has, and with a channel that anything goes in clear.

        Its sockets are for one mechanism only, and what the channel's sockets send is no plain Geneve.
        """
        self._mechanism.check(state.profiles)
        if self._mechanism.channel is not None and any(rule.action is Action.BYPASS for rule in state.policy):
            raise ConfigError("the policy lets packets pass in clear, which a channel has no way to; use 'secure'.")
        for profile in state.profiles:
            if profile.channel != self._mechanism.channel:
                raise ConfigError(
                    f"profile {profile.name!r} is for {_channel_text(profile.channel)}, and this NVE is configured for "
                    f"{_channel_text(self._mechanism.channel)}; give all nodes one mechanism."
                )

    def outbound_associations(self) -> list[OutboundEnd]:
        """Return the associations this NVE seals with."""
        return self._outbound.ends()

    # Lifetimes ------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Stop to use associations that are past their lifetime: fail closed, whatever has become of the NVA."""
        if now < self._next_expiry:
            return
        outbound, inbound = self._outbound.expire(now), self._inbound.expire(now)
        self._next_expiry = min(self._outbound.next_expiry(), self._inbound.next_expiry())
        self.counters["associations_expired"] += len(outbound) + len(inbound)
        try:
            self._mechanism.hold(self._outbound.ends(), self._inbound.ends(), self._peers)
        except ConfigError:
            # Whoever holds them too may still have what ended. Nothing here uses it from now on.
            self.counters["hold_failed"] += 1
        applied = self._applied
        applied.forget_flows()
        if inbound:
            applied.inbound = self._inbound.ends(), self._inbound.expired_ends()
            applied.opener = self._mechanism.opener(*applied.inbound)
        if outbound:
            self._make_targets(now)

    def _make_targets(self, now: float) -> None:
        """Make the targets anew after keys have come or gone without a new state."""
        applied = self._applied
        ends, expired = self._outbound.ends(), self._outbound.expired_ends()
        maker = TargetMaker(self._mechanism, ends, expired, self.name, applied.targets)
        applied.targets = maker.make(applied.networks.values(), applied.policy)
        self._targets_changed(now)

    # Keys on demand -------------------------------------------------------------------------------------

    def take_demands(self, now: float) -> list[Demand]:
        """Return the keys that the NVA is to be asked for now."""
        if not self._on_demand:
            return []
        demands = self._waiting.take_demands(now)
        if self._mechanism.keyed:
            return demands
        for demand in demands:
            self._mechanism.want(demand.audience, now)
        return []

    def refuse_demand(self, demand: Demand, now: float) -> None:
        """Note that the NVA refused: what waits for these keys is dropped, and they are not asked for soon."""
        self.drops[DropReason.NO_ASSOCIATION] += self._waiting.refuse(demand, now)

    def _drop_stale(self, now: float) -> None:
        self.drops.update(self._waiting.expire(now))

    def _release(self, before: Applied, now: float) -> list[Datagram]:
        """Decide anew about frames that waited, under what is applied now, and return what can be sent.

        Where policy or tables have changed, that is all of them: a tenant may have moved, a rule may demand
        other keys, or none at all.
        """
        if not self._waiting:
            return []
        applied = self._applied
        same = {vni for vni, network in applied.networks.items() if before.networks.get(vni) is network}
        if applied.policy is not before.policy:
            same.clear()
        work = Work()
        for waiting in self._waiting.take(lambda key: key in applied.targets or key[0] not in same):
            self._encapsulator.again(waiting, work, now)
        return self._encapsulator.finish(work, now).datagrams

    def take_rekey_requests(self) -> list[int]:
        """Return the SPIs of associations beyond their soft limit: the NVA is to replace them."""
        return self._encapsulator.take_rekey_requests()

    # Packets --------------------------------------------------------------------------------------------

    def from_tenants(self, vni: int, frames: Sequence[Frame], now: float = 0.0) -> Outbound:
        """Encapsulate frames that tenants of ``vni`` sent; drops are counted, never raised."""
        if self._mechanism.version == self._mechanism_version:
            return self._encapsulator.from_tenants(vni, frames, now)
        waited = self._follow_mechanism(now)  # else frames would go to sessions that have ended
        result = self._encapsulator.from_tenants(vni, frames, now)
        result.datagrams[:0] = waited
        return result

    def from_underlay(self, packets: Iterable[Received], now: float = 0.0) -> list[tuple[int, Frame]]:
        """Open packets from the underlay; return ``(vni, frame)`` for each frame to deliver to its tenants."""
        return self._decapsulator.from_underlay(packets, now)

    # What is due ----------------------------------------------------------------------------------------

    def run_due(self, now: float) -> list[Datagram]:
        """Return what is due: dummy packets (SEC-GEN-7), handshakes, what waited for them; end lifetimes and waits."""
        self.expire(now)
        if self._waiting:
            self._drop_stale(now)
        sent = self._mechanism.run_due(now)
        if self._mechanism.version != self._mechanism_version:
            sent += self._follow_mechanism(now)
        return [*sent, *self._encapsulator.dummies(now)]

    def _follow_mechanism(self, now: float) -> list[Datagram]:
        """Make the targets anew, since sessions have come or gone; return what waited for them."""
        self._mechanism_version = self._mechanism.version
        self._applied.forget_flows()
        self._make_targets(now)
        return self._release(self._applied, now)

    def next_deadline(self) -> float | None:
        """Return when :meth:`run_due` or :meth:`take_demands` is needed next, or None."""
        times = [self._cover.next_due(), self._mechanism.next_deadline()]
        times += [self._waiting.next_deadline() if self._on_demand else None]
        if self._next_expiry != math.inf:
            times.append(self._next_expiry)
        return min((time for time in times if time is not None), default=None)


def _channel_text(channel: Channel | None) -> str:
    if channel is None:
        return "security options"
    return f"{channel.protocol.value} ({channel.cipher.value}, in {channel.encapsulation.value})"

"""The Geneve Security Associations there are, and their life: demand, offer, switch, retirement, end. Pure.

A *demand* is an ingress NVE's wish to talk: under one profile, in one VNI, to one NVE or underlay group. Each demand
needs one or more *lines*: a line is what there is one current association for (sender, audience, role, scope). On
every line the same exchange runs, whatever started it (demand, rekey by time, by packet count, by an operator, a
member that joined):

1. *offered*: a fresh association is pushed to its audience, and to nobody else.
2. *current*: the egress NVE and all others of the audience that are connected, or have only just lost the NVA, have
   acknowledged it; it is pushed to the sender, which switches.
3. *retiring*: the sender has acknowledged its successor; the audience can open it for GRACE seconds more.

So a sender never holds a key that its audience lacks, and nothing on its way is lost. Only where somebody must not
read on (revoked, left the group, a new process under an old name) an association ends at once.
"""

from __future__ import annotations

import base64
import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Mapping

from pydantic import SecretStr

from controller.authority.lines import (
    DemandKey,
    Held,
    Key,
    Line,
    Paths,
    Recorder,
    Wish,
    audience_of,
    demand_order,
    indispensable_to,
    line_order,
)
from controller.authority.membership import Membership
from controller.authority.spis import SpiSpace
from geneve.control.channel import ChannelProtocol
from geneve.control.demand import Demand
from geneve.control.profile import InnerCoverage, KeyGranularity, Profile
from geneve.control.state import SECRET_SIZE, Association, AssociationRole
from geneve.policy import Policy

GRACE = 3.0
"""Seconds for which a replaced association can still be opened: longer than any packet is under way."""
MIN_AGE = 0.05
"""Seconds before an association can be replaced."""
ASKED_AGAIN = 1.0
"""Seconds after which a demand for what the sender has means that it has lost it, and not that both crossed."""
RESTORED_WAIT = 15.0
"""Seconds in which who is gone may come back, as all do after a restart of the NVA; then it is not waited for."""

class AssociationTable:
    """All associations of the NVA. Times are seconds of one clock; methods return the nodes that it concerns."""

    def __init__(
        self,
        membership: Membership,
        policy: Policy,
        token: Callable[[int], bytes],
        spis: SpiSpace,
        recorder: Recorder,
    ) -> None:
        self._membership, self._policy = membership, policy
        self._token, self._spis = token, spis
        self._recorder = recorder
        self._paths: Paths = {}
        self._registered: set[str] = set()
        self._connected: set[str] = set()
        self._gone: dict[str, float] = {}
        """Since when those are not connected that were."""
        self._signers: dict[str, str] = {}
        self._demands: dict[DemandKey, dict[Key, Wish]] = {}
        self._demands_at: dict[str, set[DemandKey]] = {}
        self._noted_at: dict[DemandKey, set[str]] = {}
        self._multicast: set[DemandKey] = set()
        self._wanted_by: dict[Key, set[DemandKey]] = {}
        self._lines: dict[Key, Line] = {}
        self._lines_at: dict[str, set[Key]] = {}
        self._by_spi: dict[int, Key] = {}
        self._due: list[tuple[float, int, Key]] = []
        self._serial = itertools.count()

    # Who is there ---------------------------------------------------------------------------------------

    def register(self, node: str, signing_key: str | None, now: float, *, fresh: bool) -> set[str]:
        """Note that a node has registered; as a ``fresh`` process it must never meet a key that it had before."""
        concerned: set[str] = set()
        self._connected.add(node)
        self._gone.pop(node, None)
        if fresh:
            concerned |= self._leave(node, now)
            self._signers.pop(node, None)
            if signing_key is not None:
                self._signers[node] = signing_key
        if node not in self._registered or fresh:
            self._registered.add(node)
            concerned |= self._settle(self._demands_of(node), now)
            concerned |= self._settle(self._group_demands(node), now)
        return concerned | {node}

    def _demands_of(self, node: str) -> list[DemandKey]:
        """Return the demands that a node has to do with: its own, those for it, those whose paths lead past it."""
        noted = self._demands_at.get(node, set())
        noted &= self._demands.keys()  # a demand may have ended while the node was not among its lines' ends
        return sorted(noted, key=demand_order)

    def _group_demands(self, node: str) -> list[DemandKey]:
        """Return the demands for groups of which ``node`` could be a member."""
        vnis = set(self._membership.vnis_of(node))
        return sorted((demand for demand in self._multicast if demand.vni in vnis), key=demand_order)

    def disconnected(self, node: str, now: float) -> set[str]:
        """Note that a node cannot acknowledge for now: a first association is not held back by it.

        A replacement is, for a while, since what it replaces goes on: the node still opens that, but not the new one.
        """
        self._connected.discard(node)
        self._gone[node] = now
        concerned: set[str] = set()
        for key in sorted(self._lines_at.get(node, ()), key=line_order):
            line = self._lines[key]
            held = line.offered
            if held is None or node not in held.waiting or node in indispensable_to(held.association):
                continue
            if line.current is not None and now - held.created < RESTORED_WAIT:
                self._wait_until(line, held, now + RESTORED_WAIT)
                continue
            held.waiting.discard(node)
            if not held.waiting:
                concerned |= self._promote(line)
        return concerned

    def revoke(self, node: str, now: float) -> set[str]:
        """End every association of a node at once and forget its demands; groups go on without it."""
        self._connected.discard(node)
        self._gone.pop(node, None)
        self._registered.discard(node)
        self._signers.pop(node, None)
        return self._leave(node, now)

    def _leave(self, node: str, now: float) -> set[str]:
        """End what ``node`` sends and opens; its own demands are gone, others' come back once it is registered."""
        self._registered.discard(node)
        concerned: set[str] = {node}
        for demand in self._demands_of(node):
            if demand.sender == node:
                concerned |= self._forget_demand(demand)
            else:
                concerned |= self._settle((demand,), now)
        return concerned | self._settle(self._group_demands(node), now)

    # What they want -------------------------------------------------------------------------------------

    def permits(self, sender: str, demand: Demand) -> DemandKey | None:
        """Return a demand in its canonical form, or None when policy or membership do not allow it."""
        members = self._membership.members(demand.vni)
        profile = next((item for item in self._policy.profiles_for(demand.vni) if item.name == demand.profile), None)
        if sender not in members or profile is None or not _keyed(profile):
            return None
        rule = demand.rule if profile.key_granularity is KeyGranularity.RULE else None
        if profile.key_granularity is KeyGranularity.RULE and not any(
            item.name == rule and item.profile == profile.name for item in self._policy.rules_for(demand.vni)
        ):
            return None
        if demand.multicast:
            groups = self._membership.groups(demand.vni)
            group = next((item for item in groups if item.name == demand.audience), None)
            if group is None or sender not in group.senders:
                return None
            return DemandKey(sender, demand.audience, True, demand.vni, profile.name, rule)
        if demand.audience == sender or demand.audience not in members:
            return None
        scope = None if profile.key_granularity is KeyGranularity.PAIR else demand.vni
        return DemandKey(sender, demand.audience, False, scope, profile.name, rule)

    def demand(self, key: DemandKey, now: float) -> set[str]:
        """Meet a demand: make what is missing. Who asks for what it was given has lost it, and gets another."""
        if key not in self._demands:
            self._add_demand(key)
            return self._settle((key,), now) | {key.sender}
        concerned: set[str] = set()
        for line_key in self._demands[key]:
            line = self._lines.get(line_key)
            if line is not None and line.current is not None and now - line.current.created >= ASKED_AGAIN:
                concerned |= self.renew(line, now)
        return concerned

    def _add_demand(self, key: DemandKey) -> None:
        self._demands[key] = {}
        self._recorder.demand(key)
        if key.multicast:
            self._multicast.add(key)
        self._note(key, (key.sender, key.audience))

    def _note(self, demand: DemandKey, nodes: Iterable[str]) -> None:
        """See to it that a demand is settled anew when one of these nodes comes or goes."""
        noted = self._noted_at.setdefault(demand, set())
        for node in nodes:
            noted.add(node)
            self._demands_at.setdefault(node, set()).add(demand)

    def demands(self) -> list[DemandKey]:
        """Return all demands, in a fixed order."""
        return sorted(self._demands, key=demand_order)

    def set_paths(self, paths: Paths, now: float) -> set[str]:
        """Take over the transit devices on the paths between NVEs."""
        before, self._paths = self._paths, dict(paths)
        pairs = {pair for pair in before.keys() | paths.keys() if before.get(pair) != paths.get(pair)}
        moved = [demand for demand in self._demands if (demand.sender, demand.audience) in pairs]
        return self._settle(moved, now)

    def set_policy(self, policy: Policy, changed: frozenset[str], now: float) -> set[str]:
        """Take over another policy; ``changed`` are the profiles of which the contents are others now."""
        self._policy = policy
        concerned: set[str] = set()
        for line in [line for line in self._lines.values() if line.key.profile in changed]:
            concerned |= self._end(line)
        for demand in list(self._demands):
            if self._still_permitted(demand):
                concerned |= self._settle((demand,), now)
            else:
                concerned |= self._forget_demand(demand)
        return concerned

    def _still_permitted(self, key: DemandKey) -> bool:
        vnis = self._membership.shared_vnis(key.sender, key.audience) if key.vni is None else (key.vni,)
        for vni in vnis:
            wish = Demand(audience=key.audience, multicast=key.multicast, vni=vni, profile=key.profile, rule=key.rule)
            if self.permits(key.sender, wish) == key:
                return True
        return False

    def _forget_demand(self, demand: DemandKey) -> set[str]:
        concerned: set[str] = set()
        for key in self._demands.pop(demand):
            concerned |= self._unwant(demand, key)
        for node in self._noted_at.pop(demand):
            self._demands_at[node].discard(demand)
        self._multicast.discard(demand)
        self._recorder.demand_gone(demand)
        return concerned | {demand.sender}

    def _unwant(self, demand: DemandKey, key: Key) -> set[str]:
        wanting = self._wanted_by.get(key, set())
        wanting.discard(demand)
        if wanting or key not in self._lines:
            return set()
        return self._end(self._lines[key])

    def _profile(self, name: str, vnis: Iterable[int]) -> Profile | None:
        return next((item for vni in vnis for item in self._policy.profiles_for(vni) if item.name == name), None)

    def _lines_of(self, demand: DemandKey) -> dict[Key, Wish]:
        """Return the lines that a demand needs among nodes that are registered."""
        sender, audience, multicast, vni, name, rule = demand
        vnis = self._membership.shared_vnis(sender, audience) if vni is None else (vni,)
        profile = self._profile(name, vnis)
        if sender not in self._registered or profile is None:
            return {}
        if multicast:
            assert vni is not None
            others = tuple(n for n in self._membership.members(vni) if n != sender and n in self._registered)
            signer = self._signers.get(sender)
            if signer is None or not others:
                return {}
            return {Key(sender, audience, AssociationRole.MULTICAST, vni, name, rule): Wish(others, signer)}
        if audience not in self._registered:
            return {}
        devices = tuple(d for d in self._paths.get((sender, audience), ()) if d in self._registered)
        lines = {Key(sender, audience, AssociationRole.EGRESS, vni, name, rule): Wish()}
        if profile.group is not None:
            lines[Key(sender, audience, AssociationRole.GROUP, vni, name, rule)] = Wish(devices)
        for device in devices:
            if any(self._concerns(number, profile, device) for number in vnis):
                lines[Key(sender, device, AssociationRole.TRANSIT, vni, name, rule)] = Wish()
        return lines

    def _concerns(self, vni: int, profile: Profile, device: str) -> bool:
        """Whether packets of ``vni`` can have anything for a transit device to authenticate or read."""
        coverage = profile.device_coverage(device)
        if coverage is None:
            return False
        return self._membership.carries_options(vni) or coverage.authenticate_inner is not InnerCoverage.NONE

    def _settle(self, demands: Iterable[DemandKey], now: float) -> set[str]:
        """Make the lines of ``demands`` what they should be."""
        concerned: set[str] = set()
        for demand in list(demands):
            wanted = self._lines_of(demand)
            before = self._demands[demand]
            self._demands[demand] = wanted
            for key in before.keys() - wanted.keys():
                concerned |= self._unwant(demand, key)
            # Devices that have not registered yet too: when they do, they get their part.
            self._note(demand, self._paths.get((demand.sender, demand.audience), ()))
            for key, wish in wanted.items():
                self._wanted_by.setdefault(key, set()).add(demand)
                self._note(demand, wish.members)
                concerned |= self._ensure(key, wish, now)
            if before.keys() - wanted.keys() and self._give(demand):
                concerned.add(demand.sender)  # it has not to wait for those that are no longer needed
        return concerned

    # The exchange ---------------------------------------------------------------------------------------

    def _ensure(self, key: Key, wish: Wish, now: float) -> set[str]:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(key, wish)
            return self._offer(line, now)
        if line.wish == wish:
            return set()
        concerned: set[str] = set()
        if set(line.wish.members) - set(wish.members) or line.wish.signer != wish.signer:
            # Who leaves must not read on: what it can open ends now, not when the others have another.
            concerned |= self._clear(line)
        line.wish = wish
        return concerned | self._offer(line, now)

    def _offer(self, line: Line, now: float) -> set[str]:
        """Make a fresh association for a line and give it to its audience."""
        concerned = set() if line.offered is None else self._remove(line.offered)
        association = self._make(line)
        held = line.offered = Held(association, now)
        audience = audience_of(association)
        held.waiting = audience & self._connected | indispensable_to(association)
        if line.current is not None:
            missed = {node for node in audience - held.waiting if now < self._gone.get(node, -math.inf) + RESTORED_WAIT}
            held.waiting |= missed
            if missed:
                self._wait_until(line, held, max(self._gone[node] for node in missed) + RESTORED_WAIT)
        self._by_spi[association.spi] = line.key
        self._know(line, audience | {line.key.sender})
        self._recorder.association("offered", association, now)
        if not held.waiting:
            concerned |= self._promote(line)
        return concerned | audience

    def _wait_until(self, line: Line, held: Held, deadline: float) -> None:
        held.deadline = deadline
        self._schedule(deadline, line.key)

    def _promote(self, line: Line) -> set[str]:
        """Let the sender have what its audience has acknowledged."""
        held, before = line.offered, line.current
        assert held is not None
        line.offered, line.current, line.taken = None, held, False
        if before is not None:
            line.retiring.append(before)
            self._recorder.association("retiring", before.association, before.created)
        self._recorder.association("current", held.association, held.created)
        self._plan_rekey(line)
        concerned = {line.key.sender}
        for demand in self._wanted_by.get(line.key, ()):
            self._give(demand)
        return concerned

    def _give(self, demand: DemandKey) -> bool:
        """Let the sender use a line to an NVE once the transit devices on the way can use theirs; whether that is new.
        """
        lines = [self._lines[key] for key in self._demands[demand] if key in self._lines]
        held_back = [line for line in lines if not line.given]
        if not held_back or any(line.current is None for line in lines):
            return False
        for line in held_back:
            line.given = True
        return True

    def renew(self, line: Line, now: float) -> set[str]:
        """Replace a line's association, make before break; nothing while the last exchange is not complete."""
        current = line.current
        if current is None or line.offered is not None or not line.taken or now - current.created < MIN_AGE:
            return set()
        return self._offer(line, now)

    def renew_surely(self, line: Line, now: float) -> set[str]:
        """Replace a line's association, made before ``now`` and so perhaps known to whom it should not be.

        What is under way is completed first; then comes another one, once. Nothing is too young for that.
        """
        line.again = line.current is None or line.offered is not None or not line.taken
        return set() if line.again else self._offer(line, now)

    def renew_spi(self, spi: int, now: float) -> set[str]:
        """Replace the association with ``spi`` if it is current."""
        line = self.line_of(spi)
        if line is None or line.current is None or line.current.association.spi != spi:
            return set()
        return self.renew(line, now)

    def renew_all(self, now: float, node: str | None = None) -> tuple[int, set[str]]:
        """Replace every association, or every one of a node; returns how many were, and the nodes concerned."""
        keys = self._lines.keys() if node is None else self._lines_at.get(node, ())
        concerned: set[str] = set()
        for key in sorted(keys, key=line_order):
            concerned |= self.renew_surely(self._lines[key], now)
        return len(keys), concerned

    def acknowledged(self, node: str, inbound: frozenset[int], outbound: frozenset[int], now: float) -> set[str]:
        """Note that ``node`` has applied a state with these SPIs to open and to send with."""
        concerned: set[str] = set()
        for spi in inbound:
            line = self.line_of(spi)
            held = None if line is None else line.offered
            if line is not None and held is not None and held.association.spi == spi:
                held.waiting.discard(node)
                if not held.waiting:
                    concerned |= self._promote(line)
        for spi in outbound:
            line = self.line_of(spi)
            if line is None or line.taken or line.current is None or line.current.association.spi != spi:
                continue
            line.taken = True
            if line.again:
                line.again = False
                concerned |= self._offer(line, now)
            for held in line.retiring:
                if held.expires is None:
                    held.expires = now + GRACE
                    self._schedule(held.expires, line.key)
        return concerned

    def tick(self, now: float) -> set[str]:
        """Do what is due: end what has retired, replace what is old."""
        concerned: set[str] = set()
        while self._due and self._due[0][0] <= now:
            _, _, key = heapq.heappop(self._due)
            line = self._lines.get(key)
            if line is not None:
                concerned |= self._run_due(line, now)
        return concerned

    def _run_due(self, line: Line, now: float) -> set[str]:
        concerned: set[str] = set()
        for held in [held for held in line.retiring if held.expires is not None and held.expires <= now]:
            line.retiring.remove(held)
            concerned |= self._remove(held)
        if line.offered is not None and line.offered.deadline is not None and line.offered.deadline <= now:
            line.offered.deadline = None
            line.offered.waiting &= self._connected | indispensable_to(line.offered.association)
            if not line.offered.waiting:
                concerned |= self._promote(line)
        if line.rekey_timer is None or line.rekey_timer > now:
            return concerned
        line.rekey_timer = None
        profile, current = self._profile_of(line), line.current
        if profile is None or profile.rekey_seconds is None or current is None:
            return concerned
        if now >= current.created + profile.rekey_seconds:
            concerned |= self.renew(line, now)
        self._plan_rekey(line, not_before=now + min(1.0, profile.rekey_seconds))
        return concerned

    def _plan_rekey(self, line: Line, not_before: float = -math.inf) -> None:
        """See to it that a line is looked at when its current association is old; one timer for each line."""
        profile, current = self._profile_of(line), line.current
        if line.rekey_timer is None and profile is not None and profile.rekey_seconds is not None and current:
            line.rekey_timer = max(current.created + profile.rekey_seconds, not_before)
            self._schedule(line.rekey_timer, line.key)

    def _schedule(self, when: float, key: Key) -> None:
        heapq.heappush(self._due, (when, next(self._serial), key))

    def _profile_of(self, line: Line) -> Profile | None:
        key = line.key
        demand = next(iter(self._wanted_by.get(key, ())), None)
        if demand is None:
            return None
        shared = self._membership.shared_vnis(demand.sender, demand.audience) if key.vni is None else (key.vni,)
        return self._profile(key.profile, shared)

    # How it ends ----------------------------------------------------------------------------------------

    def _clear(self, line: Line) -> set[str]:
        concerned = {line.key.sender}
        for _, held in list(line.all()):
            concerned |= self._remove(held)
        line.offered = line.current = None
        line.retiring, line.given, line.taken = [], False, False
        for node in line.nodes:
            self._lines_at[node].discard(line.key)
        line.nodes = set()
        return concerned

    def _know(self, line: Line, nodes: set[str]) -> None:
        line.nodes |= nodes
        for node in nodes:
            self._lines_at.setdefault(node, set()).add(line.key)

    def _end(self, line: Line) -> set[str]:
        concerned = self._clear(line)
        self._lines.pop(line.key, None)
        for demand in self._wanted_by.pop(line.key, set()):
            self._demands.get(demand, {}).pop(line.key, None)
        return concerned

    def _remove(self, held: Held) -> set[str]:
        self._by_spi.pop(held.association.spi, None)
        self._recorder.association_gone(held.association.spi)
        return audience_of(held.association)

    # Who gets what --------------------------------------------------------------------------------------

    def inbound(self, node: str) -> list[Association]:
        """Return what ``node`` must be able to open."""
        lines = (self._lines[key] for key in self._lines_at.get(node, ()))
        return [held.association for line in lines for _, held in line.all() if held.association.opens(node)]

    def outbound(self, node: str) -> list[Association]:
        """Return what ``node`` may send with now."""
        lines = (self._lines[key] for key in self._lines_at.get(node, ()) if key.sender == node)
        return [line.current.association for line in lines if line.current is not None and line.given]

    def line_of(self, spi: int) -> Line | None:
        """Return the line that has the association with ``spi``."""
        key = self._by_spi.get(spi)
        return None if key is None else self._lines.get(key)

    def all(self) -> list[Line]:
        """Return all lines in a fixed order."""
        return [self._lines[key] for key in sorted(self._lines, key=line_order)]

    def settled(self) -> bool:
        """Whether no exchange is under way that some connected node could complete."""
        return not any(
            line.offered is not None and line.offered.waiting & self._connected for line in self._lines.values()
        )

    # From one life to the next --------------------------------------------------------------------------

    def restore(
        self, demands: Iterable[DemandKey], held: Iterable[tuple[str, Association, float]],
        registered: Mapping[str, str | None], paths: Paths, now: float,
    ) -> None:  # fmt: skip
        """Take over demands, associations (stage and time made), nodes with their signing keys, and paths.

        Nobody is connected yet, and nothing that a sender may hold ends.
        """
        self._paths = dict(paths)
        self._registered = set(registered)
        self._gone = dict.fromkeys(registered, now)
        self._signers = {node: key for node, key in registered.items() if key is not None}
        for stage, association, created in held:
            key = Key(
                association.sender, association.audience, association.role,
                association.vni, association.profile, association.rule,
            )  # fmt: skip
            line = self._lines.setdefault(key, Line(key, Wish(association.members, association.signer)))
            item = Held(association, min(created, now))
            self._by_spi[association.spi] = key
            self._know(line, audience_of(association) | {association.sender})
            if stage == "offered":
                line.offered, line.wish = item, Wish(association.members, association.signer)
                item.waiting = set(audience_of(association))
                if association.role is not AssociationRole.EGRESS:
                    self._wait_until(line, item, now + RESTORED_WAIT)
            elif stage == "current":
                line.current, line.given = item, True
            else:
                line.retiring.append(item)
        for line in self._lines.values():
            # The sender says which it has when it comes back; until then nothing that it may send with ends.
            if line.offered is None and line.current is not None:
                line.wish = Wish(line.current.association.members, line.current.association.signer)
        for demand in demands:
            if self._still_permitted(demand):
                self._add_demand(demand)
                self._settle((demand,), now)
            else:
                self._recorder.demand_gone(demand)
        for line in list(self._lines.values()):
            if not self._wanted_by.get(line.key):
                self._end(line)
            else:
                self._plan_rekey(line)

    def _make(self, line: Line) -> Association:
        key = line.key
        return Association(
            spi=self._spis.take(),
            role=key.role,
            sender=key.sender,
            audience=key.audience,
            members=line.wish.members,
            sender_address=self._membership.address(key.sender),
            vni=key.vni,
            rule=key.rule,
            profile=key.profile,
            secret=SecretStr(base64.b64encode(self._token(SECRET_SIZE)).decode("ascii")),
            signer=line.wish.signer,
        )


def _keyed(profile: Profile) -> bool:
    """Return whether the NVA makes the keys of a profile: DTLS agrees on its own."""
    return profile.channel is None or profile.channel.protocol is not ChannelProtocol.DTLS

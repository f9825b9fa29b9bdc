"""The core broken on purpose, in the ways in which such protocols break, to see that the simulation notices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from controller.authority import associations, memory, pusher, spis
from controller.authority.associations import AssociationTable
from controller.authority.lines import Line
from controller.authority.nodes import NodeRecord
from controller.authority.nva import Effect
from controller.authority.policies import PolicyBook
from controller.operators.operations import Rekey, Restore, Revoke, SetPolicy
from geneve.control import protocol
from geneve.control.state import AssociationRole
from geneve.security.store import AssociationStore
from nve import encapsulation
from nve.datagrams import Datagram
from nve.encapsulation import Encapsulator
from tests.simulation import healing, scene
from tests.simulation.ledger import check_restart, watched
from tests.simulation.schedules import FIRST_DEMAND, JOIN, MOVE, REKEY, REVOCATION, Exchange, Runner
from tests.simulation.world import BEFORE_STORE, World

Patch = pytest.MonkeyPatch


def promote_before_acknowledgement(patch: Patch) -> None:
    offer = AssociationTable._offer

    def early(self: AssociationTable, line: Line, now: float) -> set[str]:
        concerned = offer(self, line, now)
        return concerned | (self._promote(line) if line.offered is not None else set())

    patch.setattr(AssociationTable, "_offer", early)


def break_before_make(patch: Patch) -> None:
    offer = AssociationTable._offer

    def breaking(self: AssociationTable, line: Line, now: float) -> set[str]:
        return self._clear(line) | offer(self, line, now)

    patch.setattr(AssociationTable, "_offer", breaking)


def no_grace_period(patch: Patch) -> None:
    patch.setattr(associations, "GRACE", -1.0)
    patch.setattr(associations, "MIN_AGE", 0.0)
    promote = AssociationTable._promote

    def forgetful(self: AssociationTable, line: Line) -> set[str]:
        concerned = promote(self, line)
        for held in line.retiring:
            concerned |= self._remove(held)
        line.retiring.clear()
        return concerned

    patch.setattr(AssociationTable, "_promote", forgetful)


def nonces_start_again(patch: Patch) -> None:
    prepare = AssociationStore.prepare

    def forgetful(self: AssociationStore[Any], *arguments: Any) -> Any:
        held, self._held = self._held, {}
        retired, self._retired = self._retired, set()
        try:
            return prepare(self, *arguments)
        finally:
            self._held, self._retired = held, retired

    patch.setattr(AssociationStore, "prepare", forgetful)


def plaintext_without_keys(patch: Patch) -> None:
    def fall_back(
        self: Encapsulator, key: Any, network: Any, frames: Any, work: Any, now: float, only: str | None = None
    ) -> None:
        address = network.peers[key[1]].address if key[1] in network.peers else "239.1.1.1"
        for packet in encapsulation.plain_packets(network.vni, frames, [()] * len(frames)):
            work.result.datagrams.append(Datagram(address, packet, 0, 0))

    patch.setattr(Encapsulator, "_wait", fall_back)


def sent_before_stored(patch: Patch) -> None:
    finish = World.finish

    def careless(self: World, effects: list[Effect]) -> bool:
        for effect in effects:
            self._carry_out(effect)
        return finish(self, [])

    patch.setattr(World, "finish", careless)


def spis_not_reserved(patch: Patch) -> None:
    init = spis.SpiSpace.__init__

    def silent(self: spis.SpiSpace, key: bytes, start: int, reserved: Callable[[int], None]) -> None:
        init(self, key, start, lambda _: None)

    patch.setattr(spis.SpiSpace, "__init__", silent)


def a_leaver_keeps_the_groups_key(patch: Patch) -> None:
    ensure = AssociationTable._ensure

    def lenient(self: AssociationTable, key: Any, wish: Any, now: float) -> set[str]:
        line = self._lines.get(key)
        if line is not None and key.role is AssociationRole.MULTICAST and set(line.wish.members) - set(wish.members):
            return set()
        return ensure(self, key, wish, now)

    patch.setattr(AssociationTable, "_ensure", lenient)


def a_newcomer_gets_the_groups_old_key(patch: Patch) -> None:
    ensure = AssociationTable._ensure

    def generous(self: AssociationTable, key: Any, wish: Any, now: float) -> set[str]:
        line = self._lines.get(key)
        if line is None or line.current is None or set(wish.members) <= set(line.wish.members):
            return ensure(self, key, wish, now)
        line.wish = wish
        changed = line.current.association.model_copy(update={"members": wish.members})
        line.current.association = changed
        self._recorder.association("current", changed, now)
        self._know(line, set(wish.members))
        return {key.sender, *wish.members}

    patch.setattr(AssociationTable, "_ensure", generous)


def a_new_process_keeps_its_keys(patch: Patch) -> None:
    register = AssociationTable.register

    def trusting(self: AssociationTable, node: str, signing_key: str | None, now: float, *, fresh: bool) -> set[str]:
        return register(self, node, signing_key, now, fresh=fresh and node not in self._registered)

    patch.setattr(AssociationTable, "register", trusting)


def pushes_are_not_repeated(patch: Patch) -> None:
    patch.setattr(pusher, "REPEAT", 1e9)
    patch.setattr(pusher, "PUSH_LIMIT", 1e9)


def requests_are_not_repeated(patch: Patch) -> None:
    patch.setattr(protocol, "REPEAT_INTERVAL", 1e9)
    patch.setattr(protocol, "MAX_OPEN_REQUESTS", 1 << 30)


def some_deltas_lack_their_keys(patch: Patch) -> None:
    """What a node acknowledges is not what the NVA meant."""
    next_push = NodeRecord.next_push

    def skipping(self: NodeRecord, *arguments: Any) -> Any:
        push = next_push(self, *arguments)
        if push is not None and push.sequence % 3 == 0:
            push.params["scopes"].pop("node", None)
        return push

    patch.setattr(NodeRecord, "next_push", skipping)


def a_policy_needs_no_check(patch: Patch) -> None:
    propose = PolicyBook.propose

    def hasty(self: PolicyBook, document: Any, connected: Any, now: float) -> Any:
        return propose(self, document, (), now)

    patch.setattr(PolicyBook, "propose", hasty)


def associations_are_not_stored(patch: Patch) -> None:
    patch.setattr(memory.JournalRecorder, "association", lambda *_: None)


def stages_are_not_stored(patch: Patch) -> None:
    keep = memory.JournalRecorder.association

    def first_only(self: memory.JournalRecorder, stage: str, association: Any, created: float) -> None:
        keep(self, "offered", association, created)

    patch.setattr(memory.JournalRecorder, "association", first_only)


# What is run with each of them --------------------------------------------------------------------------


def exchange(chosen: Exchange, **faults: Any) -> Callable[[], None]:
    def run() -> None:
        runner = Runner(chosen)
        outcome = runner.run(**faults)
        assert not chosen.lossless or not outcome.lost, "frames are lost"
        runner.check_recovery()

    return run


def lost(place: int) -> Any:
    return lambda number, _: [] if number == place else [0.001]


def each_lost(chosen: Exchange, places: range) -> Callable[[], None]:
    def run() -> None:
        for place in places:
            exchange(chosen, fate=lost(place))()

    return run


def membership() -> None:
    """Revoke and restore a member of a group under traffic, and restart another."""
    world = World(seed=3)
    with watched(world):
        for _ in range(3):
            for number in (1, 2, 3):
                world.send(scene.Tenant(scene.SHARED, number), None)
            world.run(0.3)
        world.operate(Revoke("nve3"))
        world.run(1.0)
        world.send(scene.Tenant(scene.SHARED, 1), None)
        world.operate(Restore("nve3"))
        world.run(9.0)
        world.kill_node("nve2", 0.2)
        world.run(3.0)
        healing.converge(world)


def crashes() -> None:
    """Kill the NVA again and again while it makes associations."""
    world = World(seed=4)
    with watched(world):
        for number, tenant in enumerate(scene.TENANTS * 2):
            world.crash_at = lambda step, at=world.nva_steps + 1 + number % 5, how=(BEFORE_STORE, 1)[number % 2]: (
                how if step == at else None
            )
            for other in scene.TENANTS:
                if other.vni == tenant.vni:
                    world.send(tenant, other)
            world.operate(Rekey())
            world.run(0.4)
            world.run(1.0)
            if world.nva is not None:
                check_restart(world)
        healing.converge(world)


def refused_policy() -> None:
    world = World(seed=5)
    with watched(world):
        world.operate(SetPolicy(scene.policies(scene.document())["refused"]))
        world.run(1.0)
        assert world.nva is not None
        assert world.nva.book.version == 1, "a policy is in force that a node refuses"


MUTANTS: dict[Callable[[Patch], None], Callable[[], None]] = {
    promote_before_acknowledgement: exchange(REKEY),
    break_before_make: exchange(REKEY),
    no_grace_period: exchange(REKEY),
    nonces_start_again: exchange(REKEY),
    plaintext_without_keys: exchange(FIRST_DEMAND),
    sent_before_stored: exchange(FIRST_DEMAND),
    spis_not_reserved: crashes,
    a_leaver_keeps_the_groups_key: exchange(REVOCATION),
    a_newcomer_gets_the_groups_old_key: exchange(JOIN),
    a_new_process_keeps_its_keys: membership,
    pushes_are_not_repeated: each_lost(REKEY, range(9)),
    requests_are_not_repeated: each_lost(MOVE, range(2)),
    some_deltas_lack_their_keys: exchange(REKEY),
    a_policy_needs_no_check: refused_policy,
    associations_are_not_stored: crashes,
    stages_are_not_stored: crashes,
}

"""What must be true once all faults are over and some time has passed: everybody in step, everybody can talk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.authority.nva import Nva
from controller.operators.operations import RemoveMapping, Restore
from tests.simulation import scene
from tests.simulation.ledger import check_restart, demand

if TYPE_CHECKING:
    from tests.simulation.world import World

SETTLING = 45.0
"""Seconds after the last fault in which everything settles: silent connections are found dead, back-offs end."""
AGAIN = 6.0
"""Seconds in which a pair can talk again once all nodes are in step; a refused demand is repeated after 5 s."""


def converge(world: World, restore: bool = False) -> None:
    """Heal the world, and check that it is whole within the time that it may take."""
    world.heal()
    if restore:
        for name in scene.NODES:
            world.operate(Restore(name))
    world.run(1.0)  # whatever is down comes up
    world.run_until(world.quiet, SETTLING, "every node is in step")
    assert world.nva is not None
    for tenant in scene.TENANTS:
        if tenant.vni == scene.MOBILE and world.nva.directory.is_static(tenant.vni, tenant.mac):
            world.operate(RemoveMapping(tenant.vni, tenant.mac))  # the operator pinned it, and the NVA died then
    world.run(1.0)
    talk(world)
    world.run(25.0)  # longer than keys may live before they are replaced
    world.run_until(world.quiet, SETTLING, "every node is in step again")
    assert world.nva is not None
    check_no_leftovers(world, world.nva)
    check_restart(world)
    talk(world)


def talk(world: World) -> None:
    """Check that each pair of tenants can talk, in both directions."""
    assert world.nva is not None
    revoked = {name for name, node in world.nva.nodes.items() if node.revoked}
    pairs = [
        (sender, receiver)
        for sender in scene.TENANTS
        for receiver in scene.TENANTS
        if sender.vni == receiver.vni and sender is not receiver
        if not revoked & {world.places[sender], world.places[receiver]}
    ]
    missing = dict.fromkeys(pairs)
    end = world.now + AGAIN
    tried: dict[tuple[scene.Tenant, scene.Tenant], list[int]] = {pair: [] for pair in pairs}
    while missing and world.now < end:
        for sender, receiver in missing:
            tried[sender, receiver].append(world.send(sender, receiver))
        world.run(0.5)
        missing = {
            pair: None
            for pair in missing
            if not any(world.places[pair[1]] in world.got(serial) for serial in tried[pair])
            and world.places[pair[0]] != world.places[pair[1]]
        }
    described = [f"{s.number}@{world.places[s]} -> {r.number}@{world.places[r]} in {s.vni}" for s, r in missing]
    demand(not missing, f"cannot talk: {', '.join(described)}")
    for sender in scene.TENANTS:
        if sender.vni in (scene.MOBILE, scene.SHARED) and world.places[sender] not in revoked:
            _broadcast(world, sender, revoked)


def _broadcast(world: World, sender: scene.Tenant, revoked: set[str]) -> None:
    receivers = set(scene.NVES) - revoked - {world.places[sender]}
    for _ in range(int(AGAIN / 0.5)):
        serial = world.send(sender, None)
        world.run(0.5)
        if receivers <= world.got(serial):
            return
    demand(False, f"{sender.number} in {sender.vni} cannot reach all: {receivers - world.got(serial)} missing")


def check_no_leftovers(world: World, nva: Nva, oldest: float = 45.0) -> None:
    """Check that no exchange is stuck; ``oldest`` is the age in seconds that a key has at most."""
    for line in nva.associations.all():
        demand(line.current is not None, f"{line.key} has no current association")
        demand(line.given, f"the sender of {line.key} is not given what there is")
        ages = [world.now - held.created for _, held in line.all()]
        demand(len(ages) <= 3 and max(ages) < oldest, f"{line.key} has associations {ages} seconds old")
    demand(nva.book.candidate is None, "a candidate policy is neither in force nor given up")
    demand(not nva._tenants._questions, "a question is still open")
    for tenant, place in world.places.items():
        if tenant.vni == scene.MOBILE and not nva.nodes[place].revoked:
            mapping = nva.directory.get(tenant.vni, tenant.mac)
            where = None if mapping is None else mapping.nve
            demand(where == place, f"tenant {tenant.number} is behind {place}, and mapped to {where}")

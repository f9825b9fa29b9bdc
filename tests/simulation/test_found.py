"""What the simulation has found, each as a short run of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from controller.operations import Restore, Revoke
from tests.simulation import healing, scene
from tests.simulation.ledger import watched
from tests.simulation.world import World

T1, T2, T3 = (scene.Tenant(scene.MOBILE, number) for number in (1, 2, 3))
S1, S2, S3 = (scene.Tenant(scene.SHARED, number) for number in (1, 2, 3))


@pytest.fixture()
def world() -> Iterator[World]:
    made = World()
    with watched(made):
        yield made


def arrives(world: World, sender: scene.Tenant, receiver: scene.Tenant, within: float = 0.1) -> bool:
    serial = world.send(sender, receiver)
    world.run(within)
    return world.places[receiver] in world.got(serial)


def keys_at(world: World, node: str) -> set[tuple[str, str]]:
    """Return sender and role of each association that a node can open."""
    held = world.nodes[node]
    assert held is not None
    return {(item.sender, item.role.value) for item in held.in_document()[1]}


def test_a_device_that_comes_after_a_demand_gets_its_keys(world: World) -> None:
    world.operate(Revoke("t1"))
    world.run(0.1)
    assert arrives(world, T1, T2)
    assert arrives(world, S1, S2)
    world.operate(Restore("t1"))
    world.run(10.0)
    assert keys_at(world, "t1") == {("nve1", "transit"), ("nve1", "group")}


def test_a_device_comes_back_after_the_demands_past_it_have_ended(world: World) -> None:
    assert arrives(world, T1, T2)
    world.set_paths(dict.fromkeys(scene.RING, ()))
    world.run(0.1)
    world.kill_node("nve1", 0.1)
    world.run(1.0)
    world.kill_node("t1", 0.1)
    world.run(1.0)
    healing.converge(world)


def test_a_demand_does_not_wait_for_a_device_that_is_no_longer_on_its_path(world: World) -> None:
    world.partitioned.add("t2")
    assert not arrives(world, T1, T3), "the device has not acknowledged"
    world.set_paths(dict.fromkeys(scene.RING, ()))
    world.run(0.1)
    assert arrives(world, T1, T3)

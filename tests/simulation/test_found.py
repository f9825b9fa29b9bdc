"""What the simulation has found, each as a short run of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from controller.operators.operations import Rekey, Restore, Revoke, SetPolicy
from tests.simulation import healing, scene
from tests.simulation.control import LATENCY, on_time
from tests.simulation.ledger import watched
from tests.simulation.nodes import SimNve
from tests.simulation.world import World

T1, T2, T3 = (scene.Tenant(scene.MOBILE, number) for number in (1, 2, 3))
P1, P2 = (scene.Tenant(scene.PAIRED, number) for number in (1, 2))
S1, S2, S3 = (scene.Tenant(scene.SHARED, number) for number in (1, 2, 3))


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    with watched(made):
        yield made


def arrives(world: World, sender: scene.Tenant, receiver: scene.Tenant | None, within: float = 0.1) -> bool:
    serial = world.send(sender, receiver)
    world.run(within)
    return world.got(serial) >= ({world.places[receiver]} if receiver else set(scene.NVES) - {world.places[sender]})


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


def test_a_shared_key_waits_for_its_nve_though_that_is_cut_off_from_the_nva(world: World) -> None:
    assert arrives(world, S1, S2)
    world.break_connection("nve2")
    world.partitioned.add("nve2")
    world.operate(Rekey(node="nve1"))
    world.run(0.1)
    assert arrives(world, S1, S2), "the data plane goes on with what both have"


def test_a_node_that_reconnects_while_a_policy_is_checked_does_not_stop_it(world: World) -> None:
    assert world.nva is not None
    world.partitioned.add("nve3")  # its check is awaited
    world.operate(SetPolicy(scene.policies(scene.document())["secured"]))
    world.run(0.1)
    world.break_connection("nve1")
    world.run(1.0)
    world.partitioned.clear()
    world.run(5.0)
    assert world.nva.book.candidate is None
    assert world.nva.book.version == 2


def test_who_was_robbed_of_an_address_while_cut_off_claims_it_again_when_it_is_back(world: World) -> None:
    assert world.nva is not None
    world.run(1.0)
    world.break_connection("nve1")
    world.partitioned.add("nve1")
    thief = world.nodes["nve2"]
    assert isinstance(thief, SimNve)
    thief.appear(T1)
    world.run(1.0)
    world.partitioned.clear()
    world.run(10.0)
    thief.vanish(T1)
    world.run(5.0)
    mapping = world.nva.directory.get(T1.vni, T1.mac)
    assert mapping is not None
    assert mapping.nve == "nve1"


def test_a_policy_is_the_same_in_every_process() -> None:
    """What a policy is written as does not depend on the order that a process gives to sets."""
    code = (
        "from controller.authority.policies import document_of; from tests.simulation import scene;"
        "print(document_of(scene.build()).model_dump_json())"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1


def test_a_sender_at_its_hard_limit_gets_another_association() -> None:
    limits = {"rekey_seconds": None, "lifetime_seconds": None, "soft_limit": 20, "hard_limit": 40}
    world = World(scene.build(scene.document(**limits)))
    with watched(world):
        assert arrives(world, P1, P2)
        for _ in range(45):  # all requests are lost with the connection, which nobody has noticed yet
            world.partitioned.add("nve1")
            world.send(P1, P2)
        world.run(0.2)
        world.break_connection("nve1")
        world.partitioned.clear()
        world.run(20.0)
        arrives(world, P1, P2)  # which asks
        assert arrives(world, P1, P2)


def test_a_request_for_another_association_that_comes_too_early_is_not_forgotten() -> None:
    limits = {"rekey_seconds": None, "lifetime_seconds": None, "soft_limit": 20, "hard_limit": 40}
    world = World(scene.build(scene.document(**limits)))
    with watched(world):
        sent = world.fate
        # The NVA hears late that the sender has its association; by then the sender has used it up.
        world.fate = lambda envelope: [] if envelope.to_nva and envelope.node == "nve1" and (
            envelope.kind == "answer(sequence)"
        ) else sent(envelope)  # fmt: skip
        assert arrives(world, P1, P2)
        for _ in range(45):
            world.send(P1, P2)
            world.run(0.001)
        world.fate = sent
        world.run(5.0)
        arrives(world, P1, P2)  # which asks
        assert arrives(world, P1, P2)


def test_a_nva_that_is_restarted_often_replaces_keys_in_time_all_the_same(world: World) -> None:
    assert arrives(world, S1, None)
    for _ in range(9):
        world.run(10.0)
        world.kill_nva(0.1)
        world.run(1.0)
        assert arrives(world, S1, None), "more often than keys are replaced, for longer than they live"


def test_a_receiver_that_reconnects_during_a_rekey_of_its_group_misses_nothing(world: World) -> None:
    assert arrives(world, S1, None)
    world.fate = lambda envelope: [] if envelope.node == "nve2" and not envelope.to_nva else [LATENCY]
    world.operate(Rekey(node="nve1"))
    world.break_connection("nve2")
    world.fate = on_time
    for _ in range(100):
        assert arrives(world, S1, None, within=0.01)
    assert world.nva is not None
    assert all(line.offered is None for line in world.nva.associations.all()), "and the exchange is over"

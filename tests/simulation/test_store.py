"""A few runs with the real store: SQLite in a file, opened anew for each start of the NVA."""

from __future__ import annotations

from pathlib import Path

from controller.operators.operations import Rekey, Revoke, SetPolicy
from controller.store import Store
from tests.simulation import healing, scene
from tests.simulation.ledger import watched
from tests.simulation.world import BEFORE_STORE, World


class ReopenedStore(Store):
    """Reads through a connection of its own, as a new process does: what is not committed is not there."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, bytes(32))
        self._file = path

    def load(self):  # type: ignore[no-untyped-def]
        other = Store(self._file, bytes(32))
        try:
            return other.load()
        finally:
            other.close()


def test_the_world_heals_from_what_sqlite_holds(tmp_path: Path) -> None:
    store = ReopenedStore(tmp_path / "nva.db")
    world = World(seed=9, store=store)
    with watched(world):
        for number, sender in enumerate(scene.TENANTS):
            step, point = world.nva_steps + 1 + number % 4, (BEFORE_STORE, 1)[number % 2]
            world.crash_at = lambda now, step=step, point=point: point if now == step else None
            for receiver in scene.TENANTS:
                if receiver.vni == sender.vni:
                    world.send(sender, receiver)
            world.operate(Rekey())
            world.run(1.5)
        world.operate(SetPolicy(scene.policies(scene.document())["secured"]))
        world.operate(Revoke("nve3"))
        world.run(0.5)
        world.kill_nva(0.2)
        healing.converge(world)
        healing.converge(world, restore=True)
        assert world.nva is not None
        assert world.nva.book.version == 2
    store.close()

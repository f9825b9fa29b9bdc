"""The state machine that Hypothesis drives: everything that can happen to the control plane, in any order."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from controller.operators.operations import Rekey, RemoveMapping, Restore, Revoke, SetMapping, SetPolicy
from geneve.control.state import Mapping
from tests.simulation import healing, scene
from tests.simulation.control import LATENCY, Envelope
from tests.simulation.ledger import check_restart, watched
from tests.simulation.world import BEFORE_STORE, World

NODE, NVE = st.sampled_from(scene.NODES), st.sampled_from(scene.NVES)
FATES = st.sampled_from(["on time", "lossy", "repeating", "late", "swapping", "everything"])
POINTS = st.sampled_from([BEFORE_STORE, 0, 1, 2, 99])


class Machine(RuleBasedStateMachine):
    """One world. Each rule does one thing and lets a little time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = contextlib.ExitStack()
        self.policies = scene.policies(scene.document())

    def make_world(self, seed: int) -> World:
        return World(seed=seed)

    @initialize(seed=st.integers(0, 1 << 16))
    def begin(self, seed: int) -> None:
        self.world = self.make_world(seed)
        self.opened.enter_context(watched(self.world))

    # Traffic and time -----------------------------------------------------------------------------------

    @rule(sender=st.sampled_from(scene.TENANTS), receiver=st.sampled_from(scene.TENANTS), count=st.integers(1, 8))
    def frames(self, sender: scene.Tenant, receiver: scene.Tenant, count: int) -> None:
        for _ in range(count):
            self.world.send(sender, receiver if receiver.vni == sender.vni else None)
        self.world.run(0.01)

    @rule(sender=st.sampled_from(scene.TENANTS), receiver=st.sampled_from(scene.TENANTS))
    def many_frames(self, sender: scene.Tenant, receiver: scene.Tenant) -> None:
        """More than the soft limit."""
        for _ in range(40):
            self.world.send(sender, receiver if receiver.vni == sender.vni else None)
            self.world.run(0.002)

    @rule(vni=st.sampled_from([scene.MOBILE, scene.SHARED]))
    def everybody(self, vni: int) -> None:
        for sender in [tenant for tenant in scene.TENANTS if tenant.vni == vni]:
            self.world.send(sender, None)
        self.world.run(0.01)

    @rule(seconds=st.sampled_from([0.0005, 0.0015, 0.003, 0.01, 0.1, 0.5, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(seconds=st.sampled_from([6.0, 12.0, 22.0, 65.0]))
    def wait_long(self, seconds: float) -> None:
        self.world.run(seconds)

    # Faults ---------------------------------------------------------------------------------------------

    @rule(kind=FATES)
    def control_network(self, kind: str) -> None:
        random = self.world.random

        def fate(_: Envelope) -> list[float] | None:
            chosen = kind if kind != "everything" else random.choice(["lossy", "repeating", "late", "swapping"])
            if chosen == "on time" or random.random() < 0.6:
                return [LATENCY]
            if chosen == "lossy":
                return []
            if chosen == "repeating":
                return [LATENCY, LATENCY * random.choice([1, 2, 500, 4000])]
            return None if chosen == "swapping" else [random.choice([0.004, 0.1, 2.5, 6.0])]

        self.world.fate = fate

    @rule(kind=st.sampled_from(["on time", "late", "repeating", "lossy"]))
    def underlay(self, kind: str) -> None:
        random = self.world.random
        ways = {
            "on time": lambda: [LATENCY],
            "late": lambda: [random.choice([LATENCY, 0.3, 1.5])],
            "repeating": lambda: [LATENCY, random.choice([LATENCY, 0.5, 4.0])],
            "lossy": lambda: [LATENCY] if random.random() < 0.7 else [],
        }
        self.world.underlay_fate = ways[kind]

    @rule(name=NODE)
    def cut_off(self, name: str) -> None:
        self.world.note(f"{name} is cut off")
        self.world.partitioned.add(name)

    @rule()
    def heal_partitions(self) -> None:
        self.world.note("no partitions")
        self.world.partitioned.clear()

    @rule(name=NODE)
    def break_connection(self, name: str) -> None:
        self.world.note(f"the connection of {name} breaks")
        self.world.break_connection(name)

    @rule(downtime=st.sampled_from([0.02, 0.5, 5.0]))
    def kill_nva(self, downtime: float) -> None:
        self.world.kill_nva(downtime)

    @rule(steps=st.integers(1, 12), point=POINTS, downtime=st.sampled_from([0.02, 1.0]))
    def kill_nva_later(self, steps: int, point: int, downtime: float) -> None:
        target = self.world.nva_steps + steps
        self.world.downtime = downtime
        self.world.crash_at = lambda step: point if step == target else None

    @rule(name=NODE, downtime=st.sampled_from([0.02, 0.5, 20.0]))
    def kill_node(self, name: str, downtime: float) -> None:
        self.world.kill_node(name, downtime)

    # Operators, tenants, the underlay's paths -------------------------------------------------------------

    @rule(node=st.none() | NODE)
    def rekey(self, node: str | None) -> None:
        self.world.operate(Rekey(node=node))
        self.world.run(0.001)

    @rule(node=NODE)
    def revoke(self, node: str) -> None:
        self.world.operate(Revoke(node))
        self.world.run(0.001)

    @rule(node=NODE)
    def restore(self, node: str) -> None:
        self.world.operate(Restore(node))
        self.world.run(0.001)

    @rule(name=st.sampled_from(["base", "stronger", "secured", "swapped", "refused"]))
    def policy(self, name: str) -> None:
        self.world.operate(SetPolicy(self.policies[name]))
        self.world.run(0.001)

    @rule(number=st.integers(1, 3), to=NVE)
    def move(self, number: int, to: str) -> None:
        self.world.move(scene.Tenant(scene.MOBILE, number), to)
        self.world.run(0.001)

    @rule(number=st.integers(1, 3))
    def pin(self, number: int) -> None:
        """An operator makes the mapping of a tenant static where it is, and removes that again."""
        tenant = scene.Tenant(scene.MOBILE, number)
        place = self.world.places[tenant]
        mapping = Mapping(vni=tenant.vni, mac=tenant.mac, ips=(tenant.ip,), nve=place)
        self.world.operate(SetMapping(mapping))
        self.world.run(0.1)
        self.world.operate(RemoveMapping(tenant.vni, tenant.mac))

    @rule(paths=st.sampled_from(scene.PATHS))
    def paths(self, paths: Any) -> None:
        self.world.set_paths(paths)

    # What holds after each step ---------------------------------------------------------------------------

    @invariant()
    def nodes_hold_what_is_theirs(self) -> None:
        if not hasattr(self, "world"):
            return
        for node in self.world.nodes.values():
            if node is not None:
                self.world.ledger.check_node(node)
        if self.world.nva is not None:
            check_restart(self.world)

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                healing.converge(self.world)
                healing.converge(self.world, restore=True)
        finally:
            self.opened.close()

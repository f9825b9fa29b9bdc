"""One exchange of control messages, run again and again with one thing going wrong at another place each time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from controller.inventory import Inventory
from controller.operators.operations import Rekey, Restore, Revoke, SetPolicy
from tests.simulation import healing, scene
from tests.simulation.control import LATENCY, Envelope
from tests.simulation.ledger import check_restart, demand, watched
from tests.simulation.world import BEFORE_STORE, World

DENSE, SPARSE = 0.0015, 0.1
"""Seconds between two frames of a flow, while messages follow each other closely, and later."""
BURST, WINDOW = 0.03, 3.6
"""Seconds of dense traffic, and seconds that an exchange without faults may take, its grace period included."""
RECOVERY = 30.0
"""Seconds within which every flow goes on after a fault: the longest back-off, and what waits for silence."""
LATE = 2.7
"""Seconds by which a late message is late: later than its repetition and all that follows."""

Flow = tuple[scene.Tenant, "scene.Tenant | None"]


@dataclass(frozen=True)
class Exchange:
    """What is started, the flows that run meanwhile, and which of them must not lose a frame to a lost message."""

    name: str
    start: Callable[[World], object]
    flows: tuple[Flow, ...]
    lossless: bool
    prepare: Callable[[World], object] = lambda _: None
    soft_limit: int = 50_000


@dataclass
class Outcome:
    """What a run gave: the exchange's messages and busy steps of the NVA, frames sent, and those that were lost."""

    messages: dict[int, Envelope] = field(default_factory=dict)
    places: list[int] = field(default_factory=list)
    """Of all messages but pings and their answers."""
    steps: list[int] = field(default_factory=list)
    sent: int = 0
    lost: list[tuple[float, Flow]] = field(default_factory=list)


def build(exchange: Exchange) -> Inventory:
    """Return an inventory in which nothing is replaced but by the exchange."""
    return scene.build(data(exchange.soft_limit))


def data(soft_limit: int = 50_000) -> dict[str, Any]:
    return scene.document(rekey_seconds=600.0, lifetime_seconds=1200.0, soft_limit=soft_limit, hard_limit=100_000)


class Runner:
    """Runs an exchange once, under traffic."""

    def __init__(self, exchange: Exchange, seed: int = 7, world: Callable[[], World] | None = None) -> None:
        self.exchange = exchange
        self.world = World(build(exchange), seed) if world is None else world()

    def run(
        self,
        fate: Callable[[int, Envelope], list[float] | None] | None = None,
        crash: tuple[int, int] | None = None,
        kill: tuple[int, str] | None = None,
    ) -> Outcome:
        """``fate`` is asked with each message's place in the exchange; ``crash`` are a step of the NVA, counted from
        the exchange's start, and the point in it; ``kill`` names a node that dies when a message is sent."""
        world = self.world
        with watched(world):
            self._warm_up()
            self.exchange.prepare(world)
            world.run(0.2)
            first, step = len(world.messages), world.nva_steps
            if crash is not None:
                world.crash_at = lambda number: crash[1] if number == step + crash[0] else None
            world.fate = self._fate(first, fate, kill)
            outcome = Outcome()
            self.exchange.start(world)
            disturbed = fate is not None or crash is not None or kill is not None
            self._traffic(outcome, WINDOW + (LATE if disturbed else 0))
            outcome.messages = {item.number - first: item for item in world.messages[first:]}
            pinged = [place for place, item in outcome.messages.items() if item.kind == "ping"]
            outcome.places = [
                place for place, item in outcome.messages.items()
                if item.kind != "ping" and not (item.kind == "answer()" and pinged and place > pinged[0])
            ]
            outcome.steps = [number - step for number in world.busy_steps if number > step]
            world.heal()
            return outcome

    def _warm_up(self) -> None:
        for _ in range(3):
            for sender, receiver in self.exchange.flows:
                self.world.send(sender, receiver)
            self.world.run(0.4)

    def _fate(
        self, first: int, fate: Callable[[int, Envelope], list[float] | None] | None, kill: tuple[int, str] | None
    ) -> Callable[[Envelope], list[float] | None]:
        def chosen(envelope: Envelope) -> list[float] | None:
            place = envelope.number - first
            if kill is not None and place == kill[0]:
                self.world.at(LATENCY / 2, lambda: self.world.kill_node(kill[1], 0.3))
            return [LATENCY] if fate is None else fate(place, envelope)

        return chosen

    def _traffic(self, outcome: Outcome, seconds: float) -> None:
        """Send on all flows for a time; note what does not arrive."""
        world, serials = self.world, list[tuple[int, float, Flow]]()
        begin = world.now
        while world.now < begin + seconds:
            for flow in self.exchange.flows:
                serials.append((world.send(*flow), world.now, flow))
            world.run(DENSE if world.now < begin + BURST else SPARSE)
        world.run(2.5)  # what waits for keys has waited long enough
        outcome.sent = len(serials)
        outcome.lost = [(when, flow) for serial, when, flow in serials if not self.arrived(serial, flow)]

    def arrived(self, serial: int, flow: Flow) -> bool:
        sender, receiver = flow
        places, got = self.world.places, self.world.got(serial)
        if receiver is not None:
            return places[receiver] in got
        assert self.world.nva is not None
        revoked = {name for name, node in self.world.nva.nodes.items() if node.revoked}
        return set(scene.NVES) - {places[sender]} - revoked <= got

    def check_recovery(self) -> None:
        """Check that each flow goes on, that every node is in step, and that a restart would change nothing."""
        world = self.world
        with watched(world):
            world.run_until(world.quiet, RECOVERY, "every node is in step")
            for flow in self.exchange.flows:
                self._check_flow(flow)
            world.run(4.0)
            world.run_until(world.quiet, RECOVERY, "every node is in step again")
            assert world.nva is not None
            healing.check_no_leftovers(world, world.nva, oldest=200.0)
            check_restart(world)

    def _check_flow(self, flow: Flow) -> None:
        for _ in range(int(healing.AGAIN / 0.25)):
            serial = self.world.send(*flow)
            self.world.run(0.25)
            if self.arrived(serial, flow):
                return
        demand(False, f"the flow {flow} is stuck")


_M = [scene.Tenant(scene.MOBILE, number) for number in (1, 2, 3)]
_S = [scene.Tenant(scene.SHARED, number) for number in (1, 2, 3)]
_P = [scene.Tenant(scene.PAIRED, number) for number in (1, 2)]
_QUIET = ((_P[0], _P[1]),)

REKEY = Exchange(
    "rekey",
    lambda world: world.operate(Rekey(node="nve1")),
    ((_M[0], _M[2]), (_S[0], _S[1]), (_S[0], None), (_P[0], _P[1])),
    lossless=True,
)
SOFT_LIMIT = Exchange("soft limit", lambda _: None, ((_M[0], _M[2]), (_S[0], _S[1])), lossless=True, soft_limit=30)
FIRST_DEMAND = Exchange("first demand", lambda world: world.send(_M[0], _M[2]), _QUIET, lossless=True)
JOIN = Exchange(
    "join of a group",
    lambda world: world.operate(Restore("nve3")),
    ((_S[0], None), (_S[0], _S[1])),
    lossless=False,  # the newcomer itself lacks what was sent before it came
    prepare=lambda world: (world.operate(Revoke("nve3")), world.run(9.0)),
)
REVOCATION = Exchange(
    "revocation", lambda world: world.operate(Revoke("nve3")), ((_M[0], _M[1]), (_S[0], None)), lossless=False
)
MOVE = Exchange(
    "move of a tenant", lambda world: world.move(_M[2], "nve2"), ((_M[0], _M[2]), _QUIET[0]), lossless=False
)
POLICY = Exchange(
    "change of policy",
    lambda world: world.operate(SetPolicy(scene.policies(data())["secured"])),
    ((_M[0], _M[2]), (_S[0], None), (_P[0], _P[1])),
    lossless=True,  # none of these flows is affected
)
EXCHANGES = (REKEY, SOFT_LIMIT, FIRST_DEMAND, JOIN, REVOCATION, MOVE, POLICY)

THOROUGH = bool(os.environ.get("SIMULATION_THOROUGH"))
FAULTS: dict[str, Callable[[], list[float] | None]] = {
    "lost": list,
    "repeated": lambda: [LATENCY, LATENCY],
    "repeated late": lambda: [LATENCY, LATE],
    "late": lambda: [LATE],
    "after the next": lambda: None,
}
MOST = 36
"""Messages of an exchange at most that are disturbed in turn; what follows repeats what was."""
VICTIMS = ("nve1", "nve2", "t1", "nve3", "t2") if THOROUGH else ("nve1", "nve2", "t1")
POINTS = (BEFORE_STORE, 0, 1, 99)
"""Points at which the NVA is killed in each of its steps."""


def choose(exchange: Exchange, places: Iterable[int], faults: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Yield where something goes wrong, and what: in a rekey and with SIMULATION_THOROUGH all, else one at each place.
    """
    chosen, ways = list(places)[:MOST], list(faults)
    for number, place in enumerate(chosen):
        yield from ((place, way) for way in (ways if THOROUGH or exchange is REKEY else [ways[number % len(ways)]]))

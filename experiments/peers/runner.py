"""Runs the benchmark: every contender in every repeat, in shuffled order, between the same namespaces."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.measure import MeasureError
from experiments.peers.contender import Contender, PeerError, Running
from experiments.peers.measuring import UDP_SIZES, Budget, Measuring, Write
from experiments.peers.network import Network
from experiments.samples import sample
from topologies.daemon import TestbedError
from topologies.nodes import NodeCommandError


@dataclass(frozen=True, slots=True)
class Plan:
    """Repeats and the time that each measurement takes."""

    name: str
    repeats: int
    budget: Budget
    leave_out: tuple[str, ...] = ()
    """Contenders that are measured only where they are asked for by name."""

    def as_dict(self) -> dict[str, Any]:
        """Return all fields for run.json."""
        return asdict(self)


PLANS = {
    plan.name: plan
    for plan in (
        Plan("quick", 5, Budget(1, 60, 0.005, 0.12, 0.25, 1.07), leave_out=(
            "nve-full-2t-export", "nve-dtls-null", "nve-esp", "nve-esp-null", "nve-esp-null-udp", "nve-ah",
        )),
        Plan("paper", 20, Budget(3, 200, 0.01, 0.3, 1.0, 1.03)),
    )
}

WHOLE = (
    ("tcp_1", "bit/s"), ("tcp_4", "bit/s"), *((f"udp_{size}", "1/s") for size in UDP_SIZES),
    (f"udp_{UDP_SIZES[0]}_segmented", "1/s"), ("rtt_idle", "ms"), ("rtt_load", "ms"),
)  # fmt: skip
"""Measures (name, unit) that every contender has; a contender that cannot start misses all of them."""


class Runner:
    """Holds what one run needs; :meth:`run` carries it out and returns the facts that contenders tell."""

    def __init__(
        self, plan: Plan, contenders: Sequence[Contender], seed: int, folder: Path, write: Write,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        """``folder`` gets what programs wrote to standard error; nothing secret goes there."""
        self._plan, self._contenders, self._folder = plan, list(contenders), folder
        self._order = random.Random(seed)
        self._write, self._tell = write, tell
        self._hints: dict[str, dict[str, float]] = {}
        self.facts: dict[str, Any] = {}
        self.missing: dict[str, str] = {}
        """Why a contender is missing, by name."""

    def run(self) -> None:
        """Measure everything in the plan."""
        devices = max((contender.description.devices for contender in self._contenders), default=0)
        with Network(devices) as network:
            for repeat in range(self._plan.repeats):
                shuffled = list(self._contenders)
                self._order.shuffle(shuffled)
                for place, contender in enumerate(shuffled):
                    self._tell(f"repeat {repeat + 1}/{self._plan.repeats}, {place + 1}/{len(shuffled)}: "
                               f"{contender.description.title}")  # fmt: skip
                    self._one(network, contender, repeat)
            network.clear()

    def _one(self, network: Network, contender: Contender, repeat: int) -> None:
        description = contender.description
        with tempfile.TemporaryDirectory(prefix="bench-", dir="/run") as name:  # mode 0700, in the sandbox's memory
            running = Running(network, Path(name))
            try:
                network.wire(
                    description.tenant_mtu, routed=description.layer == 3, devices=description.devices,
                    underlay_mtu=description.underlay_mtu,
                )  # fmt: skip
                contender.start(running)
                measuring = Measuring(
                    description, running, repeat, self._plan.budget, self._folder, self._write, self._order
                )
                measuring.settle()
                running.level()
            except (PeerError, TestbedError, NodeCommandError, MeasureError) as error:
                self._leave_out(description.name, repeat, reason_of(error))
            else:
                measuring.run(self._hints.setdefault(description.name, {}))
                self._observe(contender, running)
            finally:
                running.stop()

    def _observe(self, contender: Contender, running: Running) -> None:
        name = contender.description.name
        self.facts[name] = running.facts
        try:
            for daemon in running.daemons:
                daemon.check()
            contender.observe(running)
        except (TestbedError, OSError, ValueError) as error:
            self._tell(f"  it did not last: {reason_of(error)}")
            running.facts["fault"] = reason_of(error)

    def _leave_out(self, name: str, repeat: int, reason: str) -> None:
        self._tell(f"  missing: {reason}")
        self.missing[name] = reason
        for measure, unit in WHOLE:
            self._write(sample(measure, {"contender": name, "repeat": repeat}, None, unit, reason))


def reason_of(error: Exception) -> str:
    """Return an error's text on one line, its last words kept where it is long: those of a program's log."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:100]} ... {text[-190:]}"

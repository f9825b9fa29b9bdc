"""Pairs of NVEs that stay up beside each other, one for each variant, each in namespaces of its own (thin shell).

All of them wait while one is measured. So every repeat can go through all variants in an order of its own without
starting a program.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experiments.capture_file import CaptureError
from experiments.measure import MeasureError
from experiments.mechanisms.variants import KERNEL, SINGLE, Variant, implementation, observed_path
from experiments.peers.contender import PeerError, Running
from experiments.peers.measuring import Budget, Measuring
from experiments.peers.network import LEFT, MACS, RIGHT, SIDES, TENANT_INTERFACE, WIRE, Network, other
from experiments.peers.ours import OurNve
from experiments.peers.runner import reason_of
from experiments.programs import Program, ProgramError, python_module
from topologies.daemon import TestbedError
from topologies.nodes import NodeCommandError

FAULTS = (
    MeasureError, CaptureError, PeerError, ProgramError, TestbedError, NodeCommandError, OSError,
    subprocess.SubprocessError,
)  # fmt: skip
"""What can go wrong while something is measured; the reason becomes that of the missing sample."""
START_SECONDS = 1.2
"""Expected time for each pair to start with its programs."""
_AT_A_TIME = 4
_SETTLING = Budget(1, 1, 0.01, 0.1, 0.1, 1.1)
SINK, SOURCE, RECEIVER, SENDER, FRAMES = "sink", "source", "receiver", "sender", "frames"


class Pair:
    """Two NVEs of one variant, a tenant behind each, and the programs in the tenants."""

    def __init__(self, variant: Variant, folder: Path) -> None:
        """Start everything; one of :data:`FAULTS` when it does not come up. ``folder`` gets programs' last words."""
        self.variant = variant
        self.folder = folder
        self.programs: dict[str, Program] = {}
        self._said: dict[str, dict[str, Any]] = {}
        self.contender = OurNve(
            variant.name, variant.name, variant.profile, batched=variant.path != SINGLE,
            ipsec="kernel" if variant.path == KERNEL else "user-space", underlay_mtu=variant.underlay_mtu,
        )  # fmt: skip
        with contextlib.ExitStack() as opened:
            self.network = opened.enter_context(Network(0))
            private = opened.enter_context(tempfile.TemporaryDirectory(prefix="pair-", dir="/run"))
            self.running = Running(self.network, Path(private))
            opened.callback(self.running.stop)
            self._start()
            self._opened = opened.pop_all()

    def _start(self) -> None:
        description = self.contender.description
        self.network.wire(description.tenant_mtu, underlay_mtu=description.underlay_mtu)
        self.contender.start(self.running)
        for side in SIDES:  # nothing but what is measured is to cross the underlay
            far = other(side)
            self.network.tenant(side).ip([
                f"neighbour replace {self.network.tenant_address(far)} lladdr {MACS[far]} dev {TENANT_INTERFACE} "
                "nud permanent"
            ])  # fmt: skip
        writes: Callable[[dict[str, Any]], None] = lambda _: None  # noqa: E731
        Measuring(description, self.running, 0, _SETTLING, self.folder, writes, random.Random(0)).settle()
        self.running.level()

    @property
    def address(self) -> str:
        """The address of the tenant on the right, to whom everything is sent."""
        return self.network.tenant_address(RIGHT)

    def program(self, name: str, side: str, module: str, *arguments: str, environment: Sequence[str] = ()) -> Program:
        """Return a program in a tenant, started on first use; ``environment`` are settings as env takes them."""
        if name not in self.programs:
            argv = python_module(module, *arguments)
            argv = ["env", *environment, *argv] if environment else argv
            started = Program(self.network.tenant(side), argv, self.folder / f"{self.variant.name}-{name}.stderr")
            self.programs[name] = started
            self._said[name] = started.answer()
        return self.programs[name]

    def said(self, name: str) -> dict[str, Any]:
        """Return a program's first answer."""
        return self._said[name]

    def observe(self) -> dict[str, Any]:
        """Return what the NVEs say of themselves: implementation, path, offloads and drops; MeasureError if gone."""
        try:
            for daemon in self.running.daemons:
                daemon.check()
            self.contender.observe(self.running)
        except (TestbedError, OSError, ValueError) as error:
            raise MeasureError(reason_of(error)) from None
        facts = self.running.facts
        paths = {observed_path(facts["offloads"][side], facts["mechanism"][side]) for side in SIDES}
        return {
            "implementation": implementation(facts["mechanism"][LEFT]), "mechanism": facts["mechanism"][LEFT],
            "observed_path": paths.pop() if len(paths) == 1 else "mixed", "offloads": facts["offloads"][LEFT],
            "drops": dict(facts["drops"]),
        }  # fmt: skip

    def close(self) -> None:
        """End the programs and the NVEs, and remove the namespaces."""
        for program in self.programs.values():
            program.stop()
        self.programs = {}
        self._opened.close()


@contextlib.contextmanager
def whole_datagrams(pair: Pair) -> Iterator[None]:
    """Have the left end's kernel cut what an NVE hands over together before a capture there sees it."""
    node = pair.network.node(LEFT)
    node.run(["ethtool", "-K", WIRE, "tx-udp-segmentation", "off"], 20.0)
    try:
        yield
    finally:
        node.run(["ethtool", "-K", WIRE, "tx-udp-segmentation", "on"], 20.0)


class Pairs:
    """The pairs of many variants; those that could not be started say why in :attr:`missing`.

    Several start at a time: most of a start is waiting. ``prepare`` starts the tenants' programs of a pair.
    """

    def __init__(self, variants: Sequence[Variant], folder: Path, prepare: Callable[[Pair], None]) -> None:
        futures: dict[Variant, Future[Pair | str]] = {}
        try:
            with ThreadPoolExecutor(_AT_A_TIME) as pool:
                futures = {variant: pool.submit(_started, variant, folder, prepare) for variant in variants}
            found = {variant: future.result() for variant, future in futures.items()}
        except BaseException:  # also when the wait was interrupted: what has started is to be ended
            for future in futures.values():
                if future.exception() is None and isinstance(pair := future.result(), Pair):
                    pair.close()
            raise
        self.pairs = {variant: pair for variant, pair in found.items() if isinstance(pair, Pair)}
        self.missing = {variant: reason for variant, reason in found.items() if isinstance(reason, str)}

    def close(self) -> None:
        """End all of them."""
        for pair in self.pairs.values():
            pair.close()
        self.pairs = {}

    def __enter__(self) -> Pairs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _started(variant: Variant, folder: Path, prepare: Callable[[Pair], None]) -> Pair | str:
    """Return a pair that is ready, or why there is none."""
    pair = None
    try:
        pair = Pair(variant, folder)
        prepare(pair)
    except FAULTS as error:
        if pair is not None:
            pair.close()
        return reason_of(error)
    return pair

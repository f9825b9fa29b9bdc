"""Flows of marked messages that an event of the control plane is to disturb, or not to disturb."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.bench import Hosts, address_of
from experiments.context import ExperimentError
from experiments.programs import wait_for
from topologies.network import Testbed

SIZE = 200
"""Bytes of payload of each message."""
_FLOWING = 10
"""Messages that must have arrived before a flow counts as flowing."""
_FLOW_SECONDS = 8.0
_DRAIN_SECONDS = 1.0


@dataclass(slots=True)
class Tail:
    """Reads what a receiver's log has grown by, and keeps how many messages of each flow there are."""

    path: Path
    offset: int = 0
    counts: dict[tuple[str, int], int] = field(default_factory=dict)
    newest: dict[tuple[str, int], int] = field(default_factory=dict)

    def read(self) -> None:
        """Take in the lines that have been completed since the last look."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.offset += len(line)
                entry = json.loads(line)
                if entry["label"] is not None:
                    key = (entry["label"], entry["trial"])
                    self.counts[key] = self.counts.get(key, 0) + 1
                    self.newest[key] = max(self.newest.get(key, -1), entry["index"])


@dataclass(frozen=True, slots=True)
class Flow:
    """Messages from one tenant's host to another, known by ``label`` and ``trial`` in both hosts' logs."""

    sender: str
    receiver: str
    trial: int

    @property
    def label(self) -> str:
        """What each message of the flow is labelled with."""
        return f"{self.sender}-{self.receiver}"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for a sample."""
        return {"sender": self.sender, "receiver": self.receiver, "label": self.label, "trial": self.trial}


class Flows:
    """Starts and ends flows; each set of flows has a trial number of its own in the logs."""

    def __init__(self, testbed: Testbed, hosts: Hosts) -> None:
        self.testbed = testbed
        self.hosts = hosts
        self._tails: dict[str, Tail] = {}
        self._trial = 0

    def count(self, flow: Flow) -> int:
        """Return how many messages of a flow have arrived so far."""
        tail = self._tail(flow.receiver)
        tail.read()
        return tail.counts.get((flow.label, flow.trial), 0)

    def _tail(self, receiver: str) -> Tail:
        if receiver not in self._tails:
            self._tails[receiver] = Tail(self.hosts.receiver(receiver))
        return self._tails[receiver]

    def begin(self, pairs: Sequence[tuple[str, str]], interval: float) -> list[Flow]:
        """Start one flow for each pair of sender and receiver, a message each ``interval`` seconds."""
        self._trial += 1
        flows = [Flow(sender, receiver, self._trial) for sender, receiver in pairs]
        for flow in flows:
            self._tail(flow.receiver)
        for flow in flows:
            self.hosts.sender(flow.sender).ask({
                "do": "stream", "label": flow.label, "trial": flow.trial, "interval": interval, "size": SIZE,
                "destination": address_of(self.testbed.scenario, flow.receiver),
            })  # fmt: skip
        return flows

    def end(self, flows: Sequence[Flow]) -> None:
        """Stop flows and wait until the last messages have arrived or are lost."""
        last = {flow: self.hosts.sender(flow.sender).ask({"do": "stop"})["streamed"] - 1 for flow in flows}

        def drained() -> bool:
            for flow in flows:
                self._tail(flow.receiver).read()
            newest = {flow: self._tail(flow.receiver).newest.get((flow.label, flow.trial), -1) for flow in flows}
            return all(newest[flow] >= last[flow] for flow in flows)

        wait_for(drained, _DRAIN_SECONDS, pause=0.03)

    def await_flowing(self, flows: Sequence[Flow], more: int = _FLOWING, seconds: float = _FLOW_SECONDS) -> bool:
        """Wait until ``more`` messages of each flow have arrived from now on; whether they have."""
        before = {flow: self.count(flow) for flow in flows}
        return wait_for(lambda: all(self.count(flow) >= before[flow] + more for flow in flows), seconds, pause=0.03)

    @contextmanager
    def running(self, pairs: Sequence[tuple[str, str]], interval: float) -> Iterator[list[Flow]]:
        """Run flows, which are flowing when this yields; ExperimentError when one does not get through."""
        flows = self.begin(pairs, interval)
        try:
            if not self.await_flowing(flows):
                silent = [flow.label for flow in flows if self.count(flow) < _FLOWING]
                raise ExperimentError(f"no messages arrive of {', '.join(silent)} before anything was done to them")
            yield flows
        finally:
            self.end(flows)


def watch(seconds: float) -> int:
    """Let a flow go on for ``seconds`` and return the time then: the length of a measurement, not a wait."""
    time.sleep(seconds)
    return time.time_ns()

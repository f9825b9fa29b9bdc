"""Simulated nodes of the control-plane benchmark: many in one process, each with its own TLS connection to the NVA.

``python -m experiments.control_scale_nodes`` reads one JSON object a line from its standard input (what to do) and
writes one for each to its standard output (when it was done, and what crossed the sockets until then). Between
commands the nodes go on: they answer pushes, ping, and come back after a lost connection.

The nodes speak the real protocol over real connections (:class:`ControlLink`), and every push is decoded, checked and
applied. To keep a thousand nodes on one core from being slower than the NVA, most of them share the checked entries
of the shared scopes, and do not compose the whole state that a data plane would take over: it is *theirs* to do in
parallel on machines of their own. A sample of the nodes does all of it, and its time per push is reported beside.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import selectors
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from experiments.control_scale_counts import CountingSocket, Counts, counting_tls
from experiments.control_scale_deployment import (
    CA_FILE,
    NVA,
    PROFILE,
    SHARED_VNI,
    Deployment,
)
from geneve.control.demand import Demand
from geneve.control.document import IN, MAPPING, NODE_SCOPE, OUT, Document, vni_scope
from geneve.control.protocol import (
    ConfirmAsked,
    Disconnected,
    Event,
    Identity,
    Registered,
    StateReceived,
)
from geneve.control.session import ControlLink
from geneve.control.state import Association, Mapping, NodeState, Role
from geneve.control.tls import TlsFiles, client_context

WHOLE_NODES = 10
"""Nodes of a process that check every entry themselves and compose the whole state, as a real node does."""
TIMER = 0.05
"""Seconds between two looks at the nodes' deadlines."""
PAUSE = 0.2
"""Seconds before keys are replaced: the NVA does not replace what it has only just made."""
ASK_AGAIN = 30.0
"""Seconds after which a node asks for the successor of a key itself."""


_Shared = dict[tuple[str, str], tuple[dict[str, Any], BaseModel]]


@dataclass(frozen=True)
class LightDocument(Document):
    """A document that shares checked entries with the other nodes of this process and composes no state."""

    shared: _Shared = field(default_factory=dict, repr=False)

    def entry(self, scope: str, key: str, value: dict[str, Any]) -> BaseModel:
        """Return an entry, checked unless this process has checked the very same before."""
        if scope == NODE_SCOPE:
            return super().entry(scope, key, value)
        known = self.shared.get((scope, key))
        if known is not None and known[0] == value:
            return known[1]
        made = super().entry(scope, key, value)
        self.shared[scope, key] = (value, made)
        return made

    def state(self, node: str, role: Role) -> NodeState:
        """Return a state without contents."""
        return NodeState.model_construct(node=node, role=role)


class SimulatedNode:
    """One NVE without a data plane."""

    def __init__(self, deployment: Deployment, index: int, folder: Path, port: int, counts: Counts) -> None:
        self.deployment, self.index, self.name = deployment, index, deployment.name(index)
        self.counts = counts
        self.whole = True
        files = TlsFiles(*(str(folder / name) for name in (CA_FILE, f"{self.name}.pem", f"{self.name}.key")))
        context = client_context(files)
        context.sslobject_class = counting_tls(counts)
        self.link = ControlLink(
            identity=Identity(self.name, Role.NVE, os.urandom(16).hex(), NVA),
            context=context,
            connect=lambda: CountingSocket(deployment.address(index), port, counts),
            random=random.random,
        )
        self._expected = deployment.entries(index)
        self._report: int | None = None
        self._change = 0
        self.watched: tuple[int, int, bool] | None = None
        self.on_push: Callable[[SimulatedNode], None] = lambda _: None

    def share(self, entries: _Shared) -> None:
        """Do only what shows the NVA's behaviour; see the module's text."""
        self.whole = False
        self.link.progress.document = LightDocument(shared=entries)

    # What it knows --------------------------------------------------------------------------------------

    @property
    def document(self) -> Document:
        """What the NVA has told this node."""
        return self.link.progress.document

    @property
    def complete(self) -> bool:
        """Whether the node is registered and knows every NVE and tenant of its virtual networks."""
        scopes = self.document.scopes
        epoch = self.link.progress.epoch
        return self.link.registered and epoch is not None and all(
            len(scopes.get(name, ())) == count for name, count in self._expected.items()
        )  # fmt: skip

    def associations(self, kind: str) -> dict[int, Association]:
        """Return the associations to send (OUT) or to open (IN) by SPI."""
        own = self.document.scopes.get(NODE_SCOPE, {})
        return {
            entry.spi: entry
            for key, entry in own.items()
            if isinstance(entry, Association) and key.startswith(kind + "/")
        }

    def mapping(self, mac: str) -> Mapping | None:
        """Return what the node knows of a tenant in the shared VNI."""
        entry = self.document.scopes.get(vni_scope(SHARED_VNI), {}).get(f"{MAPPING}/{mac}")
        return entry if isinstance(entry, Mapping) else None

    # What it does ---------------------------------------------------------------------------------------

    def report_tenants(self, change: int, now: float) -> None:
        """Tell the NVA all tenants; again after each registration."""
        self._report, self._change = (self._report or 0) + 1, change
        self.link.tell_tenants(self._report, self.deployment.tenants(self.index, change), now)

    def need(self, audiences: Sequence[str], now: float) -> None:
        """Ask for keys towards other NVEs in the shared VNI."""
        wanted = [Demand(audience=name, vni=SHARED_VNI, profile=PROFILE) for name in audiences]
        self.link.ask_keys(wanted, now)

    def act(self, events: Sequence[Event], now: float) -> None:
        """Do what a node's control agent does."""
        for event in events:
            if isinstance(event, StateReceived):
                self.link.acknowledge(event)
                self.counts.pushes += 1
            elif isinstance(event, Registered) and self._report is not None:
                self.link.tell_tenants(self._report, self.deployment.tenants(self.index, self._change), now)
            elif isinstance(event, ConfirmAsked):
                self.link.confirm(event.vni, event.mac, True)
            elif isinstance(event, Disconnected):
                self.counts.disconnections += 1

    def handle(self, readable: bool, writable: bool) -> list[Event]:
        """Receive and send; returns what happened."""
        begin, pushes = time.perf_counter(), self.counts.pushes
        now = time.monotonic()
        events = self.link.on_readable(now) if readable else []
        if writable:
            events += self.link.on_writable(now)
        self.act(events, now)
        if self.link.wants_write:
            self.link.on_writable(now)
        if self.counts.pushes > pushes:
            spent = time.perf_counter() - begin
            if self.whole:
                self.counts.whole_pushes += self.counts.pushes - pushes
                self.counts.whole_push_seconds += spent
            else:
                self.counts.light_push_seconds += spent
        return events


Goal = Callable[[SimulatedNode], bool]


class Nodes:
    """All nodes of this process and their event loop."""

    def __init__(self, deployment: Deployment, indices: range, folder: Path, port: int) -> None:
        self.deployment, self.counts = deployment, Counts()
        self.nodes = {i: SimulatedNode(deployment, i, folder, port, self.counts) for i in indices}
        shared: _Shared = {}
        for node in list(self.nodes.values())[WHOLE_NODES:]:
            node.share(shared)
        self._selector = selectors.DefaultSelector()
        self._next_timer = 0.0
        self._running = False
        self._goal: Goal = lambda _: True
        self._waiting: dict[int, SimulatedNode] = {}
        self.reached: list[float] = []
        self.reasons: Counter[str] = Counter()
        self.epoch: str | None = None

    def listen(self, descriptor: int) -> None:
        """Have :meth:`step` return True when ``descriptor`` is readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, None)

    def connect(self) -> None:
        """Let all nodes connect from now on."""
        self._running = True

    def aim(self, goal: Goal, nodes: Iterator[SimulatedNode] | None = None) -> None:
        """Note when each of ``nodes`` (default: all) first meets ``goal``."""
        self._goal, self.reached = goal, []
        self._waiting = {node.index: node for node in (self.nodes.values() if nodes is None else nodes)}
        for node in list(self._waiting.values()):
            self._look(node)

    @property
    def waiting(self) -> int:
        """How many nodes have not met the goal."""
        return len(self._waiting)

    def _look(self, node: SimulatedNode) -> None:
        if node.index in self._waiting and self._goal(node):
            del self._waiting[node.index]
            self.reached.append(time.monotonic())

    def step(self) -> bool:
        """Wait for whatever happens next, for TIMER at most, and handle it."""
        listened = False
        for key, mask in self._selector.select(TIMER):
            if key.data is None:
                listened = True
                continue
            readable, writable = bool(mask & selectors.EVENT_READ), bool(mask & selectors.EVENT_WRITE)
            self._after(key.data, key.data.handle(readable, writable))
        now = time.monotonic()
        if self._running and now >= self._next_timer:
            self._next_timer = now + TIMER
            for node in self.nodes.values():
                if now >= node.link.next_deadline:
                    events = node.link.on_timer(now)
                    node.act(events, now)
                    self._after(node, events)
        return listened

    def touch(self, node: SimulatedNode) -> None:
        """Send what a node has been given to say."""
        self._after(node, node.handle(False, True))

    def _after(self, node: SimulatedNode, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Disconnected):
                self.reasons[event.reason] += 1
        if events:
            self._look(node)
        descriptor = node.link.fileno()
        wanted = None if descriptor is None else (node.link.generation, descriptor, node.link.wants_write)
        if wanted == node.watched:
            return
        if node.watched is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(node.watched[1])
        if wanted is not None:
            mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted[2] else 0)
            self._selector.register(wanted[1], mask, node)
        node.watched = wanted


class Commands:
    """Carries out the commands of the benchmark; each returns what it found besides the common figures."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._partners: dict[int, set[str]] = {index: set() for index in nodes.nodes}
        self._old_out: dict[int, set[int]] = {}
        self._old_in: dict[int, set[int]] = {}

    def run(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command and return the answer."""
        method = getattr(self, "do_" + command["do"])
        limit = time.monotonic() + float(command.get("limit", 60.0))
        begin = time.monotonic()
        found = method(command, limit) or {}
        return {
            "ok": not self._nodes.waiting, "left": self._nodes.waiting, "begin": begin, "end": time.monotonic(),
            "reached": self._nodes.reached, "counts": self._nodes.counts.as_dict(),
            "cpu_seconds": time.process_time(), "reasons": dict(self._nodes.reasons.most_common(5)), **found,
        }  # fmt: skip

    def _wait(self, limit: float) -> None:
        while self._nodes.waiting and time.monotonic() < limit:
            self._nodes.step()

    def do_connect(self, command: dict[str, Any], limit: float) -> None:
        """Connect all nodes until all are registered."""
        del command
        self._nodes.aim(lambda node: node.link.registered)
        self._nodes.connect()
        self._wait(limit)

    def do_complete(self, command: dict[str, Any], limit: float) -> None:
        """Wait until every node knows everything."""
        del command
        self._nodes.aim(lambda node: node.complete)
        self._wait(limit)

    def do_tenants(self, command: dict[str, Any], limit: float) -> None:
        """Have every node report its tenants, until every node knows all."""
        del command
        self._nodes.aim(lambda node: node.complete)
        for node in self._nodes.nodes.values():
            node.report_tenants(0, time.monotonic())
            self._nodes.touch(node)
        self._wait(limit)

    def do_change(self, command: dict[str, Any], limit: float) -> None:
        """Change the tenant in the shared VNI of one node, until all know the change; ``report``: the node says it."""
        index, change = int(command["index"]), int(command["change"])
        tenant = self._nodes.deployment.tenants(index, change)[0]

        def knows(node: SimulatedNode) -> bool:
            mapping = node.mapping(tenant.mac)
            return mapping is not None and mapping.ips == tenant.ips

        self._nodes.aim(knows)
        if index in self._nodes.nodes and command["report"]:
            self._nodes.nodes[index].report_tenants(change, time.monotonic())
            self._nodes.touch(self._nodes.nodes[index])
        self._wait(limit)

    def do_need_each(self, command: dict[str, Any], limit: float) -> dict[str, Any]:
        """Ask for one key after the other, each once the one before is there; returns each one's seconds."""
        chooser = random.Random(int(command["seed"]))
        spent = []
        for _ in range(int(command["count"])):
            node = self._nodes.nodes[chooser.choice(list(self._nodes.nodes))]
            audience = self._choose(node, 1, chooser)
            if not audience:
                continue
            self._nodes.aim(partial(_can_send, audience[0]), iter((node,)))
            begin = time.monotonic()
            node.need(audience, begin)
            self._nodes.touch(node)
            self._wait(limit)
            if self._nodes.waiting:
                break
            spent.append(self._nodes.reached[0] - begin)
        return {"seconds": spent}

    def do_need_all(self, command: dict[str, Any], limit: float) -> dict[str, Any]:
        """Have every node ask at once for keys until it has ``per_node``; returns the seconds of each node's last."""
        chooser = random.Random(int(command["seed"]))
        wanted = {}
        for node in self._nodes.nodes.values():
            missing = int(command["per_node"]) - len(self._partners[node.index])
            wanted[node.index] = self._choose(node, missing, chooser)
        self._nodes.aim(lambda node: self._partners[node.index] <= _audiences(node))
        begin = time.monotonic()
        for node in self._nodes.nodes.values():
            if wanted[node.index]:
                node.need(wanted[node.index], time.monotonic())
                self._nodes.touch(node)
        self._wait(limit)
        return {"seconds": [moment - begin for moment in self._nodes.reached], "pairs": self._pairs()}

    def _choose(self, node: SimulatedNode, count: int, chooser: random.Random) -> list[str]:
        partners, nodes = self._partners[node.index], self._nodes.deployment.nodes
        count = min(count, nodes - 1 - len(partners))
        chosen: list[str] = []
        while len(chosen) < count:
            name = self._nodes.deployment.name(chooser.randrange(nodes))
            if name != node.name and name not in partners:
                partners.add(name)
                chosen.append(name)
        return chosen

    def _pairs(self) -> int:
        return sum(len(node.associations(OUT)) for node in self._nodes.nodes.values())

    def do_keys(self, command: dict[str, Any], limit: float) -> dict[str, Any]:
        """Wait until every node can send to every other NVE of its virtual networks: eager keys."""
        del command
        deployment = self._nodes.deployment
        self._nodes.aim(
            lambda node: (
                len(node.associations(OUT)) == sum(deployment.members(vni) - 1 for vni in deployment.vnis(node.index))
            )
        )
        self._wait(limit)
        return {"pairs": self._pairs()}

    def do_mark(self, command: dict[str, Any], limit: float) -> None:
        """Remember the keys that there are, after PAUSE; to be followed by ``rekey``."""
        del command
        self.do_idle({"seconds": PAUSE}, limit)
        nodes = self._nodes.nodes.values()
        self._old_out = {node.index: set(node.associations(OUT)) for node in nodes}
        self._old_in = {node.index: set(node.associations(IN)) for node in nodes}

    def do_rekey(self, command: dict[str, Any], limit: float) -> dict[str, Any]:
        """Wait until every sender has other keys than at ``mark``, then until every old key has ended."""
        del command
        nodes, old_out, old_in = self._nodes.nodes.values(), self._old_out, self._old_in

        def switched(node: SimulatedNode) -> bool:
            now_has = node.associations(OUT).keys()
            return len(now_has) >= len(old_out[node.index]) and not now_has & old_out[node.index]

        self._nodes.aim(switched)
        self._wait(min(limit, time.monotonic() + ASK_AGAIN))
        while self._nodes.waiting and time.monotonic() < limit:
            # What was on its way to a sender when the NVA was asked is not replaced: its sender asks for itself.
            for node in nodes:
                for spi in sorted(old_out[node.index] & node.associations(OUT).keys()):
                    node.link.ask_rekey(spi, time.monotonic())
                self._nodes.touch(node)
            self._wait(min(limit, time.monotonic() + ASK_AGAIN))
        if self._nodes.waiting:
            return {}
        switched_at = max(self._nodes.reached, default=time.monotonic())
        self._nodes.aim(lambda node: not node.associations(IN).keys() & old_in[node.index])
        self._wait(limit)
        return {"switched": switched_at, "pairs": self._pairs()}

    def do_crash(self, command: dict[str, Any], limit: float) -> None:
        """Remember what the nodes have; to be followed by ``returned``."""
        del command, limit
        self._nodes.epoch = next(iter(self._nodes.nodes.values())).link.progress.epoch
        self._nodes.aim(lambda _: True)

    def do_returned(self, command: dict[str, Any], limit: float) -> None:
        """Wait until every node has registered with the new NVA and has all from it."""
        del command
        self._nodes.aim(
            lambda node: (
                node.complete
                and node.link.progress.epoch != self._nodes.epoch
                and self._partners[node.index] <= _audiences(node)
            )
        )
        self._wait(limit)

    def do_idle(self, command: dict[str, Any], limit: float) -> None:
        """Only go on for some seconds."""
        del limit
        until = time.monotonic() + float(command["seconds"])
        self._nodes.aim(lambda _: True)
        while time.monotonic() < until:
            self._nodes.step()


def _can_send(audience: str, node: SimulatedNode) -> bool:
    return audience in _audiences(node)


def _audiences(node: SimulatedNode) -> set[str]:
    return {association.audience for association in node.associations(OUT).values()}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="experiments.control_scale_nodes", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="certificates")
    parser.add_argument("--port", type=int, required=True, help="the NVA's port")
    parser.add_argument("--deployment", type=json.loads, required=True, help="fields of a Deployment, JSON")
    parser.add_argument("--first", type=int, required=True, help="number of the first node")
    parser.add_argument("--end", type=int, required=True, help="number after the last node's")
    options = parser.parse_args(argv)
    indices = range(options.first, options.end)
    nodes = Nodes(Deployment(**options.deployment), indices, options.folder, options.port)
    commands = Commands(nodes)
    # What the nodes know is large and has no cycles; looking for some again and again would stop all of them.
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 1000)
    nodes.listen(sys.stdin.fileno())
    print(json.dumps({"ready": len(nodes.nodes)}), flush=True)
    text = b""
    while True:
        if not nodes.step():
            continue
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            return 0
        *lines, text = (text + data).split(b"\n")
        for line in lines:
            print(json.dumps(commands.run(json.loads(line))), flush=True)


if __name__ == "__main__":
    sys.exit(main())

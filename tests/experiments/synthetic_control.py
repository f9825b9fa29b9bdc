"""A made-up run of the control-plane experiment: events, and the logs that tenants would have left of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.control_analysis import GROWTH_FILE, MECHANISMS, OURS, label_of
from experiments.samples import read_lines, sample
from tests.experiments.synthetic import write_lines

MS = 1_000_000
SECOND = 1_000 * MS
DELAY = MS // 2
RATES = (0, 1, 2, 5, 10)
CHANNEL_RATES = (0, 1)

Change = Callable[[dict[str, Any]], None]


@dataclass
class Repeat:
    """One network: events follow each other on one clock, each with flows of its own."""

    number: int
    mechanism: str = OURS
    now: int = 1_800_000_000 * SECOND
    trial: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    sent: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    received: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)

    def flow(
        self, sender: str, receiver: str, silent: tuple[int, int] | None, length_ms: int = 1000, interval_ms: int = 4
    ) -> dict[str, Any]:
        """Log a flow that begins 100 ms before the event; what is sent in ``silent`` (ms since the event) is lost."""
        label = f"{sender}-{receiver}"
        for index in range((100 + length_ms) // interval_ms):
            time = self.now + (index * interval_ms - 100) * MS
            mark = {"label": label, "trial": self.trial, "index": index}
            self.sent.setdefault(sender, []).append({"time_ns": time, "event": "sent", **mark})
            since = (time - self.now) // MS
            if silent is None or not silent[0] <= since < silent[1]:
                entry = {"time_ns": time + DELAY, "event": "received", **mark}
                self.received.setdefault(receiver, []).append(entry)
        return {"sender": sender, "receiver": receiver, "label": label, "trial": self.trial}

    def event(self, name: str, flows: list[dict[str, Any]], length_ms: int = 1000, **details: Any) -> dict[str, Any]:
        """Write down an event that begins now; what is 150 ms before the end of its flows is in its window."""
        entry = {
            "mechanism": self.mechanism, "repeat": self.number, "place": len(self.events), "event": name,
            "begin_ns": self.now, "end_ns": self.now + (length_ms - 150) * MS, "interval": 0.004, "flows": flows,
            "missing": None, **details,
        }  # fmt: skip
        self.events.append(entry)
        self.now += 10 * SECOND
        self.trial += 1
        return entry

    def write(self, folder: Path) -> None:
        """Leave the logs."""
        for host, entries in self.sent.items():
            write_lines(folder / f"sent-{host}.jsonl", entries)
        for host, entries in self.received.items():
            write_lines(folder / f"received-{host}.jsonl", entries)
        write_lines(folder / "testbed" / "telemetry.jsonl", self.records)


def both_ways(repeat: Repeat, silent: tuple[int, int] | None) -> list[dict[str, Any]]:
    return [repeat.flow("red1", "red3", silent), repeat.flow("red3", "red1", silent)]


def start(repeat: Repeat) -> None:
    begin = repeat.now
    flows = [*both_ways(repeat, (-100, 600)), repeat.flow("blue1", "blue3", (-100, 500))]
    marks = {"controller answers": 300, "links discovered": 400, "nodes ready": 500, "converged": 650}
    repeat.event("start", flows, marks_ns={name: begin + value * MS for name, value in marks.items()})


def disturbances(repeat: Repeat) -> None:
    repeat.event("nothing", both_ways(repeat, None))
    now = repeat.now
    nva = {"launched_ns": now + 5 * MS, "in_step_ns": now + 805 * MS, "poll": 0.02}
    repeat.event("nva_killed", both_ways(repeat, None), **nva)
    silent = (0, 100 + 8 * repeat.number)
    repeat.event("link_down", both_ways(repeat, silent), path_before=["t1"], path_after=[])
    paths = {"path_before": [], "path_after": ["t1"], "path_ns": repeat.now + 90 * MS}
    repeat.event("link_up", both_ways(repeat, None), **paths)


def moves(repeat: Repeat) -> None:
    flows = []
    for host, role in (("red4", "old place"), ("red2", "new place"), ("red1", "third place")):
        flows.append({**repeat.flow(host, "red3", (0, 40)), "role": role})
    repeat.event("move", flows, moved_from="nve3", moved_to="nve2")
    flows = [repeat.flow("blue1", "blue3", (0, 1000))]
    repeat.event("static_move", flows, refused=None, mapped_to=["nve3"], back=True)


def revocation(repeat: Repeat) -> None:
    flows = [{**repeat.flow("red1", "red3", (12, 2000), 2000), "role": "of the node"},
             {**repeat.flow("red3", "red1", (20, 2000), 2000), "role": "of the node"},
             {**repeat.flow("red2", "red1", None, 2000), "role": "bystander"}]  # fmt: skip
    answered = repeat.now + 6 * MS
    repeat.event("revoke_nve", flows, 2000, node="nve3", answered_ns=answered)
    flows = [{**repeat.flow("red1", "red3", (-100, 700)), "role": "of the node"},
             {**repeat.flow("red3", "red1", (-100, 800)), "role": "of the node"}]  # fmt: skip
    repeat.event("return_nve", flows, node="nve3", launched_ns=repeat.now + 10 * MS)


def transit_revocation(repeat: Repeat) -> None:
    flows, begin = [repeat.flow("blue1", "blue2", None)], repeat.now
    authenticated(repeat, [begin + value * MS for value in range(-100, 9, 4)])
    repeat.event("revoke_transit", flows, node="t1", answered_ns=begin + 6 * MS)
    authenticated(repeat, [repeat.now + 500 * MS])
    repeat.event("return_transit", [repeat.flow("blue1", "blue2", None)], node="t1")


def authenticated(repeat: Repeat, times: list[int]) -> None:
    repeat.records += [{"device": "t1", "vni": 200, "authenticated": True, "ingress_ns": time} for time in times]


def rekeys(repeat: Repeat) -> None:
    for rate in RATES if repeat.mechanism == OURS else CHANNEL_RATES:
        flow = repeat.flow("red1", "red3", None, 1500, 2)
        entry = repeat.event(
            "rekey", [flow], 1500, rate=rate, requests=rate, failed_requests=0, line_rekeys=round(1.35 * rate),
            rekeys=9 * rate, cpu_ns={"controller": 10 * MS, "nve1": 50 * MS, "nve3": 50 * MS},
            **({"tcp": {"value": 2e8 - 1e6 * rate, "missing": None}} if repeat.mechanism == OURS else {}),
        )  # fmt: skip
        entry["interval"] = 0.002


def growth(run: Path, sizes: tuple[int, ...] = (10, 30, 100)) -> None:
    """Leave what the measurements with simulated nodes would leave: bytes with the square, seconds in proportion."""
    entries = []
    for nodes in sizes:
        for mode, phase, per_node in (
            ("static", "synchronisation", None), ("learned", "tenants", None), ("learned", "change", None),
            ("learned", "rekey", 4), ("learned", "restart", None),
        ):  # fmt: skip
            counts = {"received_tls": 40 * nodes * nodes, "sent_tls": 0, "received_json": nodes, "sent_json": nodes,
                      "received_messages": nodes, "sent_messages": nodes, "disconnections": 0}  # fmt: skip
            entry = sample(
                "phase", {"mode": mode, "nodes": nodes, "repeat": 0, "phase": phase}, 0.01 * nodes, "s",
                nva_cpu_s=0.1, nva_rss_bytes=50 << 20, nva_peak_rss_bytes=50 << 20, database_bytes=1 << 20,
                simulator_cpu_s=0.1, counts=counts, per_node=per_node,
                **({"latencies": [0.01, 0.02, 0.05]} if phase == "change" else {}),
            )  # fmt: skip
            entries.append(entry)
    write_lines(run / "raw" / "control" / "growth" / GROWTH_FILE, entries)


def control(run: Path, repeats: int = 6, change: Change = lambda _: None) -> None:
    """Leave what the experiment would leave; ``change`` may alter each event before it is written."""
    raw = run / "raw" / "control"
    events = []
    for mechanism in MECHANISMS:
        ours = mechanism == OURS
        parts = (start, disturbances, revocation, rekeys, *((moves, transit_revocation) if ours else ()))
        for number in range(repeats if ours else min(repeats, 2)):
            repeat = Repeat(number, mechanism)
            for part in parts:
                part(repeat)
            repeat.write(raw / label_of(mechanism, number))
            events += repeat.events
    for event in events:
        change(event)
    write_lines(raw / "events.jsonl", events)
    growth(run)


def drop_received(
    run: Path, repeat: int, host: str, chosen: Callable[[dict[str, Any]], bool], mechanism: str = OURS
) -> None:
    """Take lines out of a receiver's log."""
    path = run / "raw" / "control" / label_of(mechanism, repeat) / f"received-{host}.jsonl"
    write_lines(path, [entry for entry in read_lines(path) if not chosen(entry)])

"""What switches count: packets and bytes of flow rules and ports, asked for at intervals, as the REST view shows it.

Pure. Holds one answer for each switch, of a bounded size, so its memory is bounded by the number of switches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.fabric.spoofing import is_guard

MAX_FLOWS = 20_000
"""Rules of one switch that are kept; of one that reports more, the view says so."""
MAX_PORTS = 4096
"""Ports of one switch that are kept."""
PATIENCE = 4
"""Intervals after which a switch that did not answer is asked again."""


@dataclass(frozen=True, slots=True)
class FlowCount:
    """One rule of a switch and what it counted; ``match`` are OpenFlow's names of fields and their values."""

    table: int
    priority: int
    match: Mapping[str, str | int]
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class PortCount:
    """What one port counted since it exists."""

    port: int
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_dropped: int
    tx_dropped: int


@dataclass(slots=True)
class _Switch:
    next_poll: float
    asked: int = 0
    flows: tuple[FlowCount, ...] = ()
    flows_at: float | None = None
    truncated: bool = False
    coming: list[FlowCount] = field(default_factory=list)
    ports: tuple[PortCount, ...] = ()
    spoofed: int = 0
    spoofed_by_rule: dict[tuple[Any, ...], int] = field(default_factory=dict)


class Counters:
    """The counters of all connected switches. ``interval`` in seconds; 0 means never to ask."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._switches: dict[int, _Switch] = {}
        self._spoofed_before = 0

    def switch_up(self, dpid: int, now: float) -> None:
        """Begin to ask a switch; its counters begin anew, too."""
        self.switch_down(dpid)
        self._switches[dpid] = _Switch(next_poll=now + self._interval)

    def switch_down(self, dpid: int) -> None:
        """Forget a switch; what it dropped as spoofed stays in the total."""
        gone = self._switches.pop(dpid, None)
        self._spoofed_before += 0 if gone is None else gone.spoofed

    def due(self, now: float) -> list[int]:
        """Return the switches to ask now."""
        if not self._interval:
            return []
        due = []
        for dpid, switch in self._switches.items():
            if now < switch.next_poll:
                continue
            switch.next_poll = now + self._interval
            if 0 < switch.asked < PATIENCE:
                switch.asked += 1  # it has not answered yet; more questions would not make it faster
                continue
            switch.asked, switch.coming = 1, []
            due.append(dpid)
        return due

    def flows(self, dpid: int, flows: tuple[FlowCount, ...], more: bool, now: float) -> None:
        """Take a part of a switch's answer; ``more`` parts follow or not."""
        switch = self._switches.get(dpid)
        if switch is None or not switch.asked:
            return
        switch.coming += flows[: MAX_FLOWS + 1 - len(switch.coming)]
        if more:
            return
        switch.truncated = len(switch.coming) > MAX_FLOWS
        switch.flows, switch.flows_at = tuple(switch.coming[:MAX_FLOWS]), now
        switch.asked, switch.coming = 0, []
        self._count_spoofed(switch)

    def ports(self, dpid: int, ports: tuple[PortCount, ...]) -> None:
        """Take what a switch's ports counted (several parts replace only the ports that they name)."""
        switch = self._switches.get(dpid)
        if switch is not None:
            known = {count.port: count for count in (*switch.ports, *ports)}
            switch.ports = tuple(known[port] for port in sorted(known)[:MAX_PORTS])

    @staticmethod
    def _count_spoofed(switch: _Switch) -> None:
        """Add what guard rules dropped since the last answer; one that was deleted and added counts from zero."""
        counted = {}
        for flow in switch.flows:
            if is_guard(flow.table, flow.priority):
                key = (flow.table, flow.priority, tuple(sorted(flow.match.items())))
                before = switch.spoofed_by_rule.get(key, 0)
                switch.spoofed += flow.packets - before if flow.packets >= before else flow.packets
                counted[key] = flow.packets
        switch.spoofed_by_rule = counted

    def view(self, names: Mapping[int, str], now: float) -> dict[str, Any]:
        """Return the document of the REST view; ``age_s`` is that of a switch's answer, None before the first."""
        total = self._spoofed_before + sum(switch.spoofed for switch in self._switches.values())
        return {
            "interval_s": self._interval,
            "spoofed_packets": total,
            "switches": [
                {
                    "name": names.get(dpid, f"{dpid:#x}"),
                    "age_s": None if switch.flows_at is None else round(now - switch.flows_at, 3),
                    "spoofed_packets": switch.spoofed,
                    "truncated": switch.truncated,
                    "flows": [_flow(flow) for flow in switch.flows],
                    "ports": [_port(port) for port in switch.ports],
                }
                for dpid, switch in sorted(self._switches.items())
            ],
        }


def _flow(flow: FlowCount) -> dict[str, Any]:
    return {
        "table": flow.table,
        "priority": flow.priority,
        "match": dict(flow.match),
        "packets": flow.packets,
        "bytes": flow.bytes,
        "spoofed": is_guard(flow.table, flow.priority),
    }


def _port(count: PortCount) -> dict[str, int]:
    return {name: getattr(count, name) for name in PortCount.__slots__}

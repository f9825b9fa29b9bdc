"""What tenants' logs say of a flow: which messages were lost, how long nothing came, when the last one came. Pure.

Times are nanoseconds of one clock; results in seconds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from experiments.samples import read_lines

_LEAD_NS = 20_000_000
"""What was sent this long before an event can still be under way when it happens."""
_BACK_NS = 200_000_000
"""A flow is back when something arrives that was sent this long before the end of the window, or later."""


@dataclass(slots=True)
class FlowLog:
    """One flow: when each message was sent, and (time, index) of each that was received, in order of time."""

    sent: dict[int, int] = field(default_factory=dict)
    received: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Effect:
    """What became of a flow in a window.

    ``outage_s``: longest time between two receipts beyond what the sender itself left between the two messages; None
    when the flow was not back at the end. ``lost`` of ``sent`` messages never arrived, ``repeated`` arrived twice.
    """

    outage_s: float | None
    sent: int
    lost: int
    repeated: int

    @property
    def back(self) -> bool:
        """Whether messages arrived at the end."""
        return self.outage_s is not None


def read_flows(folder: Path) -> dict[tuple[str, int], FlowLog]:
    """Return the flows in the logs of one repeat, by label and trial; ValueError on damaged logs."""
    flows: dict[tuple[str, int], FlowLog] = defaultdict(FlowLog)
    for path in sorted(folder.glob("sent-*.jsonl")):
        for entry in read_lines(path):
            if entry["label"] is not None:
                flow = flows[entry["label"], entry["trial"]]
                if entry["event"] == "sent":
                    flow.sent[entry["index"]] = entry["time_ns"]
                else:
                    flow.sent.pop(entry["index"], None)  # the kernel refused it
    for path in sorted(folder.glob("received-*.jsonl")):
        for entry in read_lines(path):
            if entry["label"] is not None:
                flows[entry["label"], entry["trial"]].received.append((entry["time_ns"], entry["index"]))
    for flow in flows.values():
        flow.received.sort()
    return dict(flows)


def effect(flow: FlowLog, begin_ns: int, end_ns: int, interval: float) -> Effect:
    """Return what became of the messages of a flow between two times; ``interval`` is the sender's, in seconds."""
    arrived = {index for _, index in flow.received}
    inside = {index: time for index, time in flow.sent.items() if begin_ns - _LEAD_NS <= time <= end_ns}
    lost = sum(1 for index in inside if index not in arrived)
    times = [time for time, _ in flow.received]
    first = max(0, bisect_right(times, begin_ns) - 1)
    window = flow.received[first : bisect_right(times, end_ns) + 1]
    numbers = [index for _, index in window]
    repeated = len(numbers) - len(set(numbers))
    back = any(index in arrived for index, time in inside.items() if time >= end_ns - _BACK_NS)
    if not back or len(window) < 2:
        return Effect(None, len(inside), lost, repeated)
    return Effect(_longest(flow, window, interval), len(inside), lost, repeated)


def _longest(flow: FlowLog, window: list[tuple[int, int]], interval: float) -> float:
    longest = 0.0
    for (before, first), (after, second) in pairwise(window):
        allowed = interval * 1e9
        if second == first + 1 and {first, second} <= flow.sent.keys():
            allowed = max(allowed, flow.sent[second] - flow.sent[first])  # a sender that pauses is no outage
        longest = max(longest, after - before - allowed)
    return longest / 1e9


def last_receipt(flow: FlowLog, begin_ns: int, end_ns: int) -> int | None:
    """Return when the last message arrived before ``end_ns``; None when none did since just before ``begin_ns``."""
    times = [time for time, _ in flow.received if begin_ns - _LEAD_NS <= time <= end_ns]
    return times[-1] if times else None


def first_receipt(flow: FlowLog, begin_ns: int, end_ns: int | None = None) -> int | None:
    """Return when the first message arrived after ``begin_ns``; None when none did."""
    return next((time for time, _ in flow.received if time >= begin_ns and (end_ns is None or time <= end_ns)), None)


def sent_between(flow: FlowLog, begin_ns: int, end_ns: int) -> int:
    """Return how many messages were sent between two times."""
    return sum(1 for time in flow.sent.values() if begin_ns <= time <= end_ns)


def authenticated_times(records: Iterable[dict[str, Any]], device: str, vni: int) -> list[int]:
    """Return when a device saw the packets of a VNI that it reported as authenticated, in order of time."""
    return sorted(
        int(record["ingress_ns"])
        for record in records
        if record.get("device") == device and record.get("vni") == vni and record.get("authenticated")
    )

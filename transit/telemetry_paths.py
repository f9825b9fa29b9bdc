"""From telemetry records to the paths that flows took through the underlay."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from transit.records import TelemetryRecord


@dataclass(frozen=True, slots=True)
class Hop:
    """One device on a path. Times are medians in nanoseconds over the path's packets.

    ``link_ns`` is the time from the device before (None at the first), ``inside_ns`` the time in it.
    """

    device: str
    link_ns: float | None
    inside_ns: float


@dataclass(frozen=True, slots=True)
class FlowPath:
    """The path that most packets of a flow took, how many did, and how many took another one."""

    hops: tuple[Hop, ...]
    packets: int
    other_packets: int

    @property
    def devices(self) -> tuple[str, ...]:
        """The names along the path, in order."""
        return tuple(hop.device for hop in self.hops)


_Trace = dict[str, TelemetryRecord]


def paths(records: Iterable[TelemetryRecord]) -> dict[tuple[int, int], FlowPath]:
    """Return the path of each (VNI, flow label) that ``records`` mention.

    Records of one packet share VNI, flow, sender and sequence number; its path is their order in time,
    which the devices' clocks must agree on. The first record counts where a device reported a packet twice.
    """
    packets: dict[tuple[int, int], dict[tuple[str | None, int], _Trace]] = defaultdict(dict)
    for record in records:
        seen = packets[record.vni, record.flow].setdefault((record.sender, record.sequence), {})
        seen.setdefault(record.device, record)
    return {flow: _flow_path(list(traces.values())) for flow, traces in packets.items()}


def _flow_path(traces: list[_Trace]) -> FlowPath:
    ordered = [sorted(trace.values(), key=lambda record: record.ingress_ns) for trace in traces]
    orders = Counter(tuple(record.device for record in trace) for trace in ordered)
    # The longer path wins a tie: a lost record shortens a path, nothing lengthens it.
    order = max(orders, key=lambda candidate: (orders[candidate], len(candidate), candidate))
    matching = [trace for trace in ordered if tuple(record.device for record in trace) == order]
    hops = []
    for index, device in enumerate(order):
        inside = median(trace[index].egress_ns - trace[index].ingress_ns for trace in matching)
        link = None
        if index:
            link = median(trace[index].ingress_ns - trace[index - 1].egress_ns for trace in matching)
        hops.append(Hop(device, link, inside))
    return FlowPath(tuple(hops), len(matching), len(traces) - len(matching))

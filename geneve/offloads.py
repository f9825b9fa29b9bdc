"""Which offloads a node may use: configuration, and what became of it."""

from __future__ import annotations

from geneve.config import StrictModel


class NveOffloads(StrictModel):
    """What an NVE may leave to the kernel, each where the kernel has it; false switches it off.

    ``tso``, ``uso``: tenants' TCP segments, or UDP datagrams sent with UDP_SEGMENT, arrive in one piece and are cut
    here. ``merge``: delivered segments of a flow are put together again. ``udp_segment``, ``udp_gro``: many packets
    of one size leave or enter by one system call.
    """

    tso: bool = True
    uso: bool = True
    merge: bool = True
    udp_segment: bool = True
    udp_gro: bool = True


class TransitOffloads(StrictModel):
    """What a transit device may leave to the kernel. ``vnet_header``: segmented datagrams pass in one piece."""

    vnet_header: bool = True


class Offloads(NveOffloads, TransitOffloads):
    """What all nodes of a network may leave to the kernel."""


OffloadStates = dict[str, str]
"""What became of each offload, by name: "on", "off" (configured so), or "unavailable: " and why."""
ON, OFF = "on", "off"


def unavailable(reason: str) -> str:
    """Return the state of an offload that was wanted and cannot be had."""
    return f"unavailable: {reason}"

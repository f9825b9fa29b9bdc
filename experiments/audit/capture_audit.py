"""The audit of a capture: read, observe, evaluate. :func:`audit_capture` is what others call."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.audit.classes import class_name, option_name
from experiments.audit.counters import Count
from experiments.audit.evaluation import evaluate
from experiments.audit.findings import find
from experiments.audit.observer import Observer
from experiments.audit.patterns import describe_sizes, networks_of
from experiments.audit.records import Network, Seen
from experiments.audit.result import AuditResult
from experiments.capture_file import CaptureFile
from geneve.header import GENEVE_PORT
from topologies.risks import option_key

SHOWN = 50
"""Rows of each table in the inventory; what is beyond is one row ``others``."""


def audit_capture(path: str | Path, ports: Iterable[int] = (GENEVE_PORT,)) -> AuditResult:
    """Return the audit of a pcap or pcapng file, gzipped or not; ``ports`` are UDP ports that carry Geneve.

    CaptureError, one sentence, when the file is no capture or cannot be read at all. What is wrong further on in it
    is a finding.
    """
    observer = Observer(ports)
    with CaptureFile(Path(path)) as capture:
        observer.watch(capture)
        seen = observer.finish()
        return AuditResult("capture", str(path), evaluate(seen), find(seen, capture), inventory(seen, capture))


def inventory(seen: Seen, capture: CaptureFile) -> dict[str, Any]:
    """Return what was seen as plain data: file, talks, virtual networks, options, keys, largest flows."""
    return {
        "file": {
            "format": capture.format, "frames": capture.read, "bytes": seen.frames.bytes,
            "link_types": sorted(capture.linktypes), "start": _time(seen.start), "seconds": _seconds(seen),
            "geneve_packets": seen.geneve.packets, "damage": capture.damage,
        },
        "talks": _rows(
            [(source, destination, what, count.packets, count.bytes)
             for (source, destination, what), count in seen.talks],
            ("source", "destination", "protection", "packets", "bytes"), seen.talks.evicted, seen.other_talks,
        ),
        "vnis": _vnis(seen),
        "options": [
            {
                "option": option_key(*kind), "owner": class_name(kind[0]), "name": option_name(kind),
                "packets": option.packets, "contents": len(option.values), "more_contents": option.more,
                "sizes": sorted(option.sizes), "example": option.example.hex(),
            }
            for kind, option in sorted(seen.options, key=lambda row: -row[1].packets)[:SHOWN]
        ],
        "keys": _rows(
            [(_key_name(place), len(key.pairs), len(key.vnis), key.packets, key.bytes) for place, key in seen.keys],
            ("key", "pairs", "vnis", "packets", "bytes"), seen.keys.evicted, seen.other_keys,
        ),
        "flows": [
            {"bytes": size, "packets": packets, "flow": text, "vni": vni, "payload": content, "entropy": bits}
            for size, packets, text, vni, content, bits in sorted(seen.top, reverse=True)
        ],
        "other": {name: count.packets for name, count in sorted(seen.facts.items())},
    }  # fmt: skip


def _rows(rows: list[tuple[Any, ...]], names: tuple[str, ...], more: int, others: Count) -> list[dict[str, Any]]:
    """Return the rows with the most packets, and one for the rest and the ``more`` that are counted in ``others``.

    The last two columns of each row are packets and bytes.
    """
    ordered = sorted(rows, key=lambda row: (-row[-2], str(row)))
    shown = [dict(zip(names, row, strict=True)) for row in ordered[:SHOWN]]
    rest = ordered[SHOWN:]
    if rest or more:
        packets, size = sum(row[-2] for row in rest), sum(row[-1] for row in rest)
        shown.append({names[0]: f"others ({len(rest) + more})", "packets": others.packets + packets,
                      "bytes": others.bytes + size})  # fmt: skip
    return shown


def _vnis(seen: Seen) -> list[dict[str, Any]]:
    ordered = sorted(networks_of(seen), key=lambda row: (row[0] == "others", -row[1].packets))
    shown = [_vni(name, network) for name, network in ordered[:SHOWN]]
    rest = ordered[SHOWN:]
    if rest:
        shown.append({"vni": f"others ({len(rest)})", "packets": sum(network.packets for _, network in rest),
                      "bytes": sum(network.bytes for _, network in rest)})  # fmt: skip
    return shown


def _vni(name: str, network: Network) -> dict[str, Any]:
    sizes = describe_sizes(network.sizes)
    return {
        "vni": name, "packets": network.packets, "bytes": network.bytes, "flows": network.flows,
        "regular_flows": network.regular, "talks": len(network.talks),
        "states": {state: count.packets for state, count in sorted(network.states.items())},
        "contents": {content: count.packets for content, count in sorted(network.contents.items())},
        "control": {kind: count.packets for kind, count in sorted(network.control.items())},
        "sizes": {"different": sizes.different, "bits": round(sizes.bits, 2), "padded": sizes.padded,
                  "most_frequent": [list(item) for item in sizes.top]},
    }  # fmt: skip


def _key_name(place: tuple[object, ...]) -> str:
    if place[0] == "security option":
        return f"security option type {place[1]:#04x}, SPI {place[2]:#010x}"
    name, source, destination, spi = place
    text = spi.hex() if isinstance(spi, bytes) else ""
    return f"{name} {source} > {destination} {text}".strip()


def _time(time: float | None) -> str | None:
    """Return a time as text; None when there is none, or one that no calendar has."""
    try:
        return None if time is None else datetime.datetime.fromtimestamp(time, datetime.timezone.utc).isoformat()
    except (OverflowError, ValueError, OSError):
        return None


def _seconds(seen: Seen) -> float:
    return round(max(0.0, seen.stop - seen.start), 6) if seen.start is not None else 0.0

"""What several judges ask of evidence: whose packet it is, what arrived, what is in clear."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from experiments.mechanism.evidence import RECEIVED, SENT, Evidence, Seen
from experiments.mechanism.probe import Finding
from experiments.traffic import MESSAGE_MARK
from geneve.option import Option
from geneve.security.option import EGRESS_TYPE, SECURITY_CLASS

INNER_HEADERS = 14 + 20 + 8
"""Ethernet, IPv4, UDP: what comes in front of a message's bytes in the inner frame."""


def find_option(seen: Seen, option_class: int, option_type: int) -> Option | None:
    """Return the option of a packet that is in clear, None if there is none."""
    for option in seen.frame.packet.options:
        if (option.option_class, option.type) == (option_class, option_type):
            return option
    return None


def spi_of(seen: Seen) -> int | None:
    """Return the SPI of the option for an NVE or a multicast group; None for a packet without one."""
    option = find_option(seen, SECURITY_CLASS, EGRESS_TYPE)
    return None if option is None else int.from_bytes(option.data[:4], "big")


def own(evidence: Evidence, sender: str | None = None, size: int | None = None) -> list[Seen]:
    """Return the tenant's packets: by SPI where they have one, else by VNI; from one NVE, of one payload size."""
    chosen = []
    for seen in evidence.packets:
        spi = spi_of(seen)
        mine = seen.frame.packet.header.vni == evidence.vni if spi is None else spi in evidence.spis
        if sender is not None and seen.frame.source != evidence.facts["addresses"][sender]:
            continue
        if mine and size in (None, len(seen.frame.packet.payload)):
            chosen.append(seen)
    return chosen


def of_size(packets: Iterable[Seen], size: int) -> list[Seen]:
    """Return the packets whose payload has ``size`` bytes."""
    return [seen for seen in packets if len(seen.frame.packet.payload) == size]


def numbers(packets: Iterable[Seen]) -> tuple[int, ...]:
    """Return the packets' numbers in the capture."""
    return tuple(seen.number for seen in packets)


def host(evidence: Evidence, name: str) -> str:
    """Return the host that played ``name`` of the scenario file."""
    return str(evidence.facts["hosts"][name])


def payloads(evidence: Evidence, pattern: str, name: str) -> list[str]:
    """Return the marked payloads in a host's log, in hexadecimal."""
    return [str(line["payload"]) for _, line in evidence.messages(pattern, host(evidence, name))]


def sent(evidence: Evidence, name: str) -> list[str]:
    """Return what a host sent."""
    return payloads(evidence, SENT, name)


def received(evidence: Evidence, name: str) -> list[str]:
    """Return what a host received of this probe's messages, changed ones included if their mark can be read."""
    return payloads(evidence, RECEIVED, name)


def arrives(evidence: Evidence, sender: str, receiver: str) -> Finding:
    """Judge that every message arrived as it was sent, once."""
    out, back = sorted(sent(evidence, sender)), sorted(received(evidence, receiver))
    return Finding(
        "the receiver gets every frame as it was sent",
        bool(out) and out == back,
        f"{len(out)} sent, {len(set(out) & set(back))} received unchanged, {len(back)} in all",
    )


def marked(packets: Iterable[Seen]) -> list[Seen]:
    """Return the packets in which a message's mark can be read."""
    return [seen for seen in packets if MESSAGE_MARK in seen.raw]


def with_bytes(packets: Iterable[Seen], data: bytes) -> list[Seen]:
    """Return the packets in which ``data`` can be read."""
    return [seen for seen in packets if data in seen.raw]


def read_by(evidence: Evidence, node: str, option_class: int, option_type: int) -> int:
    """Return how many packets' option a node read while the probe acted."""
    name = f"{option_class:#06x}:{option_type:#04x}"
    counts = []
    for when in ("before", "after"):
        stats = evidence.stats(node, when)
        entry = (stats.get("options") or stats.get("options_read") or {}).get(name, {})
        counts.append(int(entry.get("count", 0)))
    return counts[1] - counts[0]


def enough(packets: Sequence[Seen], least: int = 3) -> bool:
    """Whether there were packets to judge at all: no judge may be satisfied with silence."""
    return len(packets) >= least

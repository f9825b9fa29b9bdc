"""What several judges ask of evidence: whose packet it is, what arrived, what is in clear."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from experiments.mechanism.evidence import RECEIVED, SENT, Evidence, Seen
from experiments.mechanism.probe import Finding, Weight
from experiments.traffic import MESSAGE_MARK
from experiments.view import Carrier
from geneve.option import Option

INNER_HEADERS = 14 + 20 + 8
"""Ethernet, IPv4, UDP: what comes in front of a message's bytes in the inner frame."""
_TRANSIT_SECONDS = 0.1
"""By how much later than it was sent a message may be captured."""


def find_option(seen: Seen, option_class: int, option_type: int) -> Option | None:
    """Return the option of a packet that is in clear, None if there is none."""
    for option in seen.packet.options if seen.packet is not None else ():
        if (option.option_class, option.type) == (option_class, option_type):
            return option
    return None


def spi_of(seen: Seen) -> int | None:
    """Return the SPI that a packet shows, in the option for its NVE or group or in its channel's header; None: none."""
    return None if seen.view.carrier is Carrier.DTLS else seen.view.spi


def own(evidence: Evidence, sender: str | None = None, size: int | None = None) -> list[Seen]:
    """Return the tenant's packets, from one NVE, with one payload size in bytes.

    Security options tell by their SPI whose packet it is; otherwise its VNI does. A packet that a channel has made
    unreadable is any tenant's: then it counts if it passed between two NVEs while the probe acted, which one tenant at
    a time does, and has the size wanted if it passed while messages of that size were sent.
    """
    nodes = set(evidence.facts["addresses"].values())
    windows = [] if size is None else _windows(evidence, size - INNER_HEADERS)
    chosen = []
    for seen in evidence.packets:
        if sender is not None and seen.view.source != evidence.facts["addresses"][sender]:
            continue
        if seen.packet is None:
            mine = seen.view.source in nodes
            fits = size is None or any(a <= seen.timestamp <= b for a, b in windows)
        else:
            spi = None if seen.view.channel else spi_of(seen)
            mine = seen.packet.header.vni == evidence.vni if spi is None else spi in evidence.spis
            fits = size in (None, seen.size)
        if mine and fits:
            chosen.append(seen)
    return chosen


def _windows(evidence: Evidence, size: int) -> list[tuple[float, float]]:
    """Return when packets with messages of ``size`` bytes may be captured: until a little later, or the next burst."""
    starts = sorted(when for when, sent_size in evidence.all_sent() if sent_size != size)
    found = []
    for first, last in evidence.when_sent(size):
        following = next((when for when in starts if when > last), last + _TRANSIT_SECONDS)
        found.append((first, min(last + _TRANSIT_SECONDS, following)))
    return found


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
        weight=Weight.CONTROL,
    )


def unchanged(evidence: Evidence, sender: str, receiver: str) -> Finding:
    """Judge that the messages that eve left alone arrived: else what is not delivered was perhaps not refused."""
    sizes = {2 * size for size in evidence.facts["facts"]["unchanged"]}
    out = sorted(payload for payload in sent(evidence, sender) if len(payload) in sizes)
    back = sorted(payload for payload in received(evidence, receiver) if len(payload) in sizes)
    return Finding("unchanged ones are delivered", bool(out) and out == back, f"{len(back)} of {len(out)}",
                   weight=Weight.CONTROL)  # fmt: skip


def happened(statement: str, counts: dict[str, int], least: int) -> Finding:
    """Judge that there was at least so much of everything that a probe rests on: "not met" must not come of silence."""
    shown = ", ".join(f"{name}: {count}" for name, count in counts.items())
    return Finding(statement, all(count >= least for count in counts.values()), shown, weight=Weight.CONTROL)


def way_of_change(packets: Sequence[Seen]) -> str:
    """Say how eve changed packets that the capture has in front of her, as they were."""
    if packets and all(seen.packet is None for seen in packets):
        return "changed by eve blindly, where that byte should be"
    return "changed by eve"


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


def refusals(evidence: Evidence, nve: str) -> int:
    """Return how many packets an NVE refused while the probe acted, for any reason."""
    reasons = {*evidence.stats(nve, "before").get("drops", {}), *evidence.stats(nve).get("drops", {})}
    return sum(evidence.counted(nve, "drops", reason) for reason in reasons)


def enough(packets: Sequence[Seen], least: int = 3) -> bool:
    """Whether there were packets to judge at all: no judge may be satisfied with silence."""
    return len(packets) >= least

"""Finds the links between switches with LLDP (IEEE 802.1AB) and tells link ports from edge ports.

A port on which a probe from another switch arrives is a link port. The others do not become edge ports
at once: with redundant links, flooding into a link that is not known yet makes a loop. A port is an edge
port when all links that its switch should have are there, or when a frame of a host came in and the
probes had time to arrive; until then nothing is forwarded through it.
"""

from __future__ import annotations

import hmac
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from geneve.errors import ParseError

ETHERTYPE_LLDP = 0x88CC
LLDP_DESTINATION = bytes.fromhex("0180c200000e")

SEARCH_INTERVAL = 0.5
"""Seconds between two probes of a port while an expected link is missing."""
STEADY_INTERVAL = 1.0
"""Seconds between two probes of a port once all expected links are there."""
RETRY_INTERVAL = 0.25
"""Seconds between two probes of a link whose last probe did not arrive."""
ANSWER_INTERVAL = 0.1
"""Seconds at least between a port's last probe and the one that answers a newly heard switch."""
LINK_TIMEOUT = 3.0
"""Seconds without a probe after which a link is down."""
EDGE_DELAY = 2 * SEARCH_INTERVAL
"""Seconds a port must be up without a probe before a host's frame makes it an edge port."""

_SOURCE = bytes.fromhex("0e0000000001")
_OUI = bytes.fromhex("0e6081")
_TAG_SIZE = 16
_LOCALLY_ASSIGNED = 7
_PLACE = struct.Struct("!QI")
_END, _CHASSIS, _PORT, _TTL, _ORGANISATION = 0, 1, 2, 3, 127
_MAX_TLVS = 32

PortId = tuple[int, int]
"""A datapath id and a port number."""


def _tag(key: bytes, place: bytes) -> bytes:
    return hmac.digest(key, b"geneve testbed lldp" + place, "sha256")[:_TAG_SIZE]


def build_probe(dpid: int, port: int, key: bytes) -> bytes:
    """Return the LLDP frame that port ``port`` of switch ``dpid`` sends, authenticated with ``key``."""
    place = _PLACE.pack(dpid, port)
    tlvs = (
        (_CHASSIS, bytes([_LOCALLY_ASSIGNED]) + place[:8]),
        (_PORT, bytes([_LOCALLY_ASSIGNED]) + place[8:]),
        (_TTL, struct.pack("!H", round(LINK_TIMEOUT))),
        (_ORGANISATION, _OUI + b"\x01" + _tag(key, place)),
        (_END, b""),
    )
    body = b"".join(struct.pack("!H", kind << 9 | len(value)) + value for kind, value in tlvs)
    return (LLDP_DESTINATION + _SOURCE + struct.pack("!H", ETHERTYPE_LLDP) + body).ljust(60, b"\0")


def parse_probe(frame: bytes, key: bytes) -> PortId:
    """Return the switch and port that sent ``frame``; ParseError unless it is a probe made with ``key``.

    The tag keeps a host from inventing links; a host can still pass probes on from one port to another.
    """
    if len(frame) < 14 or frame[12:14] != ETHERTYPE_LLDP.to_bytes(2, "big"):
        raise ParseError("not an LLDP frame")
    values = _tlvs(frame[14:])
    chassis, port = values.get(_CHASSIS, b""), values.get(_PORT, b"")
    if len(chassis) != 9 or len(port) != 5 or chassis[0] != _LOCALLY_ASSIGNED or port[0] != _LOCALLY_ASSIGNED:
        raise ParseError("LLDP of another kind of system")
    place = chassis[1:] + port[1:]
    if not hmac.compare_digest(values.get(_ORGANISATION, b""), _OUI + b"\x01" + _tag(key, place)):
        raise ParseError("LLDP that this controller did not send")
    dpid, number = _PLACE.unpack(place)
    return dpid, number


def _tlvs(body: bytes) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    offset = 0
    for _ in range(_MAX_TLVS):
        if offset + 2 > len(body):
            raise ParseError("LLDP cut short")
        (head,) = struct.unpack_from("!H", body, offset)
        kind, size = head >> 9, head & 0x1FF
        offset += 2
        if offset + size > len(body):
            raise ParseError("LLDP value cut short")
        if kind == _END:
            return values
        if kind in values:
            raise ParseError("LLDP value given twice")
        values[kind] = body[offset : offset + size]
        offset += size
    raise ParseError("LLDP with too many values")


@dataclass(frozen=True, slots=True, order=True)
class Link:
    """A link that carries frames both ways; ``a`` is the smaller datapath id."""

    a: int
    a_port: int
    b: int
    b_port: int


@dataclass(frozen=True, slots=True)
class Topology:
    """What the underlay looks like now."""

    switches: frozenset[int] = frozenset()
    links: tuple[Link, ...] = ()
    edges: frozenset[PortId] = frozenset()


@dataclass(slots=True)
class _Port:
    since: float
    next_probe: float
    heard: PortId | None = None
    heard_at: float = 0.0
    host_seen: bool = False
    edge: bool = False
    last_probe: float = -math.inf


class Discovery:
    """The ports of all connected switches and what was heard on them. Times are seconds of one clock."""

    def __init__(self, expected: Iterable[tuple[int, int]], key: bytes) -> None:
        """``expected`` are the pairs of switches that have a link, the smaller datapath id first."""
        self._expected = frozenset(expected)
        self._key = key
        self._switches: set[int] = set()
        self._ports: dict[PortId, _Port] = {}
        self._last_expiry: float | None = None
        self._complete = False

    def switch_up(self, dpid: int, ports: Mapping[int, bool], now: float) -> None:
        """Add a switch with its ports and whether each is up; one that was there starts afresh."""
        self.switch_down(dpid)
        self._switches.add(dpid)
        for number, up in ports.items():
            self.port_status(dpid, number, up, now)

    def switch_down(self, dpid: int) -> None:
        """Forget a switch, its ports and links."""
        self._switches.discard(dpid)
        for place in [place for place in self._ports if place[0] == dpid]:
            del self._ports[place]

    def port_status(self, dpid: int, number: int, up: bool, now: float) -> None:
        """Note that a port went up or down (or away). News of a port that stays up changes nothing."""
        if not up:
            self._ports.pop((dpid, number), None)
        elif dpid in self._switches and (dpid, number) not in self._ports:
            self._ports[dpid, number] = _Port(since=now, next_probe=now)

    def probe_received(self, dpid: int, number: int, frame: bytes, now: float) -> PortId:
        """Note a probe that came in; returns its sender, ParseError when it is no probe of ours."""
        sender = parse_probe(frame, self._key)
        port = self._ports.get((dpid, number))
        if port is not None:
            port.heard, port.heard_at = sender, now
            port.host_seen = port.edge = False
            other = self._ports.get(sender)
            if other is not None and other.heard != (dpid, number):
                # The other direction is unknown: do not wait for the next round, but never answer probe by probe.
                port.next_probe = min(port.next_probe, max(now, port.last_probe + ANSWER_INTERVAL))
        return sender

    def host_frame(self, dpid: int, number: int) -> None:
        """Note that a frame which is no probe came in on a port."""
        port = self._ports.get((dpid, number))
        if port is not None and port.heard is None:
            port.host_seen = True

    def expire(self, now: float) -> None:
        """Forget probes that are too old. Time in which the controller itself stood still does not count."""
        stalled = 0.0 if self._last_expiry is None else max(0.0, now - self._last_expiry - STEADY_INTERVAL)
        self._last_expiry = now
        for port in self._ports.values():
            if port.heard is None:
                continue
            port.heard_at += stalled
            if now - port.heard_at > LINK_TIMEOUT:
                port.heard, port.since = None, now

    def probes_due(self, now: float) -> list[tuple[PortId, bytes]]:
        """Return the ports to send a probe from now, with the frames."""
        due = []
        interval = STEADY_INTERVAL if self._complete else SEARCH_INTERVAL
        for place, port in self._ports.items():
            retry = now >= port.last_probe + RETRY_INTERVAL and self._overdue(port, now)
            if retry or now >= port.next_probe:
                due.append((place, build_probe(*place, self._key)))
                port.last_probe = now
                port.next_probe = now + interval
        return due

    def _overdue(self, port: _Port, now: float) -> bool:
        # The far end's record says whether this port's probes arrive.
        far = None if port.heard is None else self._ports.get(port.heard)
        return far is not None and far.heard is not None and now - far.heard_at > 1.25 * STEADY_INTERVAL

    def topology(self, now: float) -> Topology:
        """Return the present topology. Only expected links count, and one for each pair of switches."""
        links: dict[tuple[int, int], Link] = {}
        for (dpid, number), port in sorted(self._ports.items()):
            if port.heard is None or port.heard[0] <= dpid:
                continue
            far = self._ports.get(port.heard)
            pair = (dpid, port.heard[0])
            if far is not None and far.heard == (dpid, number) and pair in self._expected:
                links.setdefault(pair, Link(dpid, number, *port.heard))
        self._complete = links.keys() >= self._expected
        missing = {dpid for pair in self._expected - links.keys() for dpid in pair}
        for place, port in self._ports.items():
            if port.heard is None and not port.edge:
                host = port.host_seen and now - port.since >= EDGE_DELAY
                # Once an edge port, it stays one until it goes down or a probe arrives on it.
                port.edge = host or place[0] not in missing
        edges = frozenset(place for place, port in self._ports.items() if port.edge)
        return Topology(frozenset(self._switches), tuple(sorted(links.values())), edges)

    @property
    def complete(self) -> bool:
        """Whether the last topology had every expected link."""
        return self._complete

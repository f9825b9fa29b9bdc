"""Which tenants are behind this NVE's own ports (RFC 8014, section 4.2; pure; times in seconds of one clock).

A tenant is a MAC address of a learned virtual network that the kernel bridge has behind one of its ports, the TAP
excepted: what is behind that is elsewhere. A frame from the TAP shows one too, as a rule before the kernel's word of
it arrives. Its IP addresses are those that its frames claim; an address belongs to whoever claimed it last.

A tenant is gone
- at once, when its port goes down or away, or its bridge finds its MAC behind the TAP: it has moved;
- when the NVE has asked it whether it is there, by ARP and neighbour solicitation for each address known, and no
  frame of it was seen within CONFIRM_WAIT. The NVE asks when the NVA does, and when the bridge has forgotten the MAC by
  age: a server that only listens must not vanish from the overlay because it was silent. Who has no known address
  cannot be asked: silence is an answer then;
- when a frame was all that showed it and the kernel has not confirmed it within FDB_WAIT: its port went down
  while the frame was on its way here.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from geneve.control.demand import MAX_TENANT_IPS, MAX_TENANTS, Tenant
from geneve.inner import InnerFrame
from nve.fdb import Event, MacGone, MacSeen, PortGone, PortSeen
from nve.probes import PROBE_MAC, build_probe
from nve.tables import mac_bytes

TENANTS_PER_SECOND = 1000
"""Tenants reported at most, on the average, however often they change."""
REPORT_PAUSE = 0.05
"""Seconds between two reports at least: a burst of changes gives two, the first at once."""
CONFIRM_WAIT = 0.5
"""Seconds within which a tenant that is asked has to show itself; it is asked twice."""
FDB_WAIT = 1.0
"""Seconds within which the kernel has to confirm what a frame has shown."""
MAX_PLACES = 4 * MAX_TENANTS
"""MAC addresses remembered with their ports at most, over all virtual networks."""
MAX_KNOWN = 4 * MAX_TENANTS
"""Forms of frames remembered as nothing new at most; when there are more, all are forgotten."""

_Key = tuple[int, bytes]
"""VNI and MAC."""


@dataclass(slots=True)
class _Tenant:
    """``ips`` in the order in which they were claimed. ``port`` is None until the kernel has told it."""

    port: int | None
    ips: dict[bytes, None] = field(default_factory=dict)
    reported: Tenant | None = None


@dataclass(slots=True)
class _Question:
    """When to ask for the second time, when silence becomes an answer, and whether the NVA wants to know."""

    again: float
    deadline: float
    for_nva: bool
    asked_twice: bool = False


@dataclass(frozen=True, slots=True)
class PortMove:
    """A port has joined the bridge of a VNI, or left it."""

    vni: int
    name: str
    joined: bool


@dataclass(frozen=True, slots=True)
class _Bridge:
    vni: int
    tap: int


class Presence:
    """Takes the kernel's events and tenants' frames; gives reports, questions to tenants, and their answers."""

    def __init__(self) -> None:
        self.known: set[tuple[int, tuple[tuple[bytes, bytes], ...]]] = set()
        """VNI and claims of frames that have nothing to tell: what costs least for each packet."""
        self._moves: list[PortMove] = []
        self._learned: frozenset[int] = frozenset()
        self._bridges: dict[int, _Bridge] = {}
        self._ports: dict[int, PortSeen] = {}
        self._places: dict[_Key, int] = {}
        self._tenants: dict[_Key, _Tenant] = {}
        self._numbers: Counter[int] = Counter()
        self._owners: dict[tuple[int, bytes], bytes] = {}
        self._unconfirmed: dict[_Key, float] = {}
        self._questions: dict[_Key, _Question] = {}
        self._answers: list[tuple[int, str, bool]] = []
        self._frames: list[tuple[int, bytes]] = []
        self._changed = False
        self._next_report = 0.0

    def add_bridge(self, vni: int, bridge: int, tap: int) -> None:
        """Watch the bridge of ``vni``; ``bridge`` and ``tap`` are interface indices."""
        self._bridges[bridge] = _Bridge(vni, tap)

    def set_learned(self, vnis: Iterable[int], now: float) -> None:
        """Report the tenants of exactly these virtual networks; a new one is reported even if it has none."""
        learned = frozenset(vnis)
        if learned == self._learned:
            return
        added, self._learned = learned - self._learned, learned
        for key in [key for key in self._tenants if key[0] not in learned]:
            self._withdraw(key)
        for key in self._places:
            if key[0] in added:
                self._find_or_add(key, now)
        self._changed = True

    # What the kernel tells ------------------------------------------------------------------------------

    def handle(self, events: Iterable[Event], now: float) -> None:
        """Take over what has changed, in the kernel's order."""
        for event in events:
            if isinstance(event, PortSeen):
                self._port_seen(event)
            elif isinstance(event, PortGone):
                self._port_gone(event.index)
            elif isinstance(event, MacSeen):
                self._mac_seen(event, now)
            elif isinstance(event, MacGone):
                self._mac_gone(event, now)

    def resync(self, events: Iterable[Event], now: float) -> None:
        """Take over a dump, after events were lost: what it does not name is gone."""
        dump = list(events)
        ports = {event.index for event in dump if isinstance(event, PortSeen)}
        entries = [event for event in dump if isinstance(event, MacSeen)]
        places = {(self._bridges[event.bridge].vni, event.mac) for event in entries if event.bridge in self._bridges}
        for index in self._ports.keys() - ports:
            self._port_gone(index)
        self.handle([event for event in dump if isinstance(event, PortSeen)], now)
        for key, port in [(key, port) for key, port in self._places.items() if key not in places]:
            self._forget_place(key, port, now)
        self.handle(entries, now)

    def _port_seen(self, event: PortSeen) -> None:
        before = self._ports.get(event.index)
        bridge = self._bridges.get(event.bridge)
        if before is not None and before.bridge != event.bridge:
            self._port_gone(event.index)
            before = None
        if bridge is None or bridge.tap == event.index:
            return
        self._ports[event.index] = event
        if before is None:
            self._moves.append(PortMove(bridge.vni, event.name, True))
        elif not event.up:
            self._withdraw_behind(event.index)

    def _port_gone(self, index: int) -> None:
        port = self._ports.pop(index, None)
        if port is not None:
            self._moves.append(PortMove(self._bridges[port.bridge].vni, port.name, False))
            self._withdraw_behind(index)

    def take_moves(self) -> list[PortMove]:
        """Return which ports have joined or left bridges, in order."""
        moves, self._moves = self._moves, []
        return moves

    def _withdraw_behind(self, port: int) -> None:
        for key in [key for key, place in self._places.items() if place == port]:
            del self._places[key]
        # The kernel may have told already that the MACs are forgotten, before it told why.
        for key in [key for key, tenant in self._tenants.items() if tenant.port == port]:
            self._withdraw(key)

    def _mac_seen(self, event: MacSeen, now: float) -> None:
        bridge = self._bridges.get(event.bridge)
        if bridge is None or event.mac[0] & 1 or event.mac == PROBE_MAC:
            return
        key = (bridge.vni, event.mac)
        if event.port == bridge.tap:
            self._places.pop(key, None)
            self._withdraw(key)
            return
        if self._places.get(key) == event.port and key not in self._questions:
            return  # the kernel repeats what it told before
        if key not in self._places and len(self._places) >= MAX_PLACES:
            return
        self._places[key] = event.port
        tenant = self._find_or_add(key, now)
        if tenant is not None:
            tenant.port = event.port
            self._unconfirmed.pop(key, None)
            self._shows_itself(key)

    def _mac_gone(self, event: MacGone, now: float) -> None:
        bridge = self._bridges.get(event.bridge)
        if bridge is not None and event.port != bridge.tap:
            self._forget_place((bridge.vni, event.mac), event.port, now)

    def _forget_place(self, key: _Key, port: int, now: float) -> None:
        if self._places.get(key) != port:
            return
        del self._places[key]
        tenant = self._tenants.get(key)
        if tenant is None:
            return
        seen = self._ports.get(port)
        if seen is None or not seen.up or not tenant.ips:
            self._withdraw(key)
        elif key not in self._questions:
            self._ask(key, now, for_nva=False)

    # What frames tell -----------------------------------------------------------------------------------

    def note(self, vni: int, inner: InnerFrame, now: float) -> None:
        """Take over what a frame that a local tenant sent tells of it. Needed only if it is not ``known``."""
        mac = inner.source
        if vni not in self._learned or mac[0] & 1 or mac == PROBE_MAC:
            return
        key = (vni, mac)
        tenant = self._find_or_add(key, now)
        if tenant is None:
            return
        self._shows_itself(key)
        for claimed, ip in inner.claims:
            # What a frame says of another's MAC is not believed: it would give away what is not the sender's.
            if claimed == mac and ip and ip not in tenant.ips and _can_be_a_tenants(ip):
                self._add_ip(key, tenant, ip)
        if len(self.known) >= MAX_KNOWN:
            self.known.clear()
        self.known.add((vni, inner.claims))

    def _find_or_add(self, key: _Key, now: float) -> _Tenant | None:
        tenant = self._tenants.get(key)
        if tenant is not None or key[0] not in self._learned or self._full(key[0]):
            return tenant
        tenant = self._tenants[key] = _Tenant(self._places.get(key))
        self._numbers[key[0]] += 1
        if tenant.port is None:
            self._unconfirmed[key] = now + FDB_WAIT
        self._changed = True
        return tenant

    def _full(self, vni: int) -> bool:
        """Whether a virtual network has its share: one that makes addresses up takes no other's room."""
        return len(self._tenants) >= MAX_TENANTS or self._numbers[vni] >= MAX_TENANTS // len(self._learned)

    def _add_ip(self, key: _Key, tenant: _Tenant, ip: bytes) -> None:
        vni, mac = key
        owner = self._owners.get((vni, ip))
        if owner is not None:
            self._drop_ip((vni, owner), ip)
        if len(tenant.ips) >= MAX_TENANT_IPS:
            self._drop_ip(key, next(iter(tenant.ips)))
        tenant.ips[ip] = None
        tenant.reported = None
        self._owners[vni, ip] = mac
        self._changed = True

    def _drop_ip(self, key: _Key, ip: bytes) -> None:
        tenant = self._tenants[key]
        del tenant.ips[ip]
        del self._owners[key[0], ip]
        tenant.reported = None
        self.known.clear()  # the next frame that claims it tells something again

    def _withdraw(self, key: _Key) -> None:
        tenant = self._tenants.pop(key, None)
        if tenant is None:
            return
        self._numbers[key[0]] -= 1
        for ip in tenant.ips:
            del self._owners[key[0], ip]
        self._unconfirmed.pop(key, None)
        question = self._questions.pop(key, None)
        if question is not None and question.for_nva:
            self._answer(key, False)
        self.known.clear()
        self._changed = True

    # Questions ------------------------------------------------------------------------------------------

    def confirm(self, vni: int, mac: str, now: float) -> None:
        """Find out whether a tenant is still here; the answer is among those of :meth:`take_confirmations`."""
        try:
            key = (vni, mac_bytes(mac))
        except ValueError:
            self._answers.append((vni, mac, False))  # no MAC address at all is nobody's
            return
        if key in self._tenants:
            self._ask(key, now, for_nva=True)
        else:
            self._answers.append((vni, mac, False))  # under the very name that was asked for

    def _ask(self, key: _Key, now: float, for_nva: bool) -> None:
        before = self._questions.get(key)
        wanted = for_nva or (before is not None and before.for_nva)
        self._questions[key] = _Question(now + CONFIRM_WAIT / 2, now + CONFIRM_WAIT, wanted)
        self.known.clear()  # the next frame of the tenant is an answer
        self._send_probes(key)

    def _send_probes(self, key: _Key) -> None:
        self._frames += [(key[0], build_probe(ip)) for ip in self._tenants[key].ips]

    def _shows_itself(self, key: _Key) -> None:
        question = self._questions.pop(key, None)
        if question is not None and question.for_nva:
            self._answer(key, True)

    def _answer(self, key: _Key, present: bool) -> None:
        self._answers.append((key[0], key[1].hex(":"), present))

    def take_frames(self) -> list[tuple[int, bytes]]:
        """Return questions to send into the bridge of a VNI, through its TAP."""
        frames, self._frames = self._frames, []
        return frames

    def take_confirmations(self, now: float) -> list[tuple[int, str, bool]]:
        """Return VNI and MAC of each tenant that the NVA asked for and whether it is here, once that is known."""
        self.run_due(now)
        answers, self._answers = self._answers, []
        return answers

    def run_due(self, now: float) -> None:
        """Ask for the second time, and take silence for an answer, where it is time."""
        for key, question in list(self._questions.items()):
            if now >= question.deadline:
                self._withdraw(key)
            elif now >= question.again and not question.asked_twice:
                question.asked_twice = True
                self._send_probes(key)
        for key in [key for key, deadline in self._unconfirmed.items() if deadline <= now]:
            self._withdraw(key)

    # Reports --------------------------------------------------------------------------------------------

    def report(self) -> tuple[Tenant, ...]:
        """Return all tenants of the learned virtual networks, in order."""
        return tuple(self._describe(key, self._tenants[key]) for key in sorted(self._tenants))

    def take_report(self, now: float) -> tuple[Tenant, ...] | None:
        """Return :meth:`report` if it differs from the last one taken and it is time for another, else None."""
        if not self._changed or now < self._next_report:
            return None
        self._changed = False
        tenants = self.report()
        # A long report is much work for the NVA, and tenants can make it change as often as they like.
        self._next_report = now + REPORT_PAUSE + len(tenants) / TENANTS_PER_SECOND
        return tenants

    def _describe(self, key: _Key, tenant: _Tenant) -> Tenant:
        if tenant.reported is None:
            ips = sorted(tenant.ips, key=lambda ip: (len(ip), ip))
            texts = tuple(str(ipaddress.ip_address(ip)) for ip in ips)
            tenant.reported = Tenant(vni=key[0], mac=key[1].hex(":"), ips=texts)
        return tenant.reported

    def next_deadline(self) -> float | None:
        """Return when :meth:`run_due` or :meth:`take_report` is needed next, or None."""
        times = [question.deadline if question.asked_twice else question.again for question in self._questions.values()]
        times += self._unconfirmed.values()
        if self._changed:
            times.append(self._next_report)
        return min(times, default=None)


def _can_be_a_tenants(ip: bytes) -> bool:
    """Return whether an address can be one tenant's in its whole network."""
    address = ipaddress.ip_address(ip)
    return not (
        address.is_unspecified
        or address.is_multicast
        or address.is_link_local
        or address.is_loopback
        or ip == b"\xff\xff\xff\xff"
    )

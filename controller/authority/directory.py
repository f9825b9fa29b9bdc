"""Where tenants are: mappings, static and learned, moves and conflicts (RFC 8014, section 4). Pure.

Each NVE reports all tenants it sees in VNIs whose mappings are learned. Who has an address follows one rule:

1. A static mapping, from the inventory or an operator, always has its addresses.
2. Else who has an address keeps it while its NVE reports it. When another NVE reports it too, the first is asked
   whether the tenant is still there. If it is, that is a conflict: the newcomer is refused and reported, until the
   first lets go. If it is not, or its NVE is not connected, the tenant has moved. After a restart of the NVA the
   NVEs of before are given time to come back, and asked then.
3. Else the newest claim has it.

An IP address belongs to one MAC address of a VNI, by the same rule: a tenant that claims another's IP address is mapped
without it, and that is reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from geneve.control.demand import Tenant
from geneve.control.state import Mapping

Address = tuple[int, str]
"""A VNI and a MAC address, or a VNI and an IP address."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A mapping is another one now, or gone (``mapping`` is None). ``came_from``: the NVE that had it, if another."""

    vni: int
    mac: str
    mapping: Mapping | None
    came_from: str | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask ``nve`` whether a tenant is still there, and give the answer to :meth:`Directory.confirmed`."""

    nve: str
    vni: int
    mac: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two claim one address; ``nve`` was refused."""

    nve: str
    text: str


Outcome = Changed | Ask | Conflict


@dataclass(slots=True)
class _Report:
    number: int = 0
    claims: dict[Address, tuple[str, ...]] = field(default_factory=dict)


class Directory:
    """All mappings of the NVA."""

    def __init__(self) -> None:
        self._static: dict[Address, Mapping] = {}
        self._learned: dict[Address, Mapping] = {}
        self._reports: dict[str, _Report] = {}
        self._ip_owner: dict[Address, str] = {}
        self._wanting_ip: dict[Address, set[str]] = {}
        self._wanted_ips: dict[Address, set[str]] = {}
        """The same by who wants them: it ends with what the tenant claims."""
        self._contested: set[tuple[str, Address]] = set()
        self._connected: set[str] = set()
        self._expected: set[str] = set()
        """Those that an earlier life knew and that have not come back yet: nobody takes what they have."""

    # What holds -----------------------------------------------------------------------------------------

    def get(self, vni: int, mac: str) -> Mapping | None:
        """Return the mapping in force for an address."""
        return self._static.get((vni, mac)) or self._learned.get((vni, mac))

    def all(self) -> list[Mapping]:
        """Return all mappings in force, by VNI and MAC address."""
        merged = {**self._learned, **self._static}
        return [merged[address] for address in sorted(merged)]

    def is_static(self, vni: int, mac: str) -> bool:
        """Whether an address has a static mapping."""
        return (vni, mac) in self._static

    # Changes --------------------------------------------------------------------------------------------

    def set_static(self, mapping: Mapping) -> list[Outcome]:
        """Set a static mapping; ValueError when one of its IP addresses belongs to another static mapping."""
        address = (mapping.vni, mapping.mac)
        for ip in mapping.ips:
            owner = self._ip_owner.get((mapping.vni, ip))
            if owner not in (None, mapping.mac) and (mapping.vni, owner) in self._static:
                raise ValueError(f"{ip} belongs to the static mapping of {owner} in VNI {mapping.vni}")
        before = self.get(*address)
        outcomes: list[Outcome] = []
        self._learned.pop(address, None)
        self._want(address, ())
        self._static[address] = mapping
        freed = self._release_ips(before, keep=mapping.ips)
        for ip in mapping.ips:
            owner = self._ip_owner.get((mapping.vni, ip))
            self._ip_owner[mapping.vni, ip] = mapping.mac
            if owner is not None and owner != mapping.mac:
                other = (mapping.vni, owner)
                outcomes += self._grant(other, self._learned[other].nve)  # all but the address that it loses
        if before != mapping:
            moved_from = None if before is None or before.nve == mapping.nve else before.nve
            outcomes.append(Changed(*address, mapping, moved_from))
        return outcomes + self._retry(freed)

    def remove(self, vni: int, mac: str) -> list[Outcome]:
        """Remove a mapping, static or learned; a claim that an NVE still makes takes its place."""
        address = (vni, mac)
        before = self._static.pop(address, None) or self._learned.pop(address, None)
        if before is None:
            return []
        freed = self._release_ips(before)
        outcomes = self._evaluate(address)
        if self.get(vni, mac) is None and not any(isinstance(item, Changed) for item in outcomes):
            outcomes.append(Changed(vni, mac, None, before.nve))
        return outcomes + self._retry(freed)

    def restore(self, mappings: Iterable[Mapping]) -> None:
        """Take over learned mappings of an earlier life; each holds until its NVE has reported anew."""
        for mapping in mappings:
            address = (mapping.vni, mapping.mac)
            if address in self._static:
                continue
            ips = tuple(ip for ip in mapping.ips if (mapping.vni, ip) not in self._ip_owner)
            self._learned[address] = mapping.model_copy(update={"ips": ips})
            self._ip_owner.update({(mapping.vni, ip): mapping.mac for ip in ips})
            self._reports.setdefault(mapping.nve, _Report()).claims[address] = mapping.ips
            self._expected.add(mapping.nve)

    def expect_no_longer(self) -> list[Outcome]:
        """Note that who has not come back since the earlier life is gone: who claims what it had may have it."""
        outcomes: list[Outcome] = []
        while self._expected:
            outcomes += self._evaluate_contested(self._expected.pop())
        return outcomes

    def report(self, nve: str, number: int, tenants: Iterable[Tenant]) -> list[Outcome]:
        """Take the report of all tenants that ``nve`` sees; one that is not newer than the last changes nothing."""
        report = self._reports.setdefault(nve, _Report())
        if number <= report.number:
            return []
        before = report.claims
        claims = {(tenant.vni, tenant.mac): tenant.ips for tenant in tenants}
        report.number, report.claims = number, claims
        outcomes: list[Outcome] = []
        for address in before.keys() - claims.keys():
            self._contested.discard((nve, address))
        # Those that left first: what they free may be claimed in the same report.
        for address in [*sorted(before.keys() - claims.keys()), *claims]:
            if before.get(address) != claims.get(address):
                outcomes += self._evaluate(address, newest=nve)
        return outcomes

    def connected(self, nve: str, *, fresh: bool) -> list[Outcome]:
        """Note that an NVE has registered; with ``fresh`` as a new process, whose reports count from the start.

        The same process says its last report again, which counts: others may have got what it claims meanwhile.
        """
        self._connected.add(nve)
        if nve in self._reports:
            report = self._reports[nve]
            report.number = 0 if fresh else max(0, report.number - 1)
        if nve not in self._expected:
            return []
        self._expected.discard(nve)
        return self._evaluate_contested(nve)

    def disconnected(self, nve: str) -> list[Outcome]:
        """Note that an NVE cannot be asked: who waits for its answer gets the addresses.

        Who was refused while it could be asked does not, unless it lets go and claims anew.
        """
        self._connected.discard(nve)
        return self._evaluate_contested(nve)

    def _evaluate_contested(self, nve: str) -> list[Outcome]:
        """Decide anew who has what ``nve`` has and others claim too."""
        held = [address for address, mapping in self._learned.items() if mapping.nve == nve]
        outcomes: list[Outcome] = []
        for address in held:
            if len(self._claimants(address)) > 1:
                outcomes += self._evaluate(address)
        return outcomes

    def confirmed(self, nve: str, vni: int, mac: str, present: bool) -> list[Outcome]:
        """Take an NVE's answer about a tenant."""
        address = (vni, mac)
        held = self._learned.get(address)
        if held is None or held.nve != nve:
            return []
        if not present:
            self._reports[nve].claims.pop(address, None)
            return self._evaluate(address)
        outcomes: list[Outcome] = []
        for other in self._claimants(address):
            if other != nve and (other, address) not in self._contested:
                self._contested.add((other, address))
                text = f"{mac} in VNI {vni} is claimed by '{other}' and alive behind '{nve}', which keeps it"
                outcomes.append(Conflict(other, text))
        return outcomes

    def forget(self, nve: str) -> list[Outcome]:
        """Drop all that ``nve`` claims: it was revoked."""
        self._connected.discard(nve)
        self._expected.discard(nve)
        self._contested = {entry for entry in self._contested if entry[0] != nve}
        report = self._reports.pop(nve, None)
        held = [address for address, mapping in self._learned.items() if mapping.nve == nve]
        outcomes: list[Outcome] = []
        for address in dict.fromkeys([*held, *(report.claims if report else ())]):
            outcomes += self._evaluate(address)
        return outcomes

    # The rule -------------------------------------------------------------------------------------------

    def _claimants(self, address: Address) -> list[str]:
        return sorted(nve for nve, report in self._reports.items() if address in report.claims)

    def _evaluate(self, address: Address, newest: str | None = None) -> list[Outcome]:
        """Decide who has an address now."""
        if address in self._static:
            return self._against_static(address, newest)
        held = self._learned.get(address)
        claimants = self._claimants(address)
        if held is not None and held.nve in claimants:
            others = [nve for nve in claimants if nve != held.nve and (nve, address) not in self._contested]
            if not others or newest == held.nve:
                return self._grant(address, held.nve)
            if held.nve in self._connected:
                return [Ask(held.nve, *address)]
            if held.nve in self._expected:
                return []  # it is asked as soon as it is back
            self._reports[held.nve].claims.pop(address)
            claimants = [nve for nve in claimants if nve != held.nve]
        if not claimants:
            return self._withdraw(address)
        winner = newest if newest in claimants else claimants[0]
        self._contested = {entry for entry in self._contested if entry[1] != address}
        return self._grant(address, winner)

    def _against_static(self, address: Address, newest: str | None) -> list[Outcome]:
        mapping = self._static[address]
        if newest is None or newest == mapping.nve or newest not in self._claimants(address):
            return []
        if (newest, address) in self._contested:
            return []
        self._contested.add((newest, address))
        vni, mac = address
        return [Conflict(newest, f"{mac} in VNI {vni} is claimed by '{newest}' and static behind '{mapping.nve}'")]

    def _grant(self, address: Address, nve: str) -> list[Outcome]:
        vni, mac = address
        held = self._learned.get(address)
        claimed = dict.fromkeys(self._reports[nve].claims[address])
        refused = {ip: owner for ip in claimed if (owner := self._ip_owner.get((vni, ip))) not in (None, mac)}
        ips = [ip for ip in claimed if ip not in refused]
        outcomes: list[Outcome] = [
            Conflict(nve, f"{ip} in VNI {vni} is claimed by {mac} and belongs to {refused[ip]}")
            for ip in self._want(address, refused)
        ]
        mapping = Mapping(vni=vni, mac=mac, ips=tuple(ips), nve=nve)
        if held == mapping:
            return outcomes
        freed = self._release_ips(held, keep=ips)
        self._learned[address] = mapping
        self._ip_owner.update({(vni, ip): mac for ip in ips})
        came_from = None if held is None or held.nve == nve else held.nve
        return [*outcomes, Changed(vni, mac, mapping, came_from), *self._retry(freed)]

    def _want(self, address: Address, ips: Iterable[str]) -> list[str]:
        """Note which IP addresses a tenant waits for, exactly these; returns those that are new."""
        vni, mac = address
        wanted, before = dict.fromkeys(ips), self._wanted_ips.pop(address, set())
        for ip in before - wanted.keys():
            waiting = self._wanting_ip.get((vni, ip), set())
            waiting.discard(mac)
            if not waiting:
                self._wanting_ip.pop((vni, ip), None)
        for ip in wanted:
            self._wanting_ip.setdefault((vni, ip), set()).add(mac)
        if wanted:
            self._wanted_ips[address] = set(wanted)
        return [ip for ip in wanted if ip not in before]

    def _withdraw(self, address: Address) -> list[Outcome]:
        self._want(address, ())
        held = self._learned.pop(address, None)
        if held is None:
            return []
        freed = self._release_ips(held)
        return [Changed(*address, None, held.nve), *self._retry(freed)]

    def _release_ips(self, mapping: Mapping | None, keep: Iterable[str] = ()) -> list[Address]:
        """Free the IP addresses of a mapping but those to keep; returns the freed."""
        if mapping is None:
            return []
        kept = set(keep)
        freed = [(mapping.vni, ip) for ip in dict.fromkeys(mapping.ips) if ip not in kept]
        freed = [entry for entry in freed if self._ip_owner.get(entry) == mapping.mac]
        for entry in freed:
            del self._ip_owner[entry]
        return freed

    def _retry(self, freed: Iterable[Address]) -> list[Outcome]:
        """Let whoever was refused a freed IP address have it."""
        outcomes: list[Outcome] = []
        for vni, ip in freed:
            for mac in sorted(self._wanting_ip.pop((vni, ip), ())):
                self._wanted_ips.get((vni, mac), set()).discard(ip)
                held = self._learned.get((vni, mac))
                if held is not None and (vni, mac) in self._reports.get(held.nve, _Report()).claims:
                    outcomes += self._grant((vni, mac), held.nve)
        return outcomes

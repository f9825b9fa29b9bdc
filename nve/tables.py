"""What an NVE knows of its virtual networks, in the form its forwarding needs (RFC 8014, section 4)."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field

from geneve.control.state import Mapping, MulticastGroup, NodeState, VniState
from geneve.errors import ConfigError
from geneve.inner import InnerFrame
from geneve.option import Option
from geneve.tags import TAG_CLASS, TAG_TYPE
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_TYPE

_ADDRESSES = 16384
"""Texts of addresses whose bytes are remembered: a state that changes one mapping names all the others again."""
_UNSPECIFIED = frozenset({bytes(4), bytes(16)})


@functools.lru_cache(maxsize=_ADDRESSES)
def mac_bytes(text: str) -> bytes:
    """Return the 6 bytes of a MAC address written with colons."""
    return bytes.fromhex(text.replace(":", ""))


@functools.lru_cache(maxsize=_ADDRESSES)
def _packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


@dataclass(frozen=True, slots=True)
class Peer:
    """Another NVE of a virtual network: name, outer address as text, transit devices on the path to it."""

    name: str
    address: str
    transit: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A multicast group of the underlay; ``inner`` are the inner addresses it is for, none meaning all others."""

    name: str
    address: str
    inner: frozenset[bytes]
    senders: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Parts:
    """What one virtual network's tables are made of."""

    vni: VniState
    peers: tuple[Peer, ...]
    mappings: tuple[Mapping, ...]


@dataclass(slots=True)
class VirtualNetwork:
    """One VNI at this NVE: where its MAC and IP addresses are, and which NVEs it spans."""

    vni: int
    mtu: int
    telemetry: bool
    tags: bool = False
    static_options: tuple[bytes, ...] = ()
    kinds: frozenset[tuple[int, int]] = frozenset()
    """Class and type of the options that its packets carry."""
    peers: dict[str, Peer] = field(default_factory=dict)
    location: dict[bytes, str] = field(default_factory=dict)
    """MAC -> name of the NVE behind which it is, this one included."""
    tag_of: dict[bytes, int] = field(default_factory=dict)
    """MAC -> security group."""
    neighbours: dict[bytes, tuple[bytes, str]] = field(default_factory=dict)
    """IP -> (MAC, name of the NVE)."""
    groups: tuple[Group, ...] = ()
    learned: bool = False
    """Whether NVEs tell the NVA which tenants they see here."""
    made_of: _Parts | None = None
    """What of the node's state the tables were made of."""
    _free_ip: set[bytes] = field(default_factory=set)
    """MACs whose mapping names no IP addresses, so that none can be checked."""

    def authorises(self, nve: str, inner: InnerFrame) -> bool:
        """Return whether ``nve`` may send a frame that claims what ``inner`` claims (design invariant 9).

        A frame that could not be read to the end may claim anything, and is not authorised.
        """
        return inner.readable and all(self.owns(nve, mac, ip) for mac, ip in inner.claims)

    def owns(self, nve: str, source_mac: bytes, source_ip: bytes) -> bool:
        """Return whether these addresses are behind ``nve``.

        The MAC must be mapped to the NVE, and so must the IP address if the frame has one. The
        unspecified address and IPv6 link-local addresses carry no claim about a location.
        """
        if self.location.get(source_mac) != nve:
            return False
        if not source_ip or source_ip in _UNSPECIFIED or source_mac in self._free_ip:
            return True
        if len(source_ip) == 16 and source_ip[0] == 0xFE and source_ip[1] & 0xC0 == 0x80:
            return True
        known = self.neighbours.get(source_ip)
        return known is not None and known[1] == nve

    def group_for(self, inner: InnerFrame) -> Group | None:
        """Return the underlay group for a frame that goes to many: the one for its inner address, or the default."""
        default = None
        for group in self.groups:
            if inner.destination_ip in group.inner:
                return group
            if not group.inner:
                default = group
        return default

    def add_mapping(self, mapping: Mapping, own_nve: str) -> None:
        """Note where a tenant's addresses are; ConfigError on a name that leads nowhere or a second place."""
        if mapping.nve != own_nve and mapping.nve not in self.peers:
            raise ConfigError(f"mapping of {mapping.mac} in VNI {self.vni} names the unknown NVE {mapping.nve!r}.")
        mac = mac_bytes(mapping.mac)
        if mac in self.location:
            raise ConfigError(f"VNI {self.vni} maps {mapping.mac} twice.")
        self.location[mac] = mapping.nve
        self.tag_of[mac] = mapping.tag
        if not mapping.ips and not self.learned:
            self._free_ip.add(mac)  # a learned one without addresses has none yet, or claimed somebody else's
        for ip in mapping.ips:
            packed = _packed(ip)
            if packed in self.neighbours:
                raise ConfigError(f"VNI {self.vni} maps {ip} twice.")
            self.neighbours[packed] = (mac, mapping.nve)


def build_tables(state: NodeState, previous: dict[int, VirtualNetwork] | None = None) -> dict[int, VirtualNetwork]:
    """Build the tables of every VNI in ``state``; ConfigError on a name that leads nowhere.

    A virtual network of which nothing has changed is taken over from ``previous``, the tables of the node's
    state before: states come often, and most of them change little.
    """
    peers: dict[int, list[Peer]] = {vni.vni: [] for vni in state.vnis}
    mappings: dict[int, list[Mapping]] = {vni.vni: [] for vni in state.vnis}
    for nve in state.nves:
        if nve.name == state.node:
            continue
        peer = Peer(nve.name, nve.address, nve.transit)
        for number in nve.vnis:
            if number in peers:
                peers[number].append(peer)
    for mapping in state.mappings:
        if mapping.vni not in mappings:
            raise ConfigError(f"mapping of {mapping.mac} names VNI {mapping.vni}, which this node does not have.")
        mappings[mapping.vni].append(mapping)
    networks: dict[int, VirtualNetwork] = {}
    for vni in state.vnis:
        parts = _Parts(vni, tuple(peers[vni.vni]), tuple(mappings[vni.vni]))
        known = previous.get(vni.vni) if previous is not None else None
        unchanged = known is not None and known.made_of == parts
        networks[vni.vni] = known if known is not None and unchanged else _build(parts, state.node)
    return networks


def _build(parts: _Parts, own_nve: str) -> VirtualNetwork:
    network = _make_network(parts.vni)
    network.made_of = parts
    network.peers = {peer.name: peer for peer in parts.peers}
    for mapping in parts.mappings:
        network.add_mapping(mapping, own_nve)
    return network


def _make_network(vni: VniState) -> VirtualNetwork:
    options = [Option(item.option_class, item.type, bytes.fromhex(item.data)) for item in vni.options]
    kinds = {(option.option_class, option.type) for option in options}
    if len(kinds) != len(options):
        raise ConfigError(f"VNI {vni.vni} names an option twice in 'options'.")
    if vni.telemetry:
        kinds.add((TELEMETRY_CLASS, TELEMETRY_TYPE))
    if vni.tags:
        kinds.add((TAG_CLASS, TAG_TYPE))
    return VirtualNetwork(
        vni=vni.vni,
        mtu=vni.mtu,
        telemetry=vni.telemetry,
        tags=vni.tags,
        static_options=tuple(option.build() for option in options),
        kinds=frozenset(kinds),
        learned=vni.learned,
        groups=_make_groups(vni.vni, vni.multicast),
    )


def _make_groups(vni: int, groups: Iterable[MulticastGroup]) -> tuple[Group, ...]:
    made = tuple(
        Group(
            group.name,
            group.address,
            frozenset(ipaddress.ip_address(text).packed for text in group.inner),
            frozenset(group.senders),
        )
        for group in groups
    )
    if len({group.name for group in made}) != len(made) or sum(not group.inner for group in made) > 1:
        raise ConfigError(f"VNI {vni} gives two multicast groups one name, or has two default groups.")
    return made

"""What an NVE knows of its virtual networks, in the form its forwarding needs (RFC 8014, section 4)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from geneve.control.state import NodeState
from geneve.errors import ConfigError
from geneve.inner import InnerFrame

_UNSPECIFIED = frozenset({bytes(4), bytes(16)})


def mac_bytes(text: str) -> bytes:
    """Return the 6 bytes of a MAC address written with colons."""
    return bytes.fromhex(text.replace(":", ""))


@dataclass(frozen=True, slots=True)
class Peer:
    """Another NVE of a virtual network: name, outer address as text, transit devices on the path to it."""

    name: str
    address: str
    transit: tuple[str, ...]


@dataclass(slots=True)
class VirtualNetwork:
    """One VNI at this NVE: where its MAC and IP addresses are, and which NVEs it spans."""

    vni: int
    mtu: int
    telemetry: bool
    peers: dict[str, Peer] = field(default_factory=dict)
    location: dict[bytes, str] = field(default_factory=dict)
    """MAC -> name of the NVE behind which it is, this one included."""
    neighbours: dict[bytes, tuple[bytes, str]] = field(default_factory=dict)
    """IP -> (MAC, name of the NVE)."""
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


def build_tables(state: NodeState) -> dict[int, VirtualNetwork]:
    """Build the tables of every VNI in ``state``; ConfigError on a name that leads nowhere."""
    networks = {vni.vni: VirtualNetwork(vni=vni.vni, mtu=vni.mtu, telemetry=vni.telemetry) for vni in state.vnis}
    for nve in state.nves:
        for number in nve.vnis:
            if number in networks and nve.name != state.node:
                networks[number].peers[nve.name] = Peer(nve.name, nve.address, nve.transit)
    for mapping in state.mappings:
        network = networks.get(mapping.vni)
        if network is None:
            raise ConfigError(f"mapping of {mapping.mac} names VNI {mapping.vni}, which this node does not have.")
        if mapping.nve != state.node and mapping.nve not in network.peers:
            raise ConfigError(f"mapping of {mapping.mac} in VNI {mapping.vni} names the unknown NVE {mapping.nve!r}.")
        mac = mac_bytes(mapping.mac)
        if mac in network.location:
            raise ConfigError(f"VNI {mapping.vni} maps {mapping.mac} twice.")
        network.location[mac] = mapping.nve
        if not mapping.ips:
            network._free_ip.add(mac)
        for ip in mapping.ips:
            packed = ipaddress.ip_address(ip).packed
            if packed in network.neighbours:
                raise ConfigError(f"VNI {mapping.vni} maps {ip} twice.")
            network.neighbours[packed] = (mac, mapping.nve)
    return networks

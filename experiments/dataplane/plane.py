"""The data plane under test with everything that it is given: the only place here that knows how it is called.

One NVE, ``hub``, with as many peers as wanted and one association with each in each direction; the peers' own sealers
make the packets to it. All frames are UDP over IPv4.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from geneve.control.names import IpPrefix
from geneve.control.profile import Coverage, InnerCoverage, KeyGranularity, OptionSelector, Profile
from geneve.control.rules import Action, Endpoint, Rule
from geneve.control.state import (
    Association,
    AssociationRole,
    Mapping,
    NodeState,
    NveAddress,
    Role,
    StaticOption,
    VniState,
)
from geneve.drops import DropReason
from geneve.header import BaseHeader, HeaderField
from geneve.inner import parse_inner
from geneve.option import Option
from geneve.packet import make_packet
from geneve.security.association import OutboundAssociation
from geneve.security.seal import Item, PacketSealer
from nve.datagrams import Received
from nve.dataplane import Dataplane

VNI = 100
HUB = "hub"
FRAME_SIZE = 128
"""Bytes of a frame: small where what is measured is the work for a packet and not for its bytes."""
MTU = 9000
"""Of the tenants, in bytes: room for the largest frames that are timed."""
BATCH = 64
"""Frames or datagrams in one call, as the daemon takes them from the kernel."""
MAX_AUDIENCES = 7
"""More security options, of 32 bytes each, do not fit into the 252 bytes that a packet has for options."""
FLOWS_PER_PORT = 50_000

_FIRST_PORT, _FIRST_DESTINATION = 10_000, 5000
_PROFILE = "scale"
_HUB_MAC, _HUB_IP = bytes.fromhex("020000000001"), bytes([10, 0, 0, 1])
_HUB_ADDRESS = "192.168.0.1"
_OPTION = Option(0x0102, 0x11, bytes(4))
"""What the transit devices authenticate: there is no security option for one without anything to look at."""
_TRANSIT = Coverage(
    header=frozenset({HeaderField.VNI, HeaderField.PROTOCOL_TYPE}),
    options=(OptionSelector(option_class=_OPTION.option_class, type=_OPTION.type),),
    authenticate_inner=InnerCoverage.NONE,
    encrypt_inner=InnerCoverage.NONE,
)


@dataclass(frozen=True, slots=True)
class Shape:
    """How large everything is: peers with an association each, policy rules, audiences of a packet (0: in clear).

    With ``option`` packets carry an option of 8 bytes, which each transit device authenticates. ``headers_only``: of
    the inner frame only the headers are protected.
    """

    peers: int = 1
    rules: int = 1
    audiences: int = 1
    option: bool = False
    flow_keys: bool = False
    frame_size: int = FRAME_SIZE
    headers_only: bool = False


class Plane:
    """The data plane of ``hub`` in one direction, and what it is to be given."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._profile = _profile(shape)
        self._dataplane = Dataplane(HUB, bytes(32))

    def seals(self) -> None:
        """Give it what it needs to send."""
        held = [
            self._association(number, role, audience)
            for number in range(self.shape.peers)
            for role, audience in self._audiences(number)
        ]
        self._dataplane.apply(self._state(outbound=tuple(held)))

    def opens(self) -> None:
        """Give it what it needs to receive."""
        egress = AssociationRole.EGRESS
        held = [self._association(number, egress, HUB) for number in range(self.shape.peers if self._secured else 0)]
        self._dataplane.apply(self._state(inbound=tuple(held)))

    def send(self, frames: Sequence[bytes]) -> int:
        """Send frames of the hub's tenant; return how many datagrams that gives."""
        result = self._dataplane.from_tenants(VNI, frames, 0.0)
        return sum(datagram.count for datagram in result.datagrams)

    def receive(self, packets: Sequence[Received]) -> int:
        """Receive datagrams; return how many frames that gives."""
        return len(self._dataplane.from_underlay(packets, time.monotonic()))

    def drops(self) -> Counter[DropReason]:
        """Return why packets were dropped so far."""
        return self._dataplane.drops

    @property
    def _secured(self) -> bool:
        return self.shape.audiences > 0

    def _audiences(self, peer: int) -> Iterator[tuple[AssociationRole, str]]:
        if self._secured:
            yield AssociationRole.EGRESS, _name(peer)
        if not peer:
            for device in self._devices():
                yield AssociationRole.TRANSIT, device

    def _devices(self) -> tuple[str, ...]:
        return tuple(f"t{number}" for number in range(1, self.shape.audiences))

    def _association(self, peer: int, role: AssociationRole, audience: str) -> Association:
        inbound = audience == HUB
        secret = hashlib.sha256(f"{peer} {role.value} {audience}".encode()).digest()
        spi = 0x1_0000 + peer if role is AssociationRole.EGRESS else 0x100_0000 + int(audience[1:])
        return Association.model_validate({
            "spi": spi, "role": role, "sender": _name(peer) if inbound else HUB, "audience": audience, "vni": VNI,
            "sender_address": peer_address(peer) if inbound else _HUB_ADDRESS, "profile": _PROFILE,
            "secret": base64.b64encode(secret).decode(),
        })  # fmt: skip

    def _state(
        self, outbound: tuple[Association, ...] = (), inbound: tuple[Association, ...] = ()
    ) -> NodeState:
        peers = range(self.shape.peers)
        static = StaticOption(option_class=_OPTION.option_class, type=_OPTION.type, data=_OPTION.data.hex())
        options = (static,) if self.shape.option else ()
        mappings = [Mapping(vni=VNI, mac=_mac_text(_HUB_MAC), ips=(_ip_text(_HUB_IP),), nve=HUB)]
        mappings += [
            Mapping(vni=VNI, mac=_mac_text(_tenant_mac(peer)), ips=(_ip_text(_tenant_ip(peer)),), nve=_name(peer))
            for peer in peers
        ]
        return NodeState(
            node=HUB, role=Role.NVE, vnis=(VniState(vni=VNI, mtu=MTU, options=options),),
            nves=tuple(
                NveAddress(name=_name(peer), address=peer_address(peer), vnis=(VNI,), transit=self._devices())
                for peer in peers
            ),
            mappings=tuple(mappings), profiles=(self._profile,), policy=tuple(_rules(self.shape)),
            outbound=outbound, inbound=inbound,
        )  # fmt: skip

    def sealer(self, peer: int) -> PacketSealer:
        """Return the sealer of a peer for packets to the hub."""
        held = self._association(peer, AssociationRole.EGRESS, HUB)
        return PacketSealer(VNI, OutboundAssociation(held, self._profile), self._peer_transit(peer), largest=MTU)

    def _peer_transit(self, peer: int) -> list[OutboundAssociation]:
        found = []
        for device in self._devices():
            held = self._association(peer, AssociationRole.TRANSIT, device)
            update = {"sender": _name(peer), "sender_address": peer_address(peer)}
            found.append(OutboundAssociation(held.model_copy(update=update), self._profile))
        return found


class Peers:
    """The other ends: they make packets for the hub."""

    def __init__(self, plane: Plane) -> None:
        self._frame_size = plane.shape.frame_size
        self._clear = not plane.shape.audiences
        self._options = (_OPTION,) if plane.shape.option else ()
        self._sealers = [plane.sealer(peer) for peer in range(0 if self._clear else plane.shape.peers)]
        self._sources = [ipaddress.ip_address(peer_address(peer)).packed for peer in range(plane.shape.peers)]

    def packet(self, peer: int, flow: int) -> Received:
        """Return a packet of a flow from a peer's tenant to the hub's."""
        frame = frame_from(peer, flow, self._frame_size)
        if self._clear:
            return Received(make_packet(BaseHeader(vni=VNI), self._options, frame).build(), self._sources[peer])
        options = [option.build() for option in self._options]
        (packet,) = self._sealers[peer].seal([Item(frame, options, parse_inner(frame))])
        return Received(packet, self._sources[peer])


def _profile(shape: Shape) -> Profile:
    granularity = KeyGranularity.FLOW if shape.flow_keys else KeyGranularity.VNI
    transit = _TRANSIT if shape.audiences > 1 else None
    inner = InnerCoverage.HEADERS if shape.headers_only else InnerCoverage.ALL
    egress = Coverage(authenticate_inner=inner, encrypt_inner=inner)
    return Profile(name=_PROFILE, key_granularity=granularity, egress=egress, transit=transit)


def _rules(shape: Shape) -> Iterator[Rule]:
    """Yield rules of which the last decides; all others look at the address and the port, so flows differ for them."""
    for number in range(shape.rules - 1):
        prefix: IpPrefix = f"172.16.{number // 250}.{number % 250}/32"
        source = Endpoint(ip=prefix, port=1 + number)
        yield Rule(vni=VNI, protocol=17, source=source, action=Action.DISCARD)
    if shape.audiences:
        yield Rule(vni=VNI, action=Action.SECURE, profile=_PROFILE)
    else:
        yield Rule(vni=VNI, action=Action.BYPASS)


def _name(peer: int) -> str:
    return f"p{peer}"


def peer_address(peer: int) -> str:
    """Return the underlay address of a peer."""
    return f"192.168.{1 + peer // 250}.{1 + peer % 250}"


def _tenant_mac(peer: int) -> bytes:
    return b"\x02\x01" + peer.to_bytes(4, "big")


def _tenant_ip(peer: int) -> bytes:
    return bytes([10, 1 + peer // 62_500, 1 + peer // 250 % 250, 1 + peer % 250])


def _mac_text(mac: bytes) -> str:
    return mac.hex(":")


def _ip_text(ip: bytes) -> str:
    return str(ipaddress.ip_address(ip))


def frame_to(peer: int, flow: int, size: int = FRAME_SIZE) -> bytes:
    """Return a frame from the hub's tenant to that of a peer."""
    return _frame(_tenant_mac(peer), _HUB_MAC, _HUB_IP, _tenant_ip(peer), flow, size)


def frame_from(peer: int, flow: int, size: int = FRAME_SIZE) -> bytes:
    """Return a frame from a peer's tenant to that of the hub."""
    return _frame(_HUB_MAC, _tenant_mac(peer), _tenant_ip(peer), _HUB_IP, flow, size)


def packets_like(packet: Received, payloads: Sequence[bytes]) -> list[Received]:
    """Return packets with other contents that come from where ``packet`` came from."""
    return [Received(payload, packet.source) for payload in payloads]


def _frame(
    destination: bytes, source: bytes, source_ip: bytes, destination_ip: bytes, flow: int, size: int
) -> bytes:
    above, within = divmod(flow, FLOWS_PER_PORT)
    ports = struct.pack("!HHHH", _FIRST_PORT + within, _FIRST_DESTINATION + above, size - 34, 0)
    head = struct.pack("!BBHHHBBH", 0x45, 0, size - 14, 0, 0x4000, 64, 17, 0)
    packet = b"".join((destination, source, b"\x08\x00", head, source_ip, destination_ip, ports))
    return packet + bytes(size - len(packet))

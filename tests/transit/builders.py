"""What the transit tests share: sealed frames on the underlay, and a device's state."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from geneve.control.profile import Profile
from geneve.control.state import NodeState, Role, TransitVni
from geneve.header import BaseHeader
from geneve.outer import build_datagram, build_frame, internet_checksum, locate
from geneve.security.association import OutboundAssociation
from geneve.security.seal import Item, PacketSealer
from geneve.telemetry import build_telemetry
from geneve.vnet import GSO_UDP, NEEDS_CHECKSUM, VnetHeader
from tests.support import FULL, association, transit_association, udp_frame

SOURCE, DESTINATION = "192.168.1.1", "192.168.1.2"
MAC_A, MAC_B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
NOW_NS = 1_700_000_000_000_000_000


def underlay_frame(packet: bytes, source: str = SOURCE, tags: Sequence[tuple[int, int]] = ()) -> bytes:
    destination = DESTINATION if "." in source else "fd00:6081::2"
    return build_frame(MAC_A, MAC_B, build_datagram(source, destination, 50000, packet), tags=tags)


def super_frame(
    packets: Sequence[bytes], source: str = SOURCE, tags: Sequence[tuple[int, int]] = (), identification: int = 0
) -> tuple[bytes, VnetHeader]:
    """A datagram that stands for ``packets``, all of one size but the last, as the kernel hands it on."""
    frame = bytearray(underlay_frame(b"".join(packets), source, tags))
    network, transport, end = locate(bytes(frame))
    if "." in source:
        frame[network + 4 : network + 6] = identification.to_bytes(2, "big")
        frame[network + 10 : network + 12] = bytes(2)
        frame[network + 10 : network + 12] = internet_checksum(bytes(frame[network:transport])).to_bytes(2, "big")
        addresses = frame[network + 12 : network + 20]
    else:
        addresses = frame[network + 8 : network + 40]
    pseudo = bytes(addresses) + struct.pack("!IHH", end - transport, 0, 17)
    frame[transport + 6 : transport + 8] = (0xFFFF - internet_checksum(pseudo)).to_bytes(2, "big")
    header = VnetHeader(NEEDS_CHECKSUM, GSO_UDP, transport + 8, len(packets[0]), transport, 6)
    return bytes(frame), header


def make_sealer(devices: Sequence[str] = ("t1",), vni: int = 100, profile: Profile = FULL) -> PacketSealer:
    egress = OutboundAssociation(association(vni=vni), profile)
    ends = [OutboundAssociation(transit_association("nve1", device, vni), profile) for device in devices]
    return PacketSealer(vni, egress, ends)


def sealed(sealer: PacketSealer, flow: int = 7, sequence: int = 1, extra: Sequence[bytes] = ()) -> bytes:
    return seal(sealer, build_telemetry(flow, sequence), *extra)


def seal(sealer: PacketSealer, *options: bytes) -> bytes:
    return sealer.seal([Item(udp_frame(), options)])[0]


def plain(vni: int = 100, options: bytes = b"", **fields: Any) -> bytes:
    return BaseHeader(vni=vni, opt_len=len(options), **fields).build() + options + udp_frame()


def device_state(
    name: str = "t1",
    vnis: Sequence[TransitVni] = (TransitVni(vni=100, telemetry=True),),
    keys_for: Sequence[int] = (100,),
    profile: Profile = FULL,
) -> NodeState:
    return NodeState(
        node=name,
        role=Role.TRANSIT,
        profiles=(profile,),
        inbound=tuple(transit_association("nve1", name, vni) for vni in keys_for),
        transit_vnis=tuple(vnis),
    )

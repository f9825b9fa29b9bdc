"""The attackers' program: ``python -m experiments.attacker``, one JSON command a line, one answer a line.

``on-path`` takes the place of the bridge between two ports and relays every frame, reading, changing,
repeating or copying what a command tells it to; ``off-path`` only sends. It refuses to run outside the
sandbox, so no attack can leave it.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scapy.utils import RawPcapWriter

from experiments import channel_frames
from experiments.attack_frames import (
    Addresses,
    Target,
    flipped,
    forged,
    forged_packet,
    made_up_security,
    modified,
    moved_to_vni,
    observed_security,
    with_added_telemetry,
    with_forged_telemetry,
    with_other_port,
)
from experiments.attacks_analysis import ADD_TELEMETRY, TELEMETRY_ATTACKS
from experiments.channel_forgeries import CONTROL_RECORDS, forged_control, forged_data
from experiments.channel_frames import CHANGES, altered, redirected
from experiments.traffic import build_message
from experiments.view import Carrier, View
from geneve.packet import Packet
from geneve.telemetry import Telemetry
from topologies import sandbox
from transit.relay import Relay

Send = Callable[[int, bytes], bool]
"""Sends a frame out of the port with that index; False when the kernel refused it."""

MAX_CAPTURED = 20_000
"""Frames that the on-path attacker writes to her capture at most."""
_POLL_SECONDS = 0.005


class OnPath:
    """What the on-path attacker does with each frame. ``limit`` targets are attacked, then none."""

    def __init__(self, send: Send, capture: Path | None = None) -> None:
        self._send = send
        self._order: dict[str, Any] | None = None
        self._target: Target | None = None
        self._events: list[dict[str, Any]] = []
        self._held: list[tuple[int, bytes]] = []
        self._seen = 0
        self._security: tuple[int, int] | None = None
        self._capture = RawPcapWriter(str(capture), linktype=1, sync=True) if capture else None
        self._captured = 0

    def command(self, order: dict[str, Any]) -> dict[str, Any]:
        """Begin an attack, say how far it is, send again what was recorded, or end it."""
        kind = order["do"]
        if kind == "begin":
            self._order, self._target = order, Target(**order["target"])
            self._events, self._held, self._seen, self._security = [], [], 0, None
        elif kind == "release":
            self._release()
        elif kind == "end":
            answer = self._state()
            self._order = self._target = None
            return answer
        elif kind != "status":
            raise ValueError(f"unknown command {kind!r}")
        return self._state()

    def _state(self) -> dict[str, Any]:
        return {"seen": self._seen, "events": self._events, "security": self._security}

    def transform(self, frame: bytes, ingress: int) -> list[bytes]:
        """Return what leaves on the other side in place of ``frame``."""
        if self._order is None or self._target is None or self._seen >= self._order["limit"]:
            return [frame]
        read = self._target.find(frame)
        if read is None:
            return [frame]
        self._seen += 1
        if self._order["attack"] == "redirect":
            self._events.append({"redirected_bytes": len(frame)})
            return [frame, redirected(frame, read, self._order["destination"], self._order["mac"])]
        if read.channel or read.packet is None:
            return self._attack_channel(self._order, frame, read, ingress)
        self._security = observed_security(read.packet) or self._security
        return self._attack(self._order, frame, read.packet, ingress)

    def _attack_channel(self, order: dict[str, Any], frame: bytes, read: View, ingress: int) -> list[bytes]:
        """Do to a channel's packet what :meth:`_attack` does to Geneve's own, blindly where it cannot be read."""
        if read.spi is not None and read.sequence is not None:
            self._security = (read.spi, read.sequence)
        if order["attack"] in CHANGES:
            changed = altered(frame, read, order)
            self._events.append({"altered_bytes": len(frame), "readable": not read.opaque})
            return [changed, frame] if order.get("keep") else [changed]
        if order["attack"] in TELEMETRY_ATTACKS:
            false = self._false_telemetry(order)
            if order["attack"] == ADD_TELEMETRY:
                target = order["target"]
                return [channel_frames.with_added_telemetry(frame, read, target["vni"], target["size"], false)]
            return [channel_frames.with_forged_telemetry(frame, read, false)]
        return self._passive(order["attack"], frame, ingress)

    def _false_telemetry(self, order: dict[str, Any]) -> Telemetry:
        """Note and return the contents of the next false record."""
        false = Telemetry(order["flow"], order["first_sequence"] + self._seen)
        self._events.append({"flow": false.flow, "sequence": false.sequence})
        return false

    def _passive(self, attack: str, frame: bytes, ingress: int) -> list[bytes]:
        if attack == "sniff":
            self._record(frame)
        elif attack in ("hold", "replay"):
            self._held.append((1 - ingress, frame))
            return [] if attack == "hold" else [frame]
        elif attack != "observe":
            raise ValueError(f"unknown attack {attack!r}")
        return [frame]

    def _attack(self, order: dict[str, Any], frame: bytes, packet: Packet, ingress: int) -> list[bytes]:
        attack = order["attack"]
        if attack == "flip":
            changed = flipped(frame, packet, order["part"], order["offset"], order["mask"])
            self._events.append({"flipped_bytes": len(frame)})
            return [changed, frame] if order.get("keep") else [changed]
        if attack == "other_port":
            self._events.append({"altered_bytes": len(frame)})
            return [with_other_port(frame, packet)]
        if attack == "modify":
            self._events.append({"altered_bytes": len(frame)})
            return [modified(frame, packet)]
        if attack == "cross_vni":
            self._events.append({"vni": order["vni"]})
            # In place of the original: a copy behind it would be refused as a replay already.
            return [moved_to_vni(frame, packet, order["vni"])]
        if attack in TELEMETRY_ATTACKS:
            false = self._false_telemetry(order)
            forge = with_added_telemetry if attack == ADD_TELEMETRY else with_forged_telemetry
            return [forge(frame, packet, false)]
        return self._passive(attack, frame, ingress)

    def _record(self, frame: bytes) -> None:
        if self._capture is not None and self._captured < MAX_CAPTURED:
            self._capture.write(frame)
            self._captured += 1
            self._events.append({"captured_bytes": len(frame)})

    def _release(self) -> None:
        for port, frame in self._held:
            if self._send(port, frame):
                self._events.append({"replayed_bytes": len(frame)})
        self._held = []


def forge(order: dict[str, Any], own_mac: str) -> tuple[list[bytes], list[dict[str, Any]]]:
    """Return the frames of one ``inject`` command, and what is to be logged of each."""
    addresses = Addresses.from_dict({"outer_source_mac": own_mac, **order["addresses"]})
    frames, events = [], []
    for index in range(order["count"]):
        if order["variant"] in CONTROL_RECORDS:
            frames.append(forged_control(addresses, order["variant"], order["sequence"] + index))
            events.append({"variant": order["variant"]})
            continue
        payload = build_message(order["label"], order["trial"], index, order["size"])
        frames.append(_forged_message(order, addresses, index, payload))
        events.append({"payload": payload.hex(), "variant": order["variant"]})
    return frames, events


def _forged_message(order: dict[str, Any], addresses: Addresses, index: int, payload: bytes) -> bytes:
    """Return one frame that is to bring ``payload`` to a tenant; ``spis`` are tried in turn."""
    vni = order["vni"]
    if order["variant"] == "plain":
        return forged(addresses, vni, payload)
    spi, sequence = order["spis"][index % len(order["spis"])], order["sequence"] + index
    carrier = Carrier(order["carrier"])
    if carrier is Carrier.GENEVE:
        return forged(addresses, vni, payload, (made_up_security(spi, sequence),))
    packet = forged_packet(addresses, vni, payload)
    return forged_data(addresses, carrier, spi, sequence, packet, order["encrypts"])


class Commands:
    """Commands from standard input, taken between two looks at the network."""

    def __init__(self, handle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._handle = handle
        self._buffer = b""
        self._ended = False

    def poll(self) -> bool:
        """Carry out the commands that are there; True once standard input has ended."""
        while not self._ended and select.select([sys.stdin], [], [], 0)[0]:
            chunk = os.read(sys.stdin.fileno(), 1 << 16)
            self._ended = not chunk
            self._buffer += chunk
            while b"\n" in self._buffer:
                line, self._buffer = self._buffer.split(b"\n", 1)
                _say(self._handle(json.loads(line)))
        return self._ended


def run_on_path(interfaces: tuple[str, str], capture: Path | None) -> None:
    """Relay between two interfaces and serve commands until standard input ends."""
    attacker = OnPath(lambda port, frame: relay.ports[port].send(frame), capture)
    relay = Relay(interfaces, attacker.transform)
    _say({"ready": True})
    try:
        relay.run(Commands(attacker.command).poll, _POLL_SECONDS)
    finally:
        relay.close()


def run_off_path(interface: str) -> None:
    """Serve ``inject`` commands until standard input ends."""
    endpoint = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    endpoint.bind((interface, 0))
    own_mac = ":".join(f"{byte:02x}" for byte in endpoint.getsockname()[4])
    _say({"ready": True})
    for line in sys.stdin:
        frames, events = forge(json.loads(line), own_mac)
        for frame in frames:
            endpoint.send(frame)
        _say({"events": events})


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="experiments.attacker", description="Attackers of the underlay.")
    parser.add_argument("role", choices=("on-path", "off-path"))
    parser.add_argument("interfaces", nargs="+", help="two for on-path, one for off-path")
    parser.add_argument("--capture", type=Path, help="pcap file of what the on-path attacker sniffs")
    options = parser.parse_args(arguments)
    if len(options.interfaces) != (2 if options.role == "on-path" else 1):
        parser.error("on-path needs two interfaces, off-path one")
    if not sandbox.within():
        print("experiments.attacker: refused: attacks run in the testbed's sandbox only.", file=sys.stderr)
        return 2
    if options.role == "off-path":
        run_off_path(options.interfaces[0])
    else:
        run_on_path((options.interfaces[0], options.interfaces[1]), options.capture)
    return 0


if __name__ == "__main__":
    sys.exit(main())

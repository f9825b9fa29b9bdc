"""Runs in the namespace of an end whose charon was ended: our ESP takes its place, with its SPIs and keys.

Reads one JSON document with them on standard input; prints one of what was answered to what.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from typing import Any

from geneve.control.channel import ESP_UDP_PORT
from geneve.outer import internet_checksum
from nve.ipsec.esp import NEXT_IPV4, Esp, GcmEsp, NullEsp
from nve.ipsec.keys import SaKeys

SECONDS = 10.0
"""How long an answer is waited for that has to come."""
ECHO, ECHO_REPLY = 8, 0
USED = 100
"""Sequence numbers that charon may have used itself."""


def echo(here: str, there: str, sequence: int, data: bytes) -> bytes:
    """Return an IPv4 packet with an ICMP echo request (RFC 792)."""
    message = struct.pack("!BBHHH", ECHO, 0, 0, 7, sequence) + data
    message = message[:2] + struct.pack("!H", internet_checksum(message)) + message[4:]
    addresses = socket.inet_aton(here) + socket.inet_aton(there)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0x4000, 64, 1, 0)
    return head[:10] + struct.pack("!H", internet_checksum(head + addresses)) + addresses + message


def make_esp(spi: int, key: dict[str, str]) -> Esp:
    """Return the codec of a direction; charon gives key and salt as one."""
    if key["integrity"]:
        return NullEsp(spi, SaKeys(integrity=bytes.fromhex(key["integrity"])), extended=False)
    material = bytes.fromhex(key["encryption"])
    return GcmEsp(spi, SaKeys(material[:16], material[16:]), extended=False)


class Peer:
    """One end of the tunnel."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._here, self._there = told["inner"]
        self._outbound = make_esp(told["spi_out"], told["key_out"])
        self._inbound = make_esp(told["spi_in"], told["key_in"])
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((told["outer"][0], ESP_UDP_PORT))
        self._socket.connect((told["outer"][1], ESP_UDP_PORT))
        self._number = USED
        self.numbers: list[int] = []
        """Sequence numbers of what came."""

    def request(self, sequence: int, data: bytes, padding: int = 0) -> bytes:
        """Return a sealed echo request, under the next number."""
        self._number += 1
        return self._outbound.seal(self._number, echo(self._here, self._there, sequence, data), NEXT_IPV4, padding)

    def send(self, packet: bytes) -> None:
        self._socket.send(packet)

    def answer(self) -> dict[str, Any]:
        """Return the next echo reply: what opened it, its ICMP sequence number and data."""
        self._socket.settimeout(SECONDS)
        while True:
            packet = self._socket.recv(65535)
            if packet[:4] != self._inbound.spi:
                continue  # IKE, or a keepalive
            read = self._inbound.read(packet)
            assert isinstance(read, tuple), read
            text = self._inbound.open(packet, read[0])
            assert text is not None, "its ICV does not verify"
            unpacked = self._inbound.unpack(text)
            assert unpacked is not None, "its padding is wrong"
            self.numbers.append(read[0])
            next_header, inner = unpacked
            size = int.from_bytes(inner[2:4], "big")
            message = inner[20:size]
            if next_header == NEXT_IPV4 and inner[9] == 1 and message[0] == ECHO_REPLY:
                assert internet_checksum(message) == 0
                return {
                    "sequence": int.from_bytes(message[6:8], "big"),
                    "size": len(message) - 8, "data": message[8:12].hex(),
                    "source": socket.inet_ntoa(inner[12:16]), "destination": socket.inet_ntoa(inner[16:20]),
                }  # fmt: skip


def main() -> None:
    peer = Peer(json.load(sys.stdin))
    answers = []
    for size in (0, 1, 2, 3, 56, 1200):
        peer.send(peer.request(size, bytes([size & 255]) * size))
        answers.append(peer.answer())
    # What must not be answered, each with a sequence number of its own; then something that is.
    for place, at in ((9000, -1), (9001, 4), (9002, 20), (9003, 0)):
        wrong = bytearray(peer.request(place, b"wrong"))
        wrong[at] ^= 1
        peer.send(bytes(wrong))
    right = peer.request(9004, b"right")
    peer.send(right)
    answers.append(peer.answer())
    peer.send(right)  # a replay
    for sequence in (9005, 9006):
        peer.send(peer.request(sequence, b"last", padding=40 if sequence == 9006 else 0))
        answers.append(peer.answer())
    print(json.dumps({"answers": answers, "numbers": peer.numbers}))


if __name__ == "__main__":
    main()

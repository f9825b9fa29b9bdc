"""The UDP load of the benchmark: a sender paced by the clock and a receiver that counts by number.

``python -m experiments.peers.datagrams send|receive`` runs in a tenant and takes commands, one JSON object a line, from
standard input. iperf3 costs too much per datagram to load a fast path with small ones; here a datagram is one system
call at either end, and next to nothing else. All contenders get the same sender and receiver.

A datagram starts with run and number (4 bytes each) and is filled with zeros. With ``segments`` the sender hands that
many to the kernel at once (UDP_SEGMENT), and the receiver takes what is together (UDP_GRO), as QUIC implementations do.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any

PORT = 7400
HEAD = struct.Struct("!II")
BURST_SECONDS = 0.002
"""Longest time of sending that is made up for at once when the sender was not scheduled in time."""
TICK_SECONDS = 0.0005
"""How long either sleeps where nothing is due, or nothing is there."""

_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 32 * 1024 * 1024
"""Bytes: the receiver must never be the one that loses."""
_DRAIN = 64


class Sender:
    """Sends numbered datagrams to one address."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((address, PORT))

    def send(self, run: int, rate: float, seconds: float, size: int, segments: int) -> dict[str, Any]:
        """Send ``size`` bytes ``rate`` times a second; return how many were sent, in how many seconds, when
        the last one left (ns), and the share of the time in which the sender did not wait."""
        total = max(1, int(rate * seconds))
        total -= total % segments if total > segments else 0
        burst = max(segments, int(rate * BURST_SECONDS))
        buffer = bytearray(size * segments)
        self._socket.setsockopt(_SOL_UDP, _UDP_SEGMENT, size if segments > 1 else 0)
        sent = refused = 0
        slept = 0.0
        begin = first = time.monotonic()
        while sent < total:
            now = time.monotonic()
            due = min(total, int((now - begin) * rate) + 1)
            if due - sent > burst:
                begin, due = now - (sent + burst) / rate, sent + burst
            if due - sent < segments and due < total:
                time.sleep(TICK_SECONDS)
                slept += time.monotonic() - now
                continue
            while sent + segments <= due:
                refused += self._send(buffer, run, sent, size, segments)
                sent += segments
            if due == total:
                break
        last = time.monotonic()
        busy = 1 - slept / max(last - first, 1e-9)
        return {"sent": sent, "refused": refused, "seconds": last - first, "busy": busy, "last_ns": int(last * 1e9)}

    def _send(self, buffer: bytearray, run: int, number: int, size: int, segments: int) -> int:
        for place in range(segments):
            HEAD.pack_into(buffer, place * size, run, number + place)
        try:
            self._socket.send(buffer)
        except (ConnectionRefusedError, BlockingIOError):
            return segments
        return 0


class Receiver:
    """Counts datagrams of one run, each number once, and remembers when how many had come."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        self._socket.bind((address, PORT))
        self._socket.setblocking(False)
        self._buffer = bytearray(65536)
        self.begin(0, 0, 1, False)

    def begin(self, run: int, most: int, size: int, together: bool) -> None:
        """Count a new run of at most ``most`` datagrams of ``size`` bytes.

        ``together``: those that the kernel holds in one piece are read in one piece (UDP_GRO).
        """
        self._socket.setsockopt(_SOL_UDP, _UDP_GRO, int(together))
        self._run, self._seen, self._size = run, bytearray(most), size
        self._count = self._duplicates = self._foreign = 0
        self._marks: list[tuple[int, int]] = []

    @property
    def counting(self) -> bool:
        """Whether there is a run to count."""
        return bool(self._seen)

    def drain(self) -> bool:
        """Read what is there, up to a limit; return whether there may be more."""
        receive, buffer, unpack = self._socket.recv_into, self._buffer, HEAD.unpack_from
        seen, run, limit, step = self._seen, self._run, len(self._seen), self._size
        more = True
        try:
            for _ in range(_DRAIN):
                for place in range(0, receive(buffer), step):
                    of_run, number = unpack(buffer, place)
                    if of_run != run or number >= limit:
                        self._foreign += 1
                    elif seen[number]:
                        self._duplicates += 1
                    else:
                        seen[number] = 1
                        self._count += 1
        except BlockingIOError:
            more = False
        self._marks.append((time.monotonic_ns(), self._count))
        return more

    def report(self, deadline_ns: int) -> dict[str, Any]:
        """Return how many had come by a moment of the monotonic clock, and how many in all; the run is over."""
        in_time = max((count for moment, count in self._marks if moment <= deadline_ns), default=0)
        self._seen = bytearray()
        return {"received": in_time, "late": self._count - in_time, "duplicates": self._duplicates,
                "foreign": self._foreign}  # fmt: skip


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _serve_sender(address: str) -> None:
    sender = Sender(address)
    _say({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        try:
            _say(sender.send(**order))
        except OSError as error:
            _say({"error": error.strerror or str(error)})


def _serve_receiver(address: str) -> None:
    receiver = Receiver(address)
    _say({"ready": True})
    poller = select.poll()
    poller.register(0, select.POLLIN)
    rest = b""
    while True:
        if receiver.counting:
            while receiver.drain():
                pass
            # Nobody waits at the socket: then a datagram wakes nobody, and costs neither end more than it must.
            time.sleep(TICK_SECONDS)
        if not poller.poll(0 if receiver.counting else None):
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            _say(_obey(receiver, json.loads(line)))


def _obey(receiver: Receiver, order: dict[str, Any]) -> dict[str, Any]:
    if "deadline_ns" in order:
        return receiver.report(order["deadline_ns"])
    receiver.begin(**order)
    return {"ok": True}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="experiments.peers.datagrams", description=__doc__)
    parser.add_argument("role", choices=("send", "receive"))
    parser.add_argument("--address", required=True, help="where to send to, or what to bind to")
    options = parser.parse_args(arguments)
    (_serve_sender if options.role == "send" else _serve_receiver)(options.address)
    return 0


if __name__ == "__main__":
    sys.exit(main())

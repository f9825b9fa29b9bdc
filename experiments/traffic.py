"""Marked UDP traffic of tenants: a sender and a receiver that run as programs inside a host's namespace.

``python -m experiments.traffic send`` reads commands, one JSON object a line, from standard input and
answers each with one line; ``receive`` logs every datagram with its whole payload. What a tenant got
is judged from these two logs and from nothing else.

A message is text: ``tenant-data:LABEL:TRIAL:INDEX:NONCE:`` and filling; the nonce makes each unique.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

PORT = 7000
"""UDP port on which tenants' receivers listen."""

MESSAGE_MARK = b"tenant-data:"
_NONCE_SIZE = 8
_SO_NO_CHECK = 11
"""Linux: send UDP over IPv4 without a checksum (RFC 768 allows it)."""
_FILL = b"abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Message:
    """What a marked datagram says of itself. ``nonce`` is 16 hexadecimal digits."""

    label: str
    trial: int
    index: int
    nonce: str


def build_message(label: str, trial: int, index: int, size: int, nonce: str | None = None) -> bytes:
    """Return a marked payload of exactly ``size`` bytes; ValueError when the mark does not fit."""
    chosen = nonce if nonce is not None else os.urandom(_NONCE_SIZE).hex()
    head = MESSAGE_MARK + f"{label}:{trial}:{index}:{chosen}:".encode()
    if len(head) > size:
        raise ValueError(f"a message of {size} bytes has no room for its mark of {len(head)}")
    fill = _FILL * ((size - len(head)) // len(_FILL) + 1)
    return head + fill[: size - len(head)]


def parse_message(payload: bytes) -> Message | None:
    """Return what a payload says of itself; None when it is not a marked message."""
    if not payload.startswith(MESSAGE_MARK):
        return None
    parts = payload[len(MESSAGE_MARK) :].split(b":", 4)
    try:
        label, trial, index, nonce = (part.decode("ascii") for part in parts[:4])
        return Message(label, int(trial), int(index), nonce)
    except (ValueError, UnicodeDecodeError):
        return None


class _Log:
    """With ``marks_only`` a line has label, trial and index of a message and not its payload (None: no message)."""

    def __init__(self, path: Path, marks_only: bool = False) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._marks_only = marks_only

    def write(self, payload: bytes, **fields: Any) -> None:
        now = time.time_ns()
        content: dict[str, Any] = {"payload": payload.hex()}
        if self._marks_only:
            message = parse_message(payload)
            content = {"label": None} if message is None else {
                "label": message.label, "trial": message.trial, "index": message.index,
            }  # fmt: skip
        self._file.write(json.dumps({"time_ns": now, **fields, **content}) + "\n")


class Sender:
    """Sends marked datagrams on command; a stream runs beside the commands until it is stopped."""

    def __init__(self, log: Path, address: str, marks_only: bool = False) -> None:
        self._log = _Log(log, marks_only)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.bind((address, 0))
        self._ipv6 = ":" in address
        self._marks = (0, 0, 0)
        self._stream: dict[str, Any] | None = None
        self._stream_index = 0
        self._next = 0.0

    def send(self, destination: str, payload: bytes, port: int = PORT) -> bool:
        """Send and log one datagram; False when the kernel refused it."""
        # Logged first: whatever may arrive must be known as sent.
        self._log.write(payload, event="sent", destination=destination, port=port)
        try:
            self._socket.sendto(payload, (destination, port))
        except OSError as error:
            self._log.write(payload, event="failed", destination=destination, error=str(error))
            return False
        return True

    def command(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command and return the answer."""
        kind = order["do"]
        if kind == "send":
            return self._burst(order)
        if kind == "stream":
            self._stream, self._next = order, time.monotonic()
            return {"ok": True, "first": self._stream_index}
        if kind == "stop":
            self._stream = None
            return {"ok": True, "streamed": self._stream_index}
        raise ValueError(f"unknown command {kind!r}")

    def _burst(self, order: dict[str, Any]) -> dict[str, Any]:
        sent = 0
        due = time.monotonic()
        sizes = order["sizes"]
        self._mark(order)
        for index, size in enumerate(sizes):
            # Frames too small for a mark are known by their size alone.
            marked = not order.get("unmarked")
            payload = build_message(order["label"], order["trial"], index, size) if marked else bytes(size)
            sent += self.send(order["destination"], payload, order.get("port", PORT))
            due += order["interval"]
            while (rest := due - time.monotonic()) > 0 and index + 1 < len(sizes):
                self.wait(rest)
        return {"ok": True, "sent": sent, "wanted": len(sizes)}

    def _mark(self, order: dict[str, Any]) -> None:
        """Set what the packets of a burst have besides: DSCP and ECN, a zero UDP checksum, a broadcast address."""
        wanted = (int(order.get("tos", 0)), int(bool(order.get("no_checksum"))), int(bool(order.get("broadcast"))))
        if wanted == self._marks:
            return
        self._marks = wanted
        if not self._ipv6:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, wanted[0])
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, wanted[1])
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, wanted[2])

    def wait(self, seconds: float) -> None:
        """Let ``seconds`` pass at most, keeping the stream going."""
        if self._stream is None:
            time.sleep(seconds)
            return
        pause = min(seconds, max(0.0, self._next - time.monotonic()))
        time.sleep(pause)
        self.tick()

    def tick(self) -> None:
        """Send the stream's next datagram if it is due."""
        stream = self._stream
        if stream is None or time.monotonic() < self._next:
            return
        self._next = max(self._next + stream["interval"], time.monotonic())
        payload = build_message(stream["label"], stream.get("trial", 0), self._stream_index, stream["size"])
        self._stream_index += 1
        self.send(stream["destination"], payload)

    def until_next(self) -> float | None:
        """Return the seconds until the stream is due; None when there is no stream."""
        return None if self._stream is None else max(0.0, self._next - time.monotonic())


def run_sender(sender: Sender, commands: TextIO, answers: TextIO) -> None:
    """Serve commands until standard input ends."""
    print(json.dumps({"ready": True}), file=answers, flush=True)
    descriptor = commands.fileno()
    buffered = b""
    while True:
        readable, _, _ = select.select([descriptor], [], [], sender.until_next())
        sender.tick()
        if not readable:
            continue
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            return
        buffered += chunk
        while b"\n" in buffered:
            line, buffered = buffered.split(b"\n", 1)
            print(json.dumps(sender.command(json.loads(line))), file=answers, flush=True)


def run_receiver(
    address: str, log: Path, answers: TextIO, everything: bool = False, marks_only: bool = False
) -> None:
    """Log every datagram that comes to the tenants' port, until the process is ended; with broadcasts if asked for."""
    receiver = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    # A host's own broadcasts come to no socket that is bound to its address.
    receiver.bind(("" if everything else address, PORT))
    output = _Log(log, marks_only)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    while True:
        payload, peer = receiver.recvfrom(1 << 16)
        output.write(payload, event="received", source=peer[0], source_port=peer[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of both programs."""
    parser = argparse.ArgumentParser(prog="experiments.traffic", description="Marked tenant traffic.")
    parser.add_argument("role", choices=("send", "receive"))
    parser.add_argument("--address", required=True, help="the host's own address to use")
    parser.add_argument("--everything", action="store_true", help="receive broadcasts too")
    parser.add_argument("--marks-only", action="store_true", help="log marks instead of whole payloads")
    parser.add_argument("--log", type=Path, required=True, help="JSON-lines file to append to")
    options = parser.parse_args(arguments)
    if options.role == "send":
        run_sender(Sender(options.log, options.address, options.marks_only), sys.stdin, sys.stdout)
    else:
        run_receiver(options.address, options.log, sys.stdout, options.everything, options.marks_only)
    return 0


if __name__ == "__main__":
    sys.exit(main())

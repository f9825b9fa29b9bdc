"""One TCP flow that lasts through the whole experiment: ``python -m experiments.dataplane.bulk``.

The source sends as long as it is told to, the sink counts. One JSON command a line, one answer a line. A flow that goes
on needs no time to start for each measurement, and has to live through what an attack did to it.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

PORT = 7100
_CHUNK = bytes(1 << 17)
_TCP_NOTSENT_LOWAT = 25
_NOT_SENT = 1 << 18
"""Bytes that may wait in the sender's socket: once it is told to pause, nothing goes on for long."""


class _Orders:
    """Lines from standard input, without ever waiting for them."""

    def __init__(self, handle: Callable[[str], dict[str, Any]]) -> None:
        self._handle = handle
        self._buffer = b""

    def serve(self) -> bool:
        """Carry out what has come; False once standard input has ended."""
        chunk = os.read(sys.stdin.fileno(), 1 << 12)
        self._buffer += chunk
        while b"\n" in self._buffer:
            line, self._buffer = self._buffer.split(b"\n", 1)
            _say(self._handle(json.loads(line)["do"]))
        return bool(chunk)


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def run_sink(address: str) -> None:
    """Take one connection and count its bytes."""
    with socket.create_server((address, PORT)) as server:
        _say({"ready": True})
        connection, _ = server.accept()
    received, buffer = 0, bytearray(1 << 20)
    orders = _Orders(lambda _: {"bytes": received, "at": time.monotonic()})
    while True:
        readable, _, _ = select.select([connection, sys.stdin], [], [])
        if connection in readable:
            size = connection.recv_into(buffer)
            if not size:
                return
            received += size
        if sys.stdin in readable and not orders.serve():
            return


def run_source(address: str, destination: str) -> None:
    """Connect to the sink, and send while told to."""
    connection = socket.create_connection((destination, PORT), 10, (address, 0))
    connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _NOT_SENT)
    connection.setblocking(False)
    going = False

    def order(what: str) -> dict[str, Any]:
        nonlocal going
        going = what == "go"
        return {"going": going}

    orders = _Orders(order)
    _say({"ready": True})
    while True:
        readable, writable, _ = select.select([sys.stdin], [connection] if going else [], [])
        if readable and not orders.serve():
            return
        if writable and going:
            connection.send(_CHUNK)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of both programs."""
    parser = argparse.ArgumentParser(prog="experiments.dataplane.bulk", description="One lasting TCP flow.")
    parser.add_argument("role", choices=("sink", "source"))
    parser.add_argument("address", help="the host's own address")
    parser.add_argument("destination", nargs="?", help="the sink's address, for the source")
    options = parser.parse_args(arguments)
    if options.role == "sink":
        run_sink(options.address)
    else:
        run_source(options.address, options.destination)
    return 0


if __name__ == "__main__":
    sys.exit(main())

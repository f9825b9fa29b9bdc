"""One TCP flow that lasts through the whole experiment: ``python -m experiments.dataplane.bulk``.

The source sends as long as it is told to, the sink counts. One JSON command a line, one answer a line. A flow that goes
on needs no time to start for each measurement, and has to live through what an attack did to it. With certificates
the flow is TLS 1.3, as tenants have it who protect what they say themselves; which cipher suite is left to OpenSSL's
configuration, and told in the first answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PORT = 7100
_CHUNK = bytes(1 << 17)
_TCP_NOTSENT_LOWAT = 25
_NOT_SENT = 1 << 18
"""Bytes that may wait in the sender's socket: once it is told to pause, nothing goes on for long."""


_RECORDS = 64
"""TLS records that are read before orders get their turn."""


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


def tls_context(purpose: ssl.Purpose, *, trusted: Path | None = None, own: Path | None = None) -> ssl.SSLContext:
    """Return a context for TLS 1.3 only: ``trusted`` is the CA of the other end, ``own`` certificate and key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if purpose is ssl.Purpose.SERVER_AUTH else ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if trusted is not None:
        context.load_verify_locations(trusted)
    if own is not None:
        context.load_cert_chain(own)
    return context


def _cipher(connection: socket.socket) -> str | None:
    found = connection.cipher() if isinstance(connection, ssl.SSLSocket) else None
    return None if found is None else found[0]


def _take(connection: socket.socket, buffer: bytearray) -> int | None:
    """Return how many bytes could be read now, None at the end of the flow."""
    size = reads = 0
    while True:
        try:
            got = connection.recv_into(buffer)
        except (BlockingIOError, ssl.SSLWantReadError):
            return size
        if not got:
            return None
        size += got
        reads += 1
        if not isinstance(connection, ssl.SSLSocket):
            return size
        # One read gives one record. What OpenSSL has taken in already, select knows nothing of.
        if reads >= _RECORDS and not connection.pending():
            return size


def run_sink(address: str, port: int = PORT, certificate: Path | None = None) -> None:
    """Take one connection and count its bytes."""
    with socket.create_server((address, port)) as server:
        _say({"ready": True})
        connection, _ = server.accept()
    if certificate is not None:
        context = tls_context(ssl.Purpose.CLIENT_AUTH, own=certificate)
        connection = context.wrap_socket(connection, server_side=True)
    connection.setblocking(False)
    received, buffer = 0, bytearray(1 << 20)
    orders = _Orders(lambda _: {"bytes": received, "at": time.monotonic()})
    while True:
        readable, _, _ = select.select([connection, sys.stdin], [], [])
        if connection in readable:
            size = _take(connection, buffer)
            if size is None:
                return
            received += size
        if sys.stdin in readable and not orders.serve():
            return


def run_source(address: str, destination: str, port: int = PORT, trusted: Path | None = None) -> None:
    """Connect to the sink, and send while told to."""
    connection = socket.create_connection((destination, port), 10, (address, 0))
    connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _NOT_SENT)
    if trusted is not None:
        context = tls_context(ssl.Purpose.SERVER_AUTH, trusted=trusted)
        connection = context.wrap_socket(connection, server_hostname=destination)
    connection.setblocking(False)
    going = False

    def order(what: str) -> dict[str, Any]:
        nonlocal going
        going = what == "go"
        return {"going": going}

    orders = _Orders(order)
    _say({"ready": True, "cipher": _cipher(connection)})
    while True:
        readable, writable, _ = select.select([sys.stdin], [connection] if going else [], [])
        if readable and not orders.serve():
            return
        if writable and going:
            # TLS may have to finish a record that did not fit; the same bytes are then handed over again.
            with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                connection.send(_CHUNK)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of both programs."""
    parser = argparse.ArgumentParser(prog="experiments.dataplane.bulk", description="One lasting TCP flow.")
    parser.add_argument("role", choices=("sink", "source"))
    parser.add_argument("address", help="the host's own address")
    parser.add_argument("destination", nargs="?", help="the sink's address, for the source")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--certificate", type=Path, help="PEM file of the sink's certificate and key: TLS")
    parser.add_argument("--ca", type=Path, help="PEM file of whom the source trusts: TLS")
    options = parser.parse_args(arguments)
    if options.role == "sink":
        run_sink(options.address, options.port, options.certificate)
    else:
        run_source(options.address, options.destination, options.port, options.ca)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The telemetry collector: ``python -m transit.collector --listen ADDR:PORT --output FILE``.

Receives transit devices' records over UDP and appends them to a file, one JSON object a line. What is
not a sound array of records is counted and dropped as a whole. The file is bounded.
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

from geneve.errors import ConfigError, ParseError
from transit.records import MAX_RECORDS_SIZE, parse_records
from transit.stats import StatsSocket
from transit.stop import StopSignal

SO_RCVBUFFORCE = 33
RECEIVE_BUFFER = 8 * 1024 * 1024
BATCH = 256
"""Datagrams written to the file in one go."""
MAX_FILE_SIZE = 1024 * 1024 * 1024
"""Bytes after which records are counted and no longer written, unless said otherwise."""

log = logging.getLogger("transit.collector")


class RecordFile:
    """Checks datagrams and appends their records to ``output``, up to ``max_bytes`` in the file."""

    def __init__(self, output: BinaryIO, max_bytes: int = MAX_FILE_SIZE) -> None:
        self._output = output
        self._left = max_bytes - output.tell()
        self.counters = {"datagrams": 0, "records": 0, "malformed": 0, "discarded": 0}

    def take(self, datagrams: list[bytes]) -> None:
        """Append the records of ``datagrams`` and flush; bad datagrams and a full file are only counted."""
        lines: list[bytes] = []
        for datagram in datagrams:
            self.counters["datagrams"] += 1
            try:
                records = parse_records(datagram)
            except ParseError:
                self.counters["malformed"] += 1
                continue
            for record in records:
                line = record.model_dump_json().encode() + b"\n"
                if len(line) > self._left:
                    self._left = 0  # nothing shorter may follow: the file ends at one point in time
                    self.counters["discarded"] += 1
                    continue
                self._left -= len(line)
                self.counters["records"] += 1
                lines.append(line)
        if lines:
            self._output.write(b"".join(lines))
            self._output.flush()


def parse_listen(text: str) -> tuple[str, int]:
    """Read ``ADDR:PORT`` (IPv6 in brackets); ConfigError in one sentence."""
    address, _, port = text.rpartition(":")
    try:
        canonical = str(ipaddress.ip_address(address.removeprefix("[").removesuffix("]")))
        number = int(port) if port.isascii() and port.isdigit() else 0
    except ValueError:
        canonical, number = "", 0
    if not canonical or not 1 <= number <= 65535:
        raise ConfigError(f"--listen {text!r}: expected ADDRESS:PORT, such as 192.0.2.1:6082 or [::1]:6082.")
    return canonical, number


def _open_socket(listen: str) -> socket.socket:
    address, port = parse_listen(listen)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        try:
            opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        opened.bind((address, port))
    except OSError as error:
        opened.close()
        raise ConfigError(f"--listen {listen}: cannot listen there ({error.strerror}).") from None
    return opened


def _receive(source: socket.socket) -> list[bytes]:
    datagrams: list[bytes] = []
    try:
        while len(datagrams) < BATCH:
            # One byte more than allowed: what is longer shows, without being read whole.
            datagrams.append(source.recv(MAX_RECORDS_SIZE + 1))
    except BlockingIOError:
        pass
    return datagrams


def run(listen: str, output: Path, stats_path: str | None, max_bytes: int) -> None:
    """Collect until SIGTERM; ConfigError when address, file or stats socket cannot be used."""
    stop = StopSignal()
    started = time.monotonic()
    with _open_socket(listen) as source:
        try:
            file = output.open("ab")
        except OSError as error:
            raise ConfigError(f"--output {output}: cannot be written ({error.strerror}).") from None
        stats = StatsSocket(stats_path) if stats_path else None
        with file:
            records = RecordFile(file, max_bytes)
            poller = select.epoll()
            poller.register(source, select.EPOLLIN)
            poller.register(stop, select.EPOLLIN)
            if stats:
                poller.register(stats, select.EPOLLIN)
            log.info("collecting on %s into %s", listen, output)
            try:
                running = True
                while running:
                    ready = {descriptor for descriptor, _ in poller.poll()}
                    running = stop.fileno() not in ready
                    records.take(_receive(source))
                    if stats and stats.fileno() in ready:
                        stats.answer(_document(records, started))
            finally:
                poller.close()
                if stats:
                    stats.close()
    log.info("stopped: %s", ", ".join(f"{count} {name}" for name, count in records.counters.items()))


def _document(records: RecordFile, started: float) -> dict[str, Any]:
    drops = {name: records.counters[name] for name in ("malformed", "discarded")}
    return {
        "name": "collector",
        "role": "collector",
        "ready": True,
        "pid": os.getpid(),
        "uptime_s": round(time.monotonic() - started, 3),
        "counters": {name: records.counters[name] for name in ("datagrams", "records")},
        "drops": drops,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the program; 0 after SIGTERM, 2 when what it was told is wrong."""
    parser = argparse.ArgumentParser(prog="python -m transit.collector", description=__doc__)
    parser.add_argument("--listen", required=True, metavar="ADDR:PORT", help="UDP address to receive on")
    parser.add_argument("--output", required=True, metavar="FILE", type=Path, help="file for the JSON lines")
    parser.add_argument("--stats", metavar="PATH", help="UNIX socket that answers with counters")
    parser.add_argument("--max-bytes", metavar="N", type=int, default=MAX_FILE_SIZE, help="file bound")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        run(options.listen, options.output, options.stats, options.max_bytes)
    except ConfigError as error:
        print(f"transit.collector: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The telemetry collector: ``python -m transit.collector --listen ADDR:PORT --output FILE --keys DIR``.

Receives transit devices' records over UDP and appends them to a file, one JSON object a line. A datagram that
a device's key did not seal, that came before, or that holds anything but sound records of that device is counted
by its reason and dropped as a whole. The file is bounded.
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
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

from geneve.errors import ConfigError, ParseError
from geneve.export import ExportOpener, Refusal
from transit.export_keys import read_keys
from transit.records import MAX_RECORDS_SIZE, TelemetryRecord, parse_records
from transit.stats import StatsSocket
from transit.stop import StopSignal

SO_RCVBUFFORCE = 33
RECEIVE_BUFFER = 8 * 1024 * 1024
BATCH = 256
"""Datagrams written to the file in one go."""
MAX_FILE_SIZE = 1024 * 1024 * 1024
"""Bytes after which records are counted and no longer written, unless said otherwise."""

_LINE = 4096
"""Bytes that no record's line exceeds."""

Output = FileIO | BytesIO

log = logging.getLogger("transit.collector")


class RecordFile:
    """Checks datagrams and appends their records to ``output``, up to ``max_bytes`` in the file.

    ``output`` is open for appending, readable, and not buffered, so that what it took is in the file. The file
    holds whole lines only: half of one, left by a full disk or by a process that was killed, is cut off.
    """

    def __init__(self, output: Output, opener: ExportOpener, max_bytes: int = MAX_FILE_SIZE) -> None:
        self._output = output
        self._opener = opener
        self._max = max_bytes
        self._full = False
        self._torn = False
        self._size = _end_of_lines(output)
        if self._size != output.seek(0, os.SEEK_END):
            self._cut()
        self.counters = {"datagrams": 0, "records": 0}
        self.drops = {**{reason.value: 0 for reason in Refusal}, "discarded": 0, "write_failed": 0}

    def take(self, datagrams: list[bytes]) -> None:
        """Append the records of ``datagrams``; bad datagrams, a full file and a full disk are only counted."""
        lines: list[bytes] = []
        size = self._size
        for datagram in datagrams:
            self.counters["datagrams"] += 1
            records = self._accept(datagram)
            if isinstance(records, Refusal):
                self.drops[records.value] += 1
                continue
            for record in records:
                line = record.model_dump_json().encode() + b"\n"
                if self._full or size + len(line) > self._max:
                    self._full = True  # nothing shorter may follow: the file ends at one point in time
                    self.drops["discarded"] += 1
                    continue
                size += len(line)
                lines.append(line)
        if lines:
            if self._append(b"".join(lines)):
                self.counters["records"] += len(lines)
            else:
                self.drops["write_failed"] += len(lines)

    def _accept(self, datagram: bytes) -> list[TelemetryRecord] | Refusal:
        if len(datagram) > MAX_RECORDS_SIZE:
            return Refusal.MALFORMED
        opened = self._opener.open(datagram)
        if isinstance(opened, Refusal):
            return opened
        try:
            records = parse_records(opened.payload)
        except ParseError:
            return Refusal.MALFORMED
        if any(record.device != opened.device for record in records):
            return Refusal.WRONG_DEVICE
        return records

    def _append(self, data: bytes) -> bool:
        """Append all of ``data`` or nothing."""
        if self._torn and not self._cut():
            return False
        left = memoryview(data)
        try:
            while left:
                left = left[self._output.write(left) or 0 :]
        except OSError as error:
            if not self.drops["write_failed"]:
                log.error("records are lost: the file cannot be written (%s)", error.strerror)
            self._cut()
            return False
        self._size += len(data)
        return True

    def _cut(self) -> bool:
        """Take what is behind the last whole line off the file; when that fails, it is tried before the next write."""
        try:
            self._output.truncate(self._size)
            self._output.seek(self._size)
        except OSError:
            self._torn = True
        else:
            self._torn = False
        return not self._torn


def _end_of_lines(output: Output) -> int:
    """Return where the last whole line of ``output`` ends; ConfigError when more follows than part of a record."""
    end = output.seek(0, os.SEEK_END)
    start = max(0, end - _LINE)
    output.seek(start)
    newline = (output.read(end - start) or b"").rfind(b"\n")
    if newline < 0 and start:
        raise ConfigError("--output: the file does not hold lines of records; choose another.")
    return start + newline + 1


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


def _open_file(output: Path, opener: ExportOpener, max_bytes: int) -> tuple[FileIO, RecordFile]:
    try:
        file = FileIO(output, "a+")
        return file, RecordFile(file, opener, max_bytes)
    except OSError as error:
        raise ConfigError(f"--output {output}: cannot be written ({error.strerror}).") from None


def _receive(source: socket.socket) -> list[bytes]:
    datagrams: list[bytes] = []
    try:
        while len(datagrams) < BATCH:
            # One byte more than allowed: what is longer shows, without being read whole.
            datagrams.append(source.recv(MAX_RECORDS_SIZE + 1))
    except BlockingIOError:
        pass
    return datagrams


def run(listen: str, output: Path, keys: Path, stats_path: str | None, max_bytes: int) -> None:
    """Collect until SIGTERM; ConfigError when address, file, keys or stats socket cannot be used."""
    devices = read_keys(keys)
    opener = ExportOpener(devices)
    stop = StopSignal()
    started = time.monotonic()
    with _open_socket(listen) as source:
        file, records = _open_file(output, opener, max_bytes)
        with file:
            stats = StatsSocket(stats_path) if stats_path else None
            poller = select.epoll()
            poller.register(source, select.EPOLLIN)
            poller.register(stop, select.EPOLLIN)
            if stats:
                poller.register(stats, select.EPOLLIN)
            log.info("collecting on %s into %s", listen, output)
            if not devices:
                log.warning("%s holds no NAME.key: every datagram is refused", keys)
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
    totals = {**records.counters, **records.drops}
    log.info("stopped: %s", ", ".join(f"{count} {name}" for name, count in totals.items()))


def _document(records: RecordFile, started: float) -> dict[str, Any]:
    return {
        "name": "collector",
        "role": "collector",
        "ready": True,
        "pid": os.getpid(),
        "uptime_s": round(time.monotonic() - started, 3),
        "counters": records.counters,
        "drops": records.drops,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the program; 0 after SIGTERM, 2 when what it was told is wrong."""
    parser = argparse.ArgumentParser(prog="python -m transit.collector", description=__doc__)
    parser.add_argument("--listen", required=True, metavar="ADDR:PORT", help="UDP address to receive on")
    parser.add_argument("--output", required=True, metavar="FILE", type=Path, help="file for the JSON lines")
    parser.add_argument(
        "--keys", required=True, metavar="DIR", type=Path, help="folder of the devices' keys, NAME.key, mode 0600"
    )
    parser.add_argument("--stats", metavar="PATH", help="UNIX socket that answers with counters")
    parser.add_argument("--max-bytes", metavar="N", type=int, default=MAX_FILE_SIZE, help="file bound")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        run(options.listen, options.output, options.keys, options.stats, options.max_bytes)
    except ConfigError as error:
        print(f"transit.collector: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Sends telemetry records to the collector: batched, sealed, bounded, and never in the data path's way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from geneve.export import ExportSealer
from transit.records import MAX_RECORDS_SIZE

FLUSH_INTERVAL = 0.050
"""Seconds that a record waits for others to share its datagram."""
QUEUE_RECORDS = 8192
"""Records that wait, at most; more are dropped and counted."""

_BRACKETS = 2


class Exporter:
    """Gathers records (JSON objects as bytes) into sealed JSON arrays of at most :data:`MAX_RECORDS_SIZE` bytes."""

    def __init__(self, sealer: ExportSealer, queue_records: int = QUEUE_RECORDS) -> None:
        self._sealer = sealer
        self._room = MAX_RECORDS_SIZE - sealer.overhead
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._limit = queue_records
        self._oldest: float | None = None
        self.sent = 0
        self.overflowed = 0
        self.failed = 0

    def add(self, record: bytes, now: float) -> None:
        """Queue one record at ``now`` (monotonic seconds)."""
        if len(self._queue) >= self._limit or len(record) + _BRACKETS > self._room:
            self.overflowed += 1
            return
        if self._oldest is None:
            self._oldest = now
        self._queue.append(record)
        self._queued_bytes += len(record) + 1

    def next_deadline(self) -> float | None:
        """Return when :meth:`flush` has to be called next, or None while nothing waits."""
        return None if self._oldest is None else self._oldest + FLUSH_INTERVAL

    def flush(self, now: float, send: Callable[[bytes], bool | None]) -> None:
        """Send what is full or old enough by ``now``.

        ``send`` returns True for a datagram that was sent, False for one that was refused and is lost,
        and None when the socket is busy: the records then stay, and :meth:`flush` tries again later.
        """
        deadline = self.next_deadline()
        if deadline is None:
            return
        everything = now >= deadline
        while self._queue and (everything or self._queued_bytes >= self._room):
            batch = self._take()
            try:
                # Sealed again when the socket was busy, under another number: no number is ever used twice.
                taken = send(self._sealer.seal(b"[" + b",".join(batch) + b"]"))
            except OverflowError:
                taken = False
            if taken is None:
                self._queue.extendleft(reversed(batch))
                self._queued_bytes += sum(len(record) + 1 for record in batch)
                self._oldest = now
                return
            if taken:
                self.sent += len(batch)
            else:
                self.failed += len(batch)
        if not self._queue:
            self._oldest = None

    def _take(self) -> list[bytes]:
        batch: list[bytes] = []
        size = _BRACKETS - 1  # one comma fewer than records
        while self._queue and size + len(self._queue[0]) + 1 <= self._room:
            record = self._queue.popleft()
            size += len(record) + 1
            batch.append(record)
        self._queued_bytes -= size - (_BRACKETS - 1)
        return batch

    def counters(self) -> dict[str, int]:
        """Return how many records went where."""
        return {
            "records_sent": self.sent,
            "records_overflowed": self.overflowed,
            "records_failed": self.failed,
            "records_waiting": len(self._queue),
        }

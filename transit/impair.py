"""Impairment of one direction: loss, rate, delay, jitter, reordering, decided by a seeded generator.

For kernels without netem. A frame passes, in this order: the loss draw, the rate limiter with its
queue, the delay. Frames stay in order, jitter or not: a frame that would overtake waits for the one in
front. Only ``reorder`` changes the order: a frame so chosen is held until one more frame has passed, or
:data:`REORDER_HOLD` seconds if none comes.

Times are seconds of one monotonic clock, passed in. Every frame carries a ``context`` of the caller's.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from transit.config import Impair

T = TypeVar("T")

QUEUE_FRAMES = 16_384
"""Frames under way in one direction, at most; more are dropped as overflow."""
QUEUE_BYTES = 64 * 1024 * 1024
"""Bytes under way in one direction, at most."""
RATE_QUEUE_BYTES = 256 * 1024
"""Bytes that wait for the rate limiter, at most: the buffer of the emulated bottleneck."""
REORDER_HOLD = 0.010
"""Seconds that a frame chosen for reordering waits for another one to pass it."""


@dataclass(frozen=True, slots=True)
class _Held(Generic[T]):
    departure: float
    frame: bytes
    context: T


class Impairment(Generic[T]):
    """One direction under ``settings``; ``stream`` keeps the random numbers of several directions apart."""

    def __init__(
        self,
        settings: Impair,
        stream: str = "",
        queue_frames: int = QUEUE_FRAMES,
        rate_queue_bytes: int = RATE_QUEUE_BYTES,
    ) -> None:
        self._random = random.Random(f"{settings.seed}/{stream}")
        self._delay = settings.delay_ms / 1000
        self._jitter = settings.jitter_ms / 1000
        self._loss = settings.loss
        self._reorder = settings.reorder
        self._bytes_per_second = settings.rate_mbit * 125_000 if settings.rate_mbit else None
        self._queue_frames = queue_frames
        self._rate_queue_bytes = rate_queue_bytes
        self._queue: deque[tuple[float, bytes, T]] = deque()
        self._queued_bytes = 0
        self._held: _Held[T] | None = None
        self._free_at = float("-inf")  # when the rate limiter has sent what it accepted
        self._last_departure = float("-inf")
        self.lost = 0
        self.overflowed = 0
        self.reordered = 0

    def __len__(self) -> int:
        return len(self._queue) + (self._held is not None)

    def submit(self, frame: bytes, context: T, now: float) -> None:
        """Take in one frame at ``now``; :meth:`due` gives it back when it has to leave, if it does."""
        self._release_expired(now)
        if self._loss and self._random.random() < self._loss:
            self.lost += 1
            return
        size = len(frame)
        if len(self) >= self._queue_frames or self._queued_bytes + size > QUEUE_BYTES:
            self.overflowed += 1
            return
        leaves_limiter = now
        if self._bytes_per_second is not None:
            start = max(now, self._free_at)
            waiting = round((start - now) * self._bytes_per_second)
            if waiting and waiting + size > self._rate_queue_bytes:
                self.overflowed += 1
                return
            leaves_limiter = self._free_at = start + size / self._bytes_per_second
        departure = leaves_limiter + self._delay
        if self._jitter:
            departure += self._random.uniform(-self._jitter, self._jitter)
        departure = max(departure, self._last_departure)
        self._queued_bytes += size
        chosen = bool(self._reorder) and self._random.random() < self._reorder
        if chosen and self._held is None:
            self._held = _Held(departure, frame, context)
            return
        self._enqueue(departure, frame, context)
        if self._held is not None:
            self.reordered += 1
            self._release(departure)

    def due(self, now: float) -> list[tuple[bytes, T]]:
        """Return the frames that have to leave by ``now``, in order of departure."""
        self._release_expired(now)
        queue = self._queue
        ready: list[tuple[bytes, T]] = []
        while queue and queue[0][0] <= now:
            _, frame, context = queue.popleft()
            self._queued_bytes -= len(frame)
            ready.append((frame, context))
        return ready

    def next_deadline(self) -> float | None:
        """Return when :meth:`due` has to be called next, or None while nothing is under way."""
        times = [self._queue[0][0]] if self._queue else []
        if self._held is not None:
            times.append(self._held.departure + REORDER_HOLD)
        return min(times, default=None)

    def _enqueue(self, departure: float, frame: bytes, context: T) -> None:
        # Departures never decrease, so a plain queue keeps them sorted.
        self._last_departure = max(departure, self._last_departure)
        self._queue.append((self._last_departure, frame, context))

    def _release(self, departure: float) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._enqueue(max(departure, held.departure), held.frame, held.context)

    def _release_expired(self, now: float) -> None:
        held = self._held
        if held is not None and held.departure + REORDER_HOLD <= now:
            self._release(held.departure + REORDER_HOLD)

    def counters(self) -> dict[str, int]:
        """Return what became of frames that did not simply pass."""
        return {"impair_loss": self.lost, "impair_overflow": self.overflowed}

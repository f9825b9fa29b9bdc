"""Counters in bounded memory: first frame numbers, regularity in time, tables with a cap, packets seen twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

FIRST = 5
"""Frame numbers kept of whatever is counted."""

MIN_GAP = 0.01
"""Seconds; packets that follow closer belong to one burst, whose start counts."""
MIN_GAPS = 10
"""Gaps from which on regularity is judged."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Count:
    """How often something was seen, in how many bytes, and the first frames that show it."""

    __slots__ = ("bytes", "first", "packets")

    def __init__(self) -> None:
        self.packets = 0
        self.bytes = 0
        self.first: list[int] = []

    def add(self, number: int, size: int = 0) -> None:
        """Count one packet."""
        self.packets += 1
        self.bytes += size
        if len(self.first) < FIRST:
            self.first.append(number)

    def merge(self, other: Count) -> None:
        """Count all that ``other`` has counted."""
        self.packets += other.packets
        self.bytes += other.bytes
        self.first = sorted({*self.first, *other.first})[:FIRST]


class Gaps:
    """Regularity: mean and deviation of the time between bursts (Welford's method)."""

    __slots__ = ("count", "last", "mean", "squares")

    def __init__(self, time: float) -> None:
        self.count, self.last, self.mean, self.squares = 0, time, 0.0, 0.0

    def add(self, time: float) -> None:
        """Take in a packet at ``time`` in seconds."""
        gap = time - self.last
        if gap < MIN_GAP:
            return
        self.last = time
        self.count += 1
        delta = gap - self.mean
        self.mean += delta / self.count
        self.squares += delta * (gap - self.mean)

    @property
    def regular(self) -> bool:
        """Whether there were enough gaps, and they differ by less than a tenth of their mean."""
        return self.count >= MIN_GAPS and math.sqrt(self.squares / self.count) < 0.1 * self.mean


class Table(Generic[K, V]):
    """Keys with a record each, at most ``cap`` of them.

    A new key in a full table makes room: the records with the least ``weight``, half of all, are handed to
    ``evict``. Heavy ones stay, late ones get in; ``evicted`` says how many went. With no ``weight`` the table keeps
    its first keys, and :meth:`get` answers None for others.
    """

    def __init__(
        self, cap: int, weight: Callable[[V], int] | None = None, evict: Callable[[V], None] | None = None
    ) -> None:
        self.cap, self.evicted = cap, 0
        self._weight, self._evict = weight, evict
        self.rows: dict[K, V] = {}

    def put(self, key: K, record: V) -> bool:
        """Add a record; False when the table is full and makes no room."""
        if len(self.rows) >= self.cap:
            if self._weight is None:
                self.evicted += 1
                return False
            self._make_room(self._weight)
        self.rows[key] = record
        return True

    def _make_room(self, weight: Callable[[V], int]) -> None:
        ordered = sorted(self.rows.items(), key=lambda row: weight(row[1]))
        for key, record in ordered[: max(1, self.cap // 2)]:
            del self.rows[key]
            self.evicted += 1
            if self._evict is not None:
                self._evict(record)

    def get(self, key: K) -> V | None:
        """Return a key's record, None when it has none."""
        return self.rows.get(key)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return iter(self.rows.items())


class Recent:
    """Which of the last packets were the same: hashes in two generations of ``size``; Python keys them for each run."""

    __slots__ = ("_new", "_old", "size")

    def __init__(self, size: int = 1 << 16) -> None:
        self.size = size
        self._new: set[int] = set()
        self._old: set[int] = set()

    def seen(self, data: bytes) -> bool:
        """Remember ``data``; return whether it was among the last ``size`` or a little more."""
        value = hash(data)
        if value in self._new or value in self._old:
            return True
        self._new.add(value)
        if len(self._new) >= self.size:
            self._old, self._new = self._new, set()
        return False


class Numbers:
    """Sequence numbers of one sender: the highest, and which of the last 1024 were there."""

    __slots__ = ("_mask", "highest", "repeated")
    WINDOW = 1024

    def __init__(self) -> None:
        self.highest, self._mask, self.repeated = -1, 0, 0

    def add(self, number: int) -> bool:
        """Take in a number; return whether it was there already."""
        ahead = number - self.highest
        if ahead > 0:
            self._mask = 1 if ahead >= self.WINDOW or self.highest < 0 else (self._mask << ahead | 1) & _WINDOW_MASK
            self.highest = number
            return False
        if -ahead >= self.WINDOW:
            return False
        bit = 1 << -ahead
        if self._mask & bit:
            self.repeated += 1
            return True
        self._mask |= bit
        return False


_WINDOW_MASK = (1 << Numbers.WINDOW) - 1

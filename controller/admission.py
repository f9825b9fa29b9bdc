"""Which connections may wait for their handshake, and how much those may say that have proven their name. Pure.

A connection costs a thread or two before it has proven anything, so their number is limited. Addresses
prove nothing either, and an attacker may give itself many: so a full house turns nobody away, but the
oldest of whoever holds most makes room. Addresses of the inventory have a share that others never get.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

MAX_HANDSHAKES = 256
"""Connections without a proven name at most."""
RESERVED_HANDSHAKES = 64
"""Of these, what only addresses of the inventory get."""
MAX_HANDSHAKES_PER_ADDRESS = 32
"""Of these, connections from one address at most."""


MESSAGES_PER_SECOND, MESSAGES_BURST = 500.0, 2000.0
"""Messages that one node may send: far more than any needs, far less than would keep the NVA from the others."""
BYTES_PER_TOKEN = 1024
"""Bytes that count as much as one message: long ones take longer to act upon."""


class MessageRate:
    """A token bucket for one connection. Times are seconds of one clock."""

    def __init__(self, rate: float = MESSAGES_PER_SECOND, burst: float = MESSAGES_BURST) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._last = burst, 0.0

    def allows(self, now: float, size: int = 0) -> bool:
        """Whether one more message, or ``size`` bytes, is within the limit; counts it if so."""
        self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
        self._last = now
        cost = size / BYTES_PER_TOKEN if size else 1.0
        if self._tokens < cost:
            return False
        self._tokens -= cost
        return True


@dataclass(frozen=True, slots=True)
class Waiting:
    """A connection without a proven name; ``number`` grows with each new one."""

    number: int
    address: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a new connection is admitted, and the number of the one that must make room for it, if any."""

    admitted: bool
    evicted: int | None = None


class Admission:
    """The rule for one inventory's addresses."""

    def __init__(
        self,
        known: Iterable[str],
        *,
        total: int = MAX_HANDSHAKES,
        reserved: int = RESERVED_HANDSHAKES,
        per_address: int = MAX_HANDSHAKES_PER_ADDRESS,
    ) -> None:
        """``known`` are the nodes' addresses; the limits are numbers of connections."""
        self._known = frozenset(known)
        self._total, self._reserved, self._per_address = total, reserved, per_address

    def crowded(self, waiting: Iterable[Waiting]) -> bool:
        """Whether a new connection had better stay in the kernel's queue for a moment.

        So it is while half the places are taken and all by addresses of the inventory: then nodes come together,
        as after a restart of the NVA, and turning some away only makes them come again. A stranger among them ends
        the waiting, since strangers may never make nodes wait.
        """
        present = list(waiting)
        return len(present) >= self._total // 2 and all(entry.address in self._known for entry in present)

    def judge(self, address: str, waiting: Iterable[Waiting]) -> Verdict:
        """Decide on a new connection from ``address`` besides those that wait."""
        present = list(waiting)
        held = Counter(connection.address for connection in present)
        if held[address] >= self._per_address:
            return Verdict(admitted=False)
        strangers = [connection for connection in present if connection.address not in self._known]
        if address not in self._known and len(strangers) >= self._total - self._reserved:
            return Verdict(admitted=True, evicted=_oldest_of_most(strangers, held))
        if len(present) >= self._total:
            return Verdict(admitted=True, evicted=_oldest_of_most(strangers or present, held))
        return Verdict(admitted=True)


def _oldest_of_most(candidates: Iterable[Waiting], held: Counter[str]) -> int:
    return min(candidates, key=lambda connection: (-held[connection.address], connection.number)).number

"""How often tags of implausible packets are tried: a bound on the AEAD work that a flood can ask for.

A receiver cannot tell a forged packet from a true one before it has tried the tag, but for one thing: the true sender
counts. A number far ahead of all that verified so far is not what it would send next, and only those are limited; so no
forgery makes a plausible packet be refused. Who knows what numbers are in use can forge plausible ones, and those are
all tried: for them the tag is the cheapest test there is.
"""

from __future__ import annotations

from geneve.security.association import InboundAssociation

PLAUSIBLE_AHEAD = 2**24
"""Numbers so far ahead of the highest that verified are always tried: minutes of loss at 100,000 packets a second."""
ATTEMPTS_PER_SECOND, ATTEMPTS_BURST = 100.0, 100.0
"""Tags of implausible packets that may fail, for each association."""


class FailureLimiter:
    """One bucket of failed attempts for each association, made when its first one fails. Times in seconds.

    Only failures cost: a packet that verifies takes nothing, and makes the numbers behind it plausible again.
    """

    __slots__ = ("_buckets", "_burst", "_rate")

    def __init__(self, rate: float = ATTEMPTS_PER_SECOND, burst: float = ATTEMPTS_BURST) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: dict[int, tuple[float, float]] = {}

    def allows(self, association: InboundAssociation, number: int, now: float) -> bool:
        """Return whether the tag of a packet with this sequence number may be tried; changes nothing.

        Before the first packet has verified every number may be: a receiver that was started anew does not know
        where its senders are.
        """
        highest = association.window.highest
        if number - highest <= PLAUSIBLE_AHEAD or not highest:
            return True
        bucket = self._buckets.get(association.spi)
        return bucket is None or self._tokens(bucket, now) >= 1.0

    def failed(self, association: InboundAssociation, number: int, now: float) -> None:
        """Note that the tag of a packet that :meth:`allows` let pass did not verify."""
        highest = association.window.highest
        if number - highest <= PLAUSIBLE_AHEAD or not highest:
            return
        bucket = self._buckets.get(association.spi)
        tokens = self._burst if bucket is None else self._tokens(bucket, now)
        self._buckets[association.spi] = (max(0.0, tokens - 1.0), now)

    def _tokens(self, bucket: tuple[float, float], now: float) -> float:
        tokens, noted = bucket
        return min(self._burst, tokens + (now - noted) * self._rate) if now > noted else tokens

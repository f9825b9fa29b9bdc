"""How often tags of implausible packets are tried: a bound on the AEAD work that a flood can ask for.

A receiver cannot tell a forged packet from a true one before it has tried the tag, but for one thing: the true sender
counts. A number far ahead of all that verified so far is not what it would send next, and only those are limited; so no
forgery makes a plausible packet be refused. Who knows what numbers are in use can forge plausible ones, and those are
all tried: for them the tag is the cheapest test there is. A stand-alone sender that was started several times without
being heard may be far ahead itself: it competes with the forger until one of its packets verifies.
"""

from __future__ import annotations

from geneve.security.replay import ReplayWindow

PLAUSIBLE_AHEAD = 2**24
"""Numbers so far ahead of the highest that verified are always tried: minutes of loss at 100,000 packets a second."""
ATTEMPTS_PER_SECOND, ATTEMPTS_BURST = 100.0, 100.0
"""Tags of implausible packets that may fail, for each association."""


class FailureLimiter:
    """One association's bucket of failed attempts; it lives as long as the ``window`` beside it. Times in seconds.

    Only failures cost: a packet that verifies takes nothing, and makes the numbers behind it plausible again.
    """

    __slots__ = ("_burst", "_noted", "_rate", "_tokens", "_window")

    def __init__(
        self, window: ReplayWindow, rate: float = ATTEMPTS_PER_SECOND, burst: float = ATTEMPTS_BURST
    ) -> None:
        self._window, self._rate, self._burst = window, rate, burst
        self._tokens, self._noted = burst, 0.0

    def allows(self, number: int, now: float) -> bool:
        """Return whether the tag of a packet with this sequence number may be tried.

        Before the first packet has verified every number may be: a receiver that was started anew does not know
        where its senders are.
        """
        return self._plausible(number) or self._filled(now) >= 1.0

    def failed(self, number: int, now: float) -> None:
        """Note that the tag of a packet that :meth:`allows` let pass did not verify."""
        if not self._plausible(number):
            self._tokens, self._noted = self._filled(now) - 1.0, max(self._noted, now)

    def _plausible(self, number: int) -> bool:
        highest = self._window.highest
        return number - highest <= PLAUSIBLE_AHEAD or not highest

    def _filled(self, now: float) -> float:
        """Return the tokens there are now; none come while the clock stands still or goes back."""
        return min(self._burst, self._tokens + max(0.0, now - self._noted) * self._rate)

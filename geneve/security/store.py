"""The associations a node holds, across changes of its state, each for its lifetime at most.

A push that repeats an association must not restart it: a sequence number or a replay window that
started again would repeat a nonce or accept a replay. So an end is made once for its SPI, kept as
long as the NVA names it, and never made again once it is gone. Its lifetime counts from the moment the
node first held it, by the node's own clock: the NVA may be out of reach when it ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from geneve.control.profile import Profile
from geneve.control.state import Association
from geneve.errors import ConfigError
from geneve.security.association import AssociationEnd, InboundAssociation, OutboundAssociation
from geneve.security.keylog import log_association

End = TypeVar("End", bound=AssociationEnd)


@dataclass(slots=True)
class Held(Generic[End]):
    """An association that a node holds; ``until`` is the time when its lifetime ends, ``expired`` that it has."""

    association: Association
    profile: Profile
    end: End
    until: float = math.inf
    expired: bool = False


class AssociationStore(Generic[End]):
    """All ends of one kind (``make`` is their class) that a node holds, by SPI. Times in seconds of one clock.

    ``key_log`` is told of the keys of each end, for demonstrations only (see keylog.py).
    """

    def __init__(
        self, make: Callable[[Association, Profile], End], key_log: Callable[[str], None] | None = None
    ) -> None:
        self._make: Callable[[Association, Profile], End] = make
        self._key_log = key_log
        self._held: dict[int, Held[End]] = {}
        self._retired: set[int] = set()

    def prepare(
        self, associations: Iterable[Association], profiles: Mapping[str, Profile], now: float = 0.0
    ) -> dict[int, Held[End]]:
        """Work out what to hold for ``associations``, changing nothing; :meth:`commit` takes the result.

        What is new is held from ``now`` on. ConfigError when an SPI stands twice, comes back after it was
        withdrawn, comes with other contents than before, or names an unknown profile.
        """
        prepared: dict[int, Held[End]] = {}
        for association in associations:
            spi = association.spi
            profile = profiles.get(association.profile)
            if profile is None:
                raise ConfigError(f"association {spi:#010x} names the unknown profile {association.profile!r}.")
            if spi in prepared:
                raise ConfigError(f"association {spi:#010x} is given twice; an SPI names one association.")
            if spi in self._retired:
                raise ConfigError(f"association {spi:#010x} was withdrawn before; use a fresh SPI and secret.")
            held = self._held.get(spi)
            if held is None:
                prepared[spi] = self._hold(association, profile, now)
            elif (held.association, held.profile) == (association, profile):
                prepared[spi] = held
            else:
                raise ConfigError(f"association {spi:#010x} changed; use a fresh SPI and secret instead.")
        return prepared

    def _hold(self, association: Association, profile: Profile, now: float) -> Held[End]:
        try:
            end = self._make(association, profile)
        except ValueError as error:
            raise ConfigError(f"association {association.spi:#010x}: {error}.") from None
        lifetime = profile.lifetime_seconds
        return Held(association, profile, end, math.inf if lifetime is None else now + lifetime)

    def commit(self, prepared: dict[int, Held[End]]) -> None:
        """Hold exactly what :meth:`prepare` returned; every other SPI is gone for good."""
        self._retired |= self._held.keys() - prepared.keys()
        if self._key_log is not None:
            for spi in prepared.keys() - self._held.keys():
                held = prepared[spi]
                if isinstance(held.end, InboundAssociation | OutboundAssociation):
                    log_association(held.association, held.profile, held.end, self._key_log)
        self._held = prepared

    def expire(self, now: float) -> list[int]:
        """Take what is past its lifetime out of use, for good; return the SPIs that were in use until now."""
        gone = [spi for spi, held in self._held.items() if held.until <= now and not held.expired]
        for spi in gone:
            self._held[spi].expired = True
        return gone

    def next_expiry(self) -> float:
        """Return when :meth:`expire` is needed next; infinity when nothing held ever expires."""
        return min((held.until for held in self._held.values() if not held.expired), default=math.inf)

    def ends(self) -> list[End]:
        """Return the ends that may be used now."""
        return usable(self._held)[0]

    def expired_ends(self) -> list[End]:
        """Return the ends that are past their lifetime and not withdrawn yet."""
        return usable(self._held)[1]


def usable(prepared: Mapping[int, Held[End]]) -> tuple[list[End], list[End]]:
    """Return the ends of a prepared set that may be used, and those that are past their lifetime."""
    return (
        [held.end for held in prepared.values() if not held.expired],
        [held.end for held in prepared.values() if held.expired],
    )

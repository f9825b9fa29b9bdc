"""The associations a node holds, across changes of its state.

A push that repeats an association must not restart it: a sequence number or a replay window that
started again would repeat a nonce or accept a replay. So an end is made once for its SPI, kept as
long as the NVA names it, and never made again once it is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from geneve.control.profile import Profile
from geneve.control.state import Association
from geneve.errors import ConfigError
from geneve.security.association import InboundAssociation, OutboundAssociation
from geneve.security.keylog import log_association

End = TypeVar("End", InboundAssociation, OutboundAssociation)


class AssociationStore(Generic[End]):
    """All ends of one kind (``make`` is their class) that a node holds, by SPI.

    ``key_log`` is told of the keys of each end, for demonstrations only (see keylog.py).
    """

    def __init__(
        self, make: Callable[[Association, Profile], End], key_log: Callable[[str], None] | None = None
    ) -> None:
        self._make: Callable[[Association, Profile], End] = make
        self._key_log = key_log
        self._held: dict[int, tuple[Association, Profile, End]] = {}
        self._retired: set[int] = set()

    def prepare(
        self, associations: Iterable[Association], profiles: Mapping[str, Profile]
    ) -> dict[int, tuple[Association, Profile, End]]:
        """Work out what to hold for ``associations``, changing nothing; :meth:`commit` takes the result.

        ConfigError when an SPI stands twice, comes back after it was withdrawn, comes with other
        contents than before, or names an unknown profile.
        """
        prepared: dict[int, tuple[Association, Profile, End]] = {}
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
                try:
                    prepared[spi] = (association, profile, self._make(association, profile))
                except ValueError as error:
                    raise ConfigError(f"association {spi:#010x}: {error}.") from None
            elif held[:2] == (association, profile):
                prepared[spi] = held
            else:
                raise ConfigError(f"association {spi:#010x} changed; use a fresh SPI and secret instead.")
        return prepared

    def commit(self, prepared: dict[int, tuple[Association, Profile, End]]) -> None:
        """Hold exactly what :meth:`prepare` returned; every other SPI is gone for good."""
        self._retired |= self._held.keys() - prepared.keys()
        if self._key_log is not None:
            for spi in prepared.keys() - self._held.keys():
                log_association(*prepared[spi], self._key_log)
        self._held = prepared

    def ends(self) -> list[End]:
        """Return the ends held now."""
        return [end for _, _, end in self._held.values()]

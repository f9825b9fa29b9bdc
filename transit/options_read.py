"""Which options a transit device could read, for demonstrations of who reads what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from geneve.option import Option
from geneve.security.option import is_mechanism_option

MAX_KINDS = 64
"""Kinds of options that are remembered; further ones are not."""


class OptionsRead:
    """Counts options by class and type, and keeps the last value of each kind.

    Those values may have been hidden from everyone but this device. They stand in the stats document only,
    whose socket is the device owner's alone: who may read it could read the device's keys as well. They
    belong in no log and in no record for the collector.
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[int, int], list[Any]] = {}

    def add(self, options: Iterable[Option]) -> None:
        """Remember ``options``; the mechanism's own are not counted."""
        for option in options:
            entry = self.entry(option.option_class, option.type)
            if entry is not None:
                entry[0] += 1
                entry[1] = option.data

    def entry(self, option_class: int, option_type: int) -> list[Any] | None:
        """Return count and last value of a kind, which the caller keeps up to date; None if it is not remembered."""
        key = (option_class, option_type)
        entry = self._kinds.get(key)
        if entry is None and len(self._kinds) < MAX_KINDS and not is_mechanism_option(*key):
            entry = self._kinds[key] = [0, b""]
        return entry

    def document(self) -> dict[str, dict[str, Any]]:
        """Return ``{"0xff60:0x07": {"count": n, "last": hexadecimal data}}``, sorted."""
        return {
            f"{option_class:#06x}:{option_type:#04x}": {"count": count, "last": last.hex()}
            for (option_class, option_type), (count, last) in sorted(self._kinds.items())
        }

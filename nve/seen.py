"""Which options reached this NVE, authenticated or hidden, for demonstrations and probes."""

from __future__ import annotations

from typing import Any

from geneve.security.open import Kinds, Opened
from geneve.telemetry import TELEMETRY_CLASS, TELEMETRY_TYPE

MAX_KINDS = 64
"""Kinds of options counted; what comes beyond is left out."""

_EVERY_PACKET: Kinds = frozenset({(TELEMETRY_CLASS, TELEMETRY_TYPE)})


class SeenOptions:
    """Counts options by class and type, and remembers the last value of those that are not telemetry's."""

    def __init__(self) -> None:
        self._packets: dict[Kinds, int] = {}
        self._last: dict[tuple[int, int], str] = {}

    def note(self, opened: Opened, count: int = 1) -> None:
        """Note the options of ``count`` packets that were delivered; ``opened`` is the last of them."""
        kinds = opened.kinds
        if kinds in self._packets or len(self._packets) < MAX_KINDS:
            self._packets[kinds] = self._packets.get(kinds, 0) + count
        if kinds <= _EVERY_PACKET:
            return
        for option in opened.options():
            kind = (option.option_class, option.type)
            if kind in self._last or len(self._last) < MAX_KINDS:
                self._last[kind] = option.data.hex()

    def document(self) -> dict[str, dict[str, Any]]:
        """Return count and last value (hexadecimal) of each option, by ``0xclass:0xtype``."""
        counts: dict[tuple[int, int], int] = {}
        for kinds, packets in self._packets.items():
            for kind in kinds:
                counts[kind] = counts.get(kind, 0) + packets
        return {
            f"{kind[0]:#06x}:{kind[1]:#04x}": {"count": count, "last": self._last.get(kind)}
            for kind, count in sorted(counts.items())
        }

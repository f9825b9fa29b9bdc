"""What must survive the NVA: records to keep or to drop, collected by the logic and written by the store. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

META, NODE, ASSOCIATION, DEMAND, MAPPING, POLICY = "meta", "node", "association", "demand", "mapping", "policy"
"""Kinds of records."""

SPI_RECORD = (META, "spi")
"""Kind and name of the record that says how far SPIs are given out."""

SECRET_FIELD = "secret"  # noqa: S105 - the name of a field, not a secret
"""The field of a record that is a secret: the store seals it."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Write a record; ``content`` is a JSON object. Its representation does not show it: it can hold a secret."""

    kind: str
    name: str
    content: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove a record."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class AuditLine:
    """A line of the audit log; ``time`` is UTC in seconds."""

    number: int
    time: float
    kind: str
    node: str
    text: str


Change = Keep | Drop | AuditLine

Saved = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""All records: kind, name, content."""


class Journal:
    """The changes since they were last taken, in order; of a record only the newest counts."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], Keep | Drop] = {}
        self._audit: list[AuditLine] = []

    def keep(self, kind: str, name: str, content: Mapping[str, Any]) -> None:
        """Note a record to write."""
        self._records[kind, name] = Keep(kind, name, content)

    def drop(self, kind: str, name: str) -> None:
        """Note a record to remove."""
        self._records[kind, name] = Drop(kind, name)

    def audit(self, line: AuditLine) -> None:
        """Note a line of the audit log."""
        self._audit.append(line)

    def take(self) -> list[Change]:
        """Return the changes and start anew."""
        changes: list[Change] = [*self._records.values(), *self._audit]
        self._records, self._audit = {}, []
        return changes

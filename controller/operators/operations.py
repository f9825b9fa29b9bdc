"""What an operator can ask the controller to do, as plain data: the contract between northbound and core.

Every operation is idempotent: asked twice, it is done once, and the second answer says the same.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from enum import Enum
from typing import Any

from geneve.control.state import Mapping


class Fault(str, Enum):
    """Why an operation was refused."""

    NOT_FOUND = "not_found"
    """There is nothing of that name."""
    INVALID = "invalid"
    """What was given is not sound; the text is one sentence that names the key at fault."""
    CONFLICT = "conflict"
    """It contradicts what holds now, such as a policy made from an older version."""


class OperationError(Exception):
    """An operation was refused; the text is one sentence for the operator."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Rekey:
    """Replace associations by fresh ones, make before break: one (``spi``), all of a node, or all there are."""

    spi: int | None = None
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Revoke:
    """Cut a node off: its associations die everywhere, and it cannot register until it is restored."""

    node: str


@dataclass(frozen=True, slots=True)
class Restore:
    """Let a revoked node register again."""

    node: str


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """Replace the policy as a whole: ``document`` has the keys of ``PolicyDocument`` in policies.py.

    With ``expected_version`` the operation is refused unless that version is in force.
    """

    document: MappingType[str, Any]
    expected_version: int | None = None


@dataclass(frozen=True, slots=True)
class SetMapping:
    """Add or replace a static mapping; it wins over whatever was learned."""

    mapping: Mapping


@dataclass(frozen=True, slots=True)
class RemoveMapping:
    """Remove a static mapping, or a learned one until its NVE reports it again."""

    vni: int
    mac: str


Operation = Rekey | Revoke | Restore | SetPolicy | SetMapping | RemoveMapping

"""What comes to the NVA, and what it has done: connections are numbers that the caller chooses. Pure data."""

from __future__ import annotations

from dataclasses import dataclass

from controller.authority.lines import Paths
from geneve.control import jsonrpc


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection's handshake is complete; ``name`` is the common name of its certificate."""

    connection: int
    name: str


@dataclass(frozen=True, slots=True)
class Received:
    """A message came on a connection."""

    connection: int
    message: jsonrpc.Message


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection is gone."""

    connection: int
    reason: str


@dataclass(frozen=True, slots=True)
class PathsAre:
    """The transit devices on the paths between NVEs."""

    paths: Paths


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Input = Opened | Received | Closed | PathsAre | Tick


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message on a connection."""

    connection: int
    message: jsonrpc.Message


@dataclass(frozen=True, slots=True)
class Close:
    """Close a connection once what was sent on it before is out."""

    connection: int
    reason: str


Effect = Send | Close

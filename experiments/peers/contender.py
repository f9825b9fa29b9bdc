"""What the benchmark asks of a contender: its description, and how it is brought up between the two ends."""

from __future__ import annotations

import contextlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from experiments.peers.network import SIDES, UNDERLAY_MTU, Network
from experiments.peers.sockets import widen_receive_buffers
from topologies.daemon import Daemon, stop_all, wait_for

_SBIN = "/usr/sbin:/sbin:/usr/lib/ipsec:/usr/local/sbin"
_SETTLE_SECONDS = 15.0


class PeerError(RuntimeError):
    """A contender cannot be brought up; the text is the reason for its missing samples."""


class Kind(str, Enum):
    """Where a contender's data path runs."""

    OURS = "ours"
    USER_SPACE = "user space"
    KERNEL = "kernel"


@dataclass(frozen=True, slots=True)
class Description:
    """What is written about a contender in the results.

    ``overhead``: bytes between the tenant's IP packet and the underlay's MTU. ``layer``: 2 where tenants are joined by
    a bridge at each end, 3 where the ends route. ``protection``: what is done to packets; None is nothing.
    """

    name: str
    title: str
    kind: Kind
    layer: int
    overhead: int
    protection: str | None
    encrypts: bool
    program: str | None = None
    """The program that must be there; None where the kernel does everything."""
    devices: int = 0
    """Transit devices on the underlay."""
    notes: str = ""
    underlay_mtu: int = UNDERLAY_MTU

    @property
    def tenant_mtu(self) -> int:
        """The tenants' MTU in bytes: the most that the underlay carries unfragmented."""
        return self.underlay_mtu - self.overhead

    def as_dict(self) -> dict[str, Any]:
        """Return all fields and the tenants' MTU for run.json."""
        return {**asdict(self), "kind": self.kind.value, "tenant_mtu": self.tenant_mtu}


def find_program(name: str) -> str:
    """Return the path of a contender's program; PeerError when it is not installed."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":" + _SBIN)
    if found is None:
        raise PeerError(f"{name} is not installed; 'make bench-setup' installs the peers")
    return found


@dataclass(slots=True)
class Running:
    """What runs of a contender. ``folder`` is private, in a file system that goes with the sandbox."""

    network: Network
    folder: Path
    daemons: list[Daemon] = field(default_factory=list)
    processes: dict[str, list[int]] = field(default_factory=dict)
    """Process ids by end: ``left``, ``right`` and ``transit``; what works for the contender in user space."""
    facts: dict[str, Any] = field(default_factory=dict)
    cleanup: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def launch(
        self, end: str, name: str, argv: Sequence[str], *, node: str | None = None,
        environment: Mapping[str, str] | None = None, counted: bool = True,
    ) -> Daemon:  # fmt: skip
        """Start a program in an end (or the ``node`` named) and count it as the contender's, unless not ``counted``."""
        argv = self.network.node(node or end).wrap(argv)
        wanted = {**os.environ, "PATH": os.environ.get("PATH", "") + ":" + _SBIN, **(environment or {})}
        daemon = Daemon(name, argv, self.folder / f"{name}.log", wanted)
        self.daemons.append(daemon)
        if counted:
            self.processes.setdefault(end, []).append(daemon.pid)
        return daemon

    def wait_for_interface(self, side: str, name: str) -> None:
        """Return when an end has an interface; TestbedError when it does not come."""
        wait_for(f"interface {name}", lambda: self.network.has_interface(side, name), self.daemons, _SETTLE_SECONDS)

    def side_folder(self, side: str) -> Path:
        """Return and make a private folder of one end."""
        path = self.folder / side
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def level(self) -> None:
        """Give every contender the same receive buffers, whatever its program asks for."""
        self.facts["receive_buffers"] = {
            end: sum(map(widen_receive_buffers, pids)) for end, pids in self.processes.items()
        }  # fmt: skip

    def stop(self) -> None:
        """End all programs, by their process ids, and undo what was set up."""
        stop_all(self.daemons)
        self.cleanup.close()


class Contender(ABC):
    """One tunnel, or the want of one."""

    def __init__(self, description: Description) -> None:
        self.description = description

    @abstractmethod
    def start(self, running: Running) -> None:
        """Bring the contender up between the ends, whose wires are laid; PeerError or TestbedError if it cannot be."""

    def observe(self, running: Running) -> None:  # noqa: B027 most have nothing to tell
        """Note in ``running.facts`` what the contender itself has counted."""

    def attach(self, running: Running, interfaces: Mapping[str, str]) -> None:
        """Join the tenants to the tunnel's interfaces, by a bridge or by routes."""
        join = running.network.bridge if self.description.layer == 2 else running.network.route
        for side in SIDES:
            running.wait_for_interface(side, interfaces[side])
            join(side, interfaces[side], self.description.tenant_mtu)

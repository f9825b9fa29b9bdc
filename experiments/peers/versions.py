"""Which peers are installed, in which version."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from experiments.peers.contender import PeerError, find_program

_PROGRAMS = {
    "openvpn": ["openvpn", "--version"], "wireguard-go": ["wireguard-go", "--version"], "wg": ["wg", "--version"],
    "fastd": ["fastd", "--version"], "tinc": ["tincd", "--version"], "strongswan": ["swanctl", "--version"],
    "ovs-vswitchd": ["ovs-vswitchd", "--version"],
}  # fmt: skip
_SETTINGS = ("net/core/rmem_max", "net/core/rmem_default", "net/core/netdev_max_backlog")


def describe() -> dict[str, str | None]:
    """Return the first line with a number that each peer's program says of itself, and settings that matter to it."""
    found = {name: _version(argv) for name, argv in _PROGRAMS.items()}
    return found | {name.replace("/", "."): _setting(name) for name in _SETTINGS}


def _version(argv: list[str]) -> str | None:
    try:
        done = subprocess.run(
            [find_program(argv[0]), *argv[1:]], capture_output=True, text=True, check=False, timeout=10
        )
    except (PeerError, OSError, subprocess.SubprocessError):
        return None
    lines = (done.stdout + done.stderr).splitlines()
    return next((line.strip()[:100] for line in lines if re.search(r"\d+\.\d+|v\d+", line)), None)


def _setting(name: str) -> str | None:
    try:
        return (Path("/proc/sys") / name).read_text().strip()
    except OSError:
        return None

"""What a run was made with: code, programs, kernel and machine. Nothing in it is secret."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    "cryptography", "numpy", "pydantic", "PyYAML", "mininet", "ryu", "os-ken", "eventlet", "scapy", "matplotlib",
)  # fmt: skip
_PROGRAMS = {
    "ovs-vswitchd": ["ovs-vswitchd", "--version"], "iperf3": ["iperf3", "--version"],
    "tcpdump": ["tcpdump", "--version"], "ping": ["ping", "-V"], "ethtool": ["ethtool", "--version"],
}  # fmt: skip
_ROOT = Path(__file__).resolve().parent.parent


def describe() -> dict[str, Any]:
    """Return versions, git state and machine, as run.json keeps them; what is not there says so."""
    return {
        "git": git_state(),
        "python": platform.python_version(),
        "packages": {name: _package(name) for name in _PACKAGES},
        "programs": {name: _first_line(argv) for name, argv in _PROGRAMS.items()},
        "kernel": platform.release(),
        "system": _system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "cpu_model": _cpu_model(),
    }


def git_state() -> dict[str, Any]:
    """Return commit, branch and whether the working tree differs from it; nulls outside a repository."""
    commit = _output(["git", "rev-parse", "HEAD"])
    changes = _output(["git", "status", "--porcelain", "--untracked-files=no"])
    return {
        "commit": commit,
        "branch": _output(["git", "rev-parse", "--abbrev-ref", "HEAD"]),
        "dirty": None if commit is None or changes is None else bool(changes),
    }


def _output(argv: list[str]) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv, cwd=_ROOT, capture_output=True, text=True, timeout=10, check=True, env=environment
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout or done.stderr).strip()


def _first_line(argv: list[str]) -> str | None:
    output = _output(argv)
    return output.splitlines()[0] if output else None


def _package(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _system() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def _cpu_model() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else None

"""``make doctor``: every tool, kernel feature and version the testbed can use, found or missing.

For each missing one it says what that costs and what is used instead. Kernel features are tried in
a throw-away namespace; nothing on the machine is changed. Every run records the same findings.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from topologies.ovs import find_program, find_schema

_PROBE_SECONDS = 60


class Status(str, Enum):
    """What was found; only MISSING of something essential makes the doctor's exit code 1."""

    FOUND = "found"
    FALLBACK = "fallback"
    MISSING = "MISSING"


@dataclass(frozen=True)
class Finding:
    """One thing looked for. ``consequence`` says what its absence costs and what is used instead."""

    group: str
    name: str
    status: Status
    detail: str
    consequence: str = ""


@dataclass(frozen=True)
class _Want:
    name: str
    without: str
    essential: bool = True
    version: tuple[str, ...] = ()


_SETUP = "nothing runs without it; 'make setup' installs it"

_TOOLS = (
    _Want("ovs-vswitchd", _SETUP, version=("--version",)),
    _Want("ovsdb-server", _SETUP, version=("--version",)),
    _Want("ovs-vsctl", _SETUP, version=("--version",)),
    _Want("ovs-ofctl", "no look at flow tables in 'make cli'", essential=False),
    _Want("mnexec", _SETUP, version=("--version",)),
    _Want("ip", _SETUP, version=("-V",)),
    _Want("tc", "links cannot have rate or delay; a transit device's 'impair' can", False, ("-V",)),
    _Want("ethtool", _SETUP, version=("--version",)),
    _Want("sysctl", _SETUP),
    _Want("ping", "no round-trip times and no connectivity tests", version=("-V",)),
    _Want("iperf3", "no goodput figures", version=("--version",)),
    _Want("tcpdump", "no captures", version=("--version",)),
    _Want("tshark", "no check of captures by an independent dissector", version=("--version",)),
    _Want("git", "runs do not record the state of the code", False, ("--version",)),
)

_PACKAGES = (
    "mininet", "cryptography", "pydantic", "PyYAML", "scapy", "numpy", "matplotlib", "eventlet",
    "pytest", "hypothesis", "mypy", "ruff",
)  # fmt: skip

_FEATURES = (
    _Want("veth", "no emulated network at all"),
    _Want("bridge", "no NVE can join its tenants' ports"),
    _Want("tap", "no NVE can exchange frames with its tenants"),
    _Want("packet-vnet-hdr", "transit devices cannot relay frames that leave checksums to the hardware"),
    _Want("udp-segment", "NVEs send one packet per system call: lower goodput", False),
    _Want("udp-gro", "NVEs receive one packet per system call: lower goodput", False),
    _Want("tbf", "links with rate_mbit are refused; use 'impair' of a transit device", False),
    _Want("netem", "links with delay_ms are refused; use 'impair' of a transit device", False),
    _Want("ovs-datapath", "the underlay's switches run in user space, offloads off: slower, same results", False),
    _Want("geneve-device", "foreign Geneve endpoints come from Open vSwitch's user space instead", False),
    _Want("xfrm-esp", "no kernel IPsec to compare with", False),
)


def _verdict(present: bool, essential: bool) -> Status:
    if present:
        return Status.FOUND
    return Status.MISSING if essential else Status.FALLBACK


def _version(program: str, arguments: Sequence[str]) -> str:
    if not arguments:
        return ""
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=False, timeout=10, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return "version unknown"
    found = re.search(r"\d+(\.\d+)+[^\s,]*|\d{8}", done.stdout + done.stderr)
    return found.group() if found else "version unknown"


def _tools() -> list[Finding]:
    findings = []
    for want in _TOOLS:
        path = find_program(want.name)
        detail = "not on the path" if path is None else f"{_version(path, want.version)} {path}".strip()
        status = _verdict(path is not None, want.essential)
        findings.append(Finding("tool", want.name, status, detail, "" if path else want.without))
    schema = find_schema()
    status = _verdict(schema is not None, essential=True)
    findings.append(Finding("tool", "vswitch.ovsschema", status, str(schema or "not found"), "" if schema else _SETUP))
    return findings


def _packages() -> list[Finding]:
    findings = []
    for name in _PACKAGES:
        try:
            version, status = importlib.metadata.version(name), Status.FOUND
        except importlib.metadata.PackageNotFoundError:
            version, status = "not installed", Status.MISSING
        findings.append(Finding("package", name, status, version, "" if status is Status.FOUND else _SETUP))
    return findings


_RYU_IMPORT = (
    "import eventlet.wsgi as w; w.ALREADY_HANDLED = getattr(w, 'ALREADY_HANDLED', object()); "
    "import ryu.base.app_manager, ryu.ofproto.ofproto_v1_3, ryu.ofproto.ofproto_v1_5"
)
_OS_KEN_IMPORT = "import os_ken.base.app_manager, os_ken.ofproto.ofproto_v1_3, os_ken.ofproto.ofproto_v1_5"


def _frameworks() -> list[Finding]:
    findings = []
    for name, code in (("ryu", _RYU_IMPORT), ("os-ken", _OS_KEN_IMPORT)):
        argv = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        lines = done.stderr.strip().splitlines()
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        works = done.returncode == 0
        detail = version if works else f"{version}, does not import: {lines[-1] if lines else 'no reason given'}"
        without = "" if works else f"the controller runs on {'os-ken' if name == 'ryu' else 'ryu'}"
        findings.append(Finding("controller", name, _verdict(works, False), detail, without))
    if all(finding.status is not Status.FOUND for finding in findings):
        findings.append(Finding("controller", "framework", Status.MISSING, "neither works", _SETUP))
    return findings


def _machine() -> list[Finding]:
    root = os.geteuid() == 0
    cores = os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = sys.version_info[:2]
    supported = (3, 10) <= python <= (3, 13)
    return [
        Finding(
            "machine", "root", _verdict(root, True), "yes" if root else "no",
            "" if root else "only tests without a network, plots and lint; use sudo for the rest",
        ),
        Finding("machine", "kernel", Status.FOUND, platform.release()),
        Finding("machine", "system", Status.FOUND, _system()),
        Finding(
            "machine", "python", _verdict(supported, True), platform.python_version(),
            "" if supported else "the lock file is for Python 3.10 to 3.13; set PYTHON for 'make setup'",
        ),
        Finding(
            "machine", "cores", _verdict(cores >= 2, False), str(cores),
            "" if cores >= 2 else "programs share one core: figures are lower and noisier",
        ),
        Finding(
            "machine", "memory", _verdict(memory >= 2, False), f"{memory:.1f} GiB",
            "" if memory >= 2 else "the default scenario needs about 1 GiB; take the small one",
        ),
    ]  # fmt: skip


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"


def _features() -> list[Finding]:
    """Try each kernel feature inside a sandbox of its own, which also proves that a sandbox works."""
    if os.geteuid() != 0:
        reason = "not tried: needs root"
        return [Finding("kernel", want.name, Status.FALLBACK, reason, want.without) for want in _FEATURES]
    argv = [sys.executable, "-m", "topologies.sandbox", "--", sys.executable, "-m", "topologies.capabilities"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_PROBE_SECONDS)
        answers: dict[str, tuple[bool, str]] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        detail = str(error) if isinstance(error, subprocess.TimeoutExpired) else done.stderr.strip()
        without = "nothing live runs; a container needs --privileged"
        return [Finding("kernel", "namespaces", Status.MISSING, detail, without)]
    findings = [Finding("kernel", "namespaces", Status.FOUND, "network, mount, process and IPC")]
    for want in _FEATURES:
        works, reason = answers[want.name]
        status = _verdict(works, want.essential)
        findings.append(
            Finding("kernel", want.name, status, "works" if works else reason, "" if works else want.without)
        )
    return findings


def examine() -> list[Finding]:
    """Look at everything; takes a few seconds."""
    return [*_machine(), *_tools(), *_features(), *_packages(), *_frameworks()]


def as_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as a JSON document, by group and name."""
    document: dict[str, Any] = {}
    for finding in findings:
        entry = {key: value for key, value in asdict(finding).items() if key not in {"group", "name"} and value}
        document.setdefault(finding.group, {})[finding.name] = entry
    return document


def render(findings: Sequence[Finding]) -> str:
    """Return the findings as a table for a terminal."""
    lines = []
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            lines.append(f"{group}:")
        lines.append(f"  {finding.status.value:<9} {finding.name:<18} {finding.detail}")
        if finding.consequence:
            lines.append(f"            {'':<18} -> {finding.consequence}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; exit code 1 when something essential is missing."""
    parser = argparse.ArgumentParser(prog="experiments.doctor", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings to FILE as JSON too")
    arguments = parser.parse_args(argv)
    findings = examine()
    print(render(findings))
    if arguments.json is not None:
        try:
            arguments.json.write_text(json.dumps(as_document(findings), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            print(f"doctor: {arguments.json}: cannot be written ({error.strerror}).", file=sys.stderr)
            return 2
    missing = [finding.name for finding in findings if finding.status is Status.MISSING]
    if missing:
        print(f"\ndoctor: missing and essential: {', '.join(missing)}.")
        return 1
    print("\ndoctor: everything essential is there.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

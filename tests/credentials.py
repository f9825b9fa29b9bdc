"""Certificates for tests, made by the testbed's own CA."""

from __future__ import annotations

import datetime
from pathlib import Path

from controller.pki import TestbedCa, write_credentials, write_file
from geneve.control.tls import TlsFiles


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def make_ca(days_ago: float = 0) -> TestbedCa:
    """A CA whose certificates are valid for a day from ``days_ago``."""
    return TestbedCa(now() - datetime.timedelta(days=days_ago), hours=24)


def node_files(folder: Path, authority: TestbedCa, name: str) -> TlsFiles:
    write_file(folder / "ca.pem", authority.certificate, 0o644)
    write_credentials(folder, name, authority.issue_node(name))
    return _files(folder, name)


def nva_files(folder: Path, authority: TestbedCa, name: str = "nva") -> TlsFiles:
    write_file(folder / "ca.pem", authority.certificate, 0o644)
    write_credentials(folder, name, authority.issue_nva(name, ["192.0.2.1", "127.0.0.1"]))
    return _files(folder, name)


def _files(folder: Path, name: str) -> TlsFiles:
    return TlsFiles(str(folder / "ca.pem"), str(folder / f"{name}.pem"), str(folder / f"{name}.key"))

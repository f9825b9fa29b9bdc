"""The controller's program: user errors are one sentence and exit code 2, with either framework."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.controller.inventories import document
from tests.credentials import make_ca, nva_files

ROOT = Path(__file__).parents[2]
PACKAGES = {"ryu": "ryu", "os-ken": "os_ken"}


@pytest.fixture(params=["ryu", "os-ken"])
def framework(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    pytest.importorskip(PACKAGES[name], exc_type=ImportError)
    return name


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "controller", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_missing_inventory(framework: str, tmp_path: Path) -> None:
    result = run("--inventory", str(tmp_path / "none.json"), "--framework", framework)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "none.json: cannot be read" in result.stderr


def test_missing_certificates(framework: str, tmp_path: Path) -> None:
    (tmp_path / "inventory.json").write_text(json.dumps(document()))
    result = run("--inventory", str(tmp_path / "inventory.json"), "--framework", framework)
    assert result.returncode == 2
    assert "ca.pem" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_address_that_is_not_this_machine_s(framework: str, tmp_path: Path) -> None:
    nva_files(tmp_path, make_ca())
    inventory = document()
    inventory["nva"]["address"] = "192.0.2.1"  # reserved for documentation (RFC 5737)
    (tmp_path / "inventory.json").write_text(json.dumps(inventory))
    result = run("--inventory", str(tmp_path / "inventory.json"), "--framework", framework)
    assert result.returncode == 2
    assert "cannot listen on 192.0.2.1 port 6640" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_framework() -> None:
    assert run("--inventory", "x", "--framework", "nox").returncode == 2

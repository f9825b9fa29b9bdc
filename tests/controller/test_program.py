"""The controller's program: user errors are one sentence and exit code 2, with either framework."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from geneve.control.rest_client import RestClient, RestError
from tests.controller.inventories import document
from tests.credentials import make_ca, node_files, nva_files

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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(framework: str, inventory: dict[str, Any], folder: Path) -> Iterator[None]:
    (folder / "inventory.json").write_text(json.dumps(inventory))
    argv = [sys.executable, "-m", "controller", "--inventory", str(folder / "inventory.json")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*argv, "--framework", framework], cwd=ROOT, stdout=log, stderr=log)
    try:
        yield
        assert process.poll() is None, (folder / "log").read_text()
    finally:
        process.terminate()
        process.wait(20)


def test_operators_are_served_through_a_crowd(framework: str, tmp_path: Path) -> None:
    authority = make_ca()
    nva_files(tmp_path, authority)
    alice, node = (node_files(tmp_path, authority, name) for name in ("alice", "nve1"))
    inventory = document()
    inventory["nva"] |= {"address": "127.0.0.1", "port": free_port()}
    inventory["operators"] = ["alice"]
    inventory |= {key: {"address": "127.0.0.1", "port": free_port()} for key in ("openflow", "rest")}
    port = inventory["rest"]["port"]
    client = RestClient(f"https://127.0.0.1:{port}", alice, timeout=20)
    with running(framework, inventory, tmp_path), contextlib.ExitStack() as crowd:
        deadline = time.monotonic() + 30
        while True:
            try:
                assert len(client.request("GET", "/v1/nodes")["nodes"]) == 5
                break
            except RestError:
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.1)
        with contextlib.closing(client.events(after=0)) as stream:
            for _ in range(500):
                crowd.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            with pytest.raises(RestError, match="'nve1' is no operator"):
                RestClient(client.url, node, timeout=20).request("POST", "/v1/nodes/nve2/revoke", {})
            assert client.request("POST", "/v1/nodes/nve2/revoke", {}) == {"node": "nve2", "revoked": True}
            kinds = set()
            while not kinds >= {"refused", "revoked", "operator"}:
                kinds.add(next(stream)["kind"])

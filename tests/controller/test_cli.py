"""The operators' command line against a listener on the loopback: what it asks for, prints, and exits with."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller import cli
from controller.operators.operations import (
    Fault,
    Operation,
    OperationError,
    Rekey,
    RemoveMapping,
    Restore,
    Revoke,
    SetMapping,
    SetPolicy,
)
from geneve.control.rest_client import RestError
from geneve.control.state import Mapping
from geneve.control.tls import TlsFiles
from tests.controller.operator_backend import NODE, POLICY, FakeBackend
from tests.controller.test_rest_server import World

Run = Callable[..., tuple[int, str, str]]


class PolicyBackend(FakeBackend):
    """Gives the answers that a shell gives to operations."""

    rejection: dict[str, Any] | None = None

    def operate(self, operation: Operation) -> dict[str, Any]:
        super().operate(operation)
        if isinstance(operation, SetPolicy):
            if operation.expected_version not in (None, self.policy_version):
                raise OperationError(Fault.CONFLICT, f"version {self.policy_version} is in force.")
            self.policy_version += self.rejection is None
            return {"version": 4}
        if isinstance(operation, (Revoke, Restore)):
            return {"node": operation.node, "revoked": isinstance(operation, Revoke)}
        if isinstance(operation, SetMapping):
            return {"mapping": operation.mapping.model_dump(mode="json")}
        return {"removed": True} if isinstance(operation, RemoveMapping) else {"replaced": 2}

    def view(self, name: str) -> dict[str, Any] | None:
        view = super().view(name)
        if name == "policy" and view is not None:
            view["rejected"] = self.rejection
        return view


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    return World(tmp_path, PolicyBackend())


@pytest.fixture
def run(world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    set_environment(monkeypatch, world.url, world.alice)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def set_environment(monkeypatch: pytest.MonkeyPatch, url: str, files: TlsFiles) -> None:
    for name, value in (("URL", url), ("CA", files.ca), ("CERT", files.certificate), ("KEY", files.key)):
        monkeypatch.setenv(f"GENEVE_NVA_{name}", value)


def test_every_resource_as_table_and_as_json(run: Run) -> None:
    for name in (*cli.RESOURCES, "policy", "events"):
        code, out, _ = run(name)
        assert code == 0
        assert out.strip()
        code, out, _ = run("--json", name)
        assert (code, run(name, "--json")) == (0, (0, out, ""))
        assert isinstance(json.loads(out), dict)
    assert json.loads(run("nodes", "--json")[1])["nodes"] == [NODE]
    assert run("policy") == run("policy", "show")


def test_operations(run: Run, world: World) -> None:
    mac = "02:00:00:00:00:0a"
    assert run("rekey", "--all") == (0, "2 associations are being replaced.\n", "")
    run("rekey", "--node", "nve1")
    run("rekey", "--spi", "0x1267")
    assert run("revoke", "nve1") == (0, "nve1 is revoked: it has no keys and cannot register.\n", "")
    assert run("restore", "nve1")[1] == "nve1 is free to register.\n"
    mapping_options = ("--nve", "nve1", "--ip", "10.0.0.9", "--ip", "fd00::9", "--tag", "3")
    code, out, _ = run("mapping", "set", "100", mac, *mapping_options)
    assert (code, out) == (0, f"{mac} (10.0.0.9,fd00::9) of VNI 100 is behind nve1.\n")
    assert run("--json", "mapping", "remove", "100", mac)[1] == '{\n "removed": true\n}\n'
    mapping = Mapping(vni=100, mac=mac, ips=("10.0.0.9", "fd00::9"), nve="nve1", tag=3)
    assert world.backend.operations == [
        Rekey(), Rekey(node="nve1"), Rekey(spi=0x1267), Revoke("nve1"), Restore("nve1"), SetMapping(mapping),
        RemoveMapping(100, mac),
    ]  # fmt: skip


def test_a_policy_goes_out_as_it_came_and_is_waited_for(
    run: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, document, _ = run("policy", "show", "--document")
    assert (code, json.loads(document)) == (0, POLICY)
    file = tmp_path / "policy.yaml"
    file.write_text("profiles: []\npolicy: []\nvnis: {100: {action: bypass, profile: null}}\n")
    assert run("policy", "set", str(file)) == (0, "version 4 is in force.\n", "")
    monkeypatch.setattr("sys.stdin", io.StringIO(document))
    text = "version 4 is being checked by the nodes.\n"
    assert run("policy", "set", "-", "--expect", "4", "--no-wait") == (0, text, "")
    assert world.backend.operations == [SetPolicy(POLICY), SetPolicy(POLICY, 4)]
    assert run("policy", "set", str(file), "--expect", "2") == (1, "", "controller.cli: version 5 is in force.\n")


def test_a_policy_that_nodes_refuse_is_a_failure(run: Run, world: World, tmp_path: Path) -> None:
    assert isinstance(world.backend, PolicyBackend)
    world.backend.rejection = {"version": 4, "reason": "nve1 cannot apply it"}
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(POLICY))
    text = "controller.cli: version 4 was given up: nve1 cannot apply it; version 3 stays.\n"
    assert run("policy", "set", str(file)) == (1, "", text)


def test_when_a_policy_is_decided() -> None:
    view: dict[str, Any] = {"version": 3, "candidate": {"version": 4, "waiting": ["nve1"]}, "rejected": None}
    assert not cli.policy_is_decided(view, 4)
    assert cli.policy_is_decided({**view, "candidate": None, "version": 4}, 4)
    assert cli.policy_is_decided({**view, "candidate": None, "version": 5}, 4)
    assert not cli.policy_is_decided({**view, "rejected": {"version": 2, "reason": "old"}}, 4)
    with pytest.raises(RestError, match="was given up: no"):
        cli.policy_is_decided({**view, "rejected": {"version": 4, "reason": "no"}}, 4)


def test_events(run: Run, world: World) -> None:
    world.backend.happen(5)
    assert [line.split()[0] for line in run("events", "--after", "2", "--limit", "2")[1].splitlines()[1:]] == ["3", "4"]
    assert run("events", "--after", "-1")[0] == 1


def test_events_are_followed_until_the_stream_ends(run: Run, world: World) -> None:
    world.backend.happen(3)
    found: list[tuple[int, str, str]] = []
    thread = threading.Thread(target=lambda: found.append(run("events", "--follow", "--after", "1", "--json")))
    thread.start()
    world.until(lambda: world.server._streams == 1)
    world.backend.events.append({"number": "not", "time": 0, "kind": "", "node": "", "text": ""})  # the NVA fails
    thread.join(20)
    ((code, out, err),) = found
    assert [json.loads(line)["number"] for line in out.splitlines()] == [2, 3]
    assert (code, err.count("\n")) == (1, 1)


def test_what_is_refused_is_one_sentence_and_exit_code_1(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.backend.refuse(Fault.NOT_FOUND, "no node is named 'nve9'; list them.")
    assert run("revoke", "nve9") == (1, "", "controller.cli: no node is named 'nve9'; list them.\n")
    set_environment(monkeypatch, world.url, world.files("nve1"))
    code, _, err = run("nodes")
    assert (code, err.count("\n")) == (1, 1)
    assert "no operator" in err
    set_environment(monkeypatch, "https://127.0.0.1:1", world.alice)
    assert "no connection to the NVA" in run("nodes")[2]


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("URL", "http://127.0.0.1:1", "is no address of an NVA"),
        ("URL", "https://127.0.0.1:99999", "is no address of an NVA"),
        ("URL", "https://[x", "is no address of an NVA"),
        ("URL", "", "--url is missing; give it or set GENEVE_NVA_URL"),
        ("CERT", "/nonexistent", "/nonexistent"),
        ("CA", "/nonexistent", "/nonexistent"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, text: str
) -> None:
    monkeypatch.setenv(f"GENEVE_NVA_{variable}", value)
    code, out, err = run("nodes")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert text in err


def test_policy_files_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    assert run("policy", "set", str(tmp_path / "none"))[0] == 2
    for text in ("[]", "a: [", "a: 1\na: 2"):
        (tmp_path / "policy").write_text(text)
        code, _, err = run("policy", "set", str(tmp_path / "policy"))
        assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "arguments",
    [[], ["x"], ["rekey"], ["rekey", "--all", "--spi", "4711"], ["rekey", "--spi", "x"], ["mapping", "set", "1", "m"]],
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    capsys.readouterr()
